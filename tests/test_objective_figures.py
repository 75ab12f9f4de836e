"""The pages of the objectives: figures as drawn, every objective, option and logged figure named, commands that load."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prefloop.cli.options import overrides
from prefloop.config.objectives import LOSS_OPTIONS, OBJECTIVES
from prefloop.config.recipe import load_recipe
from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig, TrainingConfig
from prefloop.errors import ConfigError
from prefloop.models.group import GroupLogps
from prefloop.training.objective import example_losses
from prefloop.training.pairs import PairIndex

DOCS = Path(__file__).parent.parent / "docs"
INDEX = (DOCS / "objectives.md").read_text(encoding="utf-8")
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "objectives").glob("*.md")}
COMMANDS = re.findall(r"^prefloop train .*$", "\n".join(PAGES.values()), re.MULTILINE)


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_objective_figures", DOCS / "make_objective_figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def test_the_figures_are_what_the_functions_give(figures: ModuleType) -> None:
    for name, draw in figures.FIGURES.items():
        assert (DOCS / "figures" / name).read_text(encoding="utf-8") == draw(), f"{name}: run {figures.__file__}"
    assert {path.name for path in (DOCS / "figures").glob("objective-*.svg")} == set(figures.FIGURES)


def test_curves_and_pushes_by_hand(figures: ModuleType) -> None:
    """dpo at margin 0: ln 2, and half of β on either answer; at the margin 4: ln(1 + e⁻⁴) = 0.0181."""
    panel = figures.pair_panel("dpo", "", lambda pairs: figures.loss.dpo(pairs, 1.0))
    middle, last = {name: (values[64].item(), values[-1].item()) for name, values in panel.curves.items()}, panel.x[-1]
    assert (panel.x[64].item(), last.item()) == (0, 4)
    assert middle["loss"] == pytest.approx((0.693147, 0.018150), abs=1e-6)
    assert middle["push on the chosen answer"][0] == -middle["push on the rejected answer"][0] == 0.5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_in_the_index_with_a_page_and_a_command(objective: str) -> None:
    (page,) = re.findall(rf"^\| \[`{objective}`\]\(objectives/([a-z-]+)\.md\)", INDEX, re.MULTILINE)
    assert f"`{objective}`" in PAGES[page] or f"`objective={objective}`" in PAGES[page]
    assert any(f"training.objective={objective}" in shlex.split(line) for line in COMMANDS)


def test_the_index_gives_the_default_betas() -> None:
    for objective, options in OBJECTIVES.items():
        row = next(line for line in INDEX.splitlines() if line.startswith(f"| [`{objective}`]"))
        given = row.split("|")[5].strip().split(" ")[0]
        assert given == (f"{TrainingConfig(objective=objective).strength:g}" if "beta" in options else ""), objective


def test_every_loss_option_is_explained() -> None:
    text = "\n".join(PAGES.values())
    options = LOSS_OPTIONS | (set(RewardTrainingConfig.model_fields) - set(SftTrainingConfig.model_fields))
    assert [option for option in sorted(options) if f"`{option}`" not in text] == []


@pytest.mark.parametrize("line", COMMANDS)
def test_the_options_of_every_command_are_valid_together(line: str) -> None:
    words = shlex.split(line)
    given = overrides([word for before, word in pairwise(words) if before == "--set"])
    asked = {key.removeprefix("training."): value for key, value in given.items()}
    if words[2] == "preference":
        config = load_recipe("nba-sql", given, ["training."]).training
    else:
        config = {"sft": SftTrainingConfig, "reward": RewardTrainingConfig}[words[2]].model_validate(asked)
    for name, value in asked.items():
        taken = getattr(config, name)
        assert taken == type(taken)(value), name  # YAML reads 1e-4 as text


def test_what_a_page_says_is_refused_is() -> None:
    """An objective refuses options that the index does not give it."""
    for objective, option in (("orpo", "nll_weight"), ("ipo", "ld_alpha"), ("kto", "rankings"), ("sft", "beta")):
        assert option not in OBJECTIVES[objective]
        with pytest.raises(ConfigError, match=option):
            load_recipe("nba-sql", {"training.objective": objective, f"training.{option}": 0.5}, ["training."])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_figure_that_is_logged_is_explained(objective: str) -> None:
    """The names that a batch of one pair gives, on the page of its objective."""
    one, first, second = torch.ones(1), torch.tensor([0]), torch.tensor([1])
    pairs = PairIndex(first, second, one, one, one, torch.tensor([0, 0]), torch.tensor([0, 1]), one)
    tokens = torch.tensor([-1.0, -2.0])
    logps = GroupLogps(tokens, tokens, torch.tensor([1, 1]), torch.tensor([0, 1]))
    config = TrainingConfig(objective=objective)
    _, _, metrics = example_losses(logps, pairs, [tokens[:1], tokens[1:]], config, torch.tensor(0.0))
    (page,) = re.findall(rf"^\| \[`{objective}`\]\(objectives/([a-z-]+)\.md\)", INDEX, re.MULTILINE)
    assert [name for name in metrics if f"`{name}`" not in PAGES[page]] == []


def test_the_example_of_the_policy_gradient_page_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGES["policy-gradient"], re.DOTALL)
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    # On-policy with the reference at hand: −A per token, each weighing 1/8, so the gradient is −A/8.
    assert names["logps_T"].grad.tolist() == pytest.approx((-names["advantages_N"][names["owner_T"]] / 8).tolist())

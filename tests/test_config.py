"""Recipes: every shipped one loads, unknown and idle options are errors, all of them at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefloop.config.recipe import (
    IDLE,
    RECIPES,
    UNREAD_BY_LOOPS,
    Recipe,
    as_written,
    idle_in_evaluation,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)
from prefloop.errors import ConfigError


@pytest.mark.parametrize("name", shipped_recipes())
@pytest.mark.parametrize("changes", [{}, {"training.objective": "simpo", "training.beta": 2.0}])
def test_what_a_report_shows_of_a_recipe_can_be_read_again(name: str, changes: dict[str, Any]) -> None:
    recipe = load_recipe(name, changes)
    shown = yaml.safe_load(yaml.safe_dump(as_written(recipe.settings), sort_keys=False, allow_unicode=True))
    assert parse_recipe(shown).settings == recipe.settings


def test_seed_data_of_ones_own_can_be_read_again(tmp_path: Path) -> None:
    recipe = load_recipe("self-rewarding", {"loop.seed_data": str(tmp_path)})
    assert parse_recipe(as_written(recipe.settings)).settings == recipe.settings


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_loads_and_explains_every_key(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    text = (RECIPES / f"{name}.yaml").read_text()
    written = yaml.safe_load(text)
    sections = set(Recipe.model_fields) - (set() if recipe.loop else {"loop", "guards"})
    for section in sections:
        assert section in written
        if isinstance(written[section], dict):
            switches = ((s, v, o) for (s, v), o in IDLE.items() if s.split(".")[0] == section)
            idle = {o for switch, value, options in switches for o in options if reads(recipe, switch) == value}
            idle |= idle_in_evaluation(recipe.task) if section == "evaluation" else set()
            idle |= UNREAD_BY_LOOPS if section == "evaluation" and recipe.loop else set()
            assert set(written[section]) == set(type(getattr(recipe, section)).model_fields) - idle, section


def reads(recipe: Recipe, dotted: str) -> Any:
    section, key = dotted.split(".")
    return getattr(getattr(recipe, section), key)


def test_all_findings_come_at_once_with_a_suggestion() -> None:
    content = {"training": {"bta": 0.1, "epochs": 0}, "policy": {"device": "tpu"}}
    with pytest.raises(ConfigError) as error:
        parse_recipe(content, "my.yaml")
    text = str(error.value)
    assert text.startswith("my.yaml has 3 errors")
    assert "training.bta: unknown key; did you mean 'beta'?" in text
    assert "training.epochs" in text
    assert "policy.device" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"training": {"objective": "sft", "beta": 0.1}}, "training.beta: has no effect"),
        ({"training": {"objective": "sft", "nll_weight": 0.1}}, "training.nll_weight: has no effect"),
        ({"training": {"method": "full", "lora_rank": 4}}, "training.lora_rank: has no effect"),
        (
            {"preferences": {"strategy": "all-pairs", "pairs_per_prompt": 2}},
            "preferences.pairs_per_prompt: has no effect",
        ),
        ({"task": {"test_questions": 10}}, "evaluation.sampled_questions: larger than"),
    ],
)
def test_an_option_without_effect_is_an_error(content: dict[str, object], place: str) -> None:
    with pytest.raises(ConfigError, match=place):
        parse_recipe(content)


def test_overrides_are_part_of_the_recipe_and_of_its_hash() -> None:
    plain, changed = load_recipe("nba-sql"), load_recipe("nba-sql", {"training.beta": 0.3})
    assert changed.training.beta == 0.3
    assert plain.hash != changed.hash
    assert plain.hash == load_recipe(RECIPES / "nba-sql.yaml").hash


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "nba",
            "no recipe called 'nba'; shipped: database-sql, iterative-dpo, lima-armorm-dpo, lima-pairrm-dpo, nba-sql, ",
        ),
        ("gone.yaml", "recipe gone.yaml does not exist"),
    ],
)
def test_an_unknown_recipe_is_named(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(source)


@pytest.mark.parametrize("text", ["", "just words", "a: [1,", "- a\n- b"])
def test_files_that_are_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        load_recipe(path)


@pytest.mark.parametrize(
    "module", ["prefloop", "prefloop.config.recipe", "prefloop.store.run_folder", "prefloop.cli.app"]
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'pandas', 'scipy') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


@pytest.mark.parametrize("switch", sorted(IDLE, key=str))
def test_a_switch_on_the_command_line_drops_the_files_idle_options(switch: tuple[str, Any]) -> None:
    key, value = switch
    recipe = load_recipe("nba-sql", {key: value})
    assert reads(recipe, key) == value
    idle = f"{key.split('.')[0]}.{IDLE[key, value][0]}"
    with pytest.raises(ConfigError, match=f"{idle}: has no effect with {key}={value}"):
        load_recipe("nba-sql", {key: value, idle: "initial" if idle.endswith(("reference", "endpoint")) else 1})

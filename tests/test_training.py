"""Training: what a step is, what a run leaves behind, and that a killed run ends with the same bytes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from prefloop.config.objectives import OBJECTIVES
from prefloop.config.training import TrainingConfig
from prefloop.errors import DataError, ModelError, StoreError
from prefloop.models.load import Policy, load_policy
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.models.tokenizer import train_tokenizer
from prefloop.progress import set_quiet
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import write_json
from prefloop.training.batches import cut, optimizer_steps, sorted_batches, sorted_passes
from prefloop.training.checkpoint import HISTORY, STATE, Cursor, load_state, save_state
from prefloop.training.preference import REFERENCE_STORE, pair_logps, train_preferences
from prefloop.training.ranks import Ranks
from prefloop.training.schedule import learning_rate
from prefloop.training.sft import SftConfig, train_sft
from prefloop.training.update import TrainingResult, adamw, update

WORDS = "who scored most points in the final and how many rebounds did they get"
ONE = Ranks(torch.device("cpu"))
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@pytest.fixture(autouse=True)
def _quiet_on_one_thread() -> None:
    torch.set_num_threads(1)
    set_quiet(True)


# --- what goes into a step ---


@given(LENGTHS, st.integers(1, 200), st.integers(0, 3), st.integers(0, 3))
def test_sorted_batches_hold_each_example_once_within_the_budget(
    lengths: list[int], budget: int, seed: int, epoch: int
) -> None:
    batches = sorted_batches(lengths, budget, seed, epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(len(b) * max(lengths[i] for i in b) <= budget or len(b) == 1 for b in batches)
    assert batches == sorted_batches(lengths, budget, seed, epoch)


def test_sorted_batches_pad_little_and_differ_by_epoch() -> None:
    lengths = [20 + (37 * i) % 180 for i in range(2_000)]
    first, second = (sorted_batches(lengths, 4_096, 1, epoch) for epoch in (0, 1))
    padded = sum(len(b) * max(lengths[i] for i in b) for b in first)
    assert 1 - sum(lengths) / padded < 0.03
    assert {tuple(sorted(b)) for b in first} != {tuple(sorted(b)) for b in second}
    starts = [max(lengths[i] for i in b) for b in first]
    assert starts != sorted(starts)  # batches are shuffled: no curriculum from short to long


@given(st.lists(st.integers(1, 5), min_size=1, max_size=40), st.integers(1, 16))
def test_steps_keep_a_prompts_pairs_together(pairs: list[int], batch_pairs: int) -> None:
    steps = optimizer_steps(pairs, batch_pairs, seed=1, epoch=0)
    assert sorted(i for step in steps for i in step) == list(range(len(pairs)))
    for step in steps[:-1]:
        assert batch_pairs <= sum(pairs[i] for i in step) < batch_pairs + max(pairs)
        assert sum(pairs[i] for i in step[:-1]) < batch_pairs


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 120))
def test_cut_fills_passes_with_rows_of_ascending_length(lengths: list[int], budget: int) -> None:
    parts = cut(lengths, budget)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    flat = [lengths[i] for part in parts for i in part]
    assert flat == sorted(flat)
    for part, following in zip(parts, [*parts[1:], None], strict=True):
        total = sum(lengths[i] for i in part)
        assert total <= budget or len(part) == 1
        assert following is None or total + lengths[following[0]] > budget


def test_sorted_passes_are_full_and_ascending() -> None:
    assert sorted_passes([5, 1, 9, 2, 2], budget=6) == [[1, 3, 4], [0], [2]]
    assert sorted_passes([], budget=6) == []


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.5 + math.sqrt(0.5) / 2, 0.5, 0.5 - math.sqrt(0.5) / 2]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),  # the last fifth of four updates begins after the last
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_learning_rates_by_hand(schedule: str, rates: list[float]) -> None:
    """Six updates, a quarter (rounded up: two) warm up, four decay."""
    assert [learning_rate(step, 6, 1.0, schedule, 0.25) for step in range(6)] == pytest.approx(rates)


def test_wsd_decays_over_the_last_fifth() -> None:
    rates = [learning_rate(step, 10, 1.0, "wsd", 0.0) for step in range(10)]
    assert rates == pytest.approx([1.0] * 9 + [0.5])


def test_update_clips_steps_and_refuses_what_cannot_be_learned() -> None:
    """First AdamW step: m̂/√v̂ = sign(gradient), so every weight moves by the learning rate."""
    weight = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    optimizer = adamw([weight], 0.0, (0.9, 0.999))
    weight.grad = torch.tensor([[3.0, -4.0]])
    assert update(optimizer, {"w": weight}, 0.1, 1.0) == pytest.approx(5.0)
    assert weight.tolist()[0] == pytest.approx([0.9, -1.9], abs=1e-6)
    assert weight.grad is None
    for gradient, message in (
        (torch.zeros(1, 2), "every gradient is zero"),
        (torch.full((1, 2), math.nan), "not finite"),
    ):
        weight.grad = gradient
        with pytest.raises(ModelError, match=message):
            update(optimizer, {"w": weight}, 0.1, 1.0)
    assert weight.tolist()[0] == pytest.approx([0.9, -1.9], abs=1e-6)


def test_weight_decay_leaves_vectors_alone() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    groups = adamw([matrix, vector], 0.1, (0.9, 0.95)).param_groups
    assert [(group["weight_decay"], [p.ndim for p in group["params"]]) for group in groups] == [
        (0.1, [2]),
        (0.0, [1]),
    ]


# --- state ---


def _stepped() -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(0)
    parameters = {"a": torch.nn.Parameter(torch.randn(3, 2)), "b": torch.nn.Parameter(torch.randn(4))}
    return parameters, adamw(parameters.values(), 0.1, (0.9, 0.95))


def test_a_saved_state_goes_on_as_if_never_stopped(tmp_path: Path) -> None:
    def step(parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.AdamW, number: int) -> None:
        for name, parameter in parameters.items():
            parameter.grad = torch.full_like(parameter, number + len(name) / 3)
        update(optimizer, parameters, 0.01 * number, 1.0)

    whole, whole_optimizer = _stepped()
    for number in (1, 2):
        step(whole, whole_optimizer, number)
    save_state(tmp_path / STATE, whole, whole_optimizer, Cursor(2, [{"loss": 0.1}, {"loss": 1 / 3}], 64), "run", ONE)
    for number in (3, 4):
        step(whole, whole_optimizer, number)

    resumed, optimizer = _stepped()
    cursor = load_state(tmp_path / STATE, resumed, optimizer, "run")
    assert cursor == Cursor(2, [{"loss": 0.1}, {"loss": 1 / 3}], 64, 2)
    for number in (3, 4):
        step(resumed, optimizer, number)
    assert all(resumed[name].equal(whole[name]) for name in whole)


def test_states_of_other_runs_and_damaged_states_are_refused(tmp_path: Path) -> None:
    parameters, optimizer = _stepped()
    for parameter in parameters.values():
        parameter.grad = torch.ones_like(parameter)
    update(optimizer, parameters, 0.1, 1.0)
    save_state(tmp_path / STATE, parameters, optimizer, Cursor(1, [{"loss": 0.5}]), "run", ONE)
    with pytest.raises(StoreError, match="belongs to another training run"):
        load_state(tmp_path / STATE, parameters, optimizer, "another")
    (tmp_path / HISTORY).unlink()
    with pytest.raises(StoreError, match="damaged"):
        load_state(tmp_path / STATE, parameters, optimizer, "run")
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-9])
    with pytest.raises(StoreError, match="damaged"):
        load_state(tmp_path / STATE, parameters, optimizer, "run")


def test_figures_are_written_once_and_those_beyond_the_state_are_cut_off(tmp_path: Path) -> None:
    """What a kill between the figures and the state leaves: one row too many, half a row."""
    parameters, optimizer = _stepped()
    state, history = tmp_path / STATE, tmp_path / HISTORY
    history.write_text('{"of":"another run"}\n')
    cursor = Cursor(1, [{"loss": 0.5}])
    save_state(state, parameters, optimizer, cursor, "run", ONE)
    cursor.history.append({"loss": 0.25})
    cursor.step = 2
    save_state(state, parameters, optimizer, cursor, "run", ONE)
    assert history.read_text() == '{"loss":0.5}\n{"loss":0.25}\n'
    with history.open("a") as handle:
        handle.write('{"loss":0.125}\n{"lo')
    found = load_state(state, parameters, optimizer, "run")
    assert found.history == [{"loss": 0.5}, {"loss": 0.25}]
    assert history.read_text() == '{"loss":0.5}\n{"loss":0.25}\n'


# --- a small world: a policy, prompts with three answers each, pairs ---


@dataclass(frozen=True)
class World:
    policy: Policy
    prompts: dict[str, Prompt]
    completions: dict[str, Completion]
    preferences: list[Preference]

    def train(self, out: Path, config: TrainingConfig, **rest: Any) -> TrainingResult:
        return train_preferences(
            self.policy,
            rest.pop("preferences", self.preferences),
            self.completions,
            self.prompts,
            config,
            out / "checkpoint",
            work=out / "work",
            seed=rest.pop("seed", 1),
            **rest,
        )


def build_model_folder(folder: Path) -> Path:
    tokenizer = train_tokenizer([WORDS] * 3, 300, 96)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=96,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_world(folder: Path) -> World:
    """Eight prompts; the answer with the prompt's own number is better than two that ramble or refuse."""
    policy = load_policy(folder, device="cpu")
    prompts: dict[str, Prompt] = {}
    completions: dict[str, Completion] = {}
    preferences: list[Preference] = []
    for number in range(8):
        prompt = Prompt.create(
            ({"role": "user", "content": f"how many {'most ' * (number % 3)}{number}"},), "toy", "train"
        )
        prompts[prompt.id] = prompt
        texts = (f"points {number}", "who did they get " + "rebounds " * (1 + number % 4), "final")
        group = [
            Completion(f"{prompt.id}-{i}", prompt.id, i, 0, text, (), (), "stop", "toy", {}, 0)
            for i, text in enumerate(texts)
        ]
        completions |= {completion.id: completion for completion in group}
        for other in group[1:]:
            preferences.append(
                Preference.pair(prompt.id, group[0].id, other.id, 1.0, 0.0, "toy", weight=1 + number % 2)
            )
    return World(policy, prompts, completions, preferences)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(folder: Path) -> World:
    return build_world(folder)


def settings_of(**changes: Any) -> TrainingConfig:
    given: dict[str, Any] = {
        "batch_pairs": 6,
        "epochs": 2,
        "learning_rate": 5e-3,
        "lora_rank": 4,
        "checkpoint_every": 2,
    }
    if changes.get("objective", "dpo") == "dpo":
        given |= {"beta": 0.1, "nll_weight": 0.2}
    return TrainingConfig(**{**given, **changes})


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def row_logp(world: World, model: Any, completion_id: str) -> tuple[float, int]:
    """Log-probability and length of one completion, from its own row: independent of groups and batches."""
    completion = world.completions[completion_id]
    prompt = encode_prompt(world.policy.tokenizer, world.prompts[completion.prompt_id].messages)
    answer = encode_completion(world.policy.tokenizer, completion.text)
    with torch.no_grad():
        logps = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return sum(logps[len(prompt) + t - 1, token].item() for t, token in enumerate(answer)), len(answer)


# --- preference training ---


def test_the_first_step_by_rows(world: World, tmp_path: Path) -> None:
    """Loss ln 2 + 0.2 · (weighted mean of NLL per token), log-probabilities from separate rows."""
    result = world.train(tmp_path, settings_of(batch_pairs=100, epochs=1))
    first = result.history[0]
    total = sum(p.weight for p in world.preferences)
    chosen = [(p.weight / total, *row_logp(world, world.policy.model, p.chosen)) for p in world.preferences]
    rejected = [(p.weight / total, *row_logp(world, world.policy.model, p.rejected)) for p in world.preferences]
    assert result.steps == 1
    assert result.pairs == 16
    assert first["loss"] == pytest.approx(math.log(2) - 0.2 * sum(w * lp / n for w, lp, n in chosen), rel=1e-5)
    assert first["logps/chosen"] == pytest.approx(sum(w * lp for w, lp, _ in chosen), rel=1e-5)
    assert first["logps/rejected"] == pytest.approx(sum(w * lp for w, lp, _ in rejected), rel=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_dpo_raises_the_margin_of_the_saved_checkpoint(world: World, folder: Path, tmp_path: Path, method: str) -> None:
    """Margins measured by rows, on the folder as a user would load it."""
    before = {name: tensor.clone() for name, tensor in world.policy.model.state_dict().items()}
    world.train(tmp_path, settings_of(method=method, epochs=4))
    out = tmp_path / "checkpoint"
    if method == "lora":
        base = AutoModelForCausalLM.from_pretrained(folder)
        tuned = PeftModel.from_pretrained(base, out).eval()
        reloaded = load_policy(folder, adapter=out, device="cpu")
    else:
        tuned = AutoModelForCausalLM.from_pretrained(out)
        reloaded = load_policy(out, device="cpu")
    for preference in world.preferences:
        after = row_logp(world, tuned, preference.chosen)[0] - row_logp(world, tuned, preference.rejected)[0]
        start = [row_logp(world, world.policy.model, i)[0] for i in (preference.chosen, preference.rejected)]
        assert after > start[0] - start[1]
    recorded = json.loads((out / "prefloop_lineage.json").read_text())
    assert recorded == {"base": world.policy.lineage.base, "policy": reloaded.lineage.id}
    now = world.policy.model.state_dict()  # the policy itself is as it was
    assert now.keys() == before.keys()
    assert all(now[name].equal(tensor) for name, tensor in before.items())
    assert not hasattr(world.policy.model, "peft_config") or not world.policy.model.peft_config


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_does_not_depend_on_how_it_is_cut(world: World, tmp_path: Path, method: str) -> None:
    """16 pairs in one forward pass = one group per pass: same loss, metrics and gradient norm, by step."""
    histories = []
    for name, budget in (("one", 100_000), ("many", 64)):
        config = settings_of(method=method, batch_pairs=100, epochs=3, learning_rate=1e-3, tokens_per_batch=budget)
        histories.append(world.train(tmp_path / name, config).history)
    for one, many in zip(*histories, strict=True):
        # At step 1 all margins are 0 but for rounding, and the accuracy counts signs of that.
        for name in set(one) - {"padding"} - ({"rewards/accuracies"} if one["step"] == 1 else set()):
            assert many[name] == pytest.approx(one[name], rel=2e-4, abs=2e-5), name


VARIANTS: dict[str, dict[str, Any]] = {
    **{objective: {"objective": objective} for objective in OBJECTIVES},
    "dpo, smoothed": {"label_smoothing": 0.2},
    "dpo, soft labels": {"label_scale": 2.0},
    "dpo, free": {"reference": "free"},
    "dpo, LD": {"ld_alpha": 0.3},
    "dpo, WPO": {"weighting": "wpo"},
    "robust, smoothed": {"objective": "robust", "label_smoothing": 0.2},
    "ipo, sums": {"objective": "ipo", "ipo_average": False, "beta": 0.5},
    "simpo, NLL": {"objective": "simpo", "nll_weight": 0.3},
    "kto, unequal": {"objective": "kto", "lambda_good": 1.5, "lambda_bad": 0.5},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_objective_trains_whatever_the_cut_and_where_it_stopped(
    world: World, tmp_path: Path, variant: str
) -> None:
    """In one pass and in many: the same steps; stopped after the second step and taken up again: the same bytes."""
    config = settings_of(**VARIANTS[variant], batch_pairs=8, epochs=2, learning_rate=1e-3)
    whole = world.train(tmp_path / "whole", config)
    cut_up = world.train(tmp_path / "cut", config.model_copy(update={"tokens_per_batch": 64}))
    for one, many in zip(whole.history, cut_up.history, strict=True):
        for name in set(one) - {"padding"} - ({"rewards/accuracies"} if one["step"] == 1 else set()):
            assert many[name] == pytest.approx(one[name], rel=2e-3, abs=2e-5), name

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            raise Killed

    with pytest.raises(Killed):
        world.train(tmp_path / "stopped", config, log=stop)
    world.train(tmp_path / "stopped", config)
    assert files(tmp_path / "stopped" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")


STARTS = {
    "dpo, smoothed": math.log(2),
    "robust, smoothed": math.log(2),
    "ipo": (1 / 0.2) ** 2,
    "ipo, sums": 1.0,
    "hinge": 1.0,
    "dpo-norm": math.log(2),
    "dpop": math.log(2),
    "apo-zero": 1.0,
    "apo-down": 1.0,
    "nca": 2 * math.log(2),
    "sppo": 1 / (2 * 0.001**2),
    "kto": 0.5,
}
"""The first loss, where policy and reference are one model, by hand (`maths.objectives`)."""


@pytest.mark.parametrize("variant", STARTS)
def test_the_first_loss_by_hand(world: World, tmp_path: Path, variant: str) -> None:
    result = world.train(tmp_path, settings_of(**{"nll_weight": 0.0, **VARIANTS[variant]}, batch_pairs=100, epochs=1))
    assert result.history[0]["loss"] == pytest.approx(STARTS[variant], rel=1e-4)


def test_a_ranking_of_three_by_rows(world: World, tmp_path: Path) -> None:
    """ln 3! under plackett-luce at the start; under all-pairs the three pairs of a prompt share its weight."""
    rankings = []
    for prompt_id in world.prompts:
        ids = [c.id for c in world.completions.values() if c.prompt_id == prompt_id]
        base = Preference.pair(prompt_id, ids[0], ids[2], 2.0, 0.0, "toy")
        rankings.append(replace(base, ranking=tuple((i,) for i in ids), scores=(2.0, 1.0, 0.0)))
    rest = {"preferences": rankings}
    settings = {"batch_pairs": 100, "epochs": 1}
    ranked = world.train(tmp_path / "pl", settings_of(objective="plackett-luce", **settings), **rest)
    assert ranked.history[0]["loss"] == pytest.approx(math.log(6), rel=1e-5)
    every = world.train(tmp_path / "all", settings_of(rankings="all-pairs", nll_weight=0.0, **settings), **rest)
    assert (ranked.pairs, every.pairs) == (24, 24)
    pairs = [(p.prompt_id, a[0], b[0]) for p in rankings for a, b in itertools.combinations(p.ranking, 2)]
    chosen = [row_logp(world, world.policy.model, a)[0] / len(pairs) for _, a, _ in pairs]
    assert every.history[0]["logps/chosen"] == pytest.approx(sum(chosen), rel=1e-5)
    ends = world.train(tmp_path / "ends", settings_of(**settings), **rest)
    assert ends.pairs == 8


def test_kto_measures_its_reference_point_on_answers_to_other_prompts(world: World, tmp_path: Path) -> None:
    """0 at the start; later the clamped mean over the step, by rows of the saved policy."""
    config = settings_of(objective="kto", batch_pairs=100, epochs=8, learning_rate=5e-3)
    history = world.train(tmp_path, config).history
    assert history[0]["kl/token"] == pytest.approx(0, abs=1e-5)
    assert max(row["kl/token"] for row in history) > 0
    assert history[-1]["loss"] < history[0]["loss"]


def test_the_order_of_preferences_does_not_matter(world: World, tmp_path: Path) -> None:
    world.train(tmp_path / "given", settings_of())
    world.train(tmp_path / "reversed", settings_of(), preferences=world.preferences[::-1])
    assert files(tmp_path / "given" / "checkpoint") == files(tmp_path / "reversed" / "checkpoint")


def test_the_seed_matters(world: World, tmp_path: Path) -> None:
    one, two = (world.train(tmp_path / str(seed), settings_of(), seed=seed) for seed in (1, 2))
    assert one.history != two.history


def test_sft_on_chosen_answers_starts_at_their_nll(world: World, tmp_path: Path) -> None:
    config = settings_of(objective="sft", batch_pairs=100, epochs=30, learning_rate=2e-2, lora_rank=16)
    result = world.train(tmp_path, config)
    total = sum(p.weight for p in world.preferences)
    rows = [(p.weight / total, *row_logp(world, world.policy.model, p.chosen)) for p in world.preferences]
    assert result.history[0]["loss"] == pytest.approx(-sum(w * lp / n for w, lp, n in rows), rel=1e-5)
    assert result.history[-1]["loss"] < result.history[0]["loss"] / 2
    assert not (tmp_path / "work" / REFERENCE_STORE).exists()


def test_a_soft_label_of_one_half_teaches_nothing(world: World, tmp_path: Path) -> None:
    """At margin 0 the two terms of the loss cancel; with hard labels they do not."""
    undecided = [replace(preference, soft_label=0.5) for preference in world.preferences]
    config = settings_of(nll_weight=0.0)
    assert world.train(tmp_path / "hard", config).history[0]["grad_norm"] > 1e-2
    with pytest.raises(ModelError, match="every gradient is zero"):
        world.train(tmp_path / "soft", config, preferences=undecided)


class Killed(RuntimeError):
    pass


def stop_after(step: int) -> Callable[[dict[str, Any]], None]:
    def log(row: dict[str, Any]) -> None:
        if row["step"] == step:
            raise Killed

    return log


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_stopped_at_any_step_ends_with_the_same_bytes(world: World, tmp_path: Path, method: str) -> None:
    config = settings_of(method=method)
    steps = world.train(tmp_path / "whole", config).steps
    expected = files(tmp_path / "whole" / "checkpoint")
    for step in range(1, steps + 1):
        out = tmp_path / f"stopped-{step}"
        with pytest.raises(Killed):
            world.train(out, config, log=stop_after(step))
        assert not (out / "checkpoint").exists()
        rows: list[dict[str, Any]] = []
        world.train(out, config, log=rows.append)
        saved = (step - 1) // 2 * 2  # a state every other step; stopped before this step's own was written
        assert [row["step"] for row in rows] == list(range(saved + 1, steps + 1))
        assert files(out / "checkpoint") == expected


def test_a_run_killed_outright_ends_with_the_same_bytes(world: World, folder: Path, tmp_path: Path) -> None:
    world.train(tmp_path / "whole", settings_of())
    code = "import sys, pathlib, test_training as t; t.run_until_killed(*map(pathlib.Path, sys.argv[1:]))"
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "killed")]
    killed = subprocess.run(command, env={**os.environ, **paths}, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert (tmp_path / "killed" / "work" / STATE).exists()
    world.train(tmp_path / "killed", settings_of())
    assert files(tmp_path / "killed" / "checkpoint") == files(tmp_path / "whole" / "checkpoint")


def run_until_killed(folder: Path, out: Path) -> None:
    """In a process of its own: dies by SIGKILL after the third step."""
    torch.set_num_threads(1)
    set_quiet(True)

    def log(row: dict[str, Any]) -> None:
        if row["step"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    build_world(folder).train(out, settings_of(), log=log)


def test_another_runs_state_is_refused_unless_told_to_start_afresh(world: World, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        world.train(tmp_path, settings_of(), log=stop_after(3))
    with pytest.raises(StoreError, match="belongs to another training run"):
        world.train(tmp_path, settings_of(beta=0.3))
    fresh = world.train(tmp_path, settings_of(beta=0.3), resume=False)
    assert fresh.history == world.train(tmp_path / "clean", settings_of(beta=0.3)).history


def test_the_reference_is_computed_once_and_a_wrong_one_refused(world: World, tmp_path: Path) -> None:
    world.train(tmp_path, settings_of())
    store = tmp_path / "work" / REFERENCE_STORE
    before = store.read_bytes()
    (tmp_path / "work" / STATE).unlink()
    world.train(tmp_path, settings_of())
    assert store.read_bytes() == before  # taken from the store, nothing appended
    with torch.no_grad():  # other weights under the same lineage id
        world.policy.model.get_input_embeddings().weight.mul_(1.5)
    with pytest.raises(ModelError, match=r"wrong reference: at step 0 .* differ from reference"):
        world.train(tmp_path, settings_of(), resume=False)


def test_what_cannot_be_trained_on_is_dropped_and_counted(world: World, tmp_path: Path) -> None:
    first, second, third, fourth, *rest = world.preferences
    completions = dict(world.completions)
    completions[first.chosen] = replace(completions[first.chosen], finish_reason="length")  # of two pairs
    completions[third.rejected] = replace(completions[third.rejected], text="who " * 90)
    same = Preference.pair(rest[0].prompt_id, rest[0].chosen, rest[0].chosen, 1.0, 1.0, "toy")
    weightless = replace(rest[1], weight=0.0)
    broken = replace(world, completions=completions)
    given = [first, second, third, fourth, same, weightless]
    result = broken.train(tmp_path / "some", settings_of(), preferences=given)
    assert result.pairs == 1
    assert result.dropped == {
        "chosen and rejected the same": 1,
        "longer than the model's context": 1,
        "unfinished chosen answer": 2,
        "weight of zero": 1,
    }
    with pytest.raises(DataError, match="2 unfinished chosen answer"):
        broken.train(tmp_path / "none", settings_of(), preferences=[first, second])
    with pytest.raises(DataError, match="none given"):
        broken.train(tmp_path / "none", settings_of(), preferences=[])
    lost = replace(first, ranking=(("lost",), ("x",)))
    with pytest.raises(DataError, match="names 'lost'"):
        broken.train(tmp_path / "none", settings_of(), preferences=[lost])


def test_weights_that_are_no_numbers_are_reported(world: World, tmp_path: Path) -> None:
    with torch.no_grad():
        world.policy.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(ModelError, match="step 1: the gradient is not finite: lower training"):
        world.train(tmp_path, settings_of(objective="sft"))
    with pytest.raises(ModelError, match="wrong reference"):
        world.train(tmp_path, settings_of())


def test_an_adapter_is_trained_on(world: World, folder: Path, tmp_path: Path) -> None:
    """Round 2 from round 1's adapter: it starts where that ended, with the base or itself as the reference."""
    world.train(tmp_path / "one", settings_of())
    tuned = load_policy(folder, adapter=tmp_path / "one" / "checkpoint", device="cpu")
    before = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    second = replace(world, policy=tuned)
    margins = []
    for reference in ("initial", "previous"):
        result = second.train(tmp_path / reference, settings_of(reference=reference, nll_weight=0.0))
        margins.append(result.history[0]["rewards/margins"])
    shift = [
        0.1 * (row_logp(world, tuned.model, i)[0] - row_logp(world, world.policy.model, i)[0])
        for i in (world.preferences[0].chosen, world.preferences[0].rejected)
    ]
    assert shift[0] > shift[1]
    assert margins[0] > 0.01
    assert margins[1] == pytest.approx(0.0, abs=1e-5)
    now = tuned.model.state_dict()
    assert all(now[name].equal(tensor) for name, tensor in before.items())
    third = load_policy(folder, adapter=tmp_path / "previous" / "checkpoint", device="cpu")
    assert third.lineage.base == world.policy.lineage.base
    with pytest.raises(ModelError, match="r=4, not 8"):
        second.train(tmp_path / "rank", settings_of(lora_rank=8))
    with pytest.raises(ModelError, match="carries an adapter: export it first"):
        second.train(tmp_path / "full", settings_of(method="full"))


def test_bfloat16_autocast_stays_close_to_float32(world: World, tmp_path: Path) -> None:
    exact, rounded = (
        world.train(tmp_path / dtype, settings_of(dtype=dtype)).history for dtype in ("float32", "bfloat16")
    )
    assert rounded != exact
    assert rounded[-1]["loss"] == pytest.approx(exact[-1]["loss"], rel=0.03)


def test_pair_logps_come_in_the_order_given(world: World) -> None:
    found = pair_logps(world.policy, world.preferences, world.completions, world.prompts, tokens_per_batch=128)
    for preference, (chosen, rejected) in zip(world.preferences, found, strict=True):
        assert chosen == pytest.approx(row_logp(world, world.policy.model, preference.chosen)[0], rel=1e-5)
        assert rejected == pytest.approx(row_logp(world, world.policy.model, preference.rejected)[0], rel=1e-5)


def test_every_step_is_in_the_log_and_in_training_json(world: World, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    result = world.train(tmp_path, settings_of(), log=rows.append)
    assert all(row.pop("tokens_per_second") > 0 for row in rows)
    assert all(row.pop("memory_gb") > 0 for row in rows)
    assert rows == result.history
    written = json.loads((tmp_path / "checkpoint" / "training.json").read_text())
    assert written["history"] == rows
    assert written["pairs"] == 16
    wanted = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"}
    wanted |= {"logps/chosen", "logps/rejected", "grad_norm", "learning_rate", "padding", "step"}
    wanted |= {"shift/chosen", "shift/rejected", "length/chosen", "length/rejected", "kl/token"}
    assert set(rows[0]) == wanted


def test_losses_and_updates_equal_trls(world: World, folder: Path, tmp_path: Path) -> None:
    """TRL's DPO trainer on the same pairs: three full-batch AdamW updates, loss and metrics of each."""
    trl = pytest.importorskip("trl", reason="TRL is a test oracle, not a dependency: pip install trl")
    datasets = pytest.importorskip("datasets", reason="TRL's trainer takes a datasets.Dataset")
    equal = [replace(preference, weight=1.0) for preference in world.preferences]
    config = settings_of(
        method="full",
        batch_pairs=100,
        epochs=3,
        learning_rate=1e-3,
        schedule="constant",
        warmup_ratio=0.0,
        nll_weight=0.0,
    )
    history = world.train(tmp_path / "ours", config, preferences=equal).history
    rows = [
        {
            "prompt": list(world.prompts[p.prompt_id].messages),
            "chosen": [{"role": "assistant", "content": world.completions[p.chosen].text}],
            "rejected": [{"role": "assistant", "content": world.completions[p.rejected].text}],
        }
        for p in equal
    ]
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=trl.DPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=len(rows),
            num_train_epochs=3,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            beta=config.beta,
            max_grad_norm=config.max_grad_norm,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=world.policy.tokenizer,
    )
    trainer.train()
    theirs = [row for row in trainer.state.log_history if "rewards/margins" in row]
    assert len(theirs) == len(history) == 3
    for ours, row in zip(history, theirs, strict=True):
        for name in (
            "loss",
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "logps/chosen",
            "grad_norm",
        ):
            assert ours[name] == pytest.approx(row[name], rel=1e-3, abs=2e-4), name


# --- supervised fine-tuning ---


def examples_of(world: World) -> list[tuple[list[int], list[int]]]:
    tokenizer = world.policy.tokenizer
    return [
        (
            encode_prompt(tokenizer, world.prompts[completion.prompt_id].messages),
            encode_completion(tokenizer, completion.text),
        )
        for completion in world.completions.values()
    ]


SFT = SftConfig(learning_rate=5e-3, epochs=2, tokens_per_batch=256, checkpoint_every=2, dtype="float32")


def test_sft_starts_at_the_mean_over_tokens_and_learns_its_examples(world: World, tmp_path: Path) -> None:
    rows = [row_logp(world, world.policy.model, i) for i in world.completions]
    mean = -sum(lp for lp, _ in rows) / sum(n for _, n in rows)
    config = replace(SFT, epochs=60, tokens_per_batch=10_000, learning_rate=1e-2)
    result = train_sft(world.policy.model, examples_of(world), config, tmp_path, seed=1)
    assert result.history[0]["loss"] == pytest.approx(mean, rel=1e-5)
    assert result.history[-1]["loss"] < 0.5
    assert result.steps == 60


def test_sft_can_score_prompts_too(world: World, tmp_path: Path) -> None:
    """prompt_weight 1: every token but the first, as in pretraining; against transformers' own loss."""
    examples = examples_of(world)[:1]
    ids = torch.tensor([[*examples[0][0], *examples[0][1]]])
    expected = world.policy.model(ids, labels=ids).loss.item()
    config = replace(SFT, epochs=1, prompt_weight=1.0)
    assert train_sft(world.policy.model, examples, config, tmp_path, seed=1).history[0]["loss"] == pytest.approx(
        expected
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sft_stopped_anywhere_ends_with_the_same_weights(folder: Path, tmp_path: Path, dtype: Any) -> None:
    config = replace(SFT, dtype=dtype)

    def run(out: Path, **rest: Any) -> tuple[TrainingResult, dict[str, torch.Tensor]]:
        world = build_world(folder)
        result = train_sft(world.policy.model, examples_of(world), config, out, seed=1, **rest)
        return result, world.policy.model.state_dict()

    whole, expected = run(tmp_path / "whole")
    for step in (1, 2, 3, whole.steps):
        with pytest.raises(Killed):
            run(tmp_path / str(step), log=stop_after(step))
        result, found = run(tmp_path / str(step))
        assert result.history == whole.history
        assert all(found[name].equal(tensor) for name, tensor in expected.items())
        assert files(tmp_path / str(step)) == files(tmp_path / "whole")


def test_sft_drops_and_counts_what_exceeds_the_context(world: World, tmp_path: Path) -> None:
    examples = [*examples_of(world), ([5] * 60, [6] * 60)]
    assert train_sft(world.policy.model, examples, SFT, tmp_path, seed=1).dropped == {
        "longer than the model's context": 1
    }
    with pytest.raises(DataError, match="none of 1 examples fits the model's context of 96 tokens"):
        train_sft(world.policy.model, examples[-1:], SFT, tmp_path / "none", seed=1)


def test_final_loss_is_the_mean_of_the_last_tenth(tmp_path: Path) -> None:
    history = [{"loss": float(step)} for step in range(20)]
    result = TrainingResult(tmp_path, 20, history)
    assert result.final_loss == 18.5
    write_json(tmp_path / "training.json", result.as_json())

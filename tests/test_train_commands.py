"""`prefloop train` and its functions over files: data in, checkpoint and tables out, mistakes named."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import prefloop
from test_training import World, build_model_folder, build_world
from typer.testing import CliRunner

from prefloop.cli.app import app
from prefloop.config.recipe import training_section
from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig, TrainingConfig
from prefloop.errors import ConfigError, DataError, ModelError, StoreError
from prefloop.loop.compare import compare_methods, comparison_text
from prefloop.loop.sweep import sweep, sweep_text
from prefloop.loop.training import Start, instruction_file, preference_folder, reward_folder
from prefloop.models.load import load_policy
from prefloop.models.reward import load_reward_model
from prefloop.preferences.instructions import read_instructions
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.tables import write_records

FAST = {"training.learning_rate": 5e-3, "training.lora_rank": 4, "training.dtype": "float32"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def world(model: Path) -> World:
    return build_world(model)


@pytest.fixture(scope="module")
def preferences(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preferences")
    write_records(folder / "prompts.parquet", list(world.prompts.values()), Prompt)
    write_records(folder / "completions.parquet", list(world.completions.values()), Completion)
    write_records(folder / "preferences.parquet", world.preferences, Preference)
    return folder


@pytest.fixture(scope="module")
def instructions(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("instructions") / "messages.jsonl"
    rows = [
        {"messages": [*world.prompts[c.prompt_id].messages, {"role": "assistant", "content": c.text}]}
        for c in world.completions.values()
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return path


# --- instruction files ---


def test_every_layout_of_instructions_is_read(tmp_path: Path) -> None:
    user, assistant = ({"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a")))
    again = [{"role": "user", "content": "and?"}, {"role": "assistant", "content": "b"}]
    path = lines(
        tmp_path / "data.jsonl",
        {"messages": [user, assistant, *again]},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"prompt": "q", "completion": "a"},
        {"prompt": [user], "completion": [assistant]},
        {"instruction": "do", "input": "this", "output": "done"},
    )
    found = read_instructions(path)
    assert found.bad == ()
    assert found.examples == (
        ((user,), "a"),
        ((user, assistant, again[0]), "b"),
        (({"role": "system", "content": "s"}, user), "a"),
        ((user,), "a"),
        ((user,), "a"),
        (({"role": "user", "content": "do\n\nthis"},), "done"),
    )


def test_bad_rows_of_instructions_are_named(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "data.jsonl",
        "no json",
        {"prompt": "q", "completion": ""},
        {"messages": [{"role": "user", "content": "q"}]},
        {"text": "?"},
        {"prompt": "q", "completion": "a"},
    )
    found = read_instructions(path)
    assert len(found.examples) == 1
    assert [(row.line, row.reason) for row in found.bad] == [
        (1, "not a JSON object"),
        (2, "completion is missing"),
        (3, "no assistant turn that answers something"),
        (4, "neither messages, nor prompt and completion, nor instruction and output"),
    ]
    with pytest.raises(DataError, match=r"no usable example \(row 1: not a JSON object"):
        read_instructions(lines(tmp_path / "bad.jsonl", "no json"))


# --- settings ---


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (SftTrainingConfig, {"training.beta": 1}, "training.beta: unknown key"),
        (SftTrainingConfig, {"training.epoch": 1}, "did you mean 'epochs'"),
        (SftTrainingConfig, {"task.name": "x"}, "task.name has no effect here"),
        (SftTrainingConfig, {"training.patience": 2}, "patience: has no effect with training.held_out=0.0"),
        (
            RewardTrainingConfig,
            {"training.objective": "plackett-luce", "training.centring": 0.1},
            "centring: has no effect with training.objective=plackett-luce",
        ),
        (TrainingConfig, {"training.method": "full", "training.lora_rank": 8}, "lora_rank: has no effect"),
    ],
)
def test_settings_without_effect_are_refused(kind: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        training_section(kind, given)


# --- functions over files ---


def test_instructions_to_an_adapter(instructions: Path, model: Path, tmp_path: Path) -> None:
    config = training_section(SftTrainingConfig, {**FAST, "training.batch_examples": 8})
    summary = instruction_file(instructions, tmp_path / "out", config, Start(str(model), device="cpu"))
    assert summary["steps"] == 6
    assert summary["bad_rows"] == []
    assert load_policy(model, tmp_path / "out").lineage.adapters
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(StoreError, match="exists already"):
        instruction_file(instructions, tmp_path / "out", config, Start(str(model), device="cpu"))


def test_preferences_to_a_reward_model(preferences: Path, model: Path, tmp_path: Path) -> None:
    config = training_section(RewardTrainingConfig, FAST)
    summary = reward_folder(preferences, tmp_path / "out", config, Start(str(model), device="cpu"))
    assert summary["pairs"] == 16
    assert load_reward_model(model, tmp_path / "out").lineage.adapters
    with pytest.raises(DataError, match="is no preference set"):
        reward_folder(tmp_path, tmp_path / "none", config, Start(str(model), device="cpu"))


def test_a_second_round_and_another_reference(preferences: Path, model: Path, tmp_path: Path) -> None:
    config = training_section(TrainingConfig, FAST)
    preference_folder(preferences, tmp_path / "one", config, Start(str(model), device="cpu"))
    again = training_section(TrainingConfig, {**FAST, "training.reference": "previous"})
    second = Start(str(model), tmp_path / "one", device="cpu")
    summary = preference_folder(preferences, tmp_path / "two", again, second)
    history = json.loads((tmp_path / "two" / "training.json").read_text())["history"]
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert summary["kept"]["rewards/accuracies"] > 0.5
    preference_folder(preferences, tmp_path / "three", config, second, initial=str(model))
    third = json.loads((tmp_path / "three" / "training.json").read_text())["history"]
    assert third[0]["rewards/margins"] > 0.01


def test_the_commands_and_what_they_say(preferences: Path, model: Path, tmp_path: Path) -> None:
    """As a user runs it: the example, the plan of memory and rows of figures on stderr, one line on stdout."""
    command = [sys.executable, "-m", "prefloop", "train", "preference", preferences, "--out", tmp_path / "out"]
    command += [
        "--model",
        model,
        "--set",
        "training.objective=ipo",
        "--set",
        "training.batch_pairs=4",
        "--log-every",
        2,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("8 steps on 16 pairs, final loss")
    for words in ("packed layout", "example, token by token", "memory, estimated", "accuracy", "peak"):
        assert words in done.stderr, words
    mistaken = prefloop(*command[3:], "--set", "training.lr=1")
    assert mistaken.returncode == 2
    assert mistaken.stderr.count("\n") == 1
    assert "training.lr: unknown key" in mistaken.stderr


# --- comparing ---


SIDE_BY_SIDE = {"training.learning_rate": 0.005, "training.lora_rank": 4, "training.held_out": 0.2}


@pytest.mark.soak
def test_three_ways_side_by_side(instructions: Path, model: Path, tmp_path: Path) -> None:
    found = compare_methods(instructions, tmp_path / "out", SIDE_BY_SIDE, model=str(model), device="cpu")
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == ["lora", "qlora", "full"]
    assert rows["lora"]["trainable_parameters"] == rows["qlora"]["trainable_parameters"]
    with pytest.raises(ModelError, match="training full failed"):
        compare_methods(
            instructions,
            tmp_path / "new",
            {"training.tokens_per_batch": 64, "training.learning_rate": 1e30},
            methods=["full"],
            model=str(model),
        )


def test_two_ways_side_by_side(instructions: Path, model: Path, tmp_path: Path) -> None:
    settings, methods = SIDE_BY_SIDE, ["lora", "full"]

    def compared(**options: Any) -> dict[str, Any]:
        return compare_methods(
            instructions, tmp_path / "out", settings, methods=methods, model=str(model), device="cpu", **options
        )

    found = compared()
    rows = {row["method"]: row for row in found["methods"]}
    assert list(rows) == methods
    assert rows["full"]["trainable_parameters"] == sum(p.numel() for p in load_policy(model).model.parameters())
    assert rows["full"]["megabytes"] > rows["lora"]["megabytes"]
    assert all(row["held_out_loss"] > 0 and row["peak_memory_gb"] > 0.1 for row in rows.values())
    text = comparison_text(found)
    assert [line.split()[0] for line in text.splitlines()] == ["method", *methods]
    kept = (tmp_path / "out" / "lora.json").read_bytes()
    assert compared(resume=True) == found
    assert (tmp_path / "out" / "lora.json").read_bytes() == kept
    with pytest.raises(StoreError, match="other data or settings"):
        compare_methods(instructions, tmp_path / "out", {}, model=str(model), device="cpu", resume=True)
    with pytest.raises(DataError, match="does not exist"):
        compare_methods(instructions.with_name("gone.jsonl"), tmp_path / "new", {}, model=str(model))
    for wrong in ({"training.method": "full"}, {"training.held_out": 0.0}):
        with pytest.raises(ConfigError, match="trains by every method"):
            compare_methods(instructions, tmp_path / "new", wrong, model=str(model))
    (tmp_path / "one.jsonl").write_text(instructions.read_text().splitlines()[0])
    with pytest.raises(DataError, match=r"one.jsonl has 1 example: .* two at least"):
        compare_methods(tmp_path / "one.jsonl", tmp_path / "new", {}, model=str(model))
    assert not (tmp_path / "new").exists()


def test_a_sweep_compares_on_pairs_no_trial_saw_and_goes_on(
    preferences: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"objectives": ["dpo", "simpo"], "rates": [1e-6, 5e-3], "model": str(model)}
    settings = {"training.lora_rank": 4, "training.dtype": "float32", "training.epochs": 4}

    def run(out: Path, **rest: Any) -> dict[str, Any]:
        return sweep(preferences, out, settings, **options, device="cpu", **rest)

    found = run(tmp_path / "whole")
    names = [row["name"] for row in found["trials"]]
    assert len(names) == 4
    assert found["trials"][0]["learning_rate"] == 5e-3
    assert found["trials"][0]["behind"] == [0.0, 0.0, 0.0]
    assert all(row["accuracy"][1] <= row["accuracy"][0] <= row["accuracy"][2] for row in found["trials"])
    assert "the best of several is flattered" in sweep_text(found)
    trained = json.loads((tmp_path / "whole" / names[0] / "checkpoint" / "training.json").read_text())
    assert trained["pairs"] + found["held_out_pairs"] == 16

    def stop_at(number: int) -> Callable[..., None]:
        from prefloop.loop import sweep as module

        plain, calls = module._run, []

        def stopping(*arguments: Any, **options: Any) -> None:
            calls.append(1)
            if len(calls) > number:
                raise KeyboardInterrupt
            plain(*arguments, **options)

        return stopping

    import prefloop.loop.sweep as module

    with monkeypatch.context() as patch:
        patch.setattr(module, "_run", stop_at(2))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    with pytest.raises(StoreError, match="--resume"):
        run(tmp_path / "cut")
    resumed = run(tmp_path / "cut", resume=True)
    for ours, theirs in zip(resumed["trials"], found["trials"], strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    with pytest.raises(StoreError, match="other data or settings"):
        sweep(preferences, tmp_path / "cut", {}, **options, device="cpu", resume=True)
    for wrong, words in (
        ({}, "at least two trials"),
        ({"objectives": ["dpo", "pdo"]}, "no objective pdo: there are dpo"),
        ({"betas": [0.1, -1.0]}, "a beta to try must be a number above 0, not 0.1, -1.0"),
        ({"rates": [math.nan]}, "a learning rate to try must be"),
    ):
        with pytest.raises(ConfigError, match=words):
            sweep(preferences, tmp_path / "one", {}, model=str(model), device="cpu", **wrong)


def test_interrupted_training_leaves_its_work_beside_the_output(
    instructions: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = training_section(SftTrainingConfig, {**FAST, "training.checkpoint_every": 1, "training.batch_examples": 8})
    monkeypatch.setattr(
        "prefloop.loop.training.TrainingConsole", lambda every: lambda row: 1 / 0 if row["step"] == 3 else None
    )
    with pytest.raises(ZeroDivisionError):
        instruction_file(instructions, tmp_path / "out", config, Start(str(model), device="cpu"))
    (work,) = tmp_path.iterdir()
    assert work.name.startswith(".out.")
    monkeypatch.undo()
    instruction_file(instructions, tmp_path / "out", config, Start(str(model), device="cpu", resume=True))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    shutil.rmtree(tmp_path / "out")
    found = CliRunner().invoke(app, ["train", "--help"])
    assert all(name in found.output for name in ("preference", "sft", "reward", "compare", "sweep"))

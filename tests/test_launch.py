"""Configurations and lines that `--dry-run` prints: Accelerate reads them, and what they start ends as one process does."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from command_line import prefloop
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_kill import SMALL, start, when_there
from test_training import build_model_folder, build_world

from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig, TrainingConfig
from prefloop.errors import ConfigError, StoreError
from prefloop.loop.launch import STRATEGIES, Launch
from prefloop.loop.launch import start as start_processes
from prefloop.loop.learned import read_learned
from prefloop.loop.run_training import LOCK, WAITING, Training
from prefloop.models.source import PolicySource
from prefloop.progress import set_quiet
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import read_records, write_records
from prefloop.training.checkpoint import STATE

SETTINGS = ["--set", "training.lora_rank=4", "--set", "training.dtype=float32", "--set", "training.epochs=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``model`` and ``preferences``."""
    place = tmp_path_factory.mktemp("place")
    world = build_world(build_model_folder(place / "model"))
    write_records(place / "preferences" / "prompts.parquet", list(world.prompts.values()), Prompt)
    write_records(place / "preferences" / "completions.parquet", list(world.completions.values()), Completion)
    write_records(place / "preferences" / "preferences.parquet", world.preferences, Preference)
    return place


def train(place: Path, out: str, *options: object) -> subprocess.CompletedProcess[str]:
    given = ["preferences", "--out", out, "--model", "model", "--device", "cpu", *SETTINGS]
    return prefloop("train", "preference", *given, *options, cwd=place)


def typed(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A printed line as a user types it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        shlex.split(line), cwd=place, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@given(st.sampled_from(STRATEGIES), st.integers(1, 4), st.integers(2, 8), st.booleans())
def test_accelerate_reads_what_is_written(strategy: str, machines: int, each: int, cpu: bool) -> None:
    launch = Launch(each * machines, machines, strategy, cpu)
    with tempfile.TemporaryDirectory() as folder:
        path = launch.write(Path(folder) / "accelerate.yaml")
        found = load_config_from_file(str(path))
    assert (found.num_processes, found.num_machines, found.use_cpu) == (each * machines, machines, cpu)
    assert found.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(strategy, "DEEPSPEED")
    lines = launch.lines(path, ["train", "sft", "my data.jsonl"])
    assert len(lines) == machines
    for rank, line in enumerate(lines):
        words = shlex.split(line)
        assert words[-3:] == ["train", "sft", "my data.jsonl"]
        assert ("--machine_rank" in words) == (machines > 1)
        assert machines == 1 or words[words.index("--machine_rank") + 1] == str(rank)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 8, "strategy": "fsdp"}, "ddp, fsdp2, zero1, zero2"),
        ({"processes": 8, "strategy": "zero3"}, "zero2; fsdp2 splits what it does"),
        ({"processes": 8, "machines": 3}, "as many on each"),
        ({"processes": 1}, "two or more"),
    ],
)
def test_processes_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Launch(**given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run"], "give --processes"),
        (["--strategy", "fsdp2"], "no effect in one process"),
        (["--processes", 4, "--machines", 2], "--machine_rank 1"),
    ],
)
def test_options_that_need_more(place: Path, options: list[object], message: str) -> None:
    done = train(place, "nowhere", *options)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not (place / "nowhere").exists()


def test_the_printed_line_trains_what_one_process_does(place: Path) -> None:
    assert train(place, "alone").returncode == 0
    shown = json.loads(train(place, "ddp", "--processes", "2", "--dry-run", "--json").stdout)
    assert "--processes" not in shown["lines"][0]
    done = typed(shown["lines"][0], place)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] >= 1  # one process speaks
    same_weights(place / "alone", place / "ddp")


SETTINGS_OF = {"lora_rank": 4, "dtype": "float32", "epochs": 1}


@pytest.mark.parametrize("data", ["in the folder", "of several rounds"])
@pytest.mark.parametrize("config", [TrainingConfig(**SETTINGS_OF), RewardTrainingConfig(**SETTINGS_OF)])
def test_what_waits_in_a_folder_is_trained_as_it_would_have_been_here(
    place: Path, tmp_path: Path, config: Any, data: str
) -> None:
    """What is written down for the processes is the whole training: its reader makes the same bytes of it."""
    learned = read_learned(place / "preferences")
    training = Training(PolicySource(str(place / "model"), device="cpu"), config, seed=3, threads=1)
    here, there = (RunFolder(tmp_path / name) for name in ("here", "there"))
    here.root.mkdir()
    training.here(here, learned)
    if data == "in the folder":
        shutil.copytree(place / "preferences", there.root)
    with patch("prefloop.loop.run_training.start") as started:
        training.apart(there, None if data == "in the folder" else learned, Launch(2))
    assert started.call_args.args[2] == ["--quiet", "train", "run", str(there.root)]
    assert prefloop(*started.call_args.args[2]).returncode == 0
    for path in sorted((here.root / "checkpoint").iterdir()):
        assert (there.root / "checkpoint" / path.name).read_bytes() == path.read_bytes(), path.name
    assert json.loads(there.path("log.jsonl").read_text().splitlines()[0])["threads"] == 1
    again = prefloop("train", "run", there.root)
    assert (again.returncode, "trained already" in again.stderr) == (5, True)


def test_a_folder_that_others_train_is_left_alone(place: Path, tmp_path: Path) -> None:
    training = Training(PolicySource(str(place / "model"), device="cpu"), TrainingConfig(**SETTINGS_OF), seed=3)
    folder, learned = RunFolder(tmp_path), read_learned(place / "preferences")
    with folder.path(LOCK).open("w") as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        for launch in (None, Launch(2), Launch(4, 2)):
            with pytest.raises(StoreError, match="is being trained by another process"):
                training.run(folder, learned, launch)
    assert not (tmp_path / "checkpoint").exists()
    assert not (tmp_path / WAITING).exists()
    with pytest.raises(ConfigError, match=r"on each machine, then go on with --resume:\naccelerate launch"):
        training.run(folder, learned, Launch(4, 2))


def test_machines_of_a_training_by_itself_leave_nothing_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^start the training on each machine:\naccelerate launch"):
        start_processes(Launch(4, 2), tmp_path / "accelerate.yaml", ["train", "sft"])


def test_processes_of_a_run_speak_beside_its_result_and_are_quiet_when_it_is(tmp_path: Path) -> None:
    training, folder = Training(PolicySource("embedded"), TrainingConfig(**SETTINGS_OF), seed=3), RunFolder(tmp_path)
    words = ["train", "run", str(tmp_path)]
    with patch("prefloop.loop.launch.run_together", return_value=0) as together:
        for quiet, given, stdout in ((False, words, 2), (True, ["--quiet", *words], subprocess.DEVNULL)):
            set_quiet(quiet)
            training.apart(folder, None, Launch(2))
            assert together.call_args.args[2:] == (["prefloop", *given], stdout)


def test_examples_wait_in_a_folder_turn_by_turn(place: Path, tmp_path: Path) -> None:
    """An answer that is part of a later example's conversation is no example of its own."""
    said = ({"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}, {"role": "user", "content": "d"})
    config = SftTrainingConfig(**SETTINGS_OF)
    training = Training(PolicySource(str(place / "model"), device="cpu"), config, 1, threads=1, out="seed/adapter")
    folder = RunFolder(tmp_path)
    with patch("prefloop.loop.run_training.start"):
        training.apart(folder, [(said, "e f")], Launch(2))
    done = prefloop("train", "run", tmp_path, "--json")
    assert (done.returncode, json.loads(done.stdout)["pairs"]) == (0, 1)
    assert (tmp_path / "seed" / "adapter" / "training.json").exists()


def test_nothing_waits_in_a_folder_of_something_else(place: Path) -> None:
    done = prefloop("train", "run", place / "preferences")
    assert (done.returncode, "no training that waits" in done.stderr) == (3, True)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("strategy", "how"),
    [("ddp", signal.SIGINT), ("fsdp2", signal.SIGKILL)],
)
def test_a_run_that_was_stopped_while_two_processes_trained_ends_as_one_of_one_process(
    tmp_path: Path, strategy: str, how: signal.Signals
) -> None:
    same = [*SMALL, "--set", "training.dtype=float32", "--set", "training.epochs=2", "--set", "policy.device=cpu"]
    two = [*same, "--processes", "2", "--strategy", strategy]
    alone, together = tmp_path / "alone", tmp_path / "together"
    done = prefloop("run", "nba-sql", "--out", alone, *same)
    assert done.returncode == 0, done.stderr
    begun = start(together, *two)
    state = together / "work" / "training" / STATE
    assert when_there(begun, state, how) == (130 if how == signal.SIGINT else -how)
    with suppress(OSError), (together / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until nobody trains
    assert not (together / "checkpoint").exists()
    done = prefloop("run", "nba-sql", "--out", together, *two, "--resume")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (together / "log.jsonl").read_text().splitlines()]
    events = [(row["event"], row.get("step")) for row in rows if row["event"] in ("processes", "step")]
    assert events[0] == ("processes", None)
    assert events[events.index(("processes", None), 1) + 1][1] > 1  # it went on
    same_run(alone, together)


def same_run(one: Path, other: Path) -> None:
    """The same files with the same ids; what was made before the training to the byte, its losses to 1e-6."""
    names = [{str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} for run in (one, other)]
    assert names[0] == names[1]
    for name in ("prompts", "completions", "judgements", "preferences"):
        assert (one / f"{name}.parquet").read_bytes() == (other / f"{name}.parquet").read_bytes()
    for path in sorted(one.glob("evaluation/*-completions.parquet")):
        ours, theirs = (read_records(run / "evaluation" / path.name, Completion) for run in (one, other))
        assert [(c.prompt_id, c.index) for c in ours] == [(c.prompt_id, c.index) for c in theirs]
    ours, theirs = (json.loads((run / "checkpoint" / "training.json").read_text()) for run in (one, other))
    for a, b in zip(ours["history"], theirs["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6), a["step"]
    same_weights(one / "checkpoint", other / "checkpoint")


def test_only_training_is_shared(place: Path) -> None:
    with patch.dict(os.environ, {"WORLD_SIZE": "2", "RANK": "0"}):
        done = prefloop("run", "nba-sql", cwd=place)
    assert (done.returncode, "without accelerate launch" in done.stderr) == (2, True)


def test_a_run_on_several_machines_says_what_to_start_on_each(place: Path) -> None:
    done = prefloop("run", "nba-sql", "--processes", 16, "--machines", 2, "--strategy", "fsdp2", "--dry-run", cwd=place)
    lines = [line for line in done.stdout.splitlines() if line.startswith("accelerate launch")]
    assert [line.split("--machine_rank ")[1][0] for line in lines] == ["0", "1"]
    assert all(line.endswith("-m prefloop train run runs/nba-sql") for line in lines)


def test_a_run_at_an_address_says_the_same_of_its_working_folder(place: Path) -> None:
    done = prefloop("run", "nba-sql", "--out", "s3://bucket/x", "--processes", 2, "--dry-run", cwd=place)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("/x")


def same_weights(one: Path, other: Path) -> None:
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], atol=1e-4), name

"""Configurations and lines that `--dry-run` prints: Accelerate reads them, and what they start ends as one process does."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
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
from test_training import build_model_folder, build_world

from prefloop.config.recipe import PolicyConfig, Recipe
from prefloop.config.training import TrainingConfig
from prefloop.errors import ConfigError
from prefloop.loop.launch import STRATEGIES, Launch
from prefloop.loop.run_training import train_in_processes
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import write_json
from prefloop.store.tables import write_records

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


def test_a_run_has_processes_train_from_its_folder(place: Path) -> None:
    """The training stage of a run, by two processes and in this one."""
    training = TrainingConfig(lora_rank=4, dtype="float32", epochs=1)
    recipe = Recipe(policy=PolicyConfig(model=str(place / "model"), device="cpu"), training=training)
    runs = [place / "run-alone", place / "run-fsdp2"]
    for run in runs:
        shutil.copytree(place / "preferences", run)
        write_json(run / "recipe.json", {"recipe": recipe.settings})
    assert prefloop("train", "run", runs[0]).returncode == 0
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}):
        train_in_processes(Launch(2, strategy="fsdp2", cpu=True), runs[1])
    same_weights(runs[0] / "checkpoint", runs[1] / "checkpoint")
    again = prefloop("train", "run", runs[1])
    assert (again.returncode, "trained already" in again.stderr) == (5, True)


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

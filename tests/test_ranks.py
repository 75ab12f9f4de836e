"""Two processes train what one does, as the configuration that `--dry-run` writes starts them; and who computes what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import train_all, train_until_killed
from safetensors.torch import load_file
from test_training import build_model_folder

from prefloop.errors import ConfigError
from prefloop.loop.launch import Launch
from prefloop.training.ranks import Ranks
from prefloop.training.zero import refuse

KINDS = ("lora", "full", "kto", "reward", "sft")
BEYOND = 1_000
"""A step that no training here reaches."""

zero = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs prefloop[deepspeed]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    train_all(folder, out)
    return out


def launched(strategy: str, what: object, folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Two processes on the CPU, started by Accelerate as this strategy is configured."""
    config = Launch(2, strategy=strategy, cpu=True).write(out.with_name(f"{strategy}.yaml"))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    command += [Path(__file__).parent / "processes.py", what, folder, out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    "how", ["ddp", pytest.param("fsdp2", marks=pytest.mark.soak), pytest.param("zero2", marks=[zero, pytest.mark.soak])]
)
def test_two_processes_train_what_one_does(folder: Path, alone: Path, tmp_path: Path, how: str) -> None:
    """The loss of every step to 1e-6, its other figures to 1e-5, and the weights to 1e-4."""
    done = launched(how, "all", folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in KINDS:
        same_training(alone / kind, tmp_path / "out" / kind)


def same_training(alone: Path, together: Path) -> None:
    one, two = (json.loads((out / "checkpoint" / "training.json").read_text()) for out in (alone, together))
    assert two["pairs"] == one["pairs"]
    assert two["best_step"] == one["best_step"]
    assert two["trainable_parameters"] == one["trainable_parameters"]
    for ours, theirs in zip(one["history"], two["history"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert theirs[name] == pytest.approx(ours[name], rel=1e-5, abs=2e-6), (together.name, name)
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6), together.name
    weights = [load_file(next((out / "checkpoint").glob("*.safetensors"))) for out in (alone, together)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        assert torch.allclose(tensor, weights[1][name], atol=1e-4), (together.name, name)


@pytest.mark.parametrize(
    "how", ["fsdp2", pytest.param("zero2", marks=zero), pytest.param("zero1", marks=[zero, pytest.mark.soak])]
)
def test_processes_that_were_killed_go_on_and_end_where_one_does(folder: Path, tmp_path: Path, how: str) -> None:
    """Adam's moments and its count of steps are part of the state: without them the losses would part at once."""
    train_until_killed(folder, tmp_path / "alone", BEYOND)
    assert launched(how, 2, folder, tmp_path / "out").returncode != 0
    assert not (tmp_path / "out" / "checkpoint").exists()
    done = launched(how, BEYOND, folder, tmp_path / "out")
    assert done.returncode == 0, done.stderr[-3000:]
    same_training(tmp_path / "alone", tmp_path / "out")


@pytest.mark.parametrize(
    ("stage", "dtype", "given", "message"),
    [
        (3, "float32", {}, "--strategy fsdp2.*splits weights, gradients and moments"),
        (2, "float16", {}, "scale the loss.*bfloat16"),
        (2, "float32", {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "states are saved.*lora or qlora"),
        (1, "float32", {"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "states are saved.*lora or qlora"),
        (1, "float32", {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "own.json"}, "training section decides.*leave it out"),
    ],
)
def test_what_deepspeed_is_refused_says_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, stage: int, dtype: str, given: dict[str, str], message: str
) -> None:
    refuse(2, "bfloat16")
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        refuse(stage, dtype)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=20), st.integers(1, 4), st.integers(20, 120))
def test_every_process_takes_as_many_passes_and_every_member_is_computed_once(
    lengths: list[int], world: int, budget: int
) -> None:
    parts = []
    for rank in range(world):
        ranks = Ranks(torch.device("cpu"))
        ranks.rank, ranks.world = rank, world
        parts.append(ranks.parts(lengths, budget))
    assert len({len(mine) for mine in parts}) == 1
    counted = [i for mine in parts for part, counts in mine if counts for i in part]
    assert sorted(counted) == list(range(len(lengths)))
    for mine in parts:
        for part, _ in mine:
            assert sum(lengths[i] for i in part) <= budget or len(part) == 1

"""Two processes train what one does, with DDP and FSDP2; and who computes what."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import train_all
from safetensors.torch import load_file
from test_training import build_model_folder

from prefloop.training.ranks import Ranks

KINDS = ("lora", "full", "kto", "reward", "sft")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def alone(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    train_all(folder, out)
    return out


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(folder: Path, alone: Path, tmp_path: Path, how: str) -> None:
    """The loss of every step to 1e-6, its other figures to 1e-5, and the weights to 1e-4."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    command += [Path(__file__).parent / "processes.py", how, folder, tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for kind in KINDS:
        one, two = (json.loads((out / kind / "checkpoint" / "training.json").read_text()) for out in (alone, tmp_path))
        assert two["pairs"] == one["pairs"]
        assert two["best_step"] == one["best_step"]
        assert two["trainable_parameters"] == one["trainable_parameters"]
        for ours, theirs in zip(one["history"], two["history"], strict=True):
            assert ours.keys() == theirs.keys()
            for name in ours:
                assert theirs[name] == pytest.approx(ours[name], rel=1e-5, abs=2e-6), (kind, name)
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-6), kind
        weights = [load_file(next((out / kind / "checkpoint").glob("*.safetensors"))) for out in (alone, tmp_path)]
        assert weights[0].keys() == weights[1].keys()
        for name, tensor in weights[0].items():
            assert torch.allclose(tensor, weights[1][name], atol=1e-4), (kind, name)


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

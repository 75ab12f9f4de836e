"""The training benchmark: both sides train the same thing, and what is counted is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "training.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **QUIET, **environment}
    )


@pytest.mark.soak  # that the engine trains as TRL does is tested in test_training.py, too
def test_both_sides_train_the_same_thing(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    out = tmp_path / "training.json"
    done = run("--size", "tiny", "--cases", "dpo-long,limit", "--rounds", "2", "--json", str(out))
    assert done.returncode == 0, done.stderr[-2_000:]
    cases = json.loads(out.read_text())["cases"]
    dpo = cases["dpo-long"]
    assert dpo["curves_agree"]
    assert dpo["curve_difference"] < 1e-5
    assert dpo["weight_difference"] < 1e-3
    for peer in ("tuned", "defaults"):
        ours, theirs = dpo[peer]["ours"], dpo[peer]["peer"]
        assert ours["losses"] == pytest.approx(theirs["losses"], abs=1e-5)
        assert max(ours["losses"]) - min(ours["losses"]) > 1e-3  # a curve that stands still would agree with any
        assert len(ours["seconds"]) == len(theirs["seconds"]) == len(dpo["ratios"]) == 2
        assert ours["padding"] == 0.0 < theirs["padding"]
    assert set(dpo) >= {"ratio", "ceiling", "goal", "met", "pilot"}
    assert set(cases["limit"]) >= {"ratio", "ratios", "goal", "met", "ours", "plain"}
    assert "times tuned TRL" in done.stdout


def test_a_gpu_that_is_not_there_is_named() -> None:
    done = run("--gpu", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stderr.startswith("no GPU: ")
    assert "gpu-0.5b was not run" in done.stderr


def test_flops_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference figures of a Qwen2.5-0.5B step (P 512, C 128 twice), and one padded pair of rows by hand."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _flops import Flops, Pass
    from _sizes import SIZES

    from prefloop.models.group import Group

    flops = Flops(SIZES["gpu-0.5b"], "dpo")
    assert (flops.blocks, flops.head, flops.attention) == (357_826_560, 136_134_656, 86_016)
    assert flops.ours([Group((2,) * 512, ((2,) * 128, (3,) * 128))]) == pytest.approx(1.311e12, rel=1e-3)
    small = Flops(SIZES["tiny"], "dpo")  # on a CPU: the head on 2 · 3 of 8 positions, 10 (query, key) pairs per row
    assert small.trl([Pass(2, 4, 6)], 3, defaults=False, reference=False) == (
        4 * small.blocks * 8 + 3 * small.attention * 20 + 6 * small.head * 6
    )

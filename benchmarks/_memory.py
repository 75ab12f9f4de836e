"""Peak memory of one side of ``dpo-long``, measured in a process of its own.

Run as a script it is that process: ``python _memory.py SIZE ours|trl SETTING`` prints ``{"gb": …, "seconds": …}``.
Both sides import the same packages and are given reference log-probabilities, so neither runs a reference here.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import _trl
import torch
from _groups import Data, drawn, trl_rows
from _ours import CLIP, our_side
from _sizes import CASES, RATE, SIZES, Size

STEPS = 3
"""Optimizer steps; the first warms up."""


@dataclass(frozen=True)
class Peak:
    """What one process needed."""

    side: str
    setting: int
    """Tokens per pass (ours) or micro-batch (TRL)."""
    gb: float
    """Peak: allocated on the GPU where there is one, otherwise the process's resident set."""
    seconds: float
    """Per step."""


def peak(size: Size, side: str, setting: int) -> Peak:
    """Measure in a process of its own, with as many threads as this one.

    Raises:
        RuntimeError: it failed; its last words.
    """
    command = [sys.executable, __file__, size.name, side, str(setting), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the memory of {side} at {setting} could not be measured: {done.stderr[-2_000:]}")
    return Peak(side, setting, **json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Train a few steps as one side, print the peak."""
    size, side, setting = SIZES[sys.argv[1]], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(int(sys.argv[4]))
    data = drawn(size, CASES["dpo-long"], STEPS)
    seconds = (_ours if side == "ours" else _theirs)(size, data, setting)
    print(json.dumps({"gb": _peak_gb(size), "seconds": seconds}))


def _ours(size: Size, data: Data, budget: int) -> float:
    with our_side(size, size.model("dpo"), data, _zeros(data), budget) as ours:
        ours.run(1)
        ours.run(STEPS - 1)
    return ours.seconds[1] / (STEPS - 1)


def _theirs(size: Size, data: Data, micro_batch: int) -> float:
    model = size.model("dpo")
    with our_side(size, model, data, _zeros(data), size.budgets[0]) as ours:
        start = ours.start
    setting = _trl.Setting("dpo", micro_batch, data.case.examples, RATE, clip=CLIP, half=size.half)
    clock = _trl.Clock(1, STEPS - 1)
    with tempfile.TemporaryDirectory() as folder:
        _trl.trainer(model, trl_rows(data, _zeros(data), STEPS), setting, STEPS, clock, start, Path(folder)).train()
    return clock.seconds[0] / (STEPS - 1)


def _zeros(data: Data) -> list[list[torch.Tensor]]:
    return [[torch.zeros(len(ids)) for ids in unit.group.completions] for unit in data.units]


def _peak_gb(size: Size) -> float:
    if size.device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # here `ru_maxrss` would start from the parent's
        return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1_024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()

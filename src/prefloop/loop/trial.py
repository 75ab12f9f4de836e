"""Two optimizer steps of a policy on random tokens, in processes of their own: what training holds and how fast it is.

Nothing of the task is needed: a step's memory and time depend on the shapes alone. The second step has two passes,
since a long run's second pass finds what the first has left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.training import Tuning
from prefloop.errors import ModelError
from prefloop.loop.launch import Launch
from prefloop.loop.together import end_with_starter, run_together


@dataclass(frozen=True)
class Trial:
    """What the steps took."""

    peak: int
    """Bytes of the process that held most: its resident set, on a GPU what was allocated there."""
    tokens_per_second: float
    """Unique tokens that all processes trained on, in the last step."""


def run_trial(
    model: str,
    tuning: Tuning,
    scored: float,
    longest: int,
    *,
    dtype: str = "float32",
    device: str = "auto",
    threads: int = 0,
    launch: Launch | None = None,
) -> Trial:
    """Train `model` for two steps and measure.

    Args:
        tuning: its ``tokens_per_batch`` are those of a pass of each process.
        scored: share of tokens that belong to completions.
        longest: prompt and completion of the longest row.
        dtype: type the model is loaded in.
        threads: of each process on the CPU; 0: torch's own choice.
        launch: several processes of this machine.

    Raises:
        ModelError: the steps failed, for lack of memory as a rule; says how.
    """
    asked = {
        "model": model,
        "tuning": tuning.model_dump(include=set(Tuning.model_fields)),
        "scored": scored,
        "longest": longest,
    }
    asked |= {"dtype": dtype, "device": device, "threads": threads}
    with tempfile.TemporaryDirectory() as folder:
        answer, said = Path(folder) / "answer.json", Path(folder) / "said.txt"
        words = [__name__, json.dumps({**asked, "answer": str(answer)})]
        with said.open("w", encoding="utf-8") as speech:
            if launch is not None:
                code = run_together(launch.write(Path(folder) / "accelerate.yaml"), launch.each, words, speech, speech)
            else:
                command = [sys.executable, "-m", *words]
                code = subprocess.run(command, stdout=speech, stderr=speech, check=False).returncode
        if code or not answer.exists():
            lines = said.read_text(encoding="utf-8", errors="replace").splitlines()
            last = next((line for line in reversed(lines) if "Error" in line), f"code {code}")
            raise ModelError(f"the trial of {model} ended with {last.strip()[:300]}")
        return Trial(**json.loads(answer.read_text(encoding="utf-8")))


def main() -> None:
    """Take the steps that the first argument describes; the first process writes the answer."""
    import torch

    from prefloop.models.group import GroupForward
    from prefloop.models.load import load_policy
    from prefloop.progress import set_quiet
    from prefloop.training.loop import Engine, Job, run_steps
    from prefloop.training.trainable import trainable

    end_with_starter()
    asked = json.loads(sys.argv[1])
    tuning = Tuning(**asked["tuning"])
    if asked["threads"]:
        torch.set_num_threads(asked["threads"])
    set_quiet(True)
    policy = load_policy(asked["model"], dtype=asked["dtype"], device=asked["device"])
    with trainable(policy, tuning, seed=1) as adapted, tempfile.TemporaryDirectory() as work:
        forward = GroupForward(adapted)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        groups = 2 * world * _groups(adapted, tuning.tokens_per_batch, asked["scored"], asked["longest"])
        whole = range(len(groups))
        job = Job(
            label="trial",
            plan=[whole[: len(groups) // 2], whole],
            lengths=[group.tokens for group in groups],
            weights=[1.0] * len(groups),
            forward=lambda module, members, _: _pass(module, forward, [groups[i] for i in members], tuning.dtype),
            describe=lambda unit: unit,
        )
        engine = Engine.of(forward, tuning)
        times = [time.monotonic()]
        settings: dict[str, Any] = {"work": Path(work), "identity": "trial", "resume": False}
        run_steps(engine, job, tuning, log=lambda row: times.append(time.monotonic()), **settings)
        # Saved states gather what is split: the steps are what is asked about.
        peaks = engine.ranks.gathered(_peak())
    if engine.ranks.main:
        speed = sum(group.tokens for group in groups) / (times[-1] - times[-2])
        Path(asked["answer"]).write_text(json.dumps({"peak": max(peaks), "tokens_per_second": speed}), encoding="utf-8")


def _groups(model: Any, tokens: int, scored: float, longest: int) -> list[Any]:
    import torch

    from prefloop.models.group import Group
    from prefloop.models.memory import even_groups

    torch.manual_seed(1)

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(model.config.get_text_config().vocab_size, (length,)).tolist())

    shapes = even_groups(tokens, int(tokens * scored), longest)
    return [Group(drawn(prompt), tuple(drawn(length) for length in completions)) for prompt, completions in shapes]


def _pass(module: Any, forward: Any, groups: list[Any], dtype: str) -> Any:
    import torch

    from prefloop.training.loop import Pass
    from prefloop.training.trainable import autocast

    batch = forward.pack(groups)
    with autocast(batch.input_ids.device, dtype):
        sums = module(batch).sums
    loss = -torch.nn.functional.logsigmoid(0.1 * (sums[::2] - sums[1::2])).sum()
    return Pass(loss, {}, batch.input_ids.numel() - batch.padding, batch.padding)


def _peak() -> int:
    """`VmHWM` on Linux, where `ru_maxrss` starts from the parent's."""
    import torch

    from prefloop.training.update import peak_memory_gb

    status = Path("/proc/self/status")
    if torch.cuda.is_available() or not status.exists():
        return round(peak_memory_gb() * 1e9)
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()

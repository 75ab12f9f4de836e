"""What each of two processes runs for `test_ranks`: the same trainings as one process, as Accelerate's variables say."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from test_training import build_world, settings_of

from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig
from prefloop.progress import set_quiet
from prefloop.training.reward import train_reward_model
from prefloop.training.sft import train_instructions

SMALL = {"tokens_per_batch": 64, "checkpoint_every": 1}


def train_all(folder: Path, out: Path) -> None:
    """DPO by adapter and in full with held-out prompts, KTO, a reward model, instructions; small passes."""
    torch.set_num_threads(1)
    set_quiet(True)
    small = SMALL | {"checkpoint_every": 4}
    for name, options in {
        "lora": {},
        "full": {"method": "full", "held_out": 0.25, "evaluate_every": 1},
        "kto": {"objective": "kto"},
    }.items():
        build_world(folder).train(out / name, settings_of(**small, **options))
    world = build_world(folder)
    records = (world.policy, world.preferences, world.completions, world.prompts)
    reward = RewardTrainingConfig(lora_rank=4, learning_rate=5e-3, batch_prompts=4, **small)
    train_reward_model(*records, reward, out / "reward" / "checkpoint", work=out / "reward" / "work", seed=1)
    examples = [(world.prompts[c.prompt_id].messages, c.text) for c in world.completions.values()]
    sft = SftTrainingConfig(lora_rank=4, learning_rate=5e-3, batch_examples=5, **small)
    train_instructions(world.policy, examples, sft, out / "sft" / "checkpoint", work=out / "sft" / "work", seed=1)


def train_until_killed(folder: Path, out: Path, step: int) -> None:
    """Full DPO whose first process kills itself after `step`, whose state is on disk; far beyond the last: to the end."""
    torch.set_num_threads(1)
    set_quiet(True)

    def log(row: dict[str, Any]) -> None:
        if row["step"] == step + 1:
            os.kill(os.getpid(), signal.SIGKILL)

    build_world(folder).train(out, settings_of(**SMALL, method="full"), log=log)


if __name__ == "__main__":
    what, folder, out = sys.argv[1:4]
    if what == "all":
        train_all(Path(folder), Path(out))
    else:
        train_until_killed(Path(folder), Path(out), int(what))

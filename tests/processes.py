"""What each of two processes runs for `test_ranks`: the same trainings as one process, over DDP or FSDP2."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from test_training import build_world, settings_of

from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig
from prefloop.progress import set_quiet
from prefloop.training.reward import train_reward_model
from prefloop.training.sft import train_instructions


class Sharded(accelerate.Accelerator):
    """FSDP2 on the CPU, which Accelerate's own settings give to accelerators alone; from here on all is theirs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
        AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}


def train_all(folder: Path, out: Path, stop: int | None = None) -> None:
    """DPO by adapter and in full with held-out prompts, KTO, a reward model, instructions; small passes."""
    torch.set_num_threads(1)
    set_quiet(True)
    small = {"tokens_per_batch": 64, "checkpoint_every": 1}

    def log(row: dict[str, Any]) -> None:
        if row["step"] == stop:
            raise KeyboardInterrupt

    for name, options in {
        "lora": {},
        "full": {"method": "full", "held_out": 0.25, "evaluate_every": 1},
        "kto": {"objective": "kto"},
    }.items():
        build_world(folder).train(out / name, settings_of(**small, **options), log=log)
    world = build_world(folder)
    records = (world.policy, world.preferences, world.completions, world.prompts)
    reward = RewardTrainingConfig(lora_rank=4, learning_rate=5e-3, batch_prompts=4, **small)
    train_reward_model(*records, reward, out / "reward" / "checkpoint", work=out / "reward" / "work", seed=1)
    examples = [(world.prompts[c.prompt_id].messages, c.text) for c in world.completions.values()]
    sft = SftTrainingConfig(lora_rank=4, learning_rate=5e-3, batch_examples=5, **small)
    train_instructions(world.policy, examples, sft, out / "sft" / "checkpoint", work=out / "sft" / "work", seed=1)


if __name__ == "__main__":
    how, folder, out = sys.argv[1:4]
    if how == "fsdp2":
        accelerate.Accelerator = Sharded
    train_all(Path(folder), Path(out))

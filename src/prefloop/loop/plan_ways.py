"""What a training process of a recipe holds on a GPU, and what would make it fit where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from prefloop.config.recipe import Recipe
from prefloop.config.training import TrainingConfig
from prefloop.loop.plan_stages import PROMPT_TOKENS, Cluster, written

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from prefloop.models.memory import MemoryPlan

MORE_GPUS = (2, 4, 8, 16, 32, 64, 128)


def training_memory(
    recipe: Recipe, training: TrainingConfig, config: PreTrainedConfig, ways: Sequence[tuple[str, int]]
) -> list[MemoryPlan]:
    """What one training process holds on a GPU, for each strategy with its number of processes.

    Args:
        training: in place of the recipe's.
    """
    from prefloop.models.memory import plan_split_memory

    longest = PROMPT_TOKENS + recipe.generation.max_new_tokens
    tokens = max(_pair(recipe), training.tokens_per_batch)
    share = 2 * written(recipe) / (PROMPT_TOKENS + 2 * written(recipe))
    own = {"float32": 4, "nf4": 0}.get(recipe.policy.dtype, 2)
    scored = round(tokens * share)
    return plan_split_memory(config, training, tokens, scored, longest, ways, weight_bytes=own, device="cuda")


def ways_to_fit(recipe: Recipe, config: PreTrainedConfig, cluster: Cluster, strategy: str) -> list[str]:
    """Changes of settings each of which makes training fit, then the fewest GPUs that do."""
    now, gpus, room = recipe.training, cluster.gpus, cluster.gpu.gib * 2**30
    smaller = {"tokens_per_batch": _pair(recipe)} if now.tokens_per_batch > _pair(recipe) else {}
    again = {} if now.checkpointing else {"checkpointing": True}
    settings = [smaller, again, smaller | again if smaller and again else {}]
    settings += [{"method": "lora"}] if now.method == "full" else []
    tried: list[tuple[dict[str, Any], str]] = [(changes, strategy) for changes in settings if changes]
    tried += [({"method": "qlora"}, "ddp")] if now.method != "qlora" else []
    found = []
    for changes, how in tried:
        (plan,) = training_memory(recipe, now.model_copy(update=changes), config, [(how, gpus)])
        if plan.total <= room:
            found.append(f"{_said(changes, gpus, how, cluster, strategy)}: {gib(plan.total)} per GPU")
    if now.method != "qlora" and recipe.policy.dtype != "nf4":  # 4-bit weights are not split
        split = [gpus] if gpus > 1 and strategy != "fsdp2" else []
        more = [*split, *(number for number in MORE_GPUS if number > gpus)]
        plans = training_memory(recipe, now, config, [("fsdp2", number) for number in more])
        fitting = ((number, plan) for number, plan in zip(more, plans, strict=True) if plan.total <= room)
        for number, plan in islice(fitting, 1):
            found.append(f"{_said({}, number, 'fsdp2', cluster, strategy)}: {gib(plan.total)} per GPU")
    return found or ["none of what was tried: a smaller model, shorter answers, or GPUs with more memory"]


def _said(changes: dict[str, Any], processes: int, how: str, cluster: Cluster, strategy: str) -> str:
    parts = [f"training.{name}={str(value).lower()}" for name, value in changes.items()]
    parts += [f"{processes} GPUs"] if processes != cluster.gpus else []
    parts += [f"--strategy {how}"] if how != strategy else []
    return " and ".join(parts)


def _pair(recipe: Recipe) -> int:
    """Tokens of a prompt with two of the longest answers."""
    return PROMPT_TOKENS + 2 * recipe.generation.max_new_tokens


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / 2**30:,.2f} GiB"

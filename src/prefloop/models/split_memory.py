"""What is left of a training's memory in each of several processes that split it.

DDP (2006.15704) splits nothing and adds buckets of gradients. ZeRO (1910.02054) splits AdamW's moments with a float32
copy of what is trained, and from stage 2 on gradients. FSDP2 splits weights, too; a layer is whole while it computes,
the next one already on its way, and so is for the whole step what belongs to no layer: embedding, last norm, head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from prefloop.config.training import Tuning
    from prefloop.models.memory import MemoryPlan

BUCKET_BYTES = 4 * 50_000_000
"""Of DeepSpeed's gradients that travel together (`prefloop.training.zero`)."""


def split_plan(plan: MemoryPlan, model: Any, tuning: Tuning, strategy: str, processes: int, device: str) -> MemoryPlan:
    """The plan of one of `processes`, from that of one process alone.

    Args:
        model: on shapes, with what training adds.
        strategy: ddp, zero1, zero2 or fsdp2.
    """

    def share(size: int) -> int:
        return -(-size // processes)

    if strategy == "ddp":
        return replace(plan, exchange=plan.gradients)
    if strategy in ("zero1", "zero2"):
        kept = plan.gradients if strategy == "zero1" else share(plan.gradients)
        buckets = 2 * min(BUCKET_BYTES, plan.gradients)
        return replace(plan, gradients=kept, moments=share(plan.moments), exchange=buckets + share(plan.gradients))
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(base._no_split_modules or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    inside = {id(p) for layer in layers for p in layer.parameters()}
    rest = [p for p in model.parameters() if id(p) not in inside]
    largest = max((_bytes(layer.parameters()) for layer in layers), default=0)
    trained = max((_bytes(layer.parameters(), trained=True) for layer in layers), default=0)
    whole = 2 * largest + _bytes(rest) + 2 * trained + _bytes(rest, trained=True)
    weights = {kind: share(size) for kind, size in plan.weights.items()}
    if tuning.method == "full":  # the policy's own stay where they were read: beside the GPU, and whole
        own = next(iter(weights))
        weights[own] = plan.weights[own] if device == "cpu" else 0
    return replace(
        plan,
        weights=weights,
        adapters=share(plan.adapters),
        gradients=share(plan.gradients),
        moments=share(plan.moments),
        exchange=whole,
    )


def _bytes(parameters: Iterable[nn.Parameter], trained: bool = False) -> int:
    return sum(p.numel() * p.element_size() for p in parameters if p.requires_grad or not trained)

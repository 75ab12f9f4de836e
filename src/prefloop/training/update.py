"""One optimizer update, and what a finished training returns.

Plain PyTorch: on one device Accelerate would add a process-wide state (one precision and one device per
process, so that a second training in the same process could not choose its own) and nothing that these few
lines lack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefloop.errors import ModelError

Log = Callable[[dict[str, Any]], None]
"""Takes one row per optimizer step: figures by name, speed included."""

Figures = dict[str, float]
"""Deterministic figures of one step; what a history is made of."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run did."""

    out: Path
    steps: int
    history: list[Figures]
    """One row per step: loss, gradient norm, learning rate and so on; no durations."""
    pairs: int = 0
    """Pairs (preference training) or examples (SFT) trained on."""
    dropped: dict[str, int] = field(default_factory=dict)
    """What was not trained on, by reason."""

    def as_json(self) -> dict[str, Any]:
        """What ``training.json`` holds; nothing in it depends on time or place."""
        return {
            "steps": self.steps,
            "pairs": self.pairs,
            "dropped": self.dropped,
            "final_loss": self.final_loss,
            "history": self.history,
        }

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        last = self.history[-max(1, len(self.history) // 10) :]
        return sum(row["loss"] for row in last) / len(last)


def adamw(
    parameters: Iterable[torch.nn.Parameter], weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """Fused AdamW (1711.05101); weight decay on matrices alone, not on norms and biases."""
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in parameters:
        (matrices if parameter.ndim >= 2 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], betas=betas, fused=True)


def update(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    rate: float,
    max_norm: float,
    place: str,
) -> float:
    """Clip the gradients that stand in `parameters`, take one step at learning rate `rate`, clear them.

    Args:
        place: named in errors, e.g. ``step 3``.

    Returns:
        The gradients' norm before clipping.

    Raises:
        ModelError: the gradient is not finite, or zero everywhere.
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm).item()
    if not math.isfinite(norm):
        raise ModelError(
            f"{place}: the gradient is not finite: lower training.learning_rate, or train in float32 "
            "(training.dtype); the last checkpoint is intact"
        )
    if norm == 0.0:
        raise ModelError(
            f"{place}: every gradient is zero, so nothing would be learned: check that chosen and rejected "
            "differ and that the trained layers take part in the forward pass (training.method, lora_target)"
        )
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm

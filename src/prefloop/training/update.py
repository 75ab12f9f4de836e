"""One optimizer update, and what a finished training returns."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefloop.errors import ModelError
from prefloop.training.ranks import whole

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
    best_step: int | None = None
    """Step whose weights were kept, chosen on held-out units; None: the last; 0: those of the start."""
    trainable: int = 0
    """Parameters that were trained."""
    stopped: str | None = None
    """Why the training ended before its plan."""

    def as_json(self) -> dict[str, Any]:
        """What ``training.json`` holds; nothing in it depends on time or place."""
        return {
            "steps": self.steps,
            "pairs": self.pairs,
            "dropped": self.dropped,
            "final_loss": self.final_loss,
            "best_step": self.best_step,
            "trainable_parameters": self.trainable,
            **({"stopped": self.stopped} if self.stopped else {}),
            "history": self.history,
        }

    @property
    def kept(self) -> Figures:
        """Figures of the step whose weights were kept."""
        return self.history[(self.best_step or len(self.history)) - 1]

    @property
    def final_loss(self) -> float:
        """Mean loss of the last tenth of the steps."""
        losses = [row["loss"] for row in self.history if "loss" in row]
        last = losses[-max(1, len(losses) // 10) :]
        return sum(last) / len(last)


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


def loss_scaler(device: torch.device) -> torch.amp.GradScaler:
    """For float16, whose smallest gradients round to zero: losses are scaled up, gradients down again."""
    return torch.amp.GradScaler(device.type)


def update(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, torch.nn.Parameter],
    rate: float,
    max_norm: float,
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """Clip the gradients that stand in `parameters`, take one step at learning rate `rate`, clear them.

    Args:
        scaler: what scaled the losses; where the scaled gradients overflow, it skips the step and scales less.

    Returns:
        The gradients' norm before clipping.

    Raises:
        ModelError: the gradient is not finite, or zero everywhere.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = whole(torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm)).item()
    if scaler is None or scaler.get_scale() <= 1.0 or math.isfinite(norm):
        usable(norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm


def usable(norm: float) -> float:
    """The norm of a step's gradients.

    Raises:
        ModelError: it is not finite, or zero.
    """
    if not math.isfinite(norm):
        raise ModelError(
            "the gradient is not finite: lower training.learning_rate, or train in float32 (training.dtype); "
            "the last checkpoint is intact"
        )
    if norm == 0.0:
        raise ModelError(
            "every gradient is zero, so nothing would be learned: check that chosen and rejected differ and that the "
            "trained layers take part in the forward pass (training.method)"
        )
    return norm


def peak_memory_gb() -> float:
    """Most memory held so far: of the device where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9

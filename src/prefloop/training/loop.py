"""The loop that every training shares: gradients of a step, update, figures, state; resumable after any step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from prefloop.progress import progress
from prefloop.training.checkpoint import STATE, Cursor, load_state, save_state
from prefloop.training.schedule import learning_rate
from prefloop.training.update import Figures, Log, adamw, update


class Optimisation(Protocol):
    """What the loop reads of a configuration."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> str: ...
    @property
    def warmup_ratio(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def checkpoint_every(self) -> int: ...


@dataclass(frozen=True)
class StepOutcome:
    """What one step's forward and backward passes gave beside the gradients."""

    figures: Figures
    tokens: int
    """Tokens computed, padding not counted."""
    padding: int = 0


def run_steps(
    backward: Callable[[int], StepOutcome],
    tokens: Sequence[int],
    parameters: Mapping[str, torch.nn.Parameter],
    config: Optimisation,
    *,
    betas: tuple[float, float],
    work: Path,
    identity: str,
    resume: bool,
    log: Log,
    label: str,
) -> list[Figures]:
    """Take ``len(tokens)`` optimizer steps; returns the figures of each.

    Args:
        backward: leaves the gradients of a step (0-based) in `parameters`.
        tokens: tokens of each step, for the time left.
        parameters: what is trained, by name.
        work: folder of the resumable state.
        identity: hash of everything that decides the run; another run's state is refused.
        resume: go on from the state in `work`; otherwise one that lies there is overwritten.
        log: called with one row per step, its speed included.

    Raises:
        ModelError: the gradient is zero or not finite.
        StoreError: the state in `work` is another run's, or cannot be written.
    """
    optimizer = adamw(parameters.values(), config.weight_decay, betas)
    state = work / STATE
    cursor = load_state(state, parameters, optimizer, identity) if resume else Cursor()
    with progress(label, sum(tokens), "tokens", done=sum(tokens[: cursor.step])) as advance:
        for step in range(cursor.step, len(tokens)):
            started = time.monotonic()
            outcome = backward(step)
            rate = learning_rate(step, len(tokens), config.learning_rate, config.schedule, config.warmup_ratio)
            norm = update(optimizer, parameters, rate, config.max_grad_norm, f"{label}, step {step + 1}")
            share = outcome.padding / (outcome.tokens + outcome.padding)
            figures = {**outcome.figures, "grad_norm": norm, "learning_rate": rate, "padding": share}
            cursor.step = step + 1
            cursor.history.append({"step": cursor.step, **figures})
            log({**cursor.history[-1], "tokens_per_second": outcome.tokens / (time.monotonic() - started)})
            if cursor.step % config.checkpoint_every == 0 or cursor.step == len(tokens):
                save_state(state, parameters, optimizer, cursor, identity)
            advance(tokens[step])
    return cursor.history

"""The loop that every training shares: passes of a step, update, figures, state; resumable after any step.

`run_steps` goes straight down. A step is defined by its members and their weights; how it is cut into forward
passes, and over how many processes, changes nothing but rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from prefloop.errors import ModelError
from prefloop.progress import note, progress
from prefloop.store.files import write_json
from prefloop.training.alarms import Alarms
from prefloop.training.checkpoint import BEST, STATE, Cursor, load_state, load_weights, save_state, save_weights
from prefloop.training.ranks import Ranks
from prefloop.training.schedule import learning_rate
from prefloop.training.update import Figures, Log, TrainingResult, adamw, loss_scaler, peak_memory_gb, update, usable

HELD_OUT = "held_out/"
"""Start of the names of figures on held-out units."""


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
    @property
    def tokens_per_batch(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def evaluate_every(self) -> int: ...
    @property
    def patience(self) -> int: ...


@dataclass(frozen=True)
class Pass:
    """What one forward pass over some units gave."""

    loss: Tensor
    """Weighted sum of the losses of its examples."""
    figures: Mapping[str, Tensor]
    """Weighted sums of other figures, without gradient."""
    tokens: int
    """Tokens computed, padding not counted."""
    padding: int = 0


@dataclass(frozen=True)
class Job:
    """What is to be learned, in units that are never torn apart (a prompt with all its pairs, an example)."""

    label: str
    plan: Sequence[Sequence[int]]
    """Units of each optimizer step."""
    lengths: Sequence[int]
    """Tokens of each unit; estimates, where `prepare` puts the true ones into the list before their step."""
    weights: Sequence[float]
    """Weight of each unit: the loss of a step is the sum over its units divided by the sum of their weights."""
    forward: Callable[[Any, Sequence[int], Any], Pass]
    """Of the wrapped module, units, and what `prepare` gave."""
    describe: Callable[[int], Any]
    """A unit as JSON, for a step that went wrong."""
    prepare: Callable[[Any, Sequence[int], int], tuple[Any, Figures]] = lambda module, units, budget: (None, {})
    """Once per step, before its passes: something they need, and figures. Its own passes keep to a token budget."""
    held_out: Sequence[int] = ()
    """Units that are never in `plan`: the best weights are chosen by their loss."""
    idle: bool = False
    """Whether a step without any gradient is passed over and counted (``skipped``), rather than an error."""
    ends: Callable[[Sequence[Figures]], bool] = lambda history: False
    """Whether the steps end here, asked after each; the caller then says which weights are kept."""


@dataclass
class Engine:
    """What computes: the wrapped module, what is trained of it, the optimizer, and the processes."""

    module: Any
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    ranks: Ranks
    scaler: torch.amp.GradScaler | None

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @classmethod
    def of(cls, forward: Any, config: Optimisation, betas: tuple[float, float] = (0.9, 0.999)) -> Engine:
        """Put `forward` and an AdamW for what of it has gradients into the processes that there are."""
        device = forward.model.device
        optimizer = adamw([p for p in forward.parameters() if p.requires_grad], config.weight_decay, betas)
        ranks = Ranks(device)
        module, optimizer = ranks.prepare(forward, optimizer, config.dtype, config.max_grad_norm)
        parameters = {name: p for name, p in forward.model.named_parameters() if p.requires_grad}
        return cls(module, parameters, optimizer, ranks, loss_scaler(device) if config.dtype == "float16" else None)


def run_steps(
    engine: Engine,
    job: Job,
    config: Optimisation,
    *,
    work: Path,
    identity: str,
    resume: bool,
    log: Log,
    budget: int | None = None,
) -> list[Figures]:
    """Take the optimizer steps of `job`; returns the figures of each. Held-out units choose the weights kept.

    Args:
        work: folder of the resumable state.
        identity: hash of everything that decides the run; another run's state is refused.
        resume: go on from the state in `work`; otherwise one that lies there is overwritten.
        log: called with one row per step, its speed and memory included.
        budget: tokens of a forward pass, where fewer fit than `config` asks for.

    Raises:
        ModelError: the gradient is zero or not finite, or one unit alone does not fit into memory.
        StoreError: the state in `work` is another run's, or cannot be written.
    """
    state = work / STATE
    cursor = Cursor(budget=budget or config.tokens_per_batch)
    if resume and state.exists():
        engine.ranks.settle(engine.module)
        zero = engine.ranks.zero
        cursor = load_state(state, engine.parameters, engine.optimizer, identity, engine.scaler, zero)
    tokens = [sum(job.lengths[i] for i in step) for step in job.plan]
    alarms = Alarms()
    with progress(job.label, sum(tokens), "tokens", done=sum(tokens[: cursor.step])) as advance:
        while cursor.step < len(job.plan) and not _stopped(cursor.history, config.patience):
            started = time.monotonic()
            found = _computed(engine, job, cursor, job.plan[cursor.step])
            rate = learning_rate(cursor.step, len(tokens), config.learning_rate, config.schedule, config.warmup_ratio)
            norm = _update(engine, job, cursor.step, rate, config, work)
            found |= {"grad_norm": norm} if math.isfinite(norm) else {"skipped": 1.0}
            computed = sum(job.lengths[i] for i in job.plan[cursor.step])
            found = {name: value for name, value in found.items() if math.isfinite(value)}  # float16 overflows at first
            spent = time.monotonic() - started
            cursor.step += 1
            figures = {"step": cursor.step, **found, "learning_rate": rate}
            done = cursor.step == len(job.plan)
            evaluated = bool(job.held_out) and (cursor.step % config.evaluate_every == 0 or done)
            if evaluated:
                figures |= _held_out(engine, job, cursor)
            cursor.history.append(figures)
            if engine.ranks.main:
                advance(tokens[cursor.step - 1])
                speed = {"tokens_per_second": computed / spent, "memory_gb": peak_memory_gb()}
                log({**figures, **speed})
                for alarm in alarms(cursor.history):
                    note(f"{job.label}, step {cursor.step}: {alarm}")
            if job.ends(cursor.history):
                break
            if evaluated and best_step(cursor.history) == cursor.step:
                save_weights(work / BEST, engine.parameters, engine.ranks)
            if cursor.step % config.checkpoint_every == 0 or done or _stopped(cursor.history, config.patience):
                save_state(state, engine.parameters, engine.optimizer, cursor, identity, engine.ranks, engine.scaler)
    if job.held_out:
        load_weights(work / BEST, engine.parameters)
    return cursor.history


def _computed(engine: Engine, job: Job, cursor: Cursor, units: Sequence[int]) -> Figures:
    """Figures of `units`, and their gradients if gradients are on; where memory runs out, cut finer from here on."""
    while True:
        try:
            return _passes(engine, job, units, cursor.budget)
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            lengths = [job.lengths[i] for i in units]
            if engine.ranks.world > 1 or max(lengths) >= cursor.budget:
                raise ModelError(
                    f"{job.label}, step {cursor.step + 1}: out of memory at {cursor.budget:,} tokens per forward pass: "
                    "lower training.tokens_per_batch, set training.checkpointing=true, or train with qlora"
                ) from error
        engine.optimizer.zero_grad(set_to_none=True)
        cursor.budget = max(max(lengths), cursor.budget // 2)
        note(f"{job.label}, step {cursor.step + 1}: out of memory; cut to {cursor.budget:,} tokens per forward pass")


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _passes(engine: Engine, job: Job, units: Sequence[int], budget: int) -> Figures:
    """Figures of all passes over `units`, and their gradients if gradients are on.

    Each pass adds its examples' share of the units' weight, so the sum over passes is the gradient of the
    weighted mean over all examples; a mean of the passes' means would favour examples in small passes.
    """
    given, figures = job.prepare(engine.module, units, budget)
    total = sum(job.weights[i] for i in units)
    found: dict[str, Tensor] = {}
    tokens = padding = 0.0
    parts = engine.ranks.parts([job.lengths[i] for i in units], budget)
    for number, (part, counts) in enumerate(parts, 1):
        with engine.ranks.accumulating(engine.module, last=number == len(parts)):
            outcome = job.forward(engine.module, [units[i] for i in part], given)
            if torch.is_grad_enabled():
                loss = outcome.loss * (counts / total)
                engine.ranks.backward(loss if engine.scaler is None else engine.scaler.scale(loss))
        for name, value in {"loss": outcome.loss.detach(), **outcome.figures}.items():
            found[name] = found.get(name, 0.0) + value * (counts / total)
        tokens += counts * outcome.tokens
        padding += counts * outcome.padding
    values = torch.stack(list(found.values())).tolist()  # one wait for the device per step, not one per figure
    whole = engine.ranks.summed({**dict(zip(found, values, strict=True)), "tokens": tokens, "padding": padding})
    tokens, padding = whole.pop("tokens"), whole.pop("padding")
    return {**figures, **whole, "padding": padding / max(1.0, padding + tokens)}


def _update(engine: Engine, job: Job, step: int, rate: float, config: Optimisation, work: Path) -> float:
    """One update; a step whose gradients are of no use is written down with its units. NaN: passed over."""
    if job.idle and not any(p.grad is not None and p.grad.any() for p in engine.parameters.values()):
        engine.optimizer.zero_grad(set_to_none=True)
        return math.nan
    try:
        if engine.ranks.zero is not None:
            return usable(engine.ranks.zero.update(rate))
        return update(engine.optimizer, engine.parameters, rate, config.max_grad_norm, engine.scaler)
    except ModelError as error:
        path = work / f"bad-step-{step + 1}.json"
        if engine.ranks.main:
            write_json(path, {"error": str(error), "units": [job.describe(i) for i in job.plan[step]]})
        raise ModelError(f"{job.label}, step {step + 1}: {error}; its data: {path}") from error


@torch.no_grad()
def _held_out(engine: Engine, job: Job, cursor: Cursor) -> Figures:
    found = _computed(engine, job, cursor, job.held_out)
    return {f"{HELD_OUT}{name}": value for name, value in found.items() if name != "padding" and math.isfinite(value)}


def best_step(history: Sequence[Figures]) -> int | None:
    """Step (from 1) with the lowest held-out loss so far; None without held-out units."""
    evaluated = [row for row in history if f"{HELD_OUT}loss" in row]
    return int(min(evaluated, key=lambda row: row[f"{HELD_OUT}loss"])["step"]) if evaluated else None


def _stopped(history: Sequence[Figures], patience: int) -> bool:
    """Whether `patience` evaluations in a row were no better than one before them."""
    best = best_step(history) if patience else None
    return best is not None and sum(f"{HELD_OUT}loss" in row for row in history[best:]) >= patience


def finished(
    engine: Engine,
    out: Path,
    history: list[Figures],
    examples: int,
    dropped: dict[str, int],
    *,
    kept_step: int | None = None,
    stopped: str | None = None,
) -> TrainingResult:
    """What the training did, written beside its checkpoint.

    Args:
        kept_step: step whose weights were kept, where they are not the last or those of the lowest held-out loss.
        stopped: why it ended before its plan.
    """
    best = best_step(history) if kept_step is None else kept_step
    result = TrainingResult(out, len(history), history, examples, dropped, best, engine.trainable, stopped)
    if engine.ranks.main:
        write_json(out / "training.json", result.as_json())
    return result

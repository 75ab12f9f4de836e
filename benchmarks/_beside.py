"""One case of `benchmarks/training.py`, side by side with TRL: pilots, rounds in turn, ratio and loss curves."""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import _trl
import torch
from _flops import Flops, Pass
from _groups import drawn, trl_rows
from _ours import CLIP, known_logps, our_side
from _sizes import RATE, Case, Size
from torch import Tensor

PILOT = 3
"""Steps of a pilot; the first warms up."""
VISITS = 2
"""How often a group is trained on, about."""
PILOT_EXAMPLES = 8
"""TRL's examples of one step of its pilot: every micro-batch divides them."""


@dataclass(frozen=True)
class Side:
    """What one side did."""

    label: str
    setting: str
    tokens: float
    """Tokens computed per step, padding included."""
    padding: float
    """Share of them that is padding."""
    seconds: list[float]
    """Per step, of each round."""
    losses: list[float]
    """Of each step, the warm-up's included."""

    @property
    def median(self) -> float:
        """Seconds per step."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Beside:
    """Both sides of one comparison, measured in turn in one process."""

    ours: Side
    peer: Side
    ceiling: float
    """Ratio of the floating-point operations of both sides."""
    difference: float
    """Largest difference of the two loss curves, relative to the loss (at least 1)."""
    apart: float
    """Distance of what both sides trained, over the way that ours went from the start."""

    @property
    def ratios(self) -> list[float]:
        """TRL's time over ours, of each round."""
        return [peer / ours for ours, peer in zip(self.ours.seconds, self.peer.seconds, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)


class Bench:
    """A case at a size: models, data, and what both sides are given."""

    def __init__(self, size: Size, case: Case, rounds: int, steps: int) -> None:
        self.size, self.case, self.rounds, self.steps = size, case, rounds, steps
        self.data = drawn(size, case, max(1, steps * (rounds + 1) // VISITS))
        self.model = size.model(case.kind)
        self.known = known_logps(size, self.model, self.data)

    def setting(self, micro_batch: int, defaults: bool = False) -> _trl.Setting:
        """TRL's side."""
        return _trl.Setting(
            self.case.kind,
            micro_batch,
            self.case.examples,
            RATE,
            answers=self.case.answers,
            clip=CLIP,
            half=self.size.half,
            defaults=defaults,
        )

    def budgets(self) -> dict[int, float]:
        """Our seconds per step by token budget, in a pilot."""
        return {budget: self._pilot_ours(budget) for budget in self.size.budgets}

    def micro_batches(self) -> dict[int, float]:
        """TRL's seconds per example by micro-batch, in a pilot."""
        return {micro_batch: self._pilot_trl(micro_batch) for micro_batch in self.size.micro_batches}

    def beside(self, budget: int, setting: _trl.Setting, rounds: int) -> Beside:
        """Both sides in turn, `rounds` times after a warm-up, both from the same start."""
        total = self.steps * (rounds + 1)
        with our_side(self.size, self.model, self.data, self.known, budget) as ours:
            clock = _trl.Clock(self.steps, self.steps, ours.run)
            made = self._trained(setting, total, clock, ours.start)
            apart = distance(ours.parameters, dict(made.model.named_parameters()), ours.start)
        passes = _trl.passes(made)
        share = ours.padding / (ours.tokens + ours.padding)
        side = Side(
            "prefloop",
            f"{budget:,} tokens per pass",
            (ours.tokens + ours.padding) / total,
            share,
            [seconds / self.steps for seconds in ours.seconds[1:]],
            ours.losses,
        )
        losses = _trl.step_losses(made, total)
        peer = self._peer(setting, passes, total, [seconds / self.steps for seconds in clock.seconds], losses)
        difference = curve_difference(side.losses, losses)
        return Beside(side, peer, self._ceiling(setting, passes, total), difference, apart)

    def _peer(
        self, setting: _trl.Setting, passes: Sequence[Pass], steps: int, seconds: list[float], losses: list[float]
    ) -> Side:
        computed = sum(p.rows * p.width for p in passes)
        share = 1 - sum(p.real for p in passes) / computed
        label = f"TRL {_trl.VERSION}, {'its defaults' if setting.defaults else 'tuned'}"
        return Side(label, f"micro-batch {setting.micro_batch}", computed / steps, share, seconds, losses)

    def _ceiling(self, setting: _trl.Setting, passes: Sequence[Pass], steps: int) -> float:
        units = [self.data.units[i] for step in range(steps) for i in self.data.step(step)]
        lengths = [[len(ids) for ids in unit.group.completions] for unit in units]
        pairs = [(*unit.chosen, *unit.rejected) or range(self.case.answers) for unit in units]
        scored = sum(found[i] for found, rows in zip(lengths, pairs, strict=True) for i in rows)
        flops = Flops(self.size, self.case.kind)
        reference = setting.defaults and self.case.kind == "dpo"
        theirs = flops.trl(passes, scored, setting.defaults, reference)
        return theirs / flops.ours(unit.group for unit in units)

    def _trained(self, setting: _trl.Setting, steps: int, clock: _trl.Clock, start: dict[str, Tensor]) -> Any:
        rows = trl_rows(self.data, self.known, steps, reference=not setting.defaults)
        with tempfile.TemporaryDirectory() as folder:
            made = _trl.trainer(deepcopy(self.model), rows, setting, steps, clock, start, Path(folder))
            made.train()
        return made

    def _pilot_ours(self, budget: int) -> float:
        with our_side(self.size, self.model, self.data, self.known, budget) as ours:
            ours.run(1)
            ours.run(PILOT - 1)
        free()
        return ours.seconds[1] / (PILOT - 1)

    def _pilot_trl(self, micro_batch: int) -> float:
        with our_side(self.size, self.model, self.data, self.known, self.size.budgets[0]) as ours:
            start = ours.start
        clock = _trl.Clock(1, PILOT - 1)
        self._trained(replace(self.setting(micro_batch), per_step=PILOT_EXAMPLES), PILOT, clock, start)
        free()
        return clock.seconds[0] / (PILOT - 1) / PILOT_EXAMPLES


def curve_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Largest difference of two loss curves, relative to the loss where that is above 1."""
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, theirs, strict=True))


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """How far two trainings ended from each other, over how far ours went."""
    apart = sum((ours[name] - theirs[name]).detach().square().sum() for name in start)
    way = sum((ours[name] - start[name]).detach().square().sum() for name in start)
    return float((apart / way).sqrt())


def fastest(seconds: dict[int, float]) -> int:
    """The setting that took the least time."""
    return min(seconds, key=lambda setting: seconds[setting])


def free() -> None:
    """Give memory of the last run back before the next."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

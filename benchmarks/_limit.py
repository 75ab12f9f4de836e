"""How far our step is from the model's own speed: plain forward and backward passes on as many tokens, no padding."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from _beside import PILOT, Bench, fastest, free
from _groups import Data
from _ours import half, our_side
from _sizes import SEED, Size
from _trl import now

from prefloop.config.training import TrainingConfig
from prefloop.training.trainable import tuned

GOAL = 1.25
PASSES = (1, 2, 4, 8)
"""Passes that the plain step may be cut into; a pilot takes the fastest."""


@dataclass(frozen=True)
class Limit:
    """Our step beside a plain one."""

    budget: int
    passes: int
    ours: list[float]
    """Seconds per 1,000 unique tokens of each round: loss, backward and update."""
    plain: list[float]
    """The same of the plain step: forward and backward alone."""

    @property
    def ratios(self) -> list[float]:
        """Our time over the plain step's, of each round."""
        return [ours / plain for ours, plain in zip(self.ours, self.plain, strict=True)]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)


class Plain:
    """The model's own forward and backward on the tokens of a step, as equal rows of token ids, one per group.

    The rows are about as long as the groups, so attention has about as much to do; fewer tokens than there are rows
    are left over. The head runs on as many positions as ours scores, the last of every row.
    """

    def __init__(self, size: Size, model: Any, data: Data) -> None:
        self.size, self.model, self.data = size, model, data

    def run(self, step: int, passes: int) -> float:
        """Seconds per 1,000 tokens."""
        rows, scored = self._rows(self.data.step(step))
        started = now()
        for part in rows.chunk(passes):
            with half(self.size):
                logits = self.model(input_ids=part, use_cache=False, logits_to_keep=scored + 1).logits[:, :-1]
                loss = F.cross_entropy(logits.flatten(0, 1).float(), part[:, -scored:].flatten())
            loss.backward()
        seconds = now() - started
        self.model.zero_grad(set_to_none=True)
        return 1_000 * seconds / rows.numel()

    def _rows(self, units: Sequence[int]) -> tuple[torch.Tensor, int]:
        groups = [self.data.units[i].group for i in units]
        ids = [token for group in groups for part in (group.prompt_ids, *group.completions) for token in part]
        scored = sum(len(answer) for group in groups for answer in group.completions)
        width = len(ids) // len(groups)
        rows = torch.tensor(ids[: width * len(groups)], device=self.model.device).view(len(groups), width)
        return rows, scored // len(groups)


def limit(bench: Bench, budget: int) -> Limit:
    """Both in turn on the same groups, the same model and the same adapter."""
    plain_model = deepcopy(bench.model)
    with (
        our_side(bench.size, bench.model, bench.data, bench.known, budget) as ours,
        tuned(plain_model, TrainingConfig(), SEED) as adapted,
    ):
        plain_model.set_attn_implementation("sdpa")  # transformers' own
        plain = Plain(bench.size, adapted, bench.data)
        passes = fastest({count: _pilot(plain, count) for count in PASSES})
        pairs = []
        for step in range(1 + bench.rounds):
            before = ours.tokens
            ours.run(1)
            seconds = 1_000 * ours.seconds[-1] / (ours.tokens - before)
            pairs.append((seconds, plain.run(step, passes)))
    free()
    return Limit(budget, passes, [mine for mine, _ in pairs[1:]], [other for _, other in pairs[1:]])


def _pilot(plain: Plain, passes: int) -> float:
    plain.run(0, passes)
    return sum(plain.run(step, passes) for step in range(1, PILOT))

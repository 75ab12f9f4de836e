"""The data of `benchmarks/training.py`: random groups, the same token ids for both sides, and TRL's rows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from _sizes import SEED, Case, Size
from torch import Tensor

from prefloop.maths.advantages import grpo
from prefloop.models.group import Group
from prefloop.training.pairs import PromptPairs

FIRST_WORD = 2
"""Token ids from here on are words; 0 pads and 1 ends on TRL's side."""

STALE = 0.1
"""Standard deviation of what is added to the old log-probabilities of answers, as if a model a few updates older had
sampled them: ratios leave 1 and some tokens are clipped."""


@dataclass(frozen=True)
class Data:
    """Groups of some optimizer steps, in training order; after the last step the first comes again.

    Random answers teach nothing about each other, so a loss moves only where groups are seen again.
    """

    case: Case
    units: list[PromptPairs]
    advantages: Tensor
    """[prompts, answers] of GRPO, from random rewards."""

    @property
    def steps(self) -> int:
        """Optimizer steps until the first comes again."""
        return len(self.units) // self.case.prompts

    def step(self, number: int) -> range:
        """Units of one optimizer step."""
        first = number % self.steps * self.case.prompts
        return range(first, first + self.case.prompts)


def drawn(size: Size, case: Case, steps: int) -> Data:
    """Seeded groups for `steps` optimizer steps; more steps begin with the same groups."""
    generator = np.random.default_rng([SEED, case.prompt, case.completion, case.answers])
    units, rewards = [], []
    for _ in range(steps * case.prompts):
        prompt, *answers = (_words(generator, size, mean) for mean in (case.prompt, *[case.completion] * case.answers))
        units.append(_unit(case, Group(prompt, tuple(answers))))
        rewards.append(generator.random(case.answers))
    return Data(case, units, grpo(torch.tensor(np.array(rewards), dtype=torch.float32)))


def _words(generator: np.random.Generator, size: Size, mean: int) -> tuple[int, ...]:
    mean = size.scaled(mean)
    length = generator.integers(mean - mean // 2, mean + mean // 2, endpoint=True)
    return tuple(generator.integers(FIRST_WORD, size.shape["vocab_size"], length).tolist())


def _unit(case: Case, group: Group) -> PromptPairs:
    """Answers stand best first; a ranking is all its pairs."""
    pairs = [] if case.kind == "grpo" else list(combinations(range(case.answers), 2))
    chosen, rejected = tuple(i for i, _ in pairs), tuple(j for _, j in pairs)
    ones = (1.0,) * len(pairs)
    return PromptPairs("", group, chosen, rejected, ones, ones, ones, tuple(range(case.answers)))


def stale(logps: Sequence[list[Tensor]]) -> list[list[Tensor]]:
    """The start's log-probabilities of every answer's tokens, made `STALE`."""
    generator = torch.Generator().manual_seed(SEED)
    return [[found + STALE * torch.randn(found.shape, generator=generator) for found in group] for group in logps]


def trl_rows(data: Data, known: Sequence[list[Tensor]], steps: int, reference: bool = True) -> list[dict[str, Any]]:
    """The groups of `steps` optimizer steps as TRL takes them, in order.

    Args:
        known: of every answer's tokens, the log-probabilities under the reference (DPO) or when sampled (GRPO).
        reference: whether DPO rows bring them; otherwise TRL computes its own.
    """
    rows: list[dict[str, Any]] = []
    for number in (i for step in range(steps) for i in data.step(step)):
        unit = data.units[number]
        prompt, answers = list(unit.group.prompt_ids), [list(ids) for ids in unit.group.completions]
        match data.case.kind:
            case "dpo":
                row = {"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]}
                sums = [found.sum().item() for found in known[number]]
                given = {"ref_chosen_logps": sums[0], "ref_rejected_logps": sums[1]}
                rows.append({**row, **given} if reference else row)
            case "reward":
                pairs = zip(unit.chosen, unit.rejected, strict=True)
                rows += [{"chosen_ids": prompt + answers[i], "rejected_ids": prompt + answers[j]} for i, j in pairs]
            case "grpo":
                old = [found.tolist() for found in known[number]]
                given = {"advantages": data.advantages[number].tolist(), "old_logps": old}
                rows.append({"prompt": "", "prompt_ids": prompt, "completions": answers, **given})
    return rows

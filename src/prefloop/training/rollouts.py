"""The answers of one iteration of policy-gradient training: which prompts, what was sampled, and what is known of it.

Rollouts are written to disk before the first update on them, with all that only the policy of that moment could say:
its log-probabilities, its scores, what was looked at. So a run killed in the middle of an iteration goes on with the
very same answers, whatever sampled them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prefloop.config.loop import PolicyGradientConfig
from prefloop.errors import StoreError
from prefloop.records import canonical_json, content_id
from prefloop.store.files import atomic_path
from prefloop.training.update import Figures


@dataclass(frozen=True)
class Plan:
    """Which prompts are asked in which iteration, and which of them each update learns from.

    A unit is one visit of a prompt: number ``iteration · prompts + place``.
    """

    visits: list[list[int]]
    """Prompts, by index, of every iteration."""
    updates: list[list[int]]
    """Units of every optimizer step."""
    per_iteration: int
    """Optimizer steps of an iteration."""

    @classmethod
    def of(cls, count: int, config: PolicyGradientConfig, seed: int) -> Plan:
        """Prompts in a new order whenever all were asked; each once in an iteration.

        Args:
            count: prompts there are, at least ``config.prompts``.
        """
        size, whole = config.prompts, count // config.prompts
        visits: list[list[int]] = []
        updates: list[list[int]] = []
        for iteration in range(config.iterations):
            start = size * (iteration % whole)
            order = np.random.default_rng([seed, iteration // whole, 0]).permutation(count)
            visits.append(order[start : start + size].tolist())
            for epoch in range(config.epochs):
                places = np.random.default_rng([seed, iteration, epoch, 1]).permutation(size) + size * iteration
                updates += [part.tolist() for part in np.array_split(places, config.minibatches)]
        return cls(visits, updates, config.epochs * config.minibatches)


def distinct(answers: Sequence[tuple[int, ...]]) -> tuple[tuple[tuple[int, ...], ...], list[int]]:
    """Each of a prompt's answers once, and which of those every answer is: equal ones need one forward pass.

    >>> distinct([(5, 1), (7, 1), (5, 1)])
    (((5, 1), (7, 1)), [0, 1, 0])
    """
    place: dict[tuple[int, ...], int] = {}
    places = [place.setdefault(ids, len(place)) for ids in answers]
    return tuple(place), places


def iteration_seed(seed: int, iteration: int) -> int:
    """Seed of an iteration's answers: a prompt that comes again gets fresh ones."""
    return int(content_id("rollouts", seed, iteration)[:8], 16)


@dataclass(frozen=True)
class Rollouts:
    """The N = G·K answers of an iteration, the answers of a prompt side by side."""

    answers: list[tuple[int, ...]]
    """Token ids."""
    old: list[Tensor]
    """log π_old of each token of each answer, float32 on the CPU."""
    reference: list[Tensor]
    """log π_ref, likewise."""
    scores_GK: Tensor
    """Float32; NaN = unscored."""
    truncated_GK: Tensor
    """Whether the answer was cut at the limit."""
    figures: Figures
    """What was measured before the first update."""

    @property
    def lengths_GK(self) -> Tensor:
        """Tokens of each answer."""
        return torch.tensor([len(ids) for ids in self.answers]).view_as(self.scores_GK)

    @property
    def kl_GK(self) -> Tensor:
        """Σ_t (log π_old − log π_ref) of each answer: its mean estimates the KL per answer, in nats."""
        sums = [(old - known).sum() for old, known in zip(self.old, self.reference, strict=True)]
        return torch.stack(sums).view_as(self.scores_GK)

    def write(self, path: Path, identity: str) -> None:
        """One file of tensors, whole or not at all."""
        tensors = {
            "lengths": self.lengths_GK,
            "answers": torch.tensor([i for ids in self.answers for i in ids]),
            "old": torch.cat(self.old),
            "reference": torch.cat(self.reference),
            "scores": self.scores_GK,
            "truncated": self.truncated_GK,
        }
        kept = canonical_json({"identity": identity, "figures": self.figures})
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"rollouts": kept})

    @classmethod
    def read(cls, path: Path, identity: str) -> Rollouts | None:
        """What `write` wrote; None where nothing of this run lies there.

        Raises:
            StoreError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as stored:
                kept = json.loads((stored.metadata() or {})["rollouts"])
                if kept["identity"] != identity:
                    return None
                found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, KeyError, ValueError) as error:
            raise StoreError(
                f"{path} is damaged ({error}): delete it and its folder to train from the start"
            ) from error
        sizes = found["lengths"].flatten().tolist()
        answers = [tuple(ids.tolist()) for ids in found["answers"].split(sizes)]
        logps = [list(found[name].split(sizes)) for name in ("old", "reference")]
        return cls(answers, *logps, found["scores"], found["truncated"], kept["figures"])

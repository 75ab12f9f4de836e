"""One token per row by inverse CDF: each row brings its own uniform number, so rows do not influence each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from prefloop.records import content_id


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    k: int = 8
    """Answers per prompt."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Nucleus: the smallest set of most probable tokens that holds this probability."""
    top_k: int = 0
    """Only the k most probable tokens; 0 = all."""
    max_new_tokens: int = 256
    greedy: bool = False
    """One answer, the most probable token at each step, index -1."""

    @property
    def settings(self) -> dict[str, Any]:
        """What decides an answer, as it stands in the records (k does not)."""
        return {name: value for name, value in asdict(self).items() if name != "k"}

    @property
    def indices(self) -> list[int]:
        """Indices of a prompt's answers."""
        return [-1] if self.greedy else list(range(self.k))


def uniforms(seed: int, round_: int, prompt_id: str, index: int, count: int) -> torch.Tensor:
    """The `count` uniform numbers of one answer, a generator of its own for each (prompt, index)."""
    key = int(content_id("uniforms", seed, round_, prompt_id, index), 16) % 2**63
    return torch.rand(count, generator=torch.Generator().manual_seed(key), dtype=torch.float64)


def choose(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token of each row.

    Args:
        logits: [R, V], float32.
        draws: [R], uniform in [0, 1).

    Returns:
        [R] token ids. The token whose stretch of the cumulative distribution holds the row's draw.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits / sampling.temperature, -1)
    if sampling.top_p == 1 and not sampling.top_k:
        return _invert(probabilities, draws)
    ordered, ids = probabilities.sort(-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= sampling.top_p, 0)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = 0
    return ids.gather(-1, _invert(ordered, draws)[:, None]).squeeze(-1)


def _invert(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    cumulative = weights.double().cumsum(-1)
    targets = draws.to(cumulative.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def log_probability(logits: torch.Tensor, tokens: Sequence[int] | torch.Tensor) -> torch.Tensor:
    """log π(token) at temperature 1, [R] from logits [R, V]."""
    chosen = logits.gather(-1, torch.as_tensor(tokens, device=logits.device)[:, None]).squeeze(-1)
    return chosen - logits.logsumexp(-1)

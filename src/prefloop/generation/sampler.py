"""One token per row by inverse CDF: each row brings its own uniform, so rows do not affect each other."""

from __future__ import annotations

import numpy as np
import torch

from prefloop.config.sampling import Sampling
from prefloop.records import content_id


def uniforms(seed: int, round_: int, prompt_id: str, index: int, count: int) -> torch.Tensor:
    """The `count` uniform numbers in [0, 1) of one answer, [count] float64.

    A generator of its own for each (seed, round, prompt, index), and all numbers drawn at once: an answer
    does not depend on which answers are computed beside it, nor on when they end. NumPy's generator because
    its seed takes all 80 bits of the id (torch's on a CPU keeps 32).
    """
    key = int(content_id("uniforms", seed, round_, prompt_id, index), 16)
    return torch.from_numpy(np.random.default_rng(key).random(count))


def choose(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Next token of each row.

    Args:
        logits: [R, V], float32.
        draws: [R], uniform in [0, 1); not read when greedy.

    Returns:
        [R] token ids: the token whose stretch of the row's cumulative distribution holds the row's draw.
    """
    if sampling.greedy:
        return logits.argmax(-1)
    if sampling.top_p == 1 and not sampling.top_k:
        return _invert(torch.softmax(logits / sampling.temperature, -1), draws)
    count = min(sampling.top_k or logits.shape[-1], logits.shape[-1])
    ordered, ids = logits.topk(count)
    weights = torch.softmax(ordered / sampling.temperature, -1)
    before = weights.cumsum(-1) - weights
    weights[:, 1:] = weights[:, 1:].masked_fill(before[:, 1:] >= sampling.top_p, 0)
    return ids.gather(-1, _invert(weights, draws)[:, None])[:, 0]


def _invert(weights: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Index [R] of the first cumulative weight above draw · total; never one of weight 0."""
    wide = torch.float64 if weights.device.type != "mps" else torch.float32  # Apple's GPUs have no float64
    cumulative = weights.cumsum(-1, dtype=wide)
    total = cumulative[:, -1:]
    targets = draws.to(cumulative)[:, None] * total
    below = torch.nextafter(total, torch.zeros_like(total))  # in float32 a draw may have become 1
    found = torch.searchsorted(cumulative, torch.minimum(targets, below), right=True)[:, 0]
    return found.clamp(max=weights.shape[-1] - 1)  # beyond the end only where weights are NaN, which `decode` reports


def log_probability(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log π(token) at temperature 1: [R] from logits [R, V], float32, and tokens [R]."""
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)

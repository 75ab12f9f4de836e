"""Learning rate by optimizer step."""

from __future__ import annotations

import math

DECAY = 0.2
"""Share of the steps after warm-up over which ``wsd`` decays."""


def learning_rate(step: int, steps: int, peak: float, schedule: str, warmup_ratio: float) -> float:
    """Learning rate of update `step` (0-based) of `steps`.

    Rises linearly to `peak` over the first ``ceil(warmup_ratio * steps)`` updates (the first update is not
    wasted on a rate of zero), then falls to zero after the last: as half a cosine (SGDR, 1608.03983, eq. 5),
    or linearly; or stays (``constant``); or stays and falls linearly over the last fifth (``wsd``: warm-up, stable,
    decay; MiniCPM, 2404.06395).

    >>> [round(learning_rate(step, 4, 1.0, "linear", 0.25), 2) for step in range(4)]
    [1.0, 1.0, 0.67, 0.33]
    """
    warmup = math.ceil(warmup_ratio * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if schedule == "cosine":
        return peak * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "wsd":
        return peak * min(1.0, (1 - done) / DECAY)
    return peak * (1 - done) if schedule == "linear" else peak

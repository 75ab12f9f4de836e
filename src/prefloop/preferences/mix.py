"""How many rows each source of a mix gives, and which."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from prefloop.errors import ConfigError

PRECISION = 10**9
"""Weights are taken as fractions with at most this denominator, so that 0.7 of 10 is 7."""


def quotas(weights: Sequence[float], available: Sequence[int], rows: int | None = None) -> list[int]:
    """Rows that each source should give: in proportion to the weights, fractions by largest remainder.

    Args:
        available: rows that each source has.
        rows: of the whole; None: as many as the scarcest source allows.

    >>> quotas([0.7, 0.3], [100, 30])
    [70, 30]
    >>> quotas([1, 1, 1], [9, 9, 9], rows=10)
    [4, 3, 3]
    """
    exact = [Fraction(weight).limit_denominator(PRECISION) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    whole = int(min(count / share for count, share in zip(available, shares, strict=True))) if rows is None else rows
    wanted = [int(whole * share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: (wanted[i] - whole * shares[i], i))
    for i in by_remainder[: whole - sum(wanted)]:
        wanted[i] += 1
    return wanted


def check_weights(weights: Sequence[float], sources: int) -> None:
    """Refuse weights that say nothing.

    Raises:
        ConfigError: not one for each source, or one that is not above 0.
    """
    if len(weights) != sources:
        raise ConfigError(f"--weight: {len(weights)} for {sources} sources: give one for each, in their order")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError("--weight: every weight must be above 0; leave out a source that should give nothing")


def drawn(usable: bytearray, count: int, seed: int, source: int) -> bytearray:
    """Which of a source's rows are taken: `count` of the usable ones, without replacement, by seed.

    Args:
        usable: 1 for each row that may be taken, else 0.
        source: its place among the sources, which draw independently.
    """
    places = np.flatnonzero(np.frombuffer(usable, np.uint8))
    chosen = np.zeros(len(usable), np.uint8)
    chosen[np.random.default_rng([seed, source]).permutation(places)[:count]] = 1
    return bytearray(chosen)

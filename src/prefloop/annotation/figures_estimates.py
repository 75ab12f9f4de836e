"""A figure: an estimate, how sure it is, how many cases it rests on, and why there is none."""

from __future__ import annotations

from math import isfinite, nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.maths.statistics import SHARE, Interval, clustered_mean_interval, wilson

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Figure = dict[str, Any]
"""``{"value", "low", "high", "n", "why"}``: value and 95% interval, cases, and why value or interval are None."""

DRAWS = 1000
"""Resamples of an interval."""
ONE_PROMPT = "one prompt only: nothing tells how prompts differ"
BARE = "an estimate without an interval"


def share(values: NDArray[Any], clusters: NDArray[Any], why: str, bounds: tuple[float, float] = SHARE) -> Figure:
    """A mean of what lies in `bounds`: bootstrapped over clusters, or Wilson's where each case is one of its own.

    Args:
        values, clusters: [n]
        why: said where there is nothing to take a mean of.
    """
    n, names = len(values), len(set(clusters.tolist()))
    if not n:
        return missing(why)
    if names == n and bounds == SHARE and np.isin(values, SHARE).all():
        return figure(wilson(int(values.sum()), n), n)
    if names < 2:
        return bare(float(values.mean()), n, ONE_PROMPT)
    interval = clustered_mean_interval(values.astype(float), clusters.tolist(), draws=DRAWS, bounds=bounds)
    return figure(interval, n)


def share_of_pairs(pairs: list[tuple[str, float]], why: str, bounds: tuple[float, float] = SHARE) -> Figure:
    """`share` of (cluster, value)."""
    return share(np.array([value for _, value in pairs]), np.array([name for name, _ in pairs]), why, bounds)


def figure(interval: Interval, n: int, why: str = "") -> Figure:
    """What is not finite is None."""
    value, low, high = (float(x) if isfinite(x) else None for x in (interval.estimate, interval.low, interval.high))
    return {"value": value, "low": low, "high": high, "n": n, "why": why}


def bare(value: float, n: int, why: str = BARE) -> Figure:
    """No interval."""
    return figure(Interval(value, nan, nan), n, why)


def missing(why: str, n: int = 0) -> Figure:
    """No value."""
    return bare(nan, n, why)

"""Honest comparisons: paired, clustered by what was sampled, with intervals. NumPy and SciPy only.

Shapes: n questions; `clusters` names the template of each. Everything is deterministic in its seed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval."""

    estimate: float
    low: float
    high: float


def mcnemar_exact(before: Values, after: Values) -> tuple[int, int, float]:
    """Exact McNemar test of paired right/wrong outcomes: (fixed, broken, p).

    p is the two-sided binomial test of `fixed` in fixed + broken at ½.

    >>> mcnemar_exact([0, 0, 0, 1], [1, 1, 1, 1])
    (3, 0, 0.25)
    """
    old, new = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    fixed, broken = int((new & ~old).sum()), int((old & ~new).sum())
    p = float(stats.binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return fixed, broken, p


def paired_bootstrap(
    before: Values,
    after: Values,
    clusters: Sequence[Hashable],
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of after − before, with a percentile interval that resamples whole clusters.

    Args:
        before, after: [n], on the same questions.
        clusters: [n], e.g. the template of each question.
    """
    difference = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    return clustered_mean(difference, clusters, draws=draws, seed=seed, level=level)


def clustered_mean(
    values: Values, clusters: Sequence[Hashable], *, draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean with a percentile bootstrap interval over clusters drawn with replacement."""
    sums, sizes = _by_cluster(np.asarray(values, dtype=float), clusters)
    weights = _cluster_weights(len(sums), draws, seed)
    means = (weights @ sums) / (weights @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high))


def ratio_interval(
    numerator: Values,
    denominator: Values,
    clusters: Sequence[Hashable],
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Geometric mean of numerator / denominator (both positive), bootstrapped on the log scale over clusters."""
    logs = np.log(np.asarray(numerator, dtype=float)) - np.log(np.asarray(denominator, dtype=float))
    found = clustered_mean(logs, clusters, draws=draws, seed=seed, level=level)
    return Interval(*(float(np.exp(value)) for value in (found.estimate, found.low, found.high)))


def clustered_standard_error(values: Values, clusters: Sequence[Hashable]) -> float:
    """√(Σ_c (Σ_{i∈c} (d_i − d̄))²) / n (arXiv 2411.00640, eq. 4).

    Two clusters of two equal values: deviations (−½, −½) and (½, ½) sum to −1 and 1, so SE = √2 / 4.

    >>> round(clustered_standard_error([0, 0, 1, 1], "aabb"), 4)
    0.3536
    """
    array = np.asarray(values, dtype=float)
    sums, _ = _by_cluster(array - array.mean(), clusters)
    return float(np.sqrt((sums**2).sum()) / len(array))


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate; safe for rates near 0 and 1.

    >>> wilson(0, 10).low
    0.0
    """
    found = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold a right one: 1 − C(n−c, k)/C(n, k)
    (arXiv 2107.03374, eq. 1).

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 < k <= n:
        raise ValueError(f"k must lie in 1..{n}, not {k}")
    return 1 - comb(n - correct, k) / comb(n, k)


def minimum_detectable_gain(n: int, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest true paired gain that n questions show with this power, at a share `discordant` of changed verdicts.

    Solves n = (z_{1−α/2}·√ψ + z_{1−β}·√(ψ − δ²))² / δ² for δ.
    """
    if n <= 0 or discordant <= 0:
        return 1.0
    low, high = 0.0, float(np.sqrt(discordant))
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sample_size(middle, discordant, alpha, power) <= n else (middle, high)
    return high


def sample_size(gain: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Questions needed to show a paired gain (the formula above; Connor 1987).

    >>> sample_size(0.05, 0.20), sample_size(0.10, 0.30)
    (626, 234)
    """
    a, b = stats.norm.ppf(1 - alpha / 2), stats.norm.ppf(power)
    root = a * np.sqrt(discordant) + b * np.sqrt(max(discordant - gain**2, 0.0))
    return int(np.ceil(root**2 / gain**2))


def seed_summary(values: Values) -> dict[str, float]:
    """Mean, least, greatest and standard deviation over seeds, which are never pooled as questions."""
    array = np.asarray(values, dtype=float)
    spread = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {"mean": float(array.mean()), "min": float(array.min()), "max": float(array.max()), "sd": spread}


def _by_cluster(
    values: NDArray[np.float64], clusters: Sequence[Hashable]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of every cluster, in order of first appearance (so that a seed means the same everywhere)."""
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values for {len(clusters)} cluster names")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return np.bincount(index, weights=values), np.bincount(index).astype(float)


def _cluster_weights(clusters: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each draw picks each cluster, [draws, clusters]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=draws).astype(float)

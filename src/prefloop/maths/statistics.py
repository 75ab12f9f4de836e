"""Honest comparisons: paired, clustered by what was sampled, with intervals. NumPy and SciPy only.

Shapes: [n] questions; `clusters` names what was really drawn, such as the template of each question. Every
bootstrap is a percentile bootstrap over whole clusters (Efron & Tibshirani 1993, ch. 13), deterministic in
its seed and the same whatever the order of the questions. A missing value (NaN) is refused: it is neither
right nor wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, comb, inf, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = Sequence[float] | Sequence[int] | Sequence[bool] | NDArray[np.float64] | NDArray[np.bool_]
Clusters = Sequence[str] | Sequence[int]

CELLS_AT_ONCE = 4_000_000
"""Picked clusters held in memory at a time."""


SHARE = (0.0, 1.0)
"""Bounds of a rate."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval."""

    estimate: float
    low: float
    high: float


def mcnemar_exact(before: Values, after: Values) -> tuple[int, int, float]:
    """Exact McNemar test of paired right/wrong outcomes: (fixed, broken, p). McNemar 1947.

    ``p = min(1, 2 · Σ_{i ≤ min(b, c)} C(b+c, i) / 2^(b+c))``: the two-sided binomial test at ½ of b =
    fixed and c = broken outcomes. It takes questions as independent: read it beside a clustered interval.

    Args:
        before, after: [n], 1 where right.

    Three fixed and none broken: 2 · (1/2)³ = 1/4.

    >>> mcnemar_exact([0, 0, 0, 1], [1, 1, 1, 1])
    (3, 0, 0.25)
    """
    old, new = _floats(before) > 0.5, _floats(after) > 0.5
    fixed, broken = int((new & ~old).sum()), int((old & ~new).sum())
    p = float(stats.binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return fixed, broken, p


def paired_bootstrap(
    before: Values,
    after: Values,
    clusters: Clusters,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Mean of d_i = after_i − before_i on the same questions, resampling whole clusters.

    Args:
        before, after: [n].
        clusters: [n], e.g. the template of each question.
        bounds: of a value, for the case that nothing changed (`clustered_mean_interval`).

    Raises:
        ValueError: lengths differ, a value is missing, or there are fewer than two clusters.

    >>> paired_bootstrap([0, 0, 1, 1], [1, 1, 1, 1], "abcd").estimate
    0.5
    """
    old, new = _floats(before), _floats(after)
    if len(old) != len(new):
        raise ValueError(f"{len(old)} values before, {len(new)} after: pair them by question first")
    span = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    return clustered_mean_interval(new - old, clusters, draws=draws, seed=seed, level=level, bounds=span)


def clustered_mean_interval(
    values: Values,
    clusters: Clusters,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
) -> Interval:
    """Mean over questions, with the quantiles (1 ∓ level)/2 of the mean over resampled clusters.

    A draw takes C of the C clusters with replacement and computes ``Σ_c sum_c / Σ_c size_c`` over them.

    Where all values are equal, resampling has nothing to vary and says that the mean is known exactly. With
    `bounds`, the smallest and largest value there can be, the interval then allows for a share
    ``q = 1 − ((1 − level)/2)^{1/C}`` of clusters of the other kind: the exact bound (Clopper and Pearson 1934)
    for none seen in C.

    Raises:
        ValueError: lengths differ, a value is missing, or there are fewer than two clusters (one cluster says
            nothing about how clusters differ).

    Two equal clusters, 0 and 1: the resampled mean is 0, ½ or 1 with probability ¼, ½, ¼.

    >>> clustered_mean_interval([0, 1], "ab")
    Interval(estimate=0.5, low=0.0, high=1.0)

    Two clusters that are right: up to 1 − 0.025^{1/2} = 84% of all clusters may be wrong.

    >>> round(clustered_mean_interval([1, 1], "ab", bounds=(0, 1)).low, 4)
    0.1581
    """
    found = _floats(values)
    sums, sizes = _by_cluster(found, clusters)
    if len(sums) < 2:
        raise ValueError(f"an interval needs at least two clusters, not {len(sums)}")
    if bounds is not None and (found == found[0]).all():
        mean, q = float(found[0]), 1 - ((1 - level) / 2) ** (1 / len(sums))
        return Interval(mean, mean - q * (mean - bounds[0]), mean + q * (bounds[1] - mean))
    means = _resampled_means(sums, sizes, draws, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sums.sum() / sizes.sum()), float(low), float(high))


def ratio_interval(
    numerator: Values,
    denominator: Values,
    clusters: Clusters,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Paired ratio on the log scale: ``exp(mean_i log(numerator_i / denominator_i))``.

    A geometric mean, so that halving one answer and doubling another cancel; bootstrapped over clusters.

    Raises:
        ValueError: a value is not positive, or as in `clustered_mean_interval`.

    >>> round(ratio_interval([1, 4], [2, 2], "ab").estimate, 12)
    1.0
    """
    top, bottom = _floats(numerator), _floats(denominator)
    if (top <= 0).any() or (bottom <= 0).any():
        raise ValueError("a ratio needs positive values on both sides")
    logs = clustered_mean_interval(np.log(top) - np.log(bottom), clusters, draws=draws, seed=seed, level=level)
    return Interval(*(float(np.exp(value)) for value in (logs.estimate, logs.low, logs.high)))


def clustered_standard_error(values: Values, clusters: Clusters) -> float:
    """``SE = √(Σ_c (Σ_{i∈c} (d_i − d̄))²) / n`` (Miller 2024, arXiv 2411.00640).

    With every value its own cluster this is the plain standard error with divisor n.
    Two clusters of two equal values: deviations (−½, −½) and (½, ½) sum to −1 and 1, so SE = √2 / 4.

    >>> round(clustered_standard_error([0, 0, 1, 1], "aabb"), 4)
    0.3536
    """
    array = _floats(values)
    sums, _ = _by_cluster(array - array.mean(), clusters)
    return float(np.sqrt((sums**2).sum()) / len(array))


def design_effect(values: Values, clusters: Clusters) -> float:
    """Clustered questions that say as much as one independent: ``max(1, SE²_clustered / SE²_plain)`` (Kish).

    Pairs of equal values say half as much:

    >>> round(design_effect([0, 0, 1, 1], "aabb"), 12)
    2.0
    """
    plain = clustered_standard_error(values, range(len(values)))
    return max(1.0, (clustered_standard_error(values, clusters) / plain) ** 2) if plain else 1.0


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a rate p = successes / n, safe near 0 and 1 (Wilson 1927).

    ``(p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)`` with z the quantile (1 + level)/2 of the normal.
    For rare events, counted over independent trials.

    >>> found = wilson(0, 10)
    >>> found.low, round(found.high, 4)  # z² / (n + z²)
    (0.0, 0.2775)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} is no rate")
    z, p = float(stats.norm.ppf((1 + level) / 2)), successes / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Interval(p, max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale))


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Chance that k of n samples, drawn without replacement, hold a right one (arXiv 2107.03374, eq. 1).

    ``1 − C(n − c, k) / C(n, k)``

    >>> pass_at_k(4, 1, 2)  # of the 6 pairs 3 hold the right one
    0.5
    """
    if not 0 < k <= n:
        raise ValueError(f"k must lie in 1..{n}, not {k}")
    if not 0 <= correct <= n:
        raise ValueError(f"{correct} of {n} samples cannot be right")
    return 1 - comb(n - correct, k) / comb(n, k)


def sample_size(gain: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Independent questions needed to show a paired gain δ where a share ψ of the verdicts changes.

    ``n = (z_{1−α/2}·√ψ + z_{power}·√(ψ − δ²))² / δ²``, two-sided, rounded up (Connor 1987).

    Raises:
        ValueError: δ is not in (0, ψ]: more cannot be gained than changes.

    >>> sample_size(0.05, 0.20), sample_size(0.10, 0.30)
    (626, 234)
    """
    if not 0 < gain <= discordant <= 1:
        raise ValueError(f"a gain of {gain} does not fit a discordant share of {discordant}")
    a, b = _power_quantiles(alpha, power)
    return ceil((a * sqrt(discordant) + b * sqrt(discordant - gain**2)) ** 2 / gain**2)


def minimum_detectable_gain(n: float, discordant: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest paired gain that n independent questions show: `sample_size` solved for δ.

    With a = z_{1−α/2} and b = z_{power} the formula is quadratic in δ; its root is
    ``δ = √ψ · (a·√n + b·√(n − a² + b²)) / (n + b²)``.

    Args:
        n: questions; a fraction where n is an effective number (`design_effect`).

    Returns:
        δ, or infinity where even δ = ψ (every change an improvement) would not be shown.

    >>> round(minimum_detectable_gain(626, 0.20), 4)
    0.05
    """
    a, b = _power_quantiles(alpha, power)
    if n <= max(0.0, a * a - b * b) or discordant <= 0:
        return inf
    gain = sqrt(discordant) * (a * sqrt(n) + b * sqrt(n - a * a + b * b)) / (n + b * b)
    return gain if gain <= discordant else inf


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for having tested m hypotheses, in the order given (Holm 1979).

    ``p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j))`` over the sorted p-values.

    >>> holm([0.01, 0.04, 0.03])  # 3 · 0.01, then 2 · 0.03, then max(0.06, 0.04)
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, factors * np.asarray(p_values, dtype=float)[order]))
    return [float(p) for p in adjusted]


def seed_summary(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean, least, greatest and sample standard deviation over seeds, which are never pooled as questions.

    ``ci_low`` and ``ci_high`` are Student's 95% interval of the mean: what another set of seeds would give, on the same
    questions. None (not measured for that seed) is left out; what cannot be computed is None.

    >>> seed_summary([1.0, 3.0])["mean"], seed_summary([1.0, 3.0])["sd"]
    (2.0, 1.4142135623730951)
    """
    array = _floats([value for value in values if value is not None])
    count = len(array)
    if not count:
        return dict.fromkeys(("mean", "min", "max", "sd", "ci_low", "ci_high"))
    mean = float(array.mean())
    found: dict[str, float | None] = {"mean": mean, "min": float(array.min()), "max": float(array.max())}
    if count < 2:
        return {**found, "sd": None, "ci_low": None, "ci_high": None}
    spread = float(array.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * spread / sqrt(count)
    return {**found, "sd": spread, "ci_low": mean - half, "ci_high": mean + half}


def _floats(values: Values) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected one value per question, got shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError("a value is missing (NaN): leave the question out and count it")
    return array


def _by_cluster(values: NDArray[np.float64], clusters: Clusters) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and size of every cluster, in order of name, so that the order of questions changes nothing."""
    if len(values) != len(clusters) or not len(values):
        raise ValueError(f"{len(values)} values for {len(clusters)} cluster names")
    _, index = np.unique(list(clusters), return_inverse=True)
    return np.bincount(index, weights=values).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled_means(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], draws: int, seed: int
) -> NDArray[np.float64]:
    """Mean of each of `draws` resamples, a block of draws at a time."""
    rng, block = np.random.default_rng(seed), max(1, CELLS_AT_ONCE // len(sums))
    means = []
    for start in range(0, draws, block):
        picked = rng.integers(len(sums), size=(min(block, draws - start), len(sums)))
        means.append(sums[picked].sum(axis=1) / sizes[picked].sum(axis=1))
    return np.concatenate(means)


def _power_quantiles(alpha: float, power: float) -> tuple[float, float]:
    if not (0 < alpha < 1 and 0.5 <= power < 1):
        raise ValueError(f"alpha must lie in (0, 1) and power in [0.5, 1), not {alpha} and {power}")
    return float(stats.norm.ppf(1 - alpha / 2)), float(stats.norm.ppf(power))

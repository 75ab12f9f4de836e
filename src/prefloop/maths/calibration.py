"""Calibration: are answers that a judge prefers with probability p preferred by people in a share p of cases?

Shapes: [N] pairs. `probability_N` is the judge's probability that the first answer is better; `label_N` the people's
answer in 0..1: 1 or 0, or the share of raters for the first with ties ½.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from prefloop.maths.resampling import cluster_index, pivotal_interval, resampled_counts
from prefloop.maths.statistics import Clusters, Interval, Values

Array = NDArray[np.float64]

CERTAIN = 1e-6
"""Probabilities are kept this far from 0 and 1 when a log-likelihood is taken."""
BINS = 10
TEMPERATURES = (0.01, 10_000.0)
"""Temperatures that are tried; a judge that knows nothing ends at the upper bound, where p is about ½."""


def squared_errors(probability_N: Values, label_N: Values) -> Array:
    """``(p − y)²``, [N]; the mean is the Brier score (Brier 1950), lower is better, ¼ for p = ½ on hard labels.

    >>> squared_errors([1.0, 0.5], [0, 1]).tolist()
    [1.0, 0.25]
    """
    probability, label = _checked(probability_N, label_N)
    return (probability - label) ** 2


def brier_score(probability_N: Values, label_N: Values) -> float:
    """Mean of `squared_errors`."""
    return float(squared_errors(probability_N, label_N).mean())


def calibration_error(probability_N: Values, label_N: Values, bins: int = BINS) -> float:
    """Expected calibration error over bins of equal mass: ``Σ_b (n_b / N) · |mean p − mean y|`` in bin b.

    Pairs are sorted by p and cut into `bins` parts of N / bins; a pair on a cut counts in both parts by its share,
    and pairs of equal p share their labels evenly, so that the order given changes nothing. The usual ECE (Guo et al.
    2017, 1706.04599, eq. 3) has bins of equal width, most of them nearly empty for a sure judge (Nguyen & O'Connor
    2015, 1508.05154, §3). A small sample reads too high: it is a mean of absolute values.

    >>> round(calibration_error([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], bins=2), 12)  # ½·|0.2 − 0.5| + ½·|0.8 − 1|
    0.25
    """
    probability, label = _checked(probability_N, label_N)
    return _binned_error(probability, label, np.ones(len(label)), bins)


def calibration_error_interval(
    probability_N: Values,
    label_N: Values,
    clusters: Clusters,
    *,
    bins: int = BINS,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """`calibration_error` with its pivotal bootstrap interval over clusters (`resampling.pivotal_interval`)."""
    probability, label = _checked(probability_N, label_N)
    index_N, count = cluster_index(clusters, len(label))
    weights = (picked[:, index_N] for picked in resampled_counts(count, draws, seed, len(label)))
    return pivotal_interval(lambda weight: _binned_error(probability, label, weight, bins), weights, len(label), level)


def logits(probability_N: Values) -> Array:
    """``ln p / (1 − p)`` with p kept within 1e-6 of the open interval.

    >>> logits([0.5]).tolist()
    [0.0]
    """
    probability = np.clip(np.asarray(probability_N, dtype=np.float64), CERTAIN, 1 - CERTAIN)
    found: Array = np.log(probability) - np.log1p(-probability)
    return found


def tempered(logit_N: Array, temperature: float) -> Array:
    """``σ(logit / T)``, [N].

    >>> tempered(np.array([0.0]), 3.0).tolist()
    [0.5]
    """
    found: Array = np.exp(-np.logaddexp(0, -logit_N / temperature))
    return found


def fit_temperature(logit_N: Array, label_N: Values) -> float:
    """T > 0 that makes ``−Σ y ln σ(z/T) + (1 − y) ln σ(−z/T)`` least (Guo et al. 2017, 1706.04599, §4.2).

    The loss is convex in 1/T. Above 1 the judge was too sure, below 1 too careful; the verdicts stay the same.

    Raises:
        ValueError: lengths differ, there is no pair, or a label is outside 0..1.

    Logit 1 each time and right three times of four: σ(1/T) = ¾, so T = 1 / ln 3.

    >>> round(float(fit_temperature(np.ones(4), [1, 1, 1, 0]) * np.log(3)), 6)
    1.0
    """
    _, label = _checked(np.full(len(logit_N), 0.5), label_N)

    def loss(log_temperature: float) -> float:
        scaled = logit_N * np.exp(-log_temperature)
        return float((np.logaddexp(0, scaled) - label * scaled).mean())

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def cross_fitted(logit_N: Array, label_N: Values, clusters: Clusters, *, folds: int = 5, seed: int = 0) -> Array:
    """Tempered probabilities, [N], each with the temperature of the other folds, so that none has seen its own label.

    Whole clusters fall into one fold, in a seeded order of their names.

    Raises:
        ValueError: fewer than two clusters, or as in `fit_temperature`.
    """
    index_N, count = cluster_index(clusters, len(logit_N))
    label = np.asarray(label_N, dtype=np.float64)
    fold_C = np.empty(count, dtype=np.int64)
    fold_C[np.random.default_rng(seed).permutation(count)] = np.arange(count) % min(folds, count)
    fold_N, found = fold_C[index_N], np.empty(len(label))
    for fold in range(min(folds, count)):
        held = fold_N == fold
        found[held] = tempered(logit_N[held], fit_temperature(logit_N[~held], label[~held]))
    return found


def _binned_error(probability: Array, label: Array, weight: Array, bins: int) -> float:
    """`calibration_error` of weighted pairs: differences of the running sums at the cuts."""
    values, index = np.unique(probability, return_inverse=True)
    mass, sums = np.bincount(index, weights=weight), np.bincount(index, weights=weight * label)
    reached = np.concatenate([[0.0], np.cumsum(mass)])
    gaps = np.concatenate([[0.0], np.cumsum(mass * values - sums)])
    at_cuts = np.interp(np.linspace(0, reached[-1], bins + 1), reached, gaps)
    return float(np.abs(np.diff(at_cuts)).sum() / reached[-1])


def _checked(probability_N: Values, label_N: Values) -> tuple[Array, Array]:
    probability, label = np.asarray(probability_N, dtype=np.float64), np.asarray(label_N, dtype=np.float64)
    if probability.ndim != 1 or probability.shape != label.shape or not len(label):
        raise ValueError(f"probabilities of shape {probability.shape} for labels of shape {label.shape}")
    for values in (probability, label):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError("probabilities and labels lie in 0..1: leave out a pair without one and count it")
    return probability, label

"""The percentile bootstrap over clusters, for statistics that are functions of sums or of weighted rows.

`prefloop.maths.statistics` has the intervals of plain means. Here are the draws for everything else: a draw takes C
of the C clusters with replacement (Efron & Tibshirani 1993, ch. 13), so that rows of one cluster stay together.
Deterministic in the seed, and the same whatever the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from prefloop.maths.statistics import CELLS_AT_ONCE, Clusters, Interval

Array = NDArray[np.float64]


def cluster_index(clusters: Clusters, n: int) -> tuple[NDArray[np.int64], int]:
    """The cluster 0..C−1 of every row, numbered by name, and C.

    Raises:
        ValueError: there are not n names, or fewer than two clusters (one says nothing about how they differ).
    """
    if len(clusters) != n or not n:
        raise ValueError(f"{n} values for {len(clusters)} cluster names")
    names, index_N = np.unique(list(clusters), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"an interval needs at least two clusters, not {len(names)}")
    return index_N.astype(np.int64), len(names)


def kept_clusters(clusters: Clusters, known_N: NDArray[np.bool_]) -> list[int]:
    """Clusters of the rows that are known, as numbers in the order of their names.

    >>> kept_clusters("bab", np.array([True, True, False]))
    [1, 0]
    """
    if len(clusters) != len(known_N):
        raise ValueError(f"{len(known_N)} values for {len(clusters)} cluster names")
    _, index_N = np.unique(list(clusters), return_inverse=True)
    return [int(number) for number in index_N[known_N]]


def resampled_counts(clusters: int, draws: int, seed: int, columns: int) -> Iterator[Array]:
    """How often each cluster is in each draw, [B, C] for blocks of B draws; every row sums to C.

    Args:
        columns: numbers that the caller holds for each draw, which bounds B.
    """
    rng, block = np.random.default_rng(seed), max(1, CELLS_AT_ONCE // max(columns, clusters))
    shares = np.full(clusters, 1 / clusters)
    for start in range(0, draws, block):
        yield rng.multinomial(clusters, shares, size=min(block, draws - start)).astype(np.float64)


def resampled_sums(rows_NK: Array, clusters: Clusters, *, draws: int, seed: int) -> Array:
    """Column sums of every resample, [draws, K].

    >>> resampled_sums(np.array([[1.0], [1.0]]), "ab", draws=2, seed=0).tolist()
    [[2.0], [2.0]]
    """
    index_N, count = cluster_index(clusters, len(rows_NK))
    sums_CK = np.zeros((count, rows_NK.shape[1]))
    np.add.at(sums_CK, index_N, rows_NK)
    return np.concatenate([picked @ sums_CK for picked in resampled_counts(count, draws, seed, count)])


def percentile_interval(estimate: float, drawn_D: Array, level: float = 0.95) -> Interval:
    """The estimate with the quantiles (1 ∓ level)/2 of the draws in which the statistic is defined (not NaN).

    Raises:
        ValueError: it is defined in none.
    """
    known = drawn_D[~np.isnan(drawn_D)]
    if not len(known):
        raise ValueError("the statistic is defined in no resample")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high))


def pivotal_interval(statistic: Callable[[Array], float], weights: Iterator[Array], n: int, level: float) -> Interval:
    """``2·t − q`` for the quantiles q of the resampled t: for a statistic that resampling biases (a mean of |error|).

    A resample repeats rows and so looks less regular than the data, by about as much as the data look less regular
    than what they were drawn from; reflecting the quantiles takes that bias out (Davison & Hinkley 1997, eq. 5.6).
    Cut at 0.

    Args:
        statistic: of the weights [n] of the rows.
        weights: [B, n] blocks, how often each row is in each draw.
    """
    estimate = statistic(np.ones(n))
    drawn = np.array([statistic(row) for block in weights for row in block])
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, max(0.0, 2 * estimate - float(high)), max(0.0, 2 * estimate - float(low)))


def none_seen(clusters: int, level: float = 0.95) -> float:
    """Largest share of clusters of another kind when none of C showed it: ``1 − ((1 − level)/2)^{1/C}``.

    The exact bound of Clopper and Pearson (1934), for statistics that do not vary over the resamples.

    >>> round(none_seen(2), 4)
    0.8419
    """
    return float(1 - ((1 - level) / 2) ** (1 / clusters))

"""How far raters agree: accuracy, Cohen's kappa, Krippendorff's alpha, with intervals over clusters of items.

Labels are numbers that name a category: for a verdict on two answers 1 (the first is better), 0 (the second) and ½ (a
tie). NaN is no label. Nothing here orders categories: a tie is as far from a win as a loss is (nominal data).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prefloop.maths.resampling import kept_clusters, none_seen, percentile_interval, resampled_sums
from prefloop.maths.statistics import Clusters, Interval, Values

Array = NDArray[np.float64]
Ratings = Sequence[Sequence[float]] | Array
"""[raters, items]; NaN where a rater gave no label."""

TIE = 0.5


def decided_hits(judged_N: Values, people_N: Values) -> Array:
    """Is the judge right where people decided? [N]: 1 the same, 0 the opposite, ½ where the judge ties.

    NaN where people tie or one of the two has no label: such items are left out of an accuracy. A coin and a judge
    that always ties both reach ½.

    >>> decided_hits([1, 0, 0.5, 1], [1, 1, 0, 0.5]).tolist()
    [1.0, 0.0, 0.5, nan]
    """
    judged, people = _pair(judged_N, people_N)
    hits = np.where(judged == TIE, 0.5, judged == people)
    hits[np.isnan(judged) | np.isnan(people) | (people == TIE)] = np.nan
    return hits


def same_label(first_N: Values, second_N: Values) -> Array:
    """Do two raters say the same, a tie being a label like others? [N]: 1, 0, or NaN where one has no label.

    >>> same_label([1, 0.5, 0.5], [1, 0.5, 0]).tolist()
    [1.0, 1.0, 0.0]
    """
    first, second = _pair(first_N, second_N)
    return np.where(np.isnan(first) | np.isnan(second), np.nan, (first == second).astype(float))


def cohen_kappa(first_N: Values, second_N: Values) -> float | None:
    """``(P_o − P_e) / (1 − P_e)``: agreement of two raters beyond that of their habits (Cohen 1960).

    P_o is the share of items with the same label, ``P_e = Σ_c p_c q_c`` of the shares of label c of either. Items
    without both labels are left out.

    Returns:
        None where it is undefined: no common item, or both always give the same one label.

    P_o = ¾ and P_e = ½·¾ + ½·¼ = ½:

    >>> cohen_kappa([1, 1, 0, 0], [1, 1, 1, 0])
    0.5
    """
    rows, _ = _confusions(first_N, second_N)
    return _defined(_kappas(rows.sum(axis=0, keepdims=True))[0])


def kappa_interval(
    first_N: Values, second_N: Values, clusters: Clusters, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval | None:
    """`cohen_kappa` with its percentile interval; None where it is undefined or there is one cluster only.

    Resamples in which it is undefined are left out. Where the two never differ, resampling cannot tell how rarely
    they would: the interval then allows for the share q of differing clusters of `resampling.none_seen`, which makes
    ``1 − q / (1 − P_e)``.
    """
    rows, known = _confusions(first_N, second_N)
    size = int(np.sqrt(rows.shape[1]))
    sums = rows.sum(axis=0).reshape(size, size)
    expected = float((sums.sum(1) * sums.sum(0)).sum() / max(sums.sum(), 1) ** 2)
    return _interval(_kappas, rows, kept_clusters(clusters, known), 1 - expected, draws, seed, level)


def mean_kappa_interval(
    ratings: Ratings, clusters: Clusters, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval | None:
    """Mean of `cohen_kappa` over the pairs of raters for which it is defined (Light 1971), with its interval.

    One resample of the clusters serves all pairs. None without a pair.
    """
    table = _table(ratings)
    names = np.unique(table[~np.isnan(table)])
    rows = [_confusions(a, b, names)[0] for a, b in combinations(table, 2)]
    if not rows:
        return None
    width, pairs = len(names) ** 2, len(rows)

    def mean(sums_DK: Array) -> Array:
        each = np.stack([_kappas(sums_DK[:, i * width : (i + 1) * width]) for i in range(pairs)])
        counted = (~np.isnan(each)).sum(axis=0)
        total = np.nansum(each, axis=0)
        return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)

    columns = _spread_out(rows, _pair_masks(table), len(clusters))
    used: NDArray[np.bool_] = np.asarray(columns.sum(axis=1) > 0)
    expected = _expected_disagreement(_tallies(table)[0])
    return _interval(mean, columns[used], kept_clusters(clusters, used), expected, draws, seed, level)


def krippendorff_alpha(ratings: Ratings) -> float | None:
    """``1 − D_o / D_e`` for nominal labels of any number of raters, each on some of the items (Krippendorff 2011).

    .. math::
        α = 1 − (n − 1) Σ_u [(m_u² − Σ_c n_uc²) / (m_u − 1)] / (n² − Σ_c n_c²)

    over items u with m_u ≥ 2 labels, of which n_uc are c; n = Σ m_u and n_c = Σ_u n_uc. 1 is full agreement, 0 that of
    labels dealt out at random, below 0 less than that.

    Returns:
        None where it is undefined: no item with two labels, or one label only in all of them.

    Two raters, items (1, 1) and (1, 0): D_o part 2, n = 4, n_c = 3 and 1, so α = 1 − 3·2 / (16 − 10).

    >>> krippendorff_alpha([[1, 1], [1, 0]])
    0.0
    """
    rows, _ = _tallies(_table(ratings))
    return _defined(_alphas(rows.sum(axis=0, keepdims=True))[0])


def alpha_interval(
    ratings: Ratings, clusters: Clusters, *, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval | None:
    """`krippendorff_alpha` with its percentile interval; None where it is undefined or there is one cluster only.

    Full agreement is treated as in `kappa_interval`.
    """
    rows, known = _tallies(_table(ratings))
    return _interval(
        _alphas, rows[known], kept_clusters(clusters, known), _expected_disagreement(rows), draws, seed, level
    )


def plurality(ratings: Ratings) -> Array:
    """The label most raters give each item, [items]; ½ where two labels have most votes, NaN without any.

    >>> plurality([[1, 1, 1], [1, 0, 0.5], [0, 0.5, 0]]).tolist()
    [1.0, 0.5, 0.5]
    """
    table = _table(ratings)
    labels = np.unique(table[~np.isnan(table)])
    if not len(labels):
        return np.full(table.shape[1], np.nan)
    votes = (table[None] == labels[:, None, None]).sum(axis=1)
    top = votes.max(axis=0)
    found = np.where((votes == top).sum(axis=0) == 1, labels[votes.argmax(axis=0)], TIE)
    return np.where(top == 0, np.nan, found)


def _interval(
    statistic: Callable[[Array], Array],
    rows: Array,
    clusters: Sequence[int],
    expected: float,
    draws: int,
    seed: int,
    level: float,
) -> Interval | None:
    """Interval of a statistic of column sums; `expected` is the disagreement that it takes for chance."""
    if not len(rows) or len(set(clusters)) < 2:
        return None
    estimate = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    if np.isnan(estimate):
        return None
    if estimate == 1:
        return Interval(1.0, max(-1.0, 1 - none_seen(len(set(clusters)), level) / expected), 1.0)
    return percentile_interval(estimate, statistic(resampled_sums(rows, clusters, draws=draws, seed=seed)), level)


def _confusions(first_N: Values, second_N: Values, names: Array | None = None) -> tuple[Array, NDArray[np.bool_]]:
    """One row of a flattened confusion matrix for each item with both labels, and which items those are."""
    first, second = _pair(first_N, second_N)
    known = ~(np.isnan(first) | np.isnan(second))
    first, second = first[known], second[known]
    names = np.unique(np.concatenate([first, second])) if names is None else names
    rows = np.zeros((len(first), len(names) ** 2))
    cells = np.searchsorted(names, first) * len(names) + np.searchsorted(names, second)
    rows[np.arange(len(first)), cells] = 1
    return rows, known


def _kappas(sums_DK: Array) -> Array:
    """Kappa of each flattened confusion matrix, NaN where undefined."""
    size = int(np.sqrt(sums_DK.shape[1]))
    matrix = sums_DK.reshape(len(sums_DK), size, size)
    total = matrix.sum(axis=(1, 2))
    observed = np.trace(matrix, axis1=1, axis2=2) * total
    expected = (matrix.sum(axis=2) * matrix.sum(axis=1)).sum(axis=1)
    return _ratio(observed - expected, total**2 - expected)


def _tallies(table: Array) -> tuple[Array, NDArray[np.bool_]]:
    """For each item: its observed disagreement, then how many labels of each category it has; 0 if not two labels."""
    names = np.unique(table[~np.isnan(table)])
    counts = (table[:, :, None] == names).sum(axis=0).astype(np.float64)
    labels = counts.sum(axis=1)
    known = labels >= 2
    counts[~known] = 0
    labels = np.where(known, labels, 0)
    disagreement = (labels**2 - (counts**2).sum(axis=1)) / np.maximum(labels - 1, 1)
    return np.column_stack([disagreement, counts]), known


def _alphas(sums_DK: Array) -> Array:
    observed, counts = sums_DK[:, 0], sums_DK[:, 1:]
    n = counts.sum(axis=1)
    return 1 - _ratio((n - 1) * observed, n**2 - (counts**2).sum(axis=1))


def _expected_disagreement(rows: Array) -> float:
    """Chance that two labels of all those tallied differ, D_e."""
    counts = rows[:, 1:].sum(axis=0)
    n = counts.sum()
    return float((n**2 - (counts**2).sum()) / max(n * (n - 1), 1))


def _pair_masks(table: Array) -> list[NDArray[np.bool_]]:
    known = ~np.isnan(table)
    return [a & b for a, b in combinations(known, 2)]


def _spread_out(rows: Sequence[Array], masks: Sequence[NDArray[np.bool_]], n: int) -> Array:
    """Rows of every pair of raters side by side, one line per item; 0 where a pair did not share it."""
    found = []
    for part, mask in zip(rows, masks, strict=True):
        whole = np.zeros((n, part.shape[1]))
        whole[mask] = part
        found.append(whole)
    return np.concatenate(found, axis=1)


def _ratio(top: Array, bottom: Array) -> Array:
    found: Array = np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
    return found


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pair(first_N: Values, second_N: Values) -> tuple[Array, Array]:
    first, second = np.asarray(first_N, dtype=np.float64), np.asarray(second_N, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"labels of shape {first.shape} against {second.shape}: align them by item first")
    return first, second


def _table(ratings: Ratings) -> Array:
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"ratings have shape [raters, items], not {table.shape}")
    return table

"""Comparisons of two items, checked and counted, and what they can tell: which items they connect and how firmly.

A comparison is (first, second, outcome): the numbers 0..K−1 of the item shown first and of the one shown second, and 1
(the first is better), 0 (the second) or ½ (a tie). Suffixes: ``_N`` comparisons as they came, ``_U`` distinct ones,
``_K`` items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array, csgraph, csr_array, vstack
from scipy.sparse.linalg import lsqr

from prefloop.maths.statistics import Values

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Items = Sequence[int] | Integers

SLACK = 1e-6
"""Of a linear programme: what counts as more than rounding."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Distinct comparisons and how much each weighs in all."""

    first_U: Integers
    second_U: Integers
    outcome_U: Array
    weight_U: Array
    n_items: int

    @property
    def tied_U(self) -> Array:
        """1 where the outcome is a tie."""
        tied: Array = (self.outcome_U == 0.5).astype(np.float64)
        return tied

    def reweighted(self, weight_U: Array) -> Tally:
        """The same comparisons with other weights, without those that weigh nothing."""
        kept = weight_U > 0
        parts = (self.first_U[kept], self.second_U[kept], self.outcome_U[kept], weight_U[kept])
        return replace(self, first_U=parts[0], second_U=parts[1], outcome_U=parts[2], weight_U=parts[3])


def tally(
    first_N: Items,
    second_N: Items,
    outcome_N: Values,
    n_items: int,
    weight_N: Values | None = None,
    *,
    ordered: bool = True,
) -> tuple[Tally, Integers]:
    """The distinct comparisons, and which of them each comparison is, [N].

    Args:
        weight_N: not negative; 1 each where not given.
        ordered: tell (a, b) from (b, a); else the lower number stands first and the outcome is turned with it.

    Raises:
        ValueError: as in `checked_comparisons`, or a weight is missing, infinite or negative.

    >>> found, row_N = tally([0, 1, 0], [1, 0, 1], [1, 0, 0.5], 2, ordered=False)
    >>> found.outcome_U.tolist(), found.weight_U.tolist(), row_N.tolist()
    ([0.5, 1.0], [1.0, 2.0], [1, 1, 0])
    """
    first, second, outcome = checked_comparisons(first_N, second_N, outcome_N, n_items)
    weight = np.ones(len(first)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
    if weight.shape != first.shape or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(f"expected one weight of 0 or more for each of {len(first)} comparisons")
    if not ordered:
        turned = first > second
        first, second = np.where(turned, second, first), np.where(turned, first, second)
        outcome = np.where(turned, 1 - outcome, outcome)
    key = (first * n_items + second) * 3 + np.rint(2 * outcome).astype(np.int64)
    distinct, row_N = np.unique(key, return_inverse=True)
    pair = distinct // 3
    sums = np.bincount(row_N, weights=weight).astype(np.float64)
    return Tally(pair // n_items, pair % n_items, distinct % 3 / 2, sums, n_items), row_N.astype(np.int64)


def checked_comparisons(
    first_N: Items, second_N: Items, outcome_N: Values, n_items: int
) -> tuple[Integers, Integers, Array]:
    """The three columns as arrays.

    Raises:
        ValueError: lengths differ, there are none, an item has no number in 0..K−1 or is compared with itself, or an
            outcome is none of 1, ½ and 0.
    """
    first, second = checked_indices(first_N, n_items, "item"), checked_indices(second_N, n_items, "item")
    outcome = np.asarray(outcome_N, dtype=np.float64)
    if not first.shape == second.shape == outcome.shape:
        raise ValueError(
            f"{first.shape} first items, {second.shape} second items, {outcome.shape} outcomes: align them"
        )
    if not len(first):
        raise ValueError("there are no comparisons yet: collect some first")
    if (first == second).any():
        raise ValueError(
            f"comparison {int((first == second).argmax())} is of item {first[first == second][0]} with itself"
        )
    bad = ~np.isin(outcome, (0.0, 0.5, 1.0))
    if bad.any():
        raise ValueError(f"outcome {outcome[bad][0]} of comparison {int(bad.argmax())} is none of 1, ½ (tie) and 0")
    return first, second, outcome


def checked_indices(numbers: Items, count: int, noun: str) -> Integers:
    """Numbers of items or raters as an array.

    Raises:
        ValueError: they are no list of whole numbers in 0..count−1.
    """
    found = np.asarray(numbers)
    if found.ndim != 1 or (len(found) and not np.issubdtype(found.dtype, np.integer)):
        raise ValueError(f"expected a list of {noun} numbers, got shape {found.shape} of {found.dtype}")
    outside = (found < 0) | (found >= count)
    if outside.any():
        raise ValueError(f"{noun} {found[outside][0]} is not in 0..{count - 1}: number the {noun}s first")
    return found.astype(np.int64)


def connected_components(first_N: Items, second_N: Items, n_items: int) -> Integers:
    """Which component of the comparison graph each item is in, [K], numbered from 0.

    Items of different components were never compared, not even by way of others.

    >>> connected_components([0, 3], [2, 1], 5).tolist()
    [0, 1, 0, 1, 2]
    """
    found = csgraph.connected_components(_graph(first_N, second_N, n_items), directed=False)[1]
    _, start, number = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(start))[number].astype(np.int64)


def unbeaten(winner_N: Items, loser_N: Items, n_items: int) -> Integers | None:
    """Items that no item outside their group ever beat, or None where every item is beaten by way of any other.

    Maximum likelihood puts such a group infinitely far above the others (Ford 1957).

    >>> unbeaten([0, 1, 1], [1, 0, 2], 3).tolist()
    [0, 1]
    >>> unbeaten([0, 1, 1, 2], [1, 0, 2, 1], 3) is None
    True
    """
    count, group_K = csgraph.connected_components(_graph(winner_N, loser_N, n_items), connection="strong")
    if count == 1:
        return None
    across = group_K[winner_N] != group_K[loser_N]
    beaten = np.isin(np.arange(count), group_K[np.asarray(loser_N)[across]])
    found: Integers = np.flatnonzero(group_K == int(beaten.argmin()))
    return found


def diverges(found: Tally, order_effect: bool) -> bool:
    """Does some direction of (s, ln ν, ln γ) never lower Davidson's likelihood and sometimes raise it?

    Then there is no finite maximum. Along a direction (δ, n, g) the outcome seen has to stay the likeliest: with
    ``d = δ_first − δ_second + g``, d ≥ 0 and d ≥ 2n where the first won, the reverse where it lost, |d| ≤ 2n at a
    tie. A linear programme looks for a direction with some slack (after Konis 2007 for logistic regression).

    The first wins or ties, and never loses: ever more strength and ever more ties fit ever better.

    >>> diverges(tally([0, 0], [1, 1], [1, 0.5], 2)[0], order_effect=False)
    True
    """
    rows, k = len(found.first_U), found.n_items
    at = np.arange(rows)
    ones, tied = np.ones(rows), found.tied_U
    entries = np.concatenate([ones, -ones, ones * order_effect])
    places = (np.tile(at, 3), np.concatenate([found.first_U, found.second_U, np.full(rows, k + 1)]))
    gap = csr_array(coo_array((entries, places), shape=(rows, k + 2)))
    log_nu = csr_array(coo_array((ones, (at, np.full(rows, k))), shape=(rows, k + 2)))
    side = csr_array(coo_array((np.sign(found.outcome_U - 0.5), (at, at)), shape=(rows, rows)))
    is_tied = csr_array(coo_array((tied, (at, at)), shape=(rows, rows)))
    slacks = [side @ gap]
    if tied.any():
        slacks += [side @ gap - 2 * (abs(side) @ log_nu), is_tied @ (2 * log_nu - gap), is_tied @ (2 * log_nu + gap)]
    stacked = vstack(slacks).tocsr()
    best = linprog(-stacked.sum(axis=0), A_ub=-stacked, b_ub=np.zeros(stacked.shape[0]), bounds=(-1, 1), method="highs")
    return bool(-best.fun > SLACK)


def levelled(first_N: Items, second_N: Items, n_items: int) -> bool:
    """Can items be put on levels so that the first of every comparison stands one above the second?

    Then an order effect looks the same as strengths one step apart: it cannot be estimated.

    >>> levelled([0, 1], [1, 2], 3), levelled([0, 1, 0], [1, 2, 2], 3), levelled([0, 1], [1, 0], 2)
    (True, False, False)
    """
    distinct = np.unique(np.stack([first_N, second_N]), axis=1)
    ones, at = np.ones(distinct.shape[1]), np.arange(distinct.shape[1])
    places = (np.tile(at, 2), distinct.ravel())
    incidence = csr_array(coo_array((np.concatenate([ones, -ones]), places), shape=(len(at), n_items)))
    residual = lsqr(incidence, ones, atol=1e-10, btol=1e-10)[3]
    # around a cycle of L comparisons that is off by one or more, the residual is 1/√L or more
    return bool(residual < 0.5 / np.sqrt(len(at)))


def _graph(from_N: Items, to_N: Items, n_items: int) -> csr_array:
    ones = np.ones(len(from_N), dtype=np.int8)
    return csr_array(coo_array((ones, (from_N, to_N)), shape=(n_items, n_items)))

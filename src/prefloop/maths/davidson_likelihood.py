"""The likelihood of Davidson's model of comparisons with ties and an order effect: value, slopes, information.

`prefloop.maths.comparisons` states the model and fits it. Shapes are those of `prefloop.maths.tally`: [N] comparisons,
[U] distinct ones, [K] items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, log, nan

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from prefloop.maths.statistics import Values
from prefloop.maths.tally import Tally

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Point:
    """Parameters: strengths [K], ln ν (−inf for none) and ln γ."""

    strengths: Array
    log_nu: float
    log_gamma: float


def outcome_probabilities(gap_N: Values, nu: float, gamma: float = 1.0) -> Array:
    """P(first is better), P(tie) and P(second is better) for strengths that differ by ``gap_N``, [N, 3].

    >>> outcome_probabilities([0.0], nu=2).tolist()  # ν / (2 + ν) tie
    [[0.25, 0.5, 0.25]]
    """
    gap_N3 = np.multiply.outer(np.asarray(gap_N, dtype=np.float64) + log(gamma), [0.5, 0.0, -0.5])
    gap_N3[:, 1] = log(nu) if nu else -inf
    shifted = np.exp(gap_N3 - gap_N3.max(axis=1, keepdims=True))
    found: Array = shifted / shifted.sum(axis=1, keepdims=True)
    return found


def loss(found: Tally, point: Point) -> float:
    """Negative log-likelihood."""
    gap_U, norm_U = _norms(found, point)
    log_nu = point.log_nu if np.isfinite(point.log_nu) else 0.0
    return float(found.weight_U @ (norm_U - (found.outcome_U - 0.5) * gap_U - found.tied_U * log_nu))


def penalty(prior: float, point: Point, order_effect: bool) -> float:
    """Negative log-likelihood of the virtual games."""
    virtual = np.append(point.strengths, [point.log_gamma] * order_effect)
    return prior * float((np.logaddexp(0, virtual) + np.logaddexp(0, -virtual)).sum())


def slopes(found: Tally, prior: float, point: Point) -> tuple[Array, float, float]:
    """Of loss and penalty, along the strengths [K], ln ν and ln γ."""
    gap_U, norm_U = _norms(found, point)
    mean_U, tie_U = _moments(gap_U, norm_U, point.log_nu)
    gap_slope_U = found.weight_U * (mean_U - (found.outcome_U - 0.5))
    slope_K = _incidence_sums(found, gap_slope_U) + prior * np.tanh(point.strengths / 2)
    slope_gamma = float(gap_slope_U.sum()) + prior * float(np.tanh(point.log_gamma / 2))
    return slope_K, float(found.weight_U @ (tie_U - found.tied_U)), slope_gamma


def _norms(found: Tally, point: Point) -> tuple[Array, Array]:
    """d and ln D of each comparison."""
    gap_U = point.strengths[found.first_U] - point.strengths[found.second_U] + point.log_gamma
    return gap_U, np.logaddexp(np.logaddexp(gap_U / 2, -gap_U / 2), point.log_nu)


def _moments(gap_U: Array, norm_U: Array, log_nu: float) -> tuple[Array, Array]:
    """Expected outcome − ½, and P(tie)."""
    return (np.exp(gap_U / 2 - norm_U) - np.exp(-gap_U / 2 - norm_U)) / 2, np.exp(log_nu - norm_U)


def _incidence_sums(found: Tally, values_U: Array) -> Array:
    """Sum over the comparisons of each item, + where it is first and − where it is second, [K]."""
    k = found.n_items
    shown = np.bincount(found.first_U, values_U, k), np.bincount(found.second_U, values_U, k)
    return np.asarray(shown[0] - shown[1], dtype=np.float64)


def standard_errors(
    found: Tally, order_effect: bool, prior: float, point: Point, components: Integers
) -> tuple[Array, float, float]:
    """Standard errors of strengths [K], ln ν and ln γ: of the information H = [[A, B], [Bᵀ, C]].

    A is of the strengths, one block for each component, C of ln ν and ln γ. The inverse is taken block by block, with
    the Schur complement ``C − Σ Bᵀ A⁻¹ B``.
    """
    gap_U, norm_U = _norms(found, point)
    mean_U, tie_U = _moments(gap_U, norm_U, point.log_nu)
    curve_U = found.weight_U * ((1 - tie_U) / 4 - mean_U**2)
    mixed_U, spread_U = -found.weight_U * mean_U * tie_U, found.weight_U * tie_U * (1 - tie_U)
    corner = np.array([[spread_U.sum(), mixed_U.sum()], [mixed_U.sum(), curve_U.sum()]])
    corner[1, 1] += prior * 2 * expit(point.log_gamma) * expit(-point.log_gamma)
    active = [i for i, used in enumerate((np.isfinite(point.log_nu), order_effect)) if used]
    border_K2 = np.stack([_incidence_sums(found, mixed_U), _incidence_sums(found, curve_U)], axis=1)[:, active]
    variance, response_K2, schur = np.full(found.n_items, nan), np.zeros_like(border_K2), corner[np.ix_(active, active)]
    for items, block in _blocks(found, curve_U, point.strengths, prior, components):
        inverse = np.linalg.inv(block)
        centring = np.eye(len(items)) - 1 / len(items)
        variance[items] = np.diag(centring @ inverse @ centring)
        response_K2[items] = centring @ inverse @ border_K2[items]
        schur = schur - border_K2[items].T @ inverse @ border_K2[items]
    rest = np.linalg.inv(schur)
    variance += ((response_K2 @ rest) * response_K2).sum(axis=1)
    others = np.full(2, nan)
    others[active] = np.sqrt(np.diag(rest))
    return np.sqrt(np.maximum(variance, 0)), float(others[0]), float(others[1])


def _blocks(
    found: Tally, curve_U: Array, strengths: Array, prior: float, components: Integers
) -> Iterator[tuple[Integers, Array]]:
    """Items and information of the strengths of each component of two items or more.

    Without a prior a common shift of all strengths has no information; a constant block gives it some, and centring
    takes it out again.
    """
    sizes = np.bincount(components)
    members = np.split(np.argsort(components, kind="stable"), np.cumsum(sizes)[:-1])
    of_U = components[found.first_U]
    rows = np.split(np.argsort(of_U, kind="stable"), np.cumsum(np.bincount(of_U, minlength=len(sizes)))[:-1])
    place_K = np.empty(len(components), dtype=np.int64)
    for items, row in zip(members, rows, strict=True):
        if len(items) < 2:
            continue
        place_K[items] = np.arange(len(items))
        first, second = place_K[found.first_U[row]], place_K[found.second_U[row]]
        block = np.zeros((len(items), len(items)))
        for one, other, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
            np.add.at(block, (one, other), sign * curve_U[row])
        own = prior * 2 * expit(strengths[items]) * expit(-strengths[items])
        yield items, block + (np.diag(own) if prior else np.full_like(block, 1 / len(items)))

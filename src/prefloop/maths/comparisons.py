"""Strengths of items from comparisons of two: Bradley-Terry with ties (Davidson 1970) and with an order effect.

With ``d = s_first − s_second + ln γ`` and ``D = e^{d/2} + e^{−d/2} + ν``

.. math::
    P(first is better) = e^{d/2} / D,   P(tie) = ν / D,   P(second is better) = e^{−d/2} / D

which is Davidson's form with ``π = e^s`` and the π of the item shown first multiplied by γ (the multiplicative order
effect of Davidson and Beaver 1977). ν = 0 is Bradley and Terry (1952), γ = 1 no order effect, and swapping all sides
turns γ into 1/γ and leaves the rest. A tie term without γ is the same family with ``ν √γ`` for ν. The negative
log-likelihood is convex in (s, ln ν, ln γ).

Shapes are those of `prefloop.maths.tally`: [N] comparisons, [U] distinct ones, [K] items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, inf, log

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from prefloop.maths.davidson_likelihood import Point, loss, penalty, slopes, standard_errors
from prefloop.maths.resampling import cluster_index, percentile_interval, resampled_counts
from prefloop.maths.statistics import Clusters, Interval, Values
from prefloop.maths.tally import Items, Tally, connected_components, diverges, levelled, tally, unbeaten

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

STEPS, HISTORY = 5000, 20
FLAT = 1e-5
"""Largest slope at a maximum, in comparisons per item."""


@dataclass(frozen=True, eq=False)
class Davidson:
    """A fitted model. Errors are standard errors of the observed information: they take comparisons as independent."""

    strengths: Array
    """[K] s: natural log of how often the item is better for once that it is worse; sum 0 within each component."""
    nu: float
    """Ties: two equal items tie with probability ν / (2 + ν). 0 where no tie was seen."""
    gamma: float
    """Odds of being better that an item gains by being shown first; 1 where not estimated."""
    log_likelihood: float
    """Of the comparisons, without the prior."""
    errors: Array
    """[K] of the strengths; NaN for an item never compared."""
    log_nu_error: float
    """Of ln ν; NaN where no tie was seen."""
    log_gamma_error: float
    """Of ln γ; NaN where not estimated."""
    components: Integers
    """[K] component of the comparison graph: strengths of different components must not be compared."""

    @property
    def connected(self) -> bool:
        """Are all items compared, if only by way of others? One ranking of all needs it."""
        return bool((self.components == 0).all())


@dataclass(frozen=True, eq=False)
class DavidsonIntervals:
    """`davidson` with percentile intervals over resampled clusters."""

    strengths: tuple[Interval, ...]
    """[K], each centred within its component."""
    nu: Interval
    gamma: Interval
    undefined: int
    """Resamples without a finite fit, left out of every interval."""


def davidson(
    first_N: Items,
    second_N: Items,
    outcome_N: Values,
    n_items: int,
    *,
    weight_N: Values | None = None,
    order_effect: bool = False,
    prior: float = 0.5,
) -> Davidson:
    """Maximum of the likelihood, or with a prior of the posterior, by L-BFGS.

    Args:
        first_N, second_N: [N] items 0..K−1 as they were shown.
        outcome_N: [N] 1 the first is better, 0 the second, ½ a tie.
        weight_N: [N] how often each comparison counts; once where not given.
        order_effect: estimate γ, which needs pairs shown in both orders.
        prior: virtual wins, and as many losses, of each item against one virtual item per component, whose strength is
            free (and so the average: it wins half of these games). It keeps items with only wins finite. The same
            counts hold γ to 1. 0 is plain maximum likelihood.

    Raises:
        ValueError: the input is malformed (`tally.checked_comparisons`), every comparison is a tie, or without a prior
            the comparisons leave items unconnected or have no finite maximum.
        RuntimeError: L-BFGS did not converge.

    Three wins to one make odds of 3, and γ or ν do not enter:

    >>> fit = davidson([0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0], 2, prior=0)
    >>> (fit.strengths * 2 / np.log(3)).round(6).tolist(), fit.nu
    ([1.0, -1.0], 0.0)

    One win each and one tie: all three are equally likely where ν = 1.

    >>> round(davidson([0, 0, 0], [1, 1, 1], [1, 0.5, 0], 2).nu, 6)
    1.0
    """
    if not (np.isfinite(prior) and prior >= 0):
        raise ValueError(f"a prior counts virtual wins: 0 or more, not {prior}")
    found, _ = tally(first_N, second_N, outcome_N, n_items, weight_N, ordered=order_effect)
    found = found.reweighted(found.weight_U)
    reason = _why_undefined(found, order_effect, prior)
    if reason:
        raise ValueError(reason)
    components = connected_components(found.first_U, found.second_U, n_items)
    point = _maximum(found, order_effect, prior, _start(found))
    errors, log_nu_error, log_gamma_error = standard_errors(found, order_effect, prior, point, components)
    return Davidson(
        strengths=centred(point.strengths, components),
        nu=exp(point.log_nu),
        gamma=exp(point.log_gamma),
        log_likelihood=-loss(found, point),
        errors=errors,
        log_nu_error=log_nu_error,
        log_gamma_error=log_gamma_error,
        components=components,
    )


def davidson_intervals(
    first_N: Items,
    second_N: Items,
    outcome_N: Values,
    clusters_N: Clusters,
    n_items: int,
    *,
    weight_N: Values | None = None,
    order_effect: bool = False,
    prior: float = 0.5,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> DavidsonIntervals:
    """`davidson` with intervals for comparisons that hang together, such as those of one prompt or one ranking.

    A draw weighs every comparison by how often its cluster was drawn, and starts at the fit of all of them.

    Args:
        clusters_N: [N] names; comparisons of one cluster are drawn together.

    Raises:
        ValueError, RuntimeError: as in `davidson`; there are fewer than two clusters; or no draw has a finite fit.

    >>> found = davidson_intervals([0, 0, 0], [1, 1, 1], [1, 0, 1], "abc", 2, draws=50)
    >>> found.strengths[0].low < 0 < found.strengths[0].high
    True
    """
    whole = davidson(first_N, second_N, outcome_N, n_items, weight_N=weight_N, order_effect=order_effect, prior=prior)
    found, row_N = tally(first_N, second_N, outcome_N, n_items, weight_N, ordered=order_effect)
    start = Point(whole.strengths, log(whole.nu) if whole.nu else -inf, log(whole.gamma))
    weights = _resampled_weights(found, row_N, weight_N, clusters_N, draws, seed)
    points = [_refit(found, row, order_effect, prior, start) for block in weights for row in block]
    defined = [point for point in points if point is not None]
    if not defined:
        raise ValueError("no resample has a finite fit: set a prior, or collect more comparisons")
    strengths_DK = np.array([centred(point.strengths, whole.components) for point in defined])
    return DavidsonIntervals(
        tuple(percentile_interval(float(s), strengths_DK[:, k], level) for k, s in enumerate(whole.strengths)),
        percentile_interval(whole.nu, np.array([exp(point.log_nu) for point in defined]), level),
        percentile_interval(whole.gamma, np.array([exp(point.log_gamma) for point in defined]), level),
        len(points) - len(defined),
    )


def centred(strengths: Array, components: Integers) -> Array:
    """Strengths with sum 0 within each component, [K]."""
    means = np.bincount(components, strengths) / np.bincount(components)
    centred: Array = strengths - means[components]
    return centred


def _why_undefined(found: Tally, order_effect: bool, prior: float) -> str | None:
    """Why there is no finite fit; None where there is one."""
    if not len(found.weight_U):
        return "there are no comparisons with a weight above 0: collect some first"
    tied = found.tied_U.astype(bool)
    if tied.all():
        return f"all {found.weight_U.sum():g} comparisons are ties, which rank nothing: collect some that are decided"
    if prior > 0:
        return None
    count = int(connected_components(found.first_U, found.second_U, found.n_items).max()) + 1
    if count > 1:
        return f"the comparisons leave {count} groups of items unconnected: compare across them, or set a prior"
    won, lost = found.outcome_U >= 0.5, found.outcome_U <= 0.5
    winners = np.concatenate([found.first_U[won], found.second_U[lost]])
    losers = np.concatenate([found.second_U[won], found.first_U[lost]])
    group = unbeaten(winners, losers, found.n_items)
    if group is not None:
        return f"nothing beats or ties items {group[:5].tolist()}, so no finite strength fits: set a prior"
    if order_effect and levelled(found.first_U, found.second_U, found.n_items):
        return "the order effect cannot be told from the strengths: show some pairs in both orders, or set a prior"
    if (tied.any() or order_effect) and diverges(found, order_effect):
        return (
            "there is no finite fit, as the comparisons contradict each other too little: set a prior, or collect more"
        )
    return None


def _start(found: Tally) -> Point:
    """Equal strengths, and the ν that gives the share of ties seen."""
    share = float(found.weight_U @ found.tied_U / found.weight_U.sum())
    return Point(np.zeros(found.n_items), log(2 * share / (1 - share)) if share else -inf, 0.0)


def _maximum(found: Tally, order_effect: bool, prior: float, start: Point) -> Point:
    k, ties = found.n_items, bool(found.tied_U.any())
    scale = k / float(found.weight_U.sum())

    def unpacked(x: Array) -> Point:
        return Point(x[:k], float(x[k]) if ties else -inf, float(x[-1]) if order_effect else 0.0)

    def objective(x: Array) -> tuple[float, Array]:
        point = unpacked(x)
        slope_K, slope_nu, slope_gamma = slopes(found, prior, point)
        along = np.concatenate([slope_K, [slope_nu] * ties, [slope_gamma] * order_effect])
        return scale * (loss(found, point) + penalty(prior, point, order_effect)), scale * along

    x = np.concatenate([start.strengths, [start.log_nu] * ties, [start.log_gamma] * order_effect])
    options = {"maxiter": STEPS, "maxcor": HISTORY, "ftol": 1e-16, "gtol": 1e-10}
    best = optimize.minimize(objective, x, jac=True, method="L-BFGS-B", options=options)
    if not np.abs(best.jac).max() <= FLAT:
        raise RuntimeError(f"no fit after {best.nit} steps of L-BFGS ({best.message}): set a larger prior than {prior}")
    return unpacked(best.x)


def _resampled_weights(
    found: Tally, row_N: Integers, weight_N: Values | None, clusters_N: Clusters, draws: int, seed: int
) -> Iterator[Array]:
    """Weights of the distinct comparisons in each draw, [B, U] for blocks of B draws."""
    index_N, count = cluster_index(clusters_N, len(row_N))
    weight = np.ones(len(row_N)) if weight_N is None else np.asarray(weight_N, dtype=np.float64)
    shape = (count, len(found.weight_U))
    sums_CU = sparse.csr_array(sparse.coo_array((weight, (index_N, row_N)), shape=shape))
    for picked in resampled_counts(count, draws, seed, shape[1]):
        yield picked @ sums_CU


def _refit(found: Tally, weight_U: Array, order_effect: bool, prior: float, start: Point) -> Point | None:
    """The maximum of a resample; None where it has none, which only comparisons that are missing from it can cause."""
    drawn = found.reweighted(weight_U)
    if len(drawn.weight_U) < len(found.weight_U) and _why_undefined(drawn, order_effect, prior):
        return None
    return _maximum(drawn, order_effect, prior, start)

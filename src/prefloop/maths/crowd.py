"""Raters of differing skill: Crowd-BT, the one-coin model of Dawid and Skene, and the habits of raters.

Crowd-BT (Chen et al. 2013, doi 10.1145/2433396.2433420): with ``p = σ(s_i − s_j)`` and η the skill of the rater

.. math::
    P(the rater says i is better) = η p + (1 − η) (1 − p)

η = 1 reads the strengths without fault, ½ guesses, below ½ turns them round. Where every pair is of two items of its
own there is nothing to learn strengths from: the one-coin model takes p as 0 or 1, and which of them as hidden.
Suffixes: ``_N`` comparisons or labels, ``_K`` items, ``_R`` raters, ``_U`` units that several raters label; outcomes
are those of `prefloop.maths.tally`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit, logit

from prefloop.maths.agreement import same_label
from prefloop.maths.comparisons import centred
from prefloop.maths.statistics import Interval, Values, wilson
from prefloop.maths.tally import Items, checked_comparisons, checked_indices, connected_components

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

STEPS, HISTORY = 5000, 20
FLAT = 1e-4
"""Largest slope at a maximum, in comparisons per parameter."""
EM_STEPS, EM_STEP = 5000, 1e-8
"""Most steps of EM, and the largest change of an η in the last."""


@dataclass(frozen=True, eq=False)
class CrowdBradleyTerry:
    """Strengths of items and skills of raters."""

    strengths: Array
    """[K] s, with sum 0 within each component."""
    eta: Array
    """[R] η: chance to name the better of two items that differ without doubt; the prior's mode without comparisons."""
    log_likelihood: float
    """Of the comparisons, without the priors."""
    components: Integers
    """[K] component of the comparison graph: strengths of different components must not be compared."""


def crowd_bt(
    first_N: Items,
    second_N: Items,
    outcome_N: Values,
    rater_N: Items,
    n_items: int,
    n_raters: int,
    *,
    prior: float = 0.5,
    eta_prior: tuple[float, float] = (4.0, 2.0),
) -> CrowdBradleyTerry:
    """Maximum of the posterior in (s, η) by L-BFGS; a tie is half a win for either side.

    The likelihood is the same with all strengths turned round and every η replaced by 1 − η. It is read so that most
    raters are right: the search starts at equal strengths with every η at the prior's mode, above ½, and the prior
    keeps it there. The search has no random part. The posterior is not convex: this is the maximum next to the start.

    Args:
        first_N, second_N, outcome_N: as in `comparisons.davidson`.
        rater_N: [N] raters 0..R−1.
        prior: virtual wins, and as many losses, of each item against one virtual item, as in `comparisons.davidson`.
            Above 0: strengths and skills trade off, and the prior decides between them where the data do not.
        eta_prior: (a, b) of ``η ~ Beta(a, b)``, with a > b > 1: a − 1 virtual right and b − 1 virtual wrong answers.

    Raises:
        ValueError: the input is malformed (`tally.checked_comparisons`), or a prior is.
        RuntimeError: L-BFGS did not converge.

    Two raters of three agree on everything:

    >>> found = crowd_bt([0] * 9, [1] * 9, [1, 1, 0] * 3, [0, 1, 2] * 3, 2, 3)
    >>> bool(found.strengths[0] > 0), bool(found.eta[0] == found.eta[1] > found.eta[2])
    (True, True)
    """
    first, second, outcome = checked_comparisons(first_N, second_N, outcome_N, n_items)
    rater = checked_indices(rater_N, n_raters, "rater")
    if rater.shape != first.shape:
        raise ValueError(f"{len(rater)} raters for {len(first)} comparisons: name the rater of each")
    if not (np.isfinite(prior) and prior > 0):
        raise ValueError(f"priors need prior > 0, not {prior}")
    rows = _Rows(first, second, outcome, rater, n_items, n_raters)
    x = _maximum(rows, prior, *_virtual_answers(eta_prior))
    components = connected_components(first, second, n_items)
    return CrowdBradleyTerry(centred(x[:n_items], components), expit(x[n_items:]), -_loss(rows, x)[0], components)


@dataclass(frozen=True, eq=False)
class OneCoinDawidSkene:
    """Skills of raters and labels of units."""

    eta: Array
    """[R] η: chance to give a unit its true label; the prior's mode without labels."""
    truth: Array
    """[U] chance that the true label is 1; ½ without labels."""


def one_coin_dawid_skene(
    unit_N: Items,
    label_N: Values,
    rater_N: Items,
    n_units: int,
    n_raters: int,
    *,
    known_U: Values | None = None,
    eta_prior: tuple[float, float] = (4.0, 2.0),
) -> OneCoinDawidSkene:
    """Maximum of the posterior in η, the true labels summed over: Dawid and Skene 1979 (doi 10.2307/2346806) by EM.

    Their model for two labels that are as likely before, with a symmetric confusion matrix, so that one coin says
    whether a rater is right (Karger, Oh and Shah 2011, Iterative learning for reliable crowdsourcing systems):

    .. math::
        P(labels of u) = ½ Σ_{y ∈ {0, 1}} Π_{n of u} η_r^{[label = y]} (1 − η_r)^{[label ≠ y]}

    EM takes ``truth = σ(Σ_n ± log(η_r / (1 − η_r)))`` and ``η = (a − 1 + right) / (a + b − 2 + labels)`` in turn, where
    right counts each label by the chance that it is the true one. The likelihood is the same with all truths turned
    round and every η replaced by 1 − η. It is read as the known labels say, and where there are none so that most
    raters are right: the search starts at the η of known labels and prior. This is the maximum next to the start.

    Args:
        unit_N, rater_N: [N] units 0..U−1 and raters 0..R−1; a rater's second label of a unit counts as another.
        label_N: [N] 1 or 0.
        known_U: [U] the true label where it is known, NaN elsewhere; default: known nowhere.
        eta_prior: as in `crowd_bt`.

    Raises:
        ValueError: the input is malformed, or the prior is.
        RuntimeError: EM did not converge.

    All labels known, three of four right: η = (3 + 3) / (4 + 4).

    >>> one_coin_dawid_skene([0, 1, 2, 3], [1, 0, 1, 1], [0] * 4, 4, 1, known_U=[1, 0, 1, 0]).eta.tolist()
    [0.75]

    A single label proves nothing: where truth = η, η = (3 + η) / (4 + 1) = ¾, the prior's mode.

    >>> found = one_coin_dawid_skene([0], [1], [0], 1, 1)
    >>> round(float(found.eta[0]), 6), round(float(found.truth[0]), 6)
    (0.75, 0.75)
    """
    unit, rater = checked_indices(unit_N, n_units, "unit"), checked_indices(rater_N, n_raters, "rater")
    label, known = _labels(label_N, known_U, unit, rater, n_units)
    virtual = _virtual_answers(eta_prior)
    told = ~np.isnan(known[unit])
    eta_R = _skills((label == known[unit])[told], rater[told], n_raters, virtual)
    for _ in range(EM_STEPS):
        odds_U = np.bincount(unit, (2 * label - 1) * logit(eta_R)[rater], n_units)
        truth_U = np.where(np.isnan(known), expit(odds_U), known)
        right_N = np.where(label == 1, truth_U[unit], 1 - truth_U[unit])
        before, eta_R = eta_R, _skills(right_N, rater, n_raters, virtual)
        if np.abs(eta_R - before).max(initial=0) < EM_STEP:
            return OneCoinDawidSkene(eta_R, truth_U)
    raise RuntimeError(f"no fit after {EM_STEPS} steps of EM: set a larger prior")


def first_choice_rate(outcome_N: Values, level: float = 0.95) -> Interval | None:
    """Share of decided comparisons won by the item shown first, with its Wilson interval; None without one.

    ½ shows no favourite side, as long as sides are drawn at random.

    >>> first_choice_rate([1, 1, 0, 0.5, 1]).estimate
    0.75
    """
    outcome = np.asarray(outcome_N, dtype=np.float64)
    return _rate(int((outcome == 1).sum()), int((outcome == 0).sum()), level)


def longer_choice_rate(
    outcome_N: Values, first_length_N: Values, second_length_N: Values, level: float = 0.95
) -> Interval | None:
    """Share won by the longer item, of decided comparisons of unequal length, with its Wilson interval.

    Raises:
        ValueError: there are not as many lengths as outcomes.

    >>> longer_choice_rate([1, 0, 1, 0.5], [9, 9, 5, 9], [5, 5, 5, 5]).estimate
    0.5
    """
    outcome = np.asarray(outcome_N, dtype=np.float64)
    excess = np.asarray(first_length_N, dtype=np.float64) - np.asarray(second_length_N, dtype=np.float64)
    if excess.shape != outcome.shape:
        raise ValueError(f"{len(excess)} pairs of lengths for {len(outcome)} outcomes: align them")
    lean = np.sign(outcome - 0.5) * np.sign(excess)
    return _rate(int((lean > 0).sum()), int((lean < 0).sum()), level)


def self_agreement(outcome_N: Values, swapped_N: Values, level: float = 0.95) -> Interval | None:
    """Share of repeated comparisons that a rater answers as before with the sides swapped, with its Wilson interval.

    Args:
        outcome_N, swapped_N: [N] outcomes of one pair, and of the same pair shown the other way round. A rater who
            always takes the first item agrees with itself nowhere; a tie agrees with a tie alone.

    >>> self_agreement([1, 1, 0.5, 0], [0, 1, 0.5, 1]).estimate
    0.75
    """
    same = same_label(outcome_N, 1 - np.asarray(swapped_N, dtype=np.float64))
    return _rate(int((same == 1).sum()), int((same == 0).sum()), level)


def _virtual_answers(eta_prior: tuple[float, float]) -> tuple[float, float]:
    """Right and wrong answers that the prior stands for."""
    a, b = eta_prior
    if not (np.isfinite([a, b]).all() and a > b > 1):
        raise ValueError(f"priors need a > b > 1, not Beta({a}, {b})")
    return a - 1, b - 1


def _skills(right_N: NDArray[Any], rater_N: Integers, n_raters: int, virtual: tuple[float, float]) -> Array:
    hits_R, count_R = np.bincount(rater_N, right_N, n_raters), np.bincount(rater_N, minlength=n_raters)
    skills: Array = (virtual[0] + hits_R) / (sum(virtual) + count_R)
    return skills


def _labels(
    label_N: Values, known_U: Values | None, unit: Integers, rater: Integers, n_units: int
) -> tuple[Array, Array]:
    label = np.asarray(label_N, dtype=np.float64)
    known = np.full(n_units, np.nan) if known_U is None else np.asarray(known_U, dtype=np.float64)
    if not unit.shape == label.shape == rater.shape:
        raise ValueError(f"{unit.shape} units, {label.shape} labels, {rater.shape} raters: align them")
    if known.shape != (n_units,):
        raise ValueError(f"known labels have shape {known.shape}: give one for each of {n_units} units, NaN for none")
    for name, given in (("label", label), ("known label", known[~np.isnan(known)])):
        if not np.isin(given, (0.0, 1.0)).all():
            raise ValueError(f"{name} {given[~np.isin(given, (0.0, 1.0))][0]} is neither 1 nor 0")
    return label, known


@dataclass(frozen=True, eq=False)
class _Rows:
    first_N: Integers
    second_N: Integers
    outcome_N: Array
    rater_N: Integers
    n_items: int
    n_raters: int


def _maximum(rows: _Rows, prior: float, right: float, wrong: float) -> Array:
    """Strengths [K], then the log odds of every η, [R]."""
    k = rows.n_items
    scale = (k + rows.n_raters) / len(rows.first_N)

    def objective(x: Array) -> tuple[float, Array]:
        value, slopes = _loss(rows, x)
        s, z = x[:k], x[k:]
        value += prior * float((np.logaddexp(0, s) + np.logaddexp(0, -s)).sum())
        value += float((right * np.logaddexp(0, -z) + wrong * np.logaddexp(0, z)).sum())
        slopes[:k] += prior * np.tanh(s / 2)
        slopes[k:] += wrong - (right + wrong) * expit(-z)
        return scale * value, scale * slopes

    start = np.concatenate([np.zeros(k), np.full(rows.n_raters, logit(right / (right + wrong)))])
    options = {"maxiter": STEPS, "maxcor": HISTORY, "ftol": 1e-16, "gtol": 1e-10}
    best = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    if not np.abs(best.jac).max() <= FLAT:
        raise RuntimeError(f"no fit after {best.nit} steps of L-BFGS ({best.message}): set larger priors")
    found: Array = best.x
    return found


def _loss(rows: _Rows, x: Array) -> tuple[float, Array]:
    """Negative log-likelihood, and its slopes along strengths and log odds of η."""
    k = rows.n_items
    skill_N = np.tanh(x[k:] / 2)[rows.rater_N]  # 2η − 1
    sure_N = np.tanh((x[rows.first_N] - x[rows.second_N]) / 2)  # 2p − 1
    said_N = np.clip((1 + skill_N * sure_N) / 2, 1e-300, 1 - 1e-16)
    value = -float((rows.outcome_N * np.log(said_N) + (1 - rows.outcome_N) * np.log1p(-said_N)).sum())
    slope_N = (said_N - rows.outcome_N) / (said_N * (1 - said_N))
    gap_slope_N = slope_N * skill_N * (1 - sure_N**2) / 4
    z_slope_N = slope_N * sure_N * (1 - skill_N**2) / 4
    slopes = np.bincount(rows.first_N, gap_slope_N, k) - np.bincount(rows.second_N, gap_slope_N, k)
    return value, np.concatenate([slopes, np.bincount(rows.rater_N, z_slope_N, rows.n_raters)])


def _rate(wins: int, losses: int, level: float) -> Interval | None:
    return wilson(wins, wins + losses, level) if wins + losses else None

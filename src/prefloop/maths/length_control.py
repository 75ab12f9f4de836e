"""Win rates as they would be if both answers were equally long.

Two forms of one logistic regression (Dubois et al. 2024, 2404.04475, eq. 2): AlpacaEval 2's own
(`alpaca_eval_win_rate`), which needs that leaderboard's difficulties and gamed baselines, and the minimal form for any
set of prompts (`length_controlled_win_rate`), with an interval over prompts.

Shapes: [N] pairs of one model against one baseline. `preference_N` is 1 where the model won, 0 where it lost, ½ for a
tie, or the judge's probability that the model is better. Lengths are in one unit for both, characters in AlpacaEval.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from prefloop.maths.resampling import cluster_index, percentile_interval, resampled_counts
from prefloop.maths.statistics import SHARE, Clusters, Interval, Values, clustered_mean_interval

Array = NDArray[np.float64]

STRENGTHS = np.logspace(-4, 4, 10)
"""The C values that AlpacaEval's cross-validation tries."""
FOLDS = 5
GAMED_WEIGHT = 0.2 / 2
"""Of each row of the two gamed baselines."""
RIDGE = 100.0
"""C of the minimal form: keeps separable data finite and moves nothing else."""
OVERLAP = 0.1
"""Least share of pairs on either side of equal length for a controlled win rate that is not an extrapolation."""
STEPS, HALVINGS = 50, 20


@dataclass(frozen=True)
class GamedRows:
    """Judgements of gamed versions of AlpacaEval's baseline against the baseline, [G] each."""

    preference_G: Array
    scaled_length_G: Array
    """Length differences, baseline minus gamed version, in standard deviations."""
    difficulty_G: Array


@dataclass(frozen=True)
class AlpacaEvalRate:
    """The AlpacaEval 2 leaderboard's figures, rates in 0..1."""

    controlled: float
    raw: float
    length: float
    """φ, of baseline minus model: negative where the judge rewards length."""
    difficulty: float
    """ψ."""
    model: float
    """θ."""
    strength: float
    """C, by cross-validation."""


@dataclass(frozen=True)
class LengthControlledRate:
    """The minimal form, rates in 0..1."""

    controlled: Interval
    """σ(θ): the win rate at equal length."""
    raw: Interval
    length: float | None
    """φ: positive where the judge rewards length; None where the length term was left out."""
    left_out: str
    """Why the length term was left out; empty where it was not."""
    shorter: float
    """Share of pairs in which the model's answer is the shorter one."""
    extrapolated: bool
    """Nearly all answers lie on one side of equal length: the controlled rate is a guess beyond the data."""
    n: int


def alpaca_eval_win_rate(
    preference_N: Values,
    model_length_N: Values,
    baseline_length_N: Values,
    difficulty_N: Values,
    gamed: GamedRows | None = None,
) -> AlpacaEvalRate:
    """AlpacaEval 2's length-controlled win rate (alpaca_eval 0.6.6, ``metrics/glm_winrate.py``).

    .. math::
        logit p_i = φ tanh(x_i) + ψ γ_i + θ,  x_i = (baseline's length − model's) / sd,  LC = mean_i σ(ψ γ_i + θ)

    No intercept; L1 penalty on all three; C by 5-fold cross-validation on the log-loss; every row counts once with
    y = 1 and weight p and once with y = 0 and weight 1 − p. Gamed rows have no θ and weight 0.1 each. A model against
    itself is ½ by construction and not fitted: the caller knows.

    Args:
        preference_N: NaN where the judge gave none: such a pair is not fitted, but its prompt counts in the mean.
        difficulty_N: γ, published for the leaderboard's 805 instructions.
        gamed: left out, nothing pulls the judge's lean to length towards the baseline's own.

    Raises:
        ValueError: lengths differ, all pairs have the same difference in length, or there are fewer than five rows.
    """
    preference, model, baseline, difficulty = _arrays(preference_N, model_length_N, baseline_length_N, difficulty_N)
    difference = baseline - model
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    if not spread:
        raise ValueError("all pairs differ in length by the same amount: there is no length to control for")
    rows = np.column_stack([np.tanh(difference / spread), difficulty, np.ones(len(difference))])
    weight = np.ones(len(rows))
    fitted, target = rows, preference
    if gamed is not None:
        added = np.column_stack([np.tanh(gamed.scaled_length_G), gamed.difficulty_G, np.zeros(len(gamed.difficulty_G))])
        fitted, target = np.vstack([added, rows]), np.concatenate([gamed.preference_G, preference])
        weight = np.concatenate([np.full(len(added), GAMED_WEIGHT), weight])
    known = ~np.isnan(target)
    strength, (phi, psi, theta) = _cross_validated(fitted[known], target[known], weight[known])
    controlled = _sigmoid(psi * difficulty + theta).mean()
    return AlpacaEvalRate(float(controlled), float(np.nanmean(preference)), phi, psi, theta, strength)


def extreme_change(raw: float, controlled: float) -> bool:
    """AlpacaEval's warning: the control moves a rate by over 0.1 and over a quarter of the way to 0 or 1.

    >>> extreme_change(0.5, 0.36), extreme_change(0.2, 0.11)  # below min(0.375, 0.4); not below min(0.15, 0.1)
    (True, False)
    """
    low, high = min(raw - raw / 4, raw - 0.1), max(raw + (1 - raw) / 4, raw + 0.1)
    return not low <= controlled <= high


def length_controlled_win_rate(
    preference_N: Values,
    model_length_N: Values,
    baseline_length_N: Values,
    prompts: Clusters,
    *,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> LengthControlledRate:
    """Win rate at equal length, ``logit p_i = θ + φ·tanh(d_i / sd(d))`` with d = model's length − baseline's.

    Fitted by maximum likelihood with the weak ridge ``(θ² + φ²) / 2C``, C = 100. The interval resamples prompts and
    fits each time; every prediction at equal length is the same number, so the standard error that AlpacaEval's
    formula would give here is 0. Without differences in length, or with all outcomes equal, there is nothing to fit
    and the raw rate is given, with the reason.

    Raises:
        ValueError: lengths differ, a value is missing, a preference lies outside 0..1, or there are fewer than two
            prompts.

    Won where longer, lost where shorter: nothing is left at equal length.

    >>> found = length_controlled_win_rate([1, 0, 1, 0], [9, 1, 9, 1], [5, 5, 5, 5], "abcd")
    >>> round(found.controlled.estimate, 6), found.length > 1, found.shorter
    (0.5, True, 0.5)
    """
    preference, model, baseline = _arrays(preference_N, model_length_N, baseline_length_N)
    if np.isnan(preference).any():
        raise ValueError("a preference is missing (NaN): leave the pair out and count it")
    difference = model - baseline
    raw = clustered_mean_interval(preference, prompts, draws=draws, seed=seed, level=level, bounds=SHARE)
    controlled, phi, why = raw, None, _nothing_to_fit(preference, difference)
    if not why:
        (theta, phi) = (float(value) for value in _ridge_fits(np.ones((1, len(preference))), preference, difference)[0])
        thetas = np.concatenate(
            [_ridge_fits(w, preference, difference)[:, 0] for w in _draw_weights(prompts, len(preference), draws, seed)]
        )
        controlled = percentile_interval(float(_sigmoid(np.array(theta))), _sigmoid(thetas), level)
    overlap = min((difference <= 0).mean(), (difference >= 0).mean())
    return LengthControlledRate(
        controlled=controlled,
        raw=raw,
        length=phi,
        left_out=why,
        shorter=float((difference < 0).mean()),
        extrapolated=bool(overlap < OVERLAP),
        n=len(preference),
    )


def _nothing_to_fit(preference: Array, difference: Array) -> str:
    if (difference == difference[0]).all():
        return "all pairs differ in length by the same amount"
    return "all outcomes are equal" if (preference == preference[0]).all() else ""


def _draw_weights(prompts: Clusters, n: int, draws: int, seed: int) -> Iterator[Array]:
    index_N, count = cluster_index(prompts, n)
    return (picked[:, index_N] for picked in resampled_counts(count, draws, seed, 8 * n))


def _ridge_fits(weight_DN: Array, preference_N: Array, difference_N: Array) -> Array:
    """θ and φ of each row of weights, [D, 2]: Newton's method, each step halved until the loss falls."""
    x_DN, found = _scaled(weight_DN, difference_N), np.zeros((len(weight_DN), 2))
    loss = _ridge_loss(found, x_DN, weight_DN, preference_N)
    for _ in range(STEPS):
        p_DN = _sigmoid(found[:, :1] + found[:, 1:] * x_DN)
        error, curve = weight_DN * (p_DN - preference_N), weight_DN * p_DN * (1 - p_DN)
        gradient = np.stack([error.sum(1), (error * x_DN).sum(1)], axis=1) + found / RIDGE
        a, b, c = (curve.sum(1) + 1 / RIDGE, (curve * x_DN).sum(1), (curve * x_DN**2).sum(1) + 1 / RIDGE)
        step = np.stack([c * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]], axis=1)
        step /= (a * c - b * b)[:, None]
        found, loss, moved = _descend(found, loss, step, x_DN, weight_DN, preference_N)
        if not moved:
            break
    return found


def _descend(
    found: Array, loss: Array, step: Array, x_DN: Array, weight_DN: Array, preference_N: Array
) -> tuple[Array, Array, bool]:
    """The fits one step on, with their losses; those that no part of the step improves stay where they are."""
    size, start = np.ones(len(found)), found
    for _ in range(HALVINGS):
        tried = start - size[:, None] * step
        reached = _ridge_loss(tried, x_DN, weight_DN, preference_N)
        worse = reached > loss
        if not worse.any():
            break
        size[worse] /= 2
    better = reached < loss
    return np.where(better[:, None], tried, start), np.where(better, reached, loss), bool(better.any())


def _ridge_loss(found: Array, x_DN: Array, weight_DN: Array, preference_N: Array) -> Array:
    z_DN = found[:, :1] + found[:, 1:] * x_DN
    losses: Array = (weight_DN * (np.logaddexp(0, z_DN) - preference_N * z_DN)).sum(1)
    losses += (found**2).sum(1) / (2 * RIDGE)
    return losses


def _scaled(weight_DN: Array, difference_N: Array) -> Array:
    """``tanh(d / sd)`` with the sample standard deviation of each resample; 0 where that is 0."""
    total = weight_DN.sum(1, keepdims=True)
    mean = (weight_DN * difference_N).sum(1, keepdims=True) / total
    variance = (weight_DN * (difference_N - mean) ** 2).sum(1, keepdims=True) / np.maximum(total - 1, 1)
    spread = np.sqrt(variance)
    scaled: Array = np.tanh(np.divide(difference_N, spread, out=np.zeros_like(weight_DN), where=spread > 0))
    return scaled


def _cross_validated(rows: Array, target: Array, weight: Array) -> tuple[float, tuple[float, float, float]]:
    """The C with the least held-out loss, and the weights of a fit to all rows with it.

    Folds are those of scikit-learn's GroupKFold on one group per row: dealt out from the last row to the first. The
    loss of a fold is its mean over rows, and folds count equally.
    """
    if len(rows) < FOLDS:
        raise ValueError(f"{len(rows)} judged pairs are too few for {FOLDS} folds")
    fold = np.arange(len(rows))[::-1] % FOLDS
    losses = np.zeros((FOLDS, len(STRENGTHS)))
    for held in range(FOLDS):
        train, test = fold != held, fold == held
        for number, strength in enumerate(STRENGTHS):
            z = rows[test] @ _lasso(rows[train], target[train], weight[train], float(strength))
            losses[held, number] = (weight[test] * (np.logaddexp(0, z) - target[test] * z)).mean()
    best = float(STRENGTHS[int(losses.mean(axis=0).argmin())])
    phi, psi, theta = (float(value) for value in _lasso(rows, target, weight, best))
    return best, (phi, psi, theta)


def _lasso(rows: Array, target: Array, weight: Array, strength: float) -> Array:
    """Weights w that make ``|w|₁ + C Σ_i s_i (ln(1 + e^{z_i}) − p_i z_i)`` least, z = rows · w.

    As a smooth problem in the positive and negative parts of w, both bounded by 0, divided by C Σ_i s_i so that the
    solver's tolerances mean the same for every C.
    """
    count, mass = rows.shape[1], weight.sum()

    def loss(parts: Array) -> tuple[float, Array]:
        z = rows @ (parts[:count] - parts[count:])
        value = (weight * (np.logaddexp(0, z) - target * z)).sum() / mass
        gradient = rows.T @ (weight * (_sigmoid(z) - target)) / mass
        return float(value + penalty * parts.sum()), penalty + np.concatenate([gradient, -gradient])

    penalty = 1 / (strength * mass)
    start, bounds = np.zeros(2 * count), [(0, None)] * (2 * count)
    options = {"ftol": 1e-16, "maxiter": 1000}
    found = optimize.minimize(loss, start, jac=True, method="SLSQP", bounds=bounds, options=options).x
    weights: Array = found[:count] - found[count:]
    return weights


def _sigmoid(z: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0, -z))
    return found


def _arrays(preference_N: Values, *others: Values) -> list[Array]:
    arrays = [np.asarray(values, dtype=np.float64) for values in (preference_N, *others)]
    if arrays[0].ndim != 1 or len({array.shape for array in arrays}) > 1 or not len(arrays[0]):
        raise ValueError(f"pairs do not match: arrays of shapes {', '.join(str(array.shape) for array in arrays)}")
    if any(np.isnan(array).any() for array in arrays[1:]):
        raise ValueError("a length or difficulty is missing (NaN)")
    known = arrays[0][~np.isnan(arrays[0])]
    if ((known < 0) | (known > 1)).any():
        raise ValueError("a preference lies in 0..1: 1 the model won, 0 it lost, ½ a tie")
    return arrays

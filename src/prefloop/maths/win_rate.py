"""Win rates from verdicts in both orders: a win counts only where it survives the swap (MT-Bench, 2306.05685, §4).

Verdicts are those of one model against a baseline, one per pair of answers and order: 1 the model wins, 0 the
baseline wins, ½ neither, NaN where there is no verdict (the judge failed or could not be read). A probability that the
model is better is read as the verdict it leans to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from prefloop.maths.resampling import kept_clusters
from prefloop.maths.statistics import (
    SHARE,
    Clusters,
    Interval,
    Values,
    clustered_mean_interval,
    design_effect,
    minimum_detectable_gain,
    sample_size,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class WinRate:
    """What both orders of a set of pairs say."""

    rate: Interval | None
    """(wins + ½ ties) / n with its interval clustered by prompt; 0 to 1 for a single prompt, None without a pair."""
    n: int
    """Pairs with a verdict in both orders."""
    prompts: int
    wins: int
    ties: int
    """Pairs tied in both orders, or judged differently in the two."""
    losses: int
    invalid: int
    """Pairs left out: at least one order has no verdict."""
    consistency: float | None
    """Share of the n pairs with the same verdict in both orders."""
    first_slot: float | None
    """Of single verdicts that name a winner, the share won by the answer shown first; ½ shows no favourite slot."""
    decisive: int
    """Single verdicts that name a winner, of all 2n."""
    detectable: float
    """Smallest win rate above ½ that so many prompts with so many ties show at 80% power; inf where none does."""


def win_rate(
    shown_first: Values,
    shown_second: Values,
    prompts: Clusters,
    *,
    draws: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> WinRate:
    """Win rate of the model over the baseline; both games of a pair count as one outcome.

    Args:
        shown_first: [n] verdicts on the model where its answer was shown first.
        shown_second: [n] verdicts on the model, for the same pairs, where its answer was shown second.
        prompts: [n] names; pairs of one prompt are resampled together.

    Raises:
        ValueError: lengths differ, or a verdict lies outside 0..1.

    Won in both orders, won once, lost in both: 1, ½ and 0.

    >>> found = win_rate([1, 1, 0], [1, 0, 0], "abc")
    >>> found.rate.estimate, found.ties, found.consistency
    (0.5, 1, 0.6666666666666666)
    """
    first, second = _verdicts(shown_first), _verdicts(shown_second)
    if not len(first) == len(second) == len(prompts):
        raise ValueError(f"{len(first)} and {len(second)} verdicts for {len(prompts)} prompts: pair them first")
    known = ~(np.isnan(first) | np.isnan(second))
    first, second, names = first[known], second[known], kept_clusters(prompts, known)
    outcome = both_orders(first, second)
    decisive = int((first != 0.5).sum() + (second != 0.5).sum())
    won_by_first = int((first == 1).sum() + (second == 0).sum())
    return WinRate(
        rate=_share(outcome, names, draws, seed, level),
        n=len(outcome),
        prompts=len(set(names)),
        wins=int((outcome == 1).sum()),
        ties=int((outcome == 0.5).sum()),
        losses=int((outcome == 0).sum()),
        invalid=int((~known).sum()),
        consistency=float((first == second).mean()) if len(first) else None,
        first_slot=won_by_first / decisive if decisive else None,
        decisive=decisive,
        detectable=_detectable(outcome, names),
    )


def both_orders(shown_first: Values, shown_second: Values) -> Array:
    """Outcome of each pair, [n]: the verdict where both orders give the same, else ½; NaN where one is missing.

    >>> both_orders([1, 1, 0.8, 0.5], [1, 0, 0.6, float("nan")]).tolist()
    [1.0, 0.5, 1.0, nan]
    """
    first, second = _verdicts(shown_first), _verdicts(shown_second)
    found = np.where(first == second, first, 0.5)
    found[np.isnan(first) | np.isnan(second)] = np.nan
    return found


def prompts_needed(rate: float, decided: float = 1.0, alpha: float = 0.05, power: float = 0.8) -> int:
    """Prompts needed to show that a win rate differs from ½, where a share `decided` of the pairs is not tied.

    Wins minus losses make up δ = 2·(rate − ½) of all pairs and ψ = `decided` of them count: `sample_size` of (δ, ψ).

    Raises:
        ValueError: the rate is ½, or so many ties leave no room for it.

    >>> prompts_needed(0.55), prompts_needed(0.55, decided=0.5)
    (783, 391)
    """
    return sample_size(2 * abs(rate - 0.5), decided, alpha, power)


def smallest_win_rate(n: float, decided: float = 1.0, alpha: float = 0.05, power: float = 0.8) -> float:
    """Smallest win rate above ½ that n independent prompts show: `prompts_needed` solved for the rate.

    >>> round(smallest_win_rate(783), 3)
    0.55
    """
    gain = minimum_detectable_gain(n, decided, alpha, power)
    return inf if gain == inf else 0.5 + gain / 2


def _verdicts(values: Values) -> Array:
    """Verdicts 0, ½, 1 or NaN, from probabilities too."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    if array.ndim != 1 or ((known < 0) | (known > 1)).any():
        raise ValueError("a verdict is 1 (won), 0 (lost), ½ (tied), a probability between them, or NaN (none)")
    return np.where(np.isnan(array), np.nan, (np.sign(array - 0.5) + 1) / 2)


def _share(outcome: Array, names: list[int], draws: int, seed: int, level: float) -> Interval | None:
    if not len(outcome):
        return None
    if len(set(names)) < 2:
        return Interval(float(outcome.mean()), *SHARE)
    return clustered_mean_interval(outcome, names, draws=draws, seed=seed, level=level, bounds=SHARE)


def _detectable(outcome: Array, names: list[int]) -> float:
    if not len(outcome):
        return inf
    independent = len(outcome) / design_effect(outcome, names)
    return smallest_win_rate(independent, float((outcome != 0.5).mean()))

"""Strengths of items from rankings of several: Plackett-Luce (Plackett 1975, Luce 1959), fitted by choix.

A ranking is its tiers, best first: ``[[2], [0], [1, 3]]`` puts 2 first and 0 second, and leaves open how 1 and 3
compare. Plackett and Luce draw one item at a time, so a tie above the last tier has no place there: `ranking_pairs`
breaks such rankings into comparisons with ties for `prefloop.maths.comparisons.davidson`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prefloop.maths.comparisons import centred
from prefloop.maths.tally import connected_components, unbeaten

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Ranking = Sequence[Sequence[int]]
Choice = tuple[int, tuple[int, ...]]
"""An item and those it was preferred to."""

STEPS = 1000


@dataclass(frozen=True, eq=False)
class PlackettLuce:
    """Strengths of ranked items."""

    strengths: Array
    """[K] s, with sum 0 within each component; 0 for an item never ranked against another."""
    components: Integers
    """[K] items ranked together, if only by way of others: strengths of different components must not be compared."""


def plackett_luce_strengths(rankings: Sequence[Ranking], n_items: int, prior: int = 1) -> PlackettLuce:
    """Maximum of the likelihood, or with a prior of the posterior, of whole or partial rankings.

    .. math::
        P(ranking) = Π_r exp(s_r) / Σ_{q not yet drawn} exp(s_q)

    A last tier of several items is read as an order nobody gave: the product stops before it (a top-k ranking). Items
    that are not in a ranking take no part in it. Fitted by choix's ``ilsr_top1`` (iterative Luce spectral ranking,
    Maystre & Grossglauser 2015), whose fixed point is the maximum, on the choices that the rankings consist of.

    Args:
        rankings: tiers of items 0..K−1, best first.
        prior: virtual wins, and as many losses, of each item against one virtual item, as in `comparisons.davidson`;
            whole ones, since choix has no weights. 0 is plain maximum likelihood. choix's own ``alpha`` is not used:
            it is no count of anything.

    Raises:
        ValueError: a ranking is malformed or has a tie above its last tier; or without a prior the rankings leave
            items unconnected or have no finite maximum.
        RuntimeError: choix did not converge.

    Of two items, 0 is first in three rankings of four, so s_0 − s_1 = ln 3:

    >>> found = plackett_luce_strengths([[[0], [1]]] * 3 + [[[1], [0]]], 2, prior=0).strengths
    >>> bool(abs(found[0] - found[1] - np.log(3)) < 1e-6)
    True
    """
    from choix import ilsr_top1

    if prior < 0 or prior != int(prior):
        raise ValueError(f"a prior is a whole number of virtual wins, 0 or more, not {prior}")
    choices = [choice for ranking in rankings for choice in _choices(_checked(ranking, n_items))]
    if not choices:
        raise ValueError("there are no rankings of two tiers or more yet: collect some first")
    winners = [winner for winner, below in choices for _ in below]
    losers = [loser for _, below in choices for loser in below]
    components = connected_components(winners, losers, n_items)
    if prior == 0:
        _check_finite(winners, losers, components)
    strengths = np.zeros(n_items)
    for items, own in _apart(choices, components):
        strengths[items] = _maximum(own, len(items), int(prior), ilsr_top1)
    return PlackettLuce(centred(strengths, components), components)


def ranking_pairs(rankings: Sequence[Ranking], n_items: int) -> tuple[Integers, Integers, Array, Integers]:
    """The comparisons that rankings with ties agree with: first and second item, outcome, number of the ranking.

    All pairs of a ranking, also those in one tier (outcome ½). They hang together: give `davidson_intervals` the
    number of the ranking, or of its prompt, as the cluster.

    Raises:
        ValueError: a ranking is malformed.

    >>> [column.tolist() for column in ranking_pairs([[[2], [0, 1]]], 3)]
    [[2, 2, 0], [0, 1, 1], [1.0, 1.0, 0.5], [0, 0, 0]]
    """
    rows = [
        (a, b, 0.5 if tier == lower else 1.0, number)
        for number, ranking in enumerate(rankings)
        for (tier, a), (lower, b) in combinations(_placed(_checked(ranking, n_items)), 2)
    ]
    first, second, outcome, numbers = zip(*rows, strict=True) if rows else ((), (), (), ())
    whole = [np.array(column, dtype=np.int64) for column in (first, second, numbers)]
    return whole[0], whole[1], np.array(outcome, dtype=np.float64), whole[2]


def _checked(ranking: Ranking, n_items: int) -> list[list[int]]:
    tiers = [list(tier) for tier in ranking]
    items = [item for tier in tiers for item in tier]
    if not all(tiers):
        raise ValueError(f"ranking {tiers} has an empty tier: leave it out")
    if len(set(items)) != len(items):
        raise ValueError(f"ranking {tiers} has an item twice")
    if any(not 0 <= item < n_items for item in items):
        raise ValueError(f"ranking {tiers} has an item that is not in 0..{n_items - 1}")
    return tiers


def _placed(tiers: list[list[int]]) -> list[tuple[int, int]]:
    return [(place, item) for place, tier in enumerate(tiers) for item in tier]


def _choices(tiers: list[list[int]]) -> list[Choice]:
    """One for each tier but the last."""
    if any(len(tier) > 1 for tier in tiers[:-1]):
        raise ValueError(f"ranking {tiers} has a tie above its last tier: fit `ranking_pairs` of it with `davidson`")
    rest = [tuple(item for tier in tiers[place + 1 :] for item in tier) for place in range(len(tiers) - 1)]
    return [(tier[0], below) for tier, below in zip(tiers[:-1], rest, strict=True)]


def _apart(choices: list[Choice], components: Integers) -> Iterator[tuple[Integers, list[Choice]]]:
    """The items of each component of two or more, and its choices with its items numbered from 0.

    What has nothing in common is fitted apart, since choix's work grows with the cube of the number of items.
    """
    order = np.argsort(components, kind="stable")
    sizes = np.bincount(components)
    starts = np.cumsum(sizes) - sizes
    place = np.empty(len(components), dtype=np.int64)
    place[order] = np.arange(len(components)) - np.repeat(starts, sizes)
    own: list[list[Choice]] = [[] for _ in sizes]
    for winner, below in choices:
        own[components[winner]].append((int(place[winner]), tuple(int(place[item]) for item in below)))
    for start, size, found in zip(starts, sizes, own, strict=True):
        if found:
            yield order[start : start + size], found


def _maximum(choices: list[Choice], n_items: int, prior: int, fit: Callable[..., Array]) -> Array:
    virtual: list[Choice] = [game for i in range(n_items) for game in ((i, (n_items,)), (n_items, (i,)))]
    try:
        return fit(n_items + (prior > 0), choices + virtual * prior, max_iter=STEPS)[:n_items]
    except RuntimeError as error:
        raise RuntimeError(f"no fit after {STEPS} steps of choix: set a larger prior than {prior}") from error


def _check_finite(winners: list[int], losers: list[int], components: Integers) -> None:
    count = int(components.max()) + 1
    if count > 1:
        raise ValueError(f"the rankings leave {count} groups of items unconnected: rank across them, or set a prior")
    group = unbeaten(winners, losers, len(components))
    if group is not None:
        raise ValueError(f"nothing beats items {group[:5].tolist()}, so no finite strength fits: set a prior")

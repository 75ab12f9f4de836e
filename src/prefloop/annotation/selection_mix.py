"""A random choice of candidates with known probabilities, some kinds of them preferred, and the order of the queue.

*Candidates* are the pairs (or rankings) that the answers of a prompt allow; each prompt gives a few of them. A strategy
draws a candidate of a prompt uniformly among those of its kind: ``random`` among all, ``gap`` and ``disagreement``
among those of that kind. With e_ps places of prompt p expected for strategy s, the **probability of selection** of a
candidate i is

    π_i = Σ_s e_ps · q_s(i),   q_s(i) = [i is of kind s] / candidates of kind s of the prompt,

capped at 1 with the rest of the prompt raised in proportion. e_ps is such that a strategy gets its share of all places
if there are candidates enough of its kind; the rest goes to ``random``, which never has less than one part in
1 + 2·`MOST` of a prompt's places, so no π is 0. Systematic sampling (Madow 1949, doi:10.1214/aoms/1177729988) then
takes exactly the expected number of candidates, each with its π.

The mean of y_i / π_i over what was chosen, times the number chosen over that of all candidates, is therefore unbiased
for the mean of y over all candidates (Horvitz and Thompson 1952). Strata are shuffled and interleaved in proportion, so
a prefix of the queue holds each with the same probability, up to rounding: the same weights serve whatever was reached.

Shapes: [C] candidates, [P] prompts, [S] the three `STRATEGIES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

STRATEGIES = ("random", "gap", "disagreement")
IDENTICAL = "identical"
MOST = 8.0
"""Most places of a prompt that one strategy has for each of ``random``."""
_ROUNDS = 200
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Candidates:
    """What can be chosen; candidates of a prompt stand together, prompts are numbered 0, 1, … in their order."""

    prompt: Integers
    """[C]"""
    gap: Flags
    """[C] the predicted gap is moderate."""
    disagreement: Flags
    """[C] judges disagree."""
    identical: Flags
    """[C] nothing to choose between: the same result, nearly the same text."""
    chance: Floats
    """[C] that the candidate came to be one; 1 unless a prompt has too many to list."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Candidates in the order of the queue."""

    index: Integers
    """[n] of the candidates."""
    strata: tuple[str, ...]
    """[n] why each was chosen."""
    probability: Floats
    """[n] π of each, the chance to be a candidate included."""


@dataclass(frozen=True, eq=False)
class Chances:
    """How likely each candidate is, before anything is drawn."""

    parts: Floats
    """[C, S] expected places of each candidate by strategy."""
    probability: Floats
    """[C] π."""


def chances(
    found: Candidates, shares: Sequence[float], per_prompt: int, identical: float, most: int | None = None
) -> Chances:
    """Probabilities of selection.

    Args:
        shares: [S] of all places, adding up to 1.
        per_prompt: candidates of a prompt, where it has so many.
        identical: what is left of the chance of candidates that are `Candidates.identical`.
        most: candidates in all; prompts that more strategies ask for are then likelier. None: `per_prompt` of each.
    """
    wanted = _wanted(found, identical)
    caps = _places(found, per_prompt, identical)
    total = min(float(caps.sum()), float(most or np.inf))
    expected = _expected(_eligible(found, wanted), caps, np.asarray(shares, dtype=np.float64), total)
    parts = expected[found.prompt] * wanted
    return Chances(parts, _within(found.prompt, parts.sum(axis=1), expected.sum(axis=1)))


def draw(found: Candidates, known: Chances, rng: np.random.Generator) -> Chosen:
    """Choose candidates with their probabilities, and put them in order."""
    taken = np.flatnonzero(systematic(known.probability, found.prompt, rng))
    strata = [_stratum(found, known.parts[i], int(i), rng) for i in taken]
    order = interleaved(strata, rng)
    index = taken[order]
    probability = np.minimum(known.probability[index] * found.chance[index], 1.0)
    return Chosen(index, tuple(strata[i] for i in order), probability)


def capped(size: Floats, caps: Floats, total: float) -> Floats:
    """min(c · size, caps) with the c that makes them add up to `total`; the caps where they add up to less.

    >>> capped(np.array([1.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0]), 2.0).tolist()
    [0.5, 0.5, 1.0]
    """
    found = np.zeros(len(size))
    some = np.flatnonzero(size > 0)
    limits = caps[some]
    if limits.sum() <= total:
        found[some] = limits
        return found
    order = np.argsort(limits / size[some], kind="stable")
    sizes, limits = size[some][order], limits[order]
    rest = np.cumsum(sizes[::-1])[::-1]
    scale = (total - (np.cumsum(limits) - limits)) / rest  # of the rest, if those before are at their caps
    first = int(np.argmax(scale * sizes <= limits))
    found[some[order]] = np.minimum(scale[first] * sizes, limits)
    return found


def systematic(probability: Floats, prompt: Integers, rng: np.random.Generator) -> Flags:
    """Which candidates are taken, [C]: each with its probability, as many as these add up to (rounded up or down).

    One grid of step 1 over the prompts in random order gives each its number of places. Where the grid's points lie in
    a prompt is drawn again for each, within what leaves that number, and its candidates are shuffled: else one draw
    would decide for all prompts alike.
    """
    places = _per_prompt(prompt, probability)
    shuffled = rng.permutation(len(places))
    starts = np.zeros(len(places))
    starts[shuffled] = np.cumsum(places[shuffled]) - places[shuffled]
    part = np.where(abs(places - np.round(places)) < _ROUNDING, 0.0, places % 1)
    one_more = (rng.random() - starts) % 1 < part
    within = rng.random(len(places))
    points = np.where(one_more, within * part, part + within * (1 - part))
    order = np.lexsort((rng.random(len(prompt)), prompt))
    ends = np.cumsum(probability[order])
    ends -= (np.cumsum(places) - places)[prompt[order]] + points[prompt[order]]
    taken = np.zeros(len(prompt), dtype=np.bool_)
    taken[order] = np.ceil(ends) > np.ceil(ends - probability[order])
    return taken


def interleaved(strata: Sequence[str], rng: np.random.Generator) -> list[int]:
    """Indices in an order in which each prefix has the strata in proportion, each stratum shuffled.

    >>> "".join("aab"[i] for i in interleaved("aab", np.random.default_rng(0)))
    'aba'
    """
    keys: list[tuple[float, str, int]] = []
    for stratum in sorted(set(strata)):
        members = [i for i, name in enumerate(strata) if name == stratum]
        places, shuffled = (np.arange(len(members)) + 0.5) / len(members), rng.permutation(len(members))
        keys += [(float(place), stratum, members[i]) for place, i in zip(places, shuffled, strict=True)]
    return [index for *_, index in sorted(keys)]


def _wanted(found: Candidates, identical: float) -> Floats:
    """[C, S] q: chance of each candidate if its prompt has one place for a strategy."""
    count = _per_prompt(found.prompt, np.ones(len(found.prompt)))
    same = _per_prompt(found.prompt, found.identical.astype(np.float64))
    other = count - same
    share = (1 - identical * same / count) / np.maximum(other, 1)  # what identical ones lose goes to the others
    kept = np.where(other > 0, identical, 1.0) / count  # `_places` thins prompts that have no others
    random = np.where(found.identical, kept[found.prompt], share[found.prompt])
    kinds = [flags & ~found.identical for flags in (found.gap, found.disagreement)]
    columns = [random]
    for kind in kinds:
        members = _per_prompt(found.prompt, kind.astype(np.float64))
        columns.append(np.where(kind, 1 / np.maximum(members, 1)[found.prompt], 0.0))
    return np.stack(columns, axis=1)


def _places(found: Candidates, per_prompt: int, identical: float) -> Floats:
    """[P] most places of a prompt."""
    same = _per_prompt(found.prompt, found.identical.astype(np.float64))
    other = _per_prompt(found.prompt, (~found.identical).astype(np.float64))
    return np.minimum(per_prompt, other + identical * np.minimum(same, per_prompt))


def _eligible(found: Candidates, wanted: Floats) -> Floats:
    """[P, S] 1 where a prompt has a candidate that a strategy wants."""
    columns = [_per_prompt(found.prompt, column) for column in wanted.T]
    return (np.stack(columns, axis=1) > 0).astype(np.float64)


def _expected(eligible: Floats, caps: Floats, shares: Floats, total: float) -> Floats:
    """[P, S] e: expected places, with a strategy's multiplier raised until it has its share, or `MOST`."""
    multipliers = np.where(shares > 0, 1.0, 0.0)
    multipliers[0] = 1.0
    places = np.zeros_like(eligible)
    for _ in range(_ROUNDS):
        raw = eligible * multipliers * caps[:, None]
        sums = raw.sum(axis=1)
        places = raw * (capped(sums, caps, total) / np.where(sums > 0, sums, 1))[:, None]
        got = places.sum(axis=0)[1:]
        before = multipliers.copy()
        multipliers[1:] *= np.where(got > 0, shares[1:] * total / np.where(got > 0, got, 1), 0.0)
        multipliers = np.minimum(multipliers, MOST)
        if np.allclose(before, multipliers, rtol=1e-6, atol=0):
            break
    return places


def _within(prompt: Integers, wanted: Floats, places: Floats) -> Floats:
    """[C] probabilities, none above 1, that add up to the places of each prompt."""
    found = wanted.copy()
    for p in np.unique(prompt[wanted > 1]):
        members = np.flatnonzero(prompt == p)
        found[members] = capped(wanted[members], np.ones(len(members)), float(places[p]))
    return found


def _stratum(found: Candidates, parts: Floats, index: int, rng: np.random.Generator) -> str:
    """The strategy that a place was for, drawn in proportion to what each gave to the candidate's probability."""
    if found.identical[index]:
        return IDENTICAL
    return STRATEGIES[int(rng.choice(len(STRATEGIES), p=parts / parts.sum()))]


def _per_prompt(prompt: Integers, values: Floats) -> Floats:
    return np.bincount(prompt, weights=values).astype(np.float64)

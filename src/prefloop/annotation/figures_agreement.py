"""How well people agree: with each other beyond chance, pair by pair, in rankings, and with themselves."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.annotation.figures_estimates import (
    DRAWS,
    ONE_PROMPT,
    Array,
    Figure,
    Integers,
    bare,
    figure,
    missing,
    share,
    share_of_pairs,
)
from prefloop.annotation.figures_verdicts import LABELS, Verdicts, tiers
from prefloop.maths.agreement import alpha_interval, krippendorff_alpha

ALONE = "nothing has been judged by two people yet"


def agreement(found: Verdicts) -> dict[str, Figure]:
    """``alpha``, ``percent``, ``self`` and ``kendall`` of `prefloop.annotation.figures.figures`."""
    used = found.counted_C
    ratings, prompts = _by_unit(found.unit_C[used], found.said_C[used], found.prompt_C[used])
    counts = (ratings[:, :, None] == LABELS).sum(axis=0)
    labels = counts.sum(axis=1)
    agreeing = (counts * (counts - 1) // 2).sum(axis=1)
    differing = labels * (labels - 1) // 2 - agreeing
    same = np.repeat([1.0, 0.0], [agreeing.sum(), differing.sum()])
    whose = np.concatenate([np.repeat(prompts, agreeing), np.repeat(prompts, differing)])
    return {
        "alpha": _alpha(ratings, prompts, int((labels >= 2).sum())),
        "percent": share(same, whose, ALONE),
        "self": _self_agreement(found),
        "kendall": _kendall(found),
    }


def _by_unit(unit_C: Integers, said_C: Array, prompt_C: NDArray[Any]) -> tuple[Array, NDArray[Any]]:
    """Labels in a table [most labels of a unit, units], NaN where there are fewer, and the prompt of each unit.

    Alpha asks only how often each label was given, not by whom: this keeps the table small with many raters.
    """
    order = np.argsort(unit_C, kind="stable")
    _, start, column, sizes = np.unique(unit_C[order], return_index=True, return_inverse=True, return_counts=True)
    table = np.full((sizes.max(initial=0), len(sizes)), np.nan)
    table[np.arange(len(order)) - start[column], column] = said_C[order]
    return table, prompt_C[order][start]


def _alpha(ratings: Array, prompts: NDArray[Any], n: int) -> Figure:
    estimate = krippendorff_alpha(ratings)
    if estimate is None:
        return missing("all verdicts are the same, and chance alone would make them agree" if n else ALONE, n)
    interval = alpha_interval(ratings, prompts.tolist(), draws=DRAWS)
    return figure(interval, n) if interval else bare(estimate, n, ONE_PROMPT)


def _self_agreement(found: Verdicts) -> Figure:
    """Repeats of verdicts that count; of a ranking, pair by pair."""
    asked = zip(found.unit_C.tolist(), found.rater_C.tolist(), strict=True)
    before, again = {}, {}
    for place, key in enumerate(asked):
        if not found.fresh_C[place]:
            again[key] = place
        elif found.counted_C[place]:
            before[key] = place
    both = [(before[key], place) for key, place in again.items() if key in before]
    first, second = np.array(both, dtype=np.int64).reshape(-1, 2).T
    same = (found.said_C[first] == found.said_C[second]).astype(float)
    return share(same, found.prompt_C[first], "no item has been repeated yet")


def _kendall(found: Verdicts) -> Figure:
    """Mean tau-b of two rankings of one item; undefined where somebody ties everything."""
    by_item: dict[str, list[Array]] = defaultdict(list)
    for row in found.rows:
        if row.counted and row.ranking is not None:
            by_item[row.item_id].append(_signs(row))
    taus = []
    for key, ranked in by_item.items():
        for a, b in combinations(ranked, 2):
            scale = np.sqrt((a**2).sum() * (b**2).sum())
            if scale:
                taus.append((found.items[key].prompt_id, float(a @ b / scale)))
    why = ALONE if found.config.kind == "ranking" else "only rankings have it"
    return share_of_pairs(taus, why, bounds=(-1.0, 1.0))


def _signs(row: Any) -> Array:
    """Of every pair of answers by index: 1 the first is ranked better, −1 the second, 0 tied or both left out."""
    place = tiers(row)
    place_N = np.array([place.get(index, len(place)) for index in sorted(row.order)])
    first, second = np.triu_indices(len(place_N), 1)
    signs: Array = np.sign(place_N[second] - place_N[first]).astype(float)
    return signs

"""What the verdicts say of the policies that wrote the answers, and of rules that would have said the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.annotation.figures_estimates import (
    ONE_PROMPT,
    Array,
    Figure,
    Integers,
    bare,
    figure,
    missing,
    share_of_pairs,
)
from prefloop.annotation.figures_verdicts import BOTH_BAD, ONE_POLICY, TIE, Verdicts
from prefloop.annotation.protocol import winner
from prefloop.maths.comparisons import davidson, davidson_intervals
from prefloop.maths.tally import connected_components

FITS = 200
"""Resamples of what has to be fitted anew in each."""


def strengths(found: Verdicts) -> dict[str, Any]:
    """``strengths`` and ``order_effect``: Davidson; both bad is a tie here, because it puts neither policy first."""
    used = found.counted_C & found.across_C
    n = int(used.sum())
    if not n:
        return {"strengths": [], "order_effect": missing(ONE_POLICY)}
    shown = np.concatenate([found.policy_N[found.first_C[used]], found.policy_N[found.second_C[used]]])
    policies, index = np.unique(shown, return_inverse=True)
    first, second, counts = index[:n], index[n:], np.bincount(index).tolist()
    outcome = np.where(found.shown_C[used] == BOTH_BAD, TIE, found.shown_C[used])
    fitted, gamma = _fitted(first, second, outcome, found.prompt_C[used], counts)
    components = connected_components(first, second, len(policies)).tolist()
    named = zip(policies.tolist(), components, fitted, strict=True)
    return {
        "strengths": [{"policy": policy, "component": component} | one for policy, component, one in named],
        "order_effect": gamma,
    }


def rules(found: Verdicts) -> dict[str, Figure]:
    """``expected`` and ``length_only``: does a judge, and the length alone, name what most people put first?"""
    lengths: dict[str, dict[int, int]] = defaultdict(dict)
    for row in found.answers:
        lengths[row.item_id][row.index] = row.length
    judged: list[tuple[str, float]] = []
    longest: list[tuple[str, float]] = []
    for key, best in _majorities(found):
        prompt, sizes = found.items[key].prompt_id, lengths[key]
        expected = (found.items[key].expected or {}).get("best")
        if expected is not None:
            judged.append((prompt, float(expected == best)))
        most = [index for index, size in sizes.items() if size == max(sizes.values())]
        longest.append((prompt, (best in most) / len(most)))
    return {
        "expected": share_of_pairs(judged, "no judge has said before what to expect of an item with a majority"),
        "length_only": share_of_pairs(longest, "no item has a majority for one answer yet"),
    }


def _majorities(found: Verdicts) -> list[tuple[str, int]]:
    """Items that more people put one answer first of than said anything else, and that answer; only what counts."""
    votes: dict[str, Counter[int | str]] = defaultdict(Counter)
    for row in found.rows:
        if row.counted:
            votes[row.item_id][winner(row)] += 1
    clear = []
    for key, said in votes.items():
        (best, count), *others = said.most_common(2)
        if not isinstance(best, str) and not (others and others[0][1] == count):
            clear.append((key, best))
    return clear


def _fitted(
    first: Integers, second: Integers, outcome: Array, prompts: NDArray[Any], counts: list[int]
) -> tuple[list[Figure], Figure]:
    """Strengths and γ; without intervals or values where there can be none, and why."""
    n, k = len(first), len(counts)
    try:
        if len(set(prompts.tolist())) > 1:
            found = davidson_intervals(first, second, outcome, prompts.tolist(), k, order_effect=True, draws=FITS)
            strong = [figure(one, count) for one, count in zip(found.strengths, counts, strict=True)]
            return strong, figure(found.gamma, n)
        fit = davidson(first, second, outcome, k, order_effect=True)
        strong = [bare(one, count, ONE_PROMPT) for one, count in zip(fit.strengths.tolist(), counts, strict=True)]
        return strong, bare(fit.gamma, n, ONE_PROMPT)
    except (ValueError, RuntimeError) as error:
        return [missing(str(error), count) for count in counts], missing(str(error), n)

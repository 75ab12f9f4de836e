"""What each rater can do and tends to do: skill against gold and against the others, sides, lengths, time."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

from prefloop.annotation.figures_estimates import Array, Figure, Mask, bare, figure, missing, share
from prefloop.annotation.figures_verdicts import BOTH_BAD, FIRST, LABELS, ONE_POLICY, TIE, Verdicts
from prefloop.annotation.protocol import winner
from prefloop.maths.crowd import crowd_bt, one_coin_dawid_skene
from prefloop.maths.statistics import wilson

UNDECIDED = "no verdict says which answer is better"
UNJUDGED = "nothing has been judged yet"
ALONE = "nobody else has judged the same, or without a majority"


def raters(found: Verdicts) -> list[dict[str, Any]]:
    """``raters`` of `prefloop.annotation.figures.figures`, by pseudonym."""
    etas, policy_etas, agrees_C = _etas(found), _policy_etas(found), _with_others(found)
    by_rater: dict[int, list[Any]] = defaultdict(list)
    for row in found.rows:
        by_rater[row.rater_id].append(row)
    return [
        {
            "rater": found.pseudonyms[key],
            "gold": _gold(found, by_rater[key]),
            "eta": etas.get(key, missing(UNDECIDED)),
            "eta_policies": policy_etas.get(key, missing(ONE_POLICY)),
            **_habits(found, found.rater_C == key, agrees_C),
            "seconds": _seconds(by_rater[key]),
        }
        for key in sorted(by_rater, key=lambda key: found.pseudonyms[key])
    ]


def habits(found: Verdicts) -> dict[str, Figure]:
    """``longer``, ``tie`` and ``both_bad`` of all raters together."""
    no_such = found.config.kind == "ranking"
    return {
        "longer": _longer(found, found.counted_C),
        "tie": _label_share(found, TIE),
        "both_bad": missing("rankings have no such verdict") if no_such else _label_share(found, BOTH_BAD),
    }


def _gold(found: Verdicts, rows: list[Any]) -> Figure:
    gold = [row for row in rows if row.turn == 0 and found.items[row.item_id].role == "gold"]
    right = sum(winner(row) in (found.items[row.item_id].known or {}).get("best", ()) for row in gold)
    return figure(wilson(right, len(gold)), len(gold)) if gold else missing("no gold item judged yet")


def _seconds(rows: list[Any]) -> Figure:
    return bare(float(np.median([row.submitted - row.opened for row in rows])) / 1000, len(rows))


def _etas(found: Verdicts) -> dict[int, Figure]:
    """Skills by rater, gold included; ties and both bad name no better answer and are left out.

    Crowd-BT over single answers would fit a strength to each, and where few people compare a pair the strengths take up
    the raters' errors: everybody comes out near η = 1. The one-coin model sums over which answer is the better one.
    """
    used = found.decided_C & found.fresh_C
    keys, rater_C = np.unique(found.rater_C[used], return_inverse=True)
    known_U = _known(found)
    unit_C, label_C = found.unit_C[used], found.said_C[used] == FIRST
    try:
        eta_R = one_coin_dawid_skene(unit_C, label_C, rater_C, len(known_U), len(keys), known_U=known_U).eta
    except RuntimeError as error:
        return {int(key): missing(str(error)) for key in keys}
    return _by_key(keys, eta_R, rater_C)


def _known(found: Verdicts) -> Array:
    """Is the answer with the lower index the better one? [units]: 1 or 0 where gold says so, NaN elsewhere."""

    def best(answer_N: Any) -> bool:
        return answer_N.index in ((found.items[answer_N.item_id].known or {}).get("best", ()))

    best_N = np.array([best(row) for row in found.answers], dtype=float)
    low, high = np.minimum(found.first_C, found.second_C), np.maximum(found.first_C, found.second_C)
    known_U = np.full(int(found.unit_C.max(initial=-1)) + 1, np.nan)
    known_U[found.unit_C] = np.where(best_N[low] == best_N[high], np.nan, best_N[low])
    return known_U


def _policy_etas(found: Verdicts) -> dict[int, Figure]:
    """Crowd-BT over policies: a perfect reader has η < 1 here if the answers of one policy differ in quality."""
    used = found.decided_C & found.fresh_C & found.across_C
    if not used.any():
        return {}
    policies, index_N = np.unique(found.policy_N, return_inverse=True)
    keys, rater_C = np.unique(found.rater_C[used], return_inverse=True)
    first, second = index_N[found.first_C[used]], index_N[found.second_C[used]]
    try:
        eta_R = crowd_bt(first, second, found.shown_C[used], rater_C, len(policies), len(keys)).eta
    except RuntimeError as error:
        return {int(key): missing(str(error)) for key in keys}
    return _by_key(keys, eta_R, rater_C)


def _by_key(keys: Any, eta_R: Array, rater_C: Any) -> dict[int, Figure]:
    counts_R = np.bincount(rater_C, minlength=len(keys))
    return {int(key): bare(float(eta_R[r]), int(counts_R[r])) for r, key in enumerate(keys)}


def _with_others(found: Verdicts) -> Array:
    """Does each comparison say what most others who judged the same say? [C]; NaN where they have no majority."""
    code_C = np.searchsorted(LABELS, found.said_C)
    votes = np.zeros((int(found.unit_C.max(initial=-1)) + 1, len(LABELS)))
    np.add.at(votes, (found.unit_C[found.counted_C], code_C[found.counted_C]), 1)
    others = votes[found.unit_C]
    others[np.arange(len(code_C)), code_C] -= found.counted_C
    top = others.max(axis=1, initial=0)
    clear = ((others == top[:, None]).sum(axis=1) == 1) & (top > 0)
    return np.where(clear, others[np.arange(len(code_C)), code_C] == top, np.nan)


def _habits(found: Verdicts, its: Mask, agrees_C: Array) -> dict[str, Any]:
    """A repeat, whose sides are the first's swapped, says nothing new of habits."""
    mine = its & found.fresh_C
    decided, compared = mine & found.decided_C, mine & ~np.isnan(agrees_C)
    left = share(found.shown_C[decided], found.item_C[decided], UNDECIDED)  # sides are drawn anew for every item
    return {
        "left": left,
        "side_habit": left["low"] is not None and not left["low"] <= 0.5 <= left["high"],
        "longer": _longer(found, mine),
        "majority": share(agrees_C[compared], found.prompt_C[compared], ALONE),
    }


def _longer(found: Verdicts, which_C: Mask) -> Figure:
    used = which_C & found.decided_C & (found.excess_C != 0)
    won = (found.shown_C[used] == FIRST) == (found.excess_C[used] > 0)
    return share(won, found.prompt_C[used], UNDECIDED)


def _label_share(found: Verdicts, label: float) -> Figure:
    used = found.counted_C
    return share(found.shown_C[used] == label, found.prompt_C[used], UNJUDGED)

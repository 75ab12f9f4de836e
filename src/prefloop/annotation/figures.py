"""The desk's figures: agreement, raters' skill and habits, policies' strengths, disagreements, stop rules.

``python -m prefloop.annotation.figures PATH_OR_URL`` prints them as JSON. The server runs it as a process of its own
(`prefloop.annotation.background`) and never imports it: it needs NumPy and SciPy, and takes seconds.

Every verdict is read as comparisons of two answers, by answer index and not by side: one of a choice, one of each
pair of a ranking (two answers that were both left out of a top-k say nothing of each other). Only what counts is used
(no surplus), unless a figure says otherwise; calibration items never are. A *figure* is
``{"value", "low", "high", "n", "why"}``: the estimate, its 95% interval, how many cases it rests on, and why value or
interval are None. Intervals are bootstrapped over prompts, or Wilson's where every case has a prompt of its own.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import isfinite, log2, nan
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from scipy.special import expit
from sqlalchemy.exc import DBAPIError

from prefloop.annotation.background import DATABASE_VARIABLE
from prefloop.annotation.database import database_url
from prefloop.annotation.progress import SCORED
from prefloop.annotation.protocol import winner
from prefloop.annotation.schema import answer, item, judgement, rater
from prefloop.annotation.stream import Connection, read_project
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import PrefloopError, StoreError
from prefloop.maths.agreement import alpha_interval, krippendorff_alpha
from prefloop.maths.comparisons import davidson, davidson_intervals
from prefloop.maths.crowd import crowd_bt
from prefloop.maths.statistics import Interval, clustered_mean_interval, wilson
from prefloop.maths.tally import connected_components

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]
Figure = dict[str, Any]

FIRST, TIE, SECOND, BOTH_BAD = 1.0, 0.5, 0.0, -1.0
"""Labels of a comparison."""
LABELS = np.array([BOTH_BAD, SECOND, TIE, FIRST])
CHOICES = {0: BOTH_BAD, 1: FIRST, 2: FIRST, 3: TIE, 4: SECOND, 5: SECOND}
READ = "seq item_id rater_id turn counted strength ranking order opened submitted".split()
"""Columns of a verdict; comments and corrected answers stay where they are."""
LISTED = 200
"""Most entries of a list."""
DRAWS = 1000
FITS = 200
"""Resamples of what has to be fitted anew in each."""
ETA_PRIOR = (3.0, 1.0)
"""Right and wrong answers that every rater is taken to have given before, as in `crowd_bt`."""
EM_STEPS, EM_STEP = 1000, 1e-7
ONE_PROMPT = "one prompt only: nothing tells how prompts differ"
BARE = "an estimate without an interval"
UNDECIDED = "no verdict says which answer is better"
ONE_POLICY = "no verdict tells answers of two policies apart"
UNJUDGED = "nothing has been judged yet"
ALONE = "nobody else has judged the same, or without a majority"


@dataclass(frozen=True, eq=False)
class Verdicts:
    """The current verdicts of a project on items, gold and repeats, and their comparisons.

    Suffixes: ``_C`` comparisons, ``_N`` answers, numbered through all items.
    """

    config: AnnotationConfig
    rows: list[Any]
    """Of the judgement table, in the order of the log."""
    items: dict[str, Any]
    """Those that were judged."""
    answers: list[Any]
    pseudonyms: dict[int, str]
    row_C: Integers
    """Number of the verdict."""
    first_C: Integers
    second_C: Integers
    """Answers in the order shown."""
    shown_C: Array
    """Label, of the order shown."""
    unit_C: Integers
    """Number of the pair of answers, whatever the order."""

    @cached_property
    def said_C(self) -> Array:
        """Label, of the answer with the lower index first."""
        turned = np.where(self.shown_C == BOTH_BAD, BOTH_BAD, 1 - self.shown_C)
        return np.where(self.first_C < self.second_C, self.shown_C, turned)

    @cached_property
    def counted_C(self) -> Mask:
        counted: Mask = self.of_rows(lambda row: row.counted).astype(bool)
        return counted

    @cached_property
    def rater_C(self) -> Integers:
        """Key of the rater."""
        return self.of_rows(lambda row: row.rater_id)

    @cached_property
    def prompt_C(self) -> NDArray[np.str_]:
        return self.of_rows(lambda row: self.items[row.item_id].prompt_id)

    @cached_property
    def decided_C(self) -> Mask:
        return np.isin(self.shown_C, (FIRST, SECOND))

    @cached_property
    def longer_C(self) -> Array:
        """Sign of the first answer's excess in characters over the second's."""
        lengths_N = np.array([row.length for row in self.answers], dtype=np.int64)
        excess: Array = np.sign(lengths_N[self.first_C] - lengths_N[self.second_C]).astype(float)
        return excess

    @cached_property
    def item_C(self) -> NDArray[np.str_]:
        return self.of_rows(lambda row: row.item_id)

    def of_rows(self, value: Callable[[Any], Any]) -> NDArray[Any]:
        """A value of every verdict, for its comparisons."""
        return np.array([value(row) for row in self.rows])[self.row_C] if self.rows else np.empty(0)

    @cached_property
    def winners(self) -> dict[str, Counter[int | str]]:
        """What was put first, and how often, by item; only what counts."""
        votes: dict[str, Counter[int | str]] = defaultdict(Counter)
        for row in self.rows:
            if row.counted:
                votes[row.item_id][winner(row)] += 1
        return votes


def figures(connection: Connection) -> dict[str, Any]:
    """All figures, ready for JSON.

    Returns:
        - ``seq``: the last verdict they know of; ``verdicts``: how many they read.
        - ``agreement``: figures ``alpha`` (Krippendorff's, of first, tie, second and both bad), ``percent`` (of two
          verdicts on the same answers), ``self`` (a repeat says what was said before), ``kendall`` (mean tau-b of two
          rankings of one item), and ``kendall_pairs`` ``[{"raters", "n", "value"}]``.
        - ``raters``: for each ``rater`` (pseudonym), ``judged`` (surplus included), ``gold`` (share right), ``eta``
          (skill: chance to name the better of two answers), ``eta_policies`` (Crowd-BT over policies), ``left`` and
          ``side_habit`` (its interval leaves out ½, as one honest rater in twenty will), ``longer``, ``tie``,
          ``both_bad``, ``majority`` (agreement with that of the others), ``seconds`` (median).
        - ``policies``: ``strengths`` ``[{"policy", "component", **figure}]`` (Davidson, natural logs, mean 0 within a
          component; those of different components cannot be compared), ``order_effect`` (γ), ``longer``, ``tie``,
          ``both_bad``, ``expected`` (the majority says what the judge said), ``length_only`` (it picks the longest).
        - ``items``: ``split`` ``[{"item", "votes", "entropy"}]`` (bits, most divided first) and its whole ``count``;
          ``aside`` (item ids).
        - ``stop``: of every rule that is set, ``rule``, ``wanted``, ``now``, ``met``, ``why``.
    """
    found = read_verdicts(connection)
    agreement, strengths = _agreement(found), _strengths(found)
    return {
        "seq": max((row.seq for row in found.rows), default=0),
        "verdicts": len(found.rows),
        "agreement": agreement,
        "raters": _raters(found),
        "policies": strengths | _habits(found) | _majority(found),
        "items": _split(found) | {"aside": _aside(connection)},
        "stop": _stop(found, agreement["alpha"], strengths),
    }


def read_verdicts(connection: Connection) -> Verdicts:
    """Read what the figures are made of, without texts."""
    judged = sa.select(judgement.c.item_id).where(judgement.c.current, judgement.c.kind.in_(SCORED))
    known = connection.execute(
        sa.select(item.c.id, item.c.prompt_id, item.c.position, item.c.role, item.c.known, item.c.expected).where(
            item.c.id.in_(judged), item.c.role != "training"
        )
    )
    items = {row.id: row for row in known}
    answers = connection.execute(
        sa.select(answer.c.item_id, answer.c.index, answer.c.policy, sa.func.length(answer.c.text).label("length"))
        .where(answer.c.item_id.in_(judged))
        .order_by(answer.c.item_id, answer.c.index)
    ).all()
    rows = connection.execute(
        sa.select(*(judgement.c[name] for name in READ))
        .where(judgement.c.current, judgement.c.kind.in_(SCORED))
        .order_by(judgement.c.seq)
    )
    kept = [row for row in rows if row.item_id in items]
    names = {row.id: row.pseudonym for row in connection.execute(sa.select(rater.c.id, rater.c.pseudonym))}
    return Verdicts(read_project(connection).config, kept, items, list(answers), names, *_comparisons(kept, answers))


def _comparisons(rows: Sequence[Any], answers: Sequence[Any]) -> tuple[Integers, Integers, Integers, Array, Integers]:
    number = {(row.item_id, row.index): n for n, row in enumerate(answers)}
    found = [
        (place, number[row.item_id, a], number[row.item_id, b], label)
        for place, row in enumerate(rows)
        for a, b, label in _compared(row)
    ]
    row_C, first_C, second_C, shown_C = np.array(found, dtype=float).reshape(-1, 4).T
    first, second = first_C.astype(np.int64), second_C.astype(np.int64)
    pairs = np.minimum(first, second) * len(answers) + np.maximum(first, second)
    _, unit_C = np.unique(pairs, return_inverse=True)
    return row_C.astype(np.int64), first, second, shown_C, unit_C.astype(np.int64)


def _compared(row: Any) -> Iterator[tuple[int, int, float]]:
    """(answer shown first, answer shown second, label)."""
    if row.ranking is None:
        yield row.order[0], row.order[1], CHOICES[row.strength]
        return
    tiers = {index: place for place, tier in enumerate(row.ranking) for index in tier}
    for a, b in combinations(row.order, 2):
        if a in tiers or b in tiers:
            lead = tiers.get(b, len(tiers)) - tiers.get(a, len(tiers))
            yield a, b, FIRST if lead > 0 else SECOND if lead < 0 else TIE


# Agreement


def _agreement(found: Verdicts) -> dict[str, Any]:
    used = found.counted_C
    ratings, prompts = _by_unit(found.unit_C[used], found.said_C[used], found.prompt_C[used])
    counts = (ratings[:, :, None] == LABELS).sum(axis=0)
    labels = counts.sum(axis=1)
    agreeing = (counts * (counts - 1) // 2).sum(axis=1)
    differing = labels * (labels - 1) // 2 - agreeing
    same = np.repeat([1.0, 0.0], [agreeing.sum(), differing.sum()])
    whose = np.concatenate([np.repeat(prompts, agreeing), np.repeat(prompts, differing)])
    none = "nothing has been judged by two people yet"
    return {
        "alpha": _alpha(ratings, prompts, int((labels >= 2).sum()), none),
        "percent": _share(same, whose, none),
        "self": _self_agreement(found),
        **_kendall(found, none),
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


def _alpha(ratings: Array, prompts: NDArray[Any], n: int, none: str) -> Figure:
    estimate = krippendorff_alpha(ratings)
    if estimate is None:
        return _missing("all verdicts are the same, and chance alone would make them agree" if n else none, n)
    interval = alpha_interval(ratings, prompts.tolist(), draws=DRAWS)
    return _figure(interval, n) if interval else _figure(_bare(estimate), n, ONE_PROMPT)


def _self_agreement(found: Verdicts) -> Figure:
    """Repeats of verdicts that count; of a ranking, pair by pair."""
    again_C = found.of_rows(lambda row: row.turn) == 1
    asked = zip(found.unit_C.tolist(), found.rater_C.tolist(), strict=True)
    before, again = {}, {}
    for place, key in enumerate(asked):
        if again_C[place]:
            again[key] = place
        elif found.counted_C[place]:
            before[key] = place
    both = [(before[key], place) for key, place in again.items() if key in before]
    first, second = np.array(both, dtype=np.int64).reshape(-1, 2).T
    same = (found.said_C[first] == found.said_C[second]).astype(float)
    return _share(same, found.prompt_C[first], "no item has been repeated yet")


def _kendall(found: Verdicts, none: str) -> dict[str, Any]:
    by_item: dict[str, list[tuple[int, Array]]] = defaultdict(list)
    for row in found.rows:
        if row.counted and row.ranking is not None:
            by_item[row.item_id].append((row.rater_id, _signs(row)))
    taus: dict[tuple[str, ...], list[tuple[str, float]]] = defaultdict(list)
    for key, ranked in by_item.items():
        for (a, signs_a), (b, signs_b) in combinations(ranked, 2):
            scale = np.sqrt((signs_a**2).sum() * (signs_b**2).sum())
            if scale:  # undefined where a rater ties everything
                names = tuple(sorted((found.pseudonyms[a], found.pseudonyms[b])))
                taus[names].append((found.items[key].prompt_id, float(signs_a @ signs_b / scale)))
    values = [one for several in taus.values() for one in several]
    why = none if found.config.kind == "ranking" else "only rankings have it"
    pairs = [
        {"raters": list(names), "n": len(one), "value": float(np.mean([tau for _, tau in one]))}
        for names, one in sorted(taus.items(), key=lambda entry: (-len(entry[1]), entry[0]))
    ]
    prompts = np.array([prompt for prompt, _ in values])
    mean = _share(np.array([tau for _, tau in values]), prompts, why, bounds=(-1.0, 1.0))
    return {"kendall": mean, "kendall_pairs": pairs[:LISTED]}


def _signs(row: Any) -> Array:
    """Of every pair of answers by index: 1 the first is ranked better, −1 the second, 0 tied or both left out."""
    tiers = {index: place for place, tier in enumerate(row.ranking) for index in tier}
    place_N = np.array([tiers.get(index, len(tiers)) for index in sorted(row.order)])
    first, second = np.triu_indices(len(place_N), 1)
    signs: Array = np.sign(place_N[second] - place_N[first]).astype(float)
    return signs


# Raters


def _raters(found: Verdicts) -> list[dict[str, Any]]:
    etas, agrees_C = _etas(found), _with_others(found)
    by_rater: dict[int, list[Any]] = defaultdict(list)
    for row in found.rows:
        by_rater[row.rater_id].append(row)
    fresh_C = found.of_rows(lambda row: row.turn) == 0
    return [
        _rater(found, key, by_rater[key], (found.rater_C == key) & fresh_C, etas, agrees_C)
        for key in sorted(by_rater, key=lambda key: found.pseudonyms[key])
    ]


def _rater(
    found: Verdicts, key: int, rows: list[Any], mine: Mask, etas: dict[str, dict[int, Figure]], agrees_C: Array
) -> dict[str, Any]:
    """A repeat, whose sides are the first's swapped, says nothing new of habits: `mine` leaves it out."""
    first = [row for row in rows if row.turn == 0]
    gold = [row for row in first if found.items[row.item_id].role == "gold"]
    right = sum(winner(row) in (found.items[row.item_id].known or {}).get("best", ()) for row in gold)
    left, seconds = _left(found, mine), [(row.submitted - row.opened) / 1000 for row in rows]
    compared = mine & ~np.isnan(agrees_C)
    return {
        "rater": found.pseudonyms[key],
        "judged": len(first) - len(gold),
        "gold": _figure(wilson(right, len(gold)), len(gold)) if gold else _missing("no gold item judged yet"),
        "eta": etas["eta"].get(key, _missing(UNDECIDED)),
        "eta_policies": etas["eta_policies"].get(key, _missing(ONE_POLICY)),
        "left": left,
        "side_habit": left["low"] is not None and not left["low"] <= 0.5 <= left["high"],
        "longer": _longer(found, mine),
        "tie": _label_share(found, mine, TIE),
        "both_bad": _label_share(found, mine, BOTH_BAD),
        "majority": _share(agrees_C[compared], found.prompt_C[compared], ALONE),
        "seconds": _figure(_bare(float(np.median(seconds))), len(seconds), BARE),
    }


def _etas(found: Verdicts) -> dict[str, dict[int, Figure]]:
    """Skills by rater, gold included; ties and both bad name no better answer and are left out."""
    used = found.decided_C & (found.of_rows(lambda row: row.turn) == 0)
    if not used.any():
        return {"eta": {}, "eta_policies": {}}
    raters, rater_C = np.unique(found.rater_C[used], return_inverse=True)
    eta_R = _hidden_truths(found.unit_C[used], found.said_C[used], rater_C, _known(found)[used])
    n_R = np.bincount(rater_C)
    hidden = {int(key): _figure(_bare(float(eta_R[r])), int(n_R[r]), BARE) for r, key in enumerate(raters)}
    return {"eta": hidden, "eta_policies": _policy_etas(found, used)}


def _known(found: Verdicts) -> Array:
    """Is the answer with the lower index the better one? [C]: 1 or 0 where gold says so, NaN elsewhere."""

    def best(answer_N: Any) -> bool:
        return answer_N.index in ((found.items[answer_N.item_id].known or {}).get("best", ()))

    best_N = np.array([best(row) for row in found.answers], dtype=float)
    low, high = np.minimum(found.first_C, found.second_C), np.maximum(found.first_C, found.second_C)
    return np.where(best_N[low] == best_N[high], np.nan, best_N[low])


def _hidden_truths(unit_C: Integers, said_C: Array, rater_C: Integers, known_C: Array) -> Array:
    """η of each rater, [R]: chance to name the better answer, where every pair hides which one that is.

    Crowd-BT with strengths far apart, and the hidden truths integrated out by EM (one coin per rater: Dawid & Skene
    1979) with its prior Beta(4, 2). `crowd_bt` over single answers would fit a strength to each, and where few people
    compare a pair the strengths take up the raters' errors: everybody comes out near η = 1.
    """
    right, wrong = ETA_PRIOR
    eta_R = np.full(int(rater_C.max()) + 1, right / (right + wrong))
    counts_R = np.bincount(rater_C)
    for _ in range(EM_STEPS):
        evidence_C = (2 * said_C - 1) * np.log(eta_R / (1 - eta_R))[rater_C]
        truth_C = expit(np.bincount(unit_C, evidence_C))[unit_C]
        truth_C = np.where(np.isnan(known_C), truth_C, known_C)
        hits_R = np.bincount(rater_C, np.where(said_C == FIRST, truth_C, 1 - truth_C))
        before, eta_R = eta_R, (hits_R + right) / (counts_R + right + wrong)
        if np.abs(eta_R - before).max() < EM_STEP:
            break
    return eta_R


def _policy_etas(found: Verdicts, used: Mask) -> dict[int, Figure]:
    """Crowd-BT over policies: a perfect reader has η < 1 here if the answers of one policy differ in quality."""
    policy_N = np.array([row.policy for row in found.answers])
    used = used & (policy_N[found.first_C] != policy_N[found.second_C])
    if not used.any():
        return {}
    policies, index_N = np.unique(policy_N, return_inverse=True)
    raters, rater_C = np.unique(found.rater_C[used], return_inverse=True)
    first, second = index_N[found.first_C[used]], index_N[found.second_C[used]]
    try:
        eta_R = crowd_bt(first, second, found.shown_C[used], rater_C, len(policies), len(raters)).eta
    except (ValueError, RuntimeError) as error:
        return {int(key): _missing(str(error)) for key in raters}
    n_R = np.bincount(rater_C)
    return {int(key): _figure(_bare(float(eta_R[r])), int(n_R[r]), BARE) for r, key in enumerate(raters)}


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


def _left(found: Verdicts, mine: Mask) -> Figure:
    """Share won by what was shown further left; sides are drawn anew for every item, whatever its prompt."""
    used = mine & found.decided_C
    return _share(found.shown_C[used], found.item_C[used], UNDECIDED)


def _longer(found: Verdicts, which_C: Mask) -> Figure:
    used = which_C & found.decided_C & (found.longer_C != 0)
    won = (found.shown_C[used] == FIRST) == (found.longer_C[used] > 0)
    return _share(won, found.prompt_C[used], UNDECIDED)


def _label_share(found: Verdicts, which_C: Mask, label: float) -> Figure:
    if label == BOTH_BAD and found.config.kind == "ranking":
        return _missing("rankings have no such verdict")
    return _share(found.shown_C[which_C] == label, found.prompt_C[which_C], UNJUDGED)


# Policies


def _strengths(found: Verdicts) -> dict[str, Any]:
    """Davidson with order effect; both bad is a tie here, because it puts neither policy first."""
    policy_N = np.array([row.policy for row in found.answers])
    used = found.counted_C & (policy_N[found.first_C] != policy_N[found.second_C])
    n = int(used.sum())
    if not n:
        return {"strengths": [], "order_effect": _missing(ONE_POLICY)}
    shown = np.concatenate([policy_N[found.first_C[used]], policy_N[found.second_C[used]]])
    policies, index = np.unique(shown, return_inverse=True)
    first, second, counts = index[:n], index[n:], np.bincount(index)
    outcome = np.where(found.shown_C[used] == BOTH_BAD, TIE, found.shown_C[used])
    intervals, gamma, why = _fitted(first, second, outcome, found.prompt_C[used], len(policies))
    components = connected_components(first, second, len(policies))
    return {
        "strengths": [
            {"policy": str(name), "component": int(components[k])} | _figure(intervals[k], int(counts[k]), why)
            for k, name in enumerate(policies)
        ],
        "order_effect": _figure(gamma, n, why),
    }


def _fitted(
    first: Integers, second: Integers, outcome: Array, prompts: NDArray[Any], k: int
) -> tuple[Sequence[Interval], Interval, str]:
    """Strengths and γ; without intervals or values where there can be none, and why."""
    try:
        if len(set(prompts.tolist())) > 1:
            found = davidson_intervals(first, second, outcome, prompts.tolist(), k, order_effect=True, draws=FITS)
            return found.strengths, found.gamma, ""
        fit = davidson(first, second, outcome, k, order_effect=True)
        return [_bare(float(strength)) for strength in fit.strengths], _bare(fit.gamma), ONE_PROMPT
    except (ValueError, RuntimeError) as error:
        return [_bare(nan)] * k, _bare(nan), str(error)


def _habits(found: Verdicts) -> dict[str, Figure]:
    """Of all raters together."""
    used = found.counted_C
    return {
        "longer": _longer(found, used),
        "tie": _label_share(found, used, TIE),
        "both_bad": _label_share(found, used, BOTH_BAD),
    }


def _majority(found: Verdicts) -> dict[str, Figure]:
    """How often a judge, and the length alone, name the answer that most people put first."""
    lengths: dict[str, dict[int, int]] = defaultdict(dict)
    for row in found.answers:
        lengths[row.item_id][row.index] = row.length
    judged: list[tuple[str, float]] = []
    longest: list[tuple[str, float]] = []
    for key, votes in found.winners.items():
        (best, count), *others = votes.most_common(2)
        if isinstance(best, str) or (others and others[0][1] == count):
            continue
        prompt, sizes = found.items[key].prompt_id, lengths[key]
        expected = (found.items[key].expected or {}).get("best")
        if expected is not None:
            judged.append((prompt, float(expected == best)))
        most = [index for index, size in sizes.items() if size == max(sizes.values())]
        longest.append((prompt, (best in most) / len(most)))
    return {
        "expected": _pairs_share(judged, "no judge has said before what to expect of an item with a majority"),
        "length_only": _pairs_share(longest, "no item has a majority for one answer yet"),
    }


# Items


def _split(found: Verdicts) -> dict[str, Any]:
    """Items with divided votes, the most divided first."""
    divided = [(key, votes) for key, votes in found.winners.items() if len(votes) > 1]
    divided.sort(key=lambda entry: (-_entropy(entry[1]), found.items[entry[0]].position))
    return {
        "split": [
            {"item": key, "votes": {str(said): n for said, n in votes.most_common()}, "entropy": _entropy(votes)}
            for key, votes in divided[:LISTED]
        ],
        "count": len(divided),
    }


def _entropy(votes: Counter[Any]) -> float:
    """In bits."""
    total = votes.total()
    return -sum(n / total * log2(n / total) for n in votes.values())


def _aside(connection: Connection) -> list[str]:
    wanted = sa.select(item.c.id).where(item.c.status == "aside").order_by(item.c.position).limit(LISTED)
    return list(connection.scalars(wanted))


# Stop rules


def _stop(found: Verdicts, alpha: Figure, policies: dict[str, Any]) -> list[dict[str, Any]]:
    """Widths are those of the widest interval; with strengths missing, the order effect says why."""
    stop = found.config.stop
    rules = []
    if stop.judgements is not None:
        now = sum(row.counted for row in found.rows)
        rules.append(_rule("judgements", stop.judgements, now, now >= stop.judgements))
    for rule, wanted, parts in (
        ("agreement_width", stop.agreement_width, [alpha]),
        ("preference_width", stop.preference_width, policies["strengths"] or [policies["order_effect"]]),
    ):
        if wanted is not None:
            open_ends = [part["why"] for part in parts if part["low"] is None]
            width = None if open_ends else max(part["high"] - part["low"] for part in parts)
            why = open_ends[0] if open_ends else ""
            rules.append(_rule(rule, wanted, width, width is not None and width <= wanted, why))
    return rules


def _rule(rule: str, wanted: float, now: float | None, met: bool, why: str = "") -> dict[str, Any]:
    return {"rule": rule, "wanted": wanted, "now": now, "met": met, "why": why}


# Figures


def _pairs_share(pairs: list[tuple[str, float]], why: str) -> Figure:
    return _share(np.array([value for _, value in pairs]), np.array([name for name, _ in pairs]), why)


def _share(values: NDArray[Any], clusters: NDArray[Any], why: str, bounds: tuple[float, float] = (0.0, 1.0)) -> Figure:
    """A mean, here of what lies in `bounds`; `why` is said where there is nothing to take it of."""
    n, names = len(values), len(set(clusters.tolist()))
    if not n:
        return _missing(why)
    if names == n and np.isin(values, bounds).all() and bounds == (0.0, 1.0):
        return _figure(wilson(int(values.sum()), n), n)
    if names < 2:
        return _figure(_bare(float(values.mean())), n, ONE_PROMPT)
    interval = clustered_mean_interval(values.astype(float), clusters.tolist(), draws=DRAWS, bounds=bounds)
    return _figure(interval, n)


def _figure(interval: Interval, n: int, why: str = "") -> Figure:
    value, low, high = (float(x) if isfinite(x) else None for x in (interval.estimate, interval.low, interval.high))
    return {"value": value, "low": low, "high": high, "n": n, "why": why}


def _bare(value: float) -> Interval:
    """No interval."""
    return Interval(value, nan, nan)


def _missing(why: str, n: int = 0) -> Figure:
    return {"value": None, "low": None, "high": None, "n": n, "why": why}


# The process


@contextmanager
def reading(place: str | Path) -> Iterator[Connection]:
    """A connection that cannot write and sees one moment of the project, beside the server that owns it.

    Raises:
        StoreError: there is no such database, or no project in it.
    """
    url = database_url(place)
    shown = url.render_as_string(hide_password=True)
    sqlite = url.get_backend_name() == "sqlite"
    if sqlite and not Path(url.database or "").is_file():
        raise StoreError(f"there is no annotation project at {url.database}: start one with prefloop annotate")
    try:
        with sa.create_engine(url, poolclass=sa.NullPool).connect() as connection:
            if sqlite:
                connection.exec_driver_sql("PRAGMA query_only=ON")
                connection.exec_driver_sql("BEGIN")
            else:
                connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection
    except DBAPIError as error:
        raise StoreError(f"the project in {shown} cannot be read: {str(error.orig).strip().splitlines()[0]}") from error


def main(arguments: Sequence[str]) -> int:
    """Print the figures of the database given, or named by ``PREFLOOP_ANNOTATION_DATABASE``; the exit code."""
    place = arguments[0] if arguments else os.environ.get(DATABASE_VARIABLE)
    if not place:
        print(
            f"name a database: python -m prefloop.annotation.figures PATH_OR_URL, or {DATABASE_VARIABLE}",
            file=sys.stderr,
        )
        return 2
    try:
        with reading(place) as connection:
            found = figures(connection)
    except PrefloopError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(found, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

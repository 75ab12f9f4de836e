"""Judgements of people and judges on the same pairs of answers, side by side as arrays.

Verdicts are 1 (the first answer is better), 0 (the second), ½ (a tie) or NaN (none). *First* is the answer that the
people's first label of a pair showed first, for every rater and judge. Shapes: [N] pairs, [R, N] raters by pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.errors import DataError
from prefloop.maths.calibration import tempered
from prefloop.maths.win_rate import both_orders
from prefloop.records import Completion, Judgement

Array = NDArray[np.float64]
NONE = float("nan")


@dataclass(frozen=True)
class Pair:
    """Two answers that people compared."""

    prompt_id: str
    first: str
    second: str

    @property
    def key(self) -> frozenset[str]:
        """The two, whatever their order."""
        return frozenset((self.first, self.second))


@dataclass(frozen=True)
class Opinions:
    """What one judge says of every pair."""

    verdict_N: Array
    """NaN where the judge said nothing that can be read."""
    probability_N: Array
    """That the first answer is better; NaN as above."""
    unscored: int
    """Pairs that were put before the judge without a result."""
    not_judged: int
    """Pairs without any record of the judge."""


def labelled_pairs(people: Sequence[Judgement]) -> list[Pair]:
    """The pairs that have at least one label, in the order of their first.

    Raises:
        DataError: a judgement is not a choice between two answers.
    """
    found: dict[tuple[str, frozenset[str]], Pair] = {}
    for label in people:
        if label.kind != "choice" or len(set(label.completion_ids)) != 2:
            raise DataError(f"judgement {label.id} of {label.judge} is no choice between two answers")
        pair = Pair(label.prompt_id, *label.completion_ids)
        found.setdefault((pair.prompt_id, pair.key), pair)
    return list(found.values())


def rater_verdicts(people: Sequence[Judgement], pairs: Sequence[Pair]) -> tuple[list[str], Array]:
    """Names of the raters, sorted, and their verdicts, [R, N].

    A rater who saw a pair in both orders and did not say the same twice has a tie.
    """
    names = sorted({label.judge for label in people})
    opinions = [judge_opinions([label for label in people if label.judge == name], pairs) for name in names]
    return names, np.array([opinion.verdict_N for opinion in opinions]).reshape(len(names), len(pairs))


def judge_opinions(judgements: Sequence[Judgement], pairs: Sequence[Pair]) -> Opinions:
    """One judge's opinion of every pair, from its choices where it compared, else from its scores.

    Choices: the mean probability over the orders shown, and a tie where the orders name different winners. Scores:
    the higher one wins with probability ``σ(difference)``, as Bradley-Terry reads a reward; the temperature that is
    fitted to people makes up for another scale. A judge that compared both ways and kept the logits (PairRM) is read
    as choices with ``σ((there − back) / 2)``.
    """
    choices: dict[tuple[str, frozenset[str]], list[Judgement]] = {}
    scores: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        if judgement.kind == "choice" and len(judgement.completion_ids) == 2:
            choices.setdefault((judgement.prompt_id, frozenset(judgement.completion_ids)), []).append(judgement)
        elif judgement.kind == "score" and len(judgement.completion_ids) == 1:
            scores[judgement.prompt_id, judgement.completion_ids[0]] = judgement
    found, unscored, not_judged = [], 0, 0
    for pair in pairs:
        compared = choices.get((pair.prompt_id, pair.key), [])
        scored = [scores.get((pair.prompt_id, identity)) for identity in (pair.first, pair.second)]
        opinion = _from_choices(compared, pair) if compared else _from_scores(*scored)
        known = not np.isnan(opinion[0])
        seen = bool(compared) or None not in scored
        unscored, not_judged = unscored + (seen and not known), not_judged + (not seen)
        found.append(opinion)
    table = np.array(found, dtype=np.float64).reshape(len(pairs), 2)
    return Opinions(table[:, 0], table[:, 1], unscored, not_judged)


def length_differences(pairs: Sequence[Pair], completions: Sequence[Completion]) -> Array:
    """Characters of the first answer minus those of the second, [N].

    Raises:
        DataError: an answer is missing.
    """
    lengths: Mapping[str, int] = {completion.id: len(completion.text) for completion in completions}
    missing = next((i for pair in pairs for i in (pair.first, pair.second) if i not in lengths), None)
    if missing is not None:
        raise DataError(f"completion {missing} was labelled but is not among the completions: give their file, too")
    return np.array([lengths[pair.first] - lengths[pair.second] for pair in pairs], dtype=np.float64)


def _from_choices(compared: Sequence[Judgement], pair: Pair) -> tuple[float, float]:
    """Verdict and probability over the orders in which the pair was shown."""
    values = [
        value if judgement.completion_ids[0] == pair.first else 1 - value
        for judgement in compared
        if (value := _number(judgement.value)) is not None and 0 <= value <= 1
    ]
    if len(values) < len(compared):  # a pair of which one order failed is not judged
        return NONE, NONE
    swapped = any(judgement.raw.get("inconsistent") for judgement in compared)
    verdict = 0.5 if swapped else float(both_orders([min(values)], [max(values)])[0])
    return verdict, float(np.mean(values))


def _from_scores(first: Judgement | None, second: Judgement | None) -> tuple[float, float]:
    left, right = (_number(side.value) if side else None for side in (first, second))
    if first is None or second is None or left is None or right is None:
        return NONE, NONE
    there, back = _logit(first, second), _logit(second, first)
    if there is None or back is None:
        return (float(np.sign(left - right)) + 1) / 2, _probability(left - right)
    verdict = both_orders([(np.sign(there) + 1) / 2], [(1 - np.sign(back)) / 2])[0]
    return float(verdict), _probability((there - back) / 2)


def _logit(left: Judgement, right: Judgement) -> float | None:
    """That the left answer is better, where the judge compared the two in this order and kept it."""
    kept = left.raw.get("logits")
    return _number(kept.get(right.completion_ids[0])) if isinstance(kept, dict) else None


def _number(value: Any) -> float | None:
    """A finite number, or none."""
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _probability(logit: float) -> float:
    return float(tempered(np.array([logit]), 1.0)[0])

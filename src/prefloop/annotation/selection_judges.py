"""What judges said of answers before people see them: gaps, disagreement and the winner they expect.

A judge is read from its scores, its choices (the mean over the orders shown) or its rankings (the place is the score).
Execution speaks first: its *verdict* is which answer is correct, not the score with its smaller parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import isfinite, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.judging.execution import NAME as EXECUTION
from prefloop.records import Completion, Judgement

Ids = tuple[str, ...]
Pairs = Sequence[tuple[str, str]]


class Opinions:
    """Judgements by judge, asked by pairs of completion ids."""

    def __init__(self, judgements: Sequence[Judgement]) -> None:
        self._scores: dict[str, dict[str, float]] = {}
        self._correct: dict[str, float] = {}
        self._choices: dict[str, dict[tuple[str, str], float]] = {}
        self._digests: dict[str, str] = {}
        for judgement in judgements:
            self._add(judgement)
        names = sorted(self._scores.keys() | self._choices.keys())
        self.judges = tuple(sorted(names, key=lambda name: name != EXECUTION))
        """Execution first, then by name."""

    def _add(self, judgement: Judgement) -> None:
        ids, scores = judgement.completion_ids, self._scores.setdefault(judgement.judge, {})
        if judgement.kind == "ranking":
            places = {i: -float(place) for place, tier in enumerate(judgement.ranking) for i in tier}
            scores |= places
        elif not _known(judgement.value):
            return
        elif judgement.kind == "choice" and len(ids) == 2:
            self._choices.setdefault(judgement.judge, {})[ids[0], ids[1]] = 2 * float(judgement.value or 0.0) - 1
        elif judgement.kind == "score" and len(ids) == 1:
            scores[ids[0]] = float(judgement.value or 0.0)
            if judgement.judge == EXECUTION:
                self._correct[ids[0]] = judgement.objectives.get("correct", scores[ids[0]])
                self._digests[ids[0]] = str(judgement.raw.get("digest") or "")

    def difference(self, judge: str, a: str, b: str) -> float | None:
        """By how much `a` is better in this judge's own unit; None where it has not said."""
        shown = self._choices.get(judge, {})
        said = [value for value in (shown.get((a, b)), _negative(shown.get((b, a)))) if value is not None]
        if said:
            return sum(said) / len(said)
        scores = self._scores.get(judge, {})
        return scores[a] - scores[b] if a in scores and b in scores else None

    def verdict(self, judge: str, a: str, b: str) -> int | None:
        """1 where `a` is better, -1 where `b` is, 0 for neither; None where the judge has not said."""
        if judge == EXECUTION:
            known = a in self._correct and b in self._correct
            said = self._correct[a] - self._correct[b] if known else None
        else:
            said = self.difference(judge, a, b)
        return None if said is None else (said > 1e-9) - (said < -1e-9)

    def expected(self, ids: Ids) -> dict[str, Any] | None:
        """``{"best": index, "judge": name}`` of the first judge with an answer that it puts above all others."""
        for judge in self.judges:
            for best, i in enumerate(ids):
                if all(self.verdict(judge, i, other) == 1 for other in ids if other != i):
                    return {"best": best, "judge": judge}
        return None

    def disagree(self, ids: Ids) -> bool:
        """Is there a pair of which one judge takes one answer and another judge the other?"""
        return any(
            len({said for judge in self.judges if (said := self.verdict(judge, a, b))}) == 2
            for a, b in combinations(ids, 2)
        )

    def same_result(self, ids: Ids) -> bool:
        """Do the queries of all answers return the same?"""
        digests = {self._digests.get(i, "") for i in ids}
        return len(digests) == 1 and "" not in digests

    def gaps(self, candidates: Sequence[Ids]) -> NDArray[np.float64]:
        """[C] predicted gap: the mean over judges of their standardised differences, without sign.

        A judge's differences are divided by their root mean square over all pairs given; the gap of a ranking is the
        mean over its pairs. NaN where no judge has said.
        """
        pairs = sorted({pair for ids in candidates for pair in combinations(ids, 2)})
        standardised = [_standardised([self.difference(judge, a, b) for a, b in pairs]) for judge in self.judges]
        by_pair = {pair: _mean([said[n] for said in standardised]) for n, pair in enumerate(pairs)}
        found = [_mean([_size(by_pair[pair]) for pair in combinations(ids, 2)]) for ids in candidates]
        return np.array([np.nan if gap is None else gap for gap in found], dtype=np.float64)


def moderate(gaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[C] the middle third of the gaps that are not 0; none where fewer than three are known."""
    known = gaps[gaps > 0]
    if len(known) < 3:
        return np.zeros(len(gaps), dtype=np.bool_)
    low, high = np.quantile(known, (1 / 3, 2 / 3))
    return np.asarray((gaps >= low) & (gaps <= high))


def ids_of(answers: Sequence[Completion]) -> Ids:
    """Completion ids in the order given."""
    return tuple(completion.id for completion in answers)


def _standardised(differences: Sequence[float | None]) -> list[float | None]:
    known = [value for value in differences if value is not None]
    scale = sqrt(sum(value * value for value in known) / len(known)) if known else 0.0
    return [None if value is None else (value / scale if scale else 0.0) for value in differences]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _size(value: float | None) -> float | None:
    return None if value is None else abs(value)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def _known(value: float | None) -> bool:
    return value is not None and isfinite(value)

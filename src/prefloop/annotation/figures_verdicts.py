"""The verdicts of a project, read as comparisons of two answers.

By answer index and not by side: one of a choice, one of each pair of a ranking (two answers that were both left out of
a top-k say nothing of each other). Calibration items are never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from prefloop.annotation.figures_estimates import Array, Integers, Mask
from prefloop.annotation.protocol import SCORED
from prefloop.annotation.schema import answer, item, judgement, rater
from prefloop.annotation.stream import Connection, read_project
from prefloop.config.annotation import AnnotationConfig

FIRST, TIE, SECOND, BOTH_BAD = 1.0, 0.5, 0.0, -1.0
"""Labels of a comparison."""
LABELS = np.array([BOTH_BAD, SECOND, TIE, FIRST])
CHOICES = {0: BOTH_BAD, 1: FIRST, 2: FIRST, 3: TIE, 4: SECOND, 5: SECOND}
"""Label by strength."""
READ = "item_id rater_id turn counted strength ranking order opened submitted".split()
"""Columns of a verdict; comments and corrected answers stay where they are."""
ONE_POLICY = "no verdict tells answers of two policies apart"


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
        """Fills a slot of its item: no surplus, repeat or gold."""
        counted: Mask = self._of_rows(lambda row: row.counted).astype(bool)
        return counted

    @cached_property
    def fresh_C(self) -> Mask:
        """No repeat."""
        fresh: Mask = self._of_rows(lambda row: row.turn) == 0
        return fresh

    @cached_property
    def decided_C(self) -> Mask:
        """Names a better answer."""
        return np.isin(self.shown_C, (FIRST, SECOND))

    @cached_property
    def rater_C(self) -> Integers:
        """Key of the rater."""
        return self._of_rows(lambda row: row.rater_id)

    @cached_property
    def item_C(self) -> NDArray[np.str_]:
        return self._of_rows(lambda row: row.item_id)

    @cached_property
    def prompt_C(self) -> NDArray[np.str_]:
        return self._of_rows(lambda row: self.items[row.item_id].prompt_id)

    @cached_property
    def excess_C(self) -> Integers:
        """By how many characters the first answer is longer than the second."""
        lengths_N = np.array([row.length for row in self.answers], dtype=np.int64)
        return lengths_N[self.first_C] - lengths_N[self.second_C]

    @cached_property
    def policy_N(self) -> NDArray[np.str_]:
        return np.array([row.policy for row in self.answers])

    @cached_property
    def across_C(self) -> Mask:
        """Compares answers of two policies."""
        across: Mask = self.policy_N[self.first_C] != self.policy_N[self.second_C]
        return across

    def _of_rows(self, value: Callable[[Any], Any]) -> NDArray[Any]:
        """A value of every verdict, for its comparisons."""
        return np.array([value(row) for row in self.rows])[self.row_C] if self.rows else np.empty(0)


def read_verdicts(connection: Connection) -> Verdicts:
    """Read what the figures are made of, without texts."""
    standing = (judgement.c.current, judgement.c.kind.in_(SCORED))
    judged = sa.select(judgement.c.item_id).where(*standing)
    known = sa.select(item.c.id, item.c.prompt_id, item.c.role, item.c.known, item.c.expected)
    known = known.where(item.c.id.in_(judged), item.c.role != "training")
    items = {row.id: row for row in connection.execute(known)}
    written = sa.select(
        answer.c.item_id, answer.c.index, answer.c.policy, sa.func.length(answer.c.text).label("length")
    )
    written = written.where(answer.c.item_id.in_(judged)).order_by(answer.c.item_id, answer.c.index)
    answers: list[Any] = list(connection.execute(written))
    rows = sa.select(*(judgement.c[name] for name in READ)).where(*standing).order_by(judgement.c.seq)
    kept = [row for row in connection.execute(rows) if row.item_id in items]
    names = {row.id: row.pseudonym for row in connection.execute(sa.select(rater.c.id, rater.c.pseudonym))}
    return Verdicts(read_project(connection).config, kept, items, answers, names, *_comparisons(kept, answers))


def tiers(row: Any) -> dict[int, int]:
    """The place of every ranked answer, 0 the best; those left out are missing."""
    return {index: place for place, tier in enumerate(row.ranking) for index in tier}


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
    place = tiers(row)
    for a, b in combinations(row.order, 2):
        if a in place or b in place:
            lead = place.get(b, len(place)) - place.get(a, len(place))
            yield a, b, FIRST if lead > 0 else SECOND if lead < 0 else TIE

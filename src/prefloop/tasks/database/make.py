"""Makes a task folder of a database: schema, policies, a starter grammar's questions, a variant, and the audit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.errors import DataError
from prefloop.progress import note, progress
from prefloop.sql.pool import SandboxPool
from prefloop.tasks.database.add import add_database, keep_variant
from prefloop.tasks.database.audit.audit import GOLD_LIMITS, audit_task
from prefloop.tasks.database.audit.checks import Checked, check_questions
from prefloop.tasks.database.folder import making, write_task
from prefloop.tasks.database.grammar.draw import FAMILIES, Drawn, draw_question
from prefloop.tasks.database.grammar.world import World, world_of
from prefloop.tasks.database.model import Question, TaskFile
from prefloop.tasks.nba.text import normalised

POLICIES = """\
- missing values (NULL) are not counted in averages, and have no place in a ranking
- "over" and "under" leave the value itself out; "at least" and "at most" take it in
- "top n" and "the highest": where several tie for the last place, any of them will do
- averages are right to 2 decimals (to 4 where all values lie below 1), shares (as fractions of 1) to 3
- names and texts are compared as they are written, upper and lower case apart
- "how many" counts rows, unless the question says different or distinct
- a question that asks for an order is answered in that order; in others the order does not matter
- what the database does not hold is refused, with the reason
"""
"""Defaults a person should look at. No policy says what a year, a period or "best" means here: that is the house's."""

UNSEEN_SHARE = 0.6
UNANSWERABLE_SHARE = 0.08
"""Most questions of a split that no query can answer: a policy that never learns to refuse invents columns."""
PER_TEMPLATE = 4
"""Most test questions a template may have; more where the database gives no others."""

LARGEST_GOLD = 60
"""Rows; a longer answer is a listing, not an answer."""

BATCH = 256
STALLED_BATCHES = 4
"""Batches of draws that bring nothing before a place is given up."""


@dataclass
class _Drawing:
    """Questions as they are taken, and why others are not."""

    train: int
    unseen: int
    seen: int
    taken: list[Drawn] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    golds: dict[str, str] = field(default_factory=dict)
    """Split of each gold: a test question is no training question in other words."""
    unanswerable: Counter[str] = field(default_factory=Counter)
    """Places that are left for them, by split."""
    results: dict[str, str] = field(default_factory=dict)
    """Digest of a gold's result to the query that gave it."""
    per_template: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def split(self, drawn: Drawn, most: int) -> str:
        """Where a question would go; empty where its place is taken."""
        split = self._place(drawn, most)
        return split if drawn.sql is not None or self.unanswerable[split] else ""

    def _place(self, drawn: Drawn, most: int) -> str:
        if drawn.held_out:
            return "test" if self.unseen and self.per_template[drawn.template] < most else ""
        if self.seen and self.per_template[drawn.template] < most:
            return "test"
        return "train" if self.train else ""

    def take(self, drawn: Drawn, split: str) -> None:
        self.taken.append(drawn)
        self.splits.append(split)
        if drawn.sql is None:
            self.unanswerable[split] -= 1
        else:
            self.golds[drawn.sql] = split
        if split == "train":
            self.train -= 1
            return
        self.per_template[drawn.template] += 1
        if drawn.held_out:
            self.unseen -= 1
        else:
            self.seen -= 1


def task_from_database(
    source: Path | str,
    out: Path,
    *,
    train: int = 400,
    test: int = 200,
    variant: str | None = None,
    seed: int = 1,
    workers: int = 0,
) -> dict[str, Any]:
    """Make the task folder `out` of a SQLite file or a ``postgresql://`` URL; returns the audit.

    The same database, counts and seed give the same bytes in ``questions.jsonl``.

    Args:
        train, test: questions to draw; where the database offers fewer, there are fewer, and the audit says so.
        variant: of a PostgreSQL database, the URL of an empty one by a role that owns it, to become its variant.
        workers: sandbox processes; 0 means one per core.

    Raises:
        ConfigError: `variant` is given for a SQLite file, whose variant is a file.
        DataError: the database is missing, no database, or too small for a question; or `variant` cannot be filled.
        StoreError: `out` exists, or cannot be written.
    """
    with making(out) as folder:
        entry, found = add_database(source, folder, _called(source), "schema.sql", seed, variant)
        databases = entry.databases(folder)
        drawing = _draw(world_of(found), databases, entry.dialect, train, test, seed, workers)
        if not {"train", "test"} <= set(drawing.splits):
            raise DataError(f"{source} offers no questions that the audit lets in: it holds too little to ask about")
        order = sorted(range(len(drawing.taken)), key=lambda i: (drawing.splits[i] == "test", i))
        questions = [_question(drawing.taken[i], drawing.splits[i]) for i in order]
        write_task(folder, TaskFile(name=out.resolve().name, policies=POLICIES, databases=(entry,)), questions)
        missing = train + test - len(questions)
        if missing:
            drawing.left_out["places that this database does not fill"] = missing
            note(
                f"{len(questions):,} questions of {train + test:,}: the database offers no more that the audit lets in"
            )
        told = audit_task(folder, {"left_out": dict(sorted(drawing.left_out.items())), "seed": seed}, workers)
        keep_variant(variant)
        return told


def _called(source: Path | str) -> str:
    if isinstance(source, Path):
        return source.stem
    return source.partition("?")[0].rpartition("/")[2] or "database"


def _draw(
    world: World, databases: Sequence[Path | str], dialect: str, train: int, test: int, seed: int, workers: int
) -> _Drawing:
    """Draw in batches, check each in the sandbox, and take what is sound until every place is filled."""
    rng = np.random.default_rng([seed, 7])
    unseen = round(UNSEEN_SHARE * test)
    drawing = _Drawing(train, unseen, test - unseen)
    drawing.unanswerable.update(train=round(UNANSWERABLE_SHARE * train), test=round(UNANSWERABLE_SHARE * test))
    stalled, most = 0, PER_TEMPLATE
    with (
        SandboxPool(databases, workers, GOLD_LIMITS) as pool,
        progress("questions", train + test, "questions") as advance,
    ):
        while drawing.train or drawing.unseen or drawing.seen:
            before = len(drawing.taken)
            batch = _batch(rng, world, drawing, most)
            questions = [_question(drawn, "train") for drawn in batch]
            places = {"": list(range(len(databases)))}
            for drawn, checked in zip(batch, check_questions(questions, places, {"": dialect}, pool), strict=True):
                _consider(drawing, drawn, checked, len(databases), most)
            advance(len(drawing.taken) - before)
            stalled = 0 if len(drawing.taken) > before else stalled + 1
            if stalled == STALLED_BATCHES:
                if most > test or not (drawing.unseen or drawing.seen):
                    break
                most, stalled = most * 4, 0
    return drawing


def _batch(rng: np.random.Generator, world: World, drawing: _Drawing, most: int) -> list[Drawn]:
    """Draws whose place is free and whose text is new; families in turn."""
    found: list[Drawn] = []
    for i in range(BATCH):
        drawn = draw_question(rng, world, FAMILIES[i % len(FAMILIES)])
        if drawn is None or not drawing.split(drawn, most):
            continue
        text = normalised(drawn.text)
        if text in drawing.texts:
            drawing.left_out["drawn twice"] += 1
            continue
        drawing.texts.add(text)
        found.append(drawn)
    return found


def _consider(drawing: _Drawing, drawn: Drawn, checked: Checked, databases: int, most: int) -> None:
    split = drawing.split(drawn, most)
    reason = checked.reason
    if not reason and databases > 1 and not checked.everywhere:
        reason = "gold says nothing on the variant"
    if not reason and checked.constant:
        reason = "gold is the same on the variant"
    if not reason and checked.rows > LARGEST_GOLD and "top_k" not in drawn.comparison:
        reason = "gold is too long"
    if not reason and drawn.sql is not None:
        if split and drawing.golds.get(drawn.sql, split) != split:
            reason = "its query is one of the other split"
        elif drawing.results.setdefault(checked.digest, drawn.sql) != drawn.sql:
            reason = "another question has the same result"
    if reason:
        drawing.left_out[reason] += 1
    elif split:
        drawing.take(drawn, split)


def _question(drawn: Drawn, split: str) -> Question:
    return Question(
        question=drawn.text,
        sql=drawn.sql,
        split="test" if split == "test" else "train",
        comparison=drawn.comparison,
        compare_sql=drawn.compare_sql,
        template=drawn.template,
        family=drawn.family,
        wording=drawn.manner,
        lacks=drawn.lacks,
    )

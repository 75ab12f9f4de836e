"""The audit of a task folder: which questions can be asked, which cannot and why, and what a person should look at.

``audit.json`` says by line which questions a run leaves out, and of which state of the files; a run of files that
were changed since is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.progress import progress
from prefloop.sql.pool import Limits, SandboxPool
from prefloop.store.files import read_json, write_json, write_text
from prefloop.tasks.database.audit.checks import Checked, check_questions
from prefloop.tasks.database.audit.overlaps import COLLISION, collisions, reject_collisions, reject_repeated
from prefloop.tasks.database.audit.report import audit_report
from prefloop.tasks.database.folder import AUDIT, read_task
from prefloop.tasks.database.model import DatabaseEntry, Question, Task
from prefloop.tasks.database.source.inspection import Inspected, inspect, numbers_in_text, opened, vocabulary
from prefloop.tasks.database.words import singular, words

GOLD_LIMITS = Limits(rows=20_000, result_bytes=10_000_000)
REPORT = "audit.md"
PER_BATCH = 200
MOST_GROUPS = 50
"""Collisions that are listed."""


def audit_task(folder: Path, made: Mapping[str, Any] | None = None, workers: int = 0) -> dict[str, Any]:
    """Audit a task folder, write ``audit.json`` and ``audit.md`` into it, and return what the former holds.

    Args:
        made: how the questions came about (drawn, imported; what was dropped); default what the last audit kept.
        workers: sandbox processes; 0 means one per core.

    Raises:
        DataError: a file of the folder cannot be read; names file and line.
    """
    task = read_task(folder)
    looked = {entry.name: _looked_at(folder, entry) for entry in task.file.databases}
    if made is None:
        made = read_json(folder / AUDIT).get("made", {}) if (folder / AUDIT).is_file() else {}
    checked = _checked(task, workers)
    reject_repeated(task, checked)
    collided = collisions(task, checked)
    if task.file.collisions == "leave_out":
        reject_collisions(task, checked, collided)
    _doubt_refusals(task, checked, {name: vocabulary(found) for name, found in looked.items()})
    found = {
        "schema": 1,
        "content": task.content,
        "databases": {entry.name: _database(entry, looked[entry.name]) for entry in task.file.databases},
        **_figures(task, checked, collided),
        "made": dict(made),
    }
    write_text(folder / REPORT, audit_report(task.file.name, found))
    write_json(folder / AUDIT, found)
    return found


def read_audit(task: Task) -> dict[str, Any]:
    """The audit of the task as it stands.

    Raises:
        DataError: there is none, or files were changed since.
    """
    path = task.folder / AUDIT
    if not path.is_file():
        raise DataError(f"{task.folder} was not audited: run prefloop task audit {task.folder}")
    found: dict[str, Any] = read_json(path)
    if found.get("content") != task.content:
        raise DataError(f"{task.folder} was changed after its audit: run prefloop task audit {task.folder}")
    return found


def _checked(task: Task, workers: int) -> list[Checked]:
    databases: list[Path | str] = []
    places: dict[str, list[int]] = {}
    for entry in task.file.databases:
        own = entry.databases(task.folder)
        places[entry.name] = list(range(len(databases), len(databases) + len(own)))
        databases += own
    dialects = {entry.name: entry.dialect for entry in task.file.databases}
    first = task.file.databases[0].name
    places[""], dialects[""] = places[first], dialects[first]
    found: list[Checked] = []
    with (
        SandboxPool(databases, workers, GOLD_LIMITS) as pool,
        progress("audit", len(task.questions), "questions") as advance,
    ):
        for start in range(0, len(task.questions), PER_BATCH):
            batch = task.questions[start : start + PER_BATCH]
            found += check_questions(batch, places, dialects, pool)
            advance(len(batch))
    return found


def _doubt_refusals(task: Task, checked: list[Checked], vocabularies: Mapping[str, frozenset[str]]) -> None:
    """A question is said to ask for what a database lacks, and a name or value there has a word of it."""
    for question, found in zip(task.questions, checked, strict=True):
        asked = {singular(word) for word in words(question.lacks).split() if len(word) > len("the")}
        if known := asked & vocabularies[task.database(question).name]:
            found.doubts.append(f"it may be answered after all: the database knows {', '.join(sorted(known))}")


def _looked_at(folder: Path, entry: DatabaseEntry) -> Inspected:
    with opened(entry.databases(folder)[0]) as connection:
        return inspect(connection, entry.dialect, entry.name)


def _database(entry: DatabaseEntry, found: Inspected) -> dict[str, Any]:
    return {
        "engine": entry.dialect,
        "tables": {table.name: table.rows for table in found.schema.tables},
        "repeated_rows": found.repeated,
        "numbers_in_text": numbers_in_text(found),
        "guessed_keys": [
            f"{key.table}.{key.column} = {key.parent}.{key.parent_column}"
            for key in found.schema.keys
            if not key.declared
        ],
        "variant": entry.varied,
    }


def _figures(task: Task, checked: Sequence[Checked], collided: Sequence[Sequence[int]]) -> dict[str, Any]:
    rows = list(zip(task.questions, task.lines, checked, strict=True))
    kept = [(question, line, found) for question, line, found in rows if not found.reason]
    trained = {task.template(question) for question, _, _ in kept if question.split == "train"}
    test = [task.template(question) for question, _, _ in kept if question.split == "test"]
    return {
        "questions": len(rows),
        "accepted": {split: sum(q.split == split for q, _, _ in kept) for split in ("train", "test")},
        "unanswerable": {
            split: sum(q.sql is None and q.split == split for q, _, _ in kept) for split in ("train", "test")
        },
        "rejected": [
            {"line": line, "question": question.question, "reason": found.reason, "detail": found.detail}
            for question, line, found in rows
            if found.reason
        ],
        "doubts": [
            {"line": line, "question": question.question, "doubt": doubt}
            for question, line, found in kept
            for doubt in found.doubts
        ],
        "on_one_database": [line for question, line, found in kept if _alone(task, question, found)],
        "collisions": {
            "pairs": sum(len(group) * (len(group) - 1) // 2 for group in collided),
            "groups": [[task.lines[i] for i in group] for group in collided[:MOST_GROUPS]],
            "left_out": sum(found.reason == COLLISION for found in checked),
        },
        "same_on_variant": sum(found.constant for _, _, found in kept),
        "small_integers": sum(found.small for _, _, found in kept),
        "templates": {
            "train": len(trained),
            "test": len(set(test)),
            "unseen_questions": sum(template not in trained for template in test),
        },
        "families": dict(sorted(Counter(task.family(question) for question, _, _ in kept).items())),
    }


def _alone(task: Task, question: Question, found: Checked) -> bool:
    """The gold says nothing on the variant, so answers are compared on the database alone."""
    return not found.everywhere and task.database(question).varied

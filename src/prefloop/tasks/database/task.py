"""The database task: the accepted questions of a task folder as prompts, with everything the execution judge needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlglot

from prefloop.config.tasks import DatabaseTaskConfig
from prefloop.errors import DataError
from prefloop.records import Message, Prompt, content_id
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import cache_folder
from prefloop.tasks.database.audit.audit import read_audit
from prefloop.tasks.database.claims import plan_of_query
from prefloop.tasks.database.folder import only_copy, read_task
from prefloop.tasks.database.model import DatabaseEntry, Question, Task
from prefloop.tasks.database.prompting import system_message
from prefloop.tasks.database.source.ddl import shown_tables
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.questions.refusals import refusal_plan

NAME = "database"
ALONE = "alone"
"""Ending of the name under which a database is known without its variant."""


def database_prompts(config: DatabaseTaskConfig, seed: int) -> tuple[list[Prompt], dict[str, dict[str, int]], str]:
    """Prompts of both splits, the counts of the audit, and what a card says of them.

    The test questions are the same for every seed; the seed draws the training questions where fewer are asked for
    than the folder has.

    Raises:
        DataError: the folder was changed since its audit, or has too few questions.
    """
    task = read_task(config.folder)
    audit = read_audit(task)
    rejected = {row["line"] for row in audit["rejected"]}
    kept = [(q, line) for q, line in zip(task.questions, task.lines, strict=True) if line not in rejected]
    chosen = [
        *_drawn([row for row in kept if row[0].split == "train"], config.train_questions, config, "train", seed),
        *_drawn([row for row in kept if row[0].split == "test"], config.test_questions, config, "test", 0),
    ]
    seen = {task.template(question) for question, _ in chosen if question.split == "train"}
    alone = set(audit["on_one_database"])
    system = {
        entry.name: system_message(config.folder, task.file, entry, config.schema_in_prompt)
        for entry in task.file.databases
    }
    tables = {entry.name: _tables(config.folder, entry) for entry in task.file.databases}
    prompts = []
    for question, line in chosen:
        entry = task.database(question)
        meta = _meta(task, question, tables[entry.name], task.template(question) in seen)
        meta["database"] = f"{entry.name}/{ALONE}" if line in alone else entry.name
        prompts.append(_prompt(question, system[entry.name], meta))
    counts = {split: {"accepted": sum(p.split == split for p in prompts)} for split in ("test", "train")}
    for row in audit["rejected"]:
        split = next(q.split for q, line in zip(task.questions, task.lines, strict=True) if line == row["line"])
        counts[split][row["reason"]] = counts[split].get(row["reason"], 0) + 1
    return prompts, counts, task.file.origin


def question_counts(config: DatabaseTaskConfig) -> tuple[int, int]:
    """Training and test questions that a run asks."""
    accepted = read_audit(read_task(config.folder))["accepted"]
    return config.train_questions or accepted["train"], config.test_questions or accepted["test"]


def judge_sets(folder: Path) -> dict[str, list[Path | str]]:
    """What each prompt's ``meta.database`` stands for: frozen copies or URLs, with the variant and without."""
    found: dict[str, list[Path | str]] = {}
    for entry in read_task(folder).file.databases:
        members: list[Path | str] = [
            place if isinstance(place, str) else snapshot(place, cache_folder() / "databases")
            for place in entry.databases(folder)
        ]
        found[entry.name] = members
        if entry.varied:
            found[f"{entry.name}/{ALONE}"] = members[:1]
    return found


def sets_beside(copy: Path) -> dict[str, list[Path | str]] | None:
    """`judge_sets` of the task folder whose only database is this copy; None of a file that is none."""
    folder = copy.parent.parent
    return judge_sets(folder) if only_copy(folder) == copy else None


def folder_hash(folder: Path) -> str:
    """Names the content of a task folder."""
    return read_task(folder).content


def _drawn(
    rows: Sequence[tuple[Question, int]], count: int | None, config: DatabaseTaskConfig, split: str, seed: int
) -> list[tuple[Question, int]]:
    if not rows or (count is not None and count > len(rows)):
        raise DataError(
            f"{config.folder} has {len(rows):,} {split} questions that can be asked"
            + (f", not {count:,}: lower task.{split}_questions" if count and rows else ": see its audit.md")
        )
    ordered = sorted(rows, key=lambda row: content_id("draw", seed, row[0].database, row[0].question, row[0].sql))
    return sorted(ordered[: count or len(rows)], key=lambda row: row[1])


def _tables(folder: Path, entry: DatabaseEntry) -> list[str]:
    try:
        return sorted(shown_tables((folder / entry.shown).read_text(encoding="utf-8"), entry.dialect))
    except sqlglot.errors.SqlglotError as error:
        raise DataError(f"{folder / entry.shown} cannot be read as SQL: {' '.join(str(error).split())}") from error


def _meta(task: Task, question: Question, tables: list[str], seen: bool) -> dict[str, Any]:
    dialect = task.database(question).dialect
    plan = refusal_plan(question.lacks) if question.lacks else plan_of_query(question.sql, dialect)
    meta: dict[str, Any] = {
        "question": question.question,
        "family": task.family(question),
        "template": task.template(question),
        "seen": seen,
        "answerable": question.sql is not None,
        "gold_sql": question.sql,
        "gold_plan": plan,
        "gold_length": len(render_answer(plan, question.sql)),
        "compare_sql": question.compare_sql or question.sql,
        "comparison": question.comparison,
        "tables": tables,
        "dialect": dialect,
    }
    if question.alternatives:
        meta["alternatives"] = [
            {"sql": other.compare_sql or other.sql, "comparison": other.comparison} for other in question.alternatives
        ]
    return meta | ({"register": question.wording} if question.wording else {})


def _prompt(question: Question, system: str, meta: dict[str, Any]) -> Prompt:
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    text = f"{question.question}\n\nNote: {question.note}" if question.note else question.question
    return Prompt.create((*messages, {"role": "user", "content": text}), NAME, question.split, meta)

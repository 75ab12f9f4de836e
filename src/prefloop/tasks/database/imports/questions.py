"""Makes a task folder of a published question set: databases, comparisons by its convention, splits, and the audit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefloop.errors import ConfigError, DataError
from prefloop.progress import note
from prefloop.records import content_id
from prefloop.sql.compare import ComparisonSpec
from prefloop.sql.pool import SandboxPool
from prefloop.sql.postgres import is_postgres
from prefloop.store.files import file_hash
from prefloop.tasks.database.add import add_database, keep_variant
from prefloop.tasks.database.audit.audit import GOLD_LIMITS, audit_task
from prefloop.tasks.database.audit.checks import check_questions
from prefloop.tasks.database.audit.report import why
from prefloop.tasks.database.folder import making, write_task
from prefloop.tasks.database.imports.layouts import CONVENTIONS, BadRow, Imported, read_layout
from prefloop.tasks.database.model import UNANSWERABLE, Alternative, DatabaseEntry, Question, TaskFile
from prefloop.tasks.database.source.schema import POSTGRES, SQLITE
from prefloop.tasks.database.specs import Spec, infer, shape, skeleton

POLICIES = """\
- give the columns that the question asks for, and no others
- where the question asks for no order, the order of the rows does not matter
"""
TEST_SHARE = 0.3
"""Share of the questions that become the test, whole templates, where the set has no split of its own."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]*")
PLACES = ("{0}/{0}.sqlite", "{0}.sqlite", "{0}/{0}.db", "{0}.db", "database/{0}/{0}.sqlite")
"""Where a folder of databases may hold one, by its name."""


def task_from_questions(
    path: Path,
    database: Path | str,
    out: Path,
    *,
    layout: str | None = None,
    test: Path | None = None,
    variant: str | None = None,
    seed: int = 1,
    workers: int = 0,
) -> dict[str, Any]:
    """Make the task folder `out` of a file of questions; returns the audit.

    Args:
        database: a SQLite file, a folder of them by name, or a ``postgresql://`` URL; a URL without a database's name
            takes each question's.
        layout: ``spider, bird, defog, geoquery`` or ``jsonl``; default by the first entry.
        test: file of the test questions, of the same layout; those of `path` are then for training.
        variant: of one PostgreSQL database, the URL of an empty one by a role that owns it, to become its variant.
        seed: of the split, where the set has none, and of the variants.
        workers: sandbox processes; 0 means one per core.

    Raises:
        ConfigError: `variant` is given for SQLite, or for several databases.
        DataError: a file is missing or of no known layout, or no question of it passes the audit.
        StoreError: `out` exists, or cannot be written.
    """
    layout, rows, bad = read_layout(path, layout)
    if test is not None:
        rows = [_of_split(row, "train") for row in rows]
        _, others, wrong = read_layout(test, layout)
        rows, bad = [*rows, *(_of_split(row, "test") for row in others)], [*bad, *wrong]
    with making(out) as folder:
        sources, lost = _sources(rows, database, variant)
        bad += lost
        rows = [row for row in rows if row.database in sources]
        rules: Counter[str] = Counter()
        questions = []
        dialects = {name: SQLITE if isinstance(source, Path) else POSTGRES for name, source in sources.items()}
        several = len({_called(name, source) for name, source in sources.items()}) > 1
        for row, split in zip(rows, _splits(rows, dialects, seed), strict=True):
            try:
                questions.append(_question(row, split, layout, dialects[row.database], several, rules))
            except (ConfigError, TypeError) as error:
                bad.append(BadRow(row.place, str(error)))
            except ValidationError as error:
                bad.append(BadRow(row.place, str(error.errors()[0]["msg"]).removeprefix("Value error, ")))
        if not questions:
            raise DataError(f"no question of {path} can be asked: {bad[0].place}: {bad[0].reason}")
        if variant and isinstance(source := next(iter(sources.values())), str):
            _worth_a_variant(path, questions, source, workers)
        entries = _entries(sources, folder, seed, variant)
        hashes = ", ".join(f"`{file.name}` (SHA-256 `{file_hash(file)}`)" for file in (path, test) if file)
        file = TaskFile(
            name=out.resolve().name,
            policies=POLICIES,
            origin=f"Imported from {hashes}; its own licence and terms hold.",
            databases=tuple(entries.values()),
        )
        write_task(folder, file, questions)
        made = {
            "layout": layout,
            "rows": len(questions) + len(bad),
            "bad": [{"place": row.place, "reason": row.reason} for row in bad],
            "rules": dict(sorted(rules.items())),
        }
        found = audit_task(folder, made, workers)
        if not any(found["accepted"].values()):
            raise _nothing(path, questions, found["rejected"][0]["question"], why(found["rejected"][0]))
        keep_variant(variant)
        return found


def _nothing(path: Path, questions: Sequence[Question], first: str, reason: str) -> DataError:
    return DataError(
        f"no question of {path} passes the audit: {len(questions):,} are left out, the first: {first}: {reason}"
    )


def _worth_a_variant(path: Path, questions: Sequence[Question], url: str, workers: int) -> None:
    """A server's empty database is filled only once, so some gold has to run before.

    Raises:
        DataError: none does.
    """
    with SandboxPool([url], workers, GOLD_LIMITS) as pool:
        checked = check_questions(questions, {"": [0]}, {"": POSTGRES}, pool)
    if all(found.reason for found in checked):
        detail = f" ({checked[0].detail})" if checked[0].detail else ""
        raise _nothing(path, questions, questions[0].question, checked[0].reason + detail)


def _of_split(row: Imported, split: str) -> Imported:
    return Imported(**{**row.__dict__, "split": split})


def _sources(
    rows: Sequence[Imported], database: Path | str, variant: str | None
) -> tuple[dict[str, Path | str], list[BadRow]]:
    """Databases by the names that questions use, and the questions whose database is not at hand."""
    named = sorted({row.database for row in rows})
    sources, lost = {}, {}
    for name in named:
        if name and not _NAME.fullmatch(name):
            lost[name] = f"database name {name!r} is no name"
            continue
        found = _source(name, database, named)
        if isinstance(found, str) and not is_postgres(found):
            lost[name] = found
        else:
            sources[name] = found
    if variant and len(sources) > 1:
        raise ConfigError(f"--variant is the variant of one database, and the questions ask {len(sources)}")
    if lost:
        count = sum(row.database in lost for row in rows)
        note(f"{count:,} questions ask databases that are not at hand: {', '.join(sorted(lost)[:5])}")
    return sources, [BadRow(row.place, lost[row.database]) for row in rows if row.database in lost]


def _entries(sources: Mapping[str, Path | str], out: Path, seed: int, variant: str | None) -> dict[str, DatabaseEntry]:
    """The databases put into the folder, by what the task calls them."""
    entries: dict[str, DatabaseEntry] = {}
    for name, source in sources.items():
        called = _called(name, source)
        shown = f"schemas/{called}.sql" if len(sources) > 1 else "schema.sql"
        if called not in entries:
            entries[called] = add_database(source, out, called, shown, seed, variant)[0]
    return entries


def _called(name: str, source: Path | str) -> str:
    return name or (source.stem if isinstance(source, Path) else "database")


def _source(name: str, database: Path | str, named: Sequence[str]) -> Path | str:
    """Where a database is, or why it is not at hand."""
    if isinstance(database, str):
        return f"{database.rstrip('/')}/{name}" if re.fullmatch(r"[^/]+//[^/]*/?", database) and name else database
    if database.is_dir():
        found = [database / place.format(name) for place in PLACES] if name else []
        there = next((path for path in found if path.is_file()), None)
        return there or f"database {name or 'without a name'} is not in {database}"
    if not database.is_file():
        raise DataError(f"database {database} does not exist")
    if len(named) > 1 and name not in ("", database.stem):
        return f"asks database {name}, not {database.name}: give a folder of databases"
    return database


def _splits(rows: Sequence[Imported], dialects: dict[str, str], seed: int) -> list[str]:
    """The set's own splits; without one, whole templates drawn by seed until they hold the test's share."""
    if all(row.split for row in rows):
        return [row.split for row in rows]
    templates = [row.template or f"{row.database}: {_by_gold(row, dialects[row.database], skeleton)}" for row in rows]
    counts = Counter(template for template, row in zip(templates, rows, strict=True) if not row.split)
    test, wanted = set[str](), TEST_SHARE * sum(counts.values())
    for template in sorted(counts, key=lambda template: content_id("split", seed, template)):
        if sum(counts[each] for each in test) >= wanted:
            break
        test.add(template)
    return [
        row.split or ("test" if template in test else "train") for row, template in zip(rows, templates, strict=True)
    ]


def _by_gold(row: Imported, dialect: str, of: Callable[[str, str], str]) -> str:
    """What `of` says of the first gold."""
    return of(row.golds[0], dialect) if row.golds else UNANSWERABLE


def _question(row: Imported, split: str, layout: str, dialect: str, several: bool, rules: Counter[str]) -> Question:
    """The question with its comparisons; counts the rules that made them."""
    convention = CONVENTIONS[layout]
    start = {**convention.comparison, **row.comparison}
    ComparisonSpec.from_dict(start)
    if row.compare_sql or not row.golds:
        specs = [Spec(start, row.compare_sql or None, ("as the set says",))]
    else:
        specs = [infer(row.question, gold, dialect, start, convention.ordered) for gold in row.golds]
    others = [_alternative(gold, spec) for gold, spec in zip(row.golds[1:], specs[1:], strict=True)]
    others += row.alternatives
    question = Question(
        question=row.question,
        sql=row.golds[0] if row.golds else None,
        split="test" if split == "test" else "train",
        database=row.database if several else "",
        comparison=specs[0].comparison,
        compare_sql=specs[0].compare_sql,
        alternatives=tuple(others),
        template=row.template,
        family=row.family or _by_gold(row, dialect, shape),
        wording=row.wording,
        note=row.note,
        lacks=row.lacks,
        answer=row.answer,
        source=row.place,
    )
    rules.update(specs[0].rules or ("as rows without an order",))
    if others:
        rules["questions with several right queries"] += 1
    return question


def _alternative(gold: str, spec: Spec) -> Alternative:
    return Alternative(sql=gold, compare_sql=spec.compare_sql, comparison=spec.comparison)

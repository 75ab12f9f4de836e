"""The task folder: ``task.yaml``, schemas, ``questions.jsonl``, databases. Read strictly, written whole.

A person edits its files; so what is wrong in them is said with file and line, all of it at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from prefloop.config.section import Section
from prefloop.errors import ConfigError, DataError
from prefloop.records import content_id
from prefloop.sql.compare import ComparisonSpec
from prefloop.store.files import file_hash, unused, write_jsonl, write_text, writing
from prefloop.tasks.database.specs import shape, skeleton

TASK, QUESTIONS, AUDIT = "task.yaml", "questions.jsonl", "audit.json"
UNANSWERABLE = "unanswerable"
"""Family and template of questions without a query that do not name their own."""
SHOWN = 10
"""Findings of one file that are told at once."""


class DatabaseEntry(Section):
    """One database of a task."""

    name: str = Field(min_length=1)
    file: Path | None = None
    """SQLite copy, inside the folder."""
    variant: Path | None = None
    """The same with other numbers (`prefloop.tasks.database.variants.changes`)."""
    url: str | None = None
    """PostgreSQL, without a password."""
    variant_url: str | None = None
    """Of a PostgreSQL database, its variant."""
    shown: Path
    """DDL that prompts show."""

    @model_validator(mode="after")
    def _one(self) -> DatabaseEntry:
        if (self.file is None) == (self.url is None):
            raise ValueError("give either file (SQLite) or url (PostgreSQL)")
        if self.url and self.variant:
            raise ValueError("variant is for SQLite: that of a PostgreSQL database is a variant_url")
        if self.file and self.variant_url:
            raise ValueError("variant_url is for PostgreSQL: that of a SQLite file is a variant")
        return self

    @property
    def varied(self) -> bool:
        """It has a variant."""
        return bool(self.variant or self.variant_url)

    @property
    def urls(self) -> list[str]:
        """Itself and its variant where they are on a server."""
        return [url for url in (self.url, self.variant_url) if url]

    def databases(self, folder: Path) -> list[Path | str]:
        """What answers to its questions are run on: itself, and its variant."""
        return [*(folder / path for path in (self.file, self.variant) if path), *self.urls]

    @property
    def dialect(self) -> str:
        """``sqlite`` or ``postgres``, by sqlglot's names."""
        return "postgres" if self.url else "sqlite"


class TaskFile(Section):
    """The content of ``task.yaml``."""

    name: str = Field(min_length=1)
    policies: str = ""
    """What a question leaves open, as the prompt states it."""
    origin: str = "The prompts are the user's own."
    """What a card says of the questions."""
    collisions: Literal["leave_out", "keep"] = "leave_out"
    """What becomes of questions whose results are equal by what may be an accident
    (`prefloop.tasks.database.audit.overlaps`)."""
    databases: tuple[DatabaseEntry, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct(self) -> TaskFile:
        names = [database.name for database in self.databases]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two databases are called {twice[0]!r}")
        return self


class Alternative(Section):
    """Another right answer."""

    sql: str = Field(min_length=1)
    compare_sql: str | None = None
    comparison: dict[str, Any] = Field(default_factory=dict)


class Question(Section):
    """One line of ``questions.jsonl``."""

    question: str = Field(min_length=1)
    sql: str | None
    """Gold query; null where no query can answer."""
    split: Literal["train", "test"]
    database: str = ""
    """Of several databases, which; empty where there is one."""
    comparison: dict[str, Any] = Field(default_factory=dict)
    """What counts as equal (`prefloop.sql.compare.ComparisonSpec`)."""
    compare_sql: str | None = None
    """What answers are compared with, where that is not `sql`: a ranking beyond its limit."""
    alternatives: tuple[Alternative, ...] = ()
    template: str = ""
    """Questions of one template are clustered together; empty: made from the query's shape."""
    family: str = ""
    wording: str = ""
    """``full`` sentences or as people type (``typed``): reports are split by it."""
    note: str = ""
    """What a person would have to know beside the schema; shown with the question."""
    lacks: str = ""
    """Where no query can answer: what the database does not hold, as the right answer says it."""
    answer: str = ""
    """A stored answer, which the audit compares with what the query gives."""
    source: str = ""
    """Where it was imported from."""

    @model_validator(mode="after")
    def _comparable(self) -> Question:
        for comparison in (self.comparison, *(other.comparison for other in self.alternatives)):
            try:
                ComparisonSpec.from_dict(comparison)
            except (ConfigError, TypeError) as error:
                raise ValueError(str(error)) from error
        if self.sql is None and (self.alternatives or self.compare_sql):
            raise ValueError("sql is null, so there is nothing to compare with: remove compare_sql and alternatives")
        if self.sql is not None and self.lacks:
            raise ValueError("lacks is for questions that no query can answer, and sql is one: remove either")
        return self

    def row(self) -> dict[str, Any]:
        """As JSON, without what is at its default."""
        return {"question": self.question, "sql": self.sql, **self.model_dump(mode="json", exclude_defaults=True)}


@dataclass(frozen=True)
class Task:
    """A task folder as read."""

    folder: Path
    file: TaskFile
    questions: tuple[Question, ...]
    lines: tuple[int, ...]
    """Line of each question in ``questions.jsonl``."""

    def database(self, question: Question) -> DatabaseEntry:
        """The database a question asks."""
        if not question.database:
            return self.file.databases[0]
        return next(entry for entry in self.file.databases if entry.name == question.database)

    def template(self, question: Question) -> str:
        """The question's template: as written, or what its database and the shape of its query say."""
        if question.template:
            return question.template
        entry = self.database(question)
        return f"{entry.name}: {skeleton(question.sql, entry.dialect) if question.sql else UNANSWERABLE}"

    def family(self, question: Question) -> str:
        """The question's family: as written, or the kind of its query."""
        if question.family:
            return question.family
        return shape(question.sql, self.database(question).dialect) if question.sql else UNANSWERABLE

    @property
    def content(self) -> str:
        """Hash of everything that decides prompts and verdicts."""
        names = [entry.name for entry in self.file.databases]
        files = [path for entry in self.file.databases for path in (entry.file, entry.variant, entry.shown) if path]
        hashes = [file_hash(self.folder / path) for path in files]
        settings = self.file.model_dump(mode="json", exclude={"origin"})
        return content_id(settings, names, hashes, [question.row() for question in self.questions], list(self.lines))


def read_task(folder: Path) -> Task:
    """Read and check a task folder.

    Raises:
        DataError: a file is missing or says something that cannot be; names file and line.
    """
    file = _task_file(folder / TASK)
    for entry in file.databases:
        for path in (entry.file, entry.variant, entry.shown):
            if path and not (folder / path).is_file():
                raise DataError(f"{folder / TASK}: database {entry.name}: {folder / path} does not exist")
    names = {entry.name for entry in file.databases}
    questions, lines, wrong = [], [], []
    for number, found in _lines(folder / QUESTIONS):
        if isinstance(found, str):
            wrong.append(f"line {number}: {found}")
        elif found.database not in names and not (found.database == "" and len(names) == 1):
            wrong.append(f"line {number}: database {found.database!r} is none of {', '.join(sorted(names))}")
        else:
            questions.append(found)
            lines.append(number)
    if wrong:
        more = f" | and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError(f"{folder / QUESTIONS}: {' | '.join(wrong[:SHOWN])}{more}")
    if not questions:
        raise DataError(f"{folder / QUESTIONS} is empty: put one JSON object with question, sql and split on each line")
    return Task(folder, file, tuple(questions), tuple(lines))


def only_copy(folder: Path) -> Path | None:
    """The SQLite copy of a task that has one database, and that as a file; None of any other, or where none is.

    Raises:
        DataError: ``task.yaml`` cannot be read.
    """
    if not (folder / TASK).is_file():
        return None
    databases = _task_file(folder / TASK).databases
    return folder / databases[0].file if len(databases) == 1 and databases[0].file else None


def _task_file(path: Path) -> TaskFile:
    if not path.is_file():
        raise DataError(f"{path} does not exist: make a task folder with prefloop task from-database or task import")
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    try:
        return TaskFile.model_validate(content)
    except ValidationError as error:
        found = [f"line {_line(tree, e['loc'])}: {_place(e['loc'])}{_reason(e)}" for e in error.errors()]
        raise DataError(f"{path}: {' | '.join(found)}") from error


def _line(tree: yaml.Node | None, location: Sequence[str | int]) -> int:
    """Line of the deepest part of a place that stands in the file."""
    line = 1
    for part in location:
        if isinstance(tree, yaml.MappingNode):
            found = next(((key, value) for key, value in tree.value if key.value == part), None)
            if found is None:
                return line
            line, tree = found[0].start_mark.line + 1, found[1]
        elif isinstance(tree, yaml.SequenceNode) and isinstance(part, int) and part < len(tree.value):
            tree = tree.value[part]
            line = tree.start_mark.line + 1
    return line


def _lines(path: Path) -> list[tuple[int, Question | str]]:
    """Every line that holds anything: its number, and the question or what is wrong with it."""
    if not path.is_file():
        raise DataError(f"{path} does not exist: it holds the questions, one JSON object on each line")
    found: list[tuple[int, Question | str]] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            found.append((number, Question.model_validate(json.loads(line))))
        except ValidationError as error:
            found.append((number, "; ".join(f"{_place(e['loc'])}{_reason(e)}" for e in error.errors())))
        except ValueError as error:
            found.append((number, f"not valid JSON ({error})"))
    return found


def _place(location: Sequence[str | int]) -> str:
    return f"{'.'.join(map(str, location))}: " if location else ""


def _reason(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return "unknown key" if error["type"] == "extra_forbidden" else f"{message[0].lower()}{message[1:]}"


HEAD = """\
# A text-to-SQL task. What you change here, in the schemas or in questions.jsonl is checked by
#
#   prefloop task audit {folder}
#
# and run by
#
#   prefloop run database-sql --set task.folder={folder}
#
# policies stand in every prompt: they decide what a question leaves open. The ones below are a start. Change them to
# what holds in your house, and the gold queries with them.
"""


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """The folder in which a task is made: it becomes `out` once it is whole, and is gone if it never is.

    Raises:
        StoreError: `out` holds something, or cannot be written.
    """
    unused(out)
    partial = out.with_name(f".{out.name}.partial")
    with writing(out):
        shutil.rmtree(partial, ignore_errors=True)  # of work that was cut
        try:
            partial.mkdir(parents=True)
            yield partial
            partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_task(folder: Path, file: TaskFile, questions: Sequence[Question]) -> None:
    """Write ``task.yaml`` and ``questions.jsonl``; the databases and schemas they name are there already."""
    content = file.model_dump(mode="json", exclude_none=True)
    write_text(folder / TASK, HEAD.format(folder=file.name) + yaml.dump(content, Dumper=_Dumper, sort_keys=False))
    write_jsonl(folder / QUESTIONS, [question.row() for question in questions])


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that they can be edited."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)

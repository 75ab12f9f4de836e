"""What a task folder says: databases, questions, and what decides prompts and verdicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from prefloop.config.section import Section
from prefloop.errors import ConfigError
from prefloop.records import content_id
from prefloop.sql.compare import ComparisonSpec
from prefloop.store.files import file_hash
from prefloop.tasks.database.specs import shape, skeleton

UNANSWERABLE = "unanswerable"
"""Family and template of questions without a query that do not name their own."""


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

"""What a prompt says before the question: the answer format, the policies, and as much schema as asked for."""

from __future__ import annotations

from pathlib import Path

import sqlglot

from prefloop.errors import ConfigError, DataError
from prefloop.tasks.database.model import DatabaseEntry, TaskFile
from prefloop.tasks.database.source.ddl import names_only

ENGINES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}

FORMAT = """You answer questions about a database in {engine}.
Answer with one line that starts with "Plan:" and says in plain words what is computed from which tables, then one \
query in a fenced sql block. If the database cannot answer, say in the plan that it cannot be answered and why, and \
give no query."""


def system_message(folder: Path, file: TaskFile, entry: DatabaseEntry, schema: str) -> str:
    """The system message for ``none`` (empty: the policy was trained on the task), ``names`` or ``ddl``.

    Raises:
        ConfigError: ``none``, where a question alone does not say which database it asks.
        DataError: the schema's file is no SQL.
    """
    if schema == "none":
        if len(file.databases) > 1:
            raise ConfigError(f"task.schema_in_prompt=none: {folder} has several databases; take names or ddl")
        return ""
    shown = (folder / entry.shown).read_text(encoding="utf-8").strip()
    if schema == "names":
        try:
            shown = names_only(shown, entry.dialect)
        except sqlglot.errors.SqlglotError as error:
            raise DataError(f"{folder / entry.shown} cannot be read as SQL: {' '.join(str(error).split())}") from error
    policies = f"\n\nPolicies:\n{file.policies.strip()}" if file.policies.strip() else ""
    return f"{FORMAT.format(engine=ENGINES[entry.dialect])}{policies}\n\nSchema:\n{shown}"

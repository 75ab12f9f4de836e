"""The schema as prompts show it: CREATE TABLE statements with frequent values and guessed keys as comments."""

from __future__ import annotations

from collections.abc import Mapping

import sqlglot
from sqlglot import exp

from prefloop.tasks.database.source.profile import BOOLEAN, TEXT, Profile, nameable
from prefloop.tasks.database.source.schema import Schema, Table, literal, quoted

MOST_VALUES = 8
"""Distinct values of a text column that are listed."""


def ddl(schema: Schema, profiles: Mapping[str, Mapping[str, Profile]]) -> str:
    """All tables."""
    return "\n\n".join(_table(schema, table, profiles[table.name]) for table in schema.tables) + "\n"


def _table(schema: Schema, table: Table, profiles: Mapping[str, Profile]) -> str:
    def name(text: str) -> str:
        return quoted(text, schema.dialect)

    parts = []
    for column in table.columns:
        flags = [flag for flag, on in (("PRIMARY KEY", table.primary_key == (column.name,)),) if on]
        parts.append((" ".join([name(column.name), column.type, *flags]).strip(), _comment(profiles[column.name])))
    if len(table.primary_key) > 1:
        parts.append((f"PRIMARY KEY ({', '.join(map(name, table.primary_key))})", ""))
    for key in schema.keys:
        if key.table == table.name and key.declared:
            target = f"{name(key.parent)}({name(key.parent_column)})"
            parts.append((f"FOREIGN KEY ({name(key.column)}) REFERENCES {target}", ""))
    lines = [f"  {text}{',' if i + 1 < len(parts) else ''}{comment}" for i, (text, comment) in enumerate(parts)]
    guessed = [
        f"-- {name(table.name)}.{name(key.column)} holds {name(key.parent)}.{name(key.parent_column)}"
        for key in schema.keys
        if key.table == table.name and not key.declared
    ]
    return "\n".join([f"CREATE TABLE {name(table.name)} (", *lines, ");", *guessed])


def _comment(profile: Profile) -> str:
    if (
        profile.kind not in (TEXT, BOOLEAN)
        or not 0 < profile.distinct <= MOST_VALUES
        or profile.distinct == profile.rows
    ):
        return ""
    values = [value for value, _ in profile.values if not isinstance(value, str) or nameable(value)]
    return f" -- {', '.join(literal(value) for value in values)}" if values else ""


def names_only(text: str, dialect: str) -> str:
    """One line per table, ``name(column, column)``, of a schema as `ddl` or a person wrote it.

    >>> names_only("CREATE TABLE a (x INTEGER, y TEXT);", "sqlite")
    'a(x, y)'
    """
    return "\n".join(f"{table}({', '.join(columns)})" for table, columns in shown_tables(text, dialect).items())


def shown_tables(text: str, dialect: str) -> dict[str, list[str]]:
    """Tables and columns that a schema's text creates; statements of other kinds are passed over.

    Raises:
        sqlglot.errors.SqlglotError: the text is no SQL.
    """
    found = {}
    for statement in sqlglot.parse(text, dialect=dialect):
        if isinstance(statement, exp.Create) and isinstance(statement.this, exp.Schema):
            columns = [part.name for part in statement.this.expressions if isinstance(part, exp.ColumnDef)]
            found[statement.this.this.name] = columns
    return found

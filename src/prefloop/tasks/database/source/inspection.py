"""One look at a database: its schema with guessed keys, what its columns hold, and rows that stand twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.tasks.database.source.keys import with_guessed_keys
from prefloop.tasks.database.source.profile import Profile, profile_tables, reads_as_number
from prefloop.tasks.database.source.schema import (
    POSTGRES,
    Reader,
    Schema,
    Table,
    open_sqlite,
    postgres_schema,
    quoted,
    reading,
    sqlite_schema,
)
from prefloop.tasks.database.words import singular, words

COUNTED_ROWS = 1_000_000
"""Larger tables are not searched for repeated rows."""


@dataclass(frozen=True)
class Inspected:
    """What was seen."""

    schema: Schema
    profiles: dict[str, dict[str, Profile]]
    repeated: dict[str, dict[str, Any]]
    """By table that has some: rows beyond the first of their kind, and one of them."""


@contextmanager
def opened(database: Path | str) -> Iterator[Reader]:
    """A trusted read-only connection to a SQLite copy or a PostgreSQL URL.

    Raises:
        DataError: it cannot be reached, or its role may do more than read.
    """
    if isinstance(database, Path):
        with open_sqlite(database) as connection:
            yield connection
    else:
        from prefloop.sql.postgres import connect_readonly

        with connect_readonly(database) as remote:
            yield remote


def inspect(connection: Reader, dialect: str, place: str) -> Inspected:
    """Look at a database; `place` names it in errors.

    Raises:
        DataError: it holds no tables, or a server does not let one be read.
    """
    if dialect == POSTGRES:
        from prefloop.tasks.database.source.server import keep_all_times

        keep_all_times(connection)
    with reading(place, dialect):
        schema = (postgres_schema if dialect == POSTGRES else sqlite_schema)(connection, place)
        profiles = profile_tables(connection, schema)
        schema = with_guessed_keys(connection, schema, profiles)
        repeated = {table.name: rows for table in schema.tables if (rows := _repeated(connection, schema, table))}
    return Inspected(schema, profiles, repeated)


def numbers_in_text(found: Inspected) -> dict[str, list[str]]:
    """Text columns most of whose values are numbers, with some that are not: what casting them makes 0 of."""
    return {
        f"{table}.{column}": [value for value, _ in profile.values if not reads_as_number(value)][:3]
        for table, profiles in sorted(found.profiles.items())
        for column, profile in sorted(profiles.items())
        if 2 * profile.numbers_in_text > profile.rows - profile.nulls
    }


def vocabulary(found: Inspected) -> frozenset[str]:
    """Singular words of the names of tables and columns, and of the texts that columns frequently hold."""
    names = [name for table in found.schema.tables for name in (table.name, *(c.name for c in table.columns))]
    texts = [
        value
        for profiles in found.profiles.values()
        for profile in profiles.values()
        for value, _ in profile.values
        if isinstance(value, str)
    ]
    return frozenset(singular(word) for text in (*names, *texts) for word in words(text).split())


def _repeated(connection: Reader, schema: Schema, table: Table) -> dict[str, Any]:
    """Rows that equal another in everything but a number of their own."""
    own = table.primary_key if len(table.primary_key) == 1 else ()
    columns = [column for column in table.columns if column.name not in own]
    if not columns or len(table.primary_key) > 1 or table.rows > COUNTED_ROWS:
        return {}
    names = ", ".join(quoted(column.name, schema.dialect) for column in columns)
    query = (
        f"SELECT {names}, COUNT(*) FROM {quoted(table.name, schema.dialect)} GROUP BY {names} HAVING COUNT(*) > 1"
        f" ORDER BY {', '.join(str(i + 1) for i in range(len(columns)))}"
    )
    if schema.dialect == POSTGRES:
        from prefloop.tasks.database.source.server import rows_if_any

        found = rows_if_any(connection, query)
    else:
        found = connection.execute(query).fetchall()
    if not found:
        return {}
    return {"rows": sum(row[-1] - 1 for row in found), "example": [str(cell) for cell in found[0][:-1]]}

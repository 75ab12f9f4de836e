"""What a database says of itself: tables, columns, keys and row counts, of SQLite and of PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from prefloop.errors import DataError

SQLITE, POSTGRES = "sqlite", "postgres"
"""Dialects, by sqlglot's names."""

RESERVED = frozenset(
    """add all alter analyse analyze and any array as asc asymmetric authorization between both by case cast check
    collate column commit constraint create cross current_date current_role current_time current_timestamp
    current_user database default deferrable delete desc distinct do drop else end escape except exists explain false
    fetch for foreign freeze from full glob grant group having if ilike in index initially inner insert intersect into
    is isnull join key lateral leading left like limit localtime localtimestamp match natural not notnull null of
    offset on only or order outer over overlaps partition placing primary references replace returning right row rows
    select session_user set similar some symmetric table then to trailing transaction trigger true union unique update
    user using values variadic verbose view when where window with""".split()
)
"""Words that neither engine takes for a name without quotes, or not everywhere."""


@dataclass(frozen=True)
class Column:
    """One column as declared."""

    name: str
    type: str
    nullable: bool = True
    generated: bool = False


@dataclass(frozen=True)
class Table:
    """One table; its size is counted, not estimated."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    unique: frozenset[str] = frozenset()
    """Columns that are unique by themselves, a single primary key included."""
    rows: int = 0


@dataclass(frozen=True)
class ForeignKey:
    """``table.column`` holds values of ``parent.parent_column``."""

    table: str
    column: str
    parent: str
    parent_column: str
    declared: bool = True
    """False: guessed by name and checked by values (`prefloop.tasks.database.source.keys`)."""


@dataclass(frozen=True)
class Schema:
    """All tables of a database, by name, and the keys between them."""

    dialect: str
    tables: tuple[Table, ...]
    keys: tuple[ForeignKey, ...] = ()

    def table(self, name: str) -> Table:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)


class Reader(Protocol):
    """A trusted read-only connection: what `sqlite3` and `psycopg` connections share."""

    def execute(self, query: Any, /) -> Any:
        """A cursor over the rows."""
        ...


def reading(place: str, dialect: str) -> AbstractContextManager[None]:
    """What a server says against reading a `place` becomes a DataError that names it."""
    if dialect != POSTGRES:
        return nullcontext()
    from prefloop.tasks.database.source import server  # loads psycopg, which a file does not need

    return server.reading(place)


def quoted(name: str, dialect: str) -> str:
    """An identifier as it stands in a query: in double quotes only where it needs them.

    >>> (
    ...     quoted("birth date", "sqlite"),
    ...     quoted("StuID", "sqlite"),
    ...     quoted("StuID", "postgres"),
    ...     quoted("order", "sqlite"),
    ... )
    ('"birth date"', 'StuID', '"StuID"', '"order"')
    """
    plain = r"[a-z_][a-z0-9_]*" if dialect == POSTGRES else r"[A-Za-z_][A-Za-z0-9_]*"
    if re.fullmatch(plain, name) and name.lower() not in RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value as it stands in a query.

    >>> literal("O'Neal"), literal(3), literal(None)
    ("'O''Neal'", '3', 'NULL')
    """
    if value is None:
        return "NULL"
    return repr(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


def open_sqlite(path: Path) -> closing[sqlite3.Connection]:
    """A read-only connection to a copy that nobody writes; text that is no UTF-8 is read with marks in it."""
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return closing(connection)


def sqlite_schema(connection: Reader, place: str) -> Schema:
    """Schema of a SQLite database; views, virtual tables and SQLite's own tables are left out.

    Raises:
        DataError: it holds no table.
    """
    found = connection.execute(
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite~_%' "
        "ESCAPE '~' ORDER BY name"
    )
    names = [row[0] for row in found.fetchall()]
    if not names:
        raise DataError(f"{place} holds no tables: give a database with data")
    tables = tuple(_sqlite_table(connection, name) for name in names)
    spelled = {table.name.lower(): table for table in tables}
    keys = [key for table in tables for key in _sqlite_keys(connection, table, spelled)]
    return Schema(SQLITE, tables, tuple(keys))


def _sqlite_table(connection: Reader, name: str) -> Table:
    rows = connection.execute(f"PRAGMA table_xinfo({literal(name)})").fetchall()
    columns = tuple(
        Column(row[1], row[2] or "", not (row[3] or row[5]), row[6] in (2, 3)) for row in rows if row[6] != 1
    )
    primary = tuple(row[1] for row in sorted(rows, key=lambda row: row[5]) if row[5])
    unique = set(primary) if len(primary) == 1 else set()
    for index in connection.execute(f"PRAGMA index_list({literal(name)})").fetchall():
        members = connection.execute(f"PRAGMA index_info({literal(index[1])})").fetchall()
        if index[2] and not index[4] and len(members) == 1 and members[0][2]:
            unique.add(members[0][2])
    count = connection.execute(f"SELECT COUNT(*) FROM {quoted(name, SQLITE)}").fetchone()[0]
    return Table(name, columns, primary, frozenset(unique), count)


def _sqlite_keys(connection: Reader, table: Table, tables: dict[str, Table]) -> Iterable[ForeignKey]:
    """Declared keys of one column whose parent exists; SQLite compares names without case."""
    rows = connection.execute(f"PRAGMA foreign_key_list({literal(table.name)})").fetchall()
    composite = {row[0] for row in rows if row[1] > 0}
    for row in sorted(rows):
        parent = tables.get(str(row[2]).lower())
        if row[0] in composite or parent is None:
            continue
        column = _spelled(row[3], table.columns)
        target = _spelled(row[4], parent.columns) if row[4] else (parent.primary_key or ("",))[0]
        if column and target:
            yield ForeignKey(table.name, column, parent.name, target)


def _spelled(name: str, columns: Sequence[Column]) -> str:
    return next((column.name for column in columns if column.name.lower() == name.lower()), "")


_POSTGRES_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull, a.attgenerated <> ''
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND pg_table_is_visible(c.oid)
  AND c.relnamespace::regnamespace::text !~ '^(pg_|information_schema)' AND has_table_privilege(c.oid, 'SELECT')
ORDER BY c.relname, a.attnum
"""
_POSTGRES_KEYS = """
SELECT t.relname, c.contype::text,
  ARRAY(SELECT a.attname::text FROM unnest(c.conkey) WITH ORDINALITY k(n, i)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.n ORDER BY k.i),
  p.relname,
  ARRAY(SELECT a.attname::text FROM unnest(c.confkey) WITH ORDINALITY k(n, i)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.n ORDER BY k.i)
FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid LEFT JOIN pg_class p ON p.oid = c.confrelid
WHERE c.contype IN ('p', 'u', 'f') AND pg_table_is_visible(t.oid)
ORDER BY t.relname, c.contype, c.conname
"""


def postgres_schema(connection: Reader, place: str) -> Schema:
    """Schema of the tables that the role may read without naming their schema, partitioned ones once.

    Raises:
        DataError: it may read no table.
    """
    tables: dict[str, Table] = {}
    for name, column, kind, nullable, generated in connection.execute(_POSTGRES_COLUMNS).fetchall():
        table = tables.setdefault(name, Table(name, ()))
        tables[name] = replace(table, columns=(*table.columns, Column(column, kind, nullable, generated)))
    if not tables:
        raise DataError(f"{place} shows no table to this role: GRANT SELECT on some, or set its search_path")
    keys = []
    for name, kind, columns, parent, targets in connection.execute(_POSTGRES_KEYS).fetchall():
        if name not in tables:
            continue
        if kind == "p":
            tables[name] = replace(tables[name], primary_key=tuple(columns))
        if kind in "pu" and len(columns) == 1:
            tables[name] = replace(tables[name], unique=tables[name].unique | set(columns))
        if kind == "f" and len(columns) == 1 and parent in tables:
            keys.append(ForeignKey(name, columns[0], parent, targets[0]))
    for name, table in tables.items():
        with reading(f"table {name}", POSTGRES):
            count = connection.execute(f"SELECT COUNT(*) FROM {quoted(name, POSTGRES)}").fetchone()[0]
        tables[name] = replace(table, rows=count)
    return Schema(POSTGRES, tuple(tables.values()), tuple(keys))

"""Writes the variant of a PostgreSQL database (``changes``) into an empty database of the user's.

The role that answers run under can only read, so another one, which owns the empty database, writes: the tables by the
same names in the same schemas, with their types, primary keys, generated columns and indexes. Foreign keys, checks and
defaults decide no result and are left out. Rows go from server to server in PostgreSQL's own text form.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from psycopg import sql

from prefloop.errors import DataError
from prefloop.sql.postgres import apply_settings, read_address, url_as
from prefloop.tasks.database.source.profile import Profile
from prefloop.tasks.database.source.schema import Schema, Table
from prefloop.tasks.database.variants.changes import Changes, draw_changes
from prefloop.tasks.database.variants.owned import check_reader, clear, mark, owned

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

NUMBER = sql.Identifier("prefloop row number")
"""Of a row in the order of its table's key; a column beside the table's own."""
ORIGINAL, DRAWN = (sql.Identifier("pg_temp", name) for name in ("prefloop original", "prefloop drawn"))
ROW = sql.Identifier("prefloop row")
"""Names that no table and no column of a user's has, which would be meant instead."""
ROWS_PER_BLOCK = 10_000

_ENUMS = """
SELECT DISTINCT n.nspname, t.typname, ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid
  ORDER BY enumsortorder)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type u ON u.oid = a.atttypid
JOIN pg_type t ON t.oid IN (u.oid, u.typbasetype, u.typelem) AND t.typtype = 'e'
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE c.relname = ANY(%s) AND pg_table_is_visible(c.oid)
"""
_COLUMNS = """
SELECT c.relname, n.nspname, a.attname,
  CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) ELSE format_type(a.atttypid, a.atttypmod) END,
  CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relname = ANY(%s) AND c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) ORDER BY c.relname, a.attnum
"""
_INDEXES = """
SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relname = ANY(%s) AND c.relkind = 'r' AND pg_table_is_visible(c.oid) AND NOT i.indisprimary
ORDER BY 1
"""


def write_postgres_variant(
    source: Connection, into: str, schema: Schema, profiles: Mapping[str, Mapping[str, Profile]], seed: int
) -> tuple[dict[str, list[str]], str]:
    """Fill the empty database at the URL `into`, and let the role of `source` read it; all of it or nothing.

    What an unfinished task left there is replaced; `owned.keep` says that a task is finished.

    Args:
        source: read-only connection whose transaction sees one state.
        into: URL of a role that owns the database; used here alone, and not kept.

    Returns:
        What was changed, by table: column names, and ``rows`` where some are gone; and the URL by which the role of
        `source` reads the variant.

    Raises:
        DataError: `into` cannot be reached, holds anything, lacks a type or may not be written; a table takes longer to
            read than the role's time limit; or the role could do more than read in `into`.
    """
    address, reader = read_address(into), source.info.user
    apply_settings(source, {"idle_in_transaction_session_timeout": "0"})  # it waits while the other server writes
    (schemas,) = source.execute("SELECT current_schemas(false)::text[]").fetchone() or ((),)
    schemas = [name for name in schemas if not name.startswith("pg_")]
    url = url_as(into, reader, () if schemas == ["public"] else schemas)
    changed: dict[str, list[str]] = {}
    with owned(into) as target:
        names = [table.name for table in schema.tables]
        try:
            clear(target, address.shown)
            check_reader(target, url, reader)
            places = _create(source, target, names, schemas)
            for table in schema.tables:
                changes = draw_changes(table, schema, profiles[table.name], seed)
                _fill(source, target, table, places[table.name], changes)
                if changes.told:
                    changed[table.name] = changes.told
            _finish(source, target, schema, places, schemas, reader)
        except psycopg.errors.QueryCanceled as error:
            raise DataError(
                "a table takes longer to read than the role's statement_timeout: raise it while the variant is made"
            ) from error
        except psycopg.Error as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"the variant cannot be written into {address.shown}: {reason}") from error
    return changed, url


def _create(source: Connection, target: Connection, names: list[str], schemas: list[str]) -> dict[str, sql.Identifier]:
    """Schemas, enumerations and empty tables, found by the source's search path; tables with their schemas, by name."""
    for name in schemas:
        target.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
    target.execute(sql.SQL("SET LOCAL search_path = {}").format(sql.SQL(", ").join(map(sql.Identifier, schemas))))
    target.execute("SET LOCAL DateStyle = 'ISO, YMD'")
    target.execute("SET LOCAL TimeZone = 'UTC'")
    for space, name, labels in source.execute(_ENUMS, [names]).fetchall():
        target.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(space)))
        values = sql.SQL(", ").join(map(sql.Literal, labels))
        target.execute(sql.SQL("CREATE TYPE {} AS ENUM ({})").format(sql.Identifier(space, name), values))
        mark(target, "TYPE", sql.Identifier(space, name))
    columns, places = source.execute(_COLUMNS, [names]).fetchall(), {}
    for (table, space), rows in groupby(columns, key=lambda row: (row[0], row[1])):
        parts = [
            sql.SQL("{} {}{}").format(sql.Identifier(name), sql.SQL(kind), _generated(expression))
            for _, _, name, kind, expression in rows
        ]
        places[table] = sql.Identifier(space, table)
        target.execute(sql.SQL("CREATE TABLE {} ({})").format(places[table], sql.SQL(", ").join(parts)))
        mark(target, "TABLE", places[table])
    return places


def _generated(expression: str | None) -> sql.SQL:
    return sql.SQL(f" GENERATED ALWAYS AS ({expression}) STORED" if expression else "")


def _fill(source: Connection, target: Connection, table: Table, place: sql.Identifier, changes: Changes) -> None:
    """Copy a table's rows as they stand, then give each the values that were drawn for it."""
    own = [sql.Identifier(column.name) for column in table.columns if not column.generated]
    columns = sql.SQL(", ").join(own)
    _drop_temporary(target)
    target.execute(sql.SQL("CREATE TABLE {} AS SELECT {} FROM {}").format(ORIGINAL, columns, place))
    target.execute(
        sql.SQL("ALTER TABLE {} ADD {} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY").format(ORIGINAL, NUMBER)
    )
    keys = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
    order = keys if table.primary_key else sql.SQL('{}::text COLLATE "C"').format(ROW)  # what ties then is equal
    rows = sql.SQL("COPY (SELECT {} FROM {} AS {} ORDER BY {}) TO STDOUT").format(columns, place, ROW, order)
    with (
        source.cursor().copy(rows) as read,
        target.cursor().copy(sql.SQL("COPY {} ({}) FROM STDIN").format(ORIGINAL, columns)) as written,
    ):
        for block in read:
            written.write(block)
    target.execute(sql.SQL("ANALYZE {}").format(ORIGINAL))
    (_insert_drawn if changes.drawn else _insert_kept)(target, table, place, columns, changes)


def _drop_temporary(target: Connection) -> None:
    target.execute(sql.SQL("DROP TABLE IF EXISTS {}, {}").format(ORIGINAL, DRAWN))


def _insert_kept(
    target: Connection, table: Table, place: sql.Identifier, columns: sql.Composed, changes: Changes
) -> None:
    """All rows but those that are gone."""
    _load(target, [NUMBER], [changes.gone])
    target.execute(
        sql.SQL(
            "INSERT INTO {0} ({1}) SELECT {1} FROM {2} o WHERE NOT EXISTS (SELECT FROM {3} d WHERE d.{4} = o.{4})"
            " ORDER BY o.{4}"
        ).format(place, columns, ORIGINAL, DRAWN, NUMBER)
    )


def _insert_drawn(
    target: Connection, table: Table, place: sql.Identifier, columns: sql.Composed, changes: Changes
) -> None:
    """The rows that stay, with the values of other rows in the columns that are drawn anew."""
    stays = np.ones(table.rows, dtype=bool)
    stays[changes.gone] = False
    kept = np.flatnonzero(stays)
    others = {column: sql.Identifier(f"other {i}") for i, column in enumerate(changes.drawn)}
    _load(target, [NUMBER, *others.values()], [kept, *(drawn[kept] for drawn in changes.drawn.values())])
    same = sql.Identifier("same")
    values = sql.SQL(", ").join(
        sql.SQL("{}.{}").format(others.get(column.name, same), sql.Identifier(column.name))
        for column in table.columns
        if not column.generated
    )
    joins = sql.SQL("").join(
        sql.SQL(" JOIN {0} AS {1} ON {1}.{2} = d.{3}").format(ORIGINAL, alias, NUMBER, number)
        for alias, number in [(same, NUMBER), *((other, other) for other in others.values())]
    )
    target.execute(
        sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} AS d{} ORDER BY d.{}").format(
            place, columns, values, DRAWN, joins, NUMBER
        )
    )


def _load(target: Connection, names: list[sql.Identifier], positions: list[np.ndarray]) -> None:
    """`DRAWN`: numbers of rows, which begin at 1, in columns."""
    kinds = sql.SQL(", ").join(sql.SQL("{} bigint").format(name) for name in names)
    target.execute(sql.SQL("CREATE TABLE {} ({})").format(DRAWN, kinds))
    with target.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(DRAWN)) as written:
        for start in range(0, len(positions[0]), ROWS_PER_BLOCK):
            block = np.stack([column[start : start + ROWS_PER_BLOCK] for column in positions], axis=1) + 1
            for row in block.tolist():
                written.write_row(row)
    target.execute(sql.SQL("ANALYZE {}").format(DRAWN))


def _finish(
    source: Connection,
    target: Connection,
    schema: Schema,
    places: Mapping[str, sql.Identifier],
    schemas: list[str],
    reader: str,
) -> None:
    """Keys, indexes (what is fast on the database is fast on the variant), rights and statistics."""
    role = sql.Identifier(reader)
    for table in schema.tables:
        name = places[table.name]
        if table.primary_key:
            keys = sql.SQL(", ").join(map(sql.Identifier, table.primary_key))
            target.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, keys))
        target.execute(sql.SQL("GRANT SELECT ON {} TO {}").format(name, role))
        target.execute(sql.SQL("ANALYZE {}").format(name))
    for (definition,) in source.execute(_INDEXES, [[table.name for table in schema.tables]]).fetchall():
        plain = definition.replace("CREATE UNIQUE INDEX", "CREATE INDEX", 1)  # values that are drawn anew may repeat
        with suppress(psycopg.Error), target.transaction():  # of a function or kind that is not there: slower, no more
            target.execute(plain)
    for space in schemas:
        target.execute(sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(space), role))
    _drop_temporary(target)

"""A second database of the same kind, on which an answer has to be right as well.

On one database many wrong queries find the right result by accident, a constant always does. In the variant, numbers,
dates and categories are drawn anew from their own column, and some rows of tables that no other table refers to are
gone: counts, sums, averages and orders differ; names, keys and types stay, and so do the values that filters name.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from prefloop.records import content_id
from prefloop.store.files import atomic_path
from prefloop.tasks.database.profile import BOOLEAN, DATE, NUMBER, TEXT, Profile
from prefloop.tasks.database.schema import SQLITE, Schema, Table, quoted
from prefloop.tasks.database.words import key_like

MOST_CELLS = 5_000_000
"""Larger tables only lose rows: half a minute of work, and a large database stays quick."""

DROPPED_SHARE = 1 / 8
FEWEST_ROWS = 8
"""Tables with fewer rows lose none."""


def write_variant(
    database: Path, out: Path, schema: Schema, profiles: Mapping[str, Mapping[str, Profile]], seed: int
) -> dict[str, list[str]]:
    """Write the variant of a SQLite file; the same file and seed give the same rows.

    Returns:
        What was changed, by table: column names, and ``rows`` where some are gone.
    """
    changed = {}
    with atomic_path(out) as temporary:
        temporary.unlink(missing_ok=True)
        with closing(sqlite3.connect(temporary, uri=True)) as connection:
            connection.execute("ATTACH ? AS original", [f"{database.resolve().as_uri()}?mode=ro&immutable=1"])
            with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as source:
                source.backup(connection)
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA ignore_check_constraints = ON")
            for (name,) in connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {quoted(name, SQLITE)}")
            for table in schema.tables:
                if found := _perturb(connection, table, schema, profiles[table.name], seed):
                    changed[table.name] = found
            connection.commit()
    return changed


def measures(table: Table, schema: Schema, profiles: Mapping[str, Profile]) -> list[str]:
    """Columns that hold numbers which are not keys, and may be equal in two rows."""
    return [name for name in _no_keys(table, schema) if profiles[name].kind == NUMBER]


def _varied(table: Table, schema: Schema, profiles: Mapping[str, Profile]) -> list[str]:
    """Columns whose values are drawn anew: texts only where they repeat, since those that do not are names."""
    kinds = (NUMBER, DATE, BOOLEAN)
    return [
        name
        for name in _no_keys(table, schema)
        if profiles[name].kind in kinds or (profiles[name].kind == TEXT and 2 * profiles[name].distinct <= table.rows)
    ]


def _no_keys(table: Table, schema: Schema) -> list[str]:
    keys = {key.column for key in schema.keys if key.table == table.name}
    keys |= {key.parent_column for key in schema.keys if key.parent == table.name}
    return [
        column.name
        for column in table.columns
        if column.name not in keys | table.unique | set(table.primary_key)
        and not column.generated
        and not key_like(column.name)
    ]


def _perturb(
    connection: sqlite3.Connection, table: Table, schema: Schema, profiles: Mapping[str, Profile], seed: int
) -> list[str]:
    name, columns = quoted(table.name, SQLITE), _varied(table, schema, profiles)
    if table.rows < 2:
        return []
    if table.rows * len(columns) > MOST_CELLS:
        columns = []
    try:
        rowids = [row[0] for row in connection.execute(f"SELECT rowid FROM main.{name} ORDER BY rowid")]
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return []
    rng = np.random.default_rng(int(content_id("variant", seed, table.name), 16))
    drawn = {column: rng.integers(len(rowids), size=len(rowids)) for column in columns}
    changed = columns
    if not _rewrite(connection, name, rowids, drawn):  # an index over several columns forbids it
        changed = [column for column in columns if _rewrite(connection, name, rowids, {column: drawn[column]})]
    if table.rows >= FEWEST_ROWS and all(key.parent != table.name for key in schema.keys):
        gone = rng.choice(rowids, size=max(1, round(DROPPED_SHARE * len(rowids))), replace=False)
        connection.executemany(f"DELETE FROM main.{name} WHERE rowid = ?", [(int(rowid),) for rowid in gone])
        return [*changed, "rows"]
    return changed


def _rewrite(connection: sqlite3.Connection, name: str, rowids: list[int], drawn: Mapping[str, np.ndarray]) -> bool:
    """Give each row, column by column, the value of the drawn one; all of it or nothing."""
    if not drawn:
        return True
    places = [quoted(column, SQLITE) for column in drawn]
    values = ", ".join(f"{place} = (SELECT {place} FROM original.{name} WHERE rowid = ?)" for place in places)
    others = zip(*([rowids[i] for i in order.tolist()] for order in drawn.values()), strict=True)
    rows = ((*other, rowid) for other, rowid in zip(others, rowids, strict=True))
    connection.execute("SAVEPOINT varied")
    try:
        connection.executemany(f"UPDATE main.{name} SET {values} WHERE rowid = ?", rows)
    except sqlite3.IntegrityError:
        connection.execute("ROLLBACK TO varied")
        return False
    finally:
        connection.execute("RELEASE varied")
    return True

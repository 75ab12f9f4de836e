"""Writes the variant of a SQLite file (``changes``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from prefloop.store.files import atomic_path
from prefloop.tasks.database.source.profile import Profile
from prefloop.tasks.database.source.schema import SQLITE, Schema, Table, quoted
from prefloop.tasks.database.variants.changes import Changes, draw_changes

ROW_NUMBERS = ("rowid", "_rowid_", "oid")
"""SQLite's names of a row's number; a column of that name hides it, and a table with all three is left as it is."""


def write_sqlite_variant(
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
                changes = draw_changes(table, schema, profiles[table.name], seed)
                if found := _written(connection, table, changes):
                    changed[table.name] = found
            connection.commit()
    return changed


def _written(connection: sqlite3.Connection, table: Table, changes: Changes) -> list[str]:
    """Carry the changes out; what of them was possible."""
    name, columns = quoted(table.name, SQLITE), {column.name.lower() for column in table.columns}
    number = next((word for word in ROW_NUMBERS if word not in columns), None)
    if number is None:
        return []
    try:
        rowids = [row[0] for row in connection.execute(f"SELECT {number} FROM main.{name} ORDER BY {number}")]
    except sqlite3.OperationalError:  # WITHOUT ROWID
        return []
    if not _rewrite(connection, name, number, rowids, changes.drawn):  # an index over several columns forbids it
        each = changes.drawn.items()
        alone = {c: drawn for c, drawn in each if _rewrite(connection, name, number, rowids, {c: drawn})}
        changes = replace(changes, drawn=alone)
    gone = [(rowids[position],) for position in changes.gone.tolist()]
    connection.executemany(f"DELETE FROM main.{name} WHERE {number} = ?", gone)
    return changes.told


def _rewrite(
    connection: sqlite3.Connection, name: str, number: str, rowids: list[int], drawn: Mapping[str, np.ndarray]
) -> bool:
    """Give each row, column by column, the value of the drawn one; all of it or nothing."""
    if not drawn:
        return True
    places = [quoted(column, SQLITE) for column in drawn]
    values = ", ".join(f"{place} = (SELECT {place} FROM original.{name} WHERE {number} = ?)" for place in places)
    others = zip(*([rowids[i] for i in order.tolist()] for order in drawn.values()), strict=True)
    rows = ((*other, rowid) for other, rowid in zip(others, rowids, strict=True))
    connection.execute("SAVEPOINT varied")
    try:
        connection.executemany(f"UPDATE main.{name} SET {values} WHERE {number} = ?", rows)
    except sqlite3.IntegrityError:
        connection.execute("ROLLBACK TO varied")
        return False
    finally:
        connection.execute("RELEASE varied")
    return True

"""Rows of real seasons into a league's file: each once, contradictions named, whole or not at all.

The league is copied, filled and put in its own place in one step, so an import that is killed changes nothing, and the
same import again adds nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, StoreError
from prefloop.store.files import atomic_path
from prefloop.store.rows import BadRow
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports.rows import KEYS, Row

SHOWN = 20
"""Findings that are kept to be told one by one."""
TOLERANCE = 0.0015
"""Two sources round a share to three decimals, and not always alike."""


@dataclass
class Merged:
    """What became of the rows."""

    added: Counter[str] = field(default_factory=Counter)
    """By table."""
    known: Counter[str] = field(default_factory=Counter)
    """Rows that were there already, by table: nothing is doubled."""
    filled: Counter[str] = field(default_factory=Counter)
    """Rows of which columns were empty before, by table."""
    contradictions: list[str] = field(default_factory=list)
    """Values that differ from those that were there first, which stay; each with its place."""
    bad: list[BadRow] = field(default_factory=list)


def merge_rows(rows: Iterable[Row | BadRow], league: Path) -> Merged:
    """Add rows to a league, which is made where there is none.

    Raises:
        DataError: no row could be read, or the league is no such database. Nothing has changed then.
        StoreError: it cannot be written.
    """
    found = Merged()
    with atomic_path(league) as work:
        if league.exists():
            shutil.copyfile(league, work)
        try:
            with closing(sqlite3.connect(work)) as connection, connection:
                _prepare(connection, league.exists(), league)
                for row in rows:
                    found.bad.append(row) if isinstance(row, BadRow) else _take(connection, row, found)
                if not found.added and not found.known:
                    raise DataError(f"nothing could be imported: {_first(found.bad)}")
                _mark(connection)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{league} cannot be written: {error}") from error
    return found


def _prepare(connection: sqlite3.Connection, there: bool, league: Path) -> None:
    if not there:
        schema.create(connection)
        schema.create_indexes(connection)
        return
    for table in KEYS:
        try:
            columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        except sqlite3.DatabaseError as error:
            raise DataError(f"{league} is no league: {error}") from error
        if missing := set(schema.table_columns()[table]) - columns:
            raise DataError(f"{league} is no league: its table {table} has no column {min(missing)}")


def _take(connection: sqlite3.Connection, row: Row, found: Merged) -> None:
    """Insert a row, or compare it with the one that is there."""
    where = " AND ".join(f"{name} = ?" for name in KEYS[row.table])
    cursor = connection.execute(f"SELECT * FROM {row.table} WHERE {where}", row.key)
    there = cursor.fetchone()
    if there is None:
        names = ", ".join(row.values)
        marks = ", ".join("?" * len(row.values))
        connection.execute(f"INSERT INTO {row.table} ({names}) VALUES ({marks})", list(row.values.values()))
        found.added[row.table] += 1
        return
    before = dict(zip((column[0] for column in cursor.description), there, strict=True))
    empty = {name: value for name, value in row.values.items() if before[name] is None and value is not None}
    if empty:
        sets = ", ".join(f"{name} = ?" for name in empty)
        connection.execute(f"UPDATE {row.table} SET {sets} WHERE {where}", [*empty.values(), *row.key])
        found.filled[row.table] += 1
    found.known[row.table] += 1
    for name, value in row.values.items():
        if value is not None and before[name] is not None and not _same(before[name], value):
            said = f"{row.file}, row {row.line}: {name} is {value!r}, and {before[name]!r} was there first"
            found.contradictions.append(f"{said} ({row.table} {' '.join(map(str, row.key))})")


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return abs(float(a) - float(b)) <= TOLERANCE
    return bool(a == b)


def _mark(connection: sqlite3.Connection) -> None:
    """What every game has, in its own columns."""
    connection.execute(
        "UPDATE games SET has_basic_stats = 1 WHERE (SELECT COUNT(*) FROM team_box_scores t "
        "WHERE t.game_id = games.game_id) = 2"
    )
    connection.execute(
        "UPDATE games SET has_play_by_play = 1 WHERE EXISTS (SELECT 1 FROM game_play_by_play e "
        "WHERE e.game_id = games.game_id)"
    )


def _first(bad: Sequence[BadRow]) -> str:
    return f"{bad[0].file}, row {bad[0].line}: {bad[0].reason}" if bad else "there is no row"

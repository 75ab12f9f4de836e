"""Rows of real seasons into a league's file: each once, contradictions named, whole or not at all.

The league is copied, filled and put in its own place in one step, so an import that is killed changes nothing, and the
same import again adds nothing.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, StoreError
from prefloop.store.files import atomic_path, exclusive
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports import record
from prefloop.tasks.nba.imports.full_names import COLUMNS as SHORTENED
from prefloop.tasks.nba.imports.full_names import complete_names
from prefloop.tasks.nba.imports.matching import Known, WaitingError, closed, has_rows
from prefloop.tasks.nba.imports.people import abbreviates
from prefloop.tasks.nba.imports.rows import KEYS, Remark, Row
from prefloop.tasks.nba.imports.synthetic_marks import drop_players

TOLERANCE = 0.0015
"""Two sources round a share to three decimals, and not always alike."""
OWN_WAYS = {
    *("player_name", "player_slug", "home_team_name", "away_team_name", "position", "location", "city"),
    *("notes", "source_url", "scraped_at", "created_at", "updated_at", "data_quality_score"),
    *("has_basic_stats", "has_advanced_stats", "has_four_factors", "has_play_by_play"),
}
"""Columns in which sources differ without contradicting each other; what was there first stays."""
UNSAID = {"games": {"num_overtime_periods": None}, "player_box_scores": {"is_starter": None}}
"""What no source has said is NULL, not the 0 that the schema gives a column left out."""


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
    waiting: list[BadRow] = field(default_factory=list)
    """Rows whose game is not in the league; the same file can be imported again once it is."""
    replaced: list[str] = field(default_factory=list)
    """Games whose synthetic player rows gave way to real ones."""
    remarks: list[str] = field(default_factory=list)
    """What the file's reader left out, and why."""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        counts = {name: dict(getattr(self, name)) for name in ("added", "known", "filled")}
        places = {name: list(map(_place, getattr(self, name))) for name in ("bad", "waiting")}
        return {**vars(self), **counts, **places}


def merge_rows(rows: Iterable[Row | BadRow | Remark], league: Path, source: record.Source | None = None) -> Merged:
    """Add rows to a league, which is made where there is none.

    Args:
        source: the file that they come from, recorded with what became of it; a row that waits for its game leaves it
            unfinished.

    Raises:
        DataError: no row could be read, or the league is no such database. Nothing has changed then.
        StoreError: it cannot be written.
    """
    found = Merged()
    with opened(league) as connection:
        work = _Work(connection, Known(connection), found)
        for row in rows:
            match row:
                case BadRow():
                    found.bad.append(row)
                case Remark():
                    found.remarks.append(f"{row.file}: {row.text}")
                case Row():
                    _take(work, row)
        if not (found.added or found.known or found.contradictions or found.remarks):
            raise DataError(f"nothing could be imported: {_first(found)}")
        _mark(connection)
        named = complete_names(connection, work.games)
        found.remarks += [f"{', '.join(sorted(work.files))}: {text}" for text in named]
        if source is not None and not found.waiting:
            record.remember_file(connection, source, found.row())
    return found


@contextmanager
def opened(league: Path, must_exist: bool = False) -> Iterator[sqlite3.Connection]:
    """A copy of a league, or an empty one, that takes its place when the block ends without an error.

    Args:
        must_exist: an empty one will not do.

    Raises:
        DataError: it is no league.
        StoreError: it cannot be written.
    """
    if must_exist:
        with reading(league):
            pass  # or an error, before anything is made beside it
    with exclusive(league), atomic_path(league) as work:
        work.unlink(missing_ok=True)  # of an import that was killed
        try:
            with closing(sqlite3.connect(work)) as connection, connection:
                _prepare(connection, league)
                connection.execute("PRAGMA journal_mode = MEMORY")  # a killed import leaves no journal beside the copy
                yield connection
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
                raise StoreError(f"disk full while writing {league}, which is as before: free some space") from error
            raise StoreError(f"{league} cannot be written, and is as before: {error}") from error


def _prepare(connection: sqlite3.Connection, league: Path) -> None:
    if not league.exists():
        schema.create(connection)
        schema.create_indexes(connection)
    else:
        with reading(league) as before:
            before.backup(connection)
        connection.execute("PRAGMA journal_mode = DELETE")  # a copy marked WAL would leave files beside it
    record.create(connection)


@contextmanager
def reading(league: Path) -> Iterator[sqlite3.Connection]:
    """A league that nobody may change.

    Raises:
        DataError: it is missing, or no league: a table or a column is missing.
    """
    if league.is_dir():
        raise DataError(f"{league} is a folder: name the league's file in it")
    if not league.is_file():
        raise DataError(f"{league} does not exist: make it with prefloop league import")
    try:
        with closing(sqlite3.connect(f"{league.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            for table in KEYS:
                columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
                if missing := set(schema.table_columns()[table]) - columns:
                    raise DataError(f"{league} is no league: its table {table} has no column {min(missing)}")
            yield connection
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise  # it is where it is copied to that is full
        raise DataError(f"{league} is no league: {error}") from error


@dataclass
class _Work:
    connection: sqlite3.Connection
    league: Known
    found: Merged
    before: dict[tuple[str, str, str | None], bool] = field(default_factory=dict)
    """Whether a game, or a team in it, had rows of a table before this source."""
    games: set[str] = field(default_factory=set)
    """Whose players or events came in."""
    files: set[str] = field(default_factory=set)
    """Which brought these."""
    refused: set[tuple[str, str, str | None]] = field(default_factory=set)
    """What is told once: a game of which another source gave other events."""


def _take(work: _Work, row: Row) -> None:
    """Insert a row, or compare it with the one that is there."""
    found = work.found
    try:
        row = work.league.placed(row)
    except WaitingError as error:
        if row.table != "games":  # what a row says of its game waits with the row itself
            found.waiting.append(BadRow(row.file, row.line, str(error)))
        return
    except BadRowError as error:
        found.bad.append(BadRow(row.file, row.line, str(error)))
        return
    group = row.table, str(row.values["game_id"]), row.values.get("team")
    if group not in work.before:
        if row.table == "player_box_scores" and drop_players(work.connection, group[1]):
            found.replaced.append(group[1])
        work.before[group] = has_rows(work.connection, *group)
    there = work.league.find(row)
    if there is not None:
        _compare(work, row, there, group)
    elif work.before[group] and (reason := closed(work.connection, row)):
        _contradicts(work, row, reason, group)
    else:
        values = {**UNSAID.get(row.table, {}), **row.values}
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        try:
            query = f"INSERT INTO {row.table} ({names}) VALUES ({marks})"
            work.league.add(row, work.connection.execute(query, list(values.values())).lastrowid or 0)
        except sqlite3.IntegrityError as error:
            found.bad.append(BadRow(row.file, row.line, f"it is not complete ({error})"))
            return
        found.added[row.table] += 1
        if row.table in ("player_box_scores", "game_play_by_play"):
            work.games.add(row.values["game_id"])
            work.files.add(row.file)


def _compare(work: _Work, row: Row, there: dict[str, Any], group: tuple[str, str, str | None]) -> None:
    """Fill what is empty in the row that is there, and tell what it contradicts."""
    known = {name: value for name, value in row.values.items() if value is not None}
    if row.table == "player_box_scores" and there["did_not_play"] and known.get("did_not_play"):
        known.pop("dnp_reason", None)  # one source's "Inactive" is another's "DNP - Coach's Decision"
    empty = {name: value for name, value in known.items() if there[name] is None}
    differing = [
        name for name in known if not (name in empty or name in OWN_WAYS or _same(name, there[name], known[name]))
    ]
    for name in differing:
        _contradicts(work, row, f"{name} is {known[name]!r}, and {there[name]!r} was there first", group)
    if empty and not differing:  # the halves of two accounts are no third
        sets = ", ".join(f"{name} = ?" for name in empty)
        work.connection.execute(f"UPDATE {row.table} SET {sets} WHERE rowid = ?", [*empty.values(), there["rowid"]])
        work.found.filled[row.table] += 1
        work.league.changed(row)
    if row.table != "games" or "game_date" in row.values:  # what a box score says of its game is no row of its own
        work.found.known[row.table] += 1


def _contradicts(work: _Work, row: Row, reason: str, group: tuple[str, str, str | None]) -> None:
    """Tell a contradiction; of the events of a game, which another source numbers otherwise, the first alone."""
    if row.table == "game_play_by_play":
        if group in work.refused:
            return
        work.refused.add(group)
        reason = f"{reason}; the game has another play-by-play, which stays whole"
    said = f"{row.file}, row {row.line}: {reason}"
    work.found.contradictions.append(f"{said} ({row.table} {' '.join(map(str, row.key))})")


def _same(column: str, a: Any, b: Any) -> bool:
    if column in SHORTENED and isinstance(a, str) and a != b:
        return abbreviates(str(b), a)
    if isinstance(a, float) or isinstance(b, float):
        try:
            return abs(float(a) - float(b)) <= TOLERANCE
        except ValueError:
            return False
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


def _first(found: Merged) -> str:
    bad = [*found.bad, *found.waiting]
    return _place(bad[0]) if bad else "there is no row"


def _place(row: BadRow) -> str:
    return f"{row.file}, row {row.line}: {row.reason}"

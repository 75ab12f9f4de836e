"""A database of somebody else in the league's own schema, read from a copy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.sql.snapshot import BUSY_S, snapshot
from prefloop.store.files import cache_folder
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.rows import KEYS, Remark, Row, day_of, game_id, shooting
from prefloop.tasks.nba.imports.seasons import one_form, season_from
from prefloop.tasks.nba.imports.synthetic_marks import IS_SIMULATED, NOTE, PREFIX
from prefloop.tasks.nba.imports.typed import column_types, required, typed


def read_league(path: Path) -> Iterator[Row | BadRow | Remark]:
    """Rows of the four tables of games, those that are there; synthetic player rows and simulated games are left out.

    Nothing is written to the file: a frozen copy in the cache is read. Columns that it lacks are NULL and named, as are
    tables and columns that the schema does not have. Codes of teams are taken as they are.

    Raises:
        DataError: it is no database, has no ``games``, lacks columns that cannot be NULL (all are named), or labels its
            seasons in several ways.
    """
    copy = snapshot(path, cache_folder() / "databases")
    try:
        with closing(sqlite3.connect(f"{copy.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            connection.text_factory = bytes  # text that is no UTF-8 is a row's fault, not the file's
            columns, remarks = _columns(connection, path)
            yield from (Remark(path.name, text) for text in remarks)
            one_form(path, _labels(connection))
            simulated = _simulated(connection)
            for table, names in columns.items():
                yield from _table(connection, path.name, table, names, simulated)
            if simulated:
                yield Remark(path.name, f"left out {len(simulated):,} simulated games and all their rows")
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path} cannot be read as a database: {error}") from error


def require_games(path: Path) -> None:
    """Refuse a database of which no game can be read.

    Raises:
        DataError: it is no database, has no ``games``, lacks columns that cannot be NULL, or has simulated games alone.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", BUSY_S, uri=True)) as connection:
            connection.text_factory = bytes
            _columns(connection, path)
            ((games,),) = connection.execute("SELECT COUNT(*) FROM games")
            if games and len(_simulated(connection)) == games:
                raise DataError(
                    f"{path} holds simulated games alone, and a league is made of real ones: "
                    "ask about it with --database, as it is"
                )
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as a SQLite database: {error}") from error


def row_count(path: Path) -> int:
    """Rows of the four tables; 0 of a file that is no database, which reading it tells."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master") if name in KEYS]
            return sum(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables)
    except sqlite3.DatabaseError:
        return 0


def _columns(connection: sqlite3.Connection, path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Columns to read by table, and what is missing or ignored."""
    there = [row[0].decode() for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    if "games" not in there:
        raise DataError(f"{path} has no table games: it is no database in the Basketball-Reference style")
    found, remarks, missing = {}, [], []
    for table in KEYS:
        if table not in there:
            remarks.append(f"it has no table {table}")
            continue
        has = [row[1].decode() for row in connection.execute(f"PRAGMA table_info({table})")]
        wanted = [name for name in column_types()[table] if name != "id"]
        missing += [f"{table}.{name}" for name in required(table) if name not in has]
        found[table] = [name for name in wanted if name in has]
        if lacking := [name for name in wanted if name not in has]:
            remarks.append(f"{table} lacks {', '.join(lacking)}: they stay empty")
        if extra := sorted(set(has) - set(wanted) - {"id"}):
            remarks.append(f"{table} has further columns, which are ignored: {', '.join(extra)}")
    if missing:
        raise DataError(f"{path} lacks columns that no row can be without: {', '.join(missing)}")
    return found, remarks


def _simulated(connection: sqlite3.Connection) -> set[Any]:
    """Names of the games that were never played."""
    if "notes" not in [row[1].decode() for row in connection.execute("PRAGMA table_info(games)")]:
        return set()
    return {name for (name,) in connection.execute(f"SELECT game_id FROM games WHERE {IS_SIMULATED}")}


def _labels(connection: sqlite3.Connection) -> Iterator[tuple[int, str, str]]:
    for line, label, day in connection.execute("SELECT rowid, season, game_date FROM games ORDER BY rowid"):
        try:
            yield line, str(_text(label, "season")), day_of(_text(day, "game_date"), "game_date")
        except BadRowError:  # told when the row is read
            continue


def _table(
    connection: sqlite3.Connection, file: str, table: str, names: list[str], simulated: set[Any]
) -> Iterator[Row | BadRow | Remark]:
    left, game = 0, names.index("game_id")
    for line, *cells in connection.execute(f"SELECT rowid, {', '.join(names)} FROM {table} ORDER BY rowid"):
        if cells[game] in simulated:
            continue
        try:
            values = typed(table, {name: _text(cell, name) for name, cell in zip(names, cells, strict=True)})
            if str(values.get("player_slug") or "").startswith(PREFIX):
                left += 1
                continue
            _check(table, values)
        except BadRowError as error:
            yield BadRow(file, line, f"{table}: {error}")
            continue
        yield Row(table, values, file, line)
    if left:
        yield Remark(file, f"left out {left:,} synthetic player rows")


def _check(table: str, values: dict[str, Any]) -> None:
    """Refuse a row without what it cannot be without, or of a game whose name does not fit it."""
    if missing := [name for name in required(table) if values.get(name) is None]:
        raise BadRowError(f"{', '.join(missing)} is missing")
    if table.endswith("_box_scores") and not values.get("did_not_play"):
        shooting(values)  # the shots give the points
    if table != "games":
        return
    day = day_of(values["game_date"], "game_date")
    season_from(values["season"], day, "end_year")
    if values["game_id"] != game_id(day, values["home_team"]):
        raise BadRowError(f"game_id {values['game_id']!r} is not its date, 0 and its home team")
    notes = [note for note in str(values.get("notes") or "").split("; ") if note and note != NOTE]
    values["notes"] = "; ".join(notes) or None


def _text(cell: Any, name: str) -> Any:
    """A cell as SQLite would give it."""
    if not isinstance(cell, bytes):
        return cell
    try:
        return cell.decode()
    except UnicodeDecodeError as error:
        raise BadRowError(f"{name} is not UTF-8 (byte {error.start + 1})") from None

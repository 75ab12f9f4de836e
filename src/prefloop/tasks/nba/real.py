"""A league of one's own as the task's database: a frozen copy, and a variant on which an answer must be right too.

An answer that is right by accident in one league is wrong in the other. The simulator plays a second season for that;
of a real one the variant is made: the same teams, players and dates, other results.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.errors import DataError
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import atomic_path, cache_folder, exclusive
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports.synthetic_marks import synthetic_games, tell_synthetic

VARIANT = 1
"""Raise it when the same league gives another variant."""
LEFT_OUT = 10
"""Of so many games one is not in the variant, so that counts differ too."""
TABLES = ("games", "team_box_scores", "player_box_scores", "game_play_by_play")

_PAIRED = """
SELECT g.season, g.game_type, g.game_id, h.rowid, a.rowid FROM games g
JOIN team_box_scores h ON h.game_id = g.game_id AND h.is_home = 1
JOIN team_box_scores a ON a.game_id = g.game_id AND a.is_home = 0
ORDER BY g.season, g.game_type, g.game_id
"""
_PLAYED = """
SELECT g.season, g.game_type, p.rowid FROM player_box_scores p JOIN games g USING (game_id)
WHERE p.did_not_play = 0 ORDER BY g.season, g.game_type, p.rowid
"""
_RESULT = ("home_score", "away_score", "attendance", "num_overtime_periods")
_IDENTITY = {"id", "game_id", "team", "is_home", "player_name", "player_slug", "position", "did_not_play", "created_at"}
"""Columns that say whose row it is; all others are exchanged."""


def real_databases(path: Path) -> list[Path]:
    """A league's frozen copy and its variant, both in the cache.

    Raises:
        DataError: the file is missing, or no league (`prefloop league import` makes one).
    """
    if not path.is_file():
        raise DataError(f"task.database: {path} does not exist; 'prefloop league import' makes one from real games")
    about = path.stat()
    return list(_frozen(path.resolve(), cache_folder() / "databases", about.st_size, about.st_mtime_ns))


@lru_cache(maxsize=8)
def _frozen(path: Path, folder: Path, size: int, changed: int) -> tuple[Path, Path]:
    """The same file is copied once in a process; `size` and `changed` are part of what it is."""
    copy = snapshot(path, folder)
    tell_synthetic(path)
    with closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as connection:
        require_league(connection, path)
    return copy, variant_of(copy)


def require_league(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database whose tables are not the league's.

    Raises:
        DataError: names the first column that is missing.
    """
    columns = schema.table_columns()
    for table in TABLES:
        there = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if missing := [name for name in columns[table] if name not in there]:
            raise DataError(
                f"{path} is no league: its table {table} has no column {missing[0]}; for another schema make a task of "
                "your own with 'prefloop task from-database'"
            )


def variant_of(league: Path) -> Path:
    """The variant of a frozen league, built once and kept beside it.

    Within a season and phase whole results change places between games, score and both teams' rows together, and
    stat lines between the players' rows that played; one game in ten is left out. So what holds a row together holds
    still, and sums, averages, counts and leaders are other ones. Players' rows no longer add up to their team's.
    """
    path = league.with_name(f"{league.stem}-variant-{VARIANT}.sqlite")
    with exclusive(path):
        if not path.exists():
            with atomic_path(path) as work:
                shutil.copyfile(league, work)
                with closing(sqlite3.connect(work)) as connection, connection:
                    _change(connection)
    return path


def _change(connection: sqlite3.Connection) -> None:
    rng = np.random.default_rng(VARIANT)
    for _, rows in _groups(connection.execute(_PAIRED).fetchall()):
        order = rng.permutation(len(rows))
        for position, table in enumerate(("games", "team_box_scores", "team_box_scores")):
            keys = [row[position] for row in rows]
            columns = _RESULT if table == "games" else _values(connection, table)
            _exchange(connection, table, "game_id" if table == "games" else "rowid", columns, keys, order)
    for _, rows in _groups(connection.execute(_PLAYED).fetchall()):
        keys = [row[0] for row in rows]
        values = _values(connection, "player_box_scores")
        _exchange(connection, "player_box_scores", "rowid", values, keys, rng.permutation(len(keys)))
    games = [row[0] for row in connection.execute("SELECT game_id FROM games ORDER BY game_id")]
    gone = [(game,) for game in rng.permutation(games)[: len(games) // LEFT_OUT].tolist()]
    for table in TABLES[1:] + TABLES[:1]:
        connection.executemany(f"DELETE FROM {table} WHERE game_id = ?", gone)


def _groups(rows: list[tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    """Rows by their first two values, without them."""
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for row in rows:
        found.setdefault(row[:2], []).append(row[2:])
    return list(found.items())


def _values(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    return tuple(name for name in names if name not in _IDENTITY)


def _exchange(
    connection: sqlite3.Connection, table: str, key: str, columns: tuple[str, ...], keys: list[Any], order: np.ndarray
) -> None:
    """Give row ``keys[i]`` the values that row ``keys[order[i]]`` had."""
    listed = ", ".join(columns)
    had = {row[0]: row[1:] for row in connection.execute(f"SELECT {key}, {listed} FROM {table}")}
    sets = ", ".join(f"{name} = ?" for name in columns)
    changed = [(*had[keys[source]], target) for target, source in zip(keys, order.tolist(), strict=True)]
    connection.executemany(f"UPDATE {table} SET {sets} WHERE {key} = ?", changed)


def origin(path: Path) -> str:
    """What cards and reports say of questions on a league of one's own: that it is real, and what of it is invented."""
    with closing(sqlite3.connect(f"file:{real_databases(path)[0]}?mode=ro&immutable=1", uri=True)) as connection:
        ((games,),) = connection.execute("SELECT COUNT(*) FROM games")
        ((seasons,),) = connection.execute("SELECT GROUP_CONCAT(season, ', ') FROM (SELECT DISTINCT season FROM games)")
    said = f"Questions about {games:,} games of {path.name} (seasons {seasons}, end years); its own terms hold."
    invented = synthetic_games(path)
    if invented.simulated:
        said += f" {invented.simulated:,} of the games are simulated."
    if invented.players:
        said += f" In {invented.players:,} games the players and their figures are synthetic;"
        said += " scores and teams' figures are not."
    return said

"""Which game a row belongs to, and which row of the league it is."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace
from typing import Any

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.imports.people import folded, may_be_one
from prefloop.tasks.nba.imports.rows import KEYS, Named, Played, Row, Side

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a terminal would obey; no name has any."""
BRING = "import the schedule or game log that has it first"


class WaitingError(BadRowError):
    """A row's game is not in the league."""


def placed(connection: sqlite3.Connection, row: Row) -> Row:
    """The row with its game's id, and with codes in the place of sides.

    Raises:
        WaitingError: its game is not in the league.
        BadRowError: it does not fit its game.
    """
    for name, value in row.values.items():
        if isinstance(value, str) and CONTROL.search(value):
            raise BadRowError(f"{name} holds control characters ({value!r})")
    if row.table == "games" and "game_id" in row.values:
        if isinstance(row.game, Named):
            _remember(connection, row.game, row.values["game_id"])
        return row
    identity = row.values.get("game_id") or _game_of(connection, row.game)
    found = connection.execute("SELECT home_team, away_team FROM games WHERE game_id = ?", (identity,)).fetchone()
    if found is None:
        raise WaitingError(f"its game {identity} is not in the league: {BRING}")
    codes = {Side.HOME: found[0], Side.AWAY: found[1]}
    values = {name: codes[value] if isinstance(value, Side) else value for name, value in row.values.items()}
    values = {"game_id": identity, **values}
    if "team" in values and values["team"] not in found:
        raise BadRowError(f"{values['team']} did not play in game {identity} ({found[1]} at {found[0]})")
    if row.table == "team_box_scores":
        values.setdefault("is_home", int(values["team"] == found[0]))
    return replace(row, values=values)


def find_row(connection: sqlite3.Connection, row: Row) -> dict[str, Any] | None:
    """The league's row that this one is, with its rowid; a player is found by any spelling of his name."""
    if row.table == "player_box_scores":
        return _find_player(connection, row)
    where = " AND ".join(f"{name} = ?" for name in KEYS[row.table])
    return next(_rows(connection, row.table, where, row.key), None)


def has_rows(connection: sqlite3.Connection, table: str, game_id: str, team: str | None) -> bool:
    """Whether a game, or a team in it, has rows of a table."""
    where, key = ("", (game_id,)) if team is None else (" AND team = ?", (game_id, team))
    return bool(connection.execute(f"SELECT 1 FROM {table} WHERE game_id = ?{where} LIMIT 1", key).fetchone())


def closed(connection: sqlite3.Connection, row: Row) -> str | None:
    """Why a game that another source gave rows takes no further one of a table; None if it does.

    Two sources number events differently, and may spell a name in ways that nothing tells are one.
    """
    if row.table == "game_play_by_play":
        return f"there is no event {row.values['event_number']}"
    if row.table != "player_box_scores" or row.values.get("did_not_play"):
        return None
    game, team = row.values["game_id"], row.values["team"]
    points = "SELECT SUM(points) FROM player_box_scores WHERE game_id = ? AND team = ?"
    score = "SELECT CASE home_team WHEN ? THEN home_score ELSE away_score END FROM games WHERE game_id = ?"
    given = connection.execute(points, (game, team)).fetchone()[0]
    if given == connection.execute(score, (team, game)).fetchone()[0]:
        return f"{team}'s box score adds up to its {given} points without him"
    return None


def _find_player(connection: sqlite3.Connection, row: Row) -> dict[str, Any] | None:
    values = row.values
    mates = list(_rows(connection, row.table, "game_id = ? AND team = ?", (values["game_id"], values["team"])))
    same_slug = [mate for mate in mates if mate["player_slug"] and mate["player_slug"] == values.get("player_slug")]
    name = folded(values["player_name"])
    same_name = [
        mate
        for mate in mates
        if folded(mate["player_name"]) == name and may_be_one(mate["player_slug"], values.get("player_slug"))
    ]
    exact = [mate for mate in same_name if mate["player_name"] == values["player_name"]]
    return next(iter(same_slug or exact or same_name), None)


def _rows(connection: sqlite3.Connection, table: str, where: str, key: tuple[Any, ...]) -> Any:
    cursor = connection.execute(f"SELECT rowid AS rowid, * FROM {table} WHERE {where}", key)
    names = [column[0] for column in cursor.description]
    return (dict(zip(names, values, strict=True)) for values in cursor)


def _game_of(connection: sqlite3.Connection, game: Named | Played | None) -> str:
    match game:
        case Named(source, name):
            query, key = "SELECT game_id FROM imported_games WHERE source = ? AND name = ?", (source, name)
            said = f"no game of the league is called {name} by {source}: {BRING}, or give --date"
        case Played(day, team):
            query = "SELECT game_id FROM games WHERE game_date = ? AND ? IN (home_team, away_team)"
            key, said = (day, team), f"no game of {team} on {day} is in the league: {BRING}"
        case None:
            raise BadRowError("it does not say which game it belongs to")
    found = connection.execute(query, key).fetchall()
    if not found:
        raise WaitingError(said)
    if len(found) > 1:
        raise BadRowError(f"the league has {len(found)} games of {key[1]} on {key[0]}")
    return str(found[0][0])


def _remember(connection: sqlite3.Connection, game: Named, identity: str) -> None:
    before = connection.execute(
        "SELECT game_id FROM imported_games WHERE source = ? AND name = ?", (game.source, game.name)
    ).fetchone()
    if before and before[0] != identity:
        raise BadRowError(f"{game.source} game {game.name} is {identity} here, and was {before[0]} before")
    connection.execute("INSERT OR IGNORE INTO imported_games VALUES (?, ?, ?)", (game.source, game.name, identity))

"""Which game a row belongs to, and which row of the league it is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.imports.people import folded, may_be_one
from prefloop.tasks.nba.imports.rows import KEYS, Named, Played, Row, Side

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What a terminal would obey; no name has any."""
BRING = "import the schedule or game log that has it first"


SIDES = ("offensive_team", "defensive_team")
"""Columns that may say a side in place of a team."""
KEPT = 500
"""Games, or teams in games, that are known at a time."""


class WaitingError(BadRowError):
    """A row's game is not in the league."""


@dataclass
class Known:
    """What the league has of the games that are read, asked once a game: a file's rows stand game by game."""

    connection: sqlite3.Connection
    _teams: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Home and away by game."""
    _found: dict[Named | Played | None, str] = field(default_factory=dict)
    _events: dict[str, dict[int, int]] = field(default_factory=dict)
    """Row of each event's number, by game."""
    _players: dict[tuple[str, str], list[tuple[int, str, str | None]]] = field(default_factory=dict)
    """Row, name and slug of each player, by game and team."""

    def placed(self, row: Row) -> Row:
        """The row with its game's id, and with codes in the place of sides.

        Raises:
            WaitingError: its game is not in the league.
            BadRowError: it does not fit its game.
        """
        for name, value in row.values.items():
            if type(value) is str and not value.isprintable() and CONTROL.search(value):
                raise BadRowError(f"{name} holds control characters ({value!r})")
        if row.table == "games" and "game_id" in row.values:
            self._found.clear()  # a team may have a second game that day now
            if isinstance(row.game, Named):
                _remember(self.connection, row.game, row.values["game_id"])
            return row
        identity = row.values.get("game_id") or self._game_of(row.game)
        home, away = self._sides(identity)
        values = {"game_id": identity, **row.values}
        for name in SIDES:
            if isinstance(side := values.get(name), Side):
                values[name] = home if side is Side.HOME else away
        if "team" in values and values["team"] not in (home, away):
            raise BadRowError(f"{values['team']} did not play in game {identity} ({away} at {home})")
        if row.table == "team_box_scores":
            values.setdefault("is_home", int(values["team"] == home))
        return Row(row.table, values, row.file, row.line, row.game)

    def _game_of(self, game: Named | Played | None) -> str:
        if game not in self._found:
            self._found[game] = _game_of(self.connection, game)
        return self._found[game]

    def _sides(self, identity: str) -> tuple[str, str]:
        if identity not in self._teams:
            query = "SELECT home_team, away_team FROM games WHERE game_id = ?"
            found = self.connection.execute(query, (identity,)).fetchone()
            if found is None:
                raise WaitingError(f"its game {identity} is not in the league: {BRING}")
            self._teams[identity] = found
        return self._teams[identity]

    def find(self, row: Row) -> dict[str, Any] | None:
        """The league's row that this one is, with its rowid; a player is found by any spelling of his name."""
        match row.table:
            case "player_box_scores":
                rowid = self._same_player(row.values)
            case "game_play_by_play":
                rowid = self._numbers(row.values["game_id"]).get(row.values["event_number"])
            case table:
                where = " AND ".join(f"{name} = ?" for name in KEYS[table])
                found = self.connection.execute(f"SELECT rowid FROM {table} WHERE {where}", row.key).fetchone()
                rowid = found[0] if found else None
        if rowid is None:
            return None
        cursor = self.connection.execute(f"SELECT rowid AS rowid, * FROM {row.table} WHERE rowid = ?", (rowid,))
        return dict(zip((column[0] for column in cursor.description), cursor.fetchone(), strict=True))

    def add(self, row: Row, rowid: int) -> None:
        """Count a row in that was inserted."""
        values = row.values
        if row.table == "player_box_scores":
            self._mates(values["game_id"], values["team"]).append(
                (rowid, values["player_name"], values.get("player_slug"))
            )
        elif row.table == "game_play_by_play":
            self._numbers(values["game_id"])[values["event_number"]] = rowid

    def changed(self, row: Row) -> None:
        """Ask again about the players of a row that was filled in."""
        self._players.pop((row.values["game_id"], row.values.get("team", "")), None)

    def _numbers(self, game: str) -> dict[int, int]:
        if game not in self._events:
            _make_room(self._events)
            query = "SELECT event_number, rowid FROM game_play_by_play WHERE game_id = ? ORDER BY rowid DESC"
            self._events[game] = dict(self.connection.execute(query, (game,)))
        return self._events[game]

    def _mates(self, game: str, team: str) -> list[tuple[int, str, str | None]]:
        if (game, team) not in self._players:
            _make_room(self._players)
            query = "SELECT rowid, player_name, player_slug FROM player_box_scores WHERE game_id = ? AND team = ?"
            self._players[game, team] = self.connection.execute(query, (game, team)).fetchall()
        return self._players[game, team]

    def _same_player(self, values: Mapping[str, Any]) -> int | None:
        mates, slug = self._mates(values["game_id"], values["team"]), values.get("player_slug")
        name = folded(values["player_name"])
        same_slug = [rowid for rowid, _, other in mates if other and other == slug]
        same_name = [(rowid, full) for rowid, full, other in mates if folded(full) == name and may_be_one(other, slug)]
        exact = [rowid for rowid, full in same_name if full == values["player_name"]]
        return next(iter([*same_slug, *exact, *(rowid for rowid, _ in same_name)]), None)


def _make_room(kept: dict[Any, Any]) -> None:
    """A file of all seasons holds more than memory should; what is forgotten is asked again."""
    if len(kept) >= KEPT:
        kept.clear()


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

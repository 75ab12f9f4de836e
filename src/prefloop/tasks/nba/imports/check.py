"""A short audit of a league: what it holds, what is missing, and what does not add up."""

from __future__ import annotations

import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefloop.tasks.nba.imports.lines import COUNTS
from prefloop.tasks.nba.imports.merge import reading
from prefloop.tasks.nba.imports.rows import KEYS
from prefloop.tasks.nba.imports.synthetic_marks import IS_SIMULATED, NOTE, PREFIX


@dataclass(frozen=True)
class Phase:
    """The games of a season's phase, and how many of them have what."""

    season: int
    phase: str | None
    games: int
    with_team_rows: int
    with_player_rows: int
    with_play_by_play: int
    synthetic: int
    """Games whose player rows, or all of them, are synthetic."""


@dataclass(frozen=True)
class Audit:
    """What a league holds, and findings by kind; each list is whole."""

    phases: list[Phase]
    rows: dict[str, int]
    """By table."""
    synthetic_players: int
    """Synthetic player rows."""
    findings: dict[str, list[str]]
    """What is wrong, by what it is; kinds without a finding are missing."""
    namesakes: list[str]
    """Names of several players, by their slugs; or one player under the slugs of two sources."""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def check_league(league: Path) -> Audit:
    """Audit a league, which is not changed.

    Raises:
        DataError: there is no such league.
    """
    with reading(league) as connection:
        found = {kind: [_said(row) for row in connection.execute(query)] for kind, query in QUERIES.items()}
        (synthetic,) = connection.execute(
            "SELECT COUNT(*) FROM player_box_scores WHERE player_slug LIKE ?", (f"{PREFIX}%",)
        ).fetchone()
        return Audit(
            [Phase(*row) for row in connection.execute(_PHASES)],
            {table: connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in KEYS},
            synthetic,
            {kind: rows for kind, rows in found.items() if rows},
            _namesakes(connection),
        )


_HAS = "EXISTS (SELECT 1 FROM {table} x WHERE x.game_id = g.game_id)"
_PHASES = f"""
SELECT season, game_type, COUNT(*),
  SUM((SELECT COUNT(*) FROM team_box_scores t WHERE t.game_id = g.game_id) = 2),
  SUM({_HAS.format(table="player_box_scores")}), SUM({_HAS.format(table="game_play_by_play")}),
  SUM(COALESCE(notes, '') LIKE '%{NOTE}%' OR {IS_SIMULATED})
FROM games g GROUP BY season, game_type ORDER BY season, MIN(game_date), game_type
"""
ON_COURT = 5
_SUMS = " OR ".join(f"t.{name} <> p.{name}" for name in COUNTS)
_DIFFERING = " || ".join(f"CASE WHEN t.{name} <> p.{name} THEN ' {name}' ELSE '' END" for name in COUNTS)
_PLAYER_SUMS = f"""
SELECT game_id, team, SUM(did_not_play = 0) AS players, {", ".join(f"SUM({name}) AS {name}" for name in COUNTS)}
FROM player_box_scores GROUP BY game_id, team
"""


def _twice(table: str) -> str:
    key = ", ".join(KEYS[table])
    joined = " || ' ' || ".join(KEYS[table])
    return f"SELECT {joined}, COUNT(*) || ' rows' FROM {table} GROUP BY {key} HAVING COUNT(*) > 1 ORDER BY {key}"


QUERIES = {
    "rows that are there twice": " UNION ALL ".join(f"SELECT * FROM ({_twice(table)})" for table in KEYS),
    "rows of no game": " UNION ALL ".join(
        f"SELECT DISTINCT game_id, '{table}' FROM {table} WHERE game_id NOT IN (SELECT game_id FROM games)"
        for table in KEYS
        if table != "games"
    ),
    "games with one team's row": (
        "SELECT game_id, MIN(team) || ' alone' FROM team_box_scores GROUP BY game_id HAVING COUNT(*) = 1 ORDER BY 1"
    ),
    "scores that the teams' rows do not give": (
        "SELECT g.game_id, t.team || ' ' || t.points FROM games g JOIN team_box_scores t USING (game_id) "
        "WHERE t.points <> CASE t.team WHEN g.home_team THEN g.home_score "
        "WHEN g.away_team THEN g.away_score ELSE -1 END ORDER BY 1, 2"
    ),
    "teams' rows that the players' do not give": (
        f"SELECT t.game_id, t.team || ':' || {_DIFFERING} FROM team_box_scores t JOIN ({_PLAYER_SUMS}) p "
        f"ON p.game_id = t.game_id AND p.team = t.team WHERE p.players >= {ON_COURT} AND ({_SUMS}) ORDER BY 1, 2"
    ),
    "teams of which not even five players have rows": (
        f"SELECT game_id, team || ' ' || players FROM ({_PLAYER_SUMS}) WHERE players < {ON_COURT} ORDER BY 1, 2"
    ),
    "scores that the play-by-play does not reach": (
        "SELECT g.game_id, MAX(e.away_score) || '-' || MAX(e.home_score) || ' for ' || "
        "g.away_score || '-' || g.home_score FROM games g JOIN game_play_by_play e USING (game_id) GROUP BY g.game_id "
        "HAVING MAX(e.home_score) <> g.home_score OR MAX(e.away_score) <> g.away_score ORDER BY 1"
    ),
    "games that nobody won": "SELECT game_id, home_score || '-' || away_score FROM games WHERE home_score = away_score",
}
"""Each gives a place and what is wrong there."""


def _namesakes(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute(
        "SELECT player_name, GROUP_CONCAT(player_slug, ', ') FROM "
        "(SELECT DISTINCT player_name, player_slug FROM player_box_scores WHERE player_slug IS NOT NULL ORDER BY 1, 2) "
        "GROUP BY player_name HAVING COUNT(*) > 1 ORDER BY 1"
    )
    return [f"{name}: {slugs}" for name, slugs in rows]


def _said(row: tuple[Any, ...]) -> str:
    return f"{row[0]}: {row[1]}"

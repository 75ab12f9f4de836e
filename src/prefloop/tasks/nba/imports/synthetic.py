"""Invented player rows for real games of which only the teams' rows are known.

Players are the simulator's: names of nobody, fourteen a team, each for a few seasons. Every row is marked, by its slug
and in the notes of its game, and gives way to real ones.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.progress import progress
from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.imports.lines import COUNTS, played, sat_out
from prefloop.tasks.nba.imports.merge import opened
from prefloop.tasks.nba.imports.people import folded
from prefloop.tasks.nba.imports.rows import OVERTIME_MIN, REGULATION_MIN
from prefloop.tasks.nba.imports.synthetic_lines import dealt, fault
from prefloop.tasks.nba.imports.synthetic_marks import PREFIX, mark_game
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.simulate import MOST_FOULS, Side, listed, share_margin, share_minutes
from prefloop.tasks.nba.universe import ROSTER, Person, create_person

TENURE = 6
"""Seasons that a player stays; in each season about one place in six is taken by another."""
MOST_OVERTIMES = 10
"""The longest game had six."""
LONGEST_GAME_S, LONGEST_OVERTIME_S = 48 * 60, 5 * 60


@dataclass
class Synthesised:
    """What was invented."""

    games: int = 0
    rows: int = 0
    left_out: list[str] = field(default_factory=list)
    """Games whose team rows cannot be dealt out, each with the reason."""


@dataclass(frozen=True)
class _Game:
    game_id: str
    season: int
    overtimes: int | None
    home: str
    away: str
    home_score: int
    away_score: int


def add_players(league: Path, seed: int = 1) -> Synthesised:
    """Give each game that has both teams' rows and no player's row players whose rows add up to the teams'.

    Points are 2 · field goals + threes + free throws for each player, minutes sum to 240 and 25 for each overtime, a
    plus-minus to five times the margin. A game's rows depend on `seed` and the game alone. Games that have player rows,
    real or synthetic, are left as they are.

    Raises:
        DataError: there is no such league.
        StoreError: it cannot be written.
    """
    found = Synthesised()
    with opened(league, must_exist=True) as connection:
        games = [_Game(*row) for row in connection.execute(_GAMES)]
        with progress("players", len(games), "games") as advance:
            for game in games:
                try:
                    found.rows += _fill(connection, seed, game)
                    found.games += 1
                except BadRowError as error:
                    found.left_out.append(f"{game.game_id}: {error}")
                advance(1)
    return found


_GAMES = """
SELECT game_id, season, num_overtime_periods, home_team, away_team, home_score, away_score FROM games g
WHERE (SELECT COUNT(*) FROM team_box_scores t WHERE t.game_id = g.game_id) = 2
  AND NOT EXISTS (SELECT 1 FROM player_box_scores p WHERE p.game_id = g.game_id)
ORDER BY game_date, game_id
"""


def _fill(connection: sqlite3.Connection, seed: int, game: _Game) -> int:
    """Insert a game's rows; how many.

    Raises:
        BadRowError: they cannot be.
    """
    if game.overtimes is None:
        raise BadRowError("nothing says how many overtimes it had")
    if game.overtimes > MOST_OVERTIMES:
        raise BadRowError(f"it had {game.overtimes:,} overtimes")
    teams = ((game.home, game.home_score, game.away_score), (game.away, game.away_score, game.home_score))
    totals = {team: _totals(connection, game.game_id, team, score) for team, score, _ in teams}
    rng = np.random.default_rng(_number(seed, game.game_id))
    inserted = 0
    for team, score, other in teams:
        side = Side(team, listed(rng, roster(seed, team, game.season)))
        _enough(side, totals[team]["personal_fouls"] or 0)
        seconds = 60 * (REGULATION_MIN + OVERTIME_MIN * game.overtimes)
        share_minutes(rng, side, seconds, LONGEST_GAME_S + LONGEST_OVERTIME_S * game.overtimes)
        share_margin(rng, side, score - other)
        for row in _rows(side, dealt(rng, side, totals[team])):
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            connection.execute(
                f"INSERT INTO player_box_scores (game_id, {names}) VALUES (?, {marks})", [game.game_id, *row.values()]
            )
            inserted += 1
    mark_game(connection, game.game_id)
    return inserted


def _totals(connection: sqlite3.Connection, game_id: str, team: str, score: int) -> dict[str, int | None]:
    query = f"SELECT {', '.join(COUNTS)} FROM team_box_scores WHERE game_id = ? AND team = ?"
    row = connection.execute(query, (game_id, team)).fetchone()
    if row is None:
        raise BadRowError(f"{team} has no row")
    found = dict(zip(COUNTS, row, strict=True))
    if reason := fault(found, score):
        raise BadRowError(f"{team}: {reason}")
    return found


def _rows(side: Side, counts: list[dict[str, int | None]]) -> Iterator[dict[str, Any]]:
    stats = iter(counts)
    for line in side.lines:
        who = {"player_name": line.person.name, "player_slug": line.person.slug, "team": side.team}
        if line.dnp_reason:
            found = sat_out(line.dnp_reason)
        else:
            found = played(next(stats), line.seconds, line.plus_minus, line.starter)
        yield {**who, "position": line.person.position, **found}


def _enough(side: Side, fouls: int) -> None:
    """So many play that nobody needs a seventh foul."""
    for line in side.lines:
        if MOST_FOULS * len(side.playing) >= fouls:
            return
        line.dnp_reason = ""


@lru_cache(maxsize=200)
def roster(seed: int, team: str, season: int) -> tuple[Person, ...]:
    """The invented players of a team in a season, best first; they depend on nothing else."""
    people: list[Person] = []
    for place in range(ROSTER):
        era = (season + place) // TENURE
        rng = np.random.default_rng(_number(seed, f"{team} {place} {era}"))
        name = person_name(rng)
        while folded(name) in {folded(person.name) for person in people}:
            name = person_name(rng)
        people.append(create_person(rng, f"{PREFIX}{team.lower()}-{place}-{era}", name, place))
    return tuple(sorted(people, key=lambda person: -person.usage))


def _number(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:8])

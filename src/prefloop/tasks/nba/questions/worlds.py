"""The two worlds questions are drawn from: a league at hand, and the open set of the training corpus."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from prefloop.tasks.nba.questions.intent import Game, pick

_PLAYERS = """
SELECT player_name FROM player_box_scores GROUP BY player_name
HAVING COUNT(DISTINCT player_slug) = 1 AND SUM(did_not_play = 0) >= 20 ORDER BY player_name
"""
_GAMES = """
SELECT game_date, home_team, away_team, season, has_play_by_play FROM games
WHERE game_type = 'Regular Season' ORDER BY game_id
"""
_DATES = """
SELECT p.player_name, g.game_date FROM player_box_scores p JOIN games g USING (game_id)
WHERE p.did_not_play = 0 AND g.game_type = 'Regular Season' ORDER BY p.id
"""


class LeagueWorld:
    """Names, seasons and dates of a league database.

    Namesakes are left out: a full name alone does not say who is meant. Raises `sqlite3.DatabaseError` for a
    file that is no league.
    """

    def __init__(self, database: Path) -> None:
        connection = sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)
        try:
            self._players = [row[0] for row in connection.execute(_PLAYERS)]
            games = connection.execute(_GAMES).fetchall()
            known = set(self._players)
            self._dates = [row for row in connection.execute(_DATES) if row[0] in known]
        finally:
            connection.close()
        self._games = [Game(*row[:4]) for row in games]
        self._covered = [Game(*row[:4]) for row in games if row[4]]
        self.codes = sorted({game.home for game in self._games})
        self.years = tuple(sorted({game.season for game in self._games}))

    def player(self, rng: np.random.Generator) -> str:
        """A player with a name of his own and at least 20 games."""
        return str(pick(rng, self._players))

    def game(self, rng: np.random.Generator) -> Game:
        """A regular-season game."""
        return self._games[int(rng.integers(len(self._games)))]

    def covered_game(self, rng: np.random.Generator) -> Game:
        """A regular-season game with play-by-play."""
        return self._covered[int(rng.integers(len(self._covered)))]

    def player_date(self, rng: np.random.Generator) -> tuple[str, str]:
        """A player and the date of a game he played."""
        name, day = self._dates[int(rng.integers(len(self._dates)))]
        return str(name), str(day)


class OpenWorld:
    """Every draw is new: names of no league, any season since 1996, any date of one.

    A policy that is to answer about players it never saw must learn to copy names, not to know them.
    """

    years = tuple(range(1996, 2031))

    def __init__(self, codes: list[str], person_name: Callable[[np.random.Generator], str]) -> None:
        self.codes = codes
        self._name = person_name

    def player(self, rng: np.random.Generator) -> str:
        """A new name."""
        return self._name(rng)

    def game(self, rng: np.random.Generator) -> Game:
        """Two teams and a date between mid-October and mid-April."""
        year = int(pick(rng, self.years))
        day = date(year - 1, 10, 15) + timedelta(days=int(rng.integers(180)))
        home, away = (str(code) for code in rng.choice(self.codes, 2, replace=False))
        return Game(day.isoformat(), home, away, year)

    covered_game = game

    def player_date(self, rng: np.random.Generator) -> tuple[str, str]:
        """A new name and a date."""
        return self.player(rng), self.game(rng).date

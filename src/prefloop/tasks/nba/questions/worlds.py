"""The two worlds questions are drawn from: a league at hand, and the open set of the training corpus."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from prefloop.errors import DataError
from prefloop.tasks.nba.questions.intent import FIXED, Game, Thresholds, pick
from prefloop.tasks.nba.questions.scope import MONTHS, Calendar

_PLAYERS = """
SELECT player_name FROM player_box_scores GROUP BY player_name
HAVING COUNT(DISTINCT player_slug) <= 1 AND SUM(did_not_play = 0) >= 20 ORDER BY player_name
"""
_GAMES = """
SELECT game_date, home_team, away_team, season, has_play_by_play FROM games
WHERE game_type = 'Regular Season' ORDER BY game_id
"""
_DATES = """
SELECT p.player_name, g.game_date FROM player_box_scores p JOIN games g USING (game_id)
WHERE p.did_not_play = 0 AND g.game_type = 'Regular Season' ORDER BY p.id
"""
_SEASONS = """
SELECT season FROM games g WHERE game_type = 'Regular Season' GROUP BY season
HAVING AVG(EXISTS (SELECT 1 FROM {} x WHERE x.game_id = g.game_id)) >= {} ORDER BY season
"""
WHOLE = 0.9
"""Share of a season's games that must have rows for sums and averages over it to mean the season."""
_LATEST = "SELECT MAX(season) FROM games"
_PHASES = "SELECT DISTINCT COALESCE(game_type, 'of unknown phase') FROM games WHERE season = ? ORDER BY 1"
_PLAYOFFS = "SELECT EXISTS (SELECT 1 FROM games WHERE game_type <> 'Regular Season')"
_OVERTIME = "SELECT COUNT(*) = COUNT(num_overtime_periods) FROM games"
_NAMES = "SELECT home_team, home_team_name FROM games WHERE home_team_name IS NOT NULL ORDER BY game_date, game_id"
_VALUES = "SELECT {0} FROM player_box_scores WHERE did_not_play = 0 AND {0} IS NOT NULL ORDER BY {0}"

QUANTILES = {"single": (0.5, 0.7, 0.85, 0.94, 0.98), "league": (0.85, 0.94, 0.98, 0.995), "beside": (0.5, 0.75)}
"""Of a statistic over the games of all players: what "at least n" asks for lies there."""


class LeagueWorld:
    """Names, seasons, dates and thresholds of a league database.

    Namesakes are left out: a full name alone does not say who is meant. Of what a season has no rows nothing is
    asked: what is not known is not 0. Raises `sqlite3.DatabaseError` for a file that is no league.
    """

    def __init__(self, database: Path, *, measured: bool = False, shown: Path | str | None = None) -> None:
        """Args:
        measured: thresholds from this league's own statistics instead of the fixed ones.
        shown: what errors call the file, where this is a copy of it.

        Raises:
            DataError: no regular-season game, of any season or of the latest, or no team rows of most of the latest's.
        """
        with closing(sqlite3.connect(f"file:{database}?mode=ro&immutable=1", uri=True)) as connection:
            self._players = [row[0] for row in connection.execute(_PLAYERS)]
            games = connection.execute(_GAMES).fetchall()
            known = set(self._players)
            self._dates = [row for row in connection.execute(_DATES) if row[0] in known]
            ((latest,),) = connection.execute(_LATEST)
            phases = [phase for (phase,) in connection.execute(_PHASES, [latest])]
            ((playoffs,),) = connection.execute(_PLAYOFFS)
            ((self._overtime,),) = connection.execute(_OVERTIME)
            seasons = {
                need: tuple(row[0] for row in connection.execute(_SEASONS.format(table, WHOLE)))
                for need, table in (("", "team_box_scores"), ("players", "player_box_scores"))
            }
            self.names: dict[str, str] = dict(connection.execute(_NAMES).fetchall())
            """Full names by team code, the newest."""
            self.thresholds = _measured(connection) if measured and self._players else FIXED
        name = shown or database
        if not games:
            raise DataError(f"{name} has no regular-season game to ask about")
        if "Regular Season" not in phases:
            raise DataError(
                f"{name} has no regular-season game of season {latest}, its latest, whose games are "
                f"{' and '.join(phases)}: questions without a season mean the regular season of the latest one, "
                "so import its game log, which says each game's phase"
            )
        if latest not in seasons[""]:
            raise DataError(
                f"{name} has games of season {latest}, its latest, and team box scores of less than {WHOLE:.0%} "
                "of them: questions without a season mean the latest one, so import its game log too"
            )
        self._games = [Game(*row[:4]) for row in games]
        self._covered = [Game(*row[:4]) for row in games if row[4]]
        self.codes = sorted({game.home for game in self._games})
        here = {int(game.date[5:7]) for game in self._games}
        months = tuple(month for month in MONTHS if month in here)
        self._calendars = {need: Calendar(years, months, bool(playoffs)) for need, years in seasons.items()}
        self._latest = latest

    def knows(self, need: str) -> bool:
        """Whether there are players' rows (of the latest season), play-by-play, or counts of overtimes everywhere."""
        match need:
            case "players":
                return bool(self._dates) and self._latest in self._calendars["players"].years
            case "events":
                return bool(self._covered)
            case "overtime":
                return bool(self._overtime)
        return True

    def calendar(self, need: str) -> Calendar:
        """Seasons that have rows of players or, for all else, of teams; months of the regular season."""
        return self._calendars.get(need, self._calendars[""])

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


def _measured(connection: sqlite3.Connection) -> Thresholds:
    """Where this league's players reach: quantiles of their games, points in fives."""

    def at(column: str, use: str) -> tuple[int, ...]:
        values = np.array([row[0] for row in connection.execute(_VALUES.format(column))] or [1])
        step = 5 if column == "points" else 1
        found = {max(step, round(float(np.quantile(values, share)) / step) * step) for share in QUANTILES[use]}
        return tuple(sorted(found))

    single = {column: at(column, "single") for column in FIXED.single}
    beside = tuple((column, n) for column in ("total_rebounds", "assists") for n in at(column, "beside"))
    return Thresholds(single, at("points", "league"), single["points"][:3], beside)


class OpenWorld:
    """Every draw is new: names of no league, any season since 1996, any date of one.

    A policy that is to answer about players it never saw must learn to copy names, not to know them.
    """

    thresholds = FIXED
    _calendar = Calendar(tuple(range(1996, 2031)))

    def __init__(self, codes: list[str], person_name: Callable[[np.random.Generator], str]) -> None:
        self.codes = codes
        self._name = person_name

    def knows(self, need: str) -> bool:
        """Everything."""
        return True

    def calendar(self, need: str) -> Calendar:
        """Any season since 1996."""
        return self._calendar

    def player(self, rng: np.random.Generator) -> str:
        """A new name."""
        return self._name(rng)

    def game(self, rng: np.random.Generator) -> Game:
        """Two teams and a date between mid-October and mid-April."""
        year = int(pick(rng, self._calendar.years))
        day = date(year - 1, 10, 15) + timedelta(days=int(rng.integers(180)))
        home, away = (str(code) for code in rng.choice(self.codes, 2, replace=False))
        return Game(day.isoformat(), home, away, year)

    covered_game = game

    def player_date(self, rng: np.random.Generator) -> tuple[str, str]:
        """A new name and a date."""
        return self.player(rng), self.game(rng).date

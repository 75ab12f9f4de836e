"""Simulated leagues as SQLite files, built once and cached by what decides them.

Everything in them is synthetic and marked so in ``games.notes``; names are generated.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.files import atomic_path, cache_folder, exclusive, file_hash, write_text
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.boxscore import CREATED, player_rows, team_row
from prefloop.tasks.nba.play_by_play import event_rows
from prefloop.tasks.nba.simulate import Side, simulate_game
from prefloop.tasks.nba.teams import Team, teams
from prefloop.tasks.nba.universe import Fixture, Season, Universe, create_universe

SIMULATOR_VERSION = 1
"""Part of the cache key: raise it when the same configuration gives other rows."""

ROUNDS = ("First Round", "Conference Semifinals", "Conference Finals", "Finals")
STRENGTH_SD = 4.0
ATTENDANCE_MISSING = 0.06
PENDING_SHARE = 0.1
"""Rows of ``scraping_progress`` for games that are in no other table: counting them there is a mistake."""

NOTES = "synthetic"


@dataclass(frozen=True)
class LeagueConfig:
    """What decides a league."""

    universe_seed: int = 7
    """People, rosters, trades, schedule."""
    play_seed: int = 1
    """Results, statistics, who sits out, playoffs."""
    seasons: tuple[int, ...] = (2022, 2023, 2024)
    """End years."""
    games: int = 900
    """About how many games in all, playoffs included."""

    @property
    def key(self) -> str:
        """Content id of configuration and simulator."""
        return content_id("league", SIMULATOR_VERSION, asdict(self))

    @property
    def best_of(self) -> int:
        """Length of a playoff series: longer in larger leagues."""
        per_season = self.games / len(self.seasons)
        return 3 if per_season < 500 else 5 if per_season < 1_000 else 7

    @property
    def games_per_team(self) -> int:
        """Regular-season games of each team and season, at most 82."""
        playoffs = 15 * {3: 2.5, 5: 4.1, 7: 5.8}[self.best_of]
        return max(6, min(82, round((self.games / len(self.seasons) - playoffs) / 15)))


JUDGE_LEAGUES = (LeagueConfig(play_seed=1), LeagueConfig(play_seed=2))
"""Same universe, other play: an answer that is right by accident in one is wrong in the other."""


def cached_league(config: LeagueConfig, cache: Path | None = None) -> Path:
    """The league's file in the cache, built if it is missing or damaged.

    Args:
        cache: folder; default ``$PREFLOOP_CACHE/leagues``, else ``~/.cache/prefloop/leagues``.
    """
    folder = cache or cache_folder() / "leagues"
    path, recorded = folder / f"league-{config.key}.sqlite", folder / f"league-{config.key}.sha256"
    with exclusive(path):
        if not (path.exists() and recorded.exists() and file_hash(path) == recorded.read_text().strip()):
            build_league(config, path)
            write_text(recorded, file_hash(path) + "\n")
    return path


def build_league(config: LeagueConfig, path: Path) -> Path:
    """Simulate a league and write it whole or not at all; the same configuration gives the same bytes.

    Raises:
        StoreError: the file cannot be written.
    """
    universe = create_universe(config.universe_seed, config.seasons, config.games_per_team)
    with atomic_path(path) as temporary:
        temporary.unlink(missing_ok=True)
        connection = sqlite3.connect(temporary)
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            schema.create(connection)
            _fill(connection, config, universe)
            schema.create_indexes(connection)
            connection.execute("ANALYZE")
            connection.commit()
            connection.execute("VACUUM")
        finally:
            connection.close()
    return path


def _fill(connection: sqlite3.Connection, config: LeagueConfig, universe: Universe) -> None:
    rng = np.random.default_rng([config.universe_seed, config.play_seed, 2])
    strength = {team.code: float(rng.normal(0, STRENGTH_SD)) for team in teams()}
    with progress(f"league {config.play_seed}", config.games, "games") as advance:
        for season in universe.seasons:
            wins: dict[str, float] = dict.fromkeys(strength, 0.0)
            for fixture in season.fixtures:
                sides = _play(rng, universe, season, fixture, strength)
                _insert(connection, rng, universe, season.year, fixture, sides, ("Regular Season", None))
                wins[max(sides, key=lambda side: side.score).team] += 1
                advance(1)
            for fixture, sides, round_ in _playoffs(rng, universe, season, strength, wins, config.best_of):
                kind = "Finals" if round_ == "Finals" else "Playoffs"
                _insert(connection, rng, universe, season.year, fixture, sides, (kind, round_))
                advance(1)
            strength = {code: 0.7 * value + float(rng.normal(0, 2.5)) for code, value in strength.items()}
            _insert_pending(connection, rng, season)


def _play(
    rng: np.random.Generator, universe: Universe, season: Season, fixture: Fixture, strength: dict[str, float]
) -> tuple[Side, Side]:
    def team(code: str) -> tuple[str, list[Any], float]:
        roster = [universe.people[slug] for slug in season.roster(code, fixture.day)]
        return code, roster, strength[code]

    return simulate_game(rng, team(fixture.home), team(fixture.away))


def _playoffs(
    rng: np.random.Generator,
    universe: Universe,
    season: Season,
    strength: dict[str, float],
    wins: dict[str, float],
    best_of: int,
) -> Iterable[tuple[Fixture, tuple[Side, Side], str]]:
    """Eight seeds a conference, 1 against 8 and so on; the better record has the first game at home."""
    seeds = {
        conference: sorted(
            (team.code for team in teams() if team.conference == conference), key=lambda c: (-wins[c], c)
        )[:8]
        for conference in ("East", "West")
    }
    start = max(fixture.day for fixture in season.fixtures) + timedelta(days=4)
    for round_ in ROUNDS:
        pairs = [(s[i], s[-1 - i]) for s in seeds.values() for i in range(len(s) // 2)]
        if round_ == "Finals":
            finalists = sorted((s[0] for s in seeds.values()), key=lambda c: (-wins[c], c))
            pairs = [(finalists[0], finalists[1])]
        winners = {}
        for pair in pairs:
            victories = dict.fromkeys(pair, 0)
            game = 0
            while max(victories.values()) <= best_of // 2:
                home, away = pair if game % 4 in (0, 1) else pair[::-1]
                fixture = Fixture(start + timedelta(days=2 * game), home, away, False)
                sides = _play(rng, universe, season, fixture, strength)
                victories[max(sides, key=lambda side: side.score).team] += 1
                yield fixture, sides, round_
                game += 1
            winners[pair[0]] = max(pair, key=lambda code: victories[code])
        seeds = {
            conference: [winners[code] for code in s[: len(s) // 2]] for conference, s in seeds.items() if len(s) > 1
        }
        start += timedelta(days=2 * best_of + 2)


def _insert(
    connection: sqlite3.Connection,
    rng: np.random.Generator,
    universe: Universe,
    year: int,
    fixture: Fixture,
    sides: tuple[Side, Side],
    kind: tuple[str, str | None],
) -> None:
    home, away = sides
    row = _game_row(rng, universe, year, fixture, sides, kind)
    game_id = row[0]
    _rows(connection, "games", [row])
    _rows(
        connection,
        "team_box_scores",
        [team_row(game_id, home, away, True), team_row(game_id, away, home, False)],
    )
    _rows(
        connection,
        "player_box_scores",
        [*player_rows(game_id, home, away), *player_rows(game_id, away, home)],
    )
    if fixture.covered:
        _rows(connection, "game_play_by_play", event_rows(rng, game_id, home, away))
    flags = (1, 1, 1, int(fixture.covered))
    values = [
        game_id,
        row[1],
        year,
        home.team,
        away.team,
        "scraped",
        5,
        1,
        3,
        CREATED,
        None,
        CREATED,
        *flags,
        CREATED,
        CREATED,
    ]
    connection.execute(f"INSERT INTO scraping_progress VALUES ({', '.join('?' * len(values))})", values)


def _game_row(
    rng: np.random.Generator,
    universe: Universe,
    year: int,
    fixture: Fixture,
    sides: tuple[Side, Side],
    kind: tuple[str, str | None],
) -> list[Any]:
    names: dict[str, Team] = {team.code: team for team in teams()}
    host, guest = names[fixture.home], names[fixture.away]
    overtimes = len(sides[0].periods) - 1
    attendance = None if rng.random() < ATTENDANCE_MISSING else int(rng.integers(14_000, 20_600))
    officials = ", ".join(universe.officials[int(i)] for i in rng.choice(len(universe.officials), 3, replace=False))
    minutes = int(rng.integers(125, 156)) + 14 * overtimes
    return [
        *(f"{fixture.day:%Y%m%d}0{host.code}", fixture.day.isoformat(), year, host.code, guest.code),
        *(host.name, guest.name, sides[0].score, sides[1].score, *kind, host.arena, host.city, attendance),
        *(
            officials,
            f"{minutes // 60}:{minutes % 60:02}",
            overtimes,
            None,
            CREATED,
            1,
            1,
            1,
            int(fixture.covered),
        ),
        *(100 if attendance else 95, NOTES, CREATED, CREATED),
    ]


def _insert_pending(connection: sqlite3.Connection, rng: np.random.Generator, season: Season) -> None:
    """Games that were never played here, pending or failed."""
    codes = [team.code for team in teams()]
    for number in range(round(PENDING_SHARE * len(season.fixtures))):
        home, away = (codes[int(i)] for i in rng.choice(len(codes), 2, replace=False))
        day = date(season.year, 4, 11) + timedelta(days=number % 3)
        failed = rng.random() < 0.3
        values = [
            f"{day:%Y%m%d}9{home}",
            day.isoformat(),
            season.year,
            home,
            away,
            "failed" if failed else "pending",
        ]
        values += [
            5,
            3 if failed else 0,
            3,
            None,
            "HTTP 404" if failed else None,
            None,
            0,
            0,
            0,
            0,
            CREATED,
            CREATED,
        ]
        connection.execute(f"INSERT OR IGNORE INTO scraping_progress VALUES ({', '.join('?' * len(values))})", values)


def _rows(connection: sqlite3.Connection, table: str, rows: list[list[Any]]) -> None:
    """Insert rows without their id, if the table has one."""
    identity = "" if table == "games" else "NULL, "
    connection.executemany(f"INSERT INTO {table} VALUES ({identity}{', '.join('?' * len(rows[0]))})", rows)

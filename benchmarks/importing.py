"""Importing a season's files, beside pandas' read_csv and to_sql of the same files, in one run, alternated.

    python benchmarks/importing.py [--games 1230] [--rounds 3]

The files are a simulated season written as hoopR publishes its tables: schedule, team and player box scores, and
play-by-play of one game in fifteen. pandas copies cells into tables of their own columns, in one transaction and
without an index: it checks nothing, knows no row again and joins nothing to a game. So its time is a floor, and the
ratio says what the checks, the keys and the places of rows cost. Times are the processor's: both use one thread, and
what else the machine does does not count.
"""

from __future__ import annotations

import argparse
import csv
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd

from prefloop.progress import set_quiet
from prefloop.tasks.nba.imports.files import import_files
from prefloop.tasks.nba.league import LeagueConfig, build_league

COUNTS = {
    "field_goals_made": "field_goals_made",
    "field_goals_attempted": "field_goals_attempted",
    "three_point_field_goals_made": "three_pointers_made",
    "three_point_field_goals_attempted": "three_pointers_attempted",
    "free_throws_made": "free_throws_made",
    "free_throws_attempted": "free_throws_attempted",
    "offensive_rebounds": "offensive_rebounds",
    "defensive_rebounds": "defensive_rebounds",
    "rebounds": "total_rebounds",
    "assists": "assists",
    "steals": "steals",
    "blocks": "blocks",
    "turnovers": "turnovers",
    "fouls": "personal_fouls",
}
"""hoopR's columns by the league's."""
GAME = (
    "g.rowid AS game_id, g.season, CASE g.game_type WHEN 'Regular Season' THEN 2 ELSE 3 END AS season_type, g.game_date"
)
COUNTED = ", ".join(f"b.{ours} AS {theirs}" for theirs, ours in COUNTS.items())
OTHER = "CASE b.team WHEN g.home_team THEN g.{away} ELSE g.{home} END"
QUERIES = {
    "schedule": f"SELECT {GAME}, g.home_team AS home_abbreviation, g.away_team AS away_abbreviation, 1 AS home_id, "
    "2 AS away_id, g.home_score, g.away_score, 'TRUE' AS status_type_completed FROM games g",
    "team_box": f"SELECT {GAME}, b.team AS team_abbreviation, CASE b.is_home WHEN 1 THEN 'home' ELSE 'away' END AS "
    f"team_home_away, b.points AS team_score, {OTHER.format(home='home_score', away='away_score')} AS "
    f"opponent_team_score, {COUNTED} FROM team_box_scores b JOIN games g USING (game_id)",
    "player_box": f"SELECT {GAME}, b.team AS team_abbreviation, b.player_name AS athlete_display_name, "
    f"b.minutes_played AS minutes, b.points, b.plus_minus, b.is_starter AS starter, b.did_not_play, "
    f"b.dnp_reason AS reason, {COUNTED} "
    "FROM player_box_scores b JOIN games g USING (game_id)",
    "play_by_play": f"SELECT {GAME}, e.event_number AS sequence_number, e.quarter AS period_number, "
    "e.time_remaining AS clock_display_value, e.event_type AS type_text, e.description AS text, '' AS team_id, "
    "1 AS home_team_id, 2 AS away_team_id, e.home_score, e.away_score, COALESCE(e.shot_made, 0) AS scoring_play, "
    "0 AS score_value, e.event_type = 'shot' AS shooting_play FROM game_play_by_play e JOIN games g USING (game_id)",
}
"""One season of a simulated league as hoopR's tables."""


def write_season(folder: Path, games: int) -> list[Path]:
    """The files of a season, and of its play-by-play as much as the simulator writes."""
    league = folder / "simulated.sqlite"
    build_league(LeagueConfig(games=games, seasons=(2019,)), league)
    with closing(sqlite3.connect(league)) as connection:
        return [_write(folder / f"{name}.csv", connection.execute(query)) for name, query in QUERIES.items()]


def _write(path: Path, rows: sqlite3.Cursor) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(column[0] for column in rows.description)
        writer.writerows(rows)
    return path


def ours(files: list[Path], folder: Path) -> float:
    """Seconds of an import into a new league."""
    league = folder / "ours.sqlite"
    league.unlink(missing_ok=True)
    started = time.process_time()
    found = import_files(files, league)
    seconds = time.process_time() - started
    for one in found:
        if one.failed or one.report["bad"] or one.report["contradictions"] or one.report["waiting"]:
            raise SystemExit(f"{one.path.name} was not imported whole: {one.report}")
    return seconds


def theirs(files: list[Path], folder: Path) -> float:
    """Seconds of pandas, its tables in one transaction of a new database."""
    target = folder / "pandas.sqlite"
    target.unlink(missing_ok=True)
    started = time.process_time()
    with closing(sqlite3.connect(target)) as connection, connection:
        for file in files:
            pd.read_csv(file, engine="c").to_sql(file.stem, connection, index=False)
    return time.process_time() - started


def alternated(files: list[Path], folder: Path, rounds: int) -> Iterator[tuple[float, float]]:
    """Both in turn, after one of each that does not count."""
    ours(files, folder), theirs(files, folder)
    for _ in range(rounds):
        yield ours(files, folder), theirs(files, folder)


def main() -> None:
    """Print rows per second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=1230)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        files = write_season(folder, given.games)
        rows = sum(_rows(file) for file in files)
        size = sum(file.stat().st_size for file in files)
        times = list(alternated(files, folder, given.rounds))
    print(f"{rows:,} rows of {len(files)} files, {size / 1e6:.1f} MB; processor time, median of {given.rounds} rounds")
    mine, other = (statistics.median(seconds) for seconds in zip(*times, strict=True))
    print(f"league import               {mine:7.2f} s  {rows / mine:9,.0f} rows/s")
    print(f"pandas read_csv and to_sql  {other:7.2f} s  {rows / other:9,.0f} rows/s")
    ratios = sorted(a / b for a, b in times)
    print(f"ratio of times {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})")


def _rows(file: Path) -> int:
    with file.open("rb") as handle:
        return sum(1 for _ in handle) - 1


if __name__ == "__main__":
    main()

"""Real seasons from a PostgreSQL server that keeps ESPN's and hoopR's tables, through a role that can only read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import prefloop
from postgres import Postgres, running_postgres
from postgres_copy import make_reader, new_database

from prefloop.tasks.nba.imports.files import import_files
from prefloop.tasks.nba.imports.sources import Options

ESPN = """
CREATE TABLE games (game_id varchar, game_date date, season varchar, home_team_abbrev varchar, home_team_name varchar,
  home_score int, away_team_abbrev varchar, away_team_name varchar, away_score int, venue varchar, venue_city varchar,
  periods int, completed boolean, game_time text, home_team_id varchar, home_team_is_winner boolean,
  away_team_id varchar, away_team_is_winner boolean, venue_state varchar, game_status varchar, broadcast_name varchar);
CREATE TABLE box_score_teams (game_id varchar, game_date date, attendance int,
  {sides}, {shares}, game_state text,
  referee1_name text, referee1_position text, referee2_name text, referee2_position text, referee3_name text,
  referee3_position text);
CREATE TABLE box_score_players (game_id varchar, player_id varchar, team_id varchar, team_abbrev varchar,
  is_starter boolean, minutes text, field_goals text, three_pointers text, free_throws text, offensive_rebounds int,
  defensive_rebounds int, total_rebounds int, assists int, steals int, blocks int, turnovers int, fouls int,
  plus_minus int, points int);
CREATE TABLE players (player_id varchar, player_name varchar, position varchar, jersey_number varchar, team_id varchar);
""".format(
    shares=", ".join(
        f"{side}_team_{shot}_pct numeric"
        for side in ("home", "away")
        for shot in ("field_goals", "three_pointers", "free_throws")
    ),
    sides=", ".join(
        f"{side}_team_{name} {kind}"
        for side in ("home", "away")
        for name, kind in [
            ("id", "text"), ("abbrev", "text"), ("score", "int"), ("field_goals", "text"), ("three_pointers", "text"),
            ("free_throws", "text"), ("offensive_rebounds", "int"), ("defensive_rebounds", "int"),
            ("total_rebounds", "int"), ("assists", "int"), ("steals", "int"), ("blocks", "int"), ("turnovers", "int"),
            ("fouls", "int"),
        ]
    )
)  # fmt: skip
HOOPR = """
CREATE TABLE hoopr_team_box (game_id int, season int, season_type int, game_date date, team_display_name text,
  team_abbreviation text, team_home_away text, team_score int, assists int, field_goals_made int,
  field_goals_attempted int, free_throws_made int, free_throws_attempted int, three_point_field_goals_made int,
  three_point_field_goals_attempted int, offensive_rebounds int, defensive_rebounds int, total_rebounds int,
  opponent_team_score int, team_id int, team_winner boolean, blocks int, fast_break_points text,
  field_goal_pct numeric, fouls int, largest_lead text, points_in_paint text, steals int, turnover_points text,
  turnovers int, opponent_team_id int);
CREATE TABLE hoopr_player_box (game_id int, season int, season_type int, game_date date, athlete_id int,
  athlete_display_name text, team_name text, team_abbreviation text, minutes numeric, field_goals_made int,
  field_goals_attempted int, three_point_field_goals_made int, three_point_field_goals_attempted int,
  free_throws_made int, free_throws_attempted int, points int, starter boolean, did_not_play boolean, reason text,
  plus_minus text, team_id int, offensive_rebounds int, defensive_rebounds int, rebounds int, assists int, steals int,
  blocks int, turnovers int, fouls int, ejected boolean, active boolean, athlete_position_abbreviation text,
  home_away text, team_winner boolean, team_score int, opponent_team_id int, opponent_team_abbreviation text,
  opponent_team_score int);
CREATE TABLE hoopr_play_by_play (id int, game_id int, season int, sequence_number int, period_number int,
  clock_display_value text, type_text text, text text, team_id int, home_score int, away_score int, scoring_play boolean,
  score_value int, shooting_play boolean, home_team_id int, away_team_id int, coordinate_x float8, coordinate_y float8,
  season_type int, game_date date, game_play_number int, type_id int, athlete_id_1 int, athlete_id_2 int,
  athlete_id_3 int);
"""
"""The parent's columns by name and, as far as known, by type; some of its types are inferred."""


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture
def parent(server: Postgres) -> str:
    """The administrator's URL of a database with ESPN's tables: a game of 2019, one of 2001 and an All-Star game."""
    admin = new_database(server)
    with psycopg.connect(admin) as connection:
        connection.execute(ESPN)
        game(connection, "401", "2019-03-01", "2018-19", "GS", "CHI", 100, 96, periods=5)
        game(connection, "300", "2001-01-05", "2000-01", "NY", "UTAH", 90, 80, field_goals="0-0")
        game(connection, "402", "2019-02-17", "2018-19", "WEST", "EAST", 178, 164, names="Team LeBron")
        game(connection, "403", "2019-04-01", "2018-19", "GS", "CHI", 0, 0, completed=False)
        connection.cursor().executemany(
            "INSERT INTO box_score_players VALUES (%s, %s, '', 'GS', %s, %s, %s, %s, %s, 2, 5, 7, 6, 1, 0, 2, 3, %s, %s)",
            [
                ("401", "11", True, "36", "8-18", "2-5", "4-4", 7, 22),
                ("401", "12", False, "12:30", "1-3", "0-0", "0-0", -4, 2),
                ("401", "14", False, "10", "1-2", "0-0", "0-0", 0, 2),
            ],
        )
        connection.execute(
            "INSERT INTO box_score_players VALUES ('401', '13', '', 'GS', false, '--', '0-0', '0-0', '0-0', "
            "0, 0, 0, 0, 0, 0, 0, 0, 0, 0)"
        )
        connection.execute("INSERT INTO players VALUES ('11', 'Ann Ámer'), ('12', 'Bo Berg'), ('13', 'Cy Coe')")
    return admin


def game(
    connection: psycopg.Connection[Any], name: str, day: str, season: str, home: str, away: str, scored: int,
    allowed: int, *, periods: int = 4, field_goals: str = "40-80", names: str = "", completed: bool = True,
) -> None:  # fmt: skip
    """A game and its wide row: 40 goals, 10 free throws and threes for the rest; no steals are told."""
    values = [name, day, season, home, names or home, scored, away, names or away, allowed, "Arena", "Town", periods]
    connection.execute(f"INSERT INTO games VALUES ({', '.join(['%s'] * 13)})", [*values, completed])
    wide: list[Any] = [name, day, 18_000]
    for code, score in ((home, scored), (away, allowed)):
        threes = f"{max(score - 90, 0)}-30"
        wide += ["1", code, score, field_goals, threes, "10-12", 10, 30, 40, 20, 0, 5, 12, 19]
    connection.execute(f"INSERT INTO box_score_teams VALUES ({', '.join(['%s'] * len(wide))})", wide)
    referees = "UPDATE box_score_teams SET referee1_name = 'Ida Iver', referee2_name = 'Ole Orr' WHERE game_id = %s"
    connection.execute(referees, [name])


def hoopr(connection: psycopg.Connection[Any], name: int, day: str, season: int, home: str, away: str) -> None:
    """A game that hoopR has, 92 to 90, with one player."""
    if connection.execute("SELECT 1 FROM pg_tables WHERE tablename = 'hoopr_team_box'").fetchone() is None:
        connection.execute(HOOPR)
    for code, side, score, other in ((home, "home", 92, 90), (away, "away", 90, 92)):
        row = [name, season, 2, day, code, code, side, score, 20, 40, 80, 10, 12, score - 90, 30, 10, 30, 40, other]
        connection.execute(f"INSERT INTO hoopr_team_box VALUES ({', '.join(['%s'] * len(row))})", row)
    row = [name, season, 2, day, 11, "Ann Ámer", home, home, 36, 8, 18, 2, 5, 4, 4, 22, True, False, None, "+5"]
    connection.execute(f"INSERT INTO hoopr_player_box VALUES ({', '.join(['%s'] * len(row))})", row)
    row = [
        1,
        name,
        season,
        1,
        1,
        "11:42",
        "Jump Shot",
        "Ann Ámer makes 20-foot jumper",
        9,
        2,
        0,
        True,
        2,
        True,
        9,
        8,
        5,
        6,
    ]
    connection.execute(f"INSERT INTO hoopr_play_by_play VALUES ({', '.join(['%s'] * len(row))})", row)


def asked(league: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(league)) as connection:
        return connection.execute(sql).fetchall()


def test_espns_tables_fill_a_league(parent: str, tmp_path: Path) -> None:
    league = tmp_path / "real.sqlite"
    with_password = make_reader(parent).replace("@", ":op3n@", 1)
    done = prefloop("league", "import", with_password, "--into", league, "--json")
    assert done.returncode == 0, done.stderr
    assert b"op3n" not in league.read_bytes() + (done.stdout + done.stderr).encode()
    ((place, told),) = json.loads(done.stdout).items()
    assert place.startswith("postgresql://prefloop_reader@")
    assert told["added"] == {"games": 2, "team_box_scores": 2, "player_box_scores": 3}
    assert sorted(remark.partition(": ")[2] for remark in told["remarks"]) == [
        "left out 1 games that are not over",
        "left out 1 games' box scores that are missing",
        "left out 1 rows of All-Star games",
        "left out 1 rows of box_score_players: nothing names their players",
    ]
    assert (told["bad"], told["contradictions"], told["waiting"]) == ([], [], [])
    games = "SELECT game_id, season, home_team, away_team, home_score, num_overtime_periods, attendance, game_type FROM games"
    assert asked(league, f"{games} ORDER BY 1") == [
        ("200101050NYK", 2001, "NYK", "UTA", 90, 0, 18000, None),
        ("201903010GSW", 2019, "GSW", "CHI", 100, 1, 18000, None),
    ]
    assert asked(league, "SELECT DISTINCT officials FROM games") == [("Ida Iver, Ole Orr",)]
    teams = "SELECT team, points, field_goals_made, three_pointers_made, free_throws_attempted, assists, steals FROM team_box_scores"
    assert asked(league, f"{teams} ORDER BY is_home") == [
        ("CHI", 96, 40, 6, 12, 20, None),  # 0 steals are none that are known
        ("GSW", 100, 40, 10, 12, 20, None),
    ]
    players = "SELECT player_name, points, field_goals_attempted, minutes_decimal, did_not_play, is_starter FROM player_box_scores"
    assert asked(league, f"{players} ORDER BY player_slug") == [
        ("Ann Ámer", 22, 18, 36.0, 0, 1),
        ("Bo Berg", 2, 3, 12.5, 0, 0),
        ("Cy Coe", 0, None, 0.0, 1, 0),
    ]


def test_a_score_of_nothing_in_the_wide_row_is_none(parent: str, tmp_path: Path) -> None:
    """The parent's loader writes 0 for what it does not know; another number contradicts the game's."""
    for told, bad in ((0, 0), (99, 1)):
        with psycopg.connect(parent) as connection:
            connection.execute("UPDATE box_score_teams SET home_team_score = %s WHERE game_id = '401'", [told])
        (found,) = import_files([make_reader(parent)], tmp_path / f"{told}.sqlite")
        assert (found.report["added"]["games"], len(found.report["bad"])) == (2 - bad, bad)


def test_the_same_import_again_adds_nothing(parent: str, tmp_path: Path) -> None:
    league, reader = tmp_path / "real.sqlite", make_reader(parent)
    (first,) = import_files([reader], league)
    before = league.read_bytes()
    (again,) = import_files([reader], league)
    assert (first.before, again.before, league.read_bytes() == before) == (False, True, True)
    with psycopg.connect(parent) as connection:
        game(connection, "404", "2019-03-03", "2018-19", "BOS", "CHI", 100, 96)
        connection.execute("UPDATE games SET home_score = 101 WHERE game_id = '401'")
    (third,) = import_files([reader], league)
    assert (third.before, third.report["added"]) == (False, {"games": 1, "team_box_scores": 2})
    assert asked(league, "SELECT home_score FROM games WHERE game_id = '201903010GSW'") == [(100,)]
    assert any("score is 101, and 100" in reason for reason in [*third.report["bad"], *third.report["contradictions"]])


def test_a_season_comes_from_one_source(parent: str, tmp_path: Path) -> None:
    """2019 has one game in hoopR's tables and two in ESPN's; 2020 is hoopR's alone."""
    with psycopg.connect(parent) as connection:
        hoopr(connection, 401, "2019-03-01", 2019, "GS", "CHI")
        hoopr(connection, 501, "2020-01-05", 2020, "BOS", "NY")
    league = tmp_path / "real.sqlite"
    (found,) = import_files([make_reader(parent)], league)
    assert any(
        "season 2019 is taken from games and box_score_* (2 games), not from hoopr_* (1)" in one
        for one in found.report["remarks"]
    )
    assert found.report["contradictions"] == []
    assert asked(league, "SELECT game_id, home_score, game_type FROM games ORDER BY 1") == [
        ("200101050NYK", 90, None),
        ("201903010GSW", 100, None),
        ("202001050BOS", 92, "Regular Season"),
    ]
    names = "SELECT player_name FROM player_box_scores WHERE game_id LIKE '2019%' ORDER BY 1"
    assert asked(league, names) == [("Ann Ámer",), ("Bo Berg",), ("Cy Coe",)]
    assert asked(league, "SELECT COUNT(*) FROM game_play_by_play") == [(0,)]
    one = tmp_path / "one.sqlite"
    (found,) = import_files([make_reader(parent)], one, Options(season=2020))
    assert found.report["added"] == {"games": 1, "team_box_scores": 2, "player_box_scores": 1, "game_play_by_play": 1}


def test_rows_that_cannot_be_read_are_named(parent: str, tmp_path: Path) -> None:
    with psycopg.connect(parent) as connection:
        game(connection, "405", "2019-03-04", "2018-19", "XYZ", "CHI", 100, 96)
        game(connection, "406", "2019-03-05", "2018-19", "BOS", "CHI", 100, 96, field_goals="many")
        connection.execute(
            "INSERT INTO box_score_players (game_id, player_id, team_abbrev, minutes, field_goals, points) VALUES ('401', '12', 'GS', '12', '1 of 3', 2)"
        )
    (found,) = import_files([make_reader(parent)], tmp_path / "l.sqlite")
    reasons = [row.partition(": ")[2] for row in found.report["bad"]]
    assert len(reasons) == 3, reasons
    for part in ("no team has that code ('XYZ')", "field_goals is not made-attempted like 8-18 ('many')", "'1 of 3'"):
        assert any(part in reason for reason in reasons), reasons
    assert all(row.startswith("box_score_") for row in found.report["bad"])


def test_mixed_labels_of_seasons_are_refused_whole(parent: str, tmp_path: Path) -> None:
    with psycopg.connect(parent) as connection:
        game(connection, "405", "2019-03-04", "2019", "BOS", "CHI", 100, 96)
    (found,) = import_files([make_reader(parent)], tmp_path / "l.sqlite")
    assert "labels its seasons in several ways" in str(found.failed)
    assert not (tmp_path / "l.sqlite").exists()


def test_what_cannot_be_imported_from_is_named_without_its_password(
    server: Postgres, parent: str, tmp_path: Path
) -> None:
    league = tmp_path / "l.sqlite"
    empty = new_database(server)
    with psycopg.connect(empty) as connection:
        connection.execute("CREATE TABLE other (x int)")
    lacking = new_database(server)
    with psycopg.connect(lacking) as connection:
        connection.execute("CREATE TABLE games (game_id text, game_date date)")
    older = new_database(server)
    with psycopg.connect(older) as connection:
        connection.execute("CREATE TABLE hoopr_team_box (game_id int, game_date date, season int, season_type int)")
        connection.execute("INSERT INTO hoopr_team_box VALUES (1, '2019-03-01', 2019, 2)")
    for url, said in (
        (parent, "is a superuser"),
        (make_reader(empty), "has no table games"),
        (make_reader(lacking), "home_team_abbrev, away_team_abbrev"),
        (make_reader(older), "table hoopr_team_box is no hoopR table: columns team_abbreviation"),
        ("postgresql://me:op3n@127.0.0.1:1/nba", "cannot be reached"),
    ):
        failed = prefloop("league", "import", url, "--into", league)
        assert (failed.returncode, said in failed.stderr, "op3n" in failed.stderr) == (3, True, False), failed.stderr
    assert not league.exists()

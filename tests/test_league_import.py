"""Real seasons into a league: the facts of published files, every kind of damage named, nothing doubled."""

from __future__ import annotations

import doctest
import json
import sqlite3
from collections import Counter
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports import (
    basketball_reference_events,
    events,
    franchises,
    lines,
    pbpstats_games,
    people,
    rows,
    seasons,
    tables,
)
from prefloop.tasks.nba.imports.basketball_reference import read_schedule
from prefloop.tasks.nba.imports.franchises import code_from, code_of
from prefloop.tasks.nba.imports.merge import merge_rows
from prefloop.tasks.nba.imports.pbpstats import NEEDED, read_game_log
from prefloop.tasks.nba.imports.rows import Row, shooting, whole

DATA = Path(__file__).parents[2] / "shared" / "data" / "nba"
LOG = DATA / "pbpstats" / "stats_leaguegamelog_nba_2018_19_Regular_Season.json"
SCHEDULES = DATA / "bbref-web-scraper"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside the checkout")


def asked(league: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(league)) as connection:
        return connection.execute(sql).fetchall()


HEADERS = [*NEEDED]


def side(team: str, matchup: str, points: int = 100, **changes: Any) -> list[Any]:
    """A team's row: 40 goals, of them points − 80 − 10 threes, and 10 free throws."""
    values = {
        "SEASON_ID": "22018", "TEAM_ABBREVIATION": team, "TEAM_NAME": f"The {team}", "GAME_ID": "0021800001",
        "GAME_DATE": "2019-03-01", "MATCHUP": matchup, "MIN": 240, "FGM": 40, "FGA": 80, "FG3M": points - 90,
        "FG3A": 30, "FTM": 10, "FTA": 12, "OREB": 10, "DREB": 30, "REB": 40, "AST": 20, "STL": 5, "BLK": 5, "TOV": 12,
        "PF": 20, "PTS": points,
    }  # fmt: skip
    return [{**values, **changes}[name] for name in HEADERS]


def log(path: Path, *found: list[Any], headers: list[str] = HEADERS) -> Path:
    path.write_text(json.dumps({"resultSets": [{"name": "x", "headers": headers, "rowSet": list(found)}]}))
    return path


GAME = side("CHI", "CHI @ ATL", 100), side("ATL", "ATL vs. CHI", 96)


def test_docstring_examples() -> None:
    for module in (
        rows,
        franchises,
        lines,
        people,
        tables,
        seasons,
        events,
        basketball_reference_events,
        pbpstats_games,
    ):
        found = doctest.testmod(module)
        assert found.attempted >= 1
        assert not found.failed


# Published files


@real
@pytest.mark.shared_data
def test_the_facts_of_2018_19(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    found = merge_rows(read_game_log(LOG), league)
    assert (found.added, found.bad, found.contradictions) == ({"games": 1230, "team_box_scores": 2460}, [], [])
    assert asked(league, "SELECT DISTINCT season, game_type FROM games") == [(2019, "Regular Season")]
    overtimes = Counter(row[0] for row in asked(league, "SELECT num_overtime_periods FROM games"))
    assert overtimes == {0: 1163, 1: 57, 2: 7, 3: 2, 4: 1}
    highest = "SELECT game_id, home_team, away_team, home_score, away_score, num_overtime_periods FROM games"
    assert asked(league, f"{highest} ORDER BY home_score + away_score DESC LIMIT 1") == [
        ("201903010ATL", "ATL", "CHI", 161, 168, 4)
    ]
    best = "SELECT team, ROUND(AVG(points), 1) FROM team_box_scores GROUP BY team ORDER BY AVG(points) DESC LIMIT 1"
    assert asked(league, best) == [("MIL", 118.1)]
    wrong = "SELECT COUNT(*) FROM team_box_scores WHERE points <> 2 * field_goals_made + three_pointers_made + free_throws_made"
    assert asked(league, wrong) == [(0,)]
    assert len(asked(league, "SELECT DISTINCT team FROM team_box_scores")) == 30
    again = merge_rows(read_game_log(LOG), league)
    assert (again.added, again.known, again.contradictions) == ({}, {"games": 1230, "team_box_scores": 2460}, [])


@real
@pytest.mark.shared_data
@pytest.mark.parametrize(("season", "regular", "playoffs", "night"), [(2018, 1230, 82, 1041), (2001, 1189, 71, None)])
def test_the_facts_of_schedules(tmp_path: Path, season: int, regular: int, playoffs: int, night: int | None) -> None:
    path, league = SCHEDULES / f"{season}_season_schedule.csv", tmp_path / "l.sqlite"
    assert not merge_rows(read_schedule(path), league).bad
    phases = dict(asked(league, "SELECT game_type, COUNT(*) FROM games GROUP BY game_type"))
    assert phases == {"Regular Season": regular, "Playoffs": playoffs}
    assert asked(league, "SELECT DISTINCT num_overtime_periods FROM games") == [(None,)]
    stamps = [datetime.fromisoformat(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]
    assert night in (None, sum(stamp.hour < 10 for stamp in stamps))
    days = [(stamp - timedelta(days=stamp.hour < 10)).date().isoformat() for stamp in stamps]  # none starts at dawn
    assert Counter(days) == Counter(row[0] for row in asked(league, "SELECT game_date FROM games"))


# Teams


@pytest.mark.parametrize(
    ("name", "season", "code"),
    [
        ("BROOKLYN NETS", 2019, "BRK"),
        ("new jersey  nets", 2001, "NJN"),
        ("CHARLOTTE HORNETS", 2001, "CHH"),
        ("CHARLOTTE BOBCATS", 2010, "CHA"),
        ("CHARLOTTE HORNETS", 2015, "CHO"),
    ],
)
def test_names_become_codes_of_their_time(name: str, season: int, code: str) -> None:
    assert code_of(name, season) == code


def test_codes_of_other_sources() -> None:
    assert [code_from(code, 2019) for code in ("BKN", "CHA", "PHX", "GS", "WSH", "BOS")] == [
        "BRK", "CHO", "PHO", "GSW", "WAS", "BOS"
    ]  # fmt: skip
    assert (code_from("CHA", 2010), code_from("CHA", 2001), code_from("NJN", 2005)) == ("CHA", "CHH", "NJN")
    for broken in (lambda: code_from("XYZ", 2019), lambda: code_of("Rome Romans", 2019)):
        with pytest.raises(BadRowError, match="no team"):
            broken()


# Damage


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"SEASON_ID": "2018-19"}, "SEASON_ID is no phase and start year"),
        ({"GAME_DATE": "03/01/2019"}, "GAME_DATE is no date"),
        ({"MATCHUP": "CHI - ATL"}, "MATCHUP is not like"),
        ({"MIN": 250}, "MIN is not 240 and 25"),
        ({"PTS": 101}, "points are 101, and the shots give 100"),
        ({"FGM": 81}, "81 made of 80 attempted"),
        ({"AST": "many"}, "AST is no whole number"),
        ({"AST": None}, "AST is missing"),
        ({"AST": -1}, "AST is no whole number"),
        ({"TEAM_ABBREVIATION": "XYZ"}, "no team has that code"),
    ],
)
def test_a_damaged_row_is_named_and_its_game_left_out(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    other = side("BOS", "BOS @ MIA", GAME_ID="2"), side("MIA", "MIA vs. BOS", 96, GAME_ID="2")
    path = log(tmp_path / "log.json", side("CHI", "CHI @ ATL", 100, **changes), GAME[1], *other)
    found = merge_rows(read_game_log(path), tmp_path / "l.sqlite")
    assert found.added == {"games": 1, "team_box_scores": 2}
    assert [(row.file, row.line) for row in found.bad] == [("log.json", 1), ("log.json", 2)]
    assert reason in found.bad[0].reason
    assert found.bad[1].reason == "game 0021800001: 1 teams in place of two"


@pytest.mark.parametrize(
    "second",
    [
        side("ATL", "ATL @ CHI", 96),
        side("ATL", "ATL vs. CHI", 96, MIN=265),
        side("ATL", "ATL vs. CHI", 96, SEASON_ID="22017"),
        side("ATL", "ATL vs. CHI", 96, GAME_DATE="2019-03-02"),
    ],
)
def test_sides_that_do_not_fit_each_other_are_refused(tmp_path: Path, second: list[Any]) -> None:
    path = log(tmp_path / "log.json", GAME[0], second)
    found = list(read_game_log(path))
    assert [row.reason for row in found if isinstance(row, BadRow)] == [
        "game 0021800001: its rows contradict each other"
    ] * 2
    with pytest.raises(DataError, match="nothing could be imported"):
        merge_rows(found, tmp_path / "l.sqlite")
    assert not (tmp_path / "l.sqlite").exists()


def test_a_repeated_row_is_one_and_another_value_is_told(tmp_path: Path) -> None:
    path = log(tmp_path / "log.json", *GAME, GAME[0], side("CHI", "CHI @ ATL", 100, AST=21))
    found = merge_rows(read_game_log(path), tmp_path / "l.sqlite")
    assert (found.added, found.known) == ({"games": 1, "team_box_scores": 2}, {"team_box_scores": 2})
    assert found.contradictions == [
        "log.json, row 4: assists is 21, and 20 was there first (team_box_scores 201903010ATL CHI)"
    ]
    assert asked(tmp_path / "l.sqlite", "SELECT assists FROM team_box_scores WHERE team = 'CHI'") == [(20,)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "no resultSets"),
        ("[1]", "no resultSets"),
        ('{"resultSets": [{"headers": ["GAME_ID"], "rowSet": [["1"]]}]}', "columns SEASON_ID, TEAM_ABBREVIATION"),
        ('{"resultSets": [{"headers": ["GAME_ID"]}]}', "it has no row"),
        ('{"resultSets": [{"headers": ["GAME_ID"], "rowSet": [["1", 2]]}]}', "do not have its 1 columns"),
        ("{", "is no game log: it is no JSON"),
        ("", "is no game log: it is no JSON"),
    ],
)
def test_another_file_is_no_game_log(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "log.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        merge_rows(read_game_log(tmp_path / "log.json"), tmp_path / "l.sqlite")


def test_derived_columns_by_hand() -> None:
    found = shooting({
        "field_goals_made": 40, "field_goals_attempted": 80, "three_pointers_made": 10, "three_pointers_attempted": 30,
        "free_throws_made": 10, "free_throws_attempted": 12, "points": 100,
    })  # fmt: skip
    assert (found["field_goal_pct"], found["three_point_pct"], found["free_throw_pct"]) == (0.5, 0.333, 0.833)
    assert found["true_shooting_pct"] == 0.586  # 100 / (2 (80 + 0.44 · 12)) = 100 / 170.56
    assert found["effective_fg_pct"] == 0.562  # 45 / 80 = 0.5625, to even


@pytest.mark.parametrize("value", [True, "1.5", "1e3", " ", [], 10**10])
def test_what_is_no_count(value: Any) -> None:
    with pytest.raises(BadRowError):
        whole({"n": value}, "n")


# Schedules and the league


SCHEDULE = "start_time,away_team,away_team_score,home_team,home_team_score\n"


def test_a_schedule_fills_no_gap_with_zero_and_a_log_fills_it(tmp_path: Path) -> None:
    path, league = tmp_path / "2019_schedule.csv", tmp_path / "l.sqlite"
    path.write_text(SCHEDULE + "2019-03-02 00:30:00+00:00,CHICAGO BULLS,100,ATLANTA HAWKS,96\n")
    merge_rows(read_schedule(path), league)
    assert asked(league, "SELECT game_id, has_basic_stats FROM games") == [("201903010ATL", 0)]
    found = merge_rows(read_game_log(log(tmp_path / "log.json", *GAME)), league)
    assert (found.added, found.filled) == ({"team_box_scores": 2}, {"games": 1})
    assert asked(league, "SELECT num_overtime_periods, has_basic_stats FROM games") == [(0, 1)]
    assert found.contradictions == []  # sources spell names in ways of their own: the first stays
    assert asked(league, "SELECT home_team_name FROM games") == [("Atlanta Hawks",)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("2019-03-02,CHICAGO BULLS,100,ATLANTA HAWKS,96", "does not say in which zone"),
        ("soon,CHICAGO BULLS,100,ATLANTA HAWKS,96", "start_time is no time"),
        ("2014-03-02 00:30:00+00:00,CHICAGO BULLS,100,ATLANTA HAWKS,96", "is not of season 2019"),
        ("2019-03-02 00:30:00+00:00,CHICAGO BULLS,,ATLANTA HAWKS,96", "away_team_score is missing"),
        ("2019-03-02 00:30:00+00:00,ROME,100,ATLANTA HAWKS,96", "no team is called that"),
    ],
)
def test_a_damaged_line_of_a_schedule(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "2019_schedule.csv"
    path.write_text(SCHEDULE + line + "\n")
    (found,) = read_schedule(path)
    assert isinstance(found, BadRow)
    assert (found.line, reason in found.reason) == (2, True)


def test_a_league_of_something_else_is_left_alone(tmp_path: Path) -> None:
    for content in (b"precious", b""):
        (tmp_path / "l.sqlite").write_bytes(content)
        with pytest.raises(DataError, match="is no league"):
            merge_rows([Row("games", {"game_id": "1"}, "f", 1)], tmp_path / "l.sqlite")
        assert (tmp_path / "l.sqlite").read_bytes() == content


def test_an_import_that_fails_midway_changes_nothing(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    merge_rows(read_game_log(log(tmp_path / "log.json", *GAME)), league)
    before = league.read_bytes()

    def failing() -> Any:
        yield Row("team_box_scores", {"game_id": "x", "team": "BOS", "is_home": 1}, "f", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_rows(failing(), league)
    assert league.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".l.sqlite.lock", "l.sqlite", "log.json"]


def test_the_command(tmp_path: Path) -> None:
    log(tmp_path / "log.json", *GAME, side("CHI", "CHI @ ATL", 100, AST=21), side("MIA", "MIA @ BOS", GAME_ID="3"))
    done = prefloop("league", "import", "log.json", "--into", "real.sqlite", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "log.json: added: 1 games, 2 team_box_scores" in done.stdout
    assert "contradicts: log.json, row 3: assists is 21" in done.stderr
    assert "not read: log.json, row 4: game 3: 1 teams in place of two" in done.stderr
    before = (tmp_path / "real.sqlite").read_bytes()
    again = prefloop("league", "import", "log.json", "--into", "real.sqlite", "--json", cwd=tmp_path)
    told = json.loads(again.stdout)["log.json"]
    assert (told["imported_before"], told["added"]) == (True, {"games": 1, "team_box_scores": 2})
    assert (tmp_path / "real.sqlite").read_bytes() == before
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for words, said in (("gone.json", "does not exist"), ("other.csv", "has columns a, b"), ("x.txt", "unknown file")):
        (tmp_path / "x.txt").write_text("")
        failed = prefloop("league", "import", words, cwd=tmp_path)
        assert (failed.returncode, said in failed.stderr) == (3, True)

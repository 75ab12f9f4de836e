"""Invented players add up to the real teams' rows, are marked, and give way to real ones."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import prefloop
from hypothesis import given, settings
from hypothesis import strategies as st
from test_league_import import log
from test_league_import import side as team_side
from test_league_merge import box, line
from test_league_sources import LOG, asked, clean, game, league_of, real

from prefloop.progress import set_quiet
from prefloop.tasks.nba.imports.check import check_league
from prefloop.tasks.nba.imports.lines import COUNTS
from prefloop.tasks.nba.imports.merge import merge_rows
from prefloop.tasks.nba.imports.pbpstats import read_game_log
from prefloop.tasks.nba.imports.rows import Row, shooting
from prefloop.tasks.nba.imports.sqlite import read_league
from prefloop.tasks.nba.imports.synthetic import add_players, roster
from prefloop.tasks.nba.imports.synthetic_lines import dealt, fault
from prefloop.tasks.nba.imports.synthetic_marks import synthetic_games, tell_synthetic
from prefloop.tasks.nba.simulate import Side, listed

SUMS = ", ".join(f"SUM(p.{name}) IS NOT t.{name}" for name in COUNTS)
UNEQUAL = f"""
SELECT {SUMS}, ROUND(SUM(p.minutes_decimal), 6) <> 240 + 25 * MAX(g.num_overtime_periods),
  SUM(p.plus_minus) <> 5 * (CASE t.is_home WHEN 1 THEN 1 ELSE -1 END) * (MAX(g.home_score) - MAX(g.away_score)),
  SUM(p.is_starter) <> 5, SUM(NOT p.did_not_play) < 8, MAX(p.personal_fouls) > 6,
  COUNT(DISTINCT p.player_name) <> COUNT(*)
FROM team_box_scores t JOIN games g USING (game_id) JOIN player_box_scores p ON p.game_id = t.game_id AND p.team = t.team
GROUP BY t.game_id, t.team"""
"""What of a team's game does not add up; all 0 where everything does."""
WRONG_LINES = """
SELECT COUNT(*) FROM player_box_scores WHERE points <> 2 * field_goals_made + three_pointers_made + free_throws_made
OR field_goals_made > field_goals_attempted OR three_pointers_made > three_pointers_attempted
OR free_throws_made > free_throws_attempted OR three_pointers_made > field_goals_made
OR field_goals_made - three_pointers_made > field_goals_attempted - three_pointers_attempted
OR total_rebounds <> offensive_rebounds + defensive_rebounds OR min(points, minutes_decimal, assists) < 0
OR minutes_decimal > 48 + 5 * (SELECT num_overtime_periods FROM games g WHERE g.game_id = player_box_scores.game_id)
OR (did_not_play AND (points <> 0 OR minutes_decimal <> 0 OR assists IS NOT NULL))"""


@real
def test_a_whole_season_adds_up(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    merge_rows(read_game_log(LOG), league)
    found = add_players(league, 1)
    assert (found.games, found.left_out) == (1230, [])
    unequal = asked(league, UNEQUAL)
    assert len(unequal) == 2460
    assert not any(any(row) for row in unequal)
    assert asked(league, WRONG_LINES) == [(0,)]
    assert asked(league, "SELECT DISTINCT notes FROM games") == [("synthetic player rows",)]
    assert asked(league, "SELECT COUNT(*) FROM player_box_scores WHERE player_slug NOT LIKE 'synthetic-%'") == [(0,)]
    people = "SELECT COUNT(DISTINCT player_slug), COUNT(DISTINCT team) FROM player_box_scores"
    assert asked(league, people) == [(420, 30)]
    ((rate,),) = asked(league, "SELECT AVG(did_not_play) FROM player_box_scores")
    assert 0.1 < rate < 0.25
    before = asked(league, "SELECT * FROM player_box_scores")
    assert vars(add_players(league, 2)) == {"games": 0, "rows": 0, "left_out": []}
    assert asked(league, "SELECT * FROM player_box_scores") == before
    audit = check_league(league)
    assert (audit.findings, audit.synthetic_players, audit.phases[0].synthetic) == ({}, found.rows, 1230)


SHARED = st.integers(0, 60)


@settings(max_examples=60)
@given(st.integers(0, 2**32), *[SHARED] * 12, st.booleans())
def test_any_team_row_is_dealt_out_exactly(
    seed: int, twos: int, misses: int, threes: int, bricks: int, throws: int, lost: int, orb: int, drb: int, ast: int,
    stl: int, blk: int, fouls: int, early: bool,
) -> None:  # fmt: skip
    fouls = min(fouls, 48)
    values = (
        twos + threes, twos + threes + misses + bricks, threes, threes + bricks, throws, throws + lost, orb, drb,
        orb + drb, ast, stl, blk, lost, fouls, 2 * twos + 3 * threes + throws,
    )  # fmt: skip
    totals: dict[str, int | None] = dict(zip(COUNTS, values, strict=True))
    if early:  # threes, steals and blocks were not counted then
        totals |= dict.fromkeys(("three_pointers_made", "three_pointers_attempted", "steals", "blocks", "turnovers"))
        totals["points"] = 2 * (twos + threes) + throws
    assert fault(totals, totals["points"] or 0) is None
    rng = np.random.default_rng(seed)
    team = Side("ATL", listed(rng, roster(1, "ATL", 2019)))
    counts = dealt(rng, team, totals)
    assert len(counts) == len(team.playing)
    for name, total in totals.items():
        column = [player[name] for player in counts]
        assert column == [None] * len(counts) if total is None else sum(column) == total
    for player in counts:
        shooting(player)  # raises where a player's own counts contradict each other
        assert player["personal_fouls"] <= 6


def teams(rows: dict[str, dict[str, Any]], scores: tuple[int, int] = (96, 100), overtimes: int | None = 0) -> list[Row]:
    """A game of Chicago at Atlanta and its team rows, with changes."""
    plain = {
        "field_goals_made": 40, "field_goals_attempted": 80, "three_pointers_attempted": 30, "free_throws_made": 10,
        "free_throws_attempted": 12, "offensive_rebounds": 10, "defensive_rebounds": 30, "total_rebounds": 40,
        "assists": 20, "steals": 5, "blocks": 5, "turnovers": 12, "personal_fouls": 20,
    }  # fmt: skip
    found = [game("2019-03-01", "ATL", "CHI", scores, 2019, overtimes)]
    for team, points in (("ATL", 96), ("CHI", 100)):
        values = {**plain, "three_pointers_made": points - 90, "points": points, **rows.get(team, {})}
        identity = {"game_id": "201903010ATL", "team": team, "is_home": int(team == "ATL")}
        found.append(Row("team_box_scores", {**identity, **values}, "hand", 1))
    return found


@pytest.mark.parametrize(
    ("rows", "scores", "overtimes", "reason"),
    [
        ({}, (96, 100), None, "nothing says how many overtimes it had"),
        ({}, (96, 100), 10**9, "it had 1,000,000,000 overtimes"),
        ({"ATL": {"personal_fouls": 61}}, (96, 100), 0, "ATL: ten players may have 60 fouls, its row has 61"),
        ({"CHI": {"free_throws_made": None}}, (96, 100), 0, "CHI: free_throws_made is missing"),
        ({}, (97, 100), 0, "ATL: its shots give 96 points, its row 96, the score 97"),
        ({"ATL": {"total_rebounds": 44}}, (96, 100), 0, "ATL: its rebounds do not add up"),
        ({"ATL": {"three_pointers_attempted": 5}}, (96, 100), 0, "ATL: it made more shots than it attempted"),
    ],
)
def test_what_cannot_be_dealt_out_is_left_and_told(
    tmp_path: Path, rows: dict[str, Any], scores: tuple[int, int], overtimes: int | None, reason: str
) -> None:
    league = league_of(tmp_path, *teams(rows, scores, overtimes))
    found = add_players(league)
    assert (found.games, found.rows, found.left_out) == (0, 0, [f"201903010ATL: {reason}"])
    assert asked(league, "SELECT COUNT(*), MAX(notes) FROM player_box_scores, games") == [(0, None)]


def test_an_early_game_keeps_its_gaps(tmp_path: Path) -> None:
    gaps = dict.fromkeys(
        (
            "three_pointers_made",
            "three_pointers_attempted",
            "steals",
            "blocks",
            "turnovers",
            "offensive_rebounds",
            "defensive_rebounds",
        )
    )
    league = league_of(
        tmp_path,
        *teams({"ATL": {**gaps, "points": 90}, "CHI": {**gaps, "points": 90 + 2, "field_goals_made": 41}}, (90, 92)),
    )
    assert add_players(league).games == 1
    assert not any(any(row) for row in asked(league, UNEQUAL))
    assert asked(
        league,
        "SELECT COUNT(steals) + COUNT(three_point_pct) + COUNT(game_score) + COUNT(double_double) FROM player_box_scores",
    ) == [(0,)]


def test_many_fouls_call_the_bench(tmp_path: Path) -> None:
    league = league_of(tmp_path, *teams({"ATL": {"personal_fouls": 60}}, overtimes=4))
    assert add_players(league).games == 1
    assert not any(any(row) for row in asked(league, UNEQUAL))


def test_a_games_players_depend_on_seed_and_game_alone(tmp_path: Path) -> None:
    games = teams({})
    other = [
        Row(
            row.table,
            {**row.values, "game_id": "201903020ATL", **({"game_date": "2019-03-02"} if row.table == "games" else {})},
            "hand",
            1,
        )
        for row in games
    ]
    (tmp_path / "a").mkdir()
    one, both = league_of(tmp_path / "a", *games), league_of(tmp_path, *other, *games)
    add_players(one)
    add_players(both)
    names = "game_id, player_name, player_slug, team, minutes_played, points, plus_minus, did_not_play"
    query = f"SELECT {names} FROM player_box_scores WHERE game_id = '201903010ATL'"
    assert asked(one, query) == asked(both, query)
    (tmp_path / "b").mkdir()
    another = league_of(tmp_path / "b", *games)
    add_players(another, 2)
    assert asked(one, query) != asked(another, query)


def test_a_team_keeps_most_of_its_players_from_season_to_season() -> None:
    years = [{person.slug for person in roster(1, "BOS", season)} for season in range(2000, 2020)]
    assert all(len(slugs) == 14 for slugs in years)
    assert all(11 <= len(a & b) < 14 for a, b in pairwise(years))
    assert not years[0] & years[-1]


def test_real_rows_take_the_place_of_all_invented_ones_and_stay(tmp_path: Path) -> None:
    league = league_of(tmp_path, *teams({}))
    with closing(sqlite3.connect(league)) as connection, connection:
        connection.execute("UPDATE games SET notes = 'overtime decided by coin'")
    assert (add_players(league).games, synthetic_games(league)) == (1, (1, 0))
    assert asked(league, "SELECT notes FROM games") == [("overtime decided by coin; synthetic player rows",)]
    path = box(tmp_path / "2019_03_01.csv", line("C D"), line("E F", team="CHICAGO BULLS"))
    done = prefloop("league", "import", path, "--into", league)
    assert "synthetic player rows of 1 games gave way to real ones" in done.stdout, done.stderr
    assert asked(league, "SELECT player_name FROM player_box_scores ORDER BY 1") == [("C D",), ("E F",)]
    assert asked(league, "SELECT notes FROM games") == [("overtime decided by coin",)]
    assert (add_players(league).games, synthetic_games(league)) == (0, (0, 0))


def test_invented_rows_do_not_travel_into_another_league(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    league = league_of(tmp_path / "other", *teams({}))
    rows = add_players(league).rows
    found = clean(merge_rows(read_league(league), tmp_path / "l.sqlite"))
    assert found.added == {"games": 1, "team_box_scores": 2}
    assert f"l.sqlite: left out {rows} synthetic player rows" in found.remarks
    assert asked(tmp_path / "l.sqlite", "SELECT notes FROM games") == [(None,)]


def test_an_answer_says_that_figures_are_invented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    league = league_of(tmp_path, *teams({}))
    set_quiet(False)
    for database in (league, None, "postgresql://host/league", tmp_path / "gone.sqlite"):
        tell_synthetic(database)
    assert capsys.readouterr().err == ""
    set_quiet(True)
    add_players(league)
    set_quiet(False)
    tell_synthetic(league)
    assert capsys.readouterr().err == f"In 1 games of {league} the players and their figures are synthetic.\n"
    with closing(sqlite3.connect(league)) as connection, connection:
        connection.execute("UPDATE games SET notes = 'synthetic'")
    tell_synthetic(league)
    assert capsys.readouterr().err == f"1 games of {league} are simulated: their players and results are invented.\n"


def test_the_command(tmp_path: Path) -> None:
    log(tmp_path / "log.json", team_side("CHI", "CHI @ ATL", 100), team_side("ATL", "ATL vs. CHI", 96))
    prefloop("league", "import", "log.json", "--into", "l.sqlite", cwd=tmp_path)
    done = prefloop("league", "players", "l.sqlite", "--seed", "3", cwd=tmp_path)
    rows = asked(tmp_path / "l.sqlite", "SELECT COUNT(*) FROM player_box_scores")[0][0]
    assert done.stdout == f"l.sqlite: {rows} synthetic player rows in 1 games\n"
    again = prefloop("league", "players", "l.sqlite", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == {"games": 0, "rows": 0, "left_out": []}
    shown = prefloop("league", "check", "l.sqlite", cwd=tmp_path).stdout
    assert f"{rows} player rows are synthetic: their players and figures are invented" in shown
    assert "everything adds up" in shown
    missing = prefloop("league", "players", "gone.sqlite", cwd=tmp_path)
    assert (missing.returncode, "gone.sqlite does not exist" in missing.stderr) == (3, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".l.sqlite.lock", "l.sqlite", "log.json"]

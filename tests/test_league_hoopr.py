"""hoopR's tables, in the names of several versions: ESPN's games and codes become the league's, All-Star games stay out."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from test_league_sources import MADE_SUM, asked, clean

from prefloop.errors import DataError
from prefloop.tasks.nba.imports.hoopr import read_schedule
from prefloop.tasks.nba.imports.hoopr_boxes import read_player_boxes, read_team_boxes
from prefloop.tasks.nba.imports.hoopr_events import read_events
from prefloop.tasks.nba.imports.merge import merge_rows
from prefloop.tasks.nba.imports.sources import Options, kind_of


def table(path: Path, *rows: dict[str, Any]) -> Path:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


GAME = {"game_id": 401070693, "season": 2019, "season_type": 2, "game_date": "2018-10-16"}


def scheduled(**changes: Any) -> dict[str, Any]:
    return {
        **GAME, "attendance": 19596, "neutral_site": "FALSE", "venue_full_name": "Oracle Arena", "home_id": 9,
        "home_display_name": "Golden State Warriors", "home_abbreviation": "GS", "home_score": 108, "home_winner": "TRUE",
        "away_id": 21, "away_display_name": "Phoenix Suns", "away_abbreviation": "PHX", "away_score": 100,
        "away_winner": "FALSE", "status_type_completed": "TRUE", **changes,
    }  # fmt: skip


TEAM = {
    "assists": 28,
    "blocks": 7,
    "defensive_rebounds": 41,
    "fouls": 29,
    "offensive_rebounds": 17,
    "steals": 7,
    "turnovers": 21,
    "total_rebounds": 58,
}
SHOTS = {
    "field_goals_made": 42, "field_goals_attempted": 95, "three_point_field_goals_made": 7,
    "three_point_field_goals_attempted": 26, "free_throws_made": 17, "free_throws_attempted": 18,
}  # fmt: skip
OTHER = {
    "field_goals_made": 33, "field_goals_attempted": 91, "three_point_field_goals_made": 9,
    "three_point_field_goals_attempted": 37, "free_throws_made": 25, "free_throws_attempted": 37,
}  # fmt: skip


def team_rows() -> list[dict[str, Any]]:
    shared = {**GAME, "fast_break_points": "12", "largest_lead": "9"}
    names = ("team_abbreviation", "team_display_name", "team_home_away", "team_score", "opponent_team_score")
    home = dict(zip(names, ("GS", "Golden State Warriors", "home", 108, 100), strict=True))
    away = dict(zip(names, ("PHX", "Phoenix Suns", "away", 100, 108), strict=True))
    return [{**shared, **home, **TEAM, **SHOTS}, {**shared, **away, **TEAM, **OTHER}]


def player(name: str = "Stephen Curry", **changes: Any) -> dict[str, Any]:
    return {
        **GAME, "athlete_id": 3975, "athlete_display_name": name, "team_id": 9, "team_name": "Warriors",
        "team_abbreviation": "GS", "minutes": 37, "field_goals_made": 11, "field_goals_attempted": 20,
        "three_point_field_goals_made": 5, "three_point_field_goals_attempted": 9, "free_throws_made": 5,
        "free_throws_attempted": 5, "offensive_rebounds": 0, "defensive_rebounds": 8, "rebounds": 8, "assists": 9,
        "steals": 1, "blocks": 0, "turnovers": 4, "fouls": 4, "plus_minus": "+9", "points": 32, "starter": "TRUE",
        "ejected": "FALSE", "did_not_play": "FALSE", "reason": "", "active": "TRUE", "athlete_position_abbreviation": "G",
        "home_away": "home", "team_winner": "TRUE", "team_score": 108, "opponent_team_id": 21,
        "opponent_team_abbreviation": "PHX", "opponent_team_score": 100, **changes,
    }  # fmt: skip


def event(number: int, text: str, kind: str, team: str = "9", **changes: Any) -> dict[str, Any]:
    return {
        "id": number, **GAME, "sequence_number": number * 3, "game_play_number": number, "period_number": 1,
        "clock_display_value": "11:42", "type_id": 1, "type_text": kind, "text": text, "team_id": team, "athlete_id_1": 1,
        "athlete_id_2": "", "athlete_id_3": "", "home_score": 0, "away_score": 0, "scoring_play": "FALSE",
        "score_value": 0, "shooting_play": "FALSE", "coordinate_x": 25, "coordinate_y": -214748340,
        "home_team_id": 9, "away_team_id": 21, **changes,
    }  # fmt: skip


SHOWN = "SELECT game_id, game_date, season, home_team, away_team, home_score, away_score, game_type FROM games"
WARRIORS = ("201810160GSW", "2018-10-16", 2019, "GSW", "PHO", 108, 100, "Regular Season")


@pytest.mark.parametrize(
    ("rows", "read"),
    [([scheduled()], read_schedule), (team_rows(), read_team_boxes), ([player()], read_player_boxes)],
)
def test_each_table_alone_brings_the_game(tmp_path: Path, rows: list[dict[str, Any]], read: Any) -> None:
    path = table(tmp_path / "t.csv", *rows)
    clean(merge_rows(read(path), tmp_path / "l.sqlite"))
    assert asked(tmp_path / "l.sqlite", SHOWN) == [WARRIORS]
    assert asked(tmp_path / "l.sqlite", "SELECT num_overtime_periods FROM games") == [(None,)]
    assert list(kind_of(path, Options()).read(path, Options())) == list(read(path))


def test_the_tables_of_one_game_fit_together(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    clean(merge_rows(read_schedule(table(tmp_path / "s.csv", scheduled())), league))
    found = clean(merge_rows(read_team_boxes(table(tmp_path / "t.csv", *team_rows())), league))
    assert (found.added, found.known) == ({"team_box_scores": 2}, {"games": 1})
    absent = player(
        "Damian Jones",
        did_not_play="TRUE",
        reason="COACH'S DECISION",
        minutes="NA",
        points="NA",
        assists="NA",
        athlete_id="4.0",
    )
    found = clean(merge_rows(read_player_boxes(table(tmp_path / "p.csv", player(), absent)), league))
    assert (found.added, found.known) == ({"player_box_scores": 2}, {"games": 1})
    rows = "SELECT player_slug, team, minutes_decimal, points, total_rebounds, plus_minus, is_starter, did_not_play, dnp_reason FROM player_box_scores"
    assert asked(league, rows) == [
        ("espn3975", "GSW", 37.0, 32, 8, 9, 1, 0, None),
        ("espn4", "GSW", 0.0, 0, None, None, 0, 1, "COACH'S DECISION"),
    ]
    assert asked(league, "SELECT team, is_home, points, total_rebounds FROM team_box_scores ORDER BY team") == [
        ("GSW", 1, 108, 58), ("PHO", 0, 100, 58)
    ]  # fmt: skip


SHORT = {
    "fg": "11-20",
    "fg3": "5-9",
    "ft": "5-5",
    "oreb": 0,
    "dreb": 8,
    "reb": 8,
    "ast": 9,
    "stl": 1,
    "blk": 0,
    "to": 4,
    "pf": 4,
    "pts": 32,
    "min": "37:12",
}
FEW = {
    "fgm": 11,
    "fga": 20,
    "fg3m": 5,
    "fg3a": 9,
    "ftm": 5,
    "fta": 5,
    "oreb": 0,
    "dreb": 8,
    "reb": 8,
    "ast": 9,
    "stl": 1,
    "blk": 0,
    "tov": 4,
    "pf": 4,
    "pts": 32,
    "min": 37,
}


@pytest.mark.parametrize(("names", "minutes"), [(SHORT, "37:12"), (FEW, "37:00")])
def test_names_of_other_versions(tmp_path: Path, names: dict[str, Any], minutes: str) -> None:
    longs = {"minutes", "points", "rebounds", "assists", "steals", "blocks", "turnovers", "fouls"}
    kept = {
        k: v
        for k, v in player().items()
        if k not in longs and "_made" not in k and "_attempted" not in k and "_rebounds" not in k
    }
    clean(merge_rows(read_player_boxes(table(tmp_path / "p.csv", {**kept, **names})), tmp_path / "l.sqlite"))
    row = "SELECT minutes_played, field_goals_made, field_goals_attempted, three_pointers_made, free_throws_attempted, total_rebounds, assists, turnovers, personal_fouls, points FROM player_box_scores"
    assert asked(tmp_path / "l.sqlite", row) == [(minutes, 11, 20, 5, 5, 8, 9, 4, 4, 32)]


@pytest.mark.parametrize(
    ("home", "away"),
    [
        (("LEB", "Team LeBron"), ("GIA", "Team Giannis")),
        (("EAST", "Eastern Conf All-Stars"), ("WEST", "Western Conf All-Stars")),
        (("CHK", "Chuck's Global Stars"), ("SHQ", "Shaq's OGs")),
    ],
)
def test_all_star_games_carry_the_regular_season_and_are_left_out(tmp_path: Path, home: Any, away: Any) -> None:
    names = {
        "home_abbreviation": home[0],
        "home_display_name": home[1],
        "away_abbreviation": away[0],
        "away_display_name": away[1],
    }
    star = scheduled(game_id=9, game_date="2019-02-17", **names)
    unplayed = scheduled(game_id=10, status_type_completed="FALSE", home_score=0, away_score=0)
    found = merge_rows(read_schedule(table(tmp_path / "s.csv", scheduled(), star, unplayed)), tmp_path / "l.sqlite")
    assert (found.added, found.bad) == ({"games": 1}, [])
    assert found.remarks == ["s.csv: left out 1 games that are not over", "s.csv: left out 1 rows of All-Star games"]


def test_phases_by_their_codes(tmp_path: Path) -> None:
    days = {1: "2018-10-01", 2: "2018-11-01", 3: "2019-05-01", 5: "2019-04-15"}
    rows = [scheduled(game_id=code, season_type=code, game_date=day) for code, day in days.items()]
    rows.append(scheduled(game_id=4, season_type=4, game_date="2019-02-01"))
    found = merge_rows(read_schedule(table(tmp_path / "s.csv", *rows)), tmp_path / "l.sqlite")
    assert [(row.line, row.reason) for row in found.bad] == [(6, "season_type is none of 1, 2, 3, 5 ('4')")]
    phases = [phase for (phase,) in asked(tmp_path / "l.sqlite", "SELECT game_type FROM games ORDER BY game_date")]
    assert phases == ["Preseason", "Regular Season", "Play-In", "Playoffs"]


def test_labels_of_two_kinds_refuse_the_file(tmp_path: Path) -> None:
    rows = [scheduled(game_id=i, season=label) for i, label in enumerate(["2019", "2018", "2018-19", "22018", "2019"])]
    with pytest.raises(DataError) as raised:
        merge_rows(read_schedule(table(tmp_path / "s.csv", *rows)), tmp_path / "l.sqlite")
    assert str(raised.value) == (
        "s.csv labels its seasons in several ways (end year in rows 2, 6; start year in row 3; span in row 4; nba in row 5): "
        "write them in one"
    )
    assert not (tmp_path / "l.sqlite").exists()
    path = table(tmp_path / "s.csv", scheduled(season=2018))  # in one way, but not hoopR's
    with pytest.raises(DataError, match=r"season '2018' is not that of a game of 2018-10-16 as end year \(2019\)"):
        merge_rows(read_schedule(path), tmp_path / "l.sqlite")


def test_a_season_that_ended_in_october_and_one_that_began_in_december(tmp_path: Path) -> None:
    rows = [
        scheduled(game_id=1, season=2020, game_date="2020-10-11", season_type=3),
        scheduled(game_id=2, season=2021, game_date="2020-12-22"),
        scheduled(game_id=3, season=2019, game_date="2018-10-17T02:30Z"),  # the evening before in the league's own time
    ]
    clean(merge_rows(read_schedule(table(tmp_path / "s.csv", *rows)), tmp_path / "l.sqlite"))
    assert asked(tmp_path / "l.sqlite", "SELECT game_date, season FROM games ORDER BY 1") == [
        ("2018-10-16", 2019), ("2020-10-11", 2020), ("2020-12-22", 2021)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"team_score": 109}, "says 108 points of the other, which says 109"),
        ({"team_home_away": "away"}, "one side of it is missing"),
        ({"team_home_away": "here"}, "a side is neither home nor away"),
        ({"game_date": "2018-10-17"}, "its rows are of two days"),
        ({"free_throws_made": 19}, "free_throws: 19 made of 18 attempted"),
    ],
)
def test_rows_of_a_game_that_do_not_fit_are_refused_together(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    home, away = team_rows()
    other = [{**row, "game_id": 2, "game_date": "2018-10-18"} for row in (home, away)]
    path = table(tmp_path / "t.csv", {**home, **change}, away, *other)
    found = merge_rows(read_team_boxes(path), tmp_path / "l.sqlite")
    assert found.added == {"games": 1, "team_box_scores": 2}
    assert [row.line for row in found.bad] == [2, 3]
    assert reason in found.bad[0].reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"field_goals_made": "eleven"}, "field_goals_made is no whole number"),
        ({"points": 33}, "points are 33, and the shots give 32"),
        ({"rebounds": 9}, "total_rebounds are 9"),
        ({"starter": "perhaps"}, "starter is neither TRUE nor FALSE"),
        ({"minutes": "half an hour"}, "minutes is no time"),
        ({"plus_minus": "+x"}, "plus_minus is no whole number"),
        ({"team_abbreviation": "XYZ", "team_name": "Real Madrid"}, "no team has that code"),
        ({"athlete_display_name": " "}, "athlete_display_name is missing"),
    ],
)
def test_a_damaged_player_row(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    path = table(tmp_path / "p.csv", player(**change), player("Klay Thompson"))
    found = merge_rows(read_player_boxes(path), tmp_path / "l.sqlite")
    assert found.added == {"games": 1, "player_box_scores": 1}
    assert [(row.line, reason in row.reason) for row in found.bad] == [(2, True)]


def test_play_by_play_finds_its_game_and_its_players(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    shot = {"shooting_play": "TRUE", "scoring_play": "TRUE"}
    rows = [
        event(1, "Stephen Curry makes 26-foot three point jumper (Draymond Green assists)", "Jump Shot", score_value=3, home_score=3, **shot),
        event(2, "Draymond Green blocks Devin Booker 's driving layup", "Driving Layup Shot", "21", shooting_play="TRUE", score_value=2, home_score=3),
        event(3, "Suns offensive team rebound", "Offensive Rebound", "21", home_score=3),
        event(4, "Devin Booker makes free throw 1 of 2", "Free Throw - 1 of 2", "21", score_value=1, home_score=3, away_score=1, **shot),
        event(5, "Kevon Looney bad pass (Trevor Ariza steals)", "Bad Pass\nTurnover", home_score=3, away_score=1, clock_display_value="3.4"),
        event(6, "Klay Thompson enters the game for Kevin Durant", "Substitution", home_score=3, away_score=1),
        event(7, "End of the 1st Quarter", "End Period", "", home_score=3, away_score=1, clock_display_value="0:00"),
        event(8, "LeBron James personal foul (Kevin Durant draws the foul)", "Personal Foul", "21", home_score=3, away_score=1),
    ]  # fmt: skip
    path = table(tmp_path / "e.csv", *rows)
    with pytest.raises(DataError, match="no game of the league is called 401070693 by espn"):
        merge_rows(read_events(path), league)
    merge_rows(read_schedule(table(tmp_path / "s.csv", scheduled())), league)
    clean(merge_rows(read_events(path), league))
    shown = "SELECT event_type, primary_player, secondary_player, offensive_team, shot_made, shot_type, shot_distance FROM game_play_by_play ORDER BY event_number"
    assert asked(league, shown) == [
        ("shot", "Stephen Curry", "Draymond Green", "GSW", 1, "3PT", 26),
        ("shot", "Devin Booker", "Draymond Green", "PHO", 0, "2PT", None),
        ("rebound", None, None, "PHO", None, None, None),
        ("free throw", "Devin Booker", None, "PHO", 1, "FT", None),
        ("turnover", "Kevon Looney", "Trevor Ariza", "GSW", None, None, None),
        ("substitution", "Klay Thompson", "Kevin Durant", "GSW", None, None, None),
        ("period", None, None, None, None, None, None),
        ("foul", "LeBron James", "Kevin Durant", "PHO", None, None, None),
    ]
    assert asked(league, MADE_SUM.format("201810160GSW")) == [(3,), (1,)]
    assert asked(league, "SELECT time_remaining, shot_x, shot_y FROM game_play_by_play WHERE event_number IN (1, 5)") == [
        ("11:42", 25, None), ("0:03", None, None)
    ]  # fmt: skip

"""How rows come into a league that holds others: damage named, spellings matched, contradictions told, nothing doubled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from test_league_sources import asked, clean, game, league_of

from prefloop.errors import ConfigError, DataError
from prefloop.store.rows import BadRow
from prefloop.tasks.nba.imports.basketball_reference_boxes import read_player_boxes
from prefloop.tasks.nba.imports.basketball_reference_events import read_events as read_lines
from prefloop.tasks.nba.imports.merge import Merged, merge_rows


def box(path: Path, *lines: str) -> Path:
    header = (
        "slug,name,team,location,opponent,outcome,seconds_played,made_field_goals,attempted_field_goals,"
        "made_three_point_field_goals,attempted_three_point_field_goals,made_free_throws,attempted_free_throws,"
        "offensive_rebounds,defensive_rebounds,assists,steals,blocks,turnovers,personal_fouls,game_score"
    )
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def line(name: str, slug: str = "x01", made: int = 4, team: str = "ATLANTA HAWKS", **changes: Any) -> str:
    where = "HOME" if team == "ATLANTA HAWKS" else "AWAY"
    other = "CHICAGO BULLS" if where == "HOME" else "ATLANTA HAWKS"
    values = {"location": where, "opponent": other, "seconds": 600, "tries": 10, **changes}
    return (
        f"{slug},{name},{team},{values['location']},{values['opponent']},WIN,{values['seconds']},{made},{values['tries']},"
        "0,0,0,0,1,2,3,0,0,0,1,5.0"
    )


GAME = game("2019-03-01", "ATL", "CHI", (8, 10), 2019, 0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line("A B", made=11), "11 made of 10 attempted"),
        (line("A B", location="OUTER SPACE"), "location is neither HOME nor AWAY"),
        (line("A B", team="BOSTON CELTICS", opponent="ATLANTA HAWKS"), "BOS did not play in game 201903010ATL"),
        (line("A B", opponent="ROME ROMANS"), "no team is called that"),
        (line("A B", seconds="many"), "seconds_played is no whole number"),
        (line(""), "name is missing"),
        ("x,y", "fewer cells than there are columns"),
        (line("A B") + ",7", "1 cells more than there are columns"),
    ],
)
def test_a_damaged_player_row_is_named_and_the_others_stay(tmp_path: Path, bad: str, reason: str) -> None:
    league = league_of(tmp_path, GAME)
    found = merge_rows(read_player_boxes(box(tmp_path / "2019-03-01.csv", line("C D"), bad)), league)
    assert found.added == {"player_box_scores": 1}
    assert [(row.line, reason in row.reason) for row in found.bad] == [(3, True)]


def test_a_day_of_another_name_or_none(tmp_path: Path) -> None:
    path = box(tmp_path / "boxes.csv", line("C D"))
    with pytest.raises(DataError, match="give --date"):
        list(read_player_boxes(path))
    assert clean(merge_rows(read_player_boxes(path, "2019-03-01"), league_of(tmp_path, GAME))).added
    for name, date, reason in (
        ("2019-03-02.csv", "2019-03-01", "is of 2019-03-02 by its name"),
        ("boxes.csv", "1 March", "--date is no date"),
    ):
        with pytest.raises(ConfigError, match=reason):
            list(read_player_boxes(box(tmp_path / name, line("C D")), date))
    with pytest.raises(DataError, match="2019_02_30 in its name is no date"):
        list(read_player_boxes(box(tmp_path / "2019_02_30.csv", line("C D"))))


def merged(league: Path, path: Path, lines: Iterable[str]) -> Merged:
    return merge_rows(read_player_boxes(box(path, *lines), "2019-03-01"), league)


def test_another_spelling_is_the_same_player_and_a_namesake_another(tmp_path: Path) -> None:
    league, path = league_of(tmp_path, game("2019-03-01", "ATL", "CHI", (18, 10), 2019)), tmp_path / "b.csv"
    merged(league, path, [line("Luka Dončić Jr.", "doncilu01")])
    found = clean(merged(league, path, [line("LUKA DONCIC", "")]))
    assert (found.added, found.known) == ({}, {"player_box_scores": 1})
    found = clean(merged(league, path, [line("Luka Doncic", "doncilu02", made=0)]))
    assert found.added == {"player_box_scores": 1}
    assert asked(league, "SELECT player_name FROM player_box_scores ORDER BY 1") == [
        ("Luka Doncic",),
        ("Luka Dončić Jr.",),
    ]


def test_a_box_score_that_adds_up_takes_nobody_else(tmp_path: Path) -> None:
    league, path = league_of(tmp_path, GAME), tmp_path / "b.csv"
    merged(league, path, [line("Nicolas Claxton", "claxtni01")])  # all 8 points of his team
    found = merged(league, path, [line("Nic Claxton", "")])
    assert found.added == {}
    assert found.contradictions == [
        "b.csv, row 2: ATL's box score adds up to its 8 points without him (player_box_scores 201903010ATL ATL Nic Claxton)"
    ]
    assert clean(merged(league, path, [line("Zach LaVine", "", 5, "CHICAGO BULLS")])).added == {"player_box_scores": 1}


def test_a_contradicting_row_fills_nothing(tmp_path: Path) -> None:
    league, path = league_of(tmp_path, GAME), tmp_path / "b.csv"
    merged(league, path, [line("C D", "")])
    found = merged(league, path, [line("C D", "cd01", seconds=601)])
    assert [text.split(": ")[1].split(" (")[0] for text in found.contradictions] == [
        "minutes_played is '10:01', and '10:00' was there first"
    ]
    assert asked(league, "SELECT player_slug, minutes_played FROM player_box_scores") == [(None, "10:00")]


def test_another_play_by_play_of_a_game_is_refused_whole(tmp_path: Path) -> None:
    league = league_of(tmp_path, GAME)
    header = "period,period_type,remaining_seconds_in_period,relevant_team,away_team,home_team,away_score,home_score,description\n"
    teams = "CHICAGO BULLS,CHICAGO BULLS,ATLANTA HAWKS"
    path = tmp_path / "2019_03_01_ATL_pbp.csv"
    path.write_text(header + f"1,QUARTER,700.0,{teams},2,0,Z. LaVine makes 2-pt layup at rim\n")
    assert clean(merge_rows(read_lines(path), league)).added == {"game_play_by_play": 1}
    path.write_text(
        header
        + f"1,QUARTER,701.0,{teams},2,0,Z. LaVine makes 2-pt layup at rim\n"
        + f"1,QUARTER,690.0,{teams},2,0,Offensive rebound by Team\n"
    )
    found = merge_rows(read_lines(path), league)
    assert (found.added, len(found.contradictions)) == ({}, 1)
    assert "the game has another play-by-play, which stays whole" in found.contradictions[0]
    assert asked(league, "SELECT time_remaining FROM game_play_by_play") == [("11:40",)]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("5,QUARTER,700.0,CHICAGO BULLS", "700.0 seconds cannot be left in period 5"),
        ("1,HALF,700.0,CHICAGO BULLS", "period_type is neither QUARTER nor OVERTIME"),
        ("1,QUARTER,soon,CHICAGO BULLS", "is no number"),
        ("1,QUARTER,700.0,BOSTON CELTICS", "relevant_team is neither of the two"),
    ],
)
def test_a_damaged_event(tmp_path: Path, cells: str, reason: str) -> None:
    header = "period,period_type,remaining_seconds_in_period,relevant_team,away_team,home_team,away_score,home_score,description\n"
    (tmp_path / "2019_03_01.csv").write_text(header + f"{cells},CHICAGO BULLS,ATLANTA HAWKS,0,0,x\n")
    (found,) = read_lines(tmp_path / "2019_03_01.csv")
    assert isinstance(found, BadRow)
    assert (found.line, reason in found.reason) == (2, True)


def test_a_column_that_is_there_twice_is_no_guess(tmp_path: Path) -> None:
    path = box(tmp_path / "2019_03_01.csv", line("C D") + ",9")
    path.write_text(path.read_text().replace("game_score\n", "game_score,assists\n"))
    with pytest.raises(DataError, match="has several columns named assists"):
        list(read_player_boxes(path))


def test_names_that_a_terminal_would_obey_are_refused(tmp_path: Path) -> None:
    found = merged(league_of(tmp_path, GAME), tmp_path / "b.csv", [line("C D"), line("E\x1b[2J F")])
    assert found.added == {"player_box_scores": 1}
    assert [row.reason for row in found.bad] == [r"player_name holds control characters ('E\x1b[2J F')"]

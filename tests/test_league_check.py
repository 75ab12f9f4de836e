"""The audit of a league names everything that is off, and nothing else."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import prefloop
from test_league_merge import box, line
from test_league_players import teams
from test_league_sources import game, league_of

from prefloop.errors import DataError
from prefloop.tasks.nba.imports.basketball_reference_boxes import read_player_boxes
from prefloop.tasks.nba.imports.check import check_league
from prefloop.tasks.nba.imports.lines import COUNTS
from prefloop.tasks.nba.imports.merge import merge_rows


def test_the_audit_names_what_is_off(tmp_path: Path) -> None:
    league = league_of(
        tmp_path,
        *teams({}),
        game("2019-03-02", "BOS", "MIA", (99, 99), 2019),
        game("2019-05-02", "BOS", "MIA", (90, 99), 2019),
    )
    full = [line(f"P {i}", f"p0{i}", made) for i, made in enumerate((10, 10, 10, 10, 5))]
    path = box(tmp_path / "2019_03_01.csv", *full, line("Q R", "q01", team="CHICAGO BULLS"))
    merge_rows(read_player_boxes(path), league)
    with closing(sqlite3.connect(league)) as connection, connection:
        connection.executescript(
            "UPDATE games SET game_type = 'Playoffs' WHERE game_date > '2019-04-30';"
            "INSERT INTO team_box_scores (game_id, team, is_home, points) SELECT '201903020BOS', 'BOS', 1, 98;"
            "INSERT INTO team_box_scores (game_id, team, is_home) VALUES ('lost', 'BOS', 1), ('lost', 'BOS', 1);"
            "INSERT INTO game_play_by_play (game_id, event_number, quarter, home_score, away_score) VALUES ('201903010ATL', 1, 1, 96, 98);"
            "INSERT INTO player_box_scores (game_id, team, player_name, player_slug, points) VALUES ('201903010ATL', 'CHI', 'P 0', 'p99', 0);"
        )
    found = check_league(league)
    assert [(p.season, p.phase, p.games, p.with_team_rows, p.with_player_rows, p.with_play_by_play, p.synthetic) for p in found.phases] == [
        (2019, None, 2, 1, 1, 1, 0), (2019, "Playoffs", 1, 0, 0, 0, 0)
    ]  # fmt: skip
    columns = " ".join(
        name for name in COUNTS if name not in ("offensive_rebounds", "defensive_rebounds", "total_rebounds")
    )
    assert set(found.findings) == {
        "rows that are there twice", "rows of no game", "games with one team's row", "games that nobody won",
        "scores that the teams' rows do not give", "teams' rows that the players' do not give",
        "scores that the play-by-play does not reach", "teams of which not even five players have rows",
    }  # fmt: skip
    assert found.findings["rows that are there twice"] == ["lost BOS: 2 rows"]
    assert found.findings["rows of no game"] == ["lost: team_box_scores"]
    assert found.findings["games with one team's row"] == ["201903020BOS: BOS alone"]
    assert found.findings["games that nobody won"] == ["201903020BOS: 99-99"]
    assert found.findings["scores that the teams' rows do not give"] == ["201903020BOS: BOS 98"]
    assert found.findings["scores that the play-by-play does not reach"] == ["201903010ATL: 98-96 for 100-96"]
    assert found.findings["teams of which not even five players have rows"] == ["201903010ATL: CHI 2"]
    (said,) = found.findings["teams' rows that the players' do not give"]
    assert said.startswith("201903010ATL: ATL: field_goals_made field_goals_attempted")
    assert all(name in columns or "rebounds" in name for name in said.split(": ")[2].split())
    assert found.namesakes == ["P 0: p00, p99"]
    told = prefloop("league", "check", league, "--json").stdout
    assert json.loads(told)["findings"] == found.findings
    assert "games that nobody won: 1\n  201903020BOS: 99-99" in prefloop("league", "check", league).stdout


def test_a_simulated_league_adds_up_and_is_synthetic(leagues: list[Path]) -> None:
    found = check_league(leagues[0])
    assert found.findings == {}
    assert all(phase.synthetic == phase.games for phase in found.phases)


def test_no_league(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_bytes(b"")
    for name, reason in (("gone.sqlite", "does not exist"), ("x.sqlite", "is no league")):
        with pytest.raises(DataError, match=reason):
            check_league(tmp_path / name)

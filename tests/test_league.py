"""Simulated leagues: everything adds up, two leagues share a universe, the same configuration gives the same bytes."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefloop.tasks.nba.boxscore import ratio
from prefloop.tasks.nba.league import JUDGE_LEAGUES, LeagueConfig, build_league, cached_league
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.schema import table_columns
from prefloop.tasks.nba.teams import teams

SMALL = LeagueConfig(games=300)
COLUMNS = {
    "games": 27,
    "team_box_scores": 38,
    "player_box_scores": 40,
    "game_play_by_play": 21,
    "scraping_progress": 18,
}


@pytest.fixture(scope="module")
def connections(leagues: list[Path]) -> list[sqlite3.Connection]:
    return [sqlite3.connect(f"file:{path}?mode=ro", uri=True) for path in leagues]


def value(connection: sqlite3.Connection, sql: str) -> object:
    return connection.execute(sql).fetchone()[0]


VIOLATIONS = {
    "points are 2 FGM + 3PM + FTM": """SELECT COUNT(*) FROM player_box_scores
        WHERE points <> 2 * field_goals_made + three_pointers_made + free_throws_made""",
    "makes are not more than attempts": """SELECT COUNT(*) FROM player_box_scores WHERE field_goals_made > field_goals_attempted
        OR three_pointers_made > three_pointers_attempted OR free_throws_made > free_throws_attempted""",
    "rebounds are offensive and defensive": """SELECT COUNT(*) FROM team_box_scores
        WHERE total_rebounds <> offensive_rebounds + defensive_rebounds""",
    "players sum to their team": """SELECT COUNT(*) FROM (SELECT game_id, team, SUM(points) p, SUM(assists) a,
        SUM(total_rebounds) r, SUM(turnovers) o FROM player_box_scores GROUP BY game_id, team) s
        JOIN team_box_scores t USING (game_id, team)
        WHERE p <> t.points OR a <> t.assists OR r <> t.total_rebounds OR o <> t.turnovers""",
    "teams are the score": """SELECT COUNT(*) FROM team_box_scores t JOIN games g USING (game_id)
        WHERE points <> CASE WHEN is_home THEN home_score ELSE away_score END
        OR team <> CASE WHEN is_home THEN home_team ELSE away_team END""",
    "every game has two teams": """SELECT COUNT(*) FROM (SELECT COUNT(*) n FROM games g
        LEFT JOIN team_box_scores t USING (game_id) GROUP BY game_id) WHERE n <> 2""",
    "no game is tied": "SELECT COUNT(*) FROM games WHERE home_score = away_score",
    "minutes are 240 and 25 per overtime": """SELECT COUNT(*) FROM (SELECT SUM(minutes_decimal) m, num_overtime_periods o
        FROM player_box_scores JOIN games USING (game_id) GROUP BY game_id, team) WHERE ABS(m - 240 - 25 * o) > 0.01""",
    "plus-minus is five times the margin": """SELECT COUNT(*) FROM (SELECT SUM(plus_minus) s, CASE WHEN p.team = home_team
        THEN home_score - away_score ELSE away_score - home_score END m FROM player_box_scores p
        JOIN games USING (game_id) GROUP BY game_id, p.team) WHERE s <> 5 * m""",
    "who did not play has nothing": """SELECT COUNT(*) FROM player_box_scores WHERE did_not_play
        AND (points <> 0 OR minutes_decimal <> 0 OR field_goal_pct IS NOT NULL OR dnp_reason IS NULL)""",
    "who played has minutes": "SELECT COUNT(*) FROM player_box_scores WHERE NOT did_not_play AND minutes_decimal <= 0",
    "five start": """SELECT COUNT(*) FROM (SELECT SUM(is_starter) s FROM player_box_scores GROUP BY game_id, team) WHERE s <> 5""",
    "events end with the score": """SELECT COUNT(*) FROM (SELECT game_id, MAX(home_score) h, MAX(away_score) a
        FROM game_play_by_play GROUP BY game_id) e JOIN games g USING (game_id) WHERE h <> g.home_score OR a <> g.away_score""",
    "events are the box score": """SELECT COUNT(*) FROM (SELECT game_id, offensive_team team, SUM(shot_type = '3PT') t,
        SUM(shot_type = 'FT') f, COUNT(*) n FROM game_play_by_play WHERE shot_made GROUP BY 1, 2) e
        JOIN team_box_scores b USING (game_id, team) WHERE t <> three_pointers_made OR f <> free_throws_made
        OR n <> field_goals_made + free_throws_made""",
    "regulation of an overtime game is tied": """SELECT COUNT(*) FROM (SELECT game_id, MAX(e.home_score) h, MAX(e.away_score) a
        FROM game_play_by_play e JOIN games g USING (game_id) WHERE quarter = 4 AND g.num_overtime_periods > 0
        GROUP BY game_id) WHERE h <> a""",
    "percentages are fractions": "SELECT COUNT(*) FROM player_box_scores WHERE field_goal_pct NOT BETWEEN 0 AND 1",
    "a team plays once a day": "SELECT COUNT(*) - COUNT(DISTINCT game_date || team) FROM team_box_scores JOIN games USING (game_id)",
    "scraping_progress counts other games": """SELECT COUNT(*) = (SELECT COUNT(*) FROM games) FROM scraping_progress""",
}  # fmt: skip


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_totals_add_up(connections: list[sqlite3.Connection], rule: str) -> None:
    for connection in connections:
        assert value(connection, VIOLATIONS[rule]) == 0


def test_what_questions_need_is_there(connections: list[sqlite3.Connection]) -> None:
    for connection in connections:
        assert 870 <= value(connection, "SELECT COUNT(*) FROM games") <= 960
        assert value(connection, "SELECT COUNT(DISTINCT season) FROM games") == 3
        assert value(connection, "SELECT COUNT(*) FROM games WHERE num_overtime_periods > 0") >= 15
        assert value(connection, "SELECT COUNT(DISTINCT season) FROM games WHERE game_type = 'Finals'") == 3
        assert 0.10 < value(connection, "SELECT AVG(did_not_play) FROM player_box_scores") < 0.18
        moved = """SELECT COUNT(*) FROM (SELECT 1 FROM player_box_scores JOIN games USING (game_id)
            GROUP BY player_slug, season HAVING COUNT(DISTINCT team) > 1)"""
        assert value(connection, moved) >= 10
        namesakes = """SELECT COUNT(*) FROM (SELECT 1 FROM player_box_scores GROUP BY player_name
            HAVING COUNT(DISTINCT player_slug) > 1)"""
        assert value(connection, namesakes) == 3
        names = [row[0] for row in connection.execute("SELECT DISTINCT player_name FROM player_box_scores")]
        assert any(not name.isascii() for name in names)
        best = "SELECT MAX(a) FROM (SELECT AVG(points) a FROM player_box_scores WHERE NOT did_not_play GROUP BY player_slug)"
        assert 22 < value(connection, best) < 38


def test_the_schema_is_complete_and_views_answer(connections: list[sqlite3.Connection]) -> None:
    assert {table: len(columns) for table, columns in table_columns().items()} == COLUMNS
    assert value(connections[0], "SELECT COUNT(*) FROM complete_games") == value(
        connections[0], "SELECT COUNT(*) FROM games"
    )
    assert len(connections[0].execute("SELECT * FROM complete_games LIMIT 1").description) == 31
    totals = "SELECT SUM(total_points) FROM player_career_totals"
    assert value(connections[0], totals) == value(connections[0], "SELECT SUM(points) FROM team_box_scores")
    assert value(connections[0], "SELECT COUNT(*) FROM scraping_progress_by_season") == 3


def test_two_leagues_share_people_and_schedule_and_differ_in_play(connections: list[sqlite3.Connection]) -> None:
    def both(sql: str) -> tuple[list, list]:
        first, second = (connection.execute(sql).fetchall() for connection in connections)
        return first, second

    schedule = "SELECT game_id, has_play_by_play FROM games WHERE game_type = 'Regular Season' ORDER BY game_id"
    first, second = both(schedule)
    assert first == second
    first, second = both("SELECT DISTINCT player_slug, player_name FROM player_box_scores ORDER BY 1")
    assert set(first) & set(second) == set(first) | set(second)
    first, second = both("SELECT home_score, away_score FROM games ORDER BY game_id LIMIT 200")
    assert np.mean([a == b for a, b in zip(first, second, strict=True)]) < 0.05


def test_files_are_small(leagues: list[Path]) -> None:
    assert all(path.stat().st_size <= 12_000_000 for path in leagues)


def test_same_configuration_same_bytes_and_cache_mends_itself(tmp_path: Path) -> None:
    first = build_league(SMALL, tmp_path / "a.sqlite").read_bytes()
    path = cached_league(SMALL, tmp_path / "cache")
    assert path.read_bytes() == first
    modified = path.stat().st_mtime_ns
    assert cached_league(SMALL, tmp_path / "cache").stat().st_mtime_ns == modified
    path.write_bytes(first[:5_000])  # damaged
    assert cached_league(SMALL, tmp_path / "cache").read_bytes() == first
    assert cached_league(replace(SMALL, play_seed=2), tmp_path / "cache") != path


def test_larger_leagues_have_longer_seasons_and_series() -> None:
    sizes = {games: LeagueConfig(games=games) for games in (300, 900, 1_800, 3_690)}
    assert [c.games_per_team for c in sizes.values()] == sorted(c.games_per_team for c in sizes.values())
    assert (sizes[3_690].games_per_team, sizes[3_690].best_of, sizes[900].best_of) == (76, 7, 3)
    assert {c.play_seed for c in JUDGE_LEAGUES} == {1, 2}


def test_names_are_many_and_nobodys() -> None:
    rng = np.random.default_rng(1)
    names = [person_name(rng) for _ in range(20_000)]
    assert len(set(names)) > 19_900
    assert not {"LeBron James", "Stephen Curry", "Luka Dončić"} & set(names)
    assert all(name == name.strip() and len(name.split()) >= 2 for name in names)


def test_teams_and_ratios() -> None:
    assert len(teams()) == len({team.code for team in teams()}) == 30
    assert ratio(1, 3) == 0.333
    assert ratio(0, 0) is None

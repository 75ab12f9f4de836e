"""Hand-written instruction pairs: the seeds of the corpus, every one right (a test runs them all)."""

from __future__ import annotations

from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.questions.refusals import refusal_plan

_LATEST = "(SELECT MAX(season) FROM games)"

_ANSWERED: tuple[tuple[str, str, str, str], ...] = (
    (
        "A",
        "Which seasons are in the database?",
        "distinct seasons from games.",
        "SELECT DISTINCT season FROM games ORDER BY season",
    ),
    ("A", "how many games in total", "number of games from games.", "SELECT COUNT(*) FROM games"),
    (
        "A",
        "How many different players appear in the box scores?",
        "number of distinct players from player_box_scores.",
        "SELECT COUNT(DISTINCT player_slug) FROM player_box_scores",
    ),
    (
        "B",
        "What was the longest game by overtimes?",
        "game with the most overtime periods from games; top 1.",
        "SELECT game_date, home_team, away_team, num_overtime_periods FROM games"
        " ORDER BY num_overtime_periods DESC LIMIT 1",
    ),
    (
        "B",
        "most overtimes in a playoff game",
        "most overtime periods from games; playoffs.",
        "SELECT MAX(num_overtime_periods) FROM games WHERE game_type <> 'Regular Season'",
    ),
    (
        "B",
        "How many games ended with a one-point margin?",
        "number of games from games; margin of one point.",
        "SELECT COUNT(*) FROM games WHERE ABS(home_score - away_score) = 1",
    ),
    (
        "B",
        "who won the finals this season",
        "team with the most wins in the finals from games; latest season; top 1.",
        "SELECT CASE WHEN home_score > away_score THEN home_team ELSE away_team END AS winner, COUNT(*) AS value"
        f" FROM games WHERE game_type = 'Finals' AND season = {_LATEST} GROUP BY winner ORDER BY value DESC LIMIT 1",
    ),
    (
        "C",
        "How often does the home team win?",
        "share of games won by the home team from games; regular season.",
        "SELECT ROUND(AVG(home_score > away_score), 3) FROM games WHERE game_type = 'Regular Season'",
    ),
    (
        "D",
        "How many players averaged 20 points or more this season?",
        "number of players with at least 20 points per game from player_box_scores and games; latest season;"
        " regular season; games played only.",
        "SELECT COUNT(*) FROM (SELECT p.player_slug FROM player_box_scores p JOIN games g USING (game_id)"
        f" WHERE g.season = {_LATEST} AND g.game_type = 'Regular Season' AND p.did_not_play = 0"
        " GROUP BY p.player_slug HAVING AVG(p.points) >= 20)",
    ),
    (
        "F",
        "how many triple doubles were there last season",
        "number of triple-doubles from player_box_scores and games; previous season; regular season.",
        "SELECT COALESCE(SUM(p.triple_double), 0) FROM player_box_scores p JOIN games g USING (game_id)"
        f" WHERE g.season = {_LATEST} - 1 AND g.game_type = 'Regular Season'",
    ),
    (
        "G",
        "What is the most points a team ever scored?",
        "most points in a game from team_box_scores.",
        "SELECT MAX(points) FROM team_box_scores",
    ),
    (
        "J",
        "What is the league's average pace this season?",
        "average pace from team_box_scores and games; latest season; regular season.",
        "SELECT ROUND(AVG(t.pace), 1) FROM team_box_scores t JOIN games g USING (game_id)"
        f" WHERE g.season = {_LATEST} AND g.game_type = 'Regular Season'",
    ),
)

_REFUSED = (
    ("N", "Who is the greatest player of all time?", "opinions"),
    ("N", "what time is the game tonight", "future games"),
    ("N", "How much are tickets for the Knicks?", "ticket prices"),
    ("M", "Where was he born?", "birth places"),
    ("N", "Which jersey number does the center of the Celtics wear?", "jersey numbers"),
)

SEED_PAIRS: tuple[tuple[str, str, str, str | None], ...] = (
    *((family, question, render_answer(plan, sql), sql) for family, question, plan, sql in _ANSWERED),
    *((family, question, render_answer(refusal_plan(lack), None), None) for family, question, lack in _REFUSED),
)
"""(family, question, answer, SQL or None)."""

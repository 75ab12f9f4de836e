"""Questions about teams and games: coverage (A), games (B), records (C), form (H), ratings (J)."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import (
    COUNTED,
    RATIOS,
    Intent,
    Slots,
    World,
    average_of_ratios,
    pick,
    ratio_of_sums,
    ratio_slots,
    stat_slots,
)
from prefloop.tasks.nba.questions.player_query import who
from prefloop.tasks.nba.questions.query import Clause, Query
from prefloop.tasks.nba.questions.scope import Scope, filter_clauses, season_clauses

TABLES = "team_box_scores and games"
SOURCE = "team_box_scores t JOIN games g USING (game_id)"
WINS = "SUM((t.is_home = 1) = (g.home_score > g.away_score))"
LOSSES = "SUM((t.is_home = 1) <> (g.home_score > g.away_score))"
OPPONENT_POINTS = "CASE WHEN t.is_home = 1 THEN g.away_score ELSE g.home_score END"
RATINGS = {
    "offensive_rating": ("offensive rating", "offensive rating"),
    "defensive_rating": ("defensive rating", "def rating"),
    "net_rating": ("net rating", "net rtg"),
    "pace": ("pace", "pace"),
}
GAME = "g.game_date, g.home_team, g.home_score, g.away_team, g.away_score"


def _team(rng: np.random.Generator, world: World) -> Slots:
    return {"t": pick(rng, world.codes)}


def _team_stat(rng: np.random.Generator, world: World) -> Slots:
    return {"t": pick(rng, world.codes), **stat_slots(pick(rng, COUNTED))}


def _team_last(rng: np.random.Generator, world: World) -> Slots:
    return {"t": pick(rng, world.codes), "n": pick(rng, (3, 4, 5, 6, 8, 10))}


def _game(rng: np.random.Generator, world: World) -> Slots:
    game = world.game(rng)
    return {"t": pick(rng, (game.home, game.away)), "date": game.date}


def _rating(rng: np.random.Generator, world: World) -> Slots:
    key = pick(rng, RATINGS)
    return {"t": pick(rng, world.codes), "column": key, "s": RATINGS[key][0], "st": RATINGS[key][1]}


def _clauses(slots: Slots, scope: Scope) -> tuple[Clause, ...]:
    subject = [Clause("subject", f"t.team = '{slots['t']}'", f"team {slots['t']}")] if "t" in slots else []
    return (*subject, *season_clauses(scope), *filter_clauses(scope, "t.team"))


def _query(slots: Slots, scope: Scope, measure: str, select: str, *extra: Clause, **rest: object) -> Query:
    clauses = (*_clauses(slots, scope), *extra)
    return Query(measure, TABLES, select, SOURCE, clauses, phase_default=not scope.phase, **rest)  # type: ignore[arg-type]  # Query's own fields


def _games(slots: Slots, scope: Scope, measure: str, select: str, *extra: Clause, **rest: object) -> Query:
    """Over games as such; a team, if named, is on either side."""
    subject = (
        [Clause("subject", f"'{slots['t']}' IN (g.home_team, g.away_team)", f"team {slots['t']}")]
        if "t" in slots
        else []
    )
    clauses = (*subject, *season_clauses(scope), *filter_clauses(scope, f"'{slots.get('t', '')}'"), *extra)
    return Query(measure, "games", select, "games g", clauses, phase_default=not scope.phase, **rest)  # type: ignore[arg-type]  # Query's own fields


def _average(slots: Slots, scope: Scope, expression: str, measure: str) -> Query:
    return _query(slots, scope, f"average {measure}", f"ROUND(AVG({expression}), 1)", sum_wrong=f"SUM({expression})")


def _last(slots: Slots, columns: str, select: str, measure: str, **rest: object) -> Query:
    subject = Clause("subject", f"t.team = '{slots['t']}'", f"team {slots['t']}")
    tail = f" ORDER BY g.game_date DESC LIMIT {slots['n']}"
    measure = f"{measure} over the last {slots['n']} games"
    return Query(measure, TABLES, columns, SOURCE, (subject,), tail, wrap=f"SELECT {select} FROM ({{}})", **rest)  # type: ignore[arg-type]  # Query's own fields


_OVERTIME = Clause("subject", "g.num_overtime_periods > 0", "overtime games")
_AVERAGE = {"decimals": 1}

COVERAGE = (
    Intent(
        "games_stored",
        "A",
        "spm",
        lambda rng, world: {},
        lambda q, s: _games(q, s, "number of games", "COUNT(*)"),
        ("How many games are in the database {scope}?", "How many games does the data cover {scope}?"),
        ("games in database {scope}", "how many games do we have {scope}"),
    ),
    Intent(
        "games_with_events",
        "A",
        "spm",
        lambda rng, world: {},
        lambda q, s: _games(
            q,
            s,
            "number of games with play-by-play",
            "COUNT(*)",
            Clause("subject", "g.has_play_by_play = 1", "with play-by-play"),
        ),
        ("How many games have play-by-play data {scope}?",),
        ("games with play by play {scope}", "pbp coverage {scope}"),
    ),
    Intent(
        "attendance_missing",
        "A",
        "spm",
        lambda rng, world: {},
        lambda q, s: _games(
            q,
            s,
            "number of games without attendance",
            "COUNT(*)",
            Clause("subject", "g.attendance IS NULL", "attendance missing"),
        ),
        ("For how many games is the attendance missing {scope}?",),
        ("games without attendance {scope}", "missing attendance count {scope}"),
    ),
)

GAMES = (
    Intent(
        "score_on_date",
        "B",
        "",
        _game,
        lambda q, s: Query(
            "home team, score, away team, score",
            "games",
            "g.home_team, g.home_score, g.away_team, g.away_score",
            "games g",
            (
                Clause("subject", f"g.game_date = '{q['date']}'", f"on {q['date']}"),
                Clause("subject", f"'{q['t']}' IN (g.home_team, g.away_team)", f"team {q['t']}"),
            ),
        ),
        ("What was the score of the {team} game on {date}?", "How did the {team} game on {date} end?"),
        ("{tt} score {date}", "{tt} game {date}"),
    ),
    Intent(
        "games_played",
        "B",
        "spovmw",
        _team,
        lambda q, s: _games(q, s, "number of games", "COUNT(*)"),
        ("How many games did the {team} play {scope}?",),
        ("{tt} number of games {scope}", "how many games for {tt} {scope}"),
    ),
    Intent(
        "overtime_games",
        "B",
        "spovmw",
        _team,
        lambda q, s: _games(q, s, "number of overtime games", "COUNT(*)", _OVERTIME),
        (
            "How many overtime games did the {team} play {scope}?",
            "How many {team} games went to overtime {scope}?",
        ),
        ("{tt} overtime games {scope}", "{tt} ot games {scope}"),
        needs="overtime",
    ),
    Intent(
        "average_attendance",
        "B",
        "spom",
        _team,
        lambda q, s: Query(
            "average attendance",
            "games",
            "ROUND(AVG(g.attendance), 0)",
            "games g",
            (
                Clause("subject", f"g.home_team = '{q['t']}'", f"team {q['t']}; home games"),
                *season_clauses(s),
                *filter_clauses(s, f"'{q['t']}'"),
            ),
            phase_default=not s.phase,
            sum_wrong="SUM(g.attendance)",
        ),
        ("What was the average attendance at {team} home games {scope}?",),
        ("{tt} average attendance {scope}", "avg attendance {tt} home games {scope}"),
        {"decimals": 0},
    ),
    Intent(
        "highest_total",
        "B",
        "spovm",
        _team,
        lambda q, s: _games(
            q,
            s,
            "game with the most combined points",
            f"{GAME}, g.home_score + g.away_score AS value",
            tail=" ORDER BY value DESC",
            limit=1,
        ),
        (
            "What was the highest-scoring {team} game {scope}?",
            "Which {team} game had the most combined points {scope}?",
        ),
        ("{tt} highest scoring game {scope}", "most combined points {tt} {scope}"),
        {"top_k": 1, "order_keys": [5]},
    ),
    Intent(
        "head_to_head",
        "B",
        "spvm",
        lambda rng, world: dict(
            zip(("t", "u"), (str(c) for c in rng.choice(world.codes, 2, replace=False)), strict=True)
        ),
        lambda q, s: _games(
            q,
            s,
            "date and score of each game",
            GAME,
            Clause("subject", f"'{q['u']}' IN (g.home_team, g.away_team)", f"against {q['u']}"),
        ),
        (
            "List the games between the {team} and the {team2} {scope}.",
            "What were the scores of the {team} games against the {team2} {scope}?",
        ),
        ("{tt} vs {ut} games {scope}", "{tt} {ut} scores {scope}"),
    ),
)

RECORDS = (
    Intent(
        "record",
        "C",
        "spovmw",
        _team,
        lambda q, s: _query(q, s, "wins and losses", f"{WINS}, {LOSSES}"),
        ("What was the {poss} record {scope}?", "How many games did the {team} win and lose {scope}?"),
        ("{tt} record {scope}", "{tt} wins and losses {scope}", "{tt} w-l {scope}"),
    ),
    Intent(
        "wins",
        "C",
        "spovm",
        _team,
        lambda q, s: _query(q, s, "number of wins", WINS),
        ("How many games did the {team} win {scope}?",),
        ("{tt} wins {scope}", "how many wins for {tt} {scope}"),
    ),
    Intent(
        "record_without",
        "C",
        "spvm",
        lambda rng, world: {"t": pick(rng, world.codes), "p": world.player(rng)},
        lambda q, s: _query(
            q,
            s,
            "wins and losses",
            f"{WINS}, {LOSSES}",
            Clause(
                "subject",
                "NOT EXISTS (SELECT 1 FROM player_box_scores p WHERE p.game_id = g.game_id"
                f" AND {who(q['p']).sql} AND p.did_not_play = 0)",
                f"without {q['p']}",
            ),
        ),
        (
            "What is the {poss} record without {p} {scope}?",
            "How did the {team} do in games without {p} {scope}?",
        ),
        ("{tt} record without {p} {scope}", "{tt} w-l without {p} {scope}"),
        needs="players",
    ),
    Intent(
        "best_records",
        "C",
        "spvm",
        lambda rng, world: {"n": pick(rng, (1, 3, 5))},
        lambda q, s: _query(
            q,
            s,
            "win percentage by team",
            "t.team, ROUND(AVG((t.is_home = 1) = (g.home_score > g.away_score)), 3) AS value",
            tail=" GROUP BY t.team ORDER BY value DESC",
            limit=q["n"],
        ),
        ("Which {n} teams had the best record {scope}?", "Name the top {n} teams by win percentage {scope}."),
        ("best record top {n} {scope}", "top {n} teams by win pct {scope}"),
        {"decimals": 3, "top_k": "n", "order_keys": [1]},
    ),
    Intent(
        "overtime_record",
        "C",
        "spovm",
        _team,
        lambda q, s: _query(q, s, "wins and losses", f"{WINS}, {LOSSES}", _OVERTIME),
        ("What was the {poss} record in overtime games {scope}?",),
        ("{tt} record in overtime {scope}", "{tt} ot record {scope}"),
        needs="overtime",
    ),
)

FORM = (
    Intent(
        "team_last_average",
        "H",
        "",
        _team_last,
        lambda q, s: _last(
            q,
            "t.points",
            "ROUND(AVG(points), 1)",
            "average points per game",
            sum_wrong="SELECT SUM(points) FROM ({})",
        ),
        (
            "How many points per game did the {team} score over their last {n} games?",
            "What is the {poss} scoring average in the last {n} games?",
        ),
        ("{tt} ppg last {n} games", "{tt} scoring last {n}"),
        _AVERAGE,
    ),
    Intent(
        "team_last_record",
        "H",
        "",
        _team_last,
        lambda q, s: _last(
            q,
            "(t.is_home = 1) = (g.home_score > g.away_score) AS won",
            "SUM(won), SUM(NOT won)",
            "wins and losses",
        ),
        (
            "What is the {poss} record over their last {n} games?",
            "How many of their last {n} games did the {team} win and lose?",
        ),
        ("{tt} record last {n} games", "{tt} last {n} w-l"),
    ),
    Intent(
        "team_log",
        "H",
        "",
        _team_last,
        lambda q, s: _last(
            q, "g.game_date, g.home_team, g.home_score, g.away_team, g.away_score", "*", "date and score"
        ),
        ("Show the results of the {poss} last {n} games.",),
        ("{tt} last {n} games", "{tt} results last {n}"),
    ),
)

RATED = (
    Intent(
        "team_average",
        "J",
        "spovmw",
        _team_stat,
        lambda q, s: _average(q, s, f"t.{q['column']}", f"{q['s']} per game"),
        ("How many {s} per game did the {team} average {scope}?", "What was the {poss} {s} average {scope}?"),
        ("{tt} {sg} {scope}", "{tt} average {s} {scope}"),
        _AVERAGE,
    ),
    Intent(
        "team_allowed",
        "J",
        "spovmw",
        _team,
        lambda q, s: _average(q, s, OPPONENT_POINTS, "opponent points per game"),
        ("How many points per game did the {team} allow {scope}?",),
        ("{tt} points allowed per game {scope}", "{tt} opp ppg {scope}"),
        _AVERAGE,
    ),
    Intent(
        "team_rating",
        "J",
        "spovmw",
        _rating,
        lambda q, s: _average(q, s, f"t.{q['column']}", q["s"]),
        ("What was the {poss} {s} {scope}?", "What {s} did the {team} have {scope}?"),
        ("{tt} {st} {scope}",),
        _AVERAGE,
    ),
    Intent(
        "team_ratio",
        "J",
        "spovmw",
        lambda rng, world: {"t": pick(rng, world.codes), **ratio_slots(pick(rng, RATIOS))},
        lambda q, s: _query(
            q,
            s,
            f"{q['s']}, made over attempted",
            ratio_of_sums("t.", q),
            ratio_wrong=average_of_ratios("t.", q),
        ),
        ("What was the {poss} {s} {scope}?", "What {s} did the {team} shoot {scope}?"),
        ("{tt} {st} {scope}", "{tt} {s} {scope}"),
        {"decimals": 3},
    ),
    Intent(
        "team_ranking",
        "J",
        "spvmw",
        lambda rng, world: {"n": pick(rng, (3, 5)), **stat_slots(pick(rng, COUNTED[:7]))},
        lambda q, s: _query(
            q,
            s,
            f"average {q['s']} per game by team",
            f"t.team, ROUND(AVG(t.{q['column']}), 1) AS value",
            tail=" GROUP BY t.team ORDER BY value DESC",
            limit=q["n"],
            sum_wrong=f"t.team, SUM(t.{q['column']}) AS value",
        ),
        ("Which {n} teams averaged the most {s} per game {scope}?",),
        ("top {n} teams in {s} per game {scope}", "top {n} teams {sg} {scope}"),
        {"decimals": 1, "top_k": "n", "order_keys": [1]},
    ),
)

INTENTS = (*COVERAGE, *GAMES, *RECORDS, *FORM, *RATED)

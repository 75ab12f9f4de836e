"""Questions that need the play-by-play: periods (I) and shots (K). Only covered games are asked about."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import Intent, Slots, World, pick
from prefloop.tasks.nba.questions.query import Clause, Query

TABLES = "game_play_by_play and games"
SOURCE = "game_play_by_play e JOIN games g USING (game_id)"
POINTS = "COALESCE(SUM(CASE e.shot_type WHEN '3PT' THEN 3 WHEN '2PT' THEN 2 ELSE 1 END), 0)"
MADE = Clause("subject", "e.shot_made = 1", "made shots")
QUARTERS = {
    1: ("first quarter", "1q"),
    2: ("second quarter", "2q"),
    3: ("third quarter", "3q"),
    4: ("fourth quarter", "4q"),
}
HALVES = {1: ("first half", "1h", "e.quarter <= 2"), 2: ("second half", "2h", "e.quarter IN (3, 4)")}
SHOTS = {"3PT": ("three-pointers", "3s"), "2PT": ("two-pointers", "2s"), "FT": ("free throws", "fts")}


def _team_game(rng: np.random.Generator, world: World) -> Slots:
    game = world.covered_game(rng)
    return {"t": pick(rng, (game.home, game.away)), "date": game.date}


def _quarter(rng: np.random.Generator, world: World) -> Slots:
    number = pick(rng, QUARTERS)
    return {
        **_team_game(rng, world),
        "quarter": number,
        "period": QUARTERS[number][0],
        "pt": QUARTERS[number][1],
    }


def _half(rng: np.random.Generator, world: World) -> Slots:
    number = pick(rng, HALVES)
    period, typed, sql = HALVES[number]
    return {**_team_game(rng, world), "half": sql, "period": period, "pt": typed}


def _shots(rng: np.random.Generator, world: World) -> Slots:
    kind = pick(rng, SHOTS)
    return {**_team_game(rng, world), "kind": kind, "s": SHOTS[kind][0], "st": SHOTS[kind][1]}


def _query(slots: Slots, measure: str, select: str, *extra: Clause) -> Query:
    clauses = (
        Clause("subject", f"g.game_date = '{slots['date']}'", f"on {slots['date']}"),
        Clause("subject", f"e.offensive_team = '{slots['t']}'", f"team {slots['t']}"),
        *extra,
    )
    return Query(measure, TABLES, select, SOURCE, clauses)


PERIODS = (
    Intent(
        "quarter_points",
        "I",
        "",
        _quarter,
        lambda q, s: _query(q, "points", POINTS, Clause("subject", f"e.quarter = {q['quarter']}", q["period"]), MADE),
        ("How many points did the {team} score in the {period} on {date}?",),
        ("{tt} {pt} points {date}", "{tt} {period} points {date}"),
    ),
    Intent(
        "half_points",
        "I",
        "",
        _half,
        lambda q, s: _query(q, "points", POINTS, Clause("subject", q["half"], q["period"]), MADE),
        ("How many points did the {team} score in the {period} of their game on {date}?",),
        ("{tt} {pt} points {date}", "{tt} {period} score {date}"),
    ),
)

SHOT_COUNTS = (
    Intent(
        "shots_made",
        "K",
        "",
        _shots,
        lambda q, s: _query(
            q,
            f"number of made {q['s']}",
            "COUNT(*)",
            Clause("subject", f"e.shot_type = '{q['kind']}'", q["s"]),
            MADE,
        ),
        ("How many {s} did the {team} make on {date}?",),
        ("{tt} made {s} {date}", "{tt} {st} made {date}"),
    ),
    Intent(
        "longest_shot",
        "K",
        "",
        _team_game,
        lambda q, s: _query(q, "longest shot distance", "MAX(e.shot_distance)", MADE),
        ("What was the longest shot the {team} made on {date}?",),
        ("{tt} longest made shot {date}",),
    ),
)

INTENTS = (*PERIODS, *SHOT_COUNTS)

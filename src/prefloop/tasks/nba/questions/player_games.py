"""Questions about a player's games: thresholds (F) and single games (G)."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import COUNTED, STATS, Intent, Slots, World, pick, stat_slots
from prefloop.tasks.nba.questions.player_query import (
    DOUBLES,
    LINE,
    SOURCE,
    TABLES,
    TOP,
    player,
    player_counted,
    query,
    who,
)
from prefloop.tasks.nba.questions.query import Clause, Query

WON = "SUM((p.team = g.home_team) = (g.home_score > g.away_score))"
LOST = "SUM((p.team = g.home_team) <> (g.home_score > g.away_score))"


def _at_least(column: str, n: int) -> Clause:
    return Clause("subject", f"p.{column} >= {n}", f"at least {n} {STATS[column].words}")


def _player_threshold(rng: np.random.Generator, world: World) -> Slots:
    column = pick(rng, ("points", "points", "total_rebounds", "assists", "three_pointers_made"))
    n = pick(rng, world.thresholds.single[column])
    return {"p": world.player(rng), "n": n, **stat_slots(column)}


def _player_two_thresholds(rng: np.random.Generator, world: World) -> Slots:
    other, m = pick(rng, world.thresholds.beside)
    return {
        "p": world.player(rng),
        "n": pick(rng, world.thresholds.points),
        "m": m,
        "other": other,
        "s2": STATS[other].words,
    }


def _player_date(rng: np.random.Generator, world: World) -> Slots:
    name, date = world.player_date(rng)
    return {"p": name, "date": date, **stat_slots(pick(rng, COUNTED))}


THRESHOLDS = (
    Intent(
        "player_threshold",
        "F",
        "scpovmrw",
        _player_threshold,
        lambda q, s: query(
            q,
            s,
            f"number of games with at least {q['n']} {q['s']}",
            f"COALESCE(SUM(p.{q['column']} >= {q['n']}), 0)",
        ),
        (
            "How many games with at least {n} {s} did {p} have {scope}?",
            "How often did {p} reach {n} {s} {scope}?",
        ),
        ("{p} {n}+ {st} games {scope}", "how many {n} {s} games does {p} have {scope}"),
    ),
    Intent(
        "player_two_thresholds",
        "F",
        "scpovw",
        _player_two_thresholds,
        lambda q, s: query(
            q,
            s,
            f"number of games with at least {q['n']} points and at least {q['m']} {q['s2']}",
            f"COALESCE(SUM(p.points >= {q['n']} AND p.{q['other']} >= {q['m']}), 0)",
        ),
        (
            "How many games with {n} or more points and {m} or more {s2} did {p} have {scope}?",
            "How often did {p} have at least {n} points and {m} {s2} {scope}?",
        ),
        (
            "{p} {n}+ point {m}+ {s2} games {scope}",
            "how many {n}+ points {m}+ {s2} games did {p} have {scope}",
        ),
    ),
    Intent(
        "player_doubles",
        "F",
        "scpovw",
        lambda rng, world: {"p": world.player(rng), "double": pick(rng, DOUBLES)},
        lambda q, s: query(q, s, f"number of {DOUBLES[q['double']][0]}", f"COALESCE(SUM(p.{q['double']}), 0)"),
        ("How many {dd} did {p} have {scope}?", "How often did {p} record {dd} {scope}?"),
        ("{p} {ddt} {scope}", "how many {ddt} for {p} {scope}"),
    ),
    Intent(
        "league_threshold",
        "F",
        "spovmr",
        lambda rng, world: {"n": pick(rng, world.thresholds.league), "s": "points"},
        lambda q, s: query(
            q,
            s,
            f"number of performances with at least {q['n']} points",
            "COUNT(*)",
            _at_least("points", q["n"]),
        ),
        (
            "How many {n}-point games were there {scope}?",
            "How often did a player score at least {n} points {scope}?",
        ),
        ("how many {n} point games were there {scope}", "{n}+ point games {scope}"),
    ),
    Intent(
        "record_when_scoring",
        "F",
        "spovmr",
        _player_threshold,
        lambda q, s: query(
            q,
            s,
            f"wins and losses with at least {q['n']} {q['s']}",
            f"{WON}, {LOST}",
            _at_least(q["column"], q["n"]),
        ),
        (
            "What is the team's record when {p} has at least {n} {s} {scope}?",
            "What was the record when {p} reached {n} {s} {scope}?",
        ),
        ("record when {p} has {n}+ {st} {scope}", "team record when {p} gets {n}+ {s} {scope}"),
    ),
)

SINGLE_GAMES = (
    Intent(
        "player_box",
        "G",
        "",
        _player_date,
        lambda q, s: Query(
            "points, rebounds and assists",
            TABLES,
            LINE,
            SOURCE,
            (who(q["p"]), Clause("subject", f"g.game_date = '{q['date']}'", f"on {q['date']}")),
        ),
        ("What was {p}'s stat line on {date}?", "How did {p} play on {date}?"),
        ("{p} {date}", "{p} stats on {date}", "{p} box score {date}"),
    ),
    Intent(
        "player_stat_on_date",
        "G",
        "",
        _player_date,
        lambda q, s: Query(
            q["s"],
            TABLES,
            f"p.{q['column']}",
            SOURCE,
            (who(q["p"]), Clause("subject", f"g.game_date = '{q['date']}'", f"on {q['date']}")),
        ),
        ("How many {s} did {p} have on {date}?",),
        ("{p} {st} {date}", "{p} {s} on {date}"),
    ),
    Intent(
        "player_high",
        "G",
        "scpovmrw",
        player_counted,
        lambda q, s: query(q, s, f"most {q['s']} in a game", f"MAX(p.{q['column']})"),
        ("What is the most {s} {p} had in a game {scope}?", "What was {p}'s high in {s} {scope}?"),
        ("{p} most {s} in a game {scope}", "{p} {st} high {scope}"),
    ),
    Intent(
        "player_best_game",
        "G",
        "scpovw",
        player,
        lambda q, s: query(
            q,
            s,
            "date and points of the best game",
            "g.game_date, p.points",
            tail=" ORDER BY p.points DESC",
            limit=1,
        ),
        (
            "When did {p} score the most points {scope}, and how many?",
            "What was {p}'s best scoring game {scope}?",
        ),
        ("{p} best game {scope}", "{p} best scoring game {scope}"),
        TOP,
    ),
)

INTENTS = (*THRESHOLDS, *SINGLE_GAMES)

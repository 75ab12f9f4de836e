"""Questions about one player: seasons (D) and last n games (H)."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import (
    RATIOS,
    Intent,
    Slots,
    World,
    average_of_ratios,
    pick,
    ratio_of_sums,
    ratio_slots,
)
from prefloop.tasks.nba.questions.player_query import (
    AVERAGE,
    LINE,
    LINE_AVERAGE,
    PLAYED,
    RATIO,
    SOURCE,
    TABLES,
    clauses,
    player,
    player_counted,
    player_stat,
    query,
    who,
)
from prefloop.tasks.nba.questions.query import Clause, Query
from prefloop.tasks.nba.questions.scope import Scope, filter_clauses, season_clauses


def _player_ratio(rng: np.random.Generator, world: World) -> Slots:
    return {"p": world.player(rng), **ratio_slots(pick(rng, RATIOS))}


def _player_last(rng: np.random.Generator, world: World) -> Slots:
    return {**player_counted(rng, world), "n": pick(rng, (3, 4, 5, 6, 7, 8, 10))}


def _last(slots: Slots, scope: Scope, select: str, measure: str, columns: str, **rest: object) -> Query:
    """The last n games in which the player played, newest first, then `select` over them."""
    last = Clause("", "1", f"last {slots['n']} games")
    kept = tuple(c for c in clauses(slots, scope, played=True) if c.tag not in {"season", "phase"})
    source, tail = SOURCE, f" ORDER BY g.game_date DESC LIMIT {slots['n']}"
    measure = f"{measure} over the {last.words}"
    return Query(measure, TABLES, columns, source, kept, tail, wrap=f"SELECT {select} FROM ({{}})", **rest)  # type: ignore[arg-type]  # Query's own fields


SEASON = (
    Intent(
        "player_average",
        "D",
        "scpovmrw",
        player_stat,
        lambda q, s: query(q, s, f"average {q['s']} per game", f"ROUND(AVG(p.{q['column']}), 1)", played=True),
        (
            "How many {s} per game did {p} average {scope}?",
            "What was {p}'s {s} average {scope}?",
            "Show the {s} per game of {p} {scope}.",
        ),
        ("{p} {sg} {scope}", "{p} average {s} {scope}", "what is {p} averaging in {s} {scope}"),
        AVERAGE,
    ),
    Intent(
        "player_total",
        "D",
        "scpovmrw",
        player_counted,
        lambda q, s: query(q, s, f"total {q['s']}", f"SUM(p.{q['column']})"),
        ("How many {s} did {p} have in total {scope}?", "What is the total number of {s} by {p} {scope}?"),
        ("{p} total {s} {scope}", "total {st} for {p} {scope}"),
    ),
    Intent(
        "player_ratio",
        "D",
        "scpovmrw",
        _player_ratio,
        lambda q, s: query(
            q,
            s,
            f"{q['s']}, made over attempted",
            ratio_of_sums("p.", q),
            ratio_wrong=average_of_ratios("p.", q),
        ),
        ("What was {p}'s {s} {scope}?", "What {s} did {p} shoot {scope}?", "Give me the {s} of {p} {scope}."),
        ("{p} {st} {scope}", "{st} of {p} {scope}", "what's {p}'s {s} {scope}"),
        RATIO,
    ),
    Intent(
        "player_line",
        "D",
        "scpovmrw",
        player,
        lambda q, s: query(
            q, s, "games, average points, rebounds and assists", f"COUNT(*), {LINE_AVERAGE}", played=True
        ),
        ("What are {p}'s stats {scope}?", "How did {p} do {scope}?", "How is {p} doing {scope}?"),
        ("{p} stats {scope}", "show me stats for {p} {scope}", "{p} averages {scope}"),
        AVERAGE,
    ),
    Intent(
        "player_games",
        "D",
        "scpovmrw",
        player,
        lambda q, s: query(q, s, "number of games", "COUNT(*)", played=True),
        ("How many games did {p} play {scope}?", "In how many games did {p} appear {scope}?"),
        ("{p} games played {scope}", "how many games for {p} {scope}"),
    ),
    Intent(
        "player_by_season",
        "D",
        "ovrw",
        player_stat,
        lambda q, s: Query(
            f"average {q['s']} per game by season",
            TABLES,
            f"g.season, ROUND(AVG(p.{q['column']}), 1)",
            SOURCE,
            (who(q["p"]), season_clauses(s)[1], *filter_clauses(s, "p.team"), PLAYED),
            " GROUP BY g.season",
            phase_default=True,
        ),
        ("What did {p} average in {s} in each season {scope}?", "Show {p}'s {s} per game by season {scope}."),
        ("{p} {sg} by season {scope}", "{p} {s} per season {scope}"),
        AVERAGE,
    ),
)

LAST_GAMES = (
    Intent(
        "player_last_average",
        "H",
        "ovr",
        _player_last,
        lambda q, s: _last(
            q,
            s,
            f"ROUND(AVG({q['column']}), 1)",
            f"average {q['s']} per game",
            f"p.{q['column']}",
            sum_wrong=f"SELECT SUM({q['column']}) FROM ({{}})",
        ),
        (
            "What did {p} average in {s} over his last {n} games {scope}?",
            "How many {s} per game has {p} had in the last {n} games {scope}?",
        ),
        ("{p} {sg} last {n} games {scope}", "{p} average {s} last {n} {scope}"),
        AVERAGE,
    ),
    Intent(
        "player_last_total",
        "H",
        "ovr",
        _player_last,
        lambda q, s: _last(q, s, f"SUM({q['column']})", f"total {q['s']}", f"p.{q['column']}"),
        ("How many {s} does {p} have in total over his last {n} games {scope}?",),
        ("{p} total {s} last {n} games {scope}", "total {st} {p} last {n} {scope}"),
    ),
    Intent(
        "player_log",
        "H",
        "ovr",
        lambda rng, world: {"p": world.player(rng), "n": pick(rng, (3, 4, 5, 6, 7, 8, 10))},
        lambda q, s: _last(q, s, "*", "date, points, rebounds and assists", f"g.game_date, {LINE}"),
        ("Show {p}'s last {n} games {scope}.", "List the stat lines of {p}'s last {n} games {scope}."),
        ("{p} last {n} games {scope}", "{p} game log last {n} {scope}"),
    ),
)

INTENTS = (*SEASON, *LAST_GAMES)

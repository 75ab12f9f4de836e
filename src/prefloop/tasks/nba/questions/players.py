"""Questions about players: seasons (D), leaders (E), thresholds (F), single games (G), last n games (H)."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import (
    COUNTED,
    RATIOS,
    STATS,
    Intent,
    Slots,
    World,
    average_of_ratios,
    pick,
    ratio_of_sums,
    ratio_slots,
    stat_slots,
)
from prefloop.tasks.nba.questions.query import Clause, Query
from prefloop.tasks.nba.questions.scope import Scope, filter_clauses, season_clauses

TABLES = "player_box_scores and games"
SOURCE = "player_box_scores p JOIN games g USING (game_id)"
PLAYED = Clause("played", "p.did_not_play = 0", "games played only")
LINE = "p.points, p.total_rebounds, p.assists"
LINE_AVERAGE = "ROUND(AVG(p.points), 1), ROUND(AVG(p.total_rebounds), 1), ROUND(AVG(p.assists), 1)"
WON = "SUM((p.team = g.home_team) = (g.home_score > g.away_score))"
LOST = "SUM((p.team = g.home_team) <> (g.home_score > g.away_score))"
DOUBLES = {
    "double_double": ("double-doubles", "double doubles"),
    "triple_double": ("triple-doubles", "triple doubles"),
}
MINIMUM_GAMES, MINIMUM_GAMES_NARROWED = 10, 3
MINIMUM_ATTEMPTS = 40


def who(name: str) -> Clause:
    """The player, by full name."""
    return Clause("subject", f"p.player_name = '{name.replace(chr(39), chr(39) * 2)}'", f"player {name}")


def _clauses(slots: Slots, scope: Scope, played: bool = False) -> tuple[Clause, ...]:
    """Player (if the question names one), season and phase, filters, and whether only games played count."""
    subject = [who(slots["p"])] if "p" in slots else []
    ending = [PLAYED] if played else []
    return (*subject, *season_clauses(scope), *filter_clauses(scope, "p.team"), *ending)


def _query(
    slots: Slots,
    scope: Scope,
    measure: str,
    select: str,
    *extra: Clause,
    played: bool = False,
    **rest: object,
) -> Query:
    clauses = (*_clauses(slots, scope, played), *extra)
    rest.setdefault("phase_default", not scope.phase)
    return Query(measure, TABLES, select, SOURCE, clauses, **rest)  # type: ignore[arg-type]  # Query's own fields


def _at_least(column: str, n: int) -> Clause:
    return Clause("subject", f"p.{column} >= {n}", f"at least {n} {STATS[column].words}")


def _player_stat(rng: np.random.Generator, world: World) -> Slots:
    return {"p": world.player(rng), **stat_slots(pick(rng, STATS))}


def _player_counted(rng: np.random.Generator, world: World) -> Slots:
    return {"p": world.player(rng), **stat_slots(pick(rng, COUNTED))}


def _player_ratio(rng: np.random.Generator, world: World) -> Slots:
    return {"p": world.player(rng), **ratio_slots(pick(rng, RATIOS))}


def _player(rng: np.random.Generator, world: World) -> Slots:
    return {"p": world.player(rng)}


def _threshold(rng: np.random.Generator) -> tuple[str, int]:
    column = pick(rng, ("points", "points", "total_rebounds", "assists", "three_pointers_made"))
    choices = {"points": (10, 15, 20, 25, 30), "total_rebounds": (5, 8, 10, 12), "assists": (4, 5, 8, 10)}
    return column, pick(rng, choices.get(column, (2, 3, 4, 5)))


def _player_threshold(rng: np.random.Generator, world: World) -> Slots:
    column, n = _threshold(rng)
    return {"p": world.player(rng), "n": n, **stat_slots(column)}


def _player_two_thresholds(rng: np.random.Generator, world: World) -> Slots:
    other, m = pick(rng, (("total_rebounds", 5), ("assists", 5), ("total_rebounds", 8), ("assists", 3)))
    return {
        "p": world.player(rng),
        "n": pick(rng, (10, 15, 20)),
        "m": m,
        "other": other,
        "s2": STATS[other].words,
    }


def _player_last(rng: np.random.Generator, world: World) -> Slots:
    return {**_player_counted(rng, world), "n": pick(rng, (3, 4, 5, 6, 7, 8, 10))}


def _player_date(rng: np.random.Generator, world: World) -> Slots:
    name, date = world.player_date(rng)
    return {"p": name, "date": date, **stat_slots(pick(rng, COUNTED))}


def _top_stat(rng: np.random.Generator, world: World) -> Slots:
    column = pick(rng, ("points", "total_rebounds", "assists", "steals", "blocks", "three_pointers_made"))
    return {"n": pick(rng, (3, 5, 10)), **stat_slots(column)}


def _team_stat(rng: np.random.Generator, world: World) -> Slots:
    return {"t": pick(rng, world.codes), **stat_slots(pick(rng, COUNTED[:6]))}


def _last(slots: Slots, scope: Scope, select: str, measure: str, columns: str, **rest: object) -> Query:
    """The last n games in which the player played, newest first, then `select` over them."""
    last = Clause("", "1", f"last {slots['n']} games")
    clauses = tuple(c for c in _clauses(slots, scope, played=True) if c.tag not in {"season", "phase"})
    source, tail = SOURCE, f" ORDER BY g.game_date DESC LIMIT {slots['n']}"
    measure = f"{measure} over the {last.words}"
    return Query(measure, TABLES, columns, source, clauses, tail, wrap=f"SELECT {select} FROM ({{}})", **rest)  # type: ignore[arg-type]  # Query's own fields


def _leaders(slots: Slots, scope: Scope, aggregate: str, measure: str, having: str = "", **rest: object) -> Query:
    tail = f" GROUP BY p.player_slug{having} ORDER BY value DESC"
    limit = slots.get("n", 1)
    return _query(slots, scope, measure, f"p.player_name, {aggregate} AS value", tail=tail, limit=limit, **rest)


def _minimum(scope: Scope) -> int:
    """Games a leader in averages needs: fewer where a narrowing leaves few."""
    narrowed = scope.phase == "playoffs" or scope.month or scope.venue or scope.role or scope.result
    return MINIMUM_GAMES_NARROWED if narrowed else MINIMUM_GAMES


_AVERAGE = {"decimals": 1}
_RATIO = {"decimals": 3}
_TOP = {"decimals": 1, "top_k": 1, "order_keys": [1]}

SEASON = (
    Intent(
        "player_average",
        "D",
        "scpovmrw",
        _player_stat,
        lambda q, s: _query(q, s, f"average {q['s']} per game", f"ROUND(AVG(p.{q['column']}), 1)", played=True),
        (
            "How many {s} per game did {p} average {scope}?",
            "What was {p}'s {s} average {scope}?",
            "Show the {s} per game of {p} {scope}.",
        ),
        ("{p} {sg} {scope}", "{p} average {s} {scope}", "what is {p} averaging in {s} {scope}"),
        _AVERAGE,
    ),
    Intent(
        "player_total",
        "D",
        "scpovmrw",
        _player_counted,
        lambda q, s: _query(q, s, f"total {q['s']}", f"SUM(p.{q['column']})"),
        ("How many {s} did {p} have in total {scope}?", "What is the total number of {s} by {p} {scope}?"),
        ("{p} total {s} {scope}", "total {st} for {p} {scope}"),
    ),
    Intent(
        "player_ratio",
        "D",
        "scpovmrw",
        _player_ratio,
        lambda q, s: _query(
            q,
            s,
            f"{q['s']}, made over attempted",
            ratio_of_sums("p.", q),
            ratio_wrong=average_of_ratios("p.", q),
        ),
        ("What was {p}'s {s} {scope}?", "What {s} did {p} shoot {scope}?", "Give me the {s} of {p} {scope}."),
        ("{p} {st} {scope}", "{st} of {p} {scope}", "what's {p}'s {s} {scope}"),
        _RATIO,
    ),
    Intent(
        "player_line",
        "D",
        "scpovmrw",
        _player,
        lambda q, s: _query(
            q, s, "games, average points, rebounds and assists", f"COUNT(*), {LINE_AVERAGE}", played=True
        ),
        ("What are {p}'s stats {scope}?", "How did {p} do {scope}?", "How is {p} doing {scope}?"),
        ("{p} stats {scope}", "show me stats for {p} {scope}", "{p} averages {scope}"),
        _AVERAGE,
    ),
    Intent(
        "player_games",
        "D",
        "scpovmrw",
        _player,
        lambda q, s: _query(q, s, "number of games", "COUNT(*)", played=True),
        ("How many games did {p} play {scope}?", "In how many games did {p} appear {scope}?"),
        ("{p} games played {scope}", "how many games for {p} {scope}"),
    ),
    Intent(
        "player_by_season",
        "D",
        "ovrw",
        _player_stat,
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
        _AVERAGE,
    ),
)

LEADERS = (
    Intent(
        "leaders_average",
        "E",
        "spvmrw",
        _top_stat,
        lambda q, s: _leaders(
            q,
            s,
            f"ROUND(AVG(p.{q['column']}), 1)",
            f"average {q['s']} per game by player",
            f" HAVING COUNT(*) >= {_minimum(s)}",
            played=True,
        ),
        (
            "Who were the top {n} players in {s} per game {scope}?",
            "List the {n} leaders in {s} per game {scope}.",
        ),
        ("top {n} {sg} {scope}", "top {n} {s} leaders {scope}", "{s} per game leaders top {n} {scope}"),
        {**_TOP, "top_k": "n"},
    ),
    Intent(
        "leaders_total",
        "E",
        "spovmrw",
        _top_stat,
        lambda q, s: _leaders(q, s, f"SUM(p.{q['column']})", f"total {q['s']} by player"),
        (
            "Which {n} players had the most {s} in total {scope}?",
            "Name the {n} players with the most total {s} {scope}.",
        ),
        ("most total {s} top {n} {scope}", "top {n} in total {st} {scope}"),
        {**_TOP, "top_k": "n"},
    ),
    Intent(
        "team_leader",
        "E",
        "spvmrw",
        _team_stat,
        lambda q, s: _query(
            q,
            s,
            f"total {q['s']} by player",
            f"p.player_name, SUM(p.{q['column']}) AS value",
            Clause("subject", f"p.team = '{q['t']}'", f"team {q['t']}"),
            tail=" GROUP BY p.player_slug ORDER BY value DESC",
            limit=1,
        ),
        ("Who led the {team} in total {s} {scope}?", "Which {team} player had the most {s} {scope}?"),
        ("{tt} leader in {s} {scope}", "most {s} for {tt} {scope}"),
        _TOP,
    ),
    Intent(
        "leader_single_game",
        "E",
        "spovm",
        _top_stat,
        lambda q, s: _query(
            {},
            s,
            f"most {q['s']} in a game",
            f"p.player_name, p.{q['column']}",
            tail=f" ORDER BY p.{q['column']} DESC",
            limit=1,
        ),
        ("Who had the most {s} in a game {scope}?", "Which player had the single-game high in {s} {scope}?"),
        ("most {s} in a game {scope}", "single game high {s} {scope}"),
        _TOP,
    ),
    Intent(
        "leaders_ratio",
        "E",
        "spvw",
        lambda rng, world: {"n": pick(rng, (3, 5, 10)), **ratio_slots(pick(rng, RATIOS))},
        lambda q, s: _query(
            {},
            s,
            f"{q['s']} by player, made over attempted",
            f"p.player_name, {ratio_of_sums('p.', q)} AS value",
            tail=f" GROUP BY p.player_slug HAVING SUM(p.{q['attempted']}) >= {MINIMUM_ATTEMPTS} ORDER BY value DESC",
            limit=q["n"],
            ratio_wrong=f"p.player_name, {average_of_ratios('p.', q)} AS value",
        ),
        ("Who were the top {n} players in {s} {scope}?", "List the {n} best players by {s} {scope}."),
        ("top {n} {st} {scope}", "best {s} top {n} {scope}"),
        {"decimals": 3, "top_k": "n", "order_keys": [1]},
    ),
    Intent(
        "leader_doubles",
        "E",
        "spovw",
        lambda rng, world: {"double": pick(rng, DOUBLES)},
        lambda q, s: _query(
            {},
            s,
            f"number of {DOUBLES[q['double']][0]} by player",
            f"p.player_name, SUM(p.{q['double']}) AS value",
            tail=" GROUP BY p.player_slug ORDER BY value DESC",
            limit=1,
        ),
        ("Who had the most {dd} {scope}?", "Which player recorded the most {dd} {scope}?"),
        ("most {ddt} {scope}", "{ddt} leader {scope}"),
        _TOP,
    ),
)

THRESHOLDS = (
    Intent(
        "player_threshold",
        "F",
        "scpovmrw",
        _player_threshold,
        lambda q, s: _query(
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
        lambda q, s: _query(
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
        lambda q, s: _query(q, s, f"number of {DOUBLES[q['double']][0]}", f"COALESCE(SUM(p.{q['double']}), 0)"),
        ("How many {dd} did {p} have {scope}?", "How often did {p} record {dd} {scope}?"),
        ("{p} {ddt} {scope}", "how many {ddt} for {p} {scope}"),
    ),
    Intent(
        "league_threshold",
        "F",
        "spovmr",
        lambda rng, world: {"n": pick(rng, (20, 25, 30, 35)), "s": "points"},
        lambda q, s: _query(
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
        lambda q, s: _query(
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
        _player_counted,
        lambda q, s: _query(q, s, f"most {q['s']} in a game", f"MAX(p.{q['column']})"),
        ("What is the most {s} {p} had in a game {scope}?", "What was {p}'s high in {s} {scope}?"),
        ("{p} most {s} in a game {scope}", "{p} {st} high {scope}"),
    ),
    Intent(
        "player_best_game",
        "G",
        "scpovw",
        _player,
        lambda q, s: _query(
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
        _TOP,
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
        _AVERAGE,
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

INTENTS = (*SEASON, *LEADERS, *THRESHOLDS, *SINGLE_GAMES, *LAST_GAMES)

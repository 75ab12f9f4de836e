"""Questions about who leads the league or a team (E)."""

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
from prefloop.tasks.nba.questions.player_query import DOUBLES, TOP, query
from prefloop.tasks.nba.questions.query import Clause, Query
from prefloop.tasks.nba.questions.scope import Scope

MINIMUM_GAMES, MINIMUM_GAMES_NARROWED = 10, 3
MINIMUM_ATTEMPTS = 40


def _top_stat(rng: np.random.Generator, world: World) -> Slots:
    column = pick(rng, ("points", "total_rebounds", "assists", "steals", "blocks", "three_pointers_made"))
    return {"n": pick(rng, (3, 5, 10)), **stat_slots(column)}


def _team_stat(rng: np.random.Generator, world: World) -> Slots:
    return {"t": pick(rng, world.codes), **stat_slots(pick(rng, COUNTED[:6]))}


def _leaders(slots: Slots, scope: Scope, aggregate: str, measure: str, having: str = "", **rest: object) -> Query:
    tail = f" GROUP BY p.player_slug{having} ORDER BY value DESC"
    limit = slots.get("n", 1)
    return query(slots, scope, measure, f"p.player_name, {aggregate} AS value", tail=tail, limit=limit, **rest)


def _minimum(scope: Scope) -> int:
    """Games a leader in averages needs: fewer where a narrowing leaves few."""
    narrowed = scope.phase == "playoffs" or scope.month or scope.venue or scope.role or scope.result
    return MINIMUM_GAMES_NARROWED if narrowed else MINIMUM_GAMES


INTENTS = (
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
        {**TOP, "top_k": "n"},
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
        {**TOP, "top_k": "n"},
    ),
    Intent(
        "team_leader",
        "E",
        "spvmrw",
        _team_stat,
        lambda q, s: query(
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
        TOP,
    ),
    Intent(
        "leader_single_game",
        "E",
        "spovm",
        _top_stat,
        lambda q, s: query(
            {},
            s,
            f"most {q['s']} in a game",
            f"p.player_name, p.{q['column']}",
            tail=f" ORDER BY p.{q['column']} DESC",
            limit=1,
        ),
        ("Who had the most {s} in a game {scope}?", "Which player had the single-game high in {s} {scope}?"),
        ("most {s} in a game {scope}", "single game high {s} {scope}"),
        TOP,
    ),
    Intent(
        "leaders_ratio",
        "E",
        "spvw",
        lambda rng, world: {"n": pick(rng, (3, 5, 10)), **ratio_slots(pick(rng, RATIOS))},
        lambda q, s: query(
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
        lambda q, s: query(
            {},
            s,
            f"number of {DOUBLES[q['double']][0]} by player",
            f"p.player_name, SUM(p.{q['double']}) AS value",
            tail=" GROUP BY p.player_slug ORDER BY value DESC",
            limit=1,
        ),
        ("Who had the most {dd} {scope}?", "Which player recorded the most {dd} {scope}?"),
        ("most {ddt} {scope}", "{ddt} leader {scope}"),
        TOP,
    ),
)

"""What questions about players share: tables, the player's clause, and the fillings that several families use."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.nba.questions.intent import COUNTED, STATS, Slots, World, pick, stat_slots
from prefloop.tasks.nba.questions.query import Clause, Query
from prefloop.tasks.nba.questions.scope import Scope, filter_clauses, season_clauses

TABLES = "player_box_scores and games"
SOURCE = "player_box_scores p JOIN games g USING (game_id)"
PLAYED = Clause("played", "p.did_not_play = 0", "games played only")
LINE = "p.points, p.total_rebounds, p.assists"
LINE_AVERAGE = "ROUND(AVG(p.points), 1), ROUND(AVG(p.total_rebounds), 1), ROUND(AVG(p.assists), 1)"
DOUBLES = {
    "double_double": ("double-doubles", "double doubles"),
    "triple_double": ("triple-doubles", "triple doubles"),
}
AVERAGE = {"decimals": 1}
RATIO = {"decimals": 3}
TOP = {"decimals": 1, "top_k": 1, "order_keys": [1]}


def who(name: str) -> Clause:
    """The player, by full name."""
    return Clause("subject", f"p.player_name = '{name.replace(chr(39), chr(39) * 2)}'", f"player {name}")


def clauses(slots: Slots, scope: Scope, played: bool = False) -> tuple[Clause, ...]:
    """Player (if the question names one), season and phase, filters, and whether only games played count."""
    subject = [who(slots["p"])] if "p" in slots else []
    ending = [PLAYED] if played else []
    return (*subject, *season_clauses(scope), *filter_clauses(scope, "p.team"), *ending)


def query(
    slots: Slots,
    scope: Scope,
    measure: str,
    select: str,
    *extra: Clause,
    played: bool = False,
    **rest: object,
) -> Query:
    """Over box scores of players; `rest` are fields of the query."""
    rest.setdefault("phase_default", not scope.phase)
    return Query(measure, TABLES, select, SOURCE, (*clauses(slots, scope, played), *extra), **rest)  # type: ignore[arg-type]  # Query's own fields


def player_stat(rng: np.random.Generator, world: World) -> Slots:
    """A player and any statistic."""
    return {"p": world.player(rng), **stat_slots(pick(rng, STATS))}


def player_counted(rng: np.random.Generator, world: World) -> Slots:
    """A player and a statistic that adds up."""
    return {"p": world.player(rng), **stat_slots(pick(rng, COUNTED))}


def player(rng: np.random.Generator, world: World) -> Slots:
    """A player."""
    return {"p": world.player(rng)}

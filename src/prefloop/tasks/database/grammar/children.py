"""Questions about the rows that belong to one row of another table, or to some: orders of a customer."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.database.grammar.intent import (
    AGGREGATES,
    Asked,
    Intent,
    decimals,
    draw_filters,
    where,
)
from prefloop.tasks.database.grammar.joins import draw_join, join_words
from prefloop.tasks.database.grammar.world import World, draw_filter, draw_name, pick
from prefloop.tasks.database.schema import literal


def _children(rng: np.random.Generator, world: World) -> Asked | None:
    join = draw_join(rng, world, parent="names")
    named = draw_name(rng, join.parent) if join else None
    if join is None or named is None:
        return None
    filters = draw_filters(rng, world, join.child, 1)
    condition = f"p.{world.name(named[0])} = {literal(named[1])}"
    sql = f"SELECT COUNT(*) FROM {join.source}{where(filters, condition, alias='c.')}"
    return Asked(sql, {**join_words(join, name=named[0]), "value": named[1]}, filters)


def _children_list(rng: np.random.Generator, world: World) -> Asked | None:
    join = draw_join(rng, world, child="names", parent="names")
    named = draw_name(rng, join.parent) if join else None
    if join is None or named is None:
        return None
    filters = draw_filters(rng, world, join.child, 1)
    shown = join.child.names[0]
    condition = f"p.{world.name(named[0])} = {literal(named[1])}"
    sql = f"SELECT c.{world.name(shown)} FROM {join.source}{where(filters, condition, alias='c.')}"
    return Asked(sql, {**join_words(join, name=named[0], shown=shown), "value": named[1]}, filters)


def _children_aggregate(rng: np.random.Generator, world: World) -> Asked | None:
    join = draw_join(rng, world, child="measures", parent="names")
    named = draw_name(rng, join.parent) if join else None
    if join is None or named is None:
        return None
    measure, function = pick(rng, join.child.measures), pick(rng, sorted(AGGREGATES))
    filters = draw_filters(rng, world, join.child, 1, [measure])
    condition = f"p.{world.name(named[0])} = {literal(named[1])}"
    sql = f"SELECT {function}(c.{world.name(measure)}) FROM {join.source}{where(filters, condition, alias='c.')}"
    said = {**join_words(join, name=named[0], measure=measure), "value": named[1], "aggregate": AGGREGATES[function]}
    comparison = decimals(join.child, measure) if function == "AVG" else {}
    return Asked(sql, said, filters, comparison, variety=function.lower())


def _by_owner(rng: np.random.Generator, world: World) -> Asked | None:
    join = draw_join(rng, world)
    narrowing = draw_filter(rng, world, join.parent) if join else None
    if join is None or narrowing is None:
        return None
    sql = f"SELECT COUNT(*) FROM {join.source}{where([narrowing], alias='p.')}"
    return Asked(sql, join_words(join), [narrowing])


def _by_owner_aggregate(rng: np.random.Generator, world: World) -> Asked | None:
    join = draw_join(rng, world, child="measures")
    narrowing = draw_filter(rng, world, join.parent) if join else None
    if join is None or narrowing is None:
        return None
    measure, function = pick(rng, join.child.measures), pick(rng, sorted(AGGREGATES))
    sql = f"SELECT {function}(c.{world.name(measure)}) FROM {join.source}{where([narrowing], alias='p.')}"
    said = {**join_words(join, measure=measure), "aggregate": AGGREGATES[function]}
    comparison = decimals(join.child, measure) if function == "AVG" else {}
    return Asked(sql, said, [narrowing], comparison, variety=function.lower())


INTENTS = (
    Intent(
        "children",
        "join",
        _children,
        (
            "How many {many} {where} belong to the {owner} whose {name} is {value}?",
            "Count the {many} {where} of the {owner} with {name} {value}.",
            "What is the number of {many} {where} of the {owner} called {value}?",
        ),
        ("number of {many} {where} of {value}", "{value} {many} {where} count"),
    ),
    Intent(
        "children_list",
        "join",
        _children_list,
        (
            "List the {shown} of the {many} {where} of the {owner} whose {name} is {value}.",
            "Which {many} {where} belong to the {owner} with {name} {value}? Give their {shown}.",
            "Give the {shown} of all {many} {where} of the {owner} called {value}.",
        ),
        ("{shown} of {many} {where} of {value}", "{value} {many} {where} {shown}"),
    ),
    Intent(
        "children_aggregate",
        "join",
        _children_aggregate,
        (
            "What is the {aggregate} {measure} of the {many} {where} of the {owner} whose {name} is {value}?",
            "For the {owner} with {name} {value}, give the {aggregate} {measure} of its {many} {where}.",
            "Give the {aggregate} {measure} over the {many} {where} of the {owner} called {value}.",
        ),
        ("{aggregate} {measure} of {value} {many} {where}", "{value} {aggregate} {measure} {many} {where}"),
    ),
    Intent(
        "by_owner",
        "join",
        _by_owner,
        (
            "How many {many} belong to {owners} {where}?",
            "Count the {many} of {owners} {where}.",
            "What is the number of {many} of {owners} {where}?",
        ),
        ("{many} of {owners} {where} count", "number of {many} of {owners} {where}"),
    ),
    Intent(
        "by_owner_aggregate",
        "join",
        _by_owner_aggregate,
        (
            "What is the {aggregate} {measure} of the {many} of {owners} {where}?",
            "Over the {many} of {owners} {where}, what is the {aggregate} {measure}?",
            "Give the {aggregate} {measure} of all {many} of {owners} {where}.",
        ),
        ("{aggregate} {measure} of {many} of {owners} {where}", "{owners} {where} {many} {aggregate} {measure}"),
    ),
)

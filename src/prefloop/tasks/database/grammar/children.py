"""Questions about the rows that belong to one row of another table, or to some: orders of a customer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefloop.tasks.database.grammar.intent import (
    AGGREGATES,
    Asked,
    Intent,
    decimals,
    draw_filters,
    where,
)
from prefloop.tasks.database.grammar.joins import Join, join_words, of_join
from prefloop.tasks.database.grammar.world import Filter, World, draw_filter, draw_name, pick
from prefloop.tasks.database.source.schema import literal


@dataclass(frozen=True)
class _Owner:
    """One row of a parent, by its name."""

    name: str
    """The column."""
    value: str
    condition: str

    def words(self, join: Join, **columns: str) -> dict[str, str]:
        return {**join_words(join, name=self.name, **columns), "value": self.value}


def _draw_owner(rng: np.random.Generator, world: World, join: Join) -> _Owner | None:
    named = draw_name(rng, join.parent)
    return _Owner(*named, f"p.{world.name(named[0])} = {literal(named[1])}") if named else None


@of_join(parent="names")
def _children(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    owner = _draw_owner(rng, world, join)
    if owner is None:
        return None
    filters = draw_filters(rng, world, join.child, 1)
    sql = f"SELECT COUNT(*) FROM {join.source}{where(filters, owner.condition, alias='c.')}"
    return Asked(sql, owner.words(join), filters)


@of_join(child="names", parent="names")
def _children_list(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    owner = _draw_owner(rng, world, join)
    if owner is None:
        return None
    filters = draw_filters(rng, world, join.child, 1)
    shown = join.child.names[0]
    sql = f"SELECT c.{world.name(shown)} FROM {join.source}{where(filters, owner.condition, alias='c.')}"
    return Asked(sql, owner.words(join, shown=shown), filters)


@of_join(child="measures", parent="names")
def _children_aggregate(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    owner = _draw_owner(rng, world, join)
    if owner is None:
        return None
    measure, function = pick(rng, join.child.measures), pick(rng, sorted(AGGREGATES))
    filters = draw_filters(rng, world, join.child, 1, [measure])
    source = f"{join.source}{where(filters, owner.condition, alias='c.')}"
    return _aggregate(world, join, function, measure, source, owner.words(join, measure=measure), filters)


@of_join()
def _by_owner(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    narrowing = draw_filter(rng, world, join.parent)
    if narrowing is None:
        return None
    sql = f"SELECT COUNT(*) FROM {join.source}{where([narrowing], alias='p.')}"
    return Asked(sql, join_words(join), [narrowing])


@of_join(child="measures")
def _by_owner_aggregate(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    narrowing = draw_filter(rng, world, join.parent)
    if narrowing is None:
        return None
    measure, function = pick(rng, join.child.measures), pick(rng, sorted(AGGREGATES))
    source = f"{join.source}{where([narrowing], alias='p.')}"
    return _aggregate(world, join, function, measure, source, join_words(join, measure=measure), [narrowing])


def _aggregate(
    world: World, join: Join, function: str, measure: str, source: str, said: dict[str, str], filters: list[Filter]
) -> Asked:
    sql = f"SELECT {function}(c.{world.name(measure)}) FROM {source}"
    comparison = decimals(join.child, measure) if function == "AVG" else {}
    return Asked(sql, {**said, "aggregate": AGGREGATES[function]}, filters, comparison, variety=function.lower())


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

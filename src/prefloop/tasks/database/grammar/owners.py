"""Questions about rows by what belongs to them: customers by their orders."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.database.grammar.intent import (
    Asked,
    Intent,
    draw_filters,
    ranked,
    where,
)
from prefloop.tasks.database.grammar.joins import Join, join_words, joined, of_join
from prefloop.tasks.database.grammar.world import World, draw_name, pick
from prefloop.tasks.database.source.schema import literal


@of_join(parent="categories")
def _per_owner_category(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    column = pick(rng, join.parent.categories)
    filters = draw_filters(rng, world, join.child, 1)
    place = f"p.{world.name(column)}"
    sql = f"SELECT {place}, COUNT(*) FROM {join.source}{where(filters, alias='c.')} GROUP BY {place}"
    return Asked(sql, join_words(join, column=column), filters)


@of_join(parent="names")
def _owner_top(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    name, k = join.parent.names[0], int(pick(rng, (1, 3, 5)))
    filters = draw_filters(rng, world, join.child, 1)
    place = f"p.{world.name(name)}"
    source = f"{join.source}{where(filters, alias='c.')} GROUP BY {join.key}, {place}"
    parts = ranked(f"{place}, COUNT(*)", source, "COUNT(*)", k, 1, True)
    said = join_words(join, name=name)
    said["who"] = f"{join.parent.one} has" if k == 1 else f"{k} {join.parent.many} have"
    said["whom"] = join.parent.one if k == 1 else f"{k} {join.parent.many}"
    return Asked(filters=filters, words=said, variety="one" if k == 1 else "several", **parts)


@of_join(child="measures", parent="names")
def _owner_total(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    name, measure = join.parent.names[0], pick(rng, join.child.measures)
    filters = draw_filters(rng, world, join.child, 1, [measure])
    place, value = f"p.{world.name(name)}", f"c.{world.name(measure)}"
    source = f"{join.source}{where(filters, f'{value} IS NOT NULL', alias='c.')} GROUP BY {join.key}, {place}"
    parts = ranked(f"{place}, SUM({value})", source, f"SUM({value})", 1, 1, True)
    return Asked(filters=filters, words=join_words(join, name=name, measure=measure), **parts)


@of_join(parent="names")
def _owner_least(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    name, n = join.parent.names[0], int(pick(rng, (2, 3, 4, 5, 8)))
    place = f"p.{world.name(name)}"
    sql = f"SELECT {place} FROM {join.source} GROUP BY {join.key}, {place} HAVING COUNT(*) >= {n}"
    return Asked(sql, {**join_words(join, name=name), "n": str(n)})


@of_join(parent="names")
def _without(rng: np.random.Generator, world: World, join: Join) -> Asked | None:
    name = join.parent.names[0]
    filters = draw_filters(rng, world, join.child, 1)
    inner = f"SELECT 1 FROM {join.child_name} AS c{where(filters, join.on, alias='c.')}"
    sql = f"SELECT p.{world.name(name)} FROM {join.parent_name} AS p WHERE NOT EXISTS ({inner})"
    return Asked(sql, join_words(join, name=name), filters)


def _linked(rng: np.random.Generator, world: World) -> Asked | None:
    """Two parents of one table: students and the pets they have."""
    pairs = [
        (first, second)
        for first in world.joins
        for second in world.joins
        if first.table == second.table
        and first.column != second.column
        and first.parent != second.parent
        and world.facts(first.parent).names
        and world.facts(second.parent).names
    ]
    if not pairs:
        return None
    one, two = pick(rng, pairs)
    join, other = joined(world, one), world.facts(two.parent)
    named = draw_name(rng, join.parent)
    if named is None:
        return None
    shown = other.names[0]
    on = f"c.{world.name(two.column)} = q.{world.name(two.parent_column)}"
    sql = (
        f"SELECT DISTINCT q.{world.name(shown)} FROM {join.source} JOIN {world.name(two.parent)} AS q ON {on}"
        f" WHERE p.{world.name(named[0])} = {literal(named[1])}"
    )
    said = {**join_words(join, name=named[0], shown=shown), "value": named[1], "others": other.many, "other": other.one}
    return Asked(sql, said, (), {"distinct": True})


INTENTS = (
    Intent(
        "per_owner_category",
        "join group",
        _per_owner_category,
        (
            "How many {many} {where} are there for each {column} of the {owners}?",
            "For each {column} of {owners}, count the {many} {where}.",
            "Give every {column} of {owners} with the number of {many} {where}.",
        ),
        ("{many} {where} per {owner} {column}", "count of {many} {where} by {column} of {owner}"),
    ),
    Intent(
        "owner_top",
        "join top",
        _owner_top,
        (
            "Which {who} the most {many} {where}? Give the {name}.",
            "What is the {name} of the {whom} with the most {many} {where}?",
            "Name the {whom} with the largest number of {many} {where}, by {name}.",
        ),
        ("{whom} with most {many} {where} {name}", "most {many} {where} {whom} {name}"),
    ),
    Intent(
        "owner_total",
        "join top",
        _owner_total,
        (
            "Which {owner} has the highest total {measure} over its {many} {where}? Give the {name}.",
            "What is the {name} of the {owner} whose {many} {where} have the highest total {measure}?",
            "Name the {owner} with the largest sum of {measure} of {many} {where}, by {name}.",
        ),
        (
            "{owner} with highest total {measure} of {many} {where} {name}",
            "top {owner} by total {measure} {many} {where}",
        ),
    ),
    Intent(
        "owner_least",
        "having",
        _owner_least,
        (
            "Which {owners} have at least {n} {many}? Give their {name}.",
            "List the {name} of every {owner} with {n} or more {many}.",
            "What are the {owners} with no fewer than {n} {many}, by {name}?",
        ),
        ("{owners} with at least {n} {many} {name}", "{name} of {owners} {n}+ {many}"),
    ),
    Intent(
        "without",
        "nested",
        _without,
        (
            "Which {owners} have no {many} {where}? Give their {name}.",
            "List the {name} of the {owners} without any {many} {where}.",
            "What is the {name} of every {owner} that has none of the {many} {where}?",
        ),
        ("{owners} without {many} {where} {name}", "{name} of {owners} no {many} {where}"),
    ),
    Intent(
        "linked",
        "join",
        _linked,
        (
            "Which {others} go with the {owner} whose {name} is {value}? Give each {shown} once.",
            "List the different {shown} of the {others} of the {owner} with {name} {value}.",
            "Through {many}, which {others} belong to the {owner} called {value}? Give each {shown} once.",
        ),
        ("{others} of {value} {shown} once each", "different {shown} of {others} of {owner} {value}"),
    ),
)

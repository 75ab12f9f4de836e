"""Questions about the rows of one table: counts, lists, look-ups, aggregates, rankings, shares."""

from __future__ import annotations

import numpy as np

from prefloop.tasks.database.grammar.intent import (
    AGGREGATES,
    Asked,
    Intent,
    decimals,
    draw_filters,
    of_table,
    ranked,
    table_words,
    where,
)
from prefloop.tasks.database.grammar.world import Facts, World, draw_name, pick
from prefloop.tasks.database.source.schema import literal
from prefloop.tasks.database.words import words


@of_table()
def _count(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    filters = draw_filters(rng, world, facts, 2)
    return Asked(f"SELECT COUNT(*) FROM {world.name(facts.table.name)}{where(filters)}", table_words(facts), filters)


@of_table("names")
def _list(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    filters = draw_filters(rng, world, facts, 2)
    if not filters:
        return None
    name = facts.names[0]
    sql = f"SELECT {world.name(name)} FROM {world.name(facts.table.name)}{where(filters)}"
    return Asked(sql, table_words(facts, name=name), filters)


@of_table("names")
def _lookup(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    named = draw_name(rng, facts)
    columns = (*facts.measures, *facts.years, *facts.dates, *facts.categories)
    if not columns or named is None:
        return None
    column, (name, value) = pick(rng, columns), named
    sql = f"SELECT {world.name(column)} FROM {world.name(facts.table.name)} WHERE {world.name(name)} = {literal(value)}"
    return Asked(sql, {**table_words(facts, column=column, name=name), "value": value})


@of_table("measures")
def _aggregate(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column, function = pick(rng, facts.measures), pick(rng, sorted(AGGREGATES))
    filters = draw_filters(rng, world, facts, 2, [column])
    sql = f"SELECT {function}({world.name(column)}) FROM {world.name(facts.table.name)}{where(filters)}"
    said = {**table_words(facts, column=column), "aggregate": AGGREGATES[function]}
    comparison = decimals(facts, column) if function == "AVG" else {}
    return Asked(sql, said, filters, comparison, variety=function.lower())


@of_table("names", "measures")
def _top(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    name, column, k = facts.names[0], pick(rng, facts.measures), int(pick(rng, (3, 5, 10)))
    descending = bool(rng.integers(2))
    filters = draw_filters(rng, world, facts, 1, [column])
    place = world.name(column)
    source = f"{world.name(facts.table.name)}{where(filters, f'{place} IS NOT NULL')}"
    parts = ranked(f"{world.name(name)}, {place}", source, place, k, 1, descending)
    said = table_words(facts, name=name, column=column)
    said |= {"k": str(k), "superlative": "highest" if descending else "lowest"}
    return Asked(filters=filters, words=said, variety="top" if descending else "bottom", **parts)


@of_table("names", "measures")
def _extreme(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    name, column, descending = facts.names[0], pick(rng, facts.measures), bool(rng.integers(2))
    filters = draw_filters(rng, world, facts, 2, [column])
    place = world.name(column)
    source = f"{world.name(facts.table.name)}{where(filters, f'{place} IS NOT NULL')}"
    parts = ranked(f"{world.name(name)}, {place}", source, place, 1, 1, descending)
    said = {**table_words(facts, name=name, column=column), "superlative": "highest" if descending else "lowest"}
    return Asked(filters=filters, words=said, variety="most" if descending else "least", **parts)


@of_table("names", "measures")
def _ordered(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    filters = draw_filters(rng, world, facts, 2)
    if not filters:
        return None
    name = facts.names[0]
    columns = [column for column in facts.measures if column not in {each.column for each in filters}]
    if not columns:
        return None
    column, descending = pick(rng, columns), bool(rng.integers(2))
    place, direction = world.name(column), "DESC" if descending else "ASC"
    sql = (
        f"SELECT {world.name(name)}, {place} FROM {world.name(facts.table.name)}"
        f"{where(filters, f'{place} IS NOT NULL')} ORDER BY {place} {direction}"
    )
    said = {**table_words(facts, name=name, column=column), "order": "highest first" if descending else "lowest first"}
    return Asked(sql, said, filters, {"order": "keys", "order_keys": [1], "optional": [1]}, variety=direction.lower())


@of_table("measures")
def _above_average(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column, above = pick(rng, facts.measures), bool(rng.integers(2))
    filters = draw_filters(rng, world, facts, 1, [column])
    place, name = world.name(column), world.name(facts.table.name)
    condition = f"{place} {'>' if above else '<'} (SELECT AVG({place}) FROM {name})"
    said = {**table_words(facts, column=column), "side": "above" if above else "below"}
    return Asked(f"SELECT COUNT(*) FROM {name}{where(filters, condition)}", said, filters, variety=said["side"])


@of_table()
def _share(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    filters = draw_filters(rng, world, facts, 1)
    if not filters:
        return None
    condition = filters[0].condition()
    sql = f"SELECT 1.0 * SUM(CASE WHEN {condition} THEN 1 ELSE 0 END) / COUNT(*) FROM {world.name(facts.table.name)}"
    return Asked(sql, table_words(facts), filters, {"decimals": 3})


def _missing(rng: np.random.Generator, world: World) -> Asked | None:
    options = [
        (facts, column.name)
        for facts in world.tables
        for column in facts.table.columns
        if 0 < facts.profiles[column.name].nulls < facts.profiles[column.name].rows
    ]
    if not options:
        return None
    facts, column = pick(rng, options)
    sql = f"SELECT COUNT(*) FROM {world.name(facts.table.name)} WHERE {world.name(column)} IS NULL"
    return Asked(sql, {**table_words(facts), "column": words(column)})


INTENTS = (
    Intent(
        "count",
        "count",
        _count,
        ("How many {many} {where} are there?", "What is the number of {many} {where}?", "Count the {many} {where}."),
        ("number of {many} {where}", "how many {many} {where}", "{many} {where} count"),
    ),
    Intent(
        "list",
        "list",
        _list,
        (
            "List the {name} of all {many} {where}.",
            "Which {many} {where} are there? Give their {name}.",
            "What is the {name} of each of the {many} {where}?",
        ),
        ("{name} of {many} {where}", "{many} {where} {name}", "show {name} {many} {where}"),
    ),
    Intent(
        "lookup",
        "lookup",
        _lookup,
        (
            "What is the {column} of the {one} whose {name} is {value}?",
            "Give the {column} of the {one} with {name} {value}.",
            "For the {one} with the {name} {value}, what is the {column}?",
        ),
        ("{column} of {value}", "{value} {column}", "{one} {value} {column}"),
    ),
    Intent(
        "aggregate",
        "aggregate",
        _aggregate,
        (
            "What is the {aggregate} {column} of {many} {where}?",
            "Give the {aggregate} {column} over all {many} {where}.",
            "Over the {many} {where}, what is the {aggregate} {column}?",
        ),
        ("{aggregate} {column} {many} {where}", "{aggregate} {column} of {many} {where}"),
    ),
    Intent(
        "top",
        "top",
        _top,
        (
            "Which {k} {many} {where} have the {superlative} {column}? Give their {name}.",
            "List the {name} of the {k} {many} {where} with the {superlative} {column}.",
            "What are the {k} {many} {where} of {superlative} {column}, by {name}?",
        ),
        ("{k} {superlative} {column} {many} {where} {name}", "{name} of {k} {many} {where} {superlative} {column}"),
    ),
    Intent(
        "extreme",
        "top",
        _extreme,
        (
            "Which {one} {where} has the {superlative} {column}? Give its {name}.",
            "What is the {name} of the {one} {where} with the {superlative} {column}?",
            "Name the {one} {where} with the {superlative} {column}, by {name}.",
        ),
        ("{superlative} {column} {one} {where} {name}", "{name} of {one} {where} with {superlative} {column}"),
    ),
    Intent(
        "ordered",
        "order",
        _ordered,
        (
            "List the {name} of {many} {where}, sorted by {column}, {order}.",
            "Give the {name} of all {many} {where} in order of {column}, {order}.",
            "Sort the {many} {where} by {column}, {order}, and list their {name}.",
        ),
        ("{name} of {many} {where} sorted by {column} {order}", "{many} {where} {name} by {column} {order}"),
    ),
    Intent(
        "above_average",
        "nested",
        _above_average,
        (
            "How many {many} {where} have a {column} {side} the average of all {many}?",
            "Count the {many} {where} whose {column} is {side} the average over all {many}.",
            "What is the number of {many} {where} with a {column} {side} that of all {many} on average?",
        ),
        (
            "number of {many} {where} with {column} {side} average of all",
            "{many} {where} {side} average {column} count",
        ),
    ),
    Intent(
        "share",
        "share",
        _share,
        (
            "What share of all {many} are those {where}?",
            "As a fraction of all {many}, how many are {many} {where}?",
            "Give the share of {many} {where} among all {many}.",
        ),
        ("share of {many} {where}", "fraction of {many} {where}"),
    ),
    Intent(
        "missing",
        "count",
        _missing,
        (
            "How many {many} have no {column}?",
            "For how many {many} is the {column} missing?",
            "Count the {many} without a {column}.",
        ),
        ("{many} without {column} count", "number of {many} with missing {column}"),
    ),
)

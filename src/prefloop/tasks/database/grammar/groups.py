"""Questions about the categories of one table: which there are, how many, and what their rows come to."""

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
from prefloop.tasks.database.grammar.world import Facts, World, number, pick


@of_table("categories")
def _distinct(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column = pick(rng, facts.categories)
    filters = draw_filters(rng, world, facts, 1, [column])
    sql = f"SELECT COUNT(DISTINCT {world.name(column)}) FROM {world.name(facts.table.name)}{where(filters)}"
    return Asked(sql, table_words(facts, column=column), filters)


@of_table("categories")
def _values(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column = pick(rng, facts.categories)
    filters = draw_filters(rng, world, facts, 2, [column])
    place = world.name(column)
    sql = f"SELECT DISTINCT {place} FROM {world.name(facts.table.name)}{where(filters, f'{place} IS NOT NULL')}"
    return Asked(sql, table_words(facts, column=column), filters, {"distinct": True})


@of_table("categories")
def _group(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column = pick(rng, facts.categories)
    filters = draw_filters(rng, world, facts, 1, [column])
    place = world.name(column)
    sql = f"SELECT {place}, COUNT(*) FROM {world.name(facts.table.name)}{where(filters)} GROUP BY {place}"
    return Asked(sql, table_words(facts, column=column), filters)


@of_table("categories", "measures")
def _group_aggregate(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column, measure, function = pick(rng, facts.categories), pick(rng, facts.measures), pick(rng, sorted(AGGREGATES))
    filters = draw_filters(rng, world, facts, 1, [column, measure])
    place = world.name(column)
    source = f"{world.name(facts.table.name)}{where(filters)} GROUP BY {place}"
    said = {**table_words(facts, column=column, measure=measure), "aggregate": AGGREGATES[function]}
    comparison = decimals(facts, measure) if function == "AVG" else {}
    sql = f"SELECT {place}, {function}({world.name(measure)}) FROM {source}"
    return Asked(sql, said, filters, comparison, variety=function.lower())


@of_table("categories")
def _group_top(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column = pick(rng, facts.categories)
    filters = draw_filters(rng, world, facts, 1, [column])
    place = world.name(column)
    source = f"{world.name(facts.table.name)}{where(filters, f'{place} IS NOT NULL')} GROUP BY {place}"
    parts = ranked(f"{place}, COUNT(*)", source, "COUNT(*)", 1, 1, True)
    return Asked(filters=filters, words=table_words(facts, column=column), **parts)


@of_table("categories")
def _having_count(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column = pick(rng, facts.categories)
    counts = sorted({count for _, count in facts.profiles[column].values})
    least = pick(rng, counts[1:] or counts)
    filters = draw_filters(rng, world, facts, 1, [column])
    place = world.name(column)
    clause = where(filters, f"{place} IS NOT NULL")
    source = f"{world.name(facts.table.name)}{clause} GROUP BY {place}"
    sql = f"SELECT {place} FROM {source} HAVING COUNT(*) >= {least}"
    return Asked(sql, {**table_words(facts, column=column), "n": str(least)}, filters)


@of_table("categories", "measures")
def _having_average(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    column, measure = pick(rng, facts.categories), pick(rng, facts.measures)
    value = number(pick(rng, facts.profiles[measure].levels[2:5]))
    place = world.name(column)
    source = f"{world.name(facts.table.name)} WHERE {place} IS NOT NULL GROUP BY {place}"
    sql = f"SELECT {place} FROM {source} HAVING AVG({world.name(measure)}) > {value}"
    return Asked(sql, {**table_words(facts, column=column, measure=measure), "value": value})


INTENTS = (
    Intent(
        "distinct",
        "count",
        _distinct,
        (
            "How many different {column} values occur among {many} {where}?",
            "In how many different {column} values do {many} {where} fall?",
            "Count the distinct {column} values of {many} {where}.",
        ),
        ("number of different {column} of {many} {where}", "distinct {column} count {many} {where}"),
    ),
    Intent(
        "values",
        "list",
        _values,
        (
            "Which {column} values occur among {many} {where}?",
            "List the different {column} values of {many} {where}.",
            "What {column} values do {many} {where} have?",
        ),
        ("all {column} of {many} {where}", "{many} {where} which {column}"),
    ),
    Intent(
        "group",
        "group",
        _group,
        (
            "How many {many} {where} are there for each {column}?",
            "For each {column}, count the {many} {where}.",
            "Give each {column} with its number of {many} {where}.",
        ),
        ("{many} {where} per {column}", "count of {many} {where} by {column}"),
    ),
    Intent(
        "group_aggregate",
        "group",
        _group_aggregate,
        (
            "What is the {aggregate} {measure} of {many} {where} for each {column}?",
            "For each {column}, give the {aggregate} {measure} of {many} {where}.",
            "Give every {column} with the {aggregate} {measure} of its {many} {where}.",
        ),
        ("{aggregate} {measure} of {many} {where} per {column}", "{aggregate} {measure} by {column} {many} {where}"),
    ),
    Intent(
        "group_top",
        "group",
        _group_top,
        (
            "Which {column} has the most {many} {where}?",
            "What is the {column} with the largest number of {many} {where}?",
            "Name the most frequent {column} of {many} {where}.",
        ),
        ("{column} with most {many} {where}", "most common {column} {many} {where}"),
    ),
    Intent(
        "having_count",
        "having",
        _having_count,
        (
            "Which {column} values have at least {n} {many} {where}?",
            "List every {column} that occurs in at least {n} {many} {where}.",
            "For which {column} values are there {n} or more {many} {where}?",
        ),
        ("{column} with at least {n} {many} {where}", "{column} having {n}+ {many} {where}"),
    ),
    Intent(
        "having_average",
        "having",
        _having_average,
        (
            "For which {column} values is the average {measure} of {many} over {value}?",
            "List every {column} whose {many} have an average {measure} above {value}.",
            "Which {column} values have an average {measure} of {many} greater than {value}?",
        ),
        ("{column} with average {measure} of {many} > {value}", "{column} average {measure} over {value} {many}"),
    ),
)

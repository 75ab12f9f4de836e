"""What an intent is: one thing that can be asked, with its query and its wordings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefloop.tasks.database.grammar.world import Facts, Filter, World, draw_filter, pick_table
from prefloop.tasks.database.specs import RANKING_ROWS
from prefloop.tasks.database.words import words

AGGREGATES = {"AVG": "average", "SUM": "total", "MAX": "highest", "MIN": "lowest"}
"""Functions, and how people call what they give."""


@dataclass(frozen=True)
class Asked:
    """A question before it is worded."""

    sql: str | None
    """None: no query can answer."""
    words: dict[str, str]
    """Fields of the wordings; ``where`` is filled from the filters."""
    filters: Sequence[Filter] = ()
    comparison: dict[str, Any] = field(default_factory=dict)
    compare_sql: str | None = None
    variety: str = ""
    """Of several forms of the intent, which: a part of its structure."""
    lacks: str = ""
    """Where no query can answer: what the database does not hold."""


Draw = Callable[[np.random.Generator, World], Asked | None]
"""Draws a question; None where the database does not offer it."""


@dataclass(frozen=True)
class Intent:
    """One thing that can be asked."""

    name: str
    family: str
    draw: Draw
    full: tuple[str, ...]
    """Sentences, with the words of what is asked as fields."""
    typed: tuple[str, ...]
    """As people type: short, lower case, often no verb."""


def of_table(*uses: str) -> Callable[[Callable[[np.random.Generator, World, Facts], Asked | None]], Draw]:
    """Makes a `Draw` of a function that asks about one table: one that offers all of these uses is drawn for it."""

    def made(draw: Callable[[np.random.Generator, World, Facts], Asked | None]) -> Draw:
        def drawn(rng: np.random.Generator, world: World) -> Asked | None:
            facts = pick_table(rng, world, *uses)
            return draw(rng, world, facts) if facts else None

        return drawn

    return made


def draw_filters(
    rng: np.random.Generator, world: World, facts: Facts, most: int, without: Sequence[str] = ()
) -> list[Filter]:
    """Up to `most` narrowings of different columns."""
    found: list[Filter] = []
    for _ in range(int(rng.integers(most + 1))):
        drawn = draw_filter(rng, world, facts, [*without, *(each.column for each in found)])
        if drawn:
            found.append(drawn)
    return found


def where(filters: Sequence[Filter], *conditions: str, alias: str = "") -> str:
    """A WHERE clause, with a space in front; empty without conditions."""
    every = [*conditions, *(each.condition(alias) for each in filters)]
    return f" WHERE {' AND '.join(every)}" if every else ""


def table_words(facts: Facts, **columns: str) -> dict[str, str]:
    """The words of a table and of columns."""
    return {"one": facts.one, "many": facts.many, **{key: words(name) for key, name in columns.items()}}


def decimals(facts: Facts, column: str) -> dict[str, Any]:
    """The comparison of an average: 2 decimals, 4 where the values lie below 1."""
    levels = facts.profiles[column].levels
    return {"decimals": 2 if max(abs(levels[0]), abs(levels[-1])) >= 1 else 4}


def ranked(select: str, source: str, order: str, k: int, key: int, descending: bool) -> dict[str, Any]:
    """Query, ranking and comparison of a top k.

    Args:
        select, source, order: the parts of the query; `order` without its direction.
        key: position of the sort key in `select`.
    """
    direction = "DESC" if descending else "ASC"
    ranking = f"SELECT {select} FROM {source} ORDER BY {order} {direction}"
    comparison: dict[str, Any] = {"top_k": k, "order_keys": [key], "optional": [key]}
    if not descending:
        comparison["descending"] = False
    return {
        "sql": f"{ranking} LIMIT {k}",
        "compare_sql": f"{ranking} LIMIT {max(RANKING_ROWS, 2 * k)}",
        "comparison": comparison,
    }

"""Two tables joined over a declared or guessed foreign key."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from prefloop.tasks.database.grammar.intent import Asked, Draw, table_words
from prefloop.tasks.database.grammar.world import Facts, World, pick
from prefloop.tasks.database.source.schema import ForeignKey


@dataclass(frozen=True)
class Join:
    """A child table ``c`` and its parent ``p``."""

    child: Facts
    parent: Facts
    source: str
    """``child AS c JOIN parent AS p ON …``."""
    on: str
    """The condition alone."""
    child_name: str
    parent_name: str
    key: str
    """The parent's key, with its alias."""


def of_join(
    child: str = "", parent: str = ""
) -> Callable[[Callable[[np.random.Generator, World, Join], Asked | None]], Draw]:
    """Makes a `Draw` of a function that asks about two tables: a join is drawn for it.

    Args:
        child, parent: what they have to offer (``names``, ``measures``, ``categories``); default nothing.
    """

    def made(draw: Callable[[np.random.Generator, World, Join], Asked | None]) -> Draw:
        def drawn(rng: np.random.Generator, world: World) -> Asked | None:
            keys = [
                key
                for key in world.joins
                if (not child or getattr(world.facts(key.table), child))
                and (not parent or getattr(world.facts(key.parent), parent))
            ]
            return draw(rng, world, joined(world, pick(rng, keys))) if keys else None

        return drawn

    return made


def joined(world: World, key: ForeignKey) -> Join:
    """The join over a key."""
    child, parent = world.name(key.table), world.name(key.parent)
    on = f"c.{world.name(key.column)} = p.{world.name(key.parent_column)}"
    source = f"{child} AS c JOIN {parent} AS p ON {on}"
    target = f"p.{world.name(key.parent_column)}"
    return Join(world.facts(key.table), world.facts(key.parent), source, on, child, parent, target)


def join_words(join: Join, **columns: str) -> dict[str, str]:
    """Words of both tables: the child's as ``one`` and ``many``, the parent's as ``owner`` and ``owners``."""
    return {**table_words(join.child, **columns), "owner": join.parent.one, "owners": join.parent.many}

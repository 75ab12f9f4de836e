"""What a database offers to ask about: columns by their use, values and thresholds that occur, tables that join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from prefloop.tasks.database.grammar.held import Held, held_by
from prefloop.tasks.database.source.inspection import Inspected
from prefloop.tasks.database.source.profile import DATE, TEXT, Profile, nameable
from prefloop.tasks.database.source.schema import ForeignKey, Table, literal, quoted
from prefloop.tasks.database.variants.changes import measures
from prefloop.tasks.database.words import key_like, plural, singular, words

Item = TypeVar("Item")
MOST_CATEGORIES = 60
"""Distinct values up to which a text column is a category."""

NAME_WORDS = ("name", "title", "label")
YEARS = range(1500, 2101)


@dataclass(frozen=True)
class Facts:
    """One table, seen by a person who asks."""

    table: Table
    one: str
    """A row, in words."""
    many: str
    names: tuple[str, ...]
    """Columns that name a row: texts that hardly repeat."""
    categories: tuple[str, ...]
    measures: tuple[str, ...]
    """Numbers that can be summed and averaged."""
    years: tuple[str, ...]
    dates: tuple[str, ...]
    profiles: dict[str, Profile]


@dataclass(frozen=True)
class World:
    """A database, ready to be asked about."""

    dialect: str
    tables: tuple[Facts, ...]
    """Those with rows and a name."""
    joins: tuple[ForeignKey, ...]
    """Between them."""
    held: Held
    """What there is no telling that it lacks."""

    def facts(self, name: str) -> Facts:
        """Of the table of that name."""
        return next(facts for facts in self.tables if facts.table.name == name)

    def name(self, text: str) -> str:
        """An identifier as it stands in a query."""
        return quoted(text, self.dialect)


def world_of(inspected: Inspected) -> World:
    """The world of a database that was looked at."""
    schema = inspected.schema
    tables = tuple(_facts(inspected, table) for table in schema.tables if table.rows and table.name.strip())
    known = {facts.table.name for facts in tables}
    joins = tuple(key for key in schema.keys if {key.table, key.parent} <= known and key.table != key.parent)
    return World(schema.dialect, tables, joins, held_by(inspected))


def _facts(inspected: Inspected, table: Table) -> Facts:
    profiles = inspected.profiles[table.name]
    plain = [c.name for c in table.columns if c.name.strip() and not key_like(c.name)]
    texts = [name for name in plain if profiles[name].kind == TEXT]
    numbers = [name for name in measures(table, inspected.schema, profiles) if name in plain]
    years = [name for name in numbers if _year(name, profiles[name])]
    names = [name for name in texts if _names_rows(profiles[name])]
    names.sort(key=lambda name: not any(word in words(name).split() for word in NAME_WORDS))
    keys = {key.column for key in inspected.schema.keys if key.table == table.name}
    own = words(table.name)
    return Facts(
        table,
        singular(own),
        plural(own),
        tuple(names[:2]),
        tuple(name for name in texts if _category(profiles[name]) and name not in keys and name not in names),
        tuple(name for name in numbers if name not in years and profiles[name].distinct > 2),
        tuple(years),
        tuple(name for name in plain if _days(profiles[name])),
        profiles,
    )


def _names_rows(profile: Profile) -> bool:
    named = sum(nameable(value) for value, _ in profile.values)
    return profile.distinct >= 3 and profile.distinct >= 0.8 * profile.rows and named >= 0.9 * len(profile.values)


def _category(profile: Profile) -> bool:
    return 2 <= profile.distinct <= min(MOST_CATEGORIES, 0.7 * profile.rows) and all(
        nameable(value) for value, _ in profile.values
    )


def _days(profile: Profile) -> bool:
    """Dates without a time of day, of which "after" means one thing."""
    return profile.kind == DATE and profile.distinct > 2 and all(len(value) == 10 for value, _ in profile.values)


def _year(name: str, profile: Profile) -> bool:
    inside = profile.integer and profile.levels[0] in YEARS and profile.levels[-1] in YEARS
    return inside and any(word in ("year", "season", "yr", "founded", "born", "built") for word in words(name).split())


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of them."""
    return items[int(rng.integers(len(items)))]


def pick_table(rng: np.random.Generator, world: World, *uses: str) -> Facts | None:
    """A table that offers all of these, such as ``names`` and ``measures``; None where none does."""
    found = [facts for facts in world.tables if all(getattr(facts, use) for use in uses)]
    return pick(rng, found) if found else None


def draw_name(rng: np.random.Generator, facts: Facts) -> tuple[str, str] | None:
    """A column that names a row, and a name that one row has."""
    name = facts.names[0]
    values = [value for value, count in facts.profiles[name].values if count == 1 and nameable(value)]
    return (name, pick(rng, values)) if values else None


@dataclass(frozen=True)
class Filter:
    """One narrowing of a table's rows."""

    kind: str
    """``is``, ``over``, ``under``, ``after``, ``year``: a part of the question's structure."""
    column: str
    place: str
    """The column as it stands in a query."""
    test: str
    """What is asked of it: ``= 'France'``."""
    full: str
    """In a sentence, after the rows it narrows: ``whose country is France``."""
    typed: str
    """As people type: ``country France``."""

    def condition(self, alias: str = "") -> str:
        """For a WHERE clause; the alias with its dot."""
        return f"{alias}{self.place} {self.test}"


def draw_filter(rng: np.random.Generator, world: World, facts: Facts, without: Sequence[str] = ()) -> Filter | None:
    """A narrowing by a value that occurs, of a column that is not in `without`; None where no column serves."""
    options = [("is", name) for name in facts.categories if name not in without]
    options += [(kind, name) for name in facts.measures if name not in without for kind in ("over", "under")]
    options += [("year", name) for name in facts.years if name not in without]
    options += [("after", name) for name in facts.dates if name not in without]
    if not options:
        return None
    kind, column = pick(rng, options)
    profile, said = facts.profiles[column], words(column)
    place = world.name(column)
    if kind == "is":
        value = pick(rng, [value for value, _ in profile.values])
        return Filter(kind, column, place, f"= {literal(value)}", f"whose {said} is {value}", f"{said} {value}")
    if kind == "year":
        value = pick(rng, profile.values)[0]
        return Filter(kind, column, place, f"= {literal(value)}", f"with {said} {value}", f"{said} {value}")
    value = pick(rng, profile.levels[2:5])
    if kind == "after":
        return Filter(kind, column, place, f"> {literal(value)}", f"whose {said} is after {value}", f"{said} > {value}")
    shown = number(value)
    sign = ">" if kind == "over" else "<"
    return Filter(kind, column, place, f"{sign} {shown}", f"with {said} {kind} {shown}", f"{said} {sign} {shown}")


def number(value: float) -> str:
    """A threshold as a person says it: three digits of a fraction, whole numbers whole.

    >>> number(12.3456), number(1200), number(3.0)
    ('12.3', '1200', '3')
    """
    if float(value).is_integer():
        return str(int(value))
    return f"{float(f'{value:.3g}'):f}".rstrip("0").rstrip(".")

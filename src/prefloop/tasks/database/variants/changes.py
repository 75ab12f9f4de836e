"""A second database of the same kind, on which an answer has to be right as well.

On one database many wrong queries find the right result by accident, a constant always does. In the variant, numbers,
dates and categories are drawn anew from their own column, and some rows of tables that no other table refers to are
gone: counts, sums, averages and orders differ; names, keys and types stay, and so do the values that filters name.

Here is what changes, drawn by seed; ``sqlite`` and ``postgres`` write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prefloop.records import content_id
from prefloop.tasks.database.source.profile import BOOLEAN, DATE, NUMBER, TEXT, Profile
from prefloop.tasks.database.source.schema import Schema, Table
from prefloop.tasks.database.words import key_like

MOST_CELLS = 5_000_000
"""Larger tables only lose rows: half a minute of work, and a large database stays quick."""

DROPPED_SHARE = 1 / 8
FEWEST_ROWS = 8
"""Tables with fewer rows lose none."""


@dataclass(frozen=True)
class Changes:
    """What happens to a table whose n rows stand in the order of its key."""

    drawn: Mapping[str, np.ndarray]
    """By column, [n] positions: the row whose value each row gets."""
    gone: np.ndarray
    """Positions of the rows that are left out."""

    @property
    def told(self) -> list[str]:
        """Names of the columns, and ``rows`` where some are gone."""
        return [*self.drawn, *(["rows"] if len(self.gone) else [])]


def draw_changes(table: Table, schema: Schema, profiles: Mapping[str, Profile], seed: int) -> Changes:
    """The changes of one table; the same table and seed give the same."""
    columns = _varied(table, schema, profiles) if table.rows > 1 else []
    if table.rows * len(columns) > MOST_CELLS:
        columns = []
    rng = np.random.default_rng(int(content_id("variant", seed, table.name), 16))
    drawn = {column: rng.integers(table.rows, size=table.rows) for column in columns}
    leaf = table.rows >= FEWEST_ROWS and all(key.parent != table.name for key in schema.keys)
    count = max(1, round(DROPPED_SHARE * table.rows)) if leaf else 0
    return Changes(drawn, rng.choice(table.rows, size=count, replace=False) if count else np.empty(0, dtype=np.int64))


def measures(table: Table, schema: Schema, profiles: Mapping[str, Profile]) -> list[str]:
    """Columns that hold numbers which are not keys, and may be equal in two rows."""
    return [name for name in _no_keys(table, schema) if profiles[name].kind == NUMBER]


def _varied(table: Table, schema: Schema, profiles: Mapping[str, Profile]) -> list[str]:
    """Columns whose values are drawn anew: texts only where they repeat, since those that do not are names."""
    kinds = (NUMBER, DATE, BOOLEAN)
    return [
        name
        for name in _no_keys(table, schema)
        if profiles[name].kind in kinds or (profiles[name].kind == TEXT and 2 * profiles[name].distinct <= table.rows)
    ]


def _no_keys(table: Table, schema: Schema) -> list[str]:
    keys = {key.column for key in schema.keys if key.table == table.name}
    keys |= {key.parent_column for key in schema.keys if key.parent == table.name}
    return [
        column.name
        for column in table.columns
        if column.name not in keys | table.unique | set(table.primary_key)
        and not column.generated
        and not key_like(column.name)
    ]

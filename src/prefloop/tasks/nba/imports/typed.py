"""Values of the schema's types out of what a file or a database holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cache
from typing import Any

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports.lines import signed
from prefloop.tasks.nba.imports.rows import KEYS, truth, whole

SIGNED = ("plus_minus", "score_diff", "shot_x", "shot_y")


@cache
def column_types() -> dict[str, dict[str, str]]:
    """Types of the columns of the four tables of games, by table; ``id`` is the league's own."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.TABLES)
        return {
            table: {name: kind for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")}
            for table in KEYS
        }


@cache
def required(table: str) -> tuple[str, ...]:
    """Columns of a table that may not be NULL."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema.TABLES)
        rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return tuple(name for _, name, _, must, _, key in rows if name != "id" and (must or key or name in KEYS[table]))


def typed(table: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as their columns' types; empty text and NA are NULL.

    Raises:
        BadRowError: one is of another type; names its column.
    """
    kinds = column_types()[table]
    return {name: _value(name, kinds[name], value) for name, value in values.items()}


def _value(name: str, kind: str, value: Any) -> Any:
    if value is None or (isinstance(value, str) and value.strip() in ("", "NA")):
        return None
    match kind:
        case "INTEGER" if name in SIGNED:
            return signed(value, name)
        case "INTEGER":
            return whole({name: value}, name)
        case "BOOLEAN":
            found = truth(str(value), name)
            return None if found is None else int(found)
        case "REAL":
            return _real(name, value)
    if not isinstance(value, str):
        raise BadRowError(f"{name} is no text ({value!r})")
    return value.strip()


def _real(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise BadRowError(f"{name} is no number ({value!r})") from None
    if not abs(found) < 1e6:  # NaN is not less
        raise BadRowError(f"{name} is no number ({value!r})")
    return found

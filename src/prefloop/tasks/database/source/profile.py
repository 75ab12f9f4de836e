"""What the columns of a table hold: kinds, ranges, frequent values; from the first rows of large tables."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from prefloop.tasks.database.source.schema import Reader, Schema, Table, quoted, reading

PROFILED_ROWS = 20_000
"""Rows of a table that are looked at: a large database stays quick."""

MOST_VALUES = 200
LONGEST_NAME = 60
"""Characters of a text that a question may name."""

LEVELS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

NUMBER, TEXT, DATE, BOOLEAN, OTHER = "number", "text", "date", "boolean", "other"
_NUMBER = re.compile(r"[$€£]?\s*-?\d[\d,]*(\.\d+)?\s*%?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?")
_NO_DATE = re.compile(r"-?infinity|\d{4,}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?( BC)?")
"""What else PostgreSQL's dates may be; no question can name a day among such."""


@dataclass(frozen=True)
class Profile:
    """What one column holds."""

    kind: str
    """``number``, ``text``, ``date`` (ISO), ``boolean`` or ``other`` (mixed, empty or binary)."""
    rows: int
    """Rows looked at."""
    nulls: int
    distinct: int
    integer: bool = False
    values: tuple[tuple[Any, int], ...] = ()
    """Distinct values with their counts, the most frequent first; at most `MOST_VALUES`."""
    numbers_in_text: int = 0
    """Texts that read as numbers once currency, commas and percent signs are taken out."""
    levels: tuple[Any, ...] = ()
    """Quantiles at `LEVELS`: values that occur."""

    @property
    def unique(self) -> bool:
        """Every row has a value of its own."""
        return bool(self.rows) and not self.nulls and self.distinct == self.rows


def profile_tables(connection: Reader, schema: Schema) -> dict[str, dict[str, Profile]]:
    """Profiles by table and column."""
    return {table.name: profile_table(connection, schema, table) for table in schema.tables}


def profile_table(connection: Reader, schema: Schema, table: Table) -> dict[str, Profile]:
    """Profiles of a table's columns, from its first rows by primary key."""
    names = [quoted(column.name, schema.dialect) for column in table.columns]
    order = ", ".join(quoted(name, schema.dialect) for name in table.primary_key)
    with reading(f"table {table.name}", schema.dialect):
        rows = connection.execute(
            f"SELECT {', '.join(names)} FROM {quoted(table.name, schema.dialect)}"
            f"{f' ORDER BY {order}' if order else ''} LIMIT {PROFILED_ROWS}"
        ).fetchall()
    return {column.name: profile([row[i] for row in rows]) for i, column in enumerate(table.columns)}


def profile(cells: Sequence[Any]) -> Profile:
    """Profile of one column's cells."""
    values = [_plain(cell) for cell in cells if cell is not None]
    nulls = len(cells) - len(values)
    if any(isinstance(value, bytes) for value in values):
        return Profile(OTHER, len(cells), nulls, len(set(values)))
    counts = Counter(values)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:MOST_VALUES]
    kind = _kind(counts)
    levels: tuple[Any, ...] = ()
    if kind in (NUMBER, DATE):
        ranked = sorted(values)
        levels = tuple(ranked[round(level * (len(ranked) - 1))] for level in LEVELS)
    numeric = sum(count for value, count in counts.items() if kind == TEXT and reads_as_number(value))
    integer = kind == NUMBER and all(float(value).is_integer() for value in counts)
    return Profile(kind, len(cells), nulls, len(counts), integer, tuple(ordered), numeric, levels)


def _plain(cell: Any) -> Any:
    """PostgreSQL's values as SQLite would give them."""
    if isinstance(cell, Decimal):
        return int(cell) if cell.is_finite() and cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(" ")
    if isinstance(cell, datetime.date):
        return cell.isoformat()
    if isinstance(cell, memoryview):
        return bytes(cell)
    return cell if isinstance(cell, bool | int | float | str | bytes) else str(cell)


def _kind(counts: Counter[Any]) -> str:
    if not counts:
        return OTHER
    if all(isinstance(value, bool) for value in counts) or set(counts) <= {0, 1}:
        return BOOLEAN
    if all(isinstance(value, int | float) and value == value and abs(value) != float("inf") for value in counts):
        return NUMBER
    if not all(isinstance(value, str) for value in counts):
        return OTHER
    if all(_DATE.fullmatch(value) for value in counts):
        return DATE
    return OTHER if all(_DATE.fullmatch(value) or _NO_DATE.fullmatch(value) for value in counts) else TEXT


def reads_as_number(text: str) -> bool:
    """Whether a text is a number once currency, commas and percent signs are taken out.

    >>> reads_as_number("$4,556,983"), reads_as_number("--")
    (True, False)
    """
    return _NUMBER.fullmatch(text.strip()) is not None


def nameable(value: Any) -> bool:
    """Whether a question can name a text: short, one line, no space around it."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= LONGEST_NAME
        and value == value.strip()
        and value.isprintable()
        and any(character.isalnum() for character in value)
    )

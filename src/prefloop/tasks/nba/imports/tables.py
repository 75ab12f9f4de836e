"""CSV tables that others wrote: encodings, columns that are missing, rows of another length."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from prefloop.errors import ConfigError, DataError
from prefloop.store.rows import BadRow, BadRowError, read_csv
from prefloop.tasks.nba.imports.rows import Row, day_of

Table = Iterator[tuple[int, dict[str, str]] | BadRow]
EASTERN = ZoneInfo("America/New_York")
"""The league's own dates: 1,041 of the 1,312 games of 2017-18 start on the next day in UTC."""
ROWS_NAMED = 3
"""Rows of a kind that an error names."""


def read_table(path: Path, needed: Iterable[str], what: str, encoding: str | None = None) -> Table:
    """Rows of a CSV file that has certain columns, with their lines.

    Args:
        what: the kind of file it should be, for the error.

    Raises:
        DataError: the file is missing, no CSV, of another encoding, or lacks columns; names all that are missing.
    """
    rows = read_csv(path, encoding, "name its encoding with --encoding")
    for number, (line, row) in enumerate(rows):
        if number == 0 and (missing := [name for name in needed if name not in row]):
            raise DataError(f"{path} is no {what}: columns {', '.join(missing)} are missing")
        if all(row[name] == name for name in row):
            yield BadRow(path.name, line, "it is the line of column names once more")
        elif None in row:
            yield BadRow(path.name, line, f"the row has {len(row[None])} cells more than there are columns")
        elif None in row.values():
            yield BadRow(path.name, line, "the row has fewer cells than there are columns: is the file cut off?")
        else:
            yield line, row


def rows_from(table: Table, file: str, make: Callable[[int, dict[str, str]], Iterable[Row]]) -> Iterator[Row | BadRow]:
    """What `make` makes of each row of a table; a row of which something cannot be read gives nothing but its fault."""
    for read in table:
        if isinstance(read, BadRow):
            yield read
            continue
        line, row = read
        try:
            yield from list(make(line, row))
        except BadRowError as error:
            yield BadRow(file, line, str(error))


def columns_of(path: Path, encoding: str | None = None) -> list[str]:
    """The names of a CSV file's columns; none where it has no row.

    Raises:
        DataError: as `read_table`.
    """
    rows = read_csv(path, encoding, "name its encoding with --encoding")
    return next(([str(name) for name in row if name is not None] for _, row in rows), [])


def known_encoding(name: str | None) -> None:
    """Refuse an encoding that Python does not know.

    Raises:
        ConfigError: there is none of that name.
    """
    try:
        codecs.lookup(name or "utf-8")
    except LookupError:
        raise ConfigError(f"--encoding {name} is unknown: give cp1252, latin-1 or utf-16, for instance") from None


def given_day(date: str | None) -> str | None:
    """The day that ``--date`` says.

    Raises:
        ConfigError: it is none.
    """
    try:
        return None if date is None else day_of(date, "--date")
    except BadRowError as error:
        raise ConfigError(str(error)) from None


def date_in(path: Path) -> str | None:
    """The day in a file's name, as in ``2018_01_01_team_box_scores.csv``.

    Raises:
        DataError: what looks like one is none.
    """
    found = re.search(r"(?<!\d)(\d{4})[-_](\d{2})[-_](\d{2})(?!\d)", path.stem)
    if found is None:
        return None
    try:
        return date(int(found[1]), int(found[2]), int(found[3])).isoformat()
    except ValueError:
        raise DataError(f"{path}: {found[0]} in its name is no date: give --date") from None


def day_in(value: Any, name: str) -> str:
    """The league's day of a date, or of a time with its zone.

    >>> day_in("2018-01-01", "game_date"), day_in("2018-01-02T00:30Z", "game_date")
    ('2018-01-01', '2018-01-01')

    Raises:
        BadRowError: it is none, or a time without its zone.
    """
    text = str(value).strip()
    try:
        if len(text) == 10:
            return date.fromisoformat(text).isoformat()
        when = datetime.fromisoformat(text)
    except ValueError:
        raise BadRowError(f"{name} is no date like 2019-03-01 ({value!r})") from None
    if when.tzinfo is None:
        raise BadRowError(f"{name} does not say in which zone it is ({value!r})")
    return when.astimezone(EASTERN).date().isoformat()


def lines_named(lines: Sequence[int]) -> str:
    """The first of some rows, for an error.

    >>> lines_named([2, 5, 9, 10])
    'rows 2, 5, 9 and 1 more'
    """
    shown = ", ".join(map(str, lines[:ROWS_NAMED]))
    more = f" and {len(lines) - ROWS_NAMED:,} more" if len(lines) > ROWS_NAMED else ""
    return f"row{'s' if len(lines) > 1 else ''} {shown}{more}"

"""Season labels: which season a day belongs to, and labels that mean different things in one file."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from prefloop.errors import DataError
from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.imports.tables import lines_named

Form = Literal["end_year", "start_year", "span", "nba"]
FORMS: tuple[Form, ...] = get_args(Form)
"""2019; 2018; 2018-19; 22018 (the NBA's digit for the phase and the start year)."""
FIRST_DAY = (9, 15)
"""No game counts for a season before this day, and none for the last one after it."""
LATE_END = date(2020, 10, 31)
"""The season of 2019-20 ended on 2020-10-11, and the next began on 2020-12-22."""


@lru_cache(maxsize=20_000)
def season_of(day: str) -> int:
    """The season of a day, by its end year.

    >>> season_of("2018-10-16"), season_of("2019-06-13"), season_of("2020-10-11"), season_of("2020-12-22")
    (2019, 2019, 2020, 2021)
    """
    when = date.fromisoformat(day)
    if date(2020, 1, 1) <= when <= LATE_END:
        return 2020
    return when.year + ((when.month, when.day) >= FIRST_DAY)


@lru_cache(maxsize=20_000)
def form_of(label: Any, day: str) -> Form | None:
    """What form a label has; of bare years the day of the game tells which. None: it fits none.

    >>> form_of("2018-19", "2018-10-16"), form_of(2019, "2018-10-16"), form_of("2018", "2018-10-16")
    ('span', 'end_year', 'start_year')
    """
    text = re.sub(r"\.0+$", "", str(label).strip())
    season = season_of(day)
    labels: dict[Form, str] = {
        "end_year": str(season),
        "start_year": str(season - 1),
        "span": f"{season - 1}-{season % 100:02}",
    }
    if re.fullmatch(rf"[1-5]{season - 1}", text):
        return "nba"
    return next((form for form, right in labels.items() if text == right), None)


def season_from(label: Any, day: str, form: Form) -> int:
    """The end year that a label means in a declared form.

    Raises:
        BadRowError: it is of another form, or not the season of the day.
    """
    if form_of(label, day) != form:
        raise BadRowError(f"season {label!r} is not that of a game of {day} as {example(form, season_of(day))}")
    return season_of(day)


def one_form(path: Path, labels: Iterable[tuple[int, Any, str]]) -> None:
    """Refuse a file whose labels are of several forms: nothing tells what the wrong ones mean.

    Args:
        labels: line, label and day (YYYY-MM-DD) of each row whose day can be read.

    Raises:
        DataError: there are several; names rows of each.
    """
    found: dict[Form, list[int]] = defaultdict(list)
    for line, label, day in labels:
        if form := form_of(label, day):
            found[form].append(line)
    if len(found) > 1:
        kinds = "; ".join(f"{form.replace('_', ' ')} in {lines_named(lines)}" for form, lines in found.items())
        raise DataError(f"{path.name} labels its seasons in several ways ({kinds}): write them in one")


def example(form: Form, season: int) -> str:
    """How a season is written in a form.

    >>> [example(form, 2019) for form in FORMS]
    ['end year (2019)', 'start year (2018)', 'span (2018-19)', 'nba (22018)']
    """
    shown = {
        "end_year": str(season),
        "start_year": str(season - 1),
        "span": f"{season - 1}-{season % 100:02}",
        "nba": f"2{season - 1}",
    }
    return f"{form.replace('_', ' ')} ({shown[form]})"

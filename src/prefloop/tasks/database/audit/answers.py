"""Does a stored answer agree with what its query gives? Numbers at the precision they were written with, else names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefloop.tasks.nba.text import normalised

AGREES, CONTRADICTS, UNCLEAR = "agrees", "contradicts", "unclear"
MOST_ROWS = 200
"""Rows of a result that are looked for in a text."""

_NUMBER = re.compile(r"[$€£]?\s*(-?\d[\d,]*(?:\.\d+)?)\s*%?")


def agreement(answer: str, rows: Sequence[Sequence[Any]]) -> str:
    """``agrees``, ``contradicts`` (a number that is not there), or ``unclear`` (a text that does not name the rows).

    >>> agreement("6012840", [(5887899,)]), agreement("214.98", [(214.9816,)]), agreement("$24", [(24.47,)])
    ('contradicts', 'agrees', 'agrees')
    >>> agreement("LeBron James", [("LeBron James", "$47,607,350")]), agreement("the Lakers", [("LAL",)])
    ('agrees', 'unclear')
    """
    found = _NUMBER.fullmatch(answer.strip())
    if found:
        cells = [number for row in rows for cell in row if (number := _number(cell)) is not None]
        if not cells:
            return UNCLEAR
        return AGREES if any(_as_written(found[1], cell) for cell in cells) else CONTRADICTS
    text = f" {normalised(answer)} "
    named = [any(_named(cell, text) for cell in row) for row in rows[:MOST_ROWS]]
    return AGREES if named and all(named) else UNCLEAR


def _number(cell: Any) -> float | None:
    if isinstance(cell, int | float):
        return float(cell)
    found = _NUMBER.fullmatch(cell.strip()) if isinstance(cell, str) else None
    return float(found[1].replace(",", "")) if found else None


def _as_written(text: str, value: float) -> bool:
    """Rounded or cut to the decimals of the text, to a millionth of the value."""
    number, decimals = float(text.replace(",", "")), len(text.partition(".")[2])
    return abs(number - value) < 10.0**-decimals * 0.999999 or abs(number - value) <= 1e-6 * abs(value)


def _named(cell: Any, text: str) -> bool:
    words = normalised(str(cell))
    return bool(words) and f" {words} " in text

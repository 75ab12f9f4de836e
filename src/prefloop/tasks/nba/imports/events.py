"""What every source's events share: the clock, and the score after each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.play_by_play import OVERTIME_PERIOD_S, QUARTER_S

QUARTERS = 4
LONGEST = 500
"""Characters of a description; the longest of the published ones has 79."""


def clock(quarter: int, left: float) -> dict[str, Any]:
    """Columns of the time of an event.

    Args:
        quarter: from 1; overtimes from 5.
        left: seconds left in it; parts of a second are dropped.

    >>> clock(5, 61.4)
    {'quarter': 5, 'time_remaining': '1:01', 'time_elapsed_seconds': 3119}

    Raises:
        BadRowError: there is no such period or second.
    """
    length = QUARTER_S if quarter <= QUARTERS else OVERTIME_PERIOD_S
    if not 1 <= quarter <= QUARTERS + 10:
        raise BadRowError(f"there is no period {quarter}")
    if not 0 <= left <= length:
        raise BadRowError(f"{left} seconds cannot be left in period {quarter}")
    before = QUARTER_S * min(quarter - 1, QUARTERS) + OVERTIME_PERIOD_S * max(quarter - 1 - QUARTERS, 0)
    whole = math.floor(left)
    shown = f"{whole // 60}:{whole % 60:02}"
    return {"quarter": quarter, "time_remaining": shown, "time_elapsed_seconds": before + length - whole}


def clock_text(quarter: int, text: str, name: str) -> dict[str, Any]:
    """`clock` of a text such as ``11:42`` or ``3.4``.

    Raises:
        BadRowError: it is none.
    """
    parts = re.fullmatch(r"(?:(\d{1,2}):)?(\d{1,2}(?:\.\d+)?)", text.strip())
    if parts is None:
        raise BadRowError(f"{name} is no time like 11:42 ({text!r})")
    return clock(quarter, int(parts[1] or 0) * 60 + float(parts[2]))


def description(text: str, name: str) -> str | None:
    """An event's text; None where nothing is written.

    Raises:
        BadRowError: it is longer than that of any event.
    """
    if len(text) > LONGEST:
        raise BadRowError(f"{name} is longer than {LONGEST} characters")
    return text.strip() or None


def event(values: Mapping[str, Any], scores: tuple[int, int]) -> dict[str, Any]:
    """An event with the score after it, home first."""
    home, away = scores
    return {**values, "home_score": home, "away_score": away, "score_diff": home - away}

"""One player's game, complete with what follows from his counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prefloop.store.rows import BadRowError
from prefloop.tasks.nba.imports.rows import shooting

COUNTS = (
    "field_goals_made",
    "field_goals_attempted",
    "three_pointers_made",
    "three_pointers_attempted",
    "free_throws_made",
    "free_throws_attempted",
    "offensive_rebounds",
    "defensive_rebounds",
    "total_rebounds",
    "assists",
    "steals",
    "blocks",
    "turnovers",
    "personal_fouls",
    "points",
)
"""What a player's and a team's rows count; a team's row is the sum of its players'."""
DOUBLES = ("points", "total_rebounds", "assists", "steals", "blocks")
INACTIVE = "Inactive"


def with_totals(counts: Mapping[str, int | None]) -> dict[str, int | None]:
    """Counts with rebounds and points that a source leaves to be added up."""
    found = {name: counts.get(name) for name in COUNTS}
    orb, drb = found["offensive_rebounds"], found["defensive_rebounds"]
    goals, threes, throws = (found[f"{shot}_made"] for shot in ("field_goals", "three_pointers", "free_throws"))
    if found["total_rebounds"] is None and orb is not None and drb is not None:
        found["total_rebounds"] = orb + drb
    if found["points"] is None and goals is not None and threes is not None and throws is not None:
        found["points"] = 2 * goals + threes + throws
    return found


def played(
    counts: Mapping[str, int | None], seconds: int | None, plus_minus: int | None, starter: bool | None
) -> dict[str, Any]:
    """Columns of a player who was on the list and is not said to have sat out.

    Raises:
        BadRowError: the counts contradict each other, or give no points.
    """
    found = with_totals(counts)
    if found["points"] is None:
        raise BadRowError("points are missing, and the shots do not give them")
    orb, drb, rebounds = (found[f"{kind}_rebounds"] for kind in ("offensive", "defensive", "total"))
    if orb is not None and drb is not None and rebounds != orb + drb:
        raise BadRowError(f"total_rebounds are {rebounds}, and {orb} offensive and {drb} defensive give {orb + drb}")
    tens = sum((found[name] or 0) >= 10 for name in DOUBLES)
    known = all(found[name] is not None for name in DOUBLES)
    return {
        **shooting(found),
        "is_starter": None if starter is None else int(starter),
        "minutes_played": None if seconds is None else f"{seconds // 60}:{seconds % 60:02}",
        "minutes_decimal": None if seconds is None else round(seconds / 60, 1),
        "plus_minus": plus_minus,
        "game_score": _game_score(found),
        "double_double": int(tens >= 2) if known else None,
        "triple_double": int(tens >= 3) if known else None,
        "did_not_play": 0,
    }


def sat_out(reason: str | None) -> dict[str, Any]:
    """Columns of a player who did not play: no counts, but 0 points, which may not be NULL."""
    nothing = {"points": 0, "is_starter": 0, "minutes_played": "0:00", "minutes_decimal": 0.0}
    return {**nothing, "did_not_play": 1, "dnp_reason": reason}


def seconds_of(text: Any, name: str) -> int | None:
    """Seconds of minutes written as ``36:42``, ``36`` or ``36.7``; None where nothing is written.

    >>> seconds_of("36:42", "MIN"), seconds_of("36", "MIN"), seconds_of("", "MIN")
    (2202, 2160, None)

    Raises:
        BadRowError: it is none of these.
    """
    if text in (None, ""):
        return None
    parts = re.fullmatch(r"(\d{1,3})(?::([0-5]\d)|(\.\d+))?", str(text).strip())
    if parts is None:
        raise BadRowError(f"{name} is no time like 36:42 or 36.7 ({text!r})")
    return int(parts[1]) * 60 + int(parts[2] or 0) + round(float(parts[3] or 0) * 60)


def made_attempted(row: Mapping[str, str], name: str) -> tuple[int | None, int | None]:
    """Shots written as ``8-18``; None twice where nothing is written.

    >>> made_attempted({"fg": "8-18"}, "fg"), made_attempted({}, "fg")
    ((8, 18), (None, None))

    Raises:
        BadRowError: they are written otherwise.
    """
    text = (row.get(name) or "").strip()
    if not text:
        return None, None
    parts = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text, re.ASCII)
    if parts is None:
        raise BadRowError(f"{name} is not made-attempted like 8-18 ({text!r})")
    return int(parts[1]), int(parts[2])


def signed(value: Any, name: str) -> int | None:
    """A whole number that may be negative, as text or not; None where nothing is written.

    >>> signed("+5", "plus_minus"), signed(-3.0, "plus_minus"), signed("", "plus_minus")
    (5, -3, None)

    Raises:
        BadRowError: it is something else.
    """
    if value in (None, ""):
        return None
    if isinstance(value, bool) or not re.fullmatch(r"[+-]?\d{1,4}(\.0+)?", str(value).strip()):
        raise BadRowError(f"{name} is no whole number ({value!r})")
    return int(float(value))


def _game_score(c: Mapping[str, int | None]) -> float | None:
    """John Hollinger's game score (Basketball-Reference glossary), where everything in it is counted."""
    weights = {
        "points": 1.0, "field_goals_made": 0.4, "field_goals_attempted": -0.7, "free_throws_attempted": -0.4,
        "free_throws_made": 0.4, "offensive_rebounds": 0.7, "defensive_rebounds": 0.3, "steals": 1.0, "assists": 0.7,
        "blocks": 0.7, "personal_fouls": -0.4, "turnovers": -1.0,
    }  # fmt: skip
    total = 0.0
    for name, weight in weights.items():
        value = c[name]
        if value is None:
            return None
        total += weight * value
    return round(total, 1)

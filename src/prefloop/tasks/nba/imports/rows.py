"""Rows on their way into a league, each with the place it came from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import Any

from prefloop.store.rows import BadRowError

KEYS = {
    "games": ("game_id",),
    "team_box_scores": ("game_id", "team"),
    "player_box_scores": ("game_id", "team", "player_name"),
    "game_play_by_play": ("game_id", "event_number"),
}
"""What makes two rows of a table the same one."""

REGULATION_MIN, OVERTIME_MIN = 240, 25
"""Minutes of a team's five players together."""


@dataclass(frozen=True)
class Named:
    """A game by the name that a source gives it, which the league remembers from a row of ``games``."""

    source: str
    """``nba`` (ten digits) or ``espn`` (a number)."""
    name: str


@dataclass(frozen=True)
class Played:
    """A game by a day and one of its teams, which plays once a day."""

    day: str
    team: str


class Side(Enum):
    """In the place of a team's code, where a source says only which side it is."""

    HOME = "home_team"
    AWAY = "away_team"


@dataclass(frozen=True)
class Row:
    """Values of some columns of a table; what a source does not say is missing, and NULL in the league.

    A row without ``game_id`` belongs to the game that `game` says; if that is not in the league, the row waits for it.
    A row of ``games`` that has both is the game's first, and its name in the source is remembered.
    """

    table: str
    values: Mapping[str, Any]
    file: str
    line: int
    game: Named | Played | None = None

    @property
    def key(self) -> tuple[Any, ...]:
        """Which row of its table it is."""
        return tuple(self.values[name] for name in KEYS[self.table])


@dataclass(frozen=True)
class Remark:
    """What a reader left out on purpose, or what one should know of a file."""

    file: str
    text: str


def game_id(day: str, home: str) -> str:
    """The Basketball-Reference name of a game: its date in the home town, 0, and the home team's code.

    >>> game_id("2019-03-01", "ATL")
    '201903010ATL'
    """
    return f"{day.replace('-', '')}0{home}"


def day_of(value: Any, name: str) -> str:
    """A date as YYYY-MM-DD.

    Raises:
        BadRowError: it is none.
    """
    try:
        return date.fromisoformat(str(value)).isoformat()
    except ValueError:
        raise BadRowError(f"{name} is no date like 2019-03-01 ({value!r})") from None


def whole(row: Mapping[str, Any], name: str, *, empty: bool = False) -> int | None:
    """A count that is 0 or more.

    Args:
        empty: it may be missing or empty, and is then None.

    Raises:
        BadRowError: it is something else.
    """
    value = row.get(name)
    if value in (None, ""):
        if empty:
            return None
        raise BadRowError(f"{name} is missing")
    if type(value) is str and len(value) < 10 and value.isascii() and value.isdigit():
        return int(value)  # nearly all are; the pattern costs five times as much
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}(\.0+)?", str(value)):
        raise BadRowError(f"{name} is no whole number of 0 or more ({value!r})")
    return int(float(value))


def truth(value: str | None, name: str) -> bool | None:
    """TRUE or FALSE as R and Python write them; None where nothing is written.

    Raises:
        BadRowError: it is neither.
    """
    if value in (None, ""):
        return None
    found = {"true": True, "1": True, "false": False, "0": False}.get(str(value).strip().lower())
    if found is None:
        raise BadRowError(f"{name} is neither TRUE nor FALSE ({value!r})")
    return found


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    """A share to three decimals, as the league has them; None of nothing or of what is not known."""
    return round(numerator / denominator, 3) if denominator and numerator is not None else None


def shooting(made: Mapping[str, int | None]) -> dict[str, Any]:
    """Columns of shots and what follows from them.

    Args:
        made: counts by the schema's column names, points among them.

    Raises:
        BadRowError: more made than attempted, or points that the shots do not give.
    """
    found: dict[str, Any] = dict(made)
    for shot, share in (
        ("field_goals", "field_goal"),
        ("three_pointers", "three_point"),
        ("free_throws", "free_throw"),
    ):
        hits, tries = made.get(f"{shot}_made"), made.get(f"{shot}_attempted")
        if hits is not None and tries is not None and hits > tries:
            raise BadRowError(f"{shot}: {hits} made of {tries} attempted")
        found[f"{share}_pct"] = ratio(hits, tries)
    goals, threes, throws = (made.get(f"{shot}_made") for shot in ("field_goals", "three_pointers", "free_throws"))
    points, tries, free = (made.get(name) for name in ("points", "field_goals_attempted", "free_throws_attempted"))
    if goals is not None and threes is not None and throws is not None:
        given = 2 * goals + threes + throws
        if points not in (None, given):
            raise BadRowError(f"points are {points}, and the shots give {given}")
    if tries is not None and free is not None:
        found["true_shooting_pct"] = ratio(points, 2 * (tries + 0.44 * free))
    if goals is not None and threes is not None:
        found["effective_fg_pct"] = ratio(goals + 0.5 * threes, tries)
    return found


def overtimes_of(minutes: int, name: str) -> int:
    """How many overtimes a team's minutes are: 240 and 25 for each.

    Raises:
        BadRowError: they are no whole overtimes.
    """
    overtimes, rest = divmod(minutes - REGULATION_MIN, OVERTIME_MIN)
    if rest or overtimes < 0:
        raise BadRowError(f"{name} is not 240 and 25 for each overtime ({minutes})")
    return overtimes

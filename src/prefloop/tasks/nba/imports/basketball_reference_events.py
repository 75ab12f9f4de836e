"""Play-by-play in the style of Basketball-Reference: a line of text for every event, players by initial and surname."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.basketball_reference_boxes import day_of_file
from prefloop.tasks.nba.imports.events import clock, description, event
from prefloop.tasks.nba.imports.franchises import code_of
from prefloop.tasks.nba.imports.rows import Row, game_id, whole
from prefloop.tasks.nba.imports.seasons import season_of
from prefloop.tasks.nba.imports.tables import read_table, rows_from

COLUMNS = (
    *("period", "period_type", "remaining_seconds_in_period", "relevant_team", "away_team", "home_team"),
    *("away_score", "home_score", "description"),
)
_HELPER = r"(?: \((?:assist|block) by (?P<other>.+)\))?"
_PATTERNS = (
    (
        "shot",
        r"(?P<who>.+) (?P<made>makes|misses) (?P<shot>[23])-pt .+?"
        rf"(?: from (?P<feet>\d+) ft| at (?P<rim>rim))?{_HELPER}",
    ),
    ("free throw", r"(?P<who>.+) (?P<made>makes|misses) (?:technical |flagrant |clear path )?free throw.*"),
    ("rebound", r"(?:Offensive|Defensive) rebound by (?P<who>.+)"),
    ("turnover", r"Turnover by (?P<who>.+?) \((?:[^;]*?)(?:; steal by (?P<other>.+))?\)"),
    ("substitution", r"(?P<who>.+) enters the game for (?P<other>.+)"),
    ("violation", r"Violation by (?P<who>.+?) \(.*\)"),
    ("timeout", r".*timeout"),
    ("ejection", r"(?P<who>.+) ejected from game"),
    ("jump ball", r"Jump ball: (?P<who>.+?) vs\. (?P<other>.+?)(?: \(.*\))?"),
    ("foul", r".*(?:foul|three seconds|tech)\b.*? by (?P<who>.+?)(?: \(drawn by (?P<other>.+)\))?"),
)
PATTERNS = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)


def read_events(path: Path, date: str | None = None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``game_play_by_play`` of one game, numbered in the order of the file.

    Args:
        date: YYYY-MM-DD; default the day in the file's name, as in ``2018_10_16_BOS_pbp.csv``.

    Raises:
        DataError: the file is missing or no such table; or nothing says of which day it is.
    """
    day = day_of_file(path, date)
    number = 0

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        nonlocal number
        number += 1
        text = description(row["description"], "description") or ""
        home, away, team = (code_of(row[name], season_of(day)) for name in ("home_team", "away_team", "relevant_team"))
        if team not in (home, away):
            raise BadRowError(f"relevant_team is neither of the two ({row['relevant_team']!r})")
        values = {
            "game_id": game_id(day, home),
            "event_number": number,
            **_clock(row),
            **described(text),
            "offensive_team": team,
            "defensive_team": away if team == home else home,
        }
        scores = (whole(row, "home_score") or 0, whole(row, "away_score") or 0)
        yield Row("game_play_by_play", event(values, scores), path.name, line)

    yield from rows_from(read_table(path, COLUMNS, "play-by-play", encoding), path.name, rows)


def described(text: str) -> dict[str, Any]:
    """What a line of the play-by-play says.

    >>> described("J. Tatum makes 3-pt jump shot from 25 ft (assist by A. Horford)")["secondary_player"]
    'A. Horford'
    >>> described("Turnover by B. Simmons (bad pass; steal by M. Smart)")["event_type"]
    'turnover'
    """
    matches = ((kind, pattern.fullmatch(text.strip())) for kind, pattern in PATTERNS)
    kind, parts = next(((kind, said.groupdict()) for kind, said in matches if said), ("other", {}))
    found: dict[str, Any] = {"event_type": kind, "description": text}
    for column, name in (("primary_player", "who"), ("secondary_player", "other")):
        found[column] = None if parts.get(name) == "Team" else parts.get(name)
    if kind in ("shot", "free throw"):
        found["shot_made"] = int(parts["made"] == "makes")
        found["shot_type"] = f"{parts['shot']}PT" if kind == "shot" else "FT"
    if kind == "shot":
        found["shot_distance"] = 0 if parts["rim"] else int(parts["feet"]) if parts["feet"] else None
    return found


def _clock(row: Mapping[str, str]) -> dict[str, Any]:
    period = whole(row, "period") or 0
    if row["period_type"] not in ("QUARTER", "OVERTIME"):
        raise BadRowError(f"period_type is neither QUARTER nor OVERTIME ({row['period_type']!r})")
    try:
        left = float(row["remaining_seconds_in_period"])
    except ValueError:
        raise BadRowError(
            f"remaining_seconds_in_period is no number ({row['remaining_seconds_in_period']!r})"
        ) from None
    return clock(period + 4 * (row["period_type"] == "OVERTIME"), left)

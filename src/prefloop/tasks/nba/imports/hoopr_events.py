"""hoopR's play-by-play of ESPN's data as CSV.

Players stand in it by number; their names are taken from the text of the event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.events import clock_text, description, event
from prefloop.tasks.nba.imports.hoopr import named, table_of
from prefloop.tasks.nba.imports.rows import Row, Side, truth, whole
from prefloop.tasks.nba.imports.tables import rows_from

COLUMNS = (
    *("game_id", "sequence_number", "period_number", "clock_display_value", "type_text", "text", "team_id"),
    *("home_score", "away_score", "scoring_play", "score_value", "shooting_play", "home_team_id", "away_team_id"),
)
KINDS = (
    ("free throw", "free throw"),
    ("rebound", "rebound"),
    ("turnover", "turnover"),
    ("turnover", "traveling"),
    ("foul", "foul"),
    ("substitution", "substitution"),
    ("timeout", "timeout"),
    ("violation", "violation"),
    ("violation", "goaltending"),
    ("jump ball", "jumpball"),
    ("jump ball", "jump ball"),
    ("ejection", "ejection"),
    ("period", "end period"),
    ("period", "end game"),
)
"""Kinds of events by words of ESPN's types; what is no shot and none of these is ``other``."""
_FOULS = r"(?:personal(?: take)?|shooting|offensive|loose ball|away from play|transition take|technical|clear path)"
_LOSSES = r"(?:bad pass|lost ball|traveling|out of bounds(?: bad pass| lost ball)?|offensive foul|double dribble)"
PLAYERS = (
    re.compile(r"(?P<other>.+) blocks (?P<who>.+?) ?'s .+"),
    re.compile(r"(?P<who>.+?) (?:makes|misses) .+?(?: \((?P<other>.+) assists\))?"),
    re.compile(r"(?P<who>.+) enters the game for (?P<other>.+)"),
    re.compile(r"(?P<who>.+?) (?:offensive|defensive) rebound"),
    re.compile(r"(?P<who>.+?) vs\. (?P<other>.+?) \(.+"),
    re.compile(rf"(?P<who>.+?) {_FOULS} foul(?: \((?P<other>.+) draws the foul\))?"),
    re.compile(rf"(?P<who>.+?) {_LOSSES}(?: turnover)?(?: ?\((?P<other>.+) steals\))?"),
)
"""Who did it and who took part, in ESPN's words; of others the text alone is kept."""


def read_events(path: Path, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``game_play_by_play``; their games are those that hoopR's schedules and box scores brought.

    Raises:
        DataError: the file is missing or no such table.
    """

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        number = whole(row, "game_play_number" if row.get("game_play_number") else "sequence_number")
        when = clock_text(whole(row, "period_number") or 0, row["clock_display_value"], "clock_display_value")
        scores = (whole(row, "home_score") or 0, whole(row, "away_score") or 0)
        values = {"event_number": number, **when, **_event(row), **_teams(row)}
        yield Row("game_play_by_play", event(values, scores), path.name, line, named(row))

    yield from rows_from(table_of(path, COLUMNS, encoding), path.name, rows)


def _teams(row: Mapping[str, str]) -> dict[str, Side | None]:
    team = row["team_id"].strip().removesuffix(".0")
    if not team:
        return {"offensive_team": None, "defensive_team": None}
    ids = {row[f"{side}_team_id"].strip().removesuffix(".0"): side for side in ("home", "away")}
    if team not in ids:
        raise BadRowError(f"team_id is neither of the two ({team!r})")
    sides = (Side.HOME, Side.AWAY) if ids[team] == "home" else (Side.AWAY, Side.HOME)
    return {"offensive_team": sides[0], "defensive_team": sides[1]}


def _event(row: Mapping[str, str]) -> dict[str, Any]:
    text, kind = description(row["text"], "text") or "", row["type_text"].strip().lower()
    said = next((found for pattern in PLAYERS if (found := pattern.fullmatch(text))), None)
    parts = said.groupdict() if said else {}
    found: dict[str, Any] = {
        "event_type": next((name for name, word in KINDS if word in kind), "other"),
        "description": text or None,
        "primary_player": parts.get("who"),
        "secondary_player": parts.get("other"),
    }
    if not truth(row["shooting_play"], "shooting_play"):
        return found
    made = int(truth(row["scoring_play"], "scoring_play") or False)
    if found["event_type"] == "free throw":
        return {**found, "shot_made": made, "shot_type": "FT"}
    worth = whole(row, "score_value", empty=True)
    three = worth == 3 or "three point" in text
    feet = re.search(r"(\d{1,2})-foot", text)
    shot = {"event_type": "shot", "shot_made": made, "shot_type": "3PT" if three else "2PT"}
    return {**found, **shot, "shot_distance": int(feet[1]) if feet else None, **_place(row)}


def _place(row: Mapping[str, str]) -> dict[str, int | None]:
    """Whole feet of ESPN's court; its marks for an unknown place are far off it."""
    found: dict[str, int | None] = {}
    for axis in "xy":
        try:
            value = float(row.get(f"coordinate_{axis}") or "nan")
        except ValueError:
            raise BadRowError(f"coordinate_{axis} is no number") from None
        found[f"shot_{axis}"] = round(value) if abs(value) < 100 else None  # NaN is not less
    return found

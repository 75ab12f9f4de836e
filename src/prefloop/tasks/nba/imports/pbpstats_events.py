"""Play-by-play of the NBA's statistics as pbpstats keeps it: events by kind, with full names and the running score."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.events import clock_text, event
from prefloop.tasks.nba.imports.franchises import code_from
from prefloop.tasks.nba.imports.pbpstats import SOURCE, needed, result_sets
from prefloop.tasks.nba.imports.pbpstats_games import season_and_phase
from prefloop.tasks.nba.imports.rows import Named, Played, Row, Side, whole
from prefloop.tasks.nba.imports.tables import given_day

COLUMNS = (
    *("GAME_ID", "EVENTMSGTYPE", "PERIOD", "PCTIMESTRING", "HOMEDESCRIPTION", "NEUTRALDESCRIPTION"),
    *("VISITORDESCRIPTION", "SCORE", "PERSON1TYPE", "PLAYER1_NAME", "PLAYER1_TEAM_ABBREVIATION", "PLAYER2_NAME"),
    "PLAYER3_NAME",
)
MADE, MISSED, FREE_THROW, TURNOVER, SUBSTITUTION = 1, 2, 3, 5, 8
KINDS = {
    MADE: "shot", MISSED: "shot", FREE_THROW: "free throw", 4: "rebound", TURNOVER: "turnover", 6: "foul",
    7: "violation", SUBSTITUTION: "substitution", 9: "timeout", 10: "jump ball", 11: "ejection", 12: "period",
    13: "period",
}  # fmt: skip
HOME_PERSON, AWAY_PERSON = (2, 4), (3, 5)
"""PERSON1TYPE of a team and of a player."""


def read_events(path: Path, date: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``game_play_by_play``, numbered in the order of the file, which is that of play; EVENTNUM is not.

    Args:
        date: the game's day, where neither a summary nor a game log brought it.

    Raises:
        DataError: the file is missing, damaged, or no play-by-play; columns that are missing are named.
    """
    rows = result_sets(path, "play-by-play").get("PlayByPlay", [])
    needed(path, rows, COLUMNS, "play-by-play")
    day = given_day(date)
    try:
        game = _game(rows, day)
    except BadRowError as error:
        raise DataError(f"{path}: {error}") from None
    scores = (0, 0)
    for line, row in enumerate(rows, 1):
        try:
            if row["SCORE"]:
                scores = _scores(str(row["SCORE"]))
            values = {"event_number": line, **_clock(row), **_event(row)}
        except BadRowError as error:
            yield BadRow(path.name, line, str(error))
            continue
        yield Row("game_play_by_play", event(values, scores), path.name, line, game)


def _game(rows: list[dict[str, Any]], day: str | None) -> Named | Played:
    if len(names := {str(row["GAME_ID"]) for row in rows}) > 1:
        raise BadRowError(f"it holds {len(names)} games: a play-by-play is of one")
    name = names.pop()
    if day is None:
        return Named(SOURCE, name)
    season, _ = season_and_phase(name)
    team = next((row["PLAYER1_TEAM_ABBREVIATION"] for row in rows if row["PLAYER1_TEAM_ABBREVIATION"]), None)
    if team is None:
        raise BadRowError("no event says a team: import the game's summary in place of --date")
    return Played(day, code_from(str(team), season))


def _scores(text: str) -> tuple[int, int]:
    parts = re.fullmatch(r"(\d{1,3}) - (\d{1,3})", text)
    if parts is None:
        raise BadRowError(f"SCORE is not like '2 - 0' ({text!r})")
    return int(parts[2]), int(parts[1])  # the visitors stand first


def _clock(row: Mapping[str, Any]) -> dict[str, Any]:
    return clock_text(whole(row, "PERIOD") or 0, str(row["PCTIMESTRING"]), "PCTIMESTRING")


def _event(row: Mapping[str, Any]) -> dict[str, Any]:
    kind = whole(row, "EVENTMSGTYPE") or 0
    said = [row[f"{side}DESCRIPTION"] for side in ("HOME", "VISITOR", "NEUTRAL") if row[f"{side}DESCRIPTION"]]
    text = "; ".join(map(str, said))
    names = [row[f"PLAYER{i}_NAME"] for i in (1, 2, 3)]
    side = row["PERSON1TYPE"]
    team = Side.HOME if side in HOME_PERSON else Side.AWAY if side in AWAY_PERSON else None
    others = {Side.HOME: Side.AWAY, Side.AWAY: Side.HOME}
    found: dict[str, Any] = {
        "event_type": KINDS.get(kind, "other"),
        "description": text or None,
        "primary_player": names[0],
        "secondary_player": names[2] if kind == MISSED else names[1],  # he who blocked; helped, stole, was fouled
        "offensive_team": team,
        "defensive_team": others[team] if team else None,
    }
    if kind == SUBSTITUTION:  # he who leaves stands first
        found |= {"primary_player": names[1], "secondary_player": names[0]}
    if kind == FREE_THROW:
        found |= {"shot_made": int(not text.startswith("MISS")), "shot_type": "FT"}
    if kind in (MADE, MISSED):
        feet = re.search(r"(?<!\d)(\d{1,2})' ", text)
        distance = int(feet[1]) if feet else None
        found |= {"shot_made": int(kind == MADE), "shot_type": "3PT" if " 3PT " in text else "2PT"}
        found["shot_distance"] = distance
    return found

"""One game of the NBA's statistics as pbpstats keeps it: its summary, and its box score of players and teams.

A game's ten digits say its phase and season; day and teams stand in the summary, so a box score belongs to a game that
a summary or a game log brought.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_from
from prefloop.tasks.nba.imports.lines import INACTIVE, played, sat_out, seconds_of, signed
from prefloop.tasks.nba.imports.pbpstats import COLUMNS, PHASES, SOURCE, needed, result_sets
from prefloop.tasks.nba.imports.rows import Named, Played, Row, day_of, game_id, overtimes_of, shooting, whole
from prefloop.tasks.nba.imports.tables import given_day

COUNTS = {("TO" if name == "TOV" else name): column for name, column in COLUMNS.items()}
PLAYER_STATS = (
    *("GAME_ID", "TEAM_ABBREVIATION", "PLAYER_ID", "PLAYER_NAME", "START_POSITION", "COMMENT", "MIN"),
    *("PLUS_MINUS", *COUNTS),
)
TEAM_STATS = ("GAME_ID", "TEAM_ABBREVIATION", "MIN", *COUNTS)
SUMMARY = ("GAME_DATE_EST", "GAME_ID", "HOME_TEAM_ID", "VISITOR_TEAM_ID", "LIVE_PERIOD", "GAME_STATUS_ID")
LINE_SCORE = ("TEAM_ID", "TEAM_ABBREVIATION", "TEAM_CITY_NAME", "TEAM_NICKNAME", "PTS")
FINAL = 3


def season_and_phase(name: str) -> tuple[int, str]:
    """End year and phase of a game by its ten digits.

    >>> season_and_phase("0021600270"), season_and_phase("0049900101")
    ((2017, 'Regular Season'), (2000, 'Playoffs'))

    Raises:
        BadRowError: it is no such name.
    """
    parts = re.fullmatch(r"00([1-5])(\d\d)\d{5}", name)
    if parts is None:
        raise BadRowError(f"GAME_ID is not ten digits like 0021600270 ({name!r})")
    start = int(parts[2])
    return start + (1900 if start >= 46 else 2000) + 1, PHASES[parts[1]]


def read_summary(path: Path) -> Iterator[Row | BadRow]:
    """The row of ``games``, and players who were not active.

    Raises:
        DataError: the file is missing, damaged, or no summary; columns that are missing are named.
    """
    sets = result_sets(path, "game summary")
    needed(path, sets.get("GameSummary", []), SUMMARY, "game summary")
    needed(path, sets.get("LineScore", []), LINE_SCORE, "game summary")
    summary = sets["GameSummary"][0]
    sides = {row["TEAM_ID"]: row for row in sets["LineScore"]}
    home, away = (sides.get(summary[name]) for name in ("HOME_TEAM_ID", "VISITOR_TEAM_ID"))
    try:
        if home is None or away is None or home is away:
            raise BadRowError("LineScore has not one row for each side")
        values = _summary(summary, home, away, sets)
    except BadRowError as error:
        yield BadRow(path.name, 1, str(error))
        return
    game = Named(SOURCE, str(summary["GAME_ID"]))
    yield Row("games", values, path.name, 1, game)
    for line, row in enumerate(sets.get("InactivePlayers", []), 1):
        yield from _inactive(path.name, line, row, values)


def _summary(
    row: Mapping[str, Any], home: Mapping[str, Any], away: Mapping[str, Any], sets: Mapping[str, list[dict[str, Any]]]
) -> dict[str, Any]:
    season, phase = season_and_phase(str(row["GAME_ID"]))
    if row["GAME_STATUS_ID"] != FINAL:
        raise BadRowError("the game is not over")
    day = day_of(str(row["GAME_DATE_EST"])[:10], "GAME_DATE_EST")
    codes = [code_from(str(side["TEAM_ABBREVIATION"]), season) for side in (home, away)]
    names = [f"{side['TEAM_CITY_NAME']} {side['TEAM_NICKNAME']}" for side in (home, away)]
    periods = whole(row, "LIVE_PERIOD") or 0
    if periods < 4:
        raise BadRowError(f"LIVE_PERIOD is less than 4 ({periods})")
    info = next(iter(sets.get("GameInfo", [])), {})
    officials = [f"{one.get('FIRST_NAME')} {one.get('LAST_NAME')}" for one in sets.get("Officials", [])]
    return {
        "game_id": game_id(day, codes[0]),
        "game_date": day,
        "season": season,
        "home_team": codes[0],
        "away_team": codes[1],
        "home_team_name": names[0],
        "away_team_name": names[1],
        "home_score": whole(home, "PTS"),
        "away_score": whole(away, "PTS"),
        "game_type": phase,
        "num_overtime_periods": periods - 4,
        "attendance": whole(info, "ATTENDANCE", empty=True) or None,
        "duration": str(info.get("GAME_TIME") or "").strip() or None,
        "officials": ", ".join(officials) or None,
    }


def _inactive(file: str, line: int, row: Mapping[str, Any], game: Mapping[str, Any]) -> Iterator[Row | BadRow]:
    """A row of a player who was not active; `line` is that of the file's table of these."""
    try:
        team = code_from(str(row.get("TEAM_ABBREVIATION")), game["season"])
        name = f"{row.get('FIRST_NAME') or ''} {row.get('LAST_NAME') or ''}".strip()
        if not name:
            raise BadRowError("an inactive player has no name")
    except BadRowError as error:
        yield BadRow(file, line, str(error))
        return
    who = {"game_id": game["game_id"], "team": team, "player_name": name, "player_slug": f"nba{row.get('PLAYER_ID')}"}
    yield Row("player_box_scores", {**who, **sat_out(INACTIVE)}, file, line)


def read_box_score(path: Path, date: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``player_box_scores`` and ``team_box_scores`` of one game; numbers are those of rows in their tables.

    Args:
        date: the game's day, where neither a summary nor a game log brought it.

    Raises:
        DataError: the file is missing, damaged, or no box score; columns that are missing are named.
    """
    sets = result_sets(path, "box score")
    players, teams = sets.get("PlayerStats", []), sets.get("TeamStats", [])
    needed(path, players, PLAYER_STATS, "box score of players")
    if teams:
        needed(path, teams, TEAM_STATS, "box score of players")
    if len(names := {str(row["GAME_ID"]) for row in (*players, *teams)}) > 1:
        raise DataError(f"{path} holds {len(names)} games: a box score is of one")
    day = given_day(date)
    for table, rows, make in (
        ("games", teams, _overtimes),
        ("team_box_scores", teams, _team),
        ("player_box_scores", players, _player),
    ):
        for line, row in enumerate(rows, 1):
            try:
                season, _ = season_and_phase(str(row["GAME_ID"]))
                team = code_from(str(row["TEAM_ABBREVIATION"]), season)
                game = Played(day, team) if day else Named(SOURCE, str(row["GAME_ID"]))
                yield Row(table, make(row, team), path.name, line, game)
            except BadRowError as error:
                yield BadRow(path.name, line, str(error))


def _overtimes(row: Mapping[str, Any], team: str) -> dict[str, Any]:
    return {"num_overtime_periods": overtimes_of(round((seconds_of(row["MIN"], "MIN") or 0) / 60), "MIN")}


def _team(row: Mapping[str, Any], team: str) -> dict[str, Any]:
    return {"team": team, **shooting({column: whole(row, name, empty=True) for name, column in COUNTS.items()})}


def _player(row: Mapping[str, Any], team: str) -> dict[str, Any]:
    who = {"team": team, "player_name": str(row["PLAYER_NAME"]).strip(), "player_slug": f"nba{row['PLAYER_ID']}"}
    comment = str(row["COMMENT"] or "").strip()
    if row["MIN"] is None:
        return {**who, **sat_out(comment or None)}
    counts = {column: whole(row, name, empty=True) for name, column in COUNTS.items()}
    start = str(row["START_POSITION"] or "")
    seconds = seconds_of(row["MIN"], "MIN")
    found = played(counts, seconds, signed(row["PLUS_MINUS"], "PLUS_MINUS"), bool(start))
    return {**who, "position": start or None, **found}

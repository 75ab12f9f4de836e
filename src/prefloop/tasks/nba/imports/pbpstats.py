"""Game logs of the NBA's statistics as pbpstats and nba_api keep them: two team rows for every game.

``SEASON_ID`` is a digit for the phase and the year in which the season starts; ``MATCHUP`` says who is at home, ``@``
or ``vs.``; ``MIN`` are the team's minutes, 240 and 25 for each overtime.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_from
from prefloop.tasks.nba.imports.rows import Row, day_of, game_id, shooting, whole

PHASES = {"1": "Preseason", "2": "Regular Season", "3": "All-Star", "4": "Playoffs", "5": "Play-In"}
COLUMNS = {
    "FGM": "field_goals_made",
    "FGA": "field_goals_attempted",
    "FG3M": "three_pointers_made",
    "FG3A": "three_pointers_attempted",
    "FTM": "free_throws_made",
    "FTA": "free_throws_attempted",
    "OREB": "offensive_rebounds",
    "DREB": "defensive_rebounds",
    "REB": "total_rebounds",
    "AST": "assists",
    "STL": "steals",
    "BLK": "blocks",
    "TOV": "turnovers",
    "PF": "personal_fouls",
    "PTS": "points",
}
REGULATION_MIN, OVERTIME_MIN = 240, 25
"""Minutes of a team's five players together."""
NEEDED = ("SEASON_ID", "TEAM_ABBREVIATION", "TEAM_NAME", "GAME_ID", "GAME_DATE", "MATCHUP", "MIN", *COLUMNS)


def read_game_log(path: Path) -> Iterator[Row | BadRow]:
    """Rows of ``games`` and ``team_box_scores``.

    Raises:
        DataError: the file is missing or damaged, or no game log of teams; columns that are missing are named.
    """
    sides: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for line, row in enumerate(_rows(path), 1):
        try:
            sides[str(row["GAME_ID"])].append((line, _side(row)))
        except BadRowError as error:
            yield BadRow(path.name, line, str(error))
    for name, found in sides.items():
        yield from _game(path.name, name, found)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise DataError(f"{path} is no game log: it is no JSON ({error})") from error
    sets = content.get("resultSets") if isinstance(content, Mapping) else None
    if not isinstance(sets, list) or not sets or not isinstance(sets[0], Mapping):
        raise DataError(f"{path} is no game log: it has no resultSets")
    headers = sets[0].get("headers") or []
    if missing := [name for name in NEEDED if name not in headers]:
        raise DataError(f"{path} is no game log of teams: columns {', '.join(missing)} are missing")
    for values in sets[0].get("rowSet") or []:
        yield dict(zip(headers, values, strict=False))


def _side(row: Mapping[str, Any]) -> dict[str, Any]:
    label = re.fullmatch(r"([1-5])(\d{4})", str(row.get("SEASON_ID")))
    if label is None:
        raise BadRowError(f"SEASON_ID is no phase and start year like 22018 ({row.get('SEASON_ID')!r})")
    season = int(label[2]) + 1
    matchup = re.fullmatch(r"(\w+) (@|vs\.) (\w+)", str(row.get("MATCHUP")))
    if matchup is None:
        raise BadRowError(f"MATCHUP is not like 'MIN @ DEN' or 'DEN vs. MIN' ({row.get('MATCHUP')!r})")
    minutes = whole(row, "MIN") or 0
    overtimes, rest = divmod(minutes - REGULATION_MIN, OVERTIME_MIN)
    if rest or overtimes < 0:
        raise BadRowError(f"MIN is not 240 and 25 for each overtime ({minutes})")
    return {
        "season": season,
        "phase": PHASES[label[1]],
        "day": day_of(row.get("GAME_DATE"), "GAME_DATE"),
        "team": code_from(str(row["TEAM_ABBREVIATION"]), season),
        "opponent": code_from(matchup[3] if matchup[1] == row["TEAM_ABBREVIATION"] else matchup[1], season),
        "name": str(row["TEAM_NAME"]),
        "is_home": (matchup[2] == "vs.") == (matchup[1] == row["TEAM_ABBREVIATION"]),
        "overtimes": overtimes,
        "box": shooting({column: whole(row, name) for name, column in COLUMNS.items()}),
    }


def _game(file: str, name: str, found: list[tuple[int, dict[str, Any]]]) -> Iterator[Row | BadRow]:
    """A game and its two sides; sides that do not fit each other are refused together."""
    teams = {side["team"]: side for _, side in reversed(found)}  # of repeated rows the first
    shared = {(side["season"], side["phase"], side["day"], side["overtimes"]) for _, side in found}
    homes = [side for side in teams.values() if side["is_home"]]
    if len(teams) != 2 or len(homes) != 1 or len(shared) != 1:
        what = "its rows contradict each other" if len(teams) == 2 else f"{len(teams)} teams in place of two"
        yield from (BadRow(file, line, f"game {name}: {what}") for line, _ in found)
        return
    home = homes[0]
    away = next(side for side in teams.values() if not side["is_home"])
    identity = game_id(home["day"], home["team"])
    yield Row(
        "games",
        {
            "game_id": identity,
            "game_date": home["day"],
            "season": home["season"],
            "home_team": home["team"],
            "away_team": away["team"],
            "home_team_name": home["name"],
            "away_team_name": away["name"],
            "home_score": home["box"]["points"],
            "away_score": away["box"]["points"],
            "game_type": home["phase"],
            "num_overtime_periods": home["overtimes"],
        },
        file,
        found[0][0],
    )
    for line, side in found:
        values = {"game_id": identity, "team": side["team"], "is_home": int(side["is_home"]), **side["box"]}
        yield Row("team_box_scores", values, file, line)

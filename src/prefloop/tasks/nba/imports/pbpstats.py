"""Game logs of the NBA's statistics as pbpstats and nba_api keep them: two team rows for every game.

``SEASON_ID`` is a digit for the phase and the year in which the season starts; ``MATCHUP`` says who is at home, ``@``
or ``vs.``; ``MIN`` are the team's minutes, 240 and 25 for each overtime.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_from
from prefloop.tasks.nba.imports.rows import Named, Row, day_of, game_id, overtimes_of, shooting, whole

SOURCE = "nba"
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
NEEDED = ("SEASON_ID", "TEAM_ABBREVIATION", "TEAM_NAME", "GAME_ID", "GAME_DATE", "MATCHUP", "MIN", *COLUMNS)


def read_game_log(path: Path) -> Iterator[Row | BadRow]:
    """Rows of ``games`` and ``team_box_scores``.

    Raises:
        DataError: the file is missing or damaged, or no game log of teams; columns that are missing are named.
    """
    sides: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    rows = next(iter(result_sets(path, "game log").values()))
    needed(path, rows, NEEDED, "game log of teams")
    for line, row in enumerate(rows, 1):
        try:
            sides[str(row["GAME_ID"])].append((line, _side(row)))
        except BadRowError as error:
            yield BadRow(path.name, line, str(error))
    for name, found in sides.items():
        yield from _game(path.name, name, found)


def result_sets(path: Path, what: str) -> dict[str, list[dict[str, Any]]]:
    """The tables of a file of the NBA's statistics, by name, as rows by column.

    Args:
        what: the kind of file it should be, for the error.

    Raises:
        DataError: it is missing, no JSON, or has no such tables.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise DataError(f"{path} is no {what}: it is no JSON, or cut off ({error}): fetch it again") from error
    sets = content.get("resultSets") if isinstance(content, Mapping) else None
    if not isinstance(sets, list) or not sets or not all(isinstance(one, Mapping) for one in sets):
        raise DataError(f"{path} is no {what}: it has no resultSets")
    found = {}
    for one in sets:
        headers, rows = one.get("headers") or [], one.get("rowSet") or []
        if not all(isinstance(row, list) and len(row) == len(headers) for row in rows):
            raise DataError(f"{path} is damaged: rows of {one.get('name')} do not have its {len(headers)} columns")
        found[str(one.get("name"))] = [dict(zip(headers, row, strict=True)) for row in rows]
    return found


def needed(path: Path, rows: list[dict[str, Any]], columns: Iterable[str], what: str) -> None:
    """Refuse a table that is empty or lacks columns, all of which are named.

    Raises:
        DataError: it does.
    """
    if missing := [name for name in columns if not rows or name not in rows[0]]:
        said = f"columns {', '.join(missing)} are missing" if rows else "it has no row"
        raise DataError(f"{path} is no {what}: {said}")


def _side(row: Mapping[str, Any]) -> dict[str, Any]:
    label = re.fullmatch(r"([1-5])(\d{4})", str(row.get("SEASON_ID")))
    if label is None:
        raise BadRowError(f"SEASON_ID is no phase and start year like 22018 ({row.get('SEASON_ID')!r})")
    season = int(label[2]) + 1
    matchup = re.fullmatch(r"(\w+) (@|vs\.) (\w+)", str(row.get("MATCHUP")))
    if matchup is None:
        raise BadRowError(f"MATCHUP is not like 'MIN @ DEN' or 'DEN vs. MIN' ({row.get('MATCHUP')!r})")
    return {
        "season": season,
        "phase": PHASES[label[1]],
        "day": day_of(row.get("GAME_DATE"), "GAME_DATE"),
        "team": code_from(str(row["TEAM_ABBREVIATION"]), season),
        "opponent": code_from(matchup[3] if matchup[1] == row["TEAM_ABBREVIATION"] else matchup[1], season),
        "name": str(row["TEAM_NAME"]),
        "is_home": (matchup[2] == "vs.") == (matchup[1] == row["TEAM_ABBREVIATION"]),
        "overtimes": overtimes_of(whole(row, "MIN") or 0, "MIN"),
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
        Named(SOURCE, name),
    )
    for line, side in found:
        values = {"game_id": identity, "team": side["team"], "is_home": int(side["is_home"]), **side["box"]}
        yield Row("team_box_scores", values, file, line)

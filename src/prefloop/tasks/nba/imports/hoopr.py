"""hoopR's tables of ESPN's data as CSV: schedules, and what they share with box scores (`hoopr_boxes`) and events.

Seasons are end years; ``season_type`` is 1 preseason, 2 regular season, 3 playoffs, 5 play-in, and All-Star games carry
2: they are told by their teams and left out. A game is ESPN's number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_from
from prefloop.tasks.nba.imports.rows import Named, Remark, Row, game_id, truth, whole
from prefloop.tasks.nba.imports.seasons import one_form, season_from
from prefloop.tasks.nba.imports.tables import Table, day_in, read_table, rows_from

SOURCE = "espn"
PHASES = {"1": "Preseason", "2": "Regular Season", "3": "Playoffs", "5": "Play-In"}
ALL_STAR = re.compile(r"(east|west|eastern|western)\b.*|team \w+|.*\b(stars?|ogs)\b.*|world|usa|\w+ all-stars", re.I)
"""Names of teams of one evening: Eastern Conf All-Stars, Team LeBron, Chuck's Global Stars."""
GAME = ("game_id", "season", "season_type", "game_date")
SCHEDULE = (*GAME, "home_abbreviation", "away_abbreviation", "home_score", "away_score")


class AllStarError(BadRowError):
    """A row of a game that is none of the season's."""


def read_schedule(path: Path, encoding: str | None = None) -> Iterator[Row | BadRow | Remark]:
    """Rows of ``games`` that are over.

    Raises:
        DataError: the file is missing, no such table, or labels its seasons in several ways.
    """
    check_seasons(path, SCHEDULE, encoding)
    left: Counter[str] = Counter()

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        if truth(row.get("status_type_completed"), "status_type_completed") is False:
            left["games that are not over"] += 1
            return
        try:
            values = game_of(row, {side: whole(row, f"{side}_score") for side in ("home", "away")})
        except AllStarError as error:
            left[str(error)] += 1
            return
        more = {
            "attendance": whole(row, "attendance", empty=True) or None,
            "location": row.get("venue_full_name") or None,
        }
        yield Row("games", {**values, **more}, path.name, line, named(row))

    yield from rows_from(table_of(path, SCHEDULE, encoding), path.name, rows)
    yield from left_out(path, left)


def game_of(row: Mapping[str, str], scores: Mapping[str, int | None]) -> dict[str, Any]:
    """A row of ``games``; columns of both sides begin with ``home_`` and ``away_``.

    Raises:
        AllStarError: the teams are of one evening.
        BadRowError: something else is wrong.
    """
    day, season, phase = day_season_phase(row)
    home, away = (team_code(row[f"{s}_abbreviation"], row.get(f"{s}_display_name"), season) for s in ("home", "away"))
    if home == away:
        raise BadRowError(f"{home} plays itself")
    return {
        "game_id": game_id(day, home),
        "game_date": day,
        "season": season,
        "home_team": home,
        "away_team": away,
        "home_team_name": row.get("home_display_name") or None,
        "away_team_name": row.get("away_display_name") or None,
        "home_score": scores["home"],
        "away_score": scores["away"],
        "game_type": phase,
    }


def table_of(path: Path, needed: tuple[str, ...], encoding: str | None) -> Table:
    """Rows of one of hoopR's tables; R writes NA where nothing is known.

    Raises:
        DataError: the file is missing, no CSV, or lacks columns.
    """
    for read in read_table(path, needed, "hoopR table", encoding):
        if isinstance(read, BadRow):
            yield read
        else:
            yield read[0], {name: "" if cell == "NA" else cell for name, cell in read[1].items()}


def named(row: Mapping[str, str]) -> Named:
    """ESPN's number of a row's game."""
    return Named(SOURCE, row["game_id"].strip().removesuffix(".0"))


def check_seasons(path: Path, needed: tuple[str, ...], encoding: str | None) -> None:
    """Refuse a file whose labels of seasons are of several forms.

    Raises:
        DataError: they are.
    """

    def labels() -> Iterator[tuple[int, str | None, str]]:
        for read in table_of(path, needed, encoding):
            if isinstance(read, BadRow):
                continue
            try:
                yield read[0], read[1].get("season"), day_in(read[1]["game_date"], "game_date")
            except BadRowError:  # told when the row is read
                continue

    one_form(path, labels())


def day_season_phase(row: Mapping[str, str]) -> tuple[str, int, str]:
    """Day, end year and phase of a row.

    Raises:
        BadRowError: one of them is none, or the season is not that of the day.
    """
    day = day_in(row["game_date"], "game_date")
    phase = PHASES.get(row["season_type"].strip().removesuffix(".0"))
    if phase is None:
        raise BadRowError(f"season_type is none of {', '.join(PHASES)} ({row['season_type']!r})")
    return day, season_from(row["season"], day, "end_year"), phase


def team_code(code: str, name: str | None, season: int) -> str:
    """A team's code by ESPN's.

    Raises:
        AllStarError: it is a team of one evening, by its name.
        BadRowError: no team has that code.
    """
    try:
        return code_from(code.strip(), season)
    except BadRowError:
        if ALL_STAR.fullmatch((name or code).strip()):
            raise AllStarError("rows of All-Star games") from None
        raise


def side_of(text: str) -> str:
    """``home`` or ``away``.

    Raises:
        BadRowError: it is neither.
    """
    if text not in ("home", "away"):
        raise BadRowError(f"a side is neither home nor away ({text!r})")
    return text


def left_out(path: Path, left: Counter[str]) -> Iterator[Remark]:
    """How many rows of each kind were left out on purpose."""
    for what, count in sorted(left.items()):
        yield Remark(path.name, f"left out {count:,} {what}")

"""Box scores and players' game logs in the style of Basketball-Reference, by basketball_reference_web_scraper.

A file of box scores is of one day, which its name says (``2001_01_01_player_box_scores.csv``). A team's row says
neither its opponent nor where it played: the game is the one that it played that day. A player's log does not say who
he is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_of
from prefloop.tasks.nba.imports.lines import INACTIVE, played, sat_out, signed, with_totals
from prefloop.tasks.nba.imports.rows import Played, Row, day_of, game_id, overtimes_of, shooting, whole
from prefloop.tasks.nba.imports.seasons import season_of
from prefloop.tasks.nba.imports.tables import date_in, given_day, read_table, rows_from

COUNTS = {
    "made_field_goals": "field_goals_made",
    "attempted_field_goals": "field_goals_attempted",
    "made_three_point_field_goals": "three_pointers_made",
    "attempted_three_point_field_goals": "three_pointers_attempted",
    "made_free_throws": "free_throws_made",
    "attempted_free_throws": "free_throws_attempted",
    "offensive_rebounds": "offensive_rebounds",
    "defensive_rebounds": "defensive_rebounds",
    "assists": "assists",
    "steals": "steals",
    "blocks": "blocks",
    "turnovers": "turnovers",
    "personal_fouls": "personal_fouls",
}
SIDE = ("team", "location", "opponent")
TEAM_BOX = ("team", "minutes_played", *COUNTS, "points", "outcome")
PLAYER_BOX = ("slug", "name", *SIDE, "seconds_played", *COUNTS)
PLAYER_LOG = ("active", "date", "points_scored", "plus_minus", *SIDE, "seconds_played", *COUNTS)


def read_team_boxes(path: Path, date: str | None = None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``team_box_scores`` of one day, and the overtimes of their games.

    Args:
        date: YYYY-MM-DD; default the day in the file's name.

    Raises:
        DataError: the file is missing or no such table; or nothing says of which day it is.
    """
    day = day_of_file(path, date)

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        team = code_of(row["team"], season_of(day))
        counts = {column: whole(row, name, empty=True) for name, column in COUNTS.items()}
        box = shooting(with_totals({**counts, "points": whole(row, "points")}))
        game = Played(day, team)
        overtimes = overtimes_of(whole(row, "minutes_played") or 0, "minutes_played")
        yield Row("games", {"num_overtime_periods": overtimes}, path.name, line, game)
        yield Row("team_box_scores", {"team": team, **box}, path.name, line, game)

    yield from rows_from(read_table(path, TEAM_BOX, "table of team box scores", encoding), path.name, rows)


def read_player_boxes(path: Path, date: str | None = None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``player_box_scores`` of one day. They do not say who started.

    Args:
        date: YYYY-MM-DD; default the day in the file's name.

    Raises:
        DataError: the file is missing or no such table; or nothing says of which day it is.
    """
    day = day_of_file(path, date)

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        if not row["name"].strip():
            raise BadRowError("name is missing")
        player = {"player_name": row["name"].strip(), "player_slug": row["slug"].strip() or None}
        yield Row("player_box_scores", {**_where(row, day), **player, **_line(row)}, path.name, line)

    yield from rows_from(read_table(path, PLAYER_BOX, "table of player box scores", encoding), path.name, rows)


def read_player_log(path: Path, player: str | None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``player_box_scores`` of one player; games for which he was not active are rows in which he did not play.

    Args:
        player: his name, which the file does not say.

    Raises:
        DataError: the file is missing or no such table; or there is no name.
    """
    if not (player or "").strip():
        raise DataError(f'{path} does not say whose games these are: give --player "Avery Bradley"')

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        where = _where(row, day_of(row["date"], "date"))
        match row["active"]:
            case "True":
                points = {"points": whole(row, "points_scored")}
                found = _line(row, points, signed(row["plus_minus"], "plus_minus"))
            case "False":
                found = sat_out(INACTIVE)
            case other:
                raise BadRowError(f"active is neither True nor False ({other!r})")
        yield Row("player_box_scores", {**where, "player_name": player.strip(), **found}, path.name, line)

    yield from rows_from(read_table(path, PLAYER_LOG, "player's game log", encoding), path.name, rows)


def day_of_file(path: Path, date: str | None) -> str:
    """The day of a file of one day: its name's, else the given one.

    Raises:
        ConfigError: both are there and differ, or the given one is no date.
        DataError: neither is there, or the name's is no date and none is given.
    """
    given = given_day(date)
    try:
        named = date_in(path)
    except DataError:
        if given is None:
            raise
        named = given
    if given and named and given != named:
        raise ConfigError(f"{path} is of {named} by its name, and of {given} by --date: leave --date out")
    if not (day := named or given):
        raise DataError(f"{path}: its name does not say of which day it is: give --date as in --date 2019-03-01")
    return day


def _where(row: Mapping[str, str], day: str) -> dict[str, Any]:
    team, opponent = (code_of(row[name], season_of(day)) for name in ("team", "opponent"))
    if row["location"] not in ("HOME", "AWAY"):
        raise BadRowError(f"location is neither HOME nor AWAY ({row['location']!r})")
    return {"game_id": game_id(day, team if row["location"] == "HOME" else opponent), "team": team}


def _line(
    row: Mapping[str, str], points: Mapping[str, int | None] | None = None, plus_minus: int | None = None
) -> dict[str, Any]:
    counts = {column: whole(row, name, empty=True) for name, column in COUNTS.items()}
    return played({**counts, **(points or {})}, whole(row, "seconds_played"), plus_minus, None)

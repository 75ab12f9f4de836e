"""Tables in the style of Basketball-Reference, as basketball_reference_web_scraper writes them.

Teams are full names in capitals, a season is its end year, start times are UTC. A schedule does not say which games are
playoffs: they are told by both teams having played a whole season before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_of
from prefloop.tasks.nba.imports.rows import Row, game_id, whole
from prefloop.tasks.nba.imports.seasons import season_of
from prefloop.tasks.nba.imports.tables import EASTERN, read_table

SCHEDULE = ("start_time", "away_team", "away_team_score", "home_team", "home_team_score")
WHOLE_SEASON = 82
SHORT_SEASONS = {1999: 50, 2012: 66, 2020: None, 2021: 72}
"""Games of a team where they were not 82; None: it differs by team."""


def read_schedule(path: Path, season: int | None = None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of ``games`` from a season's schedule.

    Args:
        season: end year; default the year in the file's name, as in ``2018_season_schedule.csv``.

    Raises:
        DataError: the file is missing or no schedule; or nothing says of which season it is.
    """
    end = season
    if end is None:
        named = re.search(r"(?<!\d)(19|20)\d{2}(?!\d)", path.stem)
        if named is None:
            raise DataError(f"{path}: its name does not say of which season it is: give --season with the end year")
        end = int(named[0])
    found = []
    for read in read_table(path, SCHEDULE, "schedule", encoding):
        if isinstance(read, BadRow):
            yield read
            continue
        line, row = read
        try:
            found.append((line, _game(row, end)))
        except BadRowError as error:
            yield BadRow(path.name, line, str(error))
    found.sort(key=lambda one: (one[1]["game_date"], one[1]["game_id"]))
    played: Counter[str] = Counter()
    for line, values in found:
        sides = values["home_team"], values["away_team"]
        yield Row("games", {**values, "game_type": _phase(min(played[side] for side in sides), end)}, path.name, line)
        played.update(sides)


def _game(row: Mapping[str, Any], season: int) -> dict[str, Any]:
    try:
        start = datetime.fromisoformat(str(row["start_time"]))
    except ValueError:
        raise BadRowError(f"start_time is no time like 2017-10-18 00:01:00+00:00 ({row['start_time']!r})") from None
    if start.tzinfo is None:
        raise BadRowError(f"start_time does not say in which zone it is ({row['start_time']!r})")
    day = start.astimezone(EASTERN).date()
    if season_of(day.isoformat()) != season:
        raise BadRowError(f"a game of {day} is not of season {season}")
    names = str(row["home_team"]), str(row["away_team"])
    home, away = (code_of(name, season) for name in names)
    return {
        "game_id": game_id(day.isoformat(), home),
        "game_date": day.isoformat(),
        "season": season,
        "home_team": home,
        "away_team": away,
        "home_team_name": names[0].title(),
        "away_team_name": names[1].title(),
        "home_score": whole(row, "home_team_score"),
        "away_score": whole(row, "away_team_score"),
        "num_overtime_periods": None,  # not 0: a schedule does not say
    }


def _phase(fewest: int, season: int) -> str | None:
    """The phase of a game before which its sides had played so many games; None where that does not tell."""
    whole_season = SHORT_SEASONS.get(season, WHOLE_SEASON)
    if whole_season is None:
        return None
    return "Playoffs" if fewest >= whole_season else "Regular Season"

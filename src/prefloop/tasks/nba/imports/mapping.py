"""Any CSV table, with a mapping file that says what its columns are (docs/task-nba.md has an example)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prefloop.errors import ConfigError
from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.franchises import code_from, code_of
from prefloop.tasks.nba.imports.lines import COUNTS, played, sat_out, seconds_of, with_totals
from prefloop.tasks.nba.imports.rows import Played, Row, day_of, game_id, shooting
from prefloop.tasks.nba.imports.seasons import Form, one_form, season_from, season_of
from prefloop.tasks.nba.imports.tables import read_table, rows_from
from prefloop.tasks.nba.imports.typed import column_types, typed

RANKS = {"games": 0, "team_box_scores": 1, "player_box_scores": 2, "game_play_by_play": 3}
TEAMS = ("home_team", "away_team", "team", "offensive_team", "defensive_team")
FOLLOWS = {
    *("id", "field_goal_pct", "three_point_pct", "free_throw_pct", "true_shooting_pct", "effective_fg_pct"),
    *("minutes_decimal", "game_score", "double_double", "triple_double", "score_diff"),
}
"""Columns that the import works out itself."""
NEEDED = {
    "games": ("season", "home_team", "away_team", "home_score", "away_score"),
    "team_box_scores": ("team", "points"),
    "player_box_scores": ("team", "player_name"),
    "game_play_by_play": ("event_number", "quarter"),
}


class Season(BaseModel):
    """Where a game's season stands, and how it is written."""

    model_config = ConfigDict(extra="forbid")

    column: str
    form: Form


class MappingFile(BaseModel):
    """What a table's columns are."""

    model_config = ConfigDict(extra="forbid")

    table: Literal["games", "team_box_scores", "player_box_scores", "game_play_by_play"]
    columns: dict[str, str] = Field(min_length=1)
    """Column of the schema: column of the file. ``game_date`` may stand in every table, in place of ``game_id``."""
    constants: dict[str, str | int | float] = {}
    """Column of the schema: the value that all rows have."""
    season: Season | None = None
    date_format: str = "%Y-%m-%d"
    """As Python's strptime reads it."""
    teams: dict[str, str] = {}
    """What the file calls a team: its Basketball-Reference code."""

    @property
    def rank(self) -> int:
        """Which files are read before this one."""
        return RANKS[self.table]

    @property
    def source_columns(self) -> list[str]:
        """Columns that the file must have."""
        return [*self.columns.values(), *([self.season.column] if self.season else [])]


def load_mapping(path: Path) -> MappingFile:
    """Read and check a mapping file.

    Raises:
        ConfigError: it cannot be read, or means nothing; with all findings at once.
    """
    try:
        found = MappingFile.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        said = [f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()]
        raise ConfigError(f"{path} is no mapping file:\n  " + "\n  ".join(said)) from None
    if findings := list(_findings(found)):
        raise ConfigError(f"{path} cannot mean anything:\n  " + "\n  ".join(findings))
    return found


def _findings(found: MappingFile) -> Iterator[str]:
    known = {*column_types()[found.table], "game_date"}
    given = {**found.columns, **found.constants}
    for name in sorted(given):
        if name not in known:
            yield f"{name} is no column of {found.table}"
        elif name in FOLLOWS:
            yield f"{name} follows from the other columns: leave it out"
    for name in sorted(set(found.columns) & set(found.constants)):
        yield f"{name} is both a column and a constant"
    if "season" in given:
        yield "season: give it as season: {column: …, form: …}, so that its form is known"
    if found.season and found.table != "games":
        yield f"season belongs to games: {found.table} finds its season by its game"
    named = {*given, *(("season",) if found.season else ())}
    for name in NEEDED[found.table]:
        if name not in named:
            yield f"{name} is missing: {found.table} cannot be without it"
    if found.table == "games" and "game_date" not in given:
        yield "game_date is missing"
    if found.table != "games" and "game_id" not in given and not {"game_date", "team"} <= set(given):
        yield "nothing says the game: give game_id, or game_date and team"
    if found.table == "game_play_by_play" and "game_id" not in given:
        yield "game_id is missing: a play-by-play finds its game by that alone"
    if "%" not in found.date_format:
        yield f"date_format is none like %d/%m/%Y ({found.date_format!r})"
    for name, code in sorted(found.teams.items()):
        if not (len(code) == 3 and code.isalpha() and code.isupper()):
            yield f"teams: {name} is no code of three capitals ({code!r})"


def read_mapped(path: Path, mapping: MappingFile, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Rows of a table as its mapping says.

    Raises:
        DataError: the file is missing, lacks columns, or labels its seasons in several ways.
    """
    what = f"table as the mapping says ({mapping.table})"
    if mapping.season:
        one_form(path, _labels(path, mapping, what, encoding))

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        values: dict[str, Any] = {name: row[column] for name, column in mapping.columns.items()}
        values |= {name: str(value) for name, value in mapping.constants.items()}
        day = _day(values.pop("game_date"), mapping) if "game_date" in values else None
        yield replace(_row(mapping, row, values, day), file=path.name, line=line)

    yield from rows_from(read_table(path, mapping.source_columns, what, encoding), path.name, rows)


def _row(mapping: MappingFile, row: Mapping[str, str], values: dict[str, Any], day: str | None) -> Row:
    told = re.fullmatch(r"(\d{4})(\d{2})(\d{2})0[A-Z]{3}", str(values.get("game_id", "")))
    when = day or (day_of("-".join(told.groups()), "game_id") if told else None)
    season = season_of(when) if when else None
    minutes = values.pop("minutes_played", None)
    found = typed(mapping.table, values)
    for name in TEAMS:
        if found.get(name):
            found[name] = _team(found[name], mapping, season)
    for name in NEEDED[mapping.table]:
        if name != "season" and found.get(name) is None:
            raise BadRowError(f"{name} is missing")
    game = None
    match mapping.table:
        case "games":
            label = row[mapping.season.column] if mapping.season else ""
            found = _game(
                found, day or "", season_from(label, day or "", mapping.season.form if mapping.season else "end_year")
            )
        case "team_box_scores":
            found |= shooting(with_totals(found))
        case "player_box_scores":
            found = _player(found, minutes)
    if mapping.table != "games" and not found.get("game_id"):
        found.pop("game_id", None)
        game = Played(day or "", found["team"])
    return Row(mapping.table, found, "", 0, game)


def _game(found: dict[str, Any], day: str, season: int) -> dict[str, Any]:
    identity = game_id(day, found["home_team"])
    if found.get("game_id") not in (None, identity):
        raise BadRowError(f"game_id is not that of a game of {day} of {found['home_team']} ({found['game_id']!r})")
    return {**found, "game_id": identity, "game_date": day, "season": season}


def _player(found: dict[str, Any], minutes: str | None) -> dict[str, Any]:
    if found.get("did_not_play"):
        counted = sat_out(found.get("dnp_reason"))
    else:
        given = {name: found.get(name) for name in COUNTS}
        starter = found.get("is_starter")
        seconds = seconds_of(minutes, "minutes_played")
        counted = played(given, seconds, found.get("plus_minus"), None if starter is None else bool(starter))
    return {**found, **counted}


def _day(text: str, mapping: MappingFile) -> str:
    try:
        return datetime.strptime(text.strip(), mapping.date_format).date().isoformat()
    except ValueError:
        raise BadRowError(f"game_date is not written as {mapping.date_format} ({text!r})") from None


def _team(name: str, mapping: MappingFile, season: int | None) -> str:
    """A code: of the map, else a Basketball-Reference or NBA code, else a full name."""
    if name in mapping.teams:
        return mapping.teams[name]
    if name in mapping.teams.values():
        return name
    try:
        return code_from(name, season or 9999)
    except BadRowError:
        return code_of(name, season or 9999)


def _labels(path: Path, mapping: MappingFile, what: str, encoding: str | None) -> Iterator[tuple[int, str, str]]:
    for read in read_table(path, mapping.source_columns, what, encoding):
        if isinstance(read, BadRow):
            continue
        line, row = read
        try:
            day = _day(row[mapping.columns["game_date"]], mapping)
        except (BadRowError, KeyError):  # told when the row is read; or all are of one constant day
            continue
        yield line, row[mapping.season.column] if mapping.season else "", day

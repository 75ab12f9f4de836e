"""What a file is, by what it holds, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError
from prefloop.store.rows import BadRow
from prefloop.tasks.nba.imports import basketball_reference as schedules
from prefloop.tasks.nba.imports import basketball_reference_boxes as boxes
from prefloop.tasks.nba.imports import basketball_reference_events as lines
from prefloop.tasks.nba.imports import (
    hoopr,
    hoopr_boxes,
    hoopr_events,
    mapping,
    pbpstats,
    pbpstats_events,
    pbpstats_games,
    sqlite,
)
from prefloop.tasks.nba.imports.postgres import Server, read_server
from prefloop.tasks.nba.imports.rows import Remark, Row
from prefloop.tasks.nba.imports.tables import columns_of, given_day, known_encoding

Rows = Iterator[Row | BadRow | Remark]
READ = (
    "game logs, summaries, box scores and play-by-play of pbpstats or nba_api (.json), Basketball-Reference-style or "
    "hoopR tables (.csv), any table with --mapping, a Basketball-Reference-style database (.sqlite), postgresql://…"
)
DATABASES = (".sqlite", ".sqlite3", ".db")
SUFFIXES = (".csv", ".json", *DATABASES)
"""Of the files of a folder that are looked at."""
OTHERS = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip"), "is compressed: unpack it first"),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "is a spreadsheet: save its table as CSV (UTF-8)"),
    **dict.fromkeys((".parquet", ".rds", ".feather"), "is not read: save its table as CSV (UTF-8)"),
}
"""What to do about files that people have in place of these."""
MAPPING, PLAYER = "--mapping", "--player"
GAMES, TEAMS, PLAYERS, EVENTS = range(4)
"""What a file brings first; files that bring games are read before those whose rows belong to games."""


@dataclass(frozen=True)
class Options:
    """What files do not say of themselves."""

    season: int | None = None
    """End year."""
    date: str | None = None
    player: str | None = None
    encoding: str | None = None
    mapping: Path | None = None

    def given(self) -> dict[str, str]:
        """Those that are set, by the name that the command line gives them."""
        return {f"--{name}": str(value) for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    read: Callable[[Any, Options], Rows]
    rank: int
    uses: tuple[str, ...] = ()
    """Options that change what is read of it."""


def _csv(read: Callable[..., Rows], rank: int, option: str | None = None) -> Kind:
    """A kind of table, of which an option may say what it does not say itself."""

    def rows(path: Path, options: Options) -> Rows:
        more = {option: getattr(options, option)} if option else {}
        return read(path, encoding=options.encoding, **more)

    return Kind(rows, rank, ("--encoding", *([f"--{option}"] if option else [])))


TABLES: tuple[tuple[Iterable[str], Kind], ...] = (
    (schedules.SCHEDULE[:2], _csv(schedules.read_schedule, GAMES, "season")),
    (("made_field_goals", "minutes_played", "outcome"), _csv(boxes.read_team_boxes, TEAMS, "date")),
    (("slug", "name", "seconds_played", "location"), _csv(boxes.read_player_boxes, PLAYERS, "date")),
    (("active", "seconds_played", "points_scored"), _csv(boxes.read_player_log, PLAYERS, "player")),
    (("period_type", "remaining_seconds_in_period"), _csv(lines.read_events, EVENTS, "date")),
    (("athlete_display_name",), _csv(hoopr_boxes.read_player_boxes, PLAYERS)),
    (("team_home_away",), _csv(hoopr_boxes.read_team_boxes, GAMES)),
    (("home_id", "away_id"), _csv(hoopr.read_schedule, GAMES)),
    (("sequence_number", "type_text"), _csv(hoopr_events.read_events, EVENTS)),
)
"""Columns that tell a kind of table, in the order in which they are looked for."""
DATED = tuple(kind for _, kind in TABLES if "--date" in kind.uses)
"""Tables of one day, which the file's name may say."""
SEASONS = ({"games_played"}, {"wins", "losses"})
"""Columns of totals and of standings."""


def _json(read: Callable[..., Rows], rank: int, dated: bool = False) -> Kind:
    def rows(path: Path, options: Options) -> Rows:
        return read(path, date=options.date) if dated else read(path)

    return Kind(rows, rank, ("--date",) if dated else ())


SETS: tuple[tuple[str, Kind], ...] = (
    ("GameSummary", _json(pbpstats_games.read_summary, GAMES)),
    ("PlayerStats", _json(pbpstats_games.read_box_score, PLAYERS, dated=True)),
    ("PlayByPlay", _json(pbpstats_events.read_events, EVENTS, dated=True)),
)
"""Tables in a file of the NBA's statistics that tell its kind; without any it is a game log."""
GAME_LOG = _json(pbpstats.read_game_log, GAMES)
DATABASE = Kind(lambda path, _: sqlite.read_league(path), GAMES)
SERVER = Kind(lambda server, options: read_server(server, options.season), GAMES, ("--season",))


def read_source(path: Path, options: Options | None = None) -> Rows:
    """Rows of a file whose kind is told by what it holds.

    Raises:
        DataError: it is none that can be read; says which can.
        ConfigError: it does not say what it needs, and no option does.
    """
    found = options or Options()
    return kind_of(path, found).read(path, found)


def kind_of(path: Path | Server, options: Options) -> Kind:
    """What a file is, or a server.

    Raises:
        DataError: it is none that can be read; says which can.
    """
    if isinstance(path, Server):
        return SERVER
    if not path.is_file():
        raise DataError(f"{path} does not exist: check its name and folder")
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return _table_kind(path, options)
    if suffix == ".json":
        sets = pbpstats.result_sets(path, "file of the NBA's statistics")
        found = next((kind for name, kind in SETS if name in sets), None)
        if found is None:
            pbpstats.needed(path, next(iter(sets.values())), pbpstats.NEEDED, "game log of teams")
        return found or GAME_LOG
    if suffix in DATABASES:
        sqlite.require_games(path)
        return DATABASE
    if suffix in OTHERS:
        raise DataError(f"{path} {OTHERS[suffix]}")
    raise DataError(f"{path}: unknown file type '{path.suffix}'; give {READ}")


def _table_kind(path: Path, options: Options) -> Kind:
    known_encoding(options.encoding)
    if options.mapping is not None:
        plan = mapping.load_mapping(options.mapping)
        kind = _csv(partial(mapping.read_mapped, mapping=plan), plan.rank)
        return replace(kind, uses=(*kind.uses, MAPPING))
    columns = columns_of(path, options.encoding)
    if not columns:
        raise DataError(f"{path} holds no row below a line of column names: fetch or save it again")
    if len(columns) == 1 and (cut := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        raise DataError(f"{path} parts its cells by {cut!r}: save it as CSV with commas")
    for needed, kind in TABLES:
        if set(needed) <= set(columns):
            return kind
    if any(told <= set(columns) for told in SEASONS):
        raise DataError(f"{path} holds sums of whole seasons: a league is made of games, of which these say nothing")
    raise DataError(
        f"{path} has columns {', '.join(columns[:6]) or '(none)'}: give {READ}; --mapping FILE says what they mean"
    )


def row_count(path: Path) -> int:
    """Rows that a file has, for its progress; 0 where they cannot be counted."""
    suffix = path.suffix.lower()
    if suffix == ".csv":
        return max(0, _line_count(path) - 1)
    if suffix == ".json":
        return sum(map(len, pbpstats.result_sets(path, "file of the NBA's statistics").values()))
    return sqlite.row_count(path)


def _line_count(path: Path) -> int:
    """Lines, which end in a line feed or, where a file has none of these, in a carriage return."""
    feeds, returns, last = 0, 0, b"\n"
    with path.open("rb") as handle:
        for chunk in iter(lambda: handle.read(1 << 20), b""):
            feeds, returns, last = feeds + chunk.count(b"\n"), returns + chunk.count(b"\r"), chunk[-2:]
    return (feeds or returns) + (last.rstrip(b"\0")[-1:] not in b"\n\r")  # in UTF-16 a zero may follow


def refuse_options(kinds: Mapping[Path | Server, Kind], options: Options) -> None:
    """Refuse options that change nothing, or that contradict what a file says itself.

    Raises:
        ConfigError: no file uses one of them, or a file's name says another day.
    """
    used = {name for kind in kinds.values() for name in kind.uses}
    if idle := [name for name in options.given() if name not in used]:
        raise ConfigError(f"{', '.join(idle)} has no effect on these files: leave it out")
    given_day(options.date)
    for path, kind in kinds.items():
        if options.date and kind in DATED and isinstance(path, Path):
            boxes.day_of_file(path, options.date)

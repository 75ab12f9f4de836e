"""Real seasons from a PostgreSQL server that keeps ESPN's box scores (``games``, ``box_score_*``) and hoopR's tables.

All tables are read in one read-only transaction, by a role that can only read and under its statement time-out, into
files of a temporary folder; the readers of files take them from there. Rows are counted in the order of ``game_id``.
A season comes from one source alone, the one with more games of it: both hold the same games under one number.
"""

from __future__ import annotations

import csv
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError
from prefloop.progress import progress
from prefloop.sql.postgres import connect_readonly, read_address
from prefloop.store.rows import BadRow
from prefloop.tasks.nba.imports import hoopr, hoopr_boxes, hoopr_events
from prefloop.tasks.nba.imports.postgres_boxes import read_wide_boxes
from prefloop.tasks.nba.imports.rows import Remark, Row, day_of
from prefloop.tasks.nba.imports.seasons import season_of

if TYPE_CHECKING:
    import psycopg

ESPN, HOOPR = "box_score_teams", "hoopr_team_box"
"""The tables by which a season's source is chosen."""
SHOWN = {HOOPR: "hoopr_*", ESPN: "games and box_score_*"}
TABLES = ("games", ESPN, "box_score_players", "players", "hoopr_schedule", HOOPR, "hoopr_player_box")
EVENTS = "hoopr_play_by_play"
"""Thirteen million rows of all seasons: read of one season alone."""
ROWS_PER_FETCH = 2_000
INFLATED = range(2013, 2025)
"""Seasons in which hoopr_player_box is known to count too much."""

GAMES_NEEDED = ("game_id", "game_date", "home_team_abbrev", "away_team_abbrev", "home_score", "away_score")
GAMES_WANTED = ("home_team_name", "away_team_name", "venue", "venue_city", "periods", "completed")
PLAYER_COLUMNS = (
    *("game_id", "game_date", "athlete_id", "athlete_display_name", "team_abbreviation", "starter", "minutes"),
    *("field_goals", "three_point_field_goals", "free_throws", "offensive_rebounds", "defensive_rebounds"),
    *("total_rebounds", "assists", "steals", "blocks", "turnovers", "fouls", "plus_minus", "points"),
)
NO_MINUTES = frozenset(["", "0", "00", "0:00", "00:00", "--", "None"])
Rows = Iterator[Row | BadRow | Remark]


@dataclass(frozen=True)
class Server:
    """A database to import from, whose name in messages has no password."""

    url: str = field(repr=False)

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"postgresql://{read_address(self.url).shown}"

    def __str__(self) -> str:
        return self.name


def read_server(server: Server, season: int | None = None) -> Rows:
    """Rows of the four tables of games.

    Args:
        season: end year of the only season to read, then with its play-by-play.

    Raises:
        DataError: it cannot be reached, its role may do more than read, it has none of the tables, or a table lacks
            columns.
    """
    import psycopg

    with tempfile.TemporaryDirectory(prefix="prefloop-import-") as folder:
        try:
            with connect_readonly(server.url) as connection:
                found = _Spool(connection, Path(folder), season)
                found.write(server)
        except psycopg.errors.QueryCanceled as error:
            raise DataError(
                f"{server} took longer than its role's statement_timeout: raise that, or read one --season"
            ) from error
        except psycopg.Error as error:
            raise DataError(f"{server} could not be read: {str(error).splitlines()[0]}") from error
        yield from (Remark(server.name, text) for text in found.remarks)
        try:
            yield from _read(Path(folder))
        except DataError as error:  # a table is known by its name, not by where its copy was
            raise DataError(str(error).replace(f"{folder}/", "table ")) from error


def _read(folder: Path) -> Rows:
    """Games first, then what belongs to them."""
    readers: tuple[tuple[str, Callable[[Path], Rows]], ...] = (
        (HOOPR, hoopr_boxes.read_team_boxes),
        (ESPN, read_wide_boxes),
        ("hoopr_schedule", hoopr.read_schedule),
        ("hoopr_player_box", hoopr_boxes.read_player_boxes),
        ("box_score_players", hoopr_boxes.read_player_boxes),
        (EVENTS, hoopr_events.read_events),
    )
    for table, read in readers:
        if (folder / table).exists():
            yield from read(folder / table)


class _Spool:
    """Tables on their way into files that are called like them."""

    def __init__(self, connection: psycopg.Connection[Any], folder: Path, season: int | None) -> None:
        from prefloop.sql.postgres_values import load_plainly

        load_plainly(connection)
        self.connection, self.folder, self.season = connection, folder, season
        self.columns = {table: names for table in (*TABLES, EVENTS) if (names := self._columns_of(table))}
        self.remarks: list[str] = []
        self.sources: dict[int, str] = {}
        """Which table a season comes from."""

    def write(self, server: Server) -> None:
        """Every table that is there and has rows to give.

        Raises:
            DataError: there is none, or one lacks columns.
        """
        if not {"games", HOOPR, "hoopr_schedule"} & self.columns.keys():
            raise DataError(
                f"{server} has no table games, {HOOPR} or hoopr_schedule that its role may read: GRANT SELECT ON them, "
                "and set the role's search_path to their schema"
            )
        self._choose()
        with progress("read", sum(table in self.columns for table in (*TABLES, EVENTS)), "tables") as advance:
            for table in self.columns:
                match table:
                    case "games":
                        self._games()
                    case "box_score_players":
                        self._players()
                    case "hoopr_schedule" | "hoopr_team_box" | "hoopr_player_box":
                        self._copy(table, lambda season: self.sources.get(season, HOOPR) == HOOPR)
                    case "hoopr_play_by_play" if self.season:
                        self._copy(table, lambda season: True)  # events have ESPN's numbers, whoever brought the games
                advance(1)
        if EVENTS in self.columns and not self.season:
            self.remarks.append(f"{EVENTS} is read with --season alone")
        if "hoopr_player_box" in self.columns and any(self.sources.get(one) == HOOPR for one in INFLATED):
            self.remarks.append(
                "hoopr_player_box is known to count too much in 2013 to 2024: see prefloop league check"
            )

    def _choose(self) -> None:
        """The source of each season, told where there were two."""
        counts: dict[str, Counter[int]] = {}
        over = " WHERE completed IS NOT FALSE" if "completed" in self.columns.get("games", ()) else ""
        for source, table, condition in ((HOOPR, HOOPR, ""), (ESPN, "games", over)):
            counts[source] = Counter()
            if table in self.columns:
                query = f"SELECT game_date, COUNT(DISTINCT game_id) FROM {table}{condition} GROUP BY 1"
                for day, games in self.connection.execute(query):
                    if (of := _season(day)) and self.season in (None, of):
                        counts[source][of] += games
        for season in sorted(counts[HOOPR].keys() | counts[ESPN].keys()):
            first, second = sorted(counts, key=lambda source: -counts[source][season])  # of equal ones hoopR's
            self.sources[season] = first
            if counts[second][season]:
                self.remarks.append(
                    f"season {season} is taken from {SHOWN[first]} ({counts[first][season]:,} games), not from "
                    f"{SHOWN[second]} ({counts[second][season]:,}): one source a season"
                )

    def _games(self) -> None:
        """``games`` with the wide row of each, and the phase where hoopR's schedule says it."""
        from psycopg.sql import Identifier

        if missing := [name for name in GAMES_NEEDED if name not in self.columns["games"]]:
            raise DataError(f"the table games lacks columns: {', '.join(missing)}")
        wanted = [f"g.{name}" for name in (*GAMES_NEEDED, *GAMES_WANTED) if name in self.columns["games"]]
        if "season" in self.columns["games"]:
            wanted.append("g.season::text AS season")
        joins = ""
        if ESPN in self.columns:
            joins += f" LEFT JOIN {ESPN} b ON b.game_id::text = g.game_id::text"
            ours = {name.partition(".")[2] for name in wanted}
            parts = [name for name in self.columns[ESPN] if name not in ours and name != "season"]
            wanted += [Identifier("b", name).as_string(self.connection) for name in parts]
        if "hoopr_schedule" in self.columns:
            joins += " LEFT JOIN hoopr_schedule s ON s.game_id::text = g.game_id::text"
            wanted.append("s.season_type AS season_type")
        query = f"SELECT {', '.join(wanted)} FROM games g{joins} ORDER BY g.game_id"
        self._rows(ESPN, query, lambda row: row if self._takes(row, ESPN) else None)

    def _players(self) -> None:
        """``box_score_players`` in hoopR's columns; names by number from ``players`` and hoopR."""
        if "games" not in self.columns:
            return
        names = [
            f"SELECT {number}::text AS id, MIN({name}) AS name FROM {table} GROUP BY 1"
            for table, number, name in (
                ("players", "player_id", "player_name"),
                ("hoopr_player_box", "athlete_id", "athlete_display_name"),
            )
            if {number, name} <= set(self.columns.get(table, ()))
        ]
        if not names:
            self.remarks.append("box_score_players is left out: neither players nor hoopr_player_box names its players")
            return
        has = self.columns["box_score_players"]
        renamed = {
            "three_point_field_goals": "three_pointers",
            "starter": "is_starter",
            "team_abbreviation": "team_abbrev",
        }
        counts = [
            f"p.{renamed.get(name, name)} AS {name}" for name in PLAYER_COLUMNS[4:] if renamed.get(name, name) in has
        ]
        query = (
            f"WITH names AS (SELECT id, MIN(name) AS name FROM ({' UNION ALL '.join(names)}) n GROUP BY 1) SELECT "
            f"g.game_id, g.game_date, p.player_id AS athlete_id, n.name AS athlete_display_name, {', '.join(counts)} "
            "FROM box_score_players p JOIN games g ON g.game_id::text = p.game_id::text "
            "LEFT JOIN names n ON n.id = p.player_id::text ORDER BY p.game_id, p.player_id"
        )
        nameless = 0

        def player(row: dict[str, Any]) -> dict[str, Any] | None:
            nonlocal nameless
            if not self._takes(row, ESPN):
                return None
            if not row["athlete_display_name"]:
                nameless += 1
                return None
            sat = str(row.get("minutes") or "").strip() in NO_MINUTES and not any(
                str(row.get(name) or "0") not in ("0", "0-0") for name in PLAYER_COLUMNS[7:]
            )
            return {**row, "season": _season(row["game_date"]), "season_type": "2", "did_not_play": int(sat)}

        self._rows("box_score_players", query, player)
        if nameless:
            self.remarks.append(f"left out {nameless:,} rows of box_score_players: nothing names their players")

    def _copy(self, table: str, takes: Callable[[int], bool]) -> None:
        """A table of hoopR's as it is, of the seasons that it gives."""

        def kept(row: dict[str, Any]) -> dict[str, Any] | None:
            season = _season(row.get("game_date"))
            wanted = season is None or (self.season in (None, season) and takes(season))
            return row if wanted else None  # a day that cannot be read is told by the file's reader

        condition = ""
        if self.season and table == EVENTS and "season" in self.columns[table]:
            condition = f" WHERE season::text = '{self.season:d}'"
        self._rows(table, f"SELECT * FROM {table}{condition} ORDER BY game_id", kept)

    def _takes(self, row: Mapping[str, Any], source: str) -> bool:
        season = _season(row["game_date"])
        return season is None or self.sources.get(season) == source

    def _rows(self, table: str, query: str, kept: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        """What `kept` leaves of a query's rows, a file that is not there without any."""
        with self.connection.cursor(name="import", scrollable=False) as cursor:
            cursor.itersize = ROWS_PER_FETCH
            cursor.execute(query)
            names = [column.name for column in cursor.description or ()]
            _write(
                self.folder / table, (row for values in cursor if (row := kept(dict(zip(names, values, strict=True)))))
            )

    def _columns_of(self, table: str) -> list[str]:
        """Names of a table's columns; none where it is missing or may not be read."""
        may = "SELECT COALESCE(has_table_privilege(to_regclass(%s), 'SELECT'), false)"
        if not (self.connection.execute(may, [table]).fetchone() or [0])[0]:
            return []
        shape = self.connection.execute(f"SELECT * FROM {table} LIMIT 0").description
        return [column.name for column in shape or ()]


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    writer = None
    with path.open("w", encoding="utf-8", newline="") as handle:
        for row in rows:
            if writer is None:
                writer = csv.DictWriter(handle, list(row))
                writer.writeheader()
            writer.writerow(row)
    if writer is None:
        path.unlink()


def _season(day: Any) -> int | None:
    """The season of a day or time; None where it is none."""
    try:
        return season_of(day_of(str(day)[:10], "game_date"))
    except ValueError:
        return None

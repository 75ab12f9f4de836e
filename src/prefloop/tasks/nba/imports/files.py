"""Many files into one league: each whole or not at all, and none read again that is finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.progress import Advance, progress
from prefloop.records import content_id
from prefloop.sql.databases import database_stamp
from prefloop.sql.postgres import is_postgres
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import cache_folder, file_hash
from prefloop.tasks.nba.imports.merge import merge_rows, reading
from prefloop.tasks.nba.imports.postgres import Server
from prefloop.tasks.nba.imports.record import READERS_VERSION, Source, finished
from prefloop.tasks.nba.imports.rows import Remark
from prefloop.tasks.nba.imports.sources import (
    DATABASE,
    MAPPING,
    PLAYER,
    READ,
    SUFFIXES,
    Kind,
    Options,
    Rows,
    kind_of,
    refuse_options,
    row_count,
)

ADVANCED_AT_ONCE = 500
"""Rows; to show each costs more than to read it."""


@dataclass(frozen=True)
class Imported:
    """What became of one file."""

    path: Path | Server
    report: dict[str, Any]
    """`Merged.row`, or ``{"failed": reason}`` where nothing of it could be taken, or ``{"left_out": reason}`` of a file
    in a folder that holds no games."""
    before: bool = False
    """An earlier import finished it; it was not read again."""

    @property
    def failed(self) -> str | None:
        """Why nothing of it could be taken."""
        return self.report.get("failed")

    @property
    def left_out(self) -> str | None:
        """Why a file of a folder was not read."""
        return self.report.get("left_out")


def import_files(paths: Sequence[Path | str], league: Path, options: Options | None = None) -> list[Imported]:
    """Put files of real games, and what PostgreSQL servers have of them, into a league, those that bring games first.

    Every file's kind is told before the first is read, so that a wrong one changes nothing; of a folder the files that
    hold games are taken. A file is then taken whole or not at all, and recorded in the league with the options it was
    read with: killed at any moment, the same call goes on with the next. A file of which nothing can be taken is
    reported, and the others go on.

    Raises:
        DataError: a file is none that can be read, a folder has none, or the league is none.
        ConfigError: an option has no effect, or contradicts what a file's name says.
        StoreError: the league cannot be written.
    """
    given = options or Options()
    kinds, found = _kinds(dict.fromkeys(paths), league, given)
    refuse_options(kinds, given)
    if league.exists():
        with reading(league):
            pass  # it is a league
    done, names = finished(league), dict[Path | Server, str | None]()
    for path in sorted(kinds, key=lambda path: kinds[path].rank):  # stable: the order given within a rank
        try:
            names[path] = identity(path, kinds[path], given)
        except DataError as error:
            found.append(_failed(path, error))
    sizes = {path: row_count(path) for path in names if isinstance(path, Path)}
    before = sum(size for path, size in sizes.items() if names[path] in done)
    shown = progress("import", sum(sizes.values()), "rows", before) if sizes else nullcontext(lambda n: None)
    with shown as advance:  # a server alone shows its own
        for path, name in names.items():
            if name in done:
                found.append(Imported(path, done[name], before=True))
                continue
            rows = _counted(kinds[path].read(path, given), sizes.get(path, 0), advance)
            try:
                merged = merge_rows(rows, league, Source(name, path.name) if name else None)
                found.append(Imported(path, merged.row()))
            except DataError as error:
                found.append(_failed(path, error))
    return found


def _kinds(
    paths: Iterable[Path | str], league: Path, options: Options
) -> tuple[dict[Path | Server, Kind], list[Imported]]:
    """What is to be read, by its kind, and what of folders is not; the league itself may lie in one."""
    kinds: dict[Path | Server, Kind] = {}
    left: list[Imported] = []
    for path in paths:
        if is_postgres(path) or not Path(path).is_dir():
            place = Server(str(path)) if is_postgres(path) else Path(path)
            kinds[place] = kind_of(place, options)
            continue
        before = len(kinds)
        for file in sorted(Path(path).rglob("*")):
            if not file.is_file() or file.suffix.lower() not in SUFFIXES or file.resolve() == league.resolve():
                continue
            try:
                kind = kind_of(file, options)
            except DataError as error:
                left.append(Imported(file, {"left_out": str(error)}))
                continue
            if PLAYER in kind.uses:  # one name cannot be that of all logs in a folder
                left.append(Imported(file, {"left_out": f"{file} is a player's log: import it alone, with {PLAYER}"}))
            else:
                kinds[file] = kind
        if len(kinds) == before:
            raise DataError(f"{path} is a folder without a file that can be read: give {READ}")
    return kinds, left


def _failed(path: Path | Server, error: DataError) -> Imported:
    reason = str(error)
    return Imported(path, {"failed": reason if str(path) in reason else f"{path}: {reason}"})


def _counted(rows: Rows, size: int, advance: Advance) -> Rows:
    """The rows of a file, counted as they go; several that a reader makes of one line are one."""
    seen, told, last = 0, 0, -1
    try:
        for row in rows:
            yield row
            if not isinstance(row, Remark) and row.line != last and seen < size:
                seen, last = seen + 1, row.line
                if seen - told == ADVANCED_AT_ONCE:
                    advance(ADVANCED_AT_ONCE)
                    told = seen
    finally:
        advance(size - told)  # what was left out, or not read for a fault, is done too


def identity(path: Path | Server, kind: Kind, options: Options) -> str | None:
    """Content id of a file, its name, which may say its day, and the options that say what it does not.

    None for a server that holds too much to be hashed: it is read again each time.
    """
    given = {key: value for key, value in options.given().items() if key in kind.uses}
    if options.mapping and MAPPING in given:
        given[MAPPING] = file_hash(options.mapping)
    if isinstance(path, Server):
        contents = database_stamp(path.url)
    else:  # beside a database a writer's changes may stand
        contents = file_hash(snapshot(path, cache_folder() / "databases") if kind is DATABASE else path)
    return contents and content_id("import", READERS_VERSION, contents, path.name, given)

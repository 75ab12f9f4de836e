"""Many files into one league: each whole or not at all, and none read again that is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.sql.databases import database_stamp
from prefloop.sql.postgres import is_postgres
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import cache_folder, file_hash
from prefloop.tasks.nba.imports.merge import merge_rows, reading
from prefloop.tasks.nba.imports.postgres import Server
from prefloop.tasks.nba.imports.record import READERS_VERSION, Source, finished
from prefloop.tasks.nba.imports.sources import DATABASE, MAPPING, Kind, Options, kind_of, refuse_idle


@dataclass(frozen=True)
class Imported:
    """What became of one file."""

    path: Path | Server
    report: dict[str, Any]
    """`Merged.row`, or ``{"failed": reason}`` where nothing of it could be taken."""
    before: bool = False
    """An earlier import finished it; it was not read again."""

    @property
    def failed(self) -> str | None:
        """Why nothing of it could be taken."""
        return self.report.get("failed")


def import_files(paths: Sequence[Path | str], league: Path, options: Options | None = None) -> list[Imported]:
    """Put files of real games, and what PostgreSQL servers have of them, into a league, those that bring games first.

    Every file's kind is told before the first is read, so that a wrong one changes nothing. A file is then taken whole
    or not at all, and recorded in the league with the options it was read with: killed at any moment, the same call
    goes on with the next. A file of which nothing can be taken is reported, and the others go on.

    Raises:
        DataError: a file is none that can be read, or the league is none.
        ConfigError: an option has no effect, or one is missing.
        StoreError: the league cannot be written.
    """
    given = options or Options()
    places = (Server(str(path)) if is_postgres(path) else Path(path) for path in dict.fromkeys(paths))
    kinds = {place: kind_of(place, given) for place in places}
    refuse_idle(kinds.values(), given)
    if league.exists():
        with reading(league):
            pass  # it is a league
    done, found = finished(league), []
    with progress("import", len(kinds), "files") as advance:
        for path in sorted(kinds, key=lambda path: kinds[path].rank):  # stable: the order given within a rank
            found.append(_imported(path, kinds[path], given, league, done))
            advance(1)
    return found


def _imported(
    path: Path | Server, kind: Kind, options: Options, league: Path, done: dict[str, dict[str, Any]]
) -> Imported:
    try:
        name = identity(path, kind, options)
        if name in done:
            return Imported(path, done[name], before=True)
        source = Source(name, path.name) if name else None
        return Imported(path, merge_rows(kind.read(path, options), league, source).row())
    except DataError as error:
        return Imported(path, {"failed": str(error)})


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

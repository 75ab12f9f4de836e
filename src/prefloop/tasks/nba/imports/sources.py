"""What a file is, by what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prefloop.errors import DataError
from prefloop.store.rows import BadRow, read_csv
from prefloop.tasks.nba.imports.basketball_reference import is_schedule, read_schedule
from prefloop.tasks.nba.imports.pbpstats import read_game_log
from prefloop.tasks.nba.imports.rows import Row

READ = "a game log of pbpstats or nba_api (.json), or a Basketball-Reference-style schedule (.csv)"


def read_source(path: Path, season: int | None = None) -> Iterator[Row | BadRow]:
    """Rows of a file whose kind is told by its columns.

    Args:
        season: end year, for files that do not say it.

    Raises:
        DataError: it is none that can be read; says which can.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give {READ}")
    match path.suffix.lower():
        case ".json":
            return read_game_log(path)
        case ".csv":
            columns = next((list(row) for _, row in read_csv(path)), [])
            if is_schedule(columns):
                return read_schedule(path, season)
            raise DataError(f"{path} has columns {', '.join(map(str, columns[:6])) or '(none)'}: give {READ}")
    raise DataError(f"{path}: unknown file type '{path.suffix}'; give {READ}")

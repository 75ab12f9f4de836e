"""A frozen copy of a database that somebody may be writing: the sandbox opens only files that nobody writes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from prefloop.errors import DataError
from prefloop.store.files import atomic_path, exclusive, file_hash

BUSY_S = 30.0
"""Seconds to wait for a writer's lock."""


def snapshot(database: Path, folder: Path) -> Path:
    """Copy a live SQLite file to ``{folder}/{hash of the copy}.sqlite``; equal contents share one copy.

    SQLite's backup takes a consistent state, whatever is committed in a WAL file beside it included, and neither
    locks writers out nor writes to the source.

    Raises:
        DataError: the file is missing, not a SQLite database, or one without a table.
        StoreError: the copy cannot be written.
    """
    if not database.is_file():
        raise DataError(f"database {database} does not exist")
    incoming = folder / "incoming.sqlite"
    with exclusive(incoming):
        with atomic_path(incoming) as temporary:
            temporary.unlink(missing_ok=True)  # of a copy that was cut
            _copy(database, temporary)
        return incoming.replace(folder / f"{file_hash(incoming)}.sqlite")


def _copy(database: Path, copy: Path) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", BUSY_S, uri=True)) as source,
            closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
            if not target.execute("SELECT 1 FROM sqlite_master WHERE type IN ('table', 'view')").fetchone():
                raise DataError(f"{database} is a database without a table: there is nothing to ask of it")
            target.execute("PRAGMA journal_mode = DELETE")  # a copy marked WAL could not be opened immutable
    except sqlite3.Error as error:
        raise DataError(f"{database} cannot be read as a SQLite database: {error}") from error

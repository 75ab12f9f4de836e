"""What any later run may take up again, such as paid replies: one SQLite file that several processes may share."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from prefloop.errors import StoreError
from prefloop.records import canonical_json

_WAIT_S = 60.0


class Cache:
    """A journal (`prefloop.store.journal.Journal`) that outlives its run; a piece counts once it is committed.

    Raises:
        StoreError: the file cannot be read or written; says what to do.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened(path) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("CREATE TABLE IF NOT EXISTS pieces (key TEXT PRIMARY KEY, value TEXT NOT NULL)")

    def entries(self) -> Mapping[str, Any]:
        """Finished pieces by key, each read when it is asked for."""
        return Pieces(self.path)

    def append(self, key: str, value: Any) -> None:
        """Keep `value`; the first of several processes that found one wins."""
        with opened(self.path) as database:
            database.execute("INSERT OR IGNORE INTO pieces VALUES (?, ?)", (key, canonical_json(value)))


class Pieces(Mapping[str, Any]):
    """What a cache's file holds at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, key: str) -> Any:
        with opened(self._path) as database:
            row = database.execute("SELECT value FROM pieces WHERE key = ?", (key,)).fetchone()
        if row is None:
            raise KeyError(key)
        return json.loads(row[0])

    def __iter__(self) -> Iterator[str]:
        with opened(self._path) as database:
            yield from [key for (key,) in database.execute("SELECT key FROM pieces ORDER BY rowid")]

    def __len__(self) -> int:
        return sum(1 for _ in self)


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of its own each time: threads and forks need not know of each other."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)) as database:
            yield database
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"the cache {path} cannot be used ({error}): delete it, or set PREFLOOP_CACHE to another folder"
        ) from error

"""A project's new database for tests: its tables are made once in a process, and copied."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from prefloop.annotation.database import Database, open_database


def new_database(place: str | Path) -> Database:
    """What `open_database` gives; a new file starts as a copy, which takes a sixth of the time of its migrations."""
    if "://" not in str(place) and not Path(place).exists():
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(_tables())
    return open_database(place)


@cache
def _tables() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new.db"
        open_database(path).close()
        return path.read_bytes()

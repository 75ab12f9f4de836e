"""What a league remembers of its imports, in two tables of its own beside the five: finished files, and games' names.

They stand in the league's file, so that they change with its rows in one step.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READERS_VERSION = 2
"""Raise it when a reader makes other rows of a file: files are then read again."""
TABLES = """
CREATE TABLE IF NOT EXISTS imported_files (
  identity TEXT PRIMARY KEY, name TEXT NOT NULL, report TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS imported_games (
  source TEXT NOT NULL, name TEXT NOT NULL, game_id TEXT NOT NULL, PRIMARY KEY (source, name)
);
"""


@dataclass(frozen=True)
class Source:
    """A file on its way in."""

    identity: str
    """Hash of its bytes and of the options that it was read with."""
    name: str


def create(connection: sqlite3.Connection) -> None:
    """The two tables, where they are not there yet."""
    connection.executescript(TABLES)


def remember_file(connection: sqlite3.Connection, source: Source, report: dict[str, Any]) -> None:
    """A file that is finished, and what became of its rows."""
    connection.execute(
        "INSERT OR REPLACE INTO imported_files VALUES (?, ?, ?)",
        (source.identity, source.name, json.dumps(report, sort_keys=True)),
    )


def finished(league: Path) -> dict[str, dict[str, Any]]:
    """Reports of the files that a league holds already, by identity; none where there is no league."""
    if not league.is_file():
        return {}
    try:
        with closing(sqlite3.connect(f"{league.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            return {name: json.loads(text) for name, text in connection.execute(_FILES)}
    except (sqlite3.DatabaseError, ValueError):  # a league that was simulated has no such table
        return {}


_FILES = "SELECT identity, report FROM imported_files"

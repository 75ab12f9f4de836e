"""How synthetic player rows in a league of real games are told from real ones."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from prefloop.progress import note

NOTE = "synthetic player rows"
"""In ``games.notes`` of each game that has them."""
PREFIX = "synthetic-"
"""Of ``player_slug`` in each such row."""
SIMULATED = "synthetic"
"""``games.notes`` of a simulated league's games."""


def mark_game(connection: sqlite3.Connection, game_id: str) -> None:
    """Say in a game's notes that its player rows are synthetic."""
    connection.execute(
        f"UPDATE games SET notes = COALESCE(notes || '; ', '') || '{NOTE}' WHERE game_id = ?", (game_id,)
    )


def drop_players(connection: sqlite3.Connection, game_id: str) -> bool:
    """Remove a game's synthetic player rows and its note; whether there were any."""
    where = (game_id, f"{PREFIX}%")
    removed = connection.execute("DELETE FROM player_box_scores WHERE game_id = ? AND player_slug LIKE ?", where)
    if not removed.rowcount:
        return False
    ((notes,),) = connection.execute("SELECT notes FROM games WHERE game_id = ?", (game_id,))
    left = "; ".join(note for note in str(notes or "").split("; ") if note != NOTE)
    connection.execute("UPDATE games SET notes = ? WHERE game_id = ?", (left or None, game_id))
    return True


def tell_synthetic(database: Path | str | None) -> None:
    """Say beside an answer that its figures may be invented."""
    if database is not None and (games := synthetic_games(Path(database))):
        note(f"In {games:,} games of {database} the players and their figures are synthetic.")


def synthetic_games(database: Path) -> int:
    """How many real games of a league have synthetic player rows; 0 of another database."""
    if not database.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            query = "SELECT COUNT(*) FROM games WHERE notes LIKE ?"
            return int(connection.execute(query, (f"%{NOTE}%",)).fetchone()[0])
    except sqlite3.DatabaseError:
        return 0

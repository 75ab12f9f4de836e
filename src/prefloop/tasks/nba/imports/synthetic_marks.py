"""How synthetic player rows in a league of real games, and simulated games, are told from real ones."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from prefloop.progress import note

NOTE = "synthetic player rows"
"""In ``games.notes`` of each game that has them."""
PREFIX = "synthetic-"
"""Of ``player_slug`` in each such row."""
SIMULATED = "synthetic"
"""In ``games.notes`` of each game of a simulated league."""
IS_SIMULATED = f"'; ' || COALESCE(notes, '') || ';' LIKE '%; {SIMULATED};%'"
"""Of a row of ``games``, in SQL; notes are parted by ``; ``."""


class Synthetic(NamedTuple):
    """How many games of a league are not, or not wholly, what happened."""

    players: int
    """Real games with synthetic player rows."""
    simulated: int
    """Games that were never played."""


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
    games = synthetic_games(Path(database)) if database is not None else Synthetic(0, 0)
    if games.players:
        note(f"In {games.players:,} games of {database} the players and their figures are synthetic.")
    if games.simulated:
        note(f"{games.simulated:,} games of {database} are simulated: their players and results are invented.")


def synthetic_games(database: Path) -> Synthetic:
    """How many games of a league are invented, wholly or their players; none of another database."""
    if not database.is_file():
        return Synthetic(0, 0)
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            counts = f"SELECT TOTAL(COALESCE(notes, '') LIKE '%{NOTE}%'), TOTAL({IS_SIMULATED}) FROM games"
            return Synthetic(*map(int, connection.execute(counts).fetchone()))
    except sqlite3.DatabaseError:
        return Synthetic(0, 0)

"""Full names in play-by-play that names players by initial and surname, by the box scores of the same game."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable

from prefloop.tasks.nba.imports.people import abbreviates
from prefloop.tasks.nba.imports.synthetic_marks import PREFIX

SHORT = re.compile(r"\w\. \S.*")
COLUMNS = ("primary_player", "secondary_player")
_WHOLE = """
SELECT COUNT(*) = 2 FROM games g JOIN (
  SELECT team, SUM(points) AS points FROM player_box_scores
  WHERE game_id = ?1 AND COALESCE(player_slug, '') NOT LIKE ?2 GROUP BY team
) p ON p.points = CASE p.team WHEN g.home_team THEN g.home_score WHEN g.away_team THEN g.away_score END
WHERE g.game_id = ?1
"""
_PLAYED = "SELECT player_name FROM player_box_scores WHERE game_id = ? AND did_not_play = 0"


def complete_names(connection: sqlite3.Connection, games: Iterable[str]) -> list[str]:
    """Write names in full where one player of the game has that initial and surname; say what was done and left.

    A game is taken only if its box scores give both teams' points: of a part of the players one alone may have a name
    that two had on court. Invented players are nobody's full names.
    """
    counts: Counter[str] = Counter()
    for game in sorted(games):
        short = {name for column in COLUMNS for name in _short_names(connection, game, column)}
        if not short:
            continue
        ((whole,),) = connection.execute(_WHOLE, (game, f"{PREFIX}%"))
        if not whole:
            counts["games"] += 1
            continue
        players = [name for (name,) in connection.execute(_PLAYED, (game,))]
        meant = {name: [player for player in players if abbreviates(name, player)] for name in short}
        for name, found in meant.items():
            counts["full" if len(found) == 1 else "short"] += 1
            for column in COLUMNS if len(found) == 1 else ():
                connection.execute(
                    f"UPDATE game_play_by_play SET {column} = ? WHERE game_id = ? AND {column} = ?",
                    (found[0], game, name),
                )
    said = {
        "full": "{:,} players' short names in events are full now, by their games' box scores",
        "short": "{:,} stay short: none or several of the game's players have them",
        "games": "events of {:,} games have players' initials: import both teams' box scores for full names",
    }
    return [text.format(counts[kind]) for kind, text in said.items() if counts[kind]]


def _short_names(connection: sqlite3.Connection, game: str, column: str) -> list[str]:
    rows = connection.execute(f"SELECT DISTINCT {column} FROM game_play_by_play WHERE game_id = ?", (game,))
    return [name for (name,) in rows if name and SHORT.fullmatch(name)]

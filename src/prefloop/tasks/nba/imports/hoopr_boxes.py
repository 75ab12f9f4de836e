"""hoopR's box scores of teams and of players, whatever a version calls its columns; shots may be written ``8-18``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.hoopr import (
    GAME,
    SOURCE,
    AllStarError,
    check_seasons,
    day_season_phase,
    game_of,
    left_out,
    named,
    side_of,
    table_of,
    team_code,
)
from prefloop.tasks.nba.imports.lines import made_attempted, played, sat_out, seconds_of, signed, with_totals
from prefloop.tasks.nba.imports.rows import Named, Remark, Row, shooting, truth, whole
from prefloop.tasks.nba.imports.tables import rows_from

NAMES = {
    "offensive_rebounds": ("offensive_rebounds", "oreb"),
    "defensive_rebounds": ("defensive_rebounds", "dreb"),
    "total_rebounds": ("total_rebounds", "rebounds", "reb"),
    "assists": ("assists", "ast"),
    "steals": ("steals", "stl"),
    "blocks": ("blocks", "blk"),
    "turnovers": ("turnovers", "total_turnovers", "to", "tov"),
    "personal_fouls": ("fouls", "personal_fouls", "pf"),
}
"""The league's columns by what versions of hoopR call them."""
SHOTS = {
    "field_goals": (("field_goals", "fg"), ("fgm", "fga")),
    "three_pointers": (("three_point_field_goals", "fg3"), ("fg3m", "fg3a")),
    "free_throws": (("free_throws", "ft"), ("ftm", "fta")),
}
PARTS = ("abbreviation", "display_name")
"""What tables say of a team."""
PLAYER_BOX = (*GAME, "athlete_display_name", "team_abbreviation")
TEAM_BOX = (*GAME, "team_abbreviation", "team_home_away", "team_score")


def read_team_boxes(path: Path, encoding: str | None = None) -> Iterator[Row | BadRow | Remark]:
    """Rows of ``games`` and ``team_box_scores``; a game whose two rows do not fit each other is refused.

    Raises:
        DataError: the file is missing, no such table, or labels its seasons in several ways.
    """
    check_seasons(path, TEAM_BOX, encoding)
    games: dict[str, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    for read in table_of(path, TEAM_BOX, encoding):
        if isinstance(read, BadRow):
            yield read
        else:
            games[named(read[1]).name].append(read)
    left: Counter[str] = Counter()
    for name, found in games.items():
        try:
            yield from list(_both_sides(path.name, name, found))
        except AllStarError as error:
            left[str(error)] += len(found)
        except BadRowError as error:
            yield from (BadRow(path.name, line, f"game {name}: {error}") for line, _ in found)
    yield from left_out(path, left)


def _both_sides(file: str, name: str, found: list[tuple[int, dict[str, str]]]) -> Iterator[Row]:
    """A game of two rows, and the rows; repeated rows are left to be compared with the first."""
    sides: dict[str, dict[str, str]] = {}
    for _, row in found:
        sides.setdefault(side_of(row["team_home_away"]), row)
    if len(sides) != 2:
        raise BadRowError("one side of it is missing")
    scores = {side: whole(row, "team_score") for side, row in sides.items()}
    for side, other in (("home", "away"), ("away", "home")):
        if (told := whole(sides[side], "opponent_team_score", empty=True)) not in (None, scores[other]):
            raise BadRowError(f"the {side} side says {told} points of the other, which says {scores[other]}")
    joined = {f"{side}_{part}": row.get(f"team_{part}", "") for side, row in sides.items() for part in PARTS}
    if sides["home"]["game_date"] != sides["away"]["game_date"]:
        raise BadRowError("its rows are of two days")
    game = game_of({**sides["home"], **joined}, scores)
    yield Row("games", game, file, found[0][0], Named(SOURCE, name))
    for line, row in found:
        side = side_of(row["team_home_away"])
        counts = {**_counts(row), "points": whole(row, "team_score")}
        identity = {"game_id": game["game_id"], "team": game[f"{side}_team"], "is_home": int(side == "home")}
        yield Row("team_box_scores", {**identity, **shooting(with_totals(counts))}, file, line)


def read_player_boxes(path: Path, encoding: str | None = None) -> Iterator[Row | BadRow | Remark]:
    """Rows of ``player_box_scores``, and of ``games`` where a row says the other side's score.

    Raises:
        DataError: the file is missing, no such table, or labels its seasons in several ways.
    """
    check_seasons(path, PLAYER_BOX, encoding)
    left: Counter[str] = Counter()
    seen: set[Named] = set()

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        game = named(row)
        try:
            season = day_season_phase(row)[1]
            team = team_code(row["team_abbreviation"], row.get("team_name") or row.get("team_display_name"), season)
            brings = game not in seen and bool(row.get("opponent_team_score") or row.get("home_away"))
            values = _game_of_player(row) if brings else {}
        except AllStarError as error:
            left[str(error)] += 1
            return
        if not (name := row["athlete_display_name"].strip()):
            raise BadRowError("athlete_display_name is missing")
        number = row.get("athlete_id", "").removesuffix(".0")
        slug = f"{SOURCE}{number}" if number else None
        who = {"player_name": name, "player_slug": slug, "team": team}
        found = {**who, "position": row.get("athlete_position_abbreviation") or None, **_line(row)}
        if brings:
            yield Row("games", values, path.name, line, game)
            seen.add(game)
        yield Row("player_box_scores", found, path.name, line, game)

    yield from rows_from(table_of(path, PLAYER_BOX, encoding), path.name, rows)
    yield from left_out(path, left)


def _game_of_player(row: Mapping[str, str]) -> dict[str, Any]:
    own = side_of(row.get("home_away", ""))
    joined: dict[str, str] = {}
    for side in ("home", "away"):
        for part in PARTS:
            joined[f"{side}_{part}"] = row.get(f"{'' if side == own else 'opponent_'}team_{part}", "")
    other = "away" if own == "home" else "home"
    return game_of({**row, **joined}, {own: whole(row, "team_score"), other: whole(row, "opponent_team_score")})


def _line(row: Mapping[str, str]) -> dict[str, Any]:
    minutes = row.get("minutes") or row.get("min") or ""
    if truth(row.get("did_not_play"), "did_not_play") or (not minutes and _counts(row)["assists"] is None):
        return sat_out((row.get("reason") or "").strip() or None)
    points = whole(row, "points" if "points" in row else "pts", empty=True)
    starter = truth(row.get("starter"), "starter")
    return played(
        {**_counts(row), "points": points},
        seconds_of(minutes, "minutes"),
        signed(row.get("plus_minus"), "plus_minus"),
        starter,
    )


def _counts(row: Mapping[str, str]) -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for column, names in NAMES.items():
        name = next((name for name in names if name in row), names[0])
        found[column] = whole(row, name, empty=True)
    for shot, (together, short) in SHOTS.items():
        long = tuple(f"{together[0]}_{part}" for part in ("made", "attempted"))
        pair = next((pair for pair in (long, short) if set(pair) <= set(row)), None)
        if pair is not None:
            made, tried = (whole(row, name, empty=True) for name in pair)
        else:
            made, tried = made_attempted(row, next((name for name in together if name in row), together[0]))
        found |= {f"{shot}_made": made, f"{shot}_attempted": tried}
    return found

"""ESPN's games with the box scores of both teams in one row, where 0 and ``0-0`` also stand for a missing value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefloop.store.rows import BadRow, BadRowError
from prefloop.tasks.nba.imports.hoopr import PHASES, SOURCE, AllStarError, check_seasons, left_out, team_code
from prefloop.tasks.nba.imports.lines import made_attempted, with_totals
from prefloop.tasks.nba.imports.rows import Named, Remark, Row, game_id, shooting, truth, whole
from prefloop.tasks.nba.imports.seasons import form_of, season_of
from prefloop.tasks.nba.imports.tables import day_in, read_table, rows_from

NEEDED = ("game_id", "game_date", "home_team_abbrev", "away_team_abbrev", "home_score", "away_score")
COUNTS = ("offensive_rebounds", "defensive_rebounds", "total_rebounds", "assists", "steals", "blocks", "turnovers")
SIDES = ("home", "away")
REGULATION = 4


def read_wide_boxes(path: Path) -> Iterator[Row | BadRow | Remark]:
    """Rows of ``games`` that are over, and of ``team_box_scores`` where both teams' counts are there.

    A season is told by the day; its label has to fit it in one form throughout.

    Raises:
        DataError: columns are missing, or the labels are of several forms.
    """
    check_seasons(path, NEEDED, None)
    left: Counter[str] = Counter()

    def rows(line: int, row: Mapping[str, str]) -> Iterator[Row]:
        if truth(row.get("completed"), "completed") is False:
            left["games that are not over"] += 1
            return
        try:
            game = _game(row)
        except AllStarError as error:
            left[str(error)] += 1
            return
        yield Row("games", game, path.name, line, Named(SOURCE, row["game_id"]))
        sides = {side: _counts(row, side, game[f"{side}_score"]) for side in SIDES}
        if not all(sides.values()):
            left["games' box scores that are missing"] += 1
            return
        for side, counts in sides.items():
            identity = {"game_id": game["game_id"], "team": game[f"{side}_team"], "is_home": int(side == "home")}
            yield Row("team_box_scores", {**identity, **shooting(with_totals(counts))}, path.name, line)

    yield from rows_from(read_table(path, NEEDED, "table of games", None), path.name, rows)
    yield from left_out(path, left)


def _game(row: Mapping[str, str]) -> dict[str, Any]:
    day = day_in(row["game_date"], "game_date")
    season, label = season_of(day), row.get("season")
    if label and form_of(label, day) is None:
        raise BadRowError(f"season {label!r} is not that of a game of {day}")
    home, away = (team_code(row[f"{side}_team_abbrev"], row.get(f"{side}_team_name"), season) for side in SIDES)
    if home == away:
        raise BadRowError(f"{home} plays itself")
    phase = row.get("season_type")
    if phase and phase not in PHASES:
        raise BadRowError(f"season_type is none of {', '.join(PHASES)} ({phase!r})")
    periods = whole(row, "periods", empty=True) or 0
    return {
        "game_id": game_id(day, home),
        "game_date": day,
        "season": season,
        "home_team": home,
        "away_team": away,
        "home_team_name": row.get("home_team_name") or None,
        "away_team_name": row.get("away_team_name") or None,
        "home_score": whole(row, "home_score"),
        "away_score": whole(row, "away_score"),
        "game_type": PHASES[phase] if phase else None,
        "location": row.get("venue") or None,
        "city": row.get("venue_city") or None,
        "attendance": whole(row, "attendance", empty=True) or None,
        "officials": ", ".join(name for i in (1, 2, 3) if (name := (row.get(f"referee{i}_name") or "").strip()))
        or None,
        "num_overtime_periods": periods - REGULATION if periods >= REGULATION else None,
    }


def _counts(row: Mapping[str, str], side: str, score: int) -> dict[str, int | None]:
    """A team's counts; empty where there is no box score: no team tries no shot and takes no rebound."""
    if (told := whole(row, f"{side}_team_score", empty=True) or score) != score:
        raise BadRowError(f"the {side} team's score is {score}, and {told} in its box score")
    made, tried = made_attempted(row, f"{side}_team_field_goals")
    if not tried:
        return {}
    found: dict[str, int | None] = {"field_goals_made": made, "field_goals_attempted": tried, "points": score}
    for shot in ("three_pointers", "free_throws"):
        found[f"{shot}_made"], found[f"{shot}_attempted"] = made_attempted(row, f"{side}_team_{shot}")
    for shot in ("three_pointers", "free_throws"):
        given = 2 * (made or 0) + (found["three_pointers_made"] or 0) + (found["free_throws_made"] or 0)
        if not found[f"{shot}_attempted"] and given != score:  # the shots do not give the score without them
            found[f"{shot}_made"] = found[f"{shot}_attempted"] = None
    for name in COUNTS:
        found[name] = whole(row, f"{side}_team_{name}", empty=True) or None
    found["personal_fouls"] = whole(row, f"{side}_team_fouls", empty=True) or None
    return found

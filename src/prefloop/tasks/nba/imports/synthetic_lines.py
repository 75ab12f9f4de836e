"""A team's real row dealt out among invented players, so that every column adds up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from prefloop.tasks.nba.imports.lines import COUNTS
from prefloop.tasks.nba.simulate import MOST_FOULS, Side, court_time, share, skill

FREE = {
    "assists": ("passing", 1), "steals": ("defence", 1), "blocks": ("rebounding", 2), "turnovers": ("usage", 1),
}  # fmt: skip
"""Counts that any player may have any of: the skill that draws them, and its power."""

Totals = Mapping[str, int | None]


def fault(totals: Totals, score: int) -> str | None:
    """Why a team's row cannot be dealt out; None if it can.

    Args:
        score: the team's points in ``games``.
    """
    if missing := [name for name in COUNTS if totals[name] is None and name in NEEDED]:
        return f"{', '.join(missing)} is missing"
    goals, tries, throws, free, points = (totals[name] or 0 for name in NEEDED)
    threes, three_tries = totals["three_pointers_made"] or 0, totals["three_pointers_attempted"] or 0
    if points != score or points != 2 * goals + threes + throws:
        return f"its shots give {2 * goals + threes + throws} points, its row {points}, the score {score}"
    if throws > free or threes > three_tries or goals - threes > tries - three_tries or threes > goals:
        return "it made more shots than it attempted"
    orb, drb, rebounds = (totals[f"{kind}_rebounds"] for kind in ("offensive", "defensive", "total"))
    if None not in (orb, drb) and rebounds not in (None, (orb or 0) + (drb or 0)):
        return "its rebounds do not add up"
    if (totals["personal_fouls"] or 0) > MOST_TEAM_FOULS:
        return f"ten players may have {MOST_TEAM_FOULS} fouls, its row has {totals['personal_fouls']}"
    return None


MOST_TEAM_FOULS = 10 * MOST_FOULS
"""Ten players are always on the list."""
NEEDED = ("field_goals_made", "field_goals_attempted", "free_throws_made", "free_throws_attempted", "points")


def dealt(rng: np.random.Generator, side: Side, totals: Totals) -> list[dict[str, int | None]]:
    """Counts of each player who plays; their sums are the team's, and what the team's row does not say is None.

    Args:
        totals: a team's row without a `fault`.
    """
    time = court_time(side)
    usage, threes = time * skill(side, "usage"), skill(side, "threes")
    columns: dict[str, np.ndarray] = {}
    for shot, weights in (
        ("three_pointers", usage * threes),
        ("twos", usage * (1 - threes)),
        ("free_throws", usage),
    ):
        made, tried = _shots(totals, shot)
        columns[f"{shot}_attempted"] = share(rng, tried, weights)
        columns[f"{shot}_made"] = rng.multivariate_hypergeometric(columns[f"{shot}_attempted"], made)
    for part in ("made", "attempted"):
        columns[f"field_goals_{part}"] = columns[f"twos_{part}"] + columns[f"three_pointers_{part}"]
    for name, (talent, power) in FREE.items():
        columns[name] = share(rng, totals[name] or 0, time * skill(side, talent) ** power)
    _rebounds(rng, totals, time * skill(side, "rebounding"), columns)
    columns["personal_fouls"] = _fouls(rng, totals["personal_fouls"] or 0, time)
    columns["points"] = 2 * columns["field_goals_made"] + columns["three_pointers_made"] + columns["free_throws_made"]
    return [
        {name: None if totals[name] is None else int(columns[name][player]) for name in COUNTS}
        for player in range(len(time))
    ]


def _shots(totals: Totals, shot: str) -> tuple[int, int]:
    """Made and attempted of a kind; twos are the field goals that are no threes."""
    if shot != "twos":
        return totals[f"{shot}_made"] or 0, totals[f"{shot}_attempted"] or 0
    made, tried = (
        (totals[f"field_goals_{part}"] or 0) - (totals[f"three_pointers_{part}"] or 0) for part in ("made", "attempted")
    )
    return made, tried


def _rebounds(rng: np.random.Generator, totals: Totals, weights: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    for kind in ("offensive", "defensive"):
        columns[f"{kind}_rebounds"] = share(rng, totals[f"{kind}_rebounds"] or 0, weights)
    known = totals["offensive_rebounds"] is not None and totals["defensive_rebounds"] is not None
    both = columns["offensive_rebounds"] + columns["defensive_rebounds"]
    columns["total_rebounds"] = both if known else share(rng, totals["total_rebounds"] or 0, weights)


def _fouls(rng: np.random.Generator, count: int, weights: np.ndarray) -> np.ndarray:
    """Fouls by time on court, at most six each: what is over goes to those who have room."""
    found = share(rng, count, weights)
    while (over := int((found - MOST_FOULS).clip(0).sum())) > 0:
        found = found.clip(None, MOST_FOULS)
        found += share(rng, over, weights * (found < MOST_FOULS))
    return found

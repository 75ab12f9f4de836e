"""Events of a covered game that add up to its box score.

Every made and missed shot, free throw, rebound, turnover and foul of a period becomes one event in a random order;
the running score follows from the made ones, so the last event of a period carries the score after it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prefloop.tasks.nba.boxscore import CREATED
from prefloop.tasks.nba.simulate import INDEX, Side

QUARTER_S, OVERTIME_PERIOD_S = 720, 300
VALUES = {"2PT": 2, "3PT": 3, "FT": 1}
KINDS = (
    ("fg2m", "shot", "2PT", 1),
    ("fg3m", "shot", "3PT", 1),
    ("ftm", "free throw", "FT", 1),
    ("orb", "rebound", None, None),
    ("drb", "rebound", None, None),
    ("tov", "turnover", None, None),
    ("pf", "foul", None, None),
)
MISSES = (
    ("fg2a", "fg2m", "shot", "2PT"),
    ("fg3a", "fg3m", "shot", "3PT"),
    ("fta", "ftm", "free throw", "FT"),
)
NOUNS = {"2PT": "2-pt shot", "3PT": "3-pt shot", "FT": "free throw"}

Event = tuple[int, int, str, str | None, int | None]
"""Side, player's row, event type, shot type, made."""


def event_rows(rng: np.random.Generator, game_id: str, home: Side, away: Side) -> list[list[Any]]:
    """Columns of ``game_play_by_play`` after id, in order of play."""
    sides, scores = (home, away), [0, 0]
    rows: list[list[Any]] = []
    for period in range(len(home.periods)):
        events = _events(sides, period)
        events = [events[int(i)] for i in rng.permutation(len(events))]
        quarters = np.array_split(np.arange(len(events)), 4 if period == 0 else 1)
        for part, members in enumerate(quarters):
            quarter = part + 1 if period == 0 else 4 + period
            seconds = np.sort(rng.integers(0, QUARTER_S if quarter <= 4 else OVERTIME_PERIOD_S, len(members)))
            for i, second in zip(members, seconds, strict=True):
                rows.append(_row(rng, game_id, len(rows) + 1, quarter, int(second), events[int(i)], sides, scores))
    return rows


def _events(sides: tuple[Side, Side], period: int) -> list[Event]:
    found: list[Event] = []
    for which, side in enumerate(sides):
        for player, stats in enumerate(side.periods[period]):
            for name, kind, shot, made in KINDS:
                found += [(which, player, kind, shot, made)] * int(stats[INDEX[name]])
            for tried, hit, kind, shot in MISSES:
                found += [(which, player, kind, shot, 0)] * int(stats[INDEX[tried]] - stats[INDEX[hit]])
    return found


def _row(
    rng: np.random.Generator,
    game_id: str,
    number: int,
    quarter: int,
    second: int,
    event: Event,
    sides: tuple[Side, Side],
    scores: list[int],
) -> list[Any]:
    which, player, kind, shot, made = event
    if shot and made:
        scores[which] += VALUES[shot]
    length = QUARTER_S if quarter <= 4 else OVERTIME_PERIOD_S
    before = QUARTER_S * min(quarter - 1, 4) + OVERTIME_PERIOD_S * max(quarter - 5, 0)
    left = length - second
    name = sides[which].playing[player].person.name
    distance, x, y = _place(rng, shot) if kind == "shot" else (None, None, None)
    if shot:
        text = f"{name} {'makes' if made else 'misses'} {NOUNS[shot]}" + (f" from {distance} ft" if distance else "")
    else:
        text = f"{kind.capitalize()} by {name}"
    return [
        *(game_id, number, quarter, f"{left // 60}:{left % 60:02}", before + second, kind, text, name, None),
        *(sides[which].team, sides[1 - which].team, scores[0], scores[1], scores[0] - scores[1], made, shot),
        *(distance, x, y, CREATED),
    ]


def _place(rng: np.random.Generator, shot: str | None) -> tuple[int, int, int]:
    """Distance in feet and court position, threes from behind the arc."""
    distance = int(rng.integers(23, 31)) if shot == "3PT" else int(rng.integers(0, 22))
    angle = rng.uniform(0, np.pi)
    return distance, round(float(distance * np.cos(angle))), round(float(distance * np.sin(angle)))

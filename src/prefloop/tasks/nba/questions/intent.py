"""What an intent is, and the vocabulary of statistics that intents share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from prefloop.tasks.nba.questions.query import Query
from prefloop.tasks.nba.questions.scope import Calendar, Scope

Slots = dict[str, Any]


@dataclass(frozen=True)
class Game:
    """A scheduled game a question may name."""

    date: str
    home: str
    away: str
    season: int


@dataclass(frozen=True)
class Thresholds:
    """What "at least n" asks for, by column of the box scores."""

    single: Mapping[str, tuple[int, ...]]
    """For one player's games, by column."""
    league: tuple[int, ...]
    """Points, for games of anybody."""
    points: tuple[int, ...]
    """Points, where a second statistic is asked for too."""
    beside: tuple[tuple[str, int], ...]
    """That second statistic."""


FIXED = Thresholds(
    {
        "points": (10, 15, 20, 25, 30),
        "total_rebounds": (5, 8, 10, 12),
        "assists": (4, 5, 8, 10),
        "three_pointers_made": (2, 3, 4, 5),
    },
    (20, 25, 30, 35),
    (10, 15, 20),
    (("total_rebounds", 5), ("assists", 5), ("total_rebounds", 8), ("assists", 3)),
)
"""Of simulated leagues, and of the corpus."""


class World(Protocol):
    """Where a question's names come from: a league at hand, or the open set the corpus draws from."""

    codes: list[str]
    thresholds: Thresholds

    def knows(self, need: str) -> bool:
        """Whether there is what an intent needs (`Intent.needs`)."""
        ...

    def calendar(self, need: str) -> Calendar:
        """Seasons and months of which such an intent can ask."""
        ...

    def player(self, rng: np.random.Generator) -> str:
        """A player's full name."""
        ...

    def game(self, rng: np.random.Generator) -> Game:
        """Any game."""
        ...

    def covered_game(self, rng: np.random.Generator) -> Game:
        """A game that has play-by-play."""
        ...

    def player_date(self, rng: np.random.Generator) -> tuple[str, str]:
        """A player and the date of a game of that player's team."""
        ...


@dataclass(frozen=True)
class Intent:
    """One thing that can be asked."""

    name: str
    family: str
    """Letter of the question family, A to N."""
    scope: str
    """Letters of the narrowings it may carry (`draw_scope`)."""
    draw: Callable[[np.random.Generator, World], Slots]
    build: Callable[[Slots, Scope], Query]
    curated: tuple[str, ...]
    """Full sentences, with ``{scope}`` and the slots as fields."""
    typed: tuple[str, ...]
    """As people type: short, lower case, often no verb."""
    comparison: dict[str, Any] = field(default_factory=dict)
    """Comparison spec of the answer (`prefloop.sql.compare`)."""
    needs: str = ""
    """What a league must have beyond games and team rows: ``players``, ``events`` or ``overtime``."""


@dataclass(frozen=True)
class Stat:
    """A column of the box scores and how people call it."""

    column: str
    words: str
    typed: str
    per_game: str


STATS = {
    stat.column: stat
    for stat in (
        Stat("points", "points", "pts", "ppg"),
        Stat("total_rebounds", "rebounds", "reb", "rpg"),
        Stat("assists", "assists", "ast", "apg"),
        Stat("steals", "steals", "stl", "spg"),
        Stat("blocks", "blocks", "blk", "bpg"),
        Stat("turnovers", "turnovers", "to", "turnovers per game"),
        Stat("three_pointers_made", "three-pointers", "threes", "threes per game"),
        Stat("free_throws_made", "free throws", "ftm", "ftm per game"),
        Stat("offensive_rebounds", "offensive rebounds", "oreb", "oreb per game"),
        Stat("minutes_decimal", "minutes", "min", "mpg"),
    )
}
COUNTED = [column for column in STATS if column != "minutes_decimal"]

RATIOS = {
    "field_goal": ("field goal percentage", "fg%"),
    "three_point": ("three-point percentage", "3p%"),
    "free_throw": ("free throw percentage", "ft%"),
}
MADE = {
    "field_goal": ("field_goals_made", "field_goals_attempted"),
    "three_point": ("three_pointers_made", "three_pointers_attempted"),
    "free_throw": ("free_throws_made", "free_throws_attempted"),
}


def pick(rng: np.random.Generator, values: Any) -> Any:
    """One of `values`, as the plain Python object (numpy would return its own scalar types)."""
    values = list(values)
    return values[int(rng.integers(len(values)))]


def stat_slots(column: str) -> Slots:
    """Slots of a counted statistic: SQL column and its words."""
    stat = STATS[column]
    return {"column": column, "s": stat.words, "st": stat.typed, "sg": stat.per_game}


def ratio_slots(key: str) -> Slots:
    """Slots of a percentage: its parts and its words."""
    made, attempted = MADE[key]
    words, typed = RATIOS[key]
    return {"ratio": key, "made": made, "attempted": attempted, "s": words, "st": typed}


def ratio_of_sums(alias: str, slots: Slots) -> str:
    """Percentage as the ratio of sums, to 3 decimals; `alias` is a table alias with its dot, or empty."""
    return f"ROUND(1.0 * SUM({alias}{slots['made']}) / SUM({alias}{slots['attempted']}), 3)"


def average_of_ratios(alias: str, slots: Slots) -> str:
    """The wrong one: the mean of the games' percentages."""
    return f"ROUND(AVG({alias}{slots['ratio']}_pct), 3)"

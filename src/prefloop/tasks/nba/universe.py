"""What two leagues of one universe share: people, rosters, trades, and the regular season's schedule.

The judge asks the same question of two leagues that differ in play only, so a name or a date means the same in
both and an answer that is right by accident in one is wrong in the other.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.teams import teams

ROSTER = 14
NAMESAKES = 3
"""Pairs of different people with one name."""

TRADES, MOVES = 8, 20
"""Swaps of two players within a season, and between seasons."""

COVERED_EVERY = 15
"""One regular-season game in so many has play-by-play."""

POSITIONS = ("PG", "SG", "SF", "PF", "C")


@dataclass(frozen=True)
class Person:
    """A player with what he is good at. Skills are multipliers around 1."""

    slug: str
    name: str
    position: str
    usage: float
    threes: float
    """Share of his shots from three."""
    touch: float
    rebounding: float
    passing: float
    defence: float


@dataclass(frozen=True)
class Fixture:
    """A scheduled regular-season game."""

    day: date
    home: str
    away: str
    covered: bool


@dataclass
class Season:
    """Fixtures by date, and who is where: rosters by team before and after the trade deadline, best first."""

    year: int
    fixtures: list[Fixture]
    rosters: list[dict[str, list[str]]] = field(default_factory=list)
    deadline: date = date.min

    def roster(self, team: str, day: date) -> list[str]:
        """Slugs of the team's players on a day."""
        return self.rosters[day >= self.deadline][team]


@dataclass(frozen=True)
class Universe:
    """People and seasons."""

    people: dict[str, Person]
    seasons: list[Season]
    officials: list[str]


def create_universe(seed: int, years: tuple[int, ...], games_per_team: int) -> Universe:
    """Deterministic in its arguments."""
    rng = np.random.default_rng([seed, 1])
    codes = [team.code for team in teams()]
    people = _people(rng, len(codes) * ROSTER)
    order = list(people)
    rosters = {code: order[i * ROSTER : (i + 1) * ROSTER] for i, code in enumerate(codes)}
    seasons = []
    for year in years:
        season = Season(year, _fixtures(rng, year, codes, games_per_team), deadline=date(year, 2, 8))
        season.rosters.append(_ranked(rosters, people))
        rosters = _swapped(rng, rosters, TRADES)
        season.rosters.append(_ranked(rosters, people))
        rosters = _swapped(rng, rosters, MOVES)
        seasons.append(season)
    return Universe(people, seasons, sorted({person_name(rng) for _ in range(40)}))


def _people(rng: np.random.Generator, count: int) -> dict[str, Person]:
    names: list[str] = []
    while len(names) < count:
        name = person_name(rng)
        if name not in names:
            names.append(name)
    for i in range(NAMESAKES):  # the second of a pair plays on another team
        names[-1 - i] = names[i * ROSTER]
    people: dict[str, Person] = {}
    for i, name in enumerate(names):
        slug = _slug(name, people)
        people[slug] = create_person(rng, slug, name, rank=i % ROSTER)
    return people


def create_person(rng: np.random.Generator, slug: str, name: str, rank: int) -> Person:
    """A player with drawn skills; the further down the roster, the fewer shots he takes."""
    position = POSITIONS[rank % 5]
    big = position in ("PF", "C")
    return Person(
        slug,
        name,
        position,
        usage=float(1.75 * np.exp(-0.11 * rank) * rng.uniform(0.75, 1.25)),
        threes=float(np.clip(rng.normal(0.22 if big else 0.42, 0.12), 0.02, 0.75)),
        touch=float(rng.normal(1.0, 0.06)),
        rebounding=float((1.8 if big else 0.8) * rng.uniform(0.7, 1.3)),
        passing=float((1.9 if position == "PG" else 0.9) * rng.uniform(0.6, 1.4)),
        defence=float(rng.uniform(0.6, 1.4)),
    )


def _slug(name: str, taken: dict[str, Person]) -> str:
    """Basketball-Reference style: five letters of the last name, two of the first, a counter."""
    folded = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = ["".join(c for c in word if c.isalpha()) for word in folded.split()]
    stem = (words[1][:5] if len(words) > 1 else "") + words[0][:2]
    number = 1
    while f"{stem}{number:02}" in taken:
        number += 1
    return f"{stem}{number:02}"


def _ranked(rosters: dict[str, list[str]], people: dict[str, Person]) -> dict[str, list[str]]:
    return {team: sorted(slugs, key=lambda s: -people[s].usage) for team, slugs in rosters.items()}


def _swapped(rng: np.random.Generator, rosters: dict[str, list[str]], count: int) -> dict[str, list[str]]:
    found = {team: list(slugs) for team, slugs in rosters.items()}
    codes = sorted(found)
    for _ in range(count):
        a, b = (codes[int(i)] for i in rng.choice(len(codes), 2, replace=False))
        i, j = int(rng.integers(len(found[a]))), int(rng.integers(len(found[b])))
        found[a][i], found[b][j] = found[b][j], found[a][i]
    return found


def _fixtures(rng: np.random.Generator, year: int, codes: list[str], per_team: int) -> list[Fixture]:
    """Rounds in which every team plays once, spread over mid-October to mid-April."""
    first, last = date(year - 1, 10, 18), date(year, 4, 10)
    span = (last - first).days - 2
    found: list[tuple[date, str, str]] = []
    home_games = dict.fromkeys(codes, 0)
    for round_ in range(per_team):
        order = [codes[int(i)] for i in rng.permutation(len(codes))]
        for a, b in zip(order[::2], order[1::2], strict=True):
            home, away = (a, b) if home_games[a] <= home_games[b] else (b, a)
            home_games[home] += 1
            offset = round_ * span // max(per_team - 1, 1) + int(rng.integers(2))
            found.append((first + timedelta(days=offset), home, away))
    found = _without_doubles(found)
    return [Fixture(day, home, away, i % COVERED_EVERY == 7) for i, (day, home, away) in enumerate(sorted(found))]


def _without_doubles(games: list[tuple[date, str, str]]) -> list[tuple[date, str, str]]:
    """No team plays twice a day: a clash moves to the next free day."""
    busy: set[tuple[date, str]] = set()
    found = []
    for day, home, away in sorted(games):
        while (day, home) in busy or (day, away) in busy:
            day += timedelta(days=1)
        busy |= {(day, home), (day, away)}
        found.append((day, home, away))
    return found

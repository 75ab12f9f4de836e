"""One game as box scores that add up: players to teams, teams to the score, periods to the whole.

Counts are drawn per team and shared out among the players on court by usage, position and skill. Overtime is
played as periods of its own, so a tie after regulation really is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from prefloop.tasks.nba.universe import Person

STATS = ("fg2m", "fg2a", "fg3m", "fg3a", "ftm", "fta", "orb", "drb", "ast", "stl", "blk", "tov", "pf")
INDEX = {name: i for i, name in enumerate(STATS)}
REGULATION_S, OVERTIME_S = 240 * 60, 25 * 60
MOST_FOULS = 6
NEAR_TIE_RATE = 0.5
"""Share of one-point games that a last free throw sends to overtime; with real ties about 5% of all games."""

DNP_REASONS = ("Coach's Decision", "Injury/Illness", "Rest")


@dataclass
class Line:
    """One player's game."""

    person: Person
    starter: bool
    seconds: int
    dnp_reason: str = ""
    plus_minus: int = 0


@dataclass
class Side:
    """One team's game. `periods` holds regulation and each overtime: [players, statistics]."""

    team: str
    lines: list[Line]
    periods: list[np.ndarray] = field(default_factory=list)

    @property
    def playing(self) -> list[Line]:
        """Lines with minutes, in the order of the rows of `periods`."""
        return [line for line in self.lines if not line.dnp_reason]

    @property
    def totals(self) -> np.ndarray:
        """[players, statistics] over all periods."""
        return np.sum(self.periods, axis=0)

    @property
    def score(self) -> int:
        """Points of the team."""
        return int(points(self.totals).sum())


def points(stats: np.ndarray) -> np.ndarray:
    """Points by player: 2 · twos + 3 · threes + free throws, from [players, statistics]."""
    made = [stats[:, INDEX[name]] for name in ("fg2m", "fg3m", "ftm")]
    return 2 * made[0] + 3 * made[1] + made[2]


def simulate_game(
    rng: np.random.Generator, home: tuple[str, list[Person], float], away: tuple[str, list[Person], float]
) -> tuple[Side, Side]:
    """Play a game.

    Args:
        home, away: team code, roster best first, and strength (points per game above the average team).

    Returns:
        Both sides; one has scored more. The number of overtimes is ``len(side.periods) - 1``.
    """
    sides = tuple(Side(team, listed(rng, roster)) for team, roster, _ in (home, away))
    edge = (home[2] - away[2] + 2.5) / 2
    pace = rng.normal(1.0, 0.045)
    _play(rng, sides, (edge, -edge), pace)
    if abs(sides[0].score - sides[1].score) == 1 and rng.random() < NEAR_TIE_RATE:
        behind = min(sides, key=lambda side: side.score)
        shooter = int(rng.integers(len(behind.playing)))
        behind.periods[0][shooter, [INDEX["ftm"], INDEX["fta"]]] += 1
    while sides[0].score == sides[1].score:
        _play(rng, sides, (edge, -edge), pace * 5 / 48)
    overtimes = len(sides[0].periods) - 1
    for side, other in (sides, sides[::-1]):
        share_minutes(rng, side, REGULATION_S + OVERTIME_S * overtimes, 2_880 + 300 * overtimes)
        share_margin(rng, side, side.score - other.score)
    return sides[0], sides[1]


def listed(rng: np.random.Generator, roster: Sequence[Person]) -> list[Line]:
    """Who is listed, who plays, who starts: the deeper on the bench, the rarer."""
    lines = []
    draws = rng.random((len(roster), 2))
    for rank, person in enumerate(roster):
        listed, out = (1.0, 0.1) if rank < 10 else (0.7, 0.35) if rank < 12 else (0.25, 0.5)
        if draws[rank, 0] < listed:
            reason = DNP_REASONS[int(draws[rank, 1] / out * 3)] if draws[rank, 1] < out else ""
            lines.append(Line(person, False, 0, reason))
    for line in lines:
        if sum(not other.dnp_reason for other in lines) >= 8:
            break
        line.dnp_reason = ""
    for line in [line for line in lines if not line.dnp_reason][:5]:
        line.starter = True
    return lines


def _play(rng: np.random.Generator, sides: tuple[Side, ...], edges: tuple[float, float], length: float) -> None:
    """Draw one stretch (1 = regulation) for both sides."""
    drawn = [_offence(rng, side, edge, length) for side, edge in zip(sides, edges, strict=True)]
    for side, own in zip(sides, drawn, strict=True):
        weights = court_time(side) * skill(side, "rebounding")
        own[:, INDEX["orb"]] = share(rng, int(rng.binomial(_missed(own), 0.26)), weights)
    for i, side in enumerate(sides):
        _defence(rng, side, drawn[i], drawn[1 - i], length)
        side.periods.append(drawn[i])


def _missed(stats: np.ndarray) -> int:
    """Missed field goals."""
    tried = stats[:, [INDEX["fg2a"], INDEX["fg3a"]]].sum()
    return int(tried - stats[:, [INDEX["fg2m"], INDEX["fg3m"]]].sum())


def _defence(rng: np.random.Generator, side: Side, own: np.ndarray, other: np.ndarray, length: float) -> None:
    """What follows from the other side's shots and losses; every miss is somebody's rebound."""
    weights = court_time(side)
    made = int(own[:, [INDEX["fg2m"], INDEX["fg3m"]]].sum())
    missed_twos = int((other[:, INDEX["fg2a"]] - other[:, INDEX["fg2m"]]).sum())
    counts = {
        "drb": (_missed(other) - int(other[:, INDEX["orb"]].sum()), skill(side, "rebounding")),
        "ast": (int(rng.binomial(made, 0.6)), skill(side, "passing")),
        "stl": (int(rng.binomial(int(other[:, INDEX["tov"]].sum()), 0.55)), skill(side, "defence")),
        "blk": (int(rng.binomial(missed_twos, 0.17)), skill(side, "rebounding") ** 2),
    }
    for name, (count, talent) in counts.items():
        own[:, INDEX[name]] = share(rng, count, weights * talent)
    earlier = sum((period[:, INDEX["pf"]] for period in side.periods), np.zeros(len(weights), dtype=int))
    fouls = share(rng, int(rng.poisson(19.5 * length)), weights)
    own[:, INDEX["pf"]] = np.minimum(fouls, np.maximum(MOST_FOULS - earlier, 0))


def _offence(rng: np.random.Generator, side: Side, edge: float, length: float) -> np.ndarray:
    """Shots, free throws and turnovers of one side; `edge` (points) moves the makes."""
    people = [line.person for line in side.playing]
    weights = court_time(side) * np.array([person.usage for person in people])
    stats = np.zeros((len(people), len(STATS)), dtype=int)
    shots = share(rng, max(4, round(rng.normal(88 * length, 5 * length**0.5))), weights)
    threes = rng.binomial(shots, [person.threes for person in people])
    touch = np.array([person.touch for person in people]) * (1 + edge / 110)
    stats[:, INDEX["fg3a"]], stats[:, INDEX["fg2a"]] = threes, shots - threes
    stats[:, INDEX["fg3m"]] = rng.binomial(threes, np.clip(0.36 * touch, 0.05, 0.7))
    stats[:, INDEX["fg2m"]] = rng.binomial(shots - threes, np.clip(0.535 * touch, 0.1, 0.85))
    stats[:, INDEX["fta"]] = share(rng, int(rng.poisson(21.5 * length)), weights)
    stats[:, INDEX["ftm"]] = rng.binomial(stats[:, INDEX["fta"]], np.clip(0.78 * touch, 0.3, 0.95))
    stats[:, INDEX["tov"]] = share(rng, int(rng.poisson(13.5 * length)), weights)
    return stats


def court_time(side: Side) -> np.ndarray:
    """Time on court by place in the rotation."""
    return np.array([1.0 if line.starter else 0.62 * 0.88**i for i, line in enumerate(side.playing)])


def skill(side: Side, name: str) -> np.ndarray:
    """One skill of those who play."""
    return np.array([getattr(line.person, name) for line in side.playing])


def share(rng: np.random.Generator, count: int, weights: np.ndarray) -> np.ndarray:
    """A count dealt out at random by weight."""
    return rng.multinomial(count, weights / weights.sum())


def share_minutes(rng: np.random.Generator, side: Side, total: int, most: int) -> None:
    """Seconds in steps of six (a tenth of a minute), so that minutes and decimals both add up exactly."""
    weights = court_time(side) * rng.uniform(0.8, 1.2, len(side.playing))
    units, cap = total // 6, most // 6
    shares = np.minimum(np.floor(weights / weights.sum() * units).astype(int), cap)
    shares = np.maximum(shares, 10)
    while (left := units - int(shares.sum())) != 0:
        step = 1 if left > 0 else -1
        free = np.flatnonzero(shares < cap) if left > 0 else np.flatnonzero(shares > 10)
        shares[free[: abs(left)]] += step
    for line, share in zip(side.playing, shares, strict=True):
        line.seconds = int(share) * 6


def share_margin(rng: np.random.Generator, side: Side, margin: int) -> None:
    """Five players are on court for every point: the sum is five times the margin."""
    seconds = np.array([line.seconds for line in side.playing])
    share = 5 * margin * seconds / seconds.sum()
    values = np.round(share + rng.normal(0, 5, len(seconds))).astype(int)
    excess = int(values.sum()) - 5 * margin
    order = np.argsort(-seconds, kind="stable")
    for i in range(abs(excess)):
        values[order[i % len(order)]] -= np.sign(excess)
    for line, value in zip(side.playing, values, strict=True):
        line.plus_minus = int(value)

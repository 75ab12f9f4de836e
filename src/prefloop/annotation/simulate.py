"""Simulated raters of known skill and habits: what the figures ought to find, and load for the queue.

A verdict is both bad, or a tie, at the rater's rates. Else one of its habits decides, each in its share of the verdicts
(a side, the length, a guess), and in the rest the rater reads the answers: an order is drawn from their qualities
(Plackett-Luce; of two answers Bradley-Terry) and said as drawn with probability `skill`, else turned round. This is
Crowd-BT with ``η = SimulatedRater.eta`` as long as sides and lengths have nothing to do with quality.
"""

from __future__ import annotations

import math
import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import BOTH_BAD, EQUAL, Verdict
from prefloop.annotation.queue import Nothing, lease, submit
from prefloop.annotation.schema import answer, rater
from prefloop.annotation.stream import Connection, read_project
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import Kind
from prefloop.errors import ConfigError

STRONG = 0.3
"""Share of choices that say "much better"."""
ROUNDING = 1e-9
_SPREAD = 0.4  # of the logarithm of the seconds taken


@dataclass(frozen=True)
class SimulatedRater:
    """A made-up person's skill and habits; all but `seconds` are shares of the verdicts.

    Raises:
        ConfigError: the shares do not fit together.
    """

    skill: float = 0.9
    """Of the verdicts that are read: chance that the order drawn from the qualities is said, not its reverse."""
    side: float = 0.0
    """Takes the answers as they are shown, the first best; negative: the last best."""
    length: float = 0.0
    """Takes the longer answer; negative: the shorter."""
    guess: float = 0.0
    tie: float = 0.0
    both_bad: float = 0.0
    """Of choices only: a ranking has no such verdict."""
    seconds: float = 30.0
    """Median time of a verdict."""

    def __post_init__(self) -> None:
        shares = (self.skill, abs(self.side), abs(self.length), self.guess, self.tie, self.both_bad)
        if not all(0 <= share <= 1 for share in shares) or self.attention < -ROUNDING or self.tie + self.both_bad > 1:
            raise ConfigError(f"a simulated rater's shares lie in 0..1 and add up to 1 at most: {self}")

    @property
    def attention(self) -> float:
        """Share of decided verdicts that come from reading."""
        return 1 - abs(self.side) - abs(self.length) - self.guess

    @property
    def eta(self) -> float:
        """Chance to name the better of two answers that differ without doubt, in a decided verdict."""
        return self.attention * self.skill + (1 - self.attention) / 2

    def order(
        self, shown: Sequence[int], quality: Mapping[int, float], lengths: Mapping[int, int], rng: random.Random
    ) -> list[int]:
        """Answer indices, best first."""
        drawn, mixed = rng.random(), rng.sample(list(shown), len(shown))
        if drawn < abs(self.side):
            return list(shown) if self.side > 0 else list(reversed(shown))
        if drawn < abs(self.side) + abs(self.length):
            return sorted(mixed, key=lambda index: lengths[index], reverse=self.length > 0)
        if drawn < 1 - self.attention:
            return mixed
        noisy = {index: quality[index] - math.log(-math.log(1 - rng.random() or 1e-300)) for index in mixed}
        best_first = sorted(mixed, key=noisy.__getitem__, reverse=True)
        return best_first if rng.random() < self.skill else best_first[::-1]

    def says(
        self,
        kind: Kind,
        shown: Sequence[int],
        quality: Mapping[int, float],
        lengths: Mapping[int, int],
        rng: random.Random,
    ) -> dict[str, Any]:
        """A verdict's `kind` with its `strength` or `ranking`, on answers shown in this order from left to right."""
        best_first, drawn = self.order(shown, quality, lengths, rng), rng.random()
        if kind == "ranking":
            tiers = [[index] for index in best_first]
            if drawn < self.tie:
                tied = rng.randrange(len(tiers) - 1)
                tiers[tied : tied + 2] = [tiers[tied] + tiers[tied + 1]]
            return {"kind": "ranking", "ranking": tiers}
        if drawn < self.both_bad:
            strength = BOTH_BAD
        elif drawn < self.both_bad + self.tie:
            strength = EQUAL
        else:
            strength = EQUAL + (-1 if best_first[0] == shown[0] else 1) * (2 if rng.random() < STRONG else 1)
        return {"kind": "choice", "strength": strength}


def enrol(connection: Connection, count: int, now: int) -> list[int]:
    """Accounts for simulated raters, which nobody can sign in to; their ids."""
    known = connection.scalar(sa.select(sa.func.count()).where(rater.c.pseudonym.like("simulated-%"))) or 0
    ids = []
    for number in range(known + 1, known + count + 1):
        row = {"pseudonym": f"simulated-{number}", "role": "rater", "status": "active", "qualified": True}
        key = connection.execute(sa.insert(rater).values(created=now, **row)).inserted_primary_key
        assert key is not None
        ids.append(int(key[0]))
    return ids


def simulate(
    writer: Writer,
    raters: Mapping[int, SimulatedRater],
    quality: Mapping[str, float],
    *,
    start: int,
    verdicts: int | None = None,
    seed: int = 0,
) -> int:
    """Let simulated raters work side by side, each at its own pace, until the queue has nothing for any of them.

    Args:
        raters: by account (`enrol`).
        quality: log strength of every completion, by its id.
        start: when they begin, in milliseconds.
        verdicts: stop after so many.

    Returns:
        How many verdicts they gave.
    """
    kind = writer.run(lambda connection: read_project(connection).config.kind)
    clocks, rngs = dict.fromkeys(raters, start), {key: random.Random(f"{seed}:{key}") for key in raters}
    given = 0
    while verdicts is None or given < verdicts:
        room = len(raters) if verdicts is None else verdicts - given
        waiting = {
            key: writer.submit(partial(_step, key, one, rngs[key], quality, clocks[key], kind))
            for key, one in list(raters.items())[:room]
        }
        ended = {key: future.result() for key, future in waiting.items()}
        worked = {key: end for key, end in ended.items() if end is not None}
        if not worked:
            break
        clocks |= worked
        given += len(worked)
    return given


def _step(
    rater_id: int,
    one: SimulatedRater,
    rng: random.Random,
    quality: Mapping[str, float],
    now: int,
    kind: Kind,
    connection: Connection,
) -> int | None:
    """One item from the queue to its verdict; when it was given, or None where there was none."""
    shown = lease(connection, rater_id, now)
    if isinstance(shown, Nothing):
        return None
    end = now + round(1000 * rng.lognormvariate(math.log(one.seconds), _SPREAD))
    asked = sa.select(answer.c.index, answer.c.completion_id, sa.func.length(answer.c.text).label("length"))
    rows: Sequence[Any] = connection.execute(asked.where(answer.c.item_id == shown.item_id)).all()
    qualities = {row.index: quality[row.completion_id] for row in rows}
    said = one.says(kind, shown.order, qualities, {row.index: row.length for row in rows}, rng)
    # Not random: the same simulation leaves the same log.
    base = {"client_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{shown.handle}:{end}")), "item_id": shown.handle}
    submit(connection, rater_id, Verdict.model_validate(base | said), end)
    return end

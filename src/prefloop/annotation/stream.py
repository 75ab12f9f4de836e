"""What a rater is shown next, and in which order its answers stand. Reads only; `prefloop.annotation.queue` writes."""

from __future__ import annotations

import hashlib
import hmac
import random
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import SCORED, RefusedError
from prefloop.annotation.schema import item, judgement, project, showing
from prefloop.annotation.statements import ASKING, GIVEN_BACK, HELD_BY_OTHERS, JUDGED_SO_FAR, UNSEEN
from prefloop.config.annotation import AnnotationConfig

Connection = sa.Connection
REPEAT_AFTER = 10
"""Least verdicts between an item and its repeat."""


@dataclass(frozen=True)
class Project:
    """What the queue needs to know of its project."""

    config: AnnotationConfig
    state: str
    reason: str
    secret: str


@dataclass(frozen=True)
class Next:
    """An item that may be shown."""

    handle: str
    """What the rater calls it."""
    item_id: str
    turn: int
    order: tuple[int, ...]
    """Answer indices from left to right."""
    shown: bool
    """Whether this rater has had it before, and its showing stands in the database."""


def read_project(connection: Connection) -> Project:
    """The one project of this database."""
    return _project(connection.execute(sa.select(project)).one())


def read_asking(connection: Connection, rater_id: int) -> tuple[Project, bool]:
    """The project, and whether this rater has passed its calibration.

    Raises:
        RefusedError: the rater's part is over.
    """
    row = connection.execute(ASKING, {"rater": rater_id}).first()
    if row is None:
        raise RefusedError("forbidden", "this account has been closed: ask the person who runs the project")
    return _project(row), row.qualified


def next_item(connection: Connection, found: Project, rater_id: int, qualified: bool) -> Next | None:
    """Calibration first, then what the rater was shown and has not answered or has withdrawn; then the stream.

    Hidden gold and repeats come at their shares, drawn from the secret and the rater's count.
    """
    if not qualified:
        training = unseen(connection, found, rater_id, "training")
        if training or found.config.qualification:
            return training
    if again := _given_back(connection, rater_id):
        return again
    judged = connection.scalar(JUDGED_SO_FAR, {"rater": rater_id})
    drawn, gold = _drawn(found.secret, "stream", rater_id, judged), found.config.gold_share
    if drawn < gold and (hidden := unseen(connection, found, rater_id, "gold")):
        return hidden
    if gold <= drawn < gold + found.config.repeat_share and (again := _to_repeat(connection, found, rater_id)):
        return again
    return unseen(connection, found, rater_id, "item")


def unseen(connection: Connection, found: Project, rater_id: int, role: str) -> Next | None:
    """The first item of a role that has a free slot and that this rater has not answered."""
    row = connection.execute(UNSEEN[role], {"rater": rater_id}).first()
    if row is None:
        return None
    order = row.order or sides(found.secret, rater_id, row.id, row.answers)
    return Next(handle_of(found.secret, row.id, rater_id, 0), row.id, 0, tuple(order), row.order is not None)


def sides(secret: str, rater_id: int, item_id: str, answers: int) -> tuple[int, ...]:
    """Answer indices from left to right, by the project's secret, the rater and the item."""
    order = list(range(answers))
    random.Random(_seed(secret, "sides", rater_id, item_id)).shuffle(order)
    return tuple(order)


def handle_of(secret: str, item_id: str, rater_id: int, turn: int) -> str:
    """What a rater calls an item that was shown: the second look at one has nothing in common with the first."""
    return _digest(secret, "handle", item_id, rater_id, turn).hex()[:20]


def why_none(connection: Connection, found: Project, rater_id: int, qualified: bool) -> str:
    """``held`` where a slot may come free again, else ``done``, or ``unqualified``."""
    if found.config.qualification and not qualified:
        return "unqualified"
    return "held" if connection.execute(HELD_BY_OTHERS, {"rater": rater_id}).first() else "done"


def _given_back(connection: Connection, rater_id: int) -> Next | None:
    """What the rater let go longest ago: an ordinary item, while it has a free slot, hidden gold, or a repeat."""
    rows = connection.execute(GIVEN_BACK, {"rater": rater_id}).all()  # mostly none
    row = min(rows, key=lambda row: (row.opened, row.handle), default=None)
    return Next(row.handle, row.item_id, row.turn, tuple(row.order), True) if row else None


def _to_repeat(connection: Connection, found: Project, rater_id: int) -> Next | None:
    """An item that the rater judged a while ago and has not been asked again, sides swapped."""
    repeated = sa.exists().where(
        showing.c.item_id == judgement.c.item_id, showing.c.rater_id == rater_id, showing.c.turn == 1
    )
    mine = (
        sa.select(*judgement.c["item_id", "order"])
        .join(item, item.c.id == judgement.c.item_id)
        .where(judgement.c.rater_id == rater_id, judgement.c.turn == 0, judgement.c.current)
        .where(judgement.c.kind.in_(SCORED), item.c.role == "item", ~repeated)
    )
    row = connection.execute(mine.order_by(judgement.c.seq.desc()).offset(REPEAT_AFTER).limit(1)).first()
    if row is None:
        return None
    return Next(handle_of(found.secret, row.item_id, rater_id, 1), row.item_id, 1, tuple(reversed(row.order)), False)


def _project(row: Any) -> Project:
    return Project(AnnotationConfig.model_validate(row.settings), row.state, row.reason, row.secret)


def _seed(secret: str, *parts: object) -> int:
    return int.from_bytes(_digest(secret, *parts)[:8], "big")


def _digest(secret: str, *parts: object) -> bytes:
    return hmac.new(secret.encode(), ":".join(map(str, parts)).encode(), hashlib.sha256).digest()


def _drawn(secret: str, *parts: object) -> float:
    """Uniform in [0, 1), with the 53 bits that a float has."""
    return float((_seed(secret, *parts) >> 11) / 2**53)

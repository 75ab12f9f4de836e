"""How far a project is: live counts straight from SQL. What takes arithmetic is in `prefloop.annotation.figures`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.adjudication import ambiguous
from prefloop.annotation.protocol import SCORED
from prefloop.annotation.schema import item, judgement, project, rater, showing
from prefloop.annotation.stream import Connection

HOUR = 3_600_000
"""Milliseconds."""
ACTIVE = 300_000
"""Milliseconds since a verdict during which its rater counts as being at work."""


@dataclass(frozen=True)
class RaterProgress:
    """How much one person has done: current verdicts on items, gold, repeats and calibration, without skips."""

    rater_id: int
    pseudonym: str
    status: str
    today: int
    all: int
    last: int | None
    """When the last of them came, in milliseconds."""


@dataclass(frozen=True)
class Progress:
    """The counts of one moment; `dataclasses.asdict` makes them JSON."""

    state: str
    reason: str
    items: dict[str, dict[str, int]]
    """How many, by role and status."""
    done: int
    """Slots filled."""
    target: int
    """Slots wanted: an item that is not open wants no more than it has."""
    raters: tuple[RaterProgress, ...]
    per_hour: float
    """Slots filled per hour, over the last hour or since work began if that is later."""
    hours_left: float | None
    """Until the target at this speed; None where nothing comes in."""
    active: int
    """Raters who hold an item or gave a verdict in the last five minutes."""
    leases: int
    skips: dict[str, int]
    """Skips that stand, by reason."""
    aside: int
    """Items set aside because they were skipped too often."""
    ambiguous: int
    """Items whose question most people find ambiguous; they are not trained on."""


def progress(connection: Connection, now: int, midnight: int) -> Progress:
    """Count.

    Args:
        now, midnight: milliseconds; what "today" means is the caller's (`local_midnight`).
    """
    stands = connection.execute(sa.select(project.c.state, project.c.reason)).one()
    counted = _items(connection)
    done = sum(row.done for row in counted)
    target = sum(row.target if row.status == "open" else row.done for row in counted if row.role == "item")
    by_role: dict[str, dict[str, int]] = {}
    for row in counted:
        by_role.setdefault(row.role, {})[row.status] = row.count
    speed = _per_hour(connection, now)
    held = _live(now)
    return Progress(
        state=stands.state,
        reason=stands.reason,
        items=by_role,
        done=done,
        target=target,
        raters=_raters(connection, midnight),
        per_hour=speed,
        hours_left=(target - done) / speed if speed else (0.0 if target == done else None),
        active=_active(connection, now),
        leases=connection.scalar(sa.select(sa.func.count()).select_from(showing).where(*held)) or 0,
        skips=_skips(connection),
        aside=by_role.get("item", {}).get("aside", 0),
        ambiguous=len(ambiguous(connection)),
    )


def local_midnight(now: int) -> int:
    """When today began where the server runs, in milliseconds."""
    day = time.localtime(now / 1000)
    return round(time.mktime((day.tm_year, day.tm_mon, day.tm_mday, 0, 0, 0, 0, 0, -1)) * 1000)


def _items(connection: Connection) -> Any:
    return connection.execute(
        sa.select(
            item.c.role,
            item.c.status,
            sa.func.count().label("count"),
            sa.func.sum(item.c.done).label("done"),
            sa.func.sum(item.c.target).label("target"),
        )
        .group_by(item.c.role, item.c.status)
        .order_by(item.c.role, item.c.status)
    ).all()


def _raters(connection: Connection, midnight: int) -> tuple[RaterProgress, ...]:
    mine = sa.and_(judgement.c.rater_id == rater.c.id, judgement.c.current, judgement.c.kind.in_(SCORED))
    rows = connection.execute(
        sa.select(
            rater.c.id,
            rater.c.pseudonym,
            rater.c.status,
            sa.func.count(sa.case((judgement.c.submitted >= midnight, 1))),
            sa.func.count(judgement.c.seq),
            sa.func.max(judgement.c.submitted),
        )
        .outerjoin_from(rater, judgement, mine)
        .group_by(rater.c.id, rater.c.pseudonym, rater.c.status)
        .order_by(rater.c.id)
    )
    return tuple(RaterProgress(*row) for row in rows)


def _per_hour(connection: Connection, now: int) -> float:
    began, recent = connection.execute(
        sa.select(
            sa.func.min(judgement.c.opened), sa.func.count(sa.case((judgement.c.submitted > now - HOUR, 1)))
        ).where(judgement.c.revision == 0, judgement.c.counted)  # an edit fills no slot
    ).one()
    return float(recent * HOUR / max(now - max(began, now - HOUR), 1)) if recent else 0.0


def _active(connection: Connection, now: int) -> int:
    working = sa.union(
        sa.select(showing.c.rater_id).where(*_live(now)),
        sa.select(judgement.c.rater_id).where(judgement.c.submitted > now - ACTIVE),
    ).subquery()
    return connection.scalar(sa.select(sa.func.count()).select_from(working)) or 0


def _live(now: int) -> tuple[sa.ColumnElement[bool], ...]:
    return showing.c.state == "leased", showing.c.expires > now


def _skips(connection: Connection) -> dict[str, int]:
    rows = connection.execute(
        sa.select(judgement.c.reason, sa.func.count())
        .where(judgement.c.kind == "skip", judgement.c.current)
        .group_by(judgement.c.reason)
        .order_by(judgement.c.reason)
    )
    return {row[0]: row[1] for row in rows}

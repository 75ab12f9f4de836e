"""What the person running a project does to it: pause, ask again, end a rater's part. Each is one job of the writer."""

from __future__ import annotations

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.queue import release, review
from prefloop.annotation.schema import event, invite, item, judgement, project, rater, session, token
from prefloop.annotation.stream import Connection

STATES = ("running", "paused", "stopped")


def requeue(connection: Connection, item_id: str, now: int, by: int | None = None) -> None:
    """Ask one more person about an item, even if it was set aside or settled; one more skip sets it aside again.

    Raises:
        RefusedError: there is no such item.
    """
    changed = connection.execute(
        sa.update(item)
        .where(item.c.id == item_id, item.c.role == "item")
        .values(target=item.c.target + 1, status="open")
    )
    if not changed.rowcount:
        raise RefusedError("missing", f"there is no item {item_id}")
    settled = (judgement.c.item_id == item_id, judgement.c.kind == "adjudication")
    connection.execute(sa.update(judgement).where(*settled).values(current=False))  # or the new verdict has no say
    review(connection, item_id)
    record(connection, "requeued", item_id, now, by)


def remove_rater(connection: Connection, rater_id: int, now: int, *, discard: bool, by: int | None = None) -> int:
    """End a rater's part: sessions, tokens, links, leases and name go; verdicts stay under the pseudonym.

    Args:
        discard: their verdicts no longer count, and the items ask somebody else; they stay in the log.

    Returns:
        How many verdicts stopped counting.

    Raises:
        RefusedError: there is no such rater.
    """
    gone = {"status": "removed", "name": None, "password": None, "discarded": rater.c.discarded | sa.literal(discard)}
    if not connection.execute(sa.update(rater).where(rater.c.id == rater_id).values(gone)).rowcount:
        raise RefusedError("missing", f"there is no rater {rater_id}")
    release(connection, rater_id)
    for table in (session, invite):
        connection.execute(sa.delete(table).where(table.c.rater_id == rater_id))
    connection.execute(
        sa.update(token).where(token.c.rater_id == rater_id, token.c.revoked.is_(None)).values(revoked=now)
    )
    discarded = _discard(connection, rater_id) if discard else 0
    record(connection, "removed", f"rater {rater_id}, {discarded} verdicts discarded", now, by)
    return discarded


def set_state(connection: Connection, state: str, reason: str, now: int, by: int | None = None) -> None:
    """Pause, stop or go on.

    Raises:
        RefusedError: there is no such state.
    """
    if state not in STATES:
        raise RefusedError("invalid", f"a project is {', '.join(STATES)}, not {state[:20]}")
    connection.execute(sa.update(project).values(state=state, reason=reason))
    record(connection, state, reason, now, by)


def record(connection: Connection, what: str, about: str, now: int, by: int | None = None) -> None:
    """A line in the project's log."""
    connection.execute(sa.insert(event).values(at=now, rater_id=by, what=what, about=about))


def _discard(connection: Connection, rater_id: int) -> int:
    """A rater fills at most one slot of an item, so each item loses one, and so is not closed."""
    counting = sa.and_(judgement.c.rater_id == rater_id, judgement.c.counted)
    mine = sa.select(judgement.c.item_id).where(counting, judgement.c.current)
    split = connection.scalars(sa.select(item.c.id).where(item.c.id.in_(mine), item.c.extra > 0)).all()
    status = sa.case((item.c.status == "closed", "open"), else_=item.c.status)
    changed = connection.execute(sa.update(item).where(item.c.id.in_(mine)).values(done=item.c.done - 1, status=status))
    connection.execute(sa.update(judgement).where(counting).values(counted=False))
    for item_id in split:
        review(connection, item_id)
    return changed.rowcount

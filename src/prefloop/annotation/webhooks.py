"""What other systems are told: an outbox in the database, filled by the transaction in which the thing happens.

An event is stored with what it tells of, or not at all; `prefloop.annotation.courier` sends what is stored. A receiver
gets each event at least once, and knows a second copy by its id. The body is signed together with the time of sending
(HMAC-SHA256), so that a receiver can refuse what is forged, changed, or sent again later by somebody else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args

import sqlalchemy as sa

from prefloop.annotation import adjudication, control, queue
from prefloop.annotation.api_models_running import Event
from prefloop.annotation.protocol import RefusedError, Verdict
from prefloop.annotation.receivers import receiver
from prefloop.annotation.schema import delivery, item, judgement, rater, showing, webhook

EVENTS = get_args(Event)
TEST = "webhook.test"
"""Sent when somebody asks for it, to one receiver, whatever it wants to be told."""
SIGNATURE, EVENT, DELIVERY_ID = "X-Prefloop-Signature", "X-Prefloop-Event", "X-Prefloop-Id"
WINDOW_S = 300
"""A receiver refuses what was signed longer ago, or so far in the future."""
TRIES = 8
_FIRST_WAIT_MS = 15_000
_DAY_MS = 86_400_000
KEPT_MS = 30 * _DAY_MS
"""What was delivered or given up stays in the list for so long."""
_REASON = 500
"""Characters kept of why a try failed."""


def enqueue(connection: sa.Connection, event: str, payload: dict[str, Any], now: int) -> int:
    """Store an event for every webhook that wants it, in the transaction that makes it true; for how many.

    Args:
        payload: plain JSON, without names of people.
    """
    assert event in EVENTS, event
    hooks = connection.execute(sa.select(webhook.c.id, webhook.c.events).where(webhook.c.disabled.is_(None)))
    wanted = [row.id for row in hooks if event in row.events]
    if wanted:
        _store(connection, wanted, event, payload, now)
    return len(wanted)


def send_test(connection: sa.Connection, webhook_id: int, now: int) -> None:
    """Store an event that tells of nothing for one receiver.

    Raises:
        RefusedError: there is no such webhook.
    """
    if receiver(connection, webhook_id).disabled is not None:
        raise RefusedError("missing", "there is no such webhook")
    _store(connection, [webhook_id], TEST, {}, now)


def _store(connection: sa.Connection, hooks: Sequence[int], event: str, payload: dict[str, Any], now: int) -> None:
    body = {"id": str(uuid.uuid4()), "event": event, "created": now, "data": payload}
    row = {"event": event, "payload": body, "created": now, "due": now, "tries": 0, "status": "waiting"}
    connection.execute(sa.insert(delivery), [row | {"webhook_id": hook} for hook in hooks])


# Jobs that tell


def lease(connection: sa.Connection, rater_id: int, now: int) -> queue.Showing | queue.Nothing:
    """`prefloop.annotation.queue.lease`; what becomes of items whose leases have run out is told as ``item.…``."""
    if not _anybody(connection):
        return queue.lease(connection, rater_id, now)
    with _telling(connection, now):
        return queue.lease(connection, rater_id, now)


def submit(connection: sa.Connection, rater_id: int, verdict: Verdict, now: int) -> queue.Receipt:
    """`prefloop.annotation.queue.submit`, told as ``judgement.created`` and, where the item moved on, ``item.…``."""
    if not _anybody(connection):
        return queue.submit(connection, rater_id, verdict, now)
    with _telling(connection, now, verdict.item_id):
        receipt = queue.submit(connection, rater_id, verdict, now)
        if receipt.state != "known":
            enqueue(connection, "judgement.created", _judged(connection, receipt.seq), now)
    return receipt


def requeue(connection: sa.Connection, item_id: str, now: int, by: int | None = None) -> None:
    """`prefloop.annotation.control.requeue`, told as ``item.open``."""
    before = _status(connection, item_id)
    control.requeue(connection, item_id, now, by)
    _moved(connection, item_id, before, now)


def adjudicate(connection: sa.Connection, reviewer_id: int, verdict: Verdict, now: int) -> int:
    """`prefloop.annotation.adjudication.adjudicate`, told as ``item.settled``."""
    before = _status(connection, verdict.item_id)
    seq = adjudication.adjudicate(connection, reviewer_id, verdict, now)
    _moved(connection, verdict.item_id, before, now)
    return seq


def set_state(connection: sa.Connection, state: str, reason: str, now: int, by: int | None = None) -> None:
    """`prefloop.annotation.control.set_state`, told as ``project.…``."""
    control.set_state(connection, state, reason, now, by)
    enqueue(connection, f"project.{state}", {"reason": reason}, now)


def remove_rater(connection: sa.Connection, rater_id: int, now: int, *, discard: bool, by: int | None = None) -> int:
    """`prefloop.annotation.control.remove_rater`, told as ``rater.removed``, but not item by item."""
    pseudonym = connection.scalar(sa.select(rater.c.pseudonym).where(rater.c.id == rater_id))
    discarded = control.remove_rater(connection, rater_id, now, discard=discard, by=by)
    enqueue(connection, "rater.removed", {"rater": pseudonym, "discarded": discarded}, now)
    return discarded


def _anybody(connection: sa.Connection) -> bool:
    return connection.scalar(sa.select(webhook.c.id).where(webhook.c.disabled.is_(None)).limit(1)) is not None


@contextmanager
def _telling(connection: sa.Connection, now: int, handle: str = "") -> Iterator[None]:
    """Tell what becomes of the item shown under a handle, and of those whose leases have run out."""
    over = sa.and_(showing.c.state == "leased", showing.c.expires <= now)
    about = sa.select(item.c.id, item.c.status).join(showing, showing.c.item_id == item.c.id)
    rows = connection.execute(about.where(over | (showing.c.handle == handle)))
    before = {row.id: row.status for row in rows}
    yield
    for item_id, status in before.items():
        _moved(connection, item_id, status, now)


def _status(connection: sa.Connection, item_id: str) -> str | None:
    return connection.scalar(sa.select(item.c.status).where(item.c.id == item_id))


def _moved(connection: sa.Connection, item_id: str, before: str | None, now: int) -> None:
    row = connection.execute(sa.select(item.c.status, item.c.done, item.c.target).where(item.c.id == item_id)).one()
    if row.status != before:
        enqueue(connection, f"item.{row.status}", {"item": item_id, "done": row.done, "target": row.target}, now)


def _judged(connection: sa.Connection, seq: int) -> dict[str, Any]:
    names = ("seq", "item_id", "turn", "revision", "kind", "counted", "strength", "ranking", "order", "submitted")
    found = sa.select(judgement, rater.c.pseudonym).join(rater, rater.c.id == judgement.c.rater_id)
    row = connection.execute(found.where(judgement.c.seq == seq)).one()
    return {name: getattr(row, name) for name in names} | {"rater": row.pseudonym}


# Registration


def register(
    connection: sa.Connection, url: str, events: Sequence[str], now: int, by: int | None = None
) -> tuple[int, str]:
    """A new webhook; its id and its secret, which is shown this once.

    The secret is stored as it is: signing needs it. `prefloop.annotation.destinations` has checked the URL.
    """
    secret = secrets.token_hex(32)
    row = {"url": url, "secret": secret, "events": sorted(set(events)), "created": now}
    key = connection.execute(sa.insert(webhook).values(**row)).inserted_primary_key
    assert key is not None
    control.record(connection, "webhook added", f"webhook {key[0]}", now, by)
    return int(key[0]), secret


def remove(connection: sa.Connection, webhook_id: int, now: int, by: int | None = None) -> None:
    """Send it nothing more; what was sent stays in the list for a while.

    Raises:
        RefusedError: there is no such webhook.
    """
    changed = connection.execute(
        sa.update(webhook).where(webhook.c.id == webhook_id, webhook.c.disabled.is_(None)).values(disabled=now)
    )
    if not changed.rowcount:
        raise RefusedError("missing", "there is no such webhook")
    control.record(connection, "webhook removed", f"webhook {webhook_id}", now, by)
    waiting = sa.update(delivery).where(delivery.c.webhook_id == webhook_id, delivery.c.due.is_not(None))
    connection.execute(waiting.values(due=None, status="not sent: the webhook was removed"))


# What the courier reads and writes


def due(connection: sa.Connection, now: int, resting: set[int], most: int) -> list[Any]:
    """Deliveries to be tried now, longest waiting first, but none of the webhooks named."""
    wanted = (
        sa.select(delivery, webhook.c.url, webhook.c.secret)
        .join(webhook, webhook.c.id == delivery.c.webhook_id)
        .where(delivery.c.due <= now, delivery.c.webhook_id.not_in(resting))
    )
    return list(connection.execute(wanted.order_by(delivery.c.due, delivery.c.id).limit(most)).all())


def delivered(connection: sa.Connection, delivery_id: int, status: str) -> None:
    """A receiver took it."""
    row = sa.update(delivery).where(delivery.c.id == delivery_id)
    connection.execute(row.values(due=None, tries=delivery.c.tries + 1, status=status))


def failed(connection: sa.Connection, delivery_id: int, reason: str, now: int) -> bool:
    """A try failed: wait four times longer than before, or give up and say so in the log; whether it was given up."""
    row = connection.execute(sa.select(delivery).where(delivery.c.id == delivery_id)).one()
    if row.due is None:  # removed meanwhile
        return False
    tries, reason = row.tries + 1, reason[:_REASON]
    over: bool = tries >= TRIES
    status = f"gave up after {tries} tries: {reason}" if over else f"failed, will be tried again: {reason}"
    due_at = None if over else now + wait_ms(tries)
    changed = sa.update(delivery).where(delivery.c.id == delivery_id)
    connection.execute(changed.values(due=due_at, tries=tries, status=status))
    if over:
        control.record(connection, "webhook gave up", f"webhook {row.webhook_id}, {row.event}: {reason}", now)
    return over


def wait_ms(tries: int) -> int:
    """Milliseconds until the next try: 15 s, 1 min, 4 min, 16 min, 64 min, 4.3 h, 17 h; 8 tries in 22.75 hours.

    >>> sum(map(wait_ms, range(1, TRIES))) / 3_600_000
    22.75...
    """
    return int(_FIRST_WAIT_MS * 4 ** (tries - 1))


def sweep(connection: sa.Connection, now: int) -> int:
    """Give up what has waited two days behind a receiver that fails, and forget what is long over; how many given up.

    A receiver that fails is tried only now and then, so what is queued for it may wait longer than its own tries take.
    """
    old = sa.update(delivery).where(delivery.c.due.is_not(None), delivery.c.created < now - 2 * _DAY_MS)
    given_up = connection.execute(old.values(due=None, status="gave up: its receiver failed for two days")).rowcount
    if given_up:
        control.record(connection, "webhook gave up", f"{given_up} deliveries older than two days", now)
    connection.execute(sa.delete(delivery).where(delivery.c.due.is_(None), delivery.c.created < now - KEPT_MS))
    return given_up


# Signatures


def sign(secret: str, body: bytes, seconds: int) -> str:
    """The signature header: the time of sending and the HMAC-SHA256 of ``time.body``.

    >>> sign("s", b"{}", 7)
    't=7,v1=...'
    """
    return f"t={seconds},v1={_digest(secret, body, seconds)}"


def verify(secret: str, signature: str, body: bytes, *, seconds: int | None = None, window: int = WINDOW_S) -> bool:
    """For receivers: is this body from the server that holds the secret, and was it signed just now?

    Args:
        signature: the ``X-Prefloop-Signature`` header.
        body: the bytes received, before they are parsed.
        seconds: the receiver's time since 1970; default its clock.
        window: how many seconds the times may differ.

    >>> verify("s", sign("s", b"{}", 7), b"{}", seconds=8)
    True
    """
    found = re.fullmatch(r"t=(\d{1,15}),v1=([0-9a-f]{64})", signature, re.ASCII)
    if found is None:
        return False
    sent = int(found[1])
    if abs((int(time.time()) if seconds is None else seconds) - sent) > window:
        return False
    return hmac.compare_digest(found[2], _digest(secret, body, sent))


def _digest(secret: str, body: bytes, seconds: int) -> str:
    return hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()

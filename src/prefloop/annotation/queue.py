"""The queue: who judges what next, and what becomes of a verdict. Every function is one job of the writer.

An item has ``done + leased`` people on its ``target`` slots and never more: slots are counted in the transaction that
hands them out. A lease ends by a verdict, a skip, its time, or its rater's removal; leases that have run out are taken
back by whoever looks for work next. A verdict after its time counts if a slot is still free, else it is kept as
surplus: work is never refused. Counters are read and written by one writer, so a value read in a job still holds when
the job writes it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import SCORED, RefusedError, Verdict, winner
from prefloop.annotation.schema import item, judgement, rater, showing
from prefloop.annotation.statements import (
    ASKED,
    END_SHOWING,
    HELD,
    NEW_JUDGEMENT,
    NEW_SHOWING,
    ONE_MORE_LEASED,
    RUN_OUT,
    SENT_BEFORE,
    SET_BACK_MS,
)
from prefloop.annotation.stream import Connection, Next, Project, next_item, read_asking, read_project, unseen, why_none
from prefloop.config.annotation import AnnotationConfig


@dataclass(frozen=True)
class Showing:
    """An item held for a rater; gold and repeats look like any other."""

    handle: str
    """What its rater calls it: it tells neither which item it is nor whether for the second time."""
    item_id: str
    turn: int
    order: tuple[int, ...]
    """Answer indices from left to right."""
    opened: int
    expires: int


@dataclass(frozen=True)
class Nothing:
    """No item now."""

    reason: str
    """``paused``, ``stopped``, ``done`` (this rater has judged all there is), ``held`` (others hold the rest) or
    ``unqualified`` (the calibration was not passed)."""


@dataclass(frozen=True)
class Receipt:
    """What became of a verdict."""

    seq: int
    state: str
    """``counted`` (hidden gold and repeats say so, too, or they would give themselves away), ``surplus``, ``kept``
    (calibration), ``edited``, ``skipped``, ``withdrawn``; or ``known``: the very same was received before."""
    feedback: dict[str, Any] | None = None
    """Calibration items: ``right``, ``best`` (answer indices, ``tie``, ``both bad``) and ``explanation``."""


def lease(connection: Connection, rater_id: int, now: int) -> Showing | Nothing:
    """The item that this rater holds, renewed, or the next one.

    Raises:
        RefusedError: the rater's part is over.
    """
    found, qualified = read_asking(connection, rater_id)
    if found.state != "running":
        return Nothing(found.state)
    expire(connection, now)
    expires = now + _length(found)
    held = connection.execute(HELD, {"rater": rater_id}).first()
    if held:
        connection.execute(_this(held.handle).values(expires=expires))
        return Showing(held.handle, held.item_id, held.turn, tuple(held.order), held.opened, expires)
    chosen = next_item(connection, found, rater_id, qualified)
    if chosen is None:
        return Nothing(why_none(connection, found, rater_id, qualified))
    return _hold(connection, rater_id, chosen, now, expires)


def renew(connection: Connection, rater_id: int, handle: str, now: int) -> int | None:
    """Lengthen a lease by activity; its new end, or None where it is no longer held."""
    expires = now + _length(read_project(connection))
    mine = (showing.c.rater_id == rater_id, showing.c.state == "leased")
    changed = connection.execute(_this(handle).where(*mine).values(expires=expires))
    return expires if changed.rowcount else None


def submit(connection: Connection, rater_id: int, verdict: Verdict, now: int) -> Receipt:
    """Append a verdict, whole or not at all.

    The same ``client_id`` again is the same verdict. A second one on the same item is an edit if it says that it is
    (``verdict.revises``), else it is refused: it comes from another tab that did not know of the first.

    Raises:
        RefusedError: the rater was never shown the item or is out, the verdict does not fit it, or it is a second one.
    """
    if known := _received(connection, rater_id, verdict):
        return known
    found, _ = read_asking(connection, rater_id)
    expire(connection, now)
    asked = _asked(connection, rater_id, verdict)
    verdict.check(found.config, len(asked.order))
    _follows(asked, verdict)
    counted = _counts(asked, verdict)
    seq = _append(connection, rater_id, verdict, asked, counted, now)
    _count(connection, found.config, asked, verdict, counted)
    if asked.role == "training":
        _qualify(connection, found, rater_id)
        return Receipt(seq, "kept", _feedback(connection, seq))
    return Receipt(seq, _state(asked, verdict, counted))


def expire(connection: Connection, now: int) -> int:
    """Take back the leases that have run out; how many."""
    if connection.execute(RUN_OUT, {"now": now}).first() is None:  # as it mostly is
        return 0
    over = sa.or_(showing.c.expires <= now, showing.c.opened > now + SET_BACK_MS)
    return _end_leases(connection, over, "expired")


def release(connection: Connection, rater_id: int) -> int:
    """Give back what a rater holds; how many."""
    return _end_leases(connection, showing.c.rater_id == rater_id, "released")


def review(connection: Connection, item_id: str) -> None:
    """After a lease or a verdict has gone: give back the extra slots of an item that no split needs any longer."""
    asked = connection.execute(sa.select(item.c.id.label("item_id"), item).where(item.c.id == item_id)).one()
    if asked.extra:
        counts = {name: getattr(asked, name) for name in ("done", "leased", "skipped")}
        standing = _standing(connection, read_project(connection).config, asked, **counts)
        connection.execute(sa.update(item).where(item.c.id == item_id).values(**standing))


def _hold(connection: Connection, rater_id: int, chosen: Next, now: int, expires: int) -> Showing:
    held = {"state": "leased", "opened": now, "expires": expires}
    if chosen.shown:
        connection.execute(_this(chosen.handle).values(**held))
    else:
        row = {"handle": chosen.handle, "item_id": chosen.item_id, "rater_id": rater_id, "turn": chosen.turn}
        connection.execute(NEW_SHOWING, row | {"order": list(chosen.order)} | held)
    if chosen.turn == 0:
        connection.execute(ONE_MORE_LEASED, {"item": chosen.item_id})
    return Showing(chosen.handle, chosen.item_id, chosen.turn, chosen.order, now, expires)


def _received(connection: Connection, rater_id: int, verdict: Verdict) -> Receipt | None:
    """The receipt of a verdict that came before."""
    before = connection.execute(SENT_BEFORE, {"client": verdict.client_id}).first()
    if before is None:
        return None
    sent = verdict.row() | {"rater_id": rater_id}
    stored = {**before._mapping, "item_id": before.handle}
    if any(stored[name] != value for name, value in sent.items()):
        raise RefusedError("conflict", "this submission's id was used for another one: reload the page")
    return Receipt(before.seq, "known", _feedback(connection, before.seq))


def _asked(connection: Connection, rater_id: int, verdict: Verdict) -> Any:
    """The showing, its item and the verdict that stands so far (``seq`` None where there is none) in one row."""
    row = connection.execute(ASKED, {"asked": verdict.item_id, "rater": rater_id}).first()
    if row is None:
        raise RefusedError("missing", "there is no such item in your queue")
    return row


def _follows(asked: Any, verdict: Verdict) -> None:
    """Whether a verdict may come after the one that stands."""
    if asked.role == "training" and asked.seq is not None:
        raise RefusedError("conflict", "a calibration item is answered once, before its explanation is seen")
    if verdict.revises is not None and verdict.revises != asked.seq:
        raise RefusedError("conflict", "the verdict to be changed is not your last one on this item: reload the page")
    standing = asked.kind not in (None, "withdrawn")
    if verdict.kind == "withdrawn" and not standing:
        raise RefusedError("conflict", "this verdict has been withdrawn already")
    if standing and verdict.revises is None:
        raise RefusedError("conflict", "you have judged this item already, perhaps in another tab; nothing was changed")


def _counts(asked: Any, verdict: Verdict) -> bool:
    """Whether a verdict fills a slot: its rater's own one, by lease or by the verdict before, or one that is free."""
    if asked.role != "item" or asked.turn or verdict.kind not in SCORED:
        return False
    others = asked.done - bool(asked.counted) + asked.leased - (asked.state == "leased")
    return bool(others < asked.target)


def _append(connection: Connection, rater_id: int, verdict: Verdict, asked: Any, counted: bool, now: int) -> int:
    """Write the log, and the end of the showing."""
    if asked.seq is not None:
        connection.execute(sa.update(judgement).where(judgement.c.seq == asked.seq).values(current=False))
    row = verdict.row() | {"item_id": asked.item_id, "turn": asked.turn, "rater_id": rater_id}
    row |= {"revision": 0 if asked.seq is None else asked.revision + 1}
    row |= {"current": True, "counted": counted, "order": asked.order, "opened": asked.opened, "submitted": now}
    key = connection.execute(NEW_JUDGEMENT, row).inserted_primary_key
    assert key is not None
    ended = {"skip": "skipped", "withdrawn": "released"}.get(verdict.kind, "answered")
    connection.execute(END_SHOWING, {"asked": verdict.item_id, "ended": ended})
    return int(key[0])


def _count(connection: Connection, config: AnnotationConfig, asked: Any, verdict: Verdict, counted: bool) -> None:
    """Move the item's counters; a repeat has none."""
    if asked.turn:
        return
    counts = {
        "done": asked.done - bool(asked.counted) + counted,
        "leased": asked.leased - (asked.state == "leased"),
        "skipped": asked.skipped - (asked.kind == "skip") + (verdict.kind == "skip"),
    }
    standing = _standing(connection, config, asked, **counts) if asked.role == "item" else {}
    connection.execute(sa.update(item).where(item.c.id == asked.item_id).values(**counts, **standing))


def _state(asked: Any, verdict: Verdict, counted: bool) -> str:
    if verdict.kind not in SCORED:
        return "skipped" if verdict.kind == "skip" else "withdrawn"
    if asked.kind not in (None, "withdrawn"):
        return "edited"
    hidden = asked.role == "gold" or asked.turn == 1
    return "counted" if counted or hidden else "surplus"


def _standing(
    connection: Connection, config: AnnotationConfig, asked: Any, done: int, leased: int, skipped: int
) -> dict[str, Any]:
    """Status of an item, its target, and how much of that is extra; `asked` is what it was before.

    A skip sets aside where the limit is reached. What was asked again in spite of its skips stays open until the next.
    Extra slots come when all others are filled and split. They go when that is over, if nobody is or was on them.
    """
    if asked.status == "settled":
        return {}
    if skipped >= config.skips and (skipped > asked.skipped or asked.status == "aside"):
        return {"status": "aside"}
    target, first = asked.target, asked.target - asked.extra
    overlap = config.overlap_of(asked.item_id)
    most = overlap + config.extra_raters
    if asked.extra and done + leased <= first and (done < overlap or not _split(connection, config, asked)):
        target = first
    elif not asked.extra and target <= done and target < most and _split(connection, config, asked):
        target = most
    return {"status": "open" if done < target else "closed", "target": target, "extra": target - first}


def _split(connection: Connection, config: AnnotationConfig, asked: Any) -> bool:
    """Whether no verdict has a strict majority, or the judge that came before disagrees with it."""
    if config.overlap_of(asked.item_id) < 2:
        return False
    rows = connection.execute(
        sa.select(judgement).where(judgement.c.item_id == asked.item_id, judgement.c.counted, judgement.c.current)
    )
    votes = Counter(winner(row) for row in rows)
    (best, count), *_ = votes.most_common(1)
    expected = (asked.expected or {}).get("best")
    differs = expected is not None and isinstance(best, int) and best != expected
    return 2 * count <= votes.total() or differs


def _qualify(connection: Connection, found: Project, rater_id: int) -> None:
    """After the last calibration item: were enough of them right?"""
    if unseen(connection, found, rater_id, "training"):
        return
    answered = sa.select(judgement, item.c.known).join(item, item.c.id == judgement.c.item_id)
    rows = connection.execute(answered.where(item.c.role == "training", judgement.c.rater_id == rater_id)).all()
    right = sum(_right(row) for row in rows)
    if right >= found.config.qualification * len(rows):
        connection.execute(sa.update(rater).where(rater.c.id == rater_id).values(qualified=True))


def _feedback(connection: Connection, seq: int) -> dict[str, Any] | None:
    """What a rater is told of a calibration item; None for any other."""
    answered = sa.select(judgement, item.c.known).join(item, item.c.id == judgement.c.item_id)
    row = connection.execute(answered.where(judgement.c.seq == seq, item.c.role == "training")).first()
    if row is None:
        return None
    return {"right": _right(row), "best": row.known["best"], "explanation": row.known.get("explanation", "")}


def _right(row: Any) -> bool:
    return row.kind in SCORED and winner(row) in row.known["best"]


def _end_leases(connection: Connection, which: sa.ColumnElement[bool], state: str) -> int:
    """Counters of the items follow; the rows are few."""
    ended = connection.execute(
        sa.select(*showing.c["handle", "item_id", "turn"]).where(showing.c.state == "leased", which)
    ).all()
    for row in ended:
        connection.execute(_this(row.handle).values(state=state))
        if row.turn == 0:
            connection.execute(sa.update(item).where(item.c.id == row.item_id).values(leased=item.c.leased - 1))
            review(connection, row.item_id)
    return len(ended)


def _length(found: Project) -> int:
    return round(found.config.lease_minutes * 60_000)


def _this(handle: str) -> sa.Update:
    return sa.update(showing).where(showing.c.handle == handle)

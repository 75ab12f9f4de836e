"""What a rater is shown of an item: nothing that tells who wrote an answer, or what anybody thinks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.queue import Showing
from prefloop.annotation.schema import item, judgement, showing
from prefloop.annotation.statements import ANSWERS, ITEM, OF_SHOWING, OWN_VERDICT


@dataclass(frozen=True)
class ShownAnswer:
    """One answer, by its place on the screen."""

    index: int
    """What verdicts refer to; it says nothing about the writer, since items are shuffled by it for each rater."""
    text: str
    result: dict[str, Any] | None


@dataclass(frozen=True)
class Shown:
    """An item as one person sees it."""

    handle: str
    """What this person calls it."""
    messages: tuple[dict[str, str], ...]
    context: dict[str, str]
    answers: tuple[ShownAnswer, ...]
    """In the order shown, left to right."""
    calibration: bool
    """Explained after the verdict: the person may know that this is practice."""
    expires: int
    before: dict[str, Any] | None
    """This person's verdict on it so far."""


def show(connection: sa.Connection, held: Showing, rater_id: int) -> Shown:
    """The item that a lease holds."""
    asked = connection.execute(ITEM, {"item": held.item_id}).one()
    by_index = {
        row.index: ShownAnswer(row.index, row.text, row.result)
        for row in connection.execute(ANSWERS, {"item": held.item_id})
    }
    return Shown(
        handle=held.handle,
        messages=tuple(asked.messages),
        context=asked.context,
        answers=tuple(by_index[index] for index in held.order),
        calibration=asked.role == "training",
        expires=held.expires,
        before=own_verdict(connection, held, rater_id),
    )


def shown_before(connection: sa.Connection, handle: str, rater_id: int) -> Shown:
    """An item that this person was shown, to look at it again or to change the verdict.

    Raises:
        RefusedError: it never was.
    """
    mine = (showing.c.handle == handle, showing.c.rater_id == rater_id)
    row = connection.execute(sa.select(showing).where(*mine)).first()
    if row is None:
        raise RefusedError("missing", "there is no such item in your queue")
    held = Showing(handle, row.item_id, row.turn, tuple(row.order), row.opened, row.expires)
    return show(connection, held, rater_id)


def own_verdict(connection: sa.Connection, held: Showing, rater_id: int) -> dict[str, Any] | None:
    """The current verdict of one person on what was shown, unless it was withdrawn."""
    which = {"item": held.item_id, "rater": rater_id, "asked_turn": held.turn}
    row = connection.execute(OWN_VERDICT, which).first()
    if row is None or row.kind == "withdrawn":
        return None
    names = ("seq", "kind", "strength", "ranking", "objectives", "reason", "comment", "edits", "submitted")
    return {name: getattr(row, name) for name in names}


def last_verdict(connection: sa.Connection, rater_id: int, before: int | None = None) -> str | None:
    """Handle of what this person judged last, or last before verdict `before`; calibration is not taken back."""
    mine = own_verdicts(rater_id, showing.c.handle)
    if before is not None:
        mine = mine.where(judgement.c.seq < before)
    handle: str | None = connection.scalar(mine.limit(1))
    return handle


def own_verdicts(rater_id: int, *columns: Any) -> sa.Select[Any]:
    """What one person has said and may change, newest first."""
    return (
        sa.select(*columns)
        .select_from(judgement.join(item, item.c.id == judgement.c.item_id).join(showing, OF_SHOWING))
        .where(judgement.c.rater_id == rater_id, judgement.c.current, item.c.role != "training")
        .where(judgement.c.kind != "withdrawn")
        .order_by(judgement.c.seq.desc())
    )

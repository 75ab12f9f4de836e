"""What a rater is shown of an item: nothing that tells who wrote an answer, or what anybody thinks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.queue import Showing
from prefloop.annotation.schema import item, judgement, showing
from prefloop.annotation.statements import ANSWERS, ITEM, OWN_VERDICT


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

    item_id: str
    turn: int
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
        item_id=asked.id,
        turn=held.turn,
        messages=tuple(asked.messages),
        context=asked.context,
        answers=tuple(by_index[index] for index in held.order),
        calibration=asked.role == "training",
        expires=held.expires,
        before=own_verdict(connection, held.item_id, held.turn, rater_id),
    )


def shown_before(connection: sa.Connection, item_id: str, turn: int, rater_id: int) -> Shown:
    """An item that this person was shown, to look at it again or to change the verdict.

    Raises:
        RefusedError: it never was.
    """
    row = connection.execute(
        sa.select(showing).where(showing.c.item_id == item_id, showing.c.rater_id == rater_id, showing.c.turn == turn)
    ).first()
    if row is None:
        raise RefusedError("missing", "there is no such item in your queue")
    return show(connection, Showing(item_id, turn, tuple(row.order), row.opened, row.expires), rater_id)


def own_verdict(connection: sa.Connection, item_id: str, turn: int, rater_id: int) -> dict[str, Any] | None:
    """The current verdict of one person on an item, unless it was withdrawn."""
    row = connection.execute(OWN_VERDICT, {"item": item_id, "rater": rater_id, "asked_turn": turn}).first()
    if row is None or row.kind == "withdrawn":
        return None
    names = ("seq", "kind", "strength", "ranking", "objectives", "reason", "comment", "edits", "submitted")
    return {name: getattr(row, name) for name in names}


def last_verdict(connection: sa.Connection, rater_id: int, before: int | None = None) -> tuple[str, int] | None:
    """Item and turn that this person judged last, or last before verdict `before`; calibration is not taken back."""
    mine = (
        sa.select(judgement.c.item_id, judgement.c.turn)
        .join(item, item.c.id == judgement.c.item_id)
        .where(judgement.c.rater_id == rater_id, judgement.c.current, item.c.role != "training")
        .where(judgement.c.kind.not_in(("withdrawn", "adjudication")))
    )
    if before is not None:
        mine = mine.where(judgement.c.seq < before)
    row = connection.execute(mine.order_by(judgement.c.seq.desc()).limit(1)).first()
    return (row.item_id, row.turn) if row else None

"""Statements that every item and verdict need, built once: to build one costs more than to run it.

Their parameters: ``asked`` (a showing's handle), ``item``, ``rater``, ``asked_turn``, ``client``, ``now``, ``ended``,
``given``.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from prefloop.annotation.schema import answer, item, judgement, project, rater, showing, token

AGAIN = ("expired", "released")
"""States of a showing after which its rater may get the item again, in the same order."""


def _given(name: str) -> Any:
    return sa.bindparam(name)


OF_SHOWING = sa.and_(
    judgement.c.item_id == showing.c.item_id,
    judgement.c.rater_id == showing.c.rater_id,
    judgement.c.turn == showing.c.turn,
)

TOKEN_PERSON = (
    sa.select(rater, token.c.scopes, token.c.used)
    .join(token, token.c.rater_id == rater.c.id)
    .where(token.c.token == _given("given"), token.c.revoked.is_(None), rater.c.status == "active")
)
"""Whose token it is."""

ASKING = (
    sa.select(*project.c["settings", "state", "reason", "secret"], rater.c.qualified)
    .join_from(project, rater, rater.c.id == _given("rater"))
    .where(rater.c.status == "active")
)
"""The project, and whether the rater has passed its calibration."""

HELD = sa.select(showing).where(showing.c.rater_id == _given("rater"), showing.c.state == "leased")
SET_BACK_MS = 60_000
"""A lease that began so long after now began before the clock was set back: its end would lie as far off."""
RUN_OUT = (
    sa.select(showing.c.item_id)
    .where(
        showing.c.state == "leased",
        sa.or_(showing.c.expires <= _given("now"), showing.c.opened > _given("now") + SET_BACK_MS),
    )
    .limit(1)
)
JUDGED_SO_FAR = sa.select(sa.func.count()).where(judgement.c.rater_id == _given("rater"), judgement.c.revision == 0)
NEW_SHOWING, NEW_JUDGEMENT = sa.insert(showing), sa.insert(judgement)
ONE_MORE_LEASED = sa.update(item).where(item.c.id == _given("item")).values(leased=item.c.leased + 1)
END_SHOWING = sa.update(showing).where(showing.c.handle == _given("asked")).values(state=_given("ended"))
SENT_BEFORE = (
    sa.select(judgement, showing.c.handle)
    .select_from(judgement.outerjoin(showing, OF_SHOWING))
    .where(judgement.c.client_id == _given("client"))
)

ITEM = sa.select(item).where(item.c.id == _given("item"))
ANSWERS = sa.select(answer).where(answer.c.item_id == _given("item"))
OWN_VERDICT = sa.select(judgement).where(
    judgement.c.item_id == _given("item"),
    judgement.c.rater_id == _given("rater"),
    judgement.c.turn == _given("asked_turn"),
    judgement.c.current,
)

ASKED = (
    sa.select(
        *showing.c["item_id", "turn", "state", "order", "opened"],
        *item.c["role", "status", "target", "extra", "done", "leased", "skipped", "expected"],
        *judgement.c["seq", "revision", "kind", "counted"],
    )
    .select_from(
        showing.join(item, item.c.id == showing.c.item_id).outerjoin(
            judgement, sa.and_(OF_SHOWING, judgement.c.current)
        )
    )
    .where(showing.c.handle == _given("asked"), showing.c.rater_id == _given("rater"))
)
"""The showing, its item, and the verdict that stands so far (``seq`` None where there is none)."""


def open_to(role: str, *columns: Any) -> sa.Select[Any]:
    """Open items of a role that the rater has not answered or skipped, whether or not a slot is free."""
    mine = sa.and_(showing.c.item_id == item.c.id, showing.c.rater_id == _given("rater"), showing.c.turn == 0)
    return (
        sa.select(*columns)
        .select_from(item.outerjoin(showing, mine))
        .where(item.c.role == role, item.c.status == "open")
        .where(showing.c.state.is_(None) | showing.c.state.in_(AGAIN))
    )


_FREE = item.c.done + item.c.leased < item.c.target
GIVEN_BACK = (
    sa.select(*showing.c["handle", "item_id", "turn", "order", "opened"])
    .join(item, item.c.id == showing.c.item_id)
    .where(showing.c.rater_id == _given("rater"), showing.c.state.in_(AGAIN), item.c.role != "training")
    .where(sa.or_(showing.c.turn == 1, item.c.role == "gold", sa.and_(item.c.status == "open", _FREE)))
)
"""What the rater let run out or withdrew, and may get again."""


def _unseen(role: str) -> sa.Select[Any]:
    answers = sa.select(sa.func.count()).where(answer.c.item_id == item.c.id).scalar_subquery()
    wanted = open_to(role, item.c.id, showing.c.order, answers.label("answers"))
    if role == "item":
        wanted = wanted.where(_FREE)
    return wanted.order_by(item.c.position).limit(1)


UNSEEN = {role: _unseen(role) for role in ("item", "gold", "training")}
"""The first item of a role that has a free slot and that the rater has not answered."""
HELD_BY_OTHERS = open_to("item", item.c.id).where(item.c.done < item.c.target).limit(1)
"""An item that may come free again."""

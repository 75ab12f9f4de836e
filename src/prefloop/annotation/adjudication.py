"""A reviewer settles what raters disagree on: sees verdicts and reasons under letters, never names; votes are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import AMBIGUOUS, SCORED, RefusedError, Verdict, preference, winner
from prefloop.annotation.schema import answer, item, judgement, rater
from prefloop.annotation.stream import Connection, read_project

TURN = 2
"""Adjudications stand beside first looks (0) and repeats (1)."""
SHOWN = 200
"""Items listed."""


@dataclass(frozen=True)
class Vote:
    """One verdict, said of the answers in the item's own order."""

    who: str
    says: str
    comment: str
    edits: dict[str, str]


@dataclass(frozen=True)
class Case:
    """An item with its verdicts."""

    item: Any
    answers: tuple[Any, ...]
    votes: tuple[Vote, ...]
    settled: Any | None
    """The adjudication, where there is one."""


@dataclass(frozen=True)
class Disagreement:
    """An item whose verdicts differ, or that was set aside."""

    item_id: str
    question: str
    status: str
    says: str


def disagreements(connection: Connection) -> list[Disagreement]:
    """Items to read: set aside, ambiguous, or without a majority; at most `SHOWN`, unsettled ones first."""
    votes: dict[str, Counter[str]] = {}
    for row in connection.execute(_said_of_items(judgement)):
        votes.setdefault(row.item_id, Counter())[_said(row)] += 1
    split = {key: found for key, found in votes.items() if 2 * max(found.values()) <= sum(found.values()) > 1}
    split |= {
        key: votes[key]
        for key in connection.scalars(sa.select(item.c.id).where(item.c.status == "aside"))
        if key in votes
    }
    split |= {key: votes[key] for key in ambiguous(connection)}
    chosen = sorted(split, key=lambda key: (-sum(split[key].values()), key))
    about = {
        row.id: row
        for start in range(0, len(chosen), 500)
        for row in connection.execute(
            sa.select(item.c.id, item.c.status, item.c.messages).where(item.c.id.in_(chosen[start : start + 500]))
        )
    }
    found = [
        Disagreement(key, about[key].messages[-1]["content"], about[key].status, _counted(split[key])) for key in chosen
    ]
    return sorted(found, key=lambda one: one.status == "settled")[:SHOWN]


def is_ambiguous(reasons: Sequence[str]) -> bool:
    """Whether more than half of the people who answered or skipped say that the question is.

    Args:
        reasons: of each person's skip; empty for an answer.
    """
    return 2 * sum(reason == AMBIGUOUS for reason in reasons) > len(reasons)


def ambiguous(connection: Connection) -> list[str]:
    """Items, not settled by a reviewer, that most people find ambiguous; in the order of their ids."""
    called_so = sa.select(judgement.c.item_id).where(judgement.c.reason == AMBIGUOUS, judgement.c.current)
    said = _said_of_items(judgement.c.item_id, judgement.c.reason)
    reasons: dict[str, list[str]] = {}
    for item_id, reason in connection.execute(said.where(item.c.status != "settled", item.c.id.in_(called_so))):
        reasons.setdefault(item_id, []).append(reason)
    return sorted(item_id for item_id, found in reasons.items() if is_ambiguous(found))


def case(connection: Connection, item_id: str) -> Case:
    """An item with its answers in their own order and all verdicts on it.

    Raises:
        RefusedError: there is no such item, or it is not one to settle.
    """
    asked = connection.execute(sa.select(item).where(item.c.id == item_id, item.c.role == "item")).first()
    if asked is None:
        raise RefusedError("missing", f"there is no item {item_id[:20]}")
    answers = connection.execute(sa.select(answer).where(answer.c.item_id == item_id).order_by(answer.c.index)).all()
    rows = connection.execute(
        sa.select(judgement).where(judgement.c.item_id == item_id, judgement.c.current).order_by(judgement.c.seq)
    ).all()
    given = [row for row in rows if row.kind in (*SCORED, "skip") and row.turn == 0]  # a repeat is nobody else's
    votes = tuple(Vote(f"Rater {chr(65 + i % 26)}", _said(row), row.comment, row.edits) for i, row in enumerate(given))
    settled = next((row for row in rows if row.kind == "adjudication"), None)
    return Case(asked, tuple(answers), votes, settled)


def adjudicate(connection: Connection, reviewer_id: int, verdict: Verdict, now: int) -> int:
    """Settle an item; of several adjudications the last holds. Its ``seq``.

    Args:
        verdict: a choice or ranking said of the answers in the item's own order.

    Raises:
        RefusedError: there is no such item, or the verdict does not fit it.
    """
    if before := connection.scalar(sa.select(judgement.c.seq).where(judgement.c.client_id == verdict.client_id)):
        return before
    found = case(connection, verdict.item_id)
    if verdict.kind not in SCORED:
        raise RefusedError("invalid", "an adjudication is a choice or a ranking")
    verdict.check(read_project(connection).config, len(found.answers))
    last = connection.scalar(
        sa.select(sa.func.max(judgement.c.revision)).where(
            judgement.c.item_id == verdict.item_id, judgement.c.rater_id == reviewer_id, judgement.c.turn == TURN
        )
    )
    connection.execute(
        sa.update(judgement)
        .where(judgement.c.item_id == verdict.item_id, judgement.c.kind == "adjudication")
        .values(current=False)
    )
    row = verdict.row() | {"turn": TURN, "kind": "adjudication", "rater_id": reviewer_id, "counted": False}
    row |= {"revision": 0 if last is None else last + 1, "current": True, "opened": now, "submitted": now}
    seq = connection.execute(
        sa.insert(judgement).values(**row, order=[one.index for one in found.answers])
    ).inserted_primary_key
    connection.execute(sa.update(item).where(item.c.id == verdict.item_id).values(status="settled"))
    assert seq is not None
    return int(seq[0])


def _said_of_items(*columns: Any) -> sa.Select[Any]:
    """What each person says of an item at first sight, answers and skips; not what is surplus or was discarded."""
    return (
        sa.select(*columns)
        .join_from(judgement, item, item.c.id == judgement.c.item_id)
        .join(rater, rater.c.id == judgement.c.rater_id)
        .where(item.c.role == "item", judgement.c.turn == 0, judgement.c.current)
        .where(sa.or_(judgement.c.counted, sa.and_(judgement.c.kind == "skip", ~rater.c.discarded)))
    )


def _said(row: Any) -> str:
    """A verdict in words, answers by their number in the item."""
    if row.kind == "skip":
        return f"skipped: {row.reason.replace('-', ' ')}"
    if row.ranking is not None:
        return " > ".join(" = ".join(str(index + 1) for index in tier) for tier in row.ranking)
    best, much = preference(row.strength, row.order)
    return str(winner(row)) if best is None else f"answer {best + 1} {'much ' if much == 2 else ''}better"


def _counted(votes: Counter[str]) -> str:
    return ", ".join(f"{count} × {says}" for says, count in votes.most_common())

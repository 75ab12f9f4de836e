"""What people said elsewhere about the items of a project: it counts like verdicts given here."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import BOTH_BAD, EQUAL
from prefloop.annotation.schema import answer, item, judgement, rater, showing
from prefloop.annotation.stream import Connection, handle_of, read_project
from prefloop.records import Judgement, content_id

BETTER = {1.0: EQUAL - 1, 0.5: EQUAL, 0.0: EQUAL + 1}
"""A choice's value as a strength: other tools know no "much better"."""
_NAMESPACE = uuid.UUID("7b4b3c9e-55a1-4f0e-9a53-6a6e1b3f9d10")


def add_labels(connection: Connection, labels: Iterable[Judgement], now: int) -> Counter[str]:
    """Append people's earlier judgements to the log; counts of what became of them.

    Raters become removed accounts under a pseudonym made of their name's hash. A label whose answers are no item of
    the project, or that is one too many for its item's target, is not taken. Disagreement among them asks no further
    people by itself: the desk lists it.
    """
    secret, items = read_project(connection).secret, _by_answers(connection)
    found: Counter[str] = Counter()
    raters: dict[str, int] = {}
    seen: set[tuple[str, str]] = set()
    for label in labels:
        place = items.get(frozenset(label.completion_ids))
        if place is None:
            found["about answers that are no item"] += 1
            continue
        item_id, index = place
        if not (label.ranking or label.value is not None or _both_bad(label)):
            found["without a verdict"] += 1
            continue
        if (item_id, label.judge) in seen:
            found["a person's second ones on an item"] += 1
            continue
        seen.add((item_id, label.judge))
        wanted = sa.and_(item.c.id == item_id, item.c.done < item.c.target, item.c.role == "item")
        status = sa.case((item.c.done + 1 == item.c.target, "closed"), else_=item.c.status)
        if not connection.execute(sa.update(item).where(wanted).values(done=item.c.done + 1, status=status)).rowcount:
            found["more than the item's target"] += 1
            continue
        if label.judge not in raters:
            raters[label.judge] = _rater(connection, label.judge, now)
        row = _row(label, index) | {"item_id": item_id, "rater_id": raters[label.judge], "turn": 0}
        shown = {key: row[key] for key in ("item_id", "rater_id", "turn", "order")}
        shown["handle"] = handle_of(secret, item_id, row["rater_id"], 0)
        connection.execute(sa.insert(showing).values(**shown, state="answered", opened=now, expires=now))
        connection.execute(sa.insert(judgement).values(**row, opened=now, submitted=now))
        found["taken"] += 1
    return found


def _by_answers(connection: Connection) -> dict[frozenset[str], tuple[str, dict[str, int]]]:
    """Item and index of each completion, by the completions."""
    answers: dict[str, dict[str, int]] = {}
    for row in connection.execute(sa.select(answer.c.item_id, answer.c.index, answer.c.completion_id)):
        answers.setdefault(row.item_id, {})[row.completion_id] = row.index
    return {frozenset(index): (item_id, index) for item_id, index in answers.items()}


def _rater(connection: Connection, judge: str, now: int) -> int:
    row = {"pseudonym": f"import-{content_id('rater', judge)[:12]}", "role": "rater", "status": "removed"}
    made = connection.execute(sa.insert(rater).values(**row, qualified=True, created=now)).inserted_primary_key
    assert made is not None
    return int(made[0])


def _row(label: Judgement, index: dict[str, int]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "client_id": str(uuid.uuid5(_NAMESPACE, label.id)),
        "revision": 0,
        "current": True,
        "counted": True,
        "kind": label.kind,
        "order": [index[identity] for identity in label.completion_ids],
        "objectives": {},
        "reason": "",
        "comment": "",
        "edits": {},
    }
    if label.kind == "ranking":
        return row | {"ranking": [[index[identity] for identity in tier] for tier in label.ranking]}
    strength = label.raw.get("strength")  # as an export of ours has it, said of the order shown
    if not isinstance(strength, int):
        strength = BOTH_BAD if _both_bad(label) else BETTER[float(label.value or 0)]
    return row | {"strength": strength}


def _both_bad(label: Judgement) -> bool:
    return label.raw.get("choice") == "both bad" or bool(label.raw.get("both_bad"))

"""A project and its items: created once, filled from files, never with the same item twice."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import answer, item, project
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt, content_id

ROLES = ("item", "gold", "training")
_AT_ONCE = 500


@dataclass(frozen=True)
class NewItem:
    """A prompt with the answers to be compared or ranked."""

    prompt: Prompt
    answers: tuple[Completion, ...]
    results: tuple[dict[str, Any] | None, ...] = ()
    """What each answer's query returns (`prefloop.annotation.results`); empty for none."""
    context: dict[str, str] = field(default_factory=dict)
    """Shown beside the prompt, by title: a schema excerpt, say."""
    role: str = "item"
    """``item``, ``gold`` (known answer, hidden in the stream) or ``training`` (known, explained after the verdict)."""
    known: dict[str, Any] | None = None
    """Gold and training: ``{"best": [index, …] or ["tie"] or ["both bad"], "explanation": text}``."""
    expected: dict[str, Any] | None = None
    """What a judge said before: ``{"best": index, "judge": name}``."""
    stratum: str = "in-order"
    probability: float | None = None

    @property
    def id(self) -> str:
        """The same prompt with the same answers is the same item."""
        return content_id("item", self.prompt.id, [completion.id for completion in self.answers])


def blinded(new: NewItem) -> NewItem:
    """The same item with its answers in the order of a hash, so that an answer's index tells nothing of its writer."""
    order = sorted(range(len(new.answers)), key=lambda i: content_id("place", new.prompt.id, new.answers[i].id))

    def moved(found: dict[str, Any] | None) -> dict[str, Any] | None:
        if found is None or "best" not in found:
            return found
        best = found["best"]
        return {
            **found,
            "best": [_place(order, one) for one in best] if isinstance(best, list) else _place(order, best),
        }

    return replace(
        new,
        answers=tuple(new.answers[i] for i in order),
        results=tuple(new.results[i] for i in order) if new.results else (),
        known=moved(new.known),
        expected=moved(new.expected),
    )


def _place(order: list[int], best: Any) -> Any:
    return order.index(best) if isinstance(best, int) else best


def create_project(connection: sa.Connection, config: AnnotationConfig, source: str, now: int) -> None:
    """The project of an empty database."""
    settings = config.model_dump(mode="json")
    row = {"id": 1, "settings": settings, "state": "running", "reason": "", "source": source, "created": now}
    connection.execute(sa.insert(project).values(secret=secrets.token_hex(32), **row))


def has_project(connection: sa.Connection) -> bool:
    """Whether the database has been set up."""
    return connection.scalar(sa.select(sa.func.count()).select_from(project)) == 1


def open_items(connection: sa.Connection) -> int:
    """Items that still ask for a verdict; gold and calibration are none."""
    wanted = sa.select(sa.func.count()).where(item.c.role == "item", item.c.status == "open")
    return connection.scalar(wanted) or 0


def add_items(connection: sa.Connection, new: Iterable[NewItem]) -> int:
    """Append items in the order given; those that are there already are left alone. How many were added.

    All of them go in one transaction, and raters wait meanwhile: call it with parts of a large set.

    Raises:
        RefusedError: an item that cannot be judged; says which and why.
    """
    config = AnnotationConfig.model_validate(connection.scalar(sa.select(project.c.settings)))
    position = (connection.scalar(sa.select(sa.func.max(item.c.position))) or 0) + 1
    added, source = 0, iter(new)
    while part := list(islice(source, _AT_ONCE)):
        for found in part:
            _check(found, config)
        by_id = {found.id: found for found in part}
        known = set(connection.scalars(sa.select(item.c.id).where(item.c.id.in_(by_id))))
        fresh = {key: found for key, found in by_id.items() if key not in known}
        if fresh:
            rows = [_item_row(found, position + i, config) for i, found in enumerate(fresh.values())]
            connection.execute(sa.insert(item), rows)
            connection.execute(sa.insert(answer), [row for found in fresh.values() for row in _answer_rows(found)])
        position += len(fresh)
        added += len(fresh)
    return added


def _check(found: NewItem, config: AnnotationConfig) -> None:
    """Whether raters of this project could judge it, and the queue could tell who was right."""
    count, labels = len(found.answers), ("tie", "both bad")
    best = (found.known or {}).get("best", [])
    expected = (found.expected or {}).get("best", 0)
    wrong = {
        f"is of role {found.role!r}, not one of {', '.join(ROLES)}": found.role not in ROLES,
        f"has {count} answers, and a pair needs two": config.kind == "pairwise" and count != 2,
        f"has {count} answers, and a ranking needs two at least": config.kind == "ranking" and count < 2,
        f"has {len(found.results)} results for {count} answers": len(found.results) not in (0, count),
        "needs a known answer if it is gold or training, and none otherwise": bool(best) != (found.role in ROLES[1:]),
        f"has a known answer other than 0 to {count - 1}, 'tie' and 'both bad'": any(
            one not in range(count) and one not in labels for one in best
        ),
        f"has an expected answer other than 0 to {count - 1}": expected not in range(count),
    }
    for reason, applies in wrong.items():
        if applies:
            raise RefusedError("invalid", f"item {found.id} (prompt {found.prompt.id}) {reason}")


def _item_row(found: NewItem, position: int, config: AnnotationConfig) -> dict[str, Any]:
    return {
        "id": found.id,
        "position": position,
        "role": found.role,
        "status": "open",
        "prompt_id": found.prompt.id,
        "messages": [dict(message) for message in found.prompt.messages],
        "context": found.context,
        "meta": found.prompt.meta,
        "task": found.prompt.task,
        "split": found.prompt.split,
        "known": found.known,
        "expected": found.expected,
        "stratum": found.stratum,
        "probability": found.probability,
        "target": config.overlap_of(found.id),
        "done": 0,
        "leased": 0,
        "skipped": 0,
    }


def _storable(text: str) -> str:
    """PostgreSQL keeps no NUL, and UTF-8 no half of a surrogate pair."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()


def _answer_rows(found: NewItem) -> list[dict[str, Any]]:
    results = found.results or (None,) * len(found.answers)
    return [
        {
            "item_id": found.id,
            "index": index,
            "completion_id": completion.id,
            "text": _storable(completion.text),
            "policy": completion.policy,
            "details": {
                "index": completion.index,
                "round": completion.round,
                "token_ids": list(completion.token_ids),
                "logprobs": list(completion.logprobs),
                "finish_reason": completion.finish_reason,
                "sampling": completion.sampling,
                "seed": completion.seed,
            },
            "result": result,
        }
        for index, (completion, result) in enumerate(zip(found.answers, results, strict=True))
    ]

"""The API of those who run a project: put items in, see how far it is, read the log, pause, ask again, remove."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

from prefloop.annotation import api_models_running as models
from prefloop.annotation import webhooks
from prefloop.annotation.accounts import Person
from prefloop.annotation.api_models import Key, Result, failures
from prefloop.annotation.api_rating import After, ItemId, Running
from prefloop.annotation.items import NewItem, add_items
from prefloop.annotation.people import allowed
from prefloop.annotation.progress import Progress, local_midnight, progress
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import answer, item, judgement, rater
from prefloop.annotation.service import Service
from prefloop.annotation.stream import read_project
from prefloop.records import Completion, Prompt, canonical_json, content_id

router = APIRouter(tags=["running"])
Reader = Annotated[Person, Depends(allowed(scope="read", role="reviewer"))]
Manager = Annotated[Person, Depends(allowed(scope="manage", role="admin"))]
NDJSON = "application/x-ndjson"
_AT_ONCE = 500
_MOST = 100_000
_LOG = ("seq", "client_id", "item_id", "turn", "revision", "current", "counted", "kind", "strength", "ranking", "order")
_LOG_TEXTS = ("objectives", "reason", "comment", "edits", "opened", "submitted")


@router.get("/progress", operation_id="readProgress", response_model=Progress)
async def read_progress(person: Reader, service: Running) -> Any:
    """Live counts; people by pseudonym."""
    now = service.clock()
    return await service.read(lambda connection: progress(connection, now, local_midnight(now)))


@router.get(
    "/export/judgements",
    operation_id="exportJudgements",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One judgement to a line, by `seq`; nothing where there are no more.",
            "content": {NDJSON: {"schema": {"type": "string"}}},
        }
    },
)
async def export_judgements(
    person: Reader, service: Running, after: After = 0, limit: Annotated[int, Query(ge=1, le=_MOST)] = 10_000
) -> Any:
    """The log of judgements, every revision of each, people by pseudonym.

    Go on with the last line's `seq` as `after`. The last revision of (`item_id`, `rater`, `turn`) is the one that
    holds; `current` and `counted` say how it was when the line was read.
    """
    first = await service.read(partial(log, after=after, limit=min(limit, _AT_ONCE)))
    return StreamingResponse(_lines(service, first, limit), media_type=NDJSON)


@router.post("/items", operation_id="addItems", response_model=models.AddedItems)
async def post_items(body: models.PostedItems, person: Manager, service: Running) -> Any:
    """Append items to the queue. The same prompt with the same answers by the same policies is the same item."""
    new = [new_item(posted) for posted in body.items]
    added = await service.write(lambda connection: _add(connection, new))
    return models.AddedItems(added=added, ids=[one.id for one in new])


@router.post(
    "/items/{item_id}/requeue", operation_id="requeueItem", response_model=models.Done, responses=failures(404)
)
async def requeue(item_id: ItemId, person: Manager, service: Running) -> Any:
    """Ask one more person about an item."""
    now = service.clock()
    await service.write(lambda connection: webhooks.requeue(connection, item_id, now, person.id))
    return models.Done(id=item_id)


@router.post("/project/state", operation_id="setState", response_model=models.NewState)
async def set_state(body: models.NewState, person: Manager, service: Running) -> Any:
    """Pause, stop or go on. Verdicts on items that are held are taken all the same."""
    now = service.clock()
    await service.write(lambda connection: webhooks.set_state(connection, body.state, body.reason, now, person.id))
    return body


@router.get("/raters", operation_id="listRaters", response_model=list[models.Rater])
async def raters(person: Manager, service: Running) -> Any:
    """Accounts with their names, which no export has."""
    columns = [rater.c[name] for name in models.Rater.model_fields]
    rows = await service.read(lambda connection: connection.execute(sa.select(*columns).order_by(rater.c.id)).all())
    return [models.Rater.model_validate(row, from_attributes=True) for row in rows]


@router.post(
    "/raters/{rater_id}/remove",
    operation_id="removeRater",
    response_model=models.Removed,
    responses=failures(404, 409),
)
async def remove(rater_id: Key, body: models.Removal, person: Manager, service: Running) -> Any:
    """End somebody's part: sessions, tokens, leases and the name go, verdicts stay under the pseudonym."""
    if rater_id == person.id:
        raise RefusedError("conflict", "nobody removes themselves: another admin does")
    now = service.clock()
    job = partial(_remove, rater_id=rater_id, now=now, discard=body.discard, by=person.id)
    return models.Removed(discarded=await service.write(job))


def new_item(posted: models.PostedItem) -> NewItem:
    """An item for the queue; its answers are numbered by their ids' order, which tells nothing about who wrote them."""
    prompt = posted.prompt if isinstance(posted.prompt, list) else [{"role": "user", "content": posted.prompt}]
    messages = tuple({str(name): text for name, text in turn.items()} for turn in prompt)
    asked = Prompt.create(messages, posted.task, posted.split, dict(posted.meta))
    written = [_completion(asked.id, place, answer) for place, answer in enumerate(posted.answers)]
    places = sorted(range(len(written)), key=lambda place: written[place].id)
    at: dict[int | str, int] = {place: index for index, place in enumerate(places)}
    known, expected = None, None
    if posted.known is not None:
        best = [at.get(place, place) for place in posted.known.best]
        known = {"best": best, "explanation": posted.known.explanation}
    if posted.expected is not None:
        expected = {"best": at[posted.expected.best], "judge": posted.expected.judge}
    return NewItem(
        prompt=asked,
        answers=tuple(written[place] for place in places),
        results=tuple(_stored(posted.answers[place].result) for place in places),
        context=dict(posted.context),
        role=posted.role,
        known=known,
        expected=expected,
        stratum="posted",
    )


def log(connection: sa.Connection, after: int, limit: int) -> list[dict[str, Any]]:
    """Lines of the log by ``seq``, as the project's export writes them: without names, and without who wrote what."""
    columns: list[Any] = [judgement.c[name] for name in (*_LOG, *_LOG_TEXTS)]
    columns += [rater.c.pseudonym.label("rater"), item.c.role, item.c.stratum, item.c.probability, item.c.prompt_id]
    wanted = sa.select(*columns).join(rater, rater.c.id == judgement.c.rater_id)
    wanted = wanted.join(item, item.c.id == judgement.c.item_id).where(judgement.c.seq > after)
    rows = [dict(row._mapping) for row in connection.execute(wanted.order_by(judgement.c.seq).limit(limit))]
    asked = {row["item_id"] for row in rows}
    answers = sa.select(answer.c.item_id, answer.c.index, answer.c.completion_id).where(answer.c.item_id.in_(asked))
    ids = {(row.item_id, row.index): row.completion_id for row in connection.execute(answers)}
    for row in rows:
        row["completion_ids"] = [ids[row["item_id"], index] for index in row["order"]]
        row["seconds"] = round((row["submitted"] - row["opened"]) / 1000, 3)
    return rows


async def _lines(service: Service, rows: list[dict[str, Any]], limit: int) -> AsyncIterator[bytes]:
    while rows:
        yield "".join(f"{canonical_json(row)}\n" for row in rows).encode(errors="replace")
        limit -= len(rows)
        wanted = min(limit, _AT_ONCE)
        rows = await service.read(partial(log, after=rows[-1]["seq"], limit=wanted)) if wanted else []


def _completion(prompt_id: str, place: int, posted: models.NewAnswer) -> Completion:
    return Completion(
        id=content_id("completion", prompt_id, posted.policy, posted.text),
        prompt_id=prompt_id,
        index=place,
        round=0,
        text=posted.text,
        token_ids=(),
        logprobs=(),
        finish_reason="stop",
        policy=posted.policy,
        sampling={},
        seed=0,
    )


def _stored(result: Result | None) -> dict[str, Any] | None:
    """Rows as `prefloop.annotation.results` keeps them; equal ones are known by a hash if none is missing."""
    if result is None:
        return None
    whole = result.error is None and result.count == len(result.rows)
    same = content_id([sorted(repr(tuple(row)) for row in result.rows)]) if whole else None
    return result.model_dump() | {"identical_to": same}


def _add(connection: sa.Connection, new: list[NewItem]) -> int:
    if read_project(connection).config.kind == "pairwise":
        for place, one in enumerate(new):
            if len(one.answers) != 2:
                raise RefusedError(
                    "invalid", f"items.{place}: a pairwise project compares 2 answers, not {len(one.answers)}"
                )
    return add_items(connection, new)


def _remove(connection: sa.Connection, rater_id: int, now: int, discard: bool, by: int) -> int:
    status = connection.scalar(sa.select(rater.c.status).where(rater.c.id == rater_id))
    if status != "active":
        raise RefusedError("missing", f"there is no account {rater_id}, or it was removed")
    return webhooks.remove_rater(connection, rater_id, now, discard=discard, by=by)

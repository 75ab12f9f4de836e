"""The API of those who judge: the next item, a verdict, and one's own. Nothing here tells who wrote an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Path, Query

from prefloop.annotation import api_models, queue, webhooks
from prefloop.annotation.accounts import Person
from prefloop.annotation.api_models import failures
from prefloop.annotation.people import allowed, running, signed_in
from prefloop.annotation.protocol import SKIPS, RefusedError, Verdict
from prefloop.annotation.results import run_answers
from prefloop.annotation.schema import judgement, project, showing
from prefloop.annotation.service import Service
from prefloop.annotation.shown import Shown, show, shown_before
from prefloop.annotation.statements import OF_SHOWING
from prefloop.annotation.stream import read_project

router = APIRouter(tags=["rating"])
Annotator = Annotated[Person, Depends(allowed(scope="annotate"))]
Running = Annotated[Service, Depends(running)]
ItemId = Annotated[str, Path(pattern=r"^[0-9a-f]{20}$")]
After = Annotated[int, Query(ge=0, le=2**53, description="`seq` of the last one already read")]
_OWN = ("seq", "client_id", "revision", "current", "kind", "strength", "ranking", "objectives")
_OWN_TEXTS = ("reason", "comment", "edits", "opened", "submitted")


@router.post("/next", operation_id="nextItem", response_model=api_models.Item | api_models.Nothing)
async def next_item(person: Annotator, service: Running) -> Any:
    """The item that this person holds, its lease renewed, or the next one; safe to repeat.

    Answers stand from left to right, in an order that is this person's and stays the same.
    """
    now = service.clock()
    found = await service.write(lambda connection: webhooks.lease(connection, person.id, now))
    if isinstance(found, queue.Nothing):
        return api_models.Nothing(nothing=found.reason)
    return item_shown(await service.read(lambda connection: show(connection, found, person.id)))


@router.get("/items/{item_id}", operation_id="readItem", response_model=api_models.Item, responses=failures(404))
async def read_item(item_id: ItemId, person: Annotator, service: Running) -> Any:
    """An item that this person was shown, to look at it again; others are not there."""
    return item_shown(await service.read(lambda connection: shown_before(connection, item_id, person.id)))


@router.post(
    "/items/{item_id}/renew",
    operation_id="renewLease",
    response_model=api_models.Renewed,
    responses=failures(404, 409),
)
async def renew(item_id: ItemId, person: Annotator, service: Running) -> Any:
    """Hold the item longer. After its end (409) a verdict is still taken."""
    now = service.clock()
    expires = await service.write(lambda connection: _renew(connection, person.id, item_id, now))
    return api_models.Renewed(expires=expires)


@router.post(
    "/items/{item_id}/run",
    operation_id="runCorrection",
    response_model=api_models.Result,
    responses=failures(404, 409),
)
async def run(item_id: ItemId, tried: api_models.Tried, person: Annotator, service: Running) -> Any:
    """What the query of a correction returns, run in the sandbox on the database of the answers; nothing is kept.

    404 where the item's answers were not run; 409 while an earlier query of the same person runs.
    """
    database = await service.read(partial(_database, rater_id=person.id, handle=item_id))
    (found,) = await service.run(person.id, lambda: run_answers([tried.text], database()))
    return _result(asdict(found))


@router.post(
    "/judgements", operation_id="submitJudgement", response_model=api_models.Saved, responses=failures(404, 409)
)
async def submit(verdict: Verdict, person: Annotator, service: Running) -> Any:
    """A verdict, an edit of one (`revises`), a skip, or a withdrawal. Once answered it is durable.

    Send it again with the same `client_id` if no answer came: it is one verdict, and the second answer says `known`.
    """
    now = service.clock()
    found = await service.write(lambda connection: webhooks.submit(connection, person.id, verdict, now))
    state = "taken" if found.state in ("counted", "surplus") else found.state  # late gold would be no surplus
    return api_models.Saved.model_validate({"seq": found.seq, "state": state, "feedback": found.feedback})


@router.get("/judgements/mine", operation_id="ownJudgements", response_model=api_models.OwnJudgements)
async def mine(
    person: Annotator, service: Running, after: After = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> Any:
    """Every revision of one's own verdicts, oldest first."""
    rows = await service.read(partial(_own, rater_id=person.id, after=after, limit=limit + 1))
    found = [api_models.OwnJudgement.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return api_models.OwnJudgements(judgements=found, next=found[-1].seq if len(rows) > limit else None)


@router.get("/project", operation_id="readProject", response_model=api_models.Project)
async def read_settings(person: Annotated[Person, Depends(signed_in)], service: Running) -> Any:
    """What is asked of raters; with the scope `manage`, all settings."""
    found = await service.read(read_project)
    config = found.config
    names = ("name", "kind", "guidelines", "consent", "edits", "lease_minutes", "break_minutes")
    shown = {name: getattr(config, name) for name in names}
    if "manage" in person.scopes:  # they name models
        source = await service.read(lambda connection: connection.scalar(sa.select(project.c.source)))
        shown |= {"settings": config.model_dump(mode="json"), "source": source}
    return api_models.Project(
        **shown, state=found.state, reason=found.reason, objectives=list(config.objectives), skips=list(SKIPS)
    )


def item_shown(shown: Shown) -> api_models.Item:
    """An item for the wire; hashes of results stay here."""
    results = [answer.result for answer in shown.answers]
    hashes = {(result or {}).get("identical_to") for result in results}
    return api_models.Item(
        id=shown.handle,
        messages=[api_models.Message(role=turn["role"], content=turn["content"]) for turn in shown.messages],
        context=shown.context,
        answers=[
            api_models.Answer(index=one.index, text=one.text, result=_result(one.result)) for one in shown.answers
        ],
        same_results=len(hashes) == 1 and None not in hashes,
        calibration=shown.calibration,
        expires=shown.expires,
        before=api_models.Before.model_validate(shown.before) if shown.before else None,
    )


def _result(stored: dict[str, Any] | None) -> api_models.Result | None:
    if stored is None:
        return None
    return api_models.Result(**{name: stored[name] for name in api_models.Result.model_fields if name in stored})


def _database(connection: sa.Connection, rater_id: int, handle: str) -> Callable[[], FilePath]:
    """Finds what the answers of an item were run on; it may take seconds to build."""
    shown = shown_before(connection, handle, rater_id)
    chosen = read_project(connection).config.sql
    here = chosen is None or chosen.is_file()
    if not here or not any(one.result for one in shown.answers):
        raise RefusedError("missing", "the answers of this item were not run, or their database is gone")

    def find() -> FilePath:
        from prefloop.tasks.nba.task import judge_databases

        return chosen or judge_databases()[0]

    return find


def _renew(connection: sa.Connection, rater_id: int, handle: str, now: int) -> int:
    expires = queue.renew(connection, rater_id, handle, now)
    if expires is not None:
        return expires
    mine = (showing.c.handle == handle, showing.c.rater_id == rater_id)
    if connection.execute(sa.select(showing.c.state).where(*mine)).first() is None:
        raise RefusedError("missing", "there is no such item in your queue")
    raise RefusedError("conflict", "the item is no longer held for you; a verdict is still taken")


def _own(connection: sa.Connection, rater_id: int, after: int, limit: int) -> list[Any]:
    columns = [judgement.c[name] for name in (*_OWN, *_OWN_TEXTS)]
    named = sa.func.coalesce(showing.c.handle, judgement.c.item_id).label("item_id")  # an adjudication has no showing
    mine = sa.select(named, *columns).select_from(judgement.outerjoin(showing, OF_SHOWING))
    mine = mine.where(judgement.c.rater_id == rater_id, judgement.c.seq > after)
    return list(connection.execute(mine.order_by(judgement.c.seq).limit(limit)).all())

"""The desk of the person who runs a project: how far it is, how well people agree, who does what; and what to do."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Form, HTTPException, Path, Request, Response
from fastapi.responses import RedirectResponse
from markupsafe import Markup

from prefloop.annotation.accounts import Person, active_account, invite
from prefloop.annotation.adjudication import Case, case, disagreements
from prefloop.annotation.control import record
from prefloop.annotation.pages import STRENGTHS, Running, page, question, rendered, table
from prefloop.annotation.people import page_person
from prefloop.annotation.progress import Progress, local_midnight, progress
from prefloop.annotation.protocol import RefusedError, Verdict
from prefloop.annotation.schema import judgement, rater
from prefloop.annotation.service import Service
from prefloop.annotation.stream import read_project
from prefloop.annotation.tokens import valid_tokens
from prefloop.annotation.webhooks import adjudicate, remove_rater, requeue, set_state
from prefloop.config.annotation import AnnotationConfig

INVITE_HOURS = 72

router = APIRouter(prefix="/desk", include_in_schema=False)


@dataclass(frozen=True)
class Leaving:
    """Somebody who is to be removed."""

    rater_id: int
    name: str
    pseudonym: str
    verdicts: int
    """That stand, skips and gold items included."""
    counted: int
    """Of them, those that fill a place of an item."""
    tokens: int
    """Of theirs, that programs can use."""


def _at_least(*roles: str) -> Callable[[Person], Awaitable[Person]]:
    async def check(person: Annotated[Person, Depends(page_person)]) -> Person:
        if person.role not in roles:
            raise HTTPException(403, f"this page is for {' and '.join(roles)}s")
        return person

    return check


Admin = Annotated[Person, Depends(_at_least("admin"))]
RaterId = Annotated[int, Path(ge=1, le=2**53)]
Reviewer = Annotated[Person, Depends(_at_least("reviewer", "admin"))]


@router.get("")
async def desk(request: Request, person: Admin, service: Running) -> Response:
    """Counts of this moment, and the last figures that the other process found."""
    now = service.clock()
    counts = await service.read(lambda connection: progress(connection, now, local_midnight(now)))
    project = await service.read(read_project)
    latest = await request.app.state.figures.refresh()
    names = await service.read(_names)
    return page(
        "desk.html",
        request,
        person,
        project=project.config,
        counts=counts,
        left=_left(counts),
        latest=latest,
        age=None if latest.computed is None else max(0, (now - latest.computed) // 1000),
        names=names,
        link=None,
    )


@router.post("/state")
async def state(
    person: Admin,
    service: Running,
    state: Annotated[Literal["running", "paused", "stopped"], Form()],
    reason: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    now = service.clock()
    await service.write(lambda connection: set_state(connection, state, reason, now, person.id))
    return RedirectResponse("/desk", 303)


@router.post("/invite")
async def invitation(
    request: Request,
    person: Admin,
    service: Running,
    role: Annotated[Literal["rater", "reviewer", "admin"], Form()],
) -> Response:
    """A link for one person, shown this once."""
    return await _link(request, person, service, role, None)


@router.post("/raters/{rater_id}/link")
async def new_password(request: Request, rater_id: RaterId, person: Admin, service: Running) -> Response:
    """A link by which somebody who forgot it chooses a new password."""
    return await _link(request, person, service, "", rater_id)


@router.get("/raters/{rater_id}/remove")
async def removal_page(request: Request, rater_id: RaterId, person: Admin, service: Running) -> Response:
    """What removing somebody would do, to be confirmed."""
    leaving = await service.read(partial(_leaving, rater_id=rater_id, by=person.id))
    return page("remove.html", request, person, leaving=leaving)


@router.post("/raters/{rater_id}/remove")
async def removal(
    rater_id: RaterId, person: Admin, service: Running, discard: Annotated[bool, Form()] = False
) -> Response:
    """The form of `removal_page`."""
    now = service.clock()

    def remove(connection: sa.Connection) -> None:
        _leaving(connection, rater_id, person.id)
        remove_rater(connection, rater_id, now, discard=discard, by=person.id)

    await service.write(remove)
    return RedirectResponse("/desk", 303)


@router.post("/items/{item_id}/requeue")
async def again(item_id: str, person: Reviewer, service: Running) -> Response:
    now = service.clock()
    await service.write(lambda connection: requeue(connection, item_id, now, person.id))
    return RedirectResponse("/desk/disagreements", 303)


@router.get("/disagreements")
async def to_read(request: Request, person: Reviewer, service: Running) -> Response:
    """Items that people see differently, or set aside."""
    rows = await service.read(disagreements)
    return page("disagreements.html", request, person, rows=rows)


@router.get("/items/{item_id}")
async def item_page(request: Request, item_id: str, person: Reviewer, service: Running) -> Response:
    """One item with all that was said of it."""
    found = await service.read(lambda connection: case(connection, item_id))
    project = await service.read(read_project)
    return await asyncio.to_thread(_case_page, request, person, project.config, found)


def _case_page(request: Request, person: Person, config: AnnotationConfig, found: Case) -> Response:
    """In a thread of its own: hostile text can take seconds to render."""
    answers = [
        {
            "index": one.index,
            "html": Markup(rendered(one.text)),
            "result": Markup(table(one.result)) if one.result else "",
        }
        for one in found.answers
    ]
    return page(
        "case.html",
        request,
        person,
        project=config,
        case=found,
        prompt=question(found.item.messages),
        answers=answers,
        strengths=STRENGTHS,
        fresh=str(uuid.uuid4()),
    )


@router.post("/items/{item_id}/settle")
async def settle(request: Request, item_id: str, person: Reviewer, service: Running) -> Response:
    """The form of `item_page`: a strength, or a place for each answer."""
    verdict = _settlement(item_id, {name: str(value) for name, value in (await request.form()).items()})
    now = service.clock()
    await service.write(lambda connection: adjudicate(connection, person.id, verdict, now))
    return RedirectResponse("/desk/disagreements", 303)


def _settlement(item_id: str, form: Mapping[str, str]) -> Verdict:
    """Raises RefusedError where the form is not the one of the page."""
    tiers: dict[int, list[int]] = {}
    try:
        for name, place in form.items():
            if name.startswith("place-") and place:
                tiers.setdefault(int(place), []).append(int(name.removeprefix("place-")))
        said: dict[str, Any] = {"kind": "ranking", "ranking": [tiers[place] for place in sorted(tiers)]}
        if "strength" in form:
            said = {"kind": "choice", "strength": int(form["strength"])}
        return Verdict(client_id=form["id"], item_id=item_id, comment=form.get("comment", ""), **said)
    except (KeyError, ValueError) as error:
        raise RefusedError("invalid", "this form does not fit the item: open its page again") from error


async def _link(request: Request, person: Person, service: Service, role: str, rater_id: int | None) -> Response:
    now = service.clock()

    def make(connection: sa.Connection) -> str:
        record(connection, "invited", role if rater_id is None else f"rater {rater_id}: new password", now, person.id)
        return invite(connection, role, now, INVITE_HOURS, rater_id)

    link = f"{service.address.origin}/join#{await service.write(make)}"
    return page(
        "secret.html",
        request,
        person,
        title=f"An invitation for one {role}" if role else "A link to choose a new password",
        label="Give this link to one person",
        secret=link,
        hint=f"It works once, for {INVITE_HOURS} hours, and is not shown again.",
        back=("/desk", "Back to the desk"),
    )


def _leaving(connection: sa.Connection, rater_id: int, by: int) -> Leaving:
    """Reads only.

    Raises:
        RefusedError: ``missing``, there is no such account, or it was removed; ``conflict``, it is one's own.
    """
    if rater_id == by:
        raise RefusedError("conflict", "nobody removes themselves: another admin can")
    account = active_account(connection, rater_id)
    if account is None:
        raise RefusedError("missing", f"there is no account {rater_id}, or it was removed")
    said = (judgement.c.rater_id == rater_id, judgement.c.current, judgement.c.kind != "withdrawn")
    verdicts = sa.select(sa.func.count()).select_from(judgement).where(*said)
    return Leaving(
        rater_id,
        account.name or account.pseudonym,
        account.pseudonym,
        connection.scalar(verdicts) or 0,
        connection.scalar(verdicts.where(judgement.c.counted)) or 0,
        len(valid_tokens(connection, rater_id)),
    )


def _left(counts: Progress) -> str:
    """Time left in words."""
    hours = counts.hours_left
    if hours is None:
        return "not known: nothing came in during the last hour"
    if hours == 0:
        return "done"
    return f"about {hours:.1f} h" if hours >= 1 else f"about {max(1, round(60 * hours))} min"


def _names(connection: Any) -> dict[str, tuple[str, str]]:
    """Name and role by pseudonym."""
    rows = connection.execute(sa.select(rater.c.pseudonym, rater.c.name, rater.c.role))
    return {row.pseudonym: (row.name or "(removed)", row.role) for row in rows}

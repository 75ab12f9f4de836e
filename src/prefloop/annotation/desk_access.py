"""The desk's pages of access for programs: webhooks, with what became of their deliveries, and everybody's tokens."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.annotation import destinations, receivers, webhooks
from prefloop.annotation.accounts import Person
from prefloop.annotation.api_models_running import NewWebhook
from prefloop.annotation.desk import Admin
from prefloop.annotation.pages import Running, page
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Service
from prefloop.annotation.tokens import revoke_token, valid_tokens

DELIVERIES = 50
"""Listed on a page."""
NEWEST = 2**53
RowId = Annotated[int, Path(ge=1, le=NEWEST)]

router = APIRouter(prefix="/desk", include_in_schema=False)


@router.get("/webhooks")
async def hooks(request: Request, person: Admin, service: Running) -> Response:
    """Receivers, each with what became of the last thing it was sent."""
    return await _hooks(request, person, service)


@router.post("/webhooks")
async def add_hook(request: Request, person: Admin, service: Running, given: Annotated[NewWebhook, Form()]) -> Response:
    """A new receiver; its secret is shown this once."""
    try:
        await destinations.check(given.url, inside=service.address.loopback)
    except RefusedError as error:
        return await _hooks(request, person, service, 422, error=str(error), url=given.url)
    now = service.clock()
    key, secret = await service.write(
        lambda connection: webhooks.register(connection, given.url, given.events, now, person.id)
    )
    return page(
        "secret.html",
        request,
        person,
        title="A webhook was added",
        label="The secret that signs what it is sent",
        secret=secret,
        hint="It is not shown again. The receiver checks the header X-Prefloop-Signature with it.",
        back=(f"/desk/webhooks/{key}", "Go on to the webhook"),
    )


@router.get("/webhooks/{webhook_id}")
async def hook(
    request: Request,
    webhook_id: RowId,
    person: Admin,
    service: Running,
    before: Annotated[int, Query(ge=1, le=NEWEST)] = NEWEST,
) -> Response:
    """One receiver and what it was sent, newest first."""
    receiver = await service.read(partial(receivers.receiver, webhook_id=webhook_id))
    wanted = partial(receivers.deliveries, webhook_id=webhook_id, before=before, limit=DELIVERIES + 1)
    rows = await service.read(wanted)
    older = rows[DELIVERIES - 1].id if len(rows) > DELIVERIES else None
    return page("webhook.html", request, person, hook=receiver, rows=rows[:DELIVERIES], older=older, test=webhooks.TEST)


@router.post("/webhooks/{webhook_id}/test")
async def test_hook(webhook_id: RowId, person: Admin, service: Running) -> Response:
    """Send it an event that tells of nothing."""
    now = service.clock()
    await service.write(lambda connection: webhooks.send_test(connection, webhook_id, now))
    return RedirectResponse(f"/desk/webhooks/{webhook_id}", 303)


@router.post("/webhooks/{webhook_id}/remove")
async def drop_hook(webhook_id: RowId, person: Admin, service: Running) -> Response:
    """Send it nothing more, not even what is waiting."""
    now = service.clock()
    await service.write(lambda connection: webhooks.remove(connection, webhook_id, now, person.id))
    return RedirectResponse("/desk/webhooks", 303)


@router.get("/tokens")
async def tokens(request: Request, person: Admin, service: Running) -> Response:
    """The tokens of all people that can be used; new ones are made on one's own account's page."""
    rows = await service.read(valid_tokens)
    return page("tokens.html", request, person, tokens=rows, revoke="/desk/tokens", owners=True)


@router.post("/tokens/{token_id}/revoke")
async def drop_token(token_id: RowId, person: Admin, service: Running) -> Response:
    """End anybody's token."""
    now = service.clock()
    await service.write(lambda connection: revoke_token(connection, token_id, now))
    return RedirectResponse("/desk/tokens", 303)


async def _hooks(
    request: Request, person: Person, service: Service, status: int = 200, *, error: str = "", url: str = ""
) -> Response:
    rows = await service.read(_with_last)
    return page("webhooks.html", request, person, status, rows=rows, events=webhooks.EVENTS, error=error, url=url)


def _with_last(connection: sa.Connection) -> list[tuple[Any, Any]]:
    """Receivers, and the newest delivery of each or None."""
    found = []
    for one in receivers.receivers(connection):
        last = receivers.deliveries(connection, one.id, NEWEST, 1)
        found.append((one, last[0] if last else None))
    return found

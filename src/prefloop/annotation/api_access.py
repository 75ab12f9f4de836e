"""The API of access: invitations, tokens, and who else is told what happens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Query

from prefloop.annotation import api_models_running as models
from prefloop.annotation import destinations, receivers, webhooks
from prefloop.annotation.accounts import HOUR, Person, invite
from prefloop.annotation.api_models import Key, failures
from prefloop.annotation.api_rating import Running
from prefloop.annotation.api_running import Manager
from prefloop.annotation.control import record
from prefloop.annotation.people import signed_in
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import token
from prefloop.annotation.tokens import issue_token, revoke_token

router = APIRouter(tags=["access"])
Somebody = Annotated[Person, Depends(signed_in)]


@router.post("/invites", operation_id="invite", response_model=models.Invite, status_code=201, responses=failures(404))
async def make_invite(body: models.NewInvite, person: Manager, service: Running) -> Any:
    """A link that makes one account, or gives one a new password. It works once and is shown this once."""
    now = service.clock()
    secret = await service.write(lambda connection: _invite(connection, body, now, person.id))
    link = f"{service.address.origin}/join#{secret}"
    return models.Invite(token=secret, url=link, expires=now + body.hours * HOUR)


@router.post("/tokens", operation_id="issueToken", response_model=models.IssuedToken, status_code=201)
async def make_token(body: models.NewToken, person: Somebody, service: Running) -> Any:
    """A token for programs, of one's own, with no more scopes than one's role has. Its secret is shown this once.

    A session makes it, never another token: whoever gets hold of a token must not outlive its revocation.
    """
    if person.via != "session":
        raise RefusedError("forbidden", "a token cannot make tokens: sign in with the browser")
    now = service.clock()
    scopes = sorted(set(body.scopes))
    key, secret = await service.write(lambda connection: _issue(connection, person.id, body.name, scopes, now))
    return models.IssuedToken(id=key, token=secret, name=body.name, scopes=scopes)


@router.get("/tokens", operation_id="listTokens", response_model=list[models.Token])
async def tokens(person: Somebody, service: Running) -> Any:
    """One's own tokens, without their secrets."""
    columns = [token.c[name] for name in models.Token.model_fields]
    mine = sa.select(*columns).where(token.c.rater_id == person.id).order_by(token.c.id)
    rows = await service.read(lambda connection: connection.execute(mine).all())
    return [models.Token.model_validate(row, from_attributes=True) for row in rows]


@router.delete("/tokens/{token_id}", operation_id="revokeToken", status_code=204, responses=failures(404))
async def drop_token(token_id: Key, person: Somebody, service: Running) -> None:
    """End a token of one's own; with the scope `manage`, anybody's."""
    now = service.clock()
    owner = None if "manage" in person.scopes else person.id
    await service.write(lambda connection: revoke_token(connection, token_id, now, owner))


@router.post("/webhooks", operation_id="addWebhook", response_model=models.IssuedWebhook, status_code=201)
async def make_webhook(body: models.NewWebhook, person: Manager, service: Running) -> Any:
    """Send events to a URL from now on. The secret that signs them is shown this once.

    Unless this server is reached on loopback only, hosts in private networks are refused.
    """
    await destinations.check(body.url, inside=service.address.loopback)
    now = service.clock()
    key, secret = await service.write(
        lambda connection: webhooks.register(connection, body.url, body.events, now, person.id)
    )
    return models.IssuedWebhook(id=key, url=body.url, events=sorted(set(body.events)), created=now, secret=secret)


@router.get("/webhooks", operation_id="listWebhooks", response_model=list[models.Webhook])
async def hooks(person: Manager, service: Running) -> Any:
    """Receivers, without their secrets."""
    rows = await service.read(receivers.receivers)
    return [models.Webhook.model_validate(row, from_attributes=True) for row in rows]


@router.delete("/webhooks/{webhook_id}", operation_id="removeWebhook", status_code=204, responses=failures(404))
async def drop_webhook(webhook_id: Key, person: Manager, service: Running) -> None:
    """Send it nothing more, not even what is waiting."""
    now = service.clock()
    await service.write(lambda connection: webhooks.remove(connection, webhook_id, now, person.id))


@router.get(
    "/webhooks/{webhook_id}/deliveries",
    operation_id="listDeliveries",
    response_model=models.Deliveries,
    responses=failures(404),
)
async def deliveries(
    webhook_id: Key,
    person: Manager,
    service: Running,
    before: Annotated[int, Query(ge=1, le=2**53, description="`id` of the last one already read")] = 2**53,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """What was sent to a receiver and what became of it, newest first; the last 30 days."""
    rows = await service.read(partial(receivers.deliveries, webhook_id=webhook_id, before=before, limit=limit + 1))
    found = [
        models.Delivery(
            id=row.id,
            event=row.event,
            event_id=row.payload["id"],
            created=row.created,
            due=row.due,
            tries=row.tries,
            status=row.status,
        )
        for row in rows[:limit]
    ]
    return models.Deliveries(deliveries=found, next=found[-1].id if len(rows) > limit else None)


def _invite(connection: sa.Connection, body: models.NewInvite, now: int, by: int) -> str:
    secret = invite(connection, body.role, now, body.hours, body.rater_id)
    record(connection, "invited", f"rater {body.rater_id}" if body.rater_id else body.role, now, by)
    return secret


def _issue(connection: sa.Connection, rater_id: int, name: str, scopes: Sequence[str], now: int) -> tuple[int, str]:
    secret = issue_token(connection, rater_id, name, scopes, now)
    key = connection.scalar(sa.select(sa.func.max(token.c.id)).where(token.c.rater_id == rater_id))
    assert key is not None
    return key, secret

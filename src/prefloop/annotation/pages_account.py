"""One's own account: choose another password, make and revoke tokens for one's programs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.annotation.accounts import Person, active_account
from prefloop.annotation.api_models_running import NewToken
from prefloop.annotation.guards import set_session
from prefloop.annotation.pages import Running, Somebody, once_more, page
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Service
from prefloop.annotation.signing_in import change_password
from prefloop.annotation.stream import read_project
from prefloop.annotation.tokens import issue_token, revoke_token, valid_tokens

router = APIRouter(prefix="/account", include_in_schema=False)
_PLAIN = {"error": "", "refused": "", "changed": False}


@router.get("")
async def account(request: Request, person: Somebody, service: Running) -> Response:
    return page("account.html", request, person, **_PLAIN, **await _own(service, person))


@router.post("/password")
async def password(
    request: Request,
    person: Somebody,
    service: Running,
    old: Annotated[str, Form()],
    new: Annotated[str, Form()],
) -> Response:
    """Needs the old one; ends every other session, and gives this one a new secret."""
    address = request.client.host if request.client else ""
    project = (await service.read(read_project)).config.name
    try:
        token = await change_password(service, person, old, new, address, project)
    except RefusedError as error:
        own = await _own(service, person)
        return once_more("account.html", request, error, person, **own, refused="", changed=False)
    response = page("account.html", request, person, **_PLAIN | {"changed": True}, **await _own(service, person))
    set_session(response, service.address, token)
    return response


@router.post("/tokens")
async def new_token(
    request: Request, person: Somebody, service: Running, given: Annotated[NewToken, Form()]
) -> Response:
    """A token of one's own, with no more scopes than one's role has; its secret is shown this once."""
    now = service.clock()
    try:
        secret = await service.write(lambda c: issue_token(c, person.id, given.name, given.scopes, now))
    except RefusedError as error:
        own = await _own(service, person)
        return page("account.html", request, person, 422, **_PLAIN | {"refused": str(error)}, **own)
    return page(
        "secret.html",
        request,
        person,
        title="A token was made",
        label=f"Token {given.name!r}",
        secret=secret,
        hint="It is not shown again. Whoever has it can do what its scopes allow: keep it like a password.",
        back=("/account", "Back to your account"),
    )


@router.post("/tokens/{token_id}/revoke")
async def drop_token(token_id: Annotated[int, Path(ge=1, le=2**53)], person: Somebody, service: Running) -> Response:
    """End one of one's own; somebody else's sounds as if it were not there."""
    now = service.clock()
    await service.write(lambda connection: revoke_token(connection, token_id, now, person.id))
    return RedirectResponse("/account", 303)


async def _own(service: Service, person: Person) -> dict[str, Any]:
    return await service.read(partial(_found, rater_id=person.id))


def _found(connection: sa.Connection, rater_id: int) -> dict[str, Any]:
    """Own tokens, and whether there is a password to change."""
    row = active_account(connection, rater_id)
    has_password = row is not None and row.password is not None
    tokens = valid_tokens(connection, rater_id)
    return {"has_password": has_password, "tokens": tokens, "revoke": "/account/tokens", "owners": False}

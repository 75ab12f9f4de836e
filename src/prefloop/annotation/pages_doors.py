"""The pages that lead in and out: sign in, join by an invitation, sign out."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.annotation.accounts import (
    accept_invite,
    clean_name,
    close_session,
    hash_password,
    look_up_invite,
    open_session,
)
from prefloop.annotation.guards import clear_session, set_session
from prefloop.annotation.pages import Running, once_more, page
from prefloop.annotation.people import session_token
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Service
from prefloop.annotation.signing_in import sign_in
from prefloop.annotation.stream import read_project

router = APIRouter(include_in_schema=False)


@router.get("/login")
async def login_page(request: Request) -> Response:
    return page("login.html", request, None, error="", name="")


@router.post("/login")
async def login(
    request: Request, service: Running, name: Annotated[str, Form()], password: Annotated[str, Form()]
) -> Response:
    address = request.client.host if request.client else ""
    try:
        token = await sign_in(service, name, password, address, session_token(request))
    except RefusedError as error:
        return once_more("login.html", request, error, name=name)
    return _signed_in(service, token)


@router.post("/logout")
async def logout(service: Running, token: Annotated[str | None, Depends(session_token)]) -> Response:
    if token:
        await service.write(lambda connection: close_session(connection, token))
    response = RedirectResponse("/login", 303)
    clear_session(response, service.address)
    return response


@router.get("/join")
async def join_page(request: Request) -> Response:
    """The invitation stands in the link's fragment, which browsers send to nobody and servers do not log."""
    return page("join.html", request, None, error="", name="", token="")


@router.post("/join")
async def join(
    request: Request,
    service: Running,
    token: Annotated[str, Form()],
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> Response:
    now = service.clock()
    try:
        invited = await service.read(lambda connection: look_up_invite(connection, token, now))
        who = invited.name or (clean_name(name) if name else "")
        by_link = service.alone and invited.role == "admin" and not password
        project = (await service.read(read_project)).config.name
        hashed = None if by_link else await hash_password(password, who, project)
        who = who or ("me" if by_link else "")
        old = session_token(request)
        found = await service.write(lambda connection: _accept(connection, token, who, hashed, now, old))
    except RefusedError as error:
        return once_more("join.html", request, error, name=name, token=token)
    return _signed_in(service, found, "/judge")


def _signed_in(service: Service, token: str, place: str = "/") -> Response:
    response = RedirectResponse(place, 303)
    set_session(response, service.address, token)
    return response


def _accept(
    connection: sa.Connection, token: str, name: str, hashed: str | None, now: int, replaces: str | None
) -> str:
    if replaces is not None:
        close_session(connection, replaces)
    return open_session(connection, accept_invite(connection, token, name, hashed, now), now)

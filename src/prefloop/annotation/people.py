"""Who asks: by the session's cookie in the browser, by a token in programs; and what they may do.

Tokens are not throttled: 256 random bits are not guessed, and counting failures by address would let one program with a
revoked token shut out everybody behind the same address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from prefloop.annotation.accounts import Person, session_person, touch
from prefloop.annotation.guards import session_cookie
from prefloop.annotation.service import Service
from prefloop.annotation.tokens import token_person

bearer = HTTPBearer(auto_error=False, scheme_name="token", description="`Authorization: Bearer pf_…`")
_ROLES = ("rater", "reviewer", "admin")
"""Each may do what those before it may."""
Bearer = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]


def service_of(request: Request) -> Service:
    """The project that is served."""
    service: Service = request.app.state.service
    return service


def session_token(request: Request) -> str | None:
    """What the session's cookie holds."""
    return request.cookies.get(session_cookie(service_of(request).address)[0])


async def anyone(request: Request, given: Bearer) -> Person | None:
    """Who asks; None where neither token nor session is valid. A token that is given must be valid itself."""
    service = service_of(request)
    now = service.clock()
    if given is not None:
        secret = given.credentials
        return await _noted(service, await service.read(lambda c: token_person(c, secret, now)), secret, now)
    if "authorization" in request.headers:
        return None
    return await _by_session(service, session_token(request), now)


async def signed_in(person: Annotated[Person | None, Depends(anyone)]) -> Person:
    """Who asks.

    Raises:
        HTTPException: 401, neither token nor session is valid.
    """
    if person is None:
        raise HTTPException(401, "sign in, or give a valid token", {"WWW-Authenticate": "Bearer"})
    return person


def allowed(*, scope: str, role: str = "rater") -> Callable[[Person], Awaitable[Person]]:
    """A dependency: who asks, if they have the scope, and the role or a higher one.

    Scopes narrow what a token may do; `accounts` grants none that its owner's role does not have.
    """

    async def check(person: Annotated[Person, Depends(signed_in)]) -> Person:
        if scope not in person.scopes:
            held = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'}
            raise HTTPException(403, f"this needs the scope {scope}", held)
        if _ROLES.index(person.role) < _ROLES.index(role):
            raise HTTPException(403, f"this needs the role {role}")
        return person

    return check


async def page_person(request: Request) -> Person:
    """Who looks at a page; pages know sessions only.

    Raises:
        HTTPException: 303, to the sign-in page.
    """
    service = service_of(request)
    person = await _by_session(service, session_token(request), service.clock())
    if person is None:
        raise HTTPException(303, "sign in first", {"Location": "/login"})
    return person


def page_role(role: str) -> Callable[[Person], Awaitable[Person]]:
    """A dependency of pages: who looks, if their role is this one or a higher one."""

    async def check(person: Annotated[Person, Depends(page_person)]) -> Person:
        if _ROLES.index(person.role) < _ROLES.index(role):
            raise HTTPException(403, f"this page is for the role {role}")
        return person

    return check


async def _by_session(service: Service, token: str | None, now: int) -> Person | None:
    if not token:
        return None
    return await _noted(service, await service.read(lambda c: session_person(c, token, now)), token, now)


async def _noted(service: Service, person: Person | None, secret: str, now: int) -> Person | None:
    """Sessions end when they are not used: so use is written down, now and then."""
    if person is not None and person.due:
        await service.write(lambda connection: touch(connection, secret, now))
    return person


async def running(request: Request) -> Service:
    """`service_of` as a dependency: one that is no coroutine would be given a thread for every request."""
    return service_of(request)

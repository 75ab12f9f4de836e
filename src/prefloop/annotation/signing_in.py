"""Passwords that people give: to sign in, and to choose another one. Both are slowed down for those who guess."""

from __future__ import annotations

from functools import partial

import sqlalchemy as sa

from prefloop.annotation import passwords, schema, throttle
from prefloop.annotation.accounts import (
    READ,
    WRONG,
    Person,
    active_account,
    close_links,
    close_session,
    close_sessions,
    name_key,
    named_account,
    open_session,
)
from prefloop.annotation.control import record
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Service

WRONG_OLD = "the old password is wrong"


async def sign_in(service: Service, name: str, password: str, address: str, replaces: str | None = None) -> str:
    """The secret of a new session.

    Args:
        address: of the client, for the throttle.
        replaces: the session that the browser came with, which ends.

    Raises:
        ThrottledError: too many failures from this address, on this account or over all.
        RefusedError: ``forbidden``; in the same words and after the same work whether or not there is such an account.
    """
    name = name[:READ]
    account, *others = _limits(name, address)
    async with passwords.turn():
        await service.read(partial(throttle.check, limits=(account, *others), now=service.clock()))
        found = await service.read(partial(named_account, name=name))
        stored = found.password if found else None
        right = await passwords.verify(stored, password)
        if stored is None or not right:
            await service.write(partial(throttle.count, limits=(account, *others), now=service.clock()))
            raise RefusedError("forbidden", WRONG)
        again = await passwords.hashed(password) if passwords.outdated(stored) else stored

    def enter(connection: sa.Connection) -> str:
        throttle.forget(connection, account)
        if replaces is not None:
            close_session(connection, replaces)
        if not _stored(connection, found.id, stored, again):
            raise RefusedError("forbidden", WRONG)
        return open_session(connection, found.id, service.clock())

    return await service.write(enter)


async def change_password(service: Service, person: Person, old: str, new: str, address: str, project: str) -> str:
    """Choose another password; the secret of a new session, in place of all that the account had.

    The old one is asked for, since a session may be somebody else's (OWASP ASVS 5.0, 6.2.3); guesses at it count with
    those at sign-in. Links for a new password stop working, API tokens do not.

    Args:
        address: of the client, for the throttle.
        project: its name, which may not stand in a password.

    Raises:
        ThrottledError: too many failures from this address, on this account or over all.
        RefusedError: ``invalid``, the new one will not do; ``forbidden``, the old one is wrong; ``conflict``, there
            is none, or it was changed meanwhile.
    """
    if old == new:
        raise RefusedError("invalid", "the new password is the old one: choose another")
    passwords.check_password(new, (person.name, project))
    account, *others = _limits(person.name, address)
    async with passwords.turn():
        await service.read(partial(throttle.check, limits=(account, *others), now=service.clock()))
        found = await service.read(partial(active_account, rater_id=person.id))
        if found is None or found.password is None:
            raise RefusedError("conflict", "this account has no password: an admin can make a link to choose one")
        if not await passwords.verify(found.password, old):
            await service.write(partial(throttle.count, limits=(account, *others), now=service.clock()))
            raise RefusedError("forbidden", WRONG_OLD)
        fresh = await passwords.hashed(new)

    def change(connection: sa.Connection) -> str:
        now = service.clock()
        if not _stored(connection, person.id, found.password, fresh):
            raise RefusedError("conflict", "the password was changed meanwhile: sign in again")
        throttle.forget(connection, account)
        close_sessions(connection, person.id)
        close_links(connection, person.id, now)
        record(connection, "password", "chosen anew with the old one", now, person.id)
        return open_session(connection, person.id, now)

    return await service.write(change)


def _limits(name: str, address: str) -> tuple[throttle.Limit, throttle.Limit]:
    return throttle.account_limit(name_key(name), address), throttle.address_limit("sign-in", address)


def _stored(connection: sa.Connection, rater_id: int, before: str, after: str) -> bool:
    """Put a hash in the place of the one that was compared, if that still stands."""
    same = (schema.rater.c.id == rater_id, schema.rater.c.password == before)
    return bool(connection.execute(sa.update(schema.rater).where(*same).values(password=after)).rowcount)

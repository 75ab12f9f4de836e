"""API tokens: what programs show instead of a password. The secret is shown once, and only its SHA-256 is stored."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.accounts import NOTED, ROLES, Person, active_account, clean_name, digest, new_key, person_of
from prefloop.annotation.control import record
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import rater
from prefloop.annotation.schema import token as table
from prefloop.annotation.statements import TOKEN_PERSON

PREFIX = "pf_"


def issue_token(connection: sa.Connection, rater_id: int, name: str, scopes: Iterable[str], now: int) -> str:
    """The secret of a new API token, shown once.

    Raises:
        RefusedError: no such account, a bad name, no scope, an unknown one, or one that the role does not have.
    """
    account, wanted = active_account(connection, rater_id), sorted(set(scopes))
    if account is None:
        raise RefusedError("missing", f"there is no account {rater_id}, or it was removed")
    if not wanted or set(wanted) - ROLES["admin"]:
        raise RefusedError("invalid", f"a token needs scopes, some of {', '.join(sorted(ROLES['admin']))}")
    if beyond := sorted(set(wanted) - ROLES[account.role]):
        raise RefusedError("forbidden", f"the scope {beyond[0]!r} is not for the role {account.role}")
    secret = PREFIX + secrets.token_urlsafe(32)
    row = {"token": digest(secret), "name": clean_name(name), "rater_id": rater_id, "scopes": wanted}
    token_id = new_key(connection.execute(sa.insert(table).values(**row, created=now)))
    record(connection, "token issued", f"token {token_id}: {', '.join(wanted)}", now, rater_id)
    return secret


def token_person(connection: sa.Connection, secret: str, now: int) -> Person | None:
    """Whose API token it is; None where it never was or is revoked. Never more than the role allows now. Reads only."""
    row = connection.execute(TOKEN_PERSON, {"given": digest(secret)}).first()
    if row is None:
        return None
    return person_of(row, ROLES[row.role] & set(row.scopes), "token", row.used is None or row.used <= now - NOTED)


def valid_tokens(connection: sa.Connection, owner: int | None = None) -> list[Any]:
    """Tokens that can be used, with the name of whose they are, newest first; one person's, or everybody's.

    Reads only.
    """
    columns = (table.c.id, table.c.name, table.c.scopes, table.c.created, table.c.used, rater.c.name.label("owner"))
    wanted = sa.select(*columns).join(rater, rater.c.id == table.c.rater_id).where(table.c.revoked.is_(None))
    if owner is not None:
        wanted = wanted.where(table.c.rater_id == owner)
    return list(connection.execute(wanted.order_by(table.c.id.desc())).all())


def revoke_token(connection: sa.Connection, token_id: int, now: int, owner: int | None = None) -> None:
    """End an API token.

    Args:
        owner: only if it is theirs; None: an admin ends anybody's.

    Raises:
        RefusedError: there is none, or it is somebody else's: both sound the same.
    """
    which = [table.c.id == token_id, table.c.revoked.is_(None)]
    which += [] if owner is None else [table.c.rater_id == owner]
    if not connection.execute(sa.update(table).where(*which).values(revoked=now)).rowcount:
        raise RefusedError("missing", f"there is no token {token_id}")
    record(connection, "token revoked", f"token {token_id}", now, owner)

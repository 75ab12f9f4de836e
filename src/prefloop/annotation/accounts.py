"""Who may do what: accounts, invitations and sessions.

Secrets are random (256 bits) and the database holds their SHA-256 alone; passwords are Argon2id hashes. There is no
default account: the first one comes by an invitation that the command prints. Functions of a connection are jobs of the
writer, or of a reader where they say that they only read. API tokens are in `prefloop.annotation.tokens`, passwords
that people give in `prefloop.annotation.signing_in`.
"""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from prefloop.annotation import passwords, schema
from prefloop.annotation.control import record
from prefloop.annotation.protocol import RefusedError

ROLES = {
    "rater": frozenset({"annotate"}),
    "reviewer": frozenset({"annotate", "read"}),
    "admin": frozenset({"annotate", "read", "manage"}),
}
"""Scopes of each role. A rater sees their own queue and votes; a reviewer adjudicates and reads judgements without
names; an admin does everything."""
MINUTE, HOUR = 60_000, 3_600_000
IDLE_LIMIT, SESSION_LIMIT = 12 * HOUR, 30 * 24 * HOUR
"""A session ends unused so long, and in any case after the second."""
NOTED = 5 * MINUTE
"""Use of a session or token is written down at most so often."""
NAME = 80
"""Most characters of a name."""
READ = 4 * NAME
"""Most characters looked at of what is given as one."""
WRONG = "the name or the password is wrong"


@dataclass(frozen=True)
class Person:
    """Somebody who asks for something."""

    id: int
    name: str
    pseudonym: str
    role: str
    """``admin``, ``reviewer`` or ``rater``."""
    scopes: frozenset[str]
    """Of the role; with a token, those of them that the token has."""
    via: str
    """``session`` or ``token``."""
    due: bool = False
    """Its use has not been written down for a while: submit a job of `touch`."""


@dataclass(frozen=True)
class Invitation:
    """What a link is good for."""

    role: str
    rater_id: int | None
    """The account that gets a new password; None: somebody new."""
    name: str | None
    """Of that account."""


def create_rater(
    connection: sa.Connection,
    name: str,
    role: str,
    password_hash: str | None,
    now: int,
    qualified: bool | None = None,
) -> int:
    """A new account; its id.

    Args:
        password_hash: by `hash_password`; None: comes in by links only.
        qualified: None: a rater qualifies by the calibration items where there are any; others need not.

    Raises:
        RefusedError: the name or the role is invalid, or somebody has the name.
    """
    if role not in ROLES:
        raise RefusedError("invalid", f"there is no role {role!r}: give one of {', '.join(ROLES)}")
    name = clean_name(name)
    if named_account(connection, name):
        raise RefusedError("conflict", f"somebody is called {name!r} already: choose another name")
    if qualified is None:
        calibration = sa.select(sa.exists().where(schema.item.c.role == "training"))
        qualified = role != "rater" or not connection.scalar(calibration)
    row = {"pseudonym": _pseudonym(connection), "name": name, "password": password_hash, "role": role}
    made = sa.insert(schema.rater).values(**row, status="active", qualified=qualified, created=now)
    return new_key(connection.execute(made))


async def hash_password(password: str, *names: str) -> str:
    """The hash of a new password.

    Args:
        names: of the account and of the project: a password that contains them is guessed first.

    Raises:
        RefusedError: it is too short or too easily guessed.
    """
    passwords.check_password(password, names)
    return await passwords.hashed(password)


def clean_name(name: str) -> str:
    """A name as it is kept: NFC, one space between words.

    Raises:
        RefusedError: it is empty, long, or has characters that are not seen or that turn the line around.
    """
    if len(name) > READ:  # normalising takes time quadratic in a row of accents
        raise RefusedError("invalid", f"a name has 1 to {NAME} characters")
    found = unicodedata.normalize("NFC", name).strip()
    if any(unicodedata.category(letter)[0] == "C" or unicodedata.category(letter) in ("Zl", "Zp") for letter in found):
        raise RefusedError("invalid", "a name has no control characters and no invisible ones: type it by hand")
    found = " ".join(found.split())
    if not 1 <= len(found) <= NAME:
        raise RefusedError("invalid", f"a name has 1 to {NAME} characters")
    return found


def name_key(name: str) -> str:
    """What two spellings of one name have in common: capitals, widths and accents' encodings do not count.

    >>> name_key("ADA  Straße") == name_key("Ａda strasse")
    True
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(folded.split())


# Invitations


def invite(connection: sa.Connection, role: str, now: int, hours: float = 72, rater_id: int | None = None) -> str:
    """The secret of a link that works once and expires.

    Args:
        rater_id: the account that shall get a new password, in its own role; older links of it stop working.

    Raises:
        RefusedError: no such role or account.
    """
    if rater_id is not None:
        account = active_account(connection, rater_id)
        if account is None:
            raise RefusedError("missing", f"there is no account {rater_id}, or it was removed")
        role = account.role
        close_links(connection, rater_id, now)
    if role not in ROLES:
        raise RefusedError("invalid", f"there is no role {role!r}: give one of {', '.join(ROLES)}")
    token = secrets.token_urlsafe(32)
    row = {"token": digest(token), "role": role, "rater_id": rater_id, "created": now}
    connection.execute(sa.insert(schema.invite).values(**row, expires=now + round(hours * HOUR)))
    return token


def look_up_invite(connection: sa.Connection, token: str, now: int) -> Invitation:
    """What a link is good for. Reads only.

    Raises:
        RefusedError: it never was, is used or has expired, or its account was removed.
    """
    valid = (schema.invite.c.token == digest(token), schema.invite.c.used.is_(None), schema.invite.c.expires > now)
    found = connection.execute(sa.select(schema.invite).where(*valid)).first()
    account = active_account(connection, found.rater_id) if found and found.rater_id is not None else None
    if found is None or (found.rater_id is not None and account is None):
        raise RefusedError("missing", "this link was used before or has expired: ask for a new one")
    return Invitation(found.role, found.rater_id, account.name if account else None)


def accept_invite(connection: sa.Connection, token: str, name: str, password_hash: str | None, now: int) -> int:
    """Use a link up; the id of the account it made, or gave a new password to.

    For an account that exists ``name`` is not read; with a new password its sessions end (its API tokens do not),
    without one its old password stays. A refusal uses nothing up.

    Raises:
        RefusedError: the link is not valid (any more), or the name cannot be had.
    """
    found = look_up_invite(connection, token, now)
    connection.execute(sa.update(schema.invite).where(schema.invite.c.token == digest(token)).values(used=now))
    if found.rater_id is None:
        rater_id = create_rater(connection, name, found.role, password_hash, now)
        record(connection, "joined", found.role, now, rater_id)
        return rater_id
    if password_hash is not None:
        chosen = sa.update(schema.rater).where(schema.rater.c.id == found.rater_id)
        connection.execute(chosen.values(password=password_hash))
        close_sessions(connection, found.rater_id)
        record(connection, "password", "chosen anew by a link", now, found.rater_id)
    return found.rater_id


def close_links(connection: sa.Connection, rater_id: int, now: int) -> None:
    """Links by which an account would get a new password stop working."""
    open_ones = (schema.invite.c.rater_id == rater_id, schema.invite.c.used.is_(None))
    connection.execute(sa.update(schema.invite).where(*open_ones).values(used=now))


# Sessions


def open_session(connection: sa.Connection, rater_id: int, now: int) -> str:
    """The secret of a new session, for the cookie; never one that the browser brought. Sessions that ended go.

    Raises:
        RefusedError: the account was removed.
    """
    if active_account(connection, rater_id) is None:
        raise RefusedError("forbidden", WRONG)
    table = schema.session
    connection.execute(sa.delete(table).where((table.c.expires <= now) | (table.c.seen <= now - IDLE_LIMIT)))
    token = secrets.token_urlsafe(32)
    row = {"token": digest(token), "rater_id": rater_id, "created": now, "seen": now}
    connection.execute(sa.insert(table).values(**row, expires=now + SESSION_LIMIT))
    return token


def session_person(connection: sa.Connection, token: str, now: int) -> Person | None:
    """Whose session it is; None where it never was or has ended. Reads only."""
    table = schema.session
    found = sa.select(schema.rater, table.c.seen).join(table, table.c.rater_id == schema.rater.c.id)
    row = connection.execute(found.where(_alive(token, now), schema.rater.c.status == "active")).first()
    return None if row is None else person_of(row, ROLES[row.role], "session", row.seen <= now - NOTED)


def touch(connection: sa.Connection, secret: str, now: int) -> None:
    """Write down that a session or an API token is in use; a session that has ended stays so."""
    seen, used, known = schema.session.c.seen, schema.token.c.used, schema.token.c.token == digest(secret)
    long_ago = sa.or_(used.is_(None), used <= now - NOTED)
    connection.execute(sa.update(schema.session).where(_alive(secret, now), seen <= now - NOTED).values(seen=now))
    connection.execute(sa.update(schema.token).where(known, long_ago).values(used=now))


def close_session(connection: sa.Connection, token: str) -> None:
    """End it here, whatever becomes of the cookie."""
    connection.execute(sa.delete(schema.session).where(schema.session.c.token == digest(token)))


def close_sessions(connection: sa.Connection, rater_id: int) -> int:
    """End all sessions of an account; how many."""
    return connection.execute(sa.delete(schema.session).where(schema.session.c.rater_id == rater_id)).rowcount


# Looking up


def named_account(connection: sa.Connection, name: str) -> Any:
    """The active account of this name, however it is spelt, or None; accounts are few."""
    key = name_key(name)
    rows = connection.execute(sa.select(schema.rater).where(schema.rater.c.name.is_not(None)))
    return next((row for row in rows if name_key(row.name) == key), None)


def active_account(connection: sa.Connection, rater_id: int) -> Any | None:
    """The account of this id; None where there is none or it was removed."""
    which = (schema.rater.c.id == rater_id, schema.rater.c.status == "active")
    return connection.execute(sa.select(schema.rater).where(*which)).first()


def _pseudonym(connection: sa.Connection) -> str:
    taken = set(connection.scalars(sa.select(schema.rater.c.pseudonym)))
    while (drawn := f"rater-{secrets.token_hex(3)}") in taken:
        pass
    return drawn


def person_of(row: Any, scopes: frozenset[str], via: str, due: bool) -> Person:
    """Of a row of `prefloop.annotation.schema.rater`."""
    return Person(row.id, row.name, row.pseudonym, row.role, scopes, via, due)


def _alive(token: str, now: int) -> sa.ColumnElement[bool]:
    table = schema.session
    return sa.and_(table.c.token == digest(token), table.c.expires > now, table.c.seen > now - IDLE_LIMIT)


def digest(secret: str) -> str:
    """What the database holds of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(inserted: sa.CursorResult[Any]) -> int:
    """Of the row that an insertion made."""
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])

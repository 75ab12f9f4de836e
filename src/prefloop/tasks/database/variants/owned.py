"""The database that becomes a PostgreSQL variant: empty but for what an unfinished task left there, and safe to read.

What is created carries a mark, in a comment, until the task that it is made for stands. Only what carries one is ever
dropped: by the next command that is given the same database.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
from psycopg import sql

from prefloop.errors import DataError
from prefloop.sql.postgres import connect, read_address
from prefloop.sql.postgres_role import excess_rights

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

UNFINISHED = "prefloop: variant of an unfinished task, which the next one may replace; "
MARK = UNFINISHED + uuid4().hex
"""This process's."""

_HELD = """
WITH spaces AS (SELECT oid, nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
held AS (
  SELECT 'pg_class' AS catalog, c.oid, CASE WHEN c.relkind = 'r' THEN 'TABLE' END AS kind, n.nspname, c.relname AS name,
    format('%%I.%%I', n.nspname, c.relname) AS shown
  FROM pg_class c JOIN spaces n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c')
  UNION ALL SELECT 'pg_type', t.oid, CASE WHEN t.typtype = 'e' THEN 'TYPE' END, n.nspname, t.typname,
    format('type %%I.%%I', n.nspname, t.typname)
  FROM pg_type t JOIN spaces n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r')
  UNION ALL SELECT 'pg_proc', p.oid, NULL, n.nspname, p.proname,
    format('function %%I.%%I(%%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
  FROM pg_proc p JOIN spaces n ON n.oid = p.pronamespace
)
SELECT CASE WHEN starts_with(obj_description(oid, catalog), %s) THEN kind END, nspname, name, shown
FROM held WHERE NOT EXISTS (SELECT FROM pg_depend d
  WHERE d.classid = catalog::regclass AND d.objid = held.oid AND d.deptype = 'e')
ORDER BY kind, shown
"""
"""All that is not the system's or an extension's; the kind only of what carries the mark."""
_MAY_CREATE = """
SELECT 1 FROM pg_roles r WHERE pg_has_role(%s, r.oid, 'MEMBER') AND has_schema_privilege(r.oid, 'public', 'CREATE')
"""
CREATES = "may create tables in schema public"


def owned(into: str) -> Connection:
    """A connection that may write. Raises DataError."""
    address = read_address(into)
    given = {} if address.password is None else {"password": address.password}
    try:
        return psycopg.connect(address.conninfo, **given)
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[0]
        if address.password:
            reason = reason.replace(address.password, "***")
        raise DataError(f"database {address.shown} cannot be reached: {reason}") from None


def clear(target: Connection, shown: str) -> None:
    """Drop what an unfinished task left. Raises DataError, and drops nothing, where there is anything else."""
    found = _marked(target, UNFINISHED)
    for kind, _, _, name in found:
        if kind is None:
            raise DataError(f"{shown} is to become the variant and holds {name}: give an empty database")
    for kind, space, name, _ in found:  # tables before the types of their columns; without CASCADE
        target.execute(sql.SQL("DROP {} {}").format(sql.SQL(kind), sql.Identifier(space, name)))


def mark(target: Connection, kind: str, place: sql.Identifier) -> None:
    """Say that a TABLE or TYPE may be dropped."""
    target.execute(sql.SQL("COMMENT ON {} {} IS {}").format(sql.SQL(kind), place, MARK))


def keep(into: str) -> None:
    """Take the marks away: the task that the variant is made for stands.

    Raises:
        DataError: it cannot be reached, or another command has filled it meanwhile.
    """
    shown = read_address(into).shown
    with owned(into) as target:
        found = [row for row in _marked(target, MARK) if row[0]]
        if not found:
            raise DataError(f"{shown} was filled by another command meanwhile: give each a database of its own")
        for kind, space, name, _ in found:
            place = sql.Identifier(space, name)
            target.execute(sql.SQL("COMMENT ON {} {} IS NULL").format(sql.SQL(kind), place))


def check_reader(target: Connection, url: str, reader: str) -> None:
    """Refuse before anything is written, if answers could change the variant.

    Before PostgreSQL 15 everybody may create tables in schema public; that right, where it is all that is too much, is
    taken away in `target`'s transaction.
    """
    with connect(read_address(url)) as connection:
        excess = excess_rights(connection)
    if excess == [CREATES]:
        with suppress(psycopg.errors.InsufficientPrivilege), target.transaction():
            target.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        if not target.execute(_MAY_CREATE, [reader]).fetchone():
            return
    if excess:
        raise DataError(f"{reader} {excess[0]} in {read_address(url).shown}: it must be able only to read there")


def _marked(target: Connection, start: str) -> list[tuple[str | None, str, str, str]]:
    return target.execute(_HELD, [start]).fetchall()

"""A PostgreSQL database that others use: reached by a role that can only read, under limits, its password kept apart.

A URL is libpq's: ``postgresql://user@host:5432/name``, with what is left out taken from the environment
(``PGPASSWORD``, ``PGPASSFILE`` or ``~/.pgpass``, ``PGSERVICE``). A password in the URL is accepted, and shown and
stored nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from prefloop.errors import DataError

if TYPE_CHECKING:
    import psycopg

_SCHEME = re.compile(r"postgres(ql)?(\+psycopg)?://")
STATEMENT_S = 10.0
"""Seconds of a statement, where the role has no ``statement_timeout`` of its own."""
LONGEST_STATEMENT_S = 600.0
OLDEST_SERVER = 120_000
CONNECT_S = 10
SETTINGS = {
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "60s",
    "default_transaction_read_only": "on",
    "work_mem": "32MB",
    "hash_mem_multiplier": "1",
    "max_parallel_workers_per_gather": "0",
    "cursor_tuple_fraction": "1",  # all rows are wanted, not the first ones soon
    "synchronize_seqscans": "off",  # else rows without an order come in another one each time
    "jit": "off",
    "row_security": "on",
    "standard_conforming_strings": "on",
    "client_connection_check_interval": "1s",  # a query whose client was killed ends soon
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}
"""What every transaction starts with; a setting that the server does not have is left out."""


def is_postgres(database: object) -> bool:
    """Whether this names a PostgreSQL database.

    >>> is_postgres("postgresql://me@host/nba"), is_postgres("nba.sqlite")
    (True, False)
    """
    return isinstance(database, str) and _SCHEME.match(database) is not None


@dataclass(frozen=True)
class Address:
    """Where a database is, and the password apart from it."""

    conninfo: str
    """How libpq finds it; without a password."""
    shown: str
    """``user@host:port/name`` as far as the URL says it, for messages."""
    password: str | None = field(default=None, repr=False)


def read_address(url: str) -> Address:
    """A URL taken apart.

    >>> read_address("postgresql://me:secret@host/nba").shown
    'me@host/nba'

    Raises:
        DataError: it cannot be read; a password in it is not repeated.
    """
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = dict(conninfo_to_dict(_SCHEME.sub("postgresql://", url, count=1)))
    except psycopg.Error:  # its text repeats parts of the URL
        raise DataError("the database URL cannot be read: give postgresql://user@host:5432/name") from None
    password = parts.pop("password", None)
    secret = parts.pop("sslpassword", None)
    if secret is not None:
        raise DataError("the database URL holds sslpassword: use a key without one, or a password file")
    parts.setdefault("connect_timeout", str(CONNECT_S))
    user, host, port, name = (str(parts.get(key) or "") for key in ("user", "host", "port", "dbname"))
    place = f"[{host}]" if ":" in host and "," not in host else host
    shown = f"{user}{'@' if user else ''}{place}{':' if port else ''}{port}/{name or parts.get('service', '')}"
    conninfo = make_conninfo("", **parts, client_encoding="UTF8", application_name="prefloop")
    return Address(conninfo, shown, None if password is None else str(password))


def url_as(url: str, user: str, schemas: Sequence[str] = ()) -> str:
    """The URL of the same database for another role, without a password.

    >>> url_as("postgresql://owner:secret@host:5433/shop?sslmode=require", "reader")
    'postgresql://reader@host:5433/shop?sslmode=require'
    >>> url_as("postgresql:///shop?host=/tmp", "reader", ["Sales", "public"])
    'postgresql://reader@/shop?host=%2Ftmp&options=-csearch_path%3D%22Sales%22%2Cpublic'
    >>> url_as("postgresql://owner@[::1]:5433/shop", "reader")
    'postgresql://reader@/shop?host=%3A%3A1&port=5433'

    Args:
        schemas: where its session looks for tables; default the role's own.
    """
    from psycopg.conninfo import conninfo_to_dict

    parts = {key: str(value) for key, value in conninfo_to_dict(read_address(url).conninfo).items()}
    for name in ("user", "connect_timeout", "client_encoding", "application_name"):
        parts.pop(name, None)
    name, host, port = parts.pop("dbname", ""), parts.pop("host", ""), parts.pop("port", "")
    if schemas:
        path = re.sub(r"([\\\s])", r"\\\1", ",".join(map(_quoted, schemas)))  # options end at a blank without \\
        parts["options"] = f"{parts.get('options', '')} -csearch_path={path}".strip()
    if re.search("[/:,]", host):  # the folder of a socket, an IPv6 address, several hosts
        parts = {"host": host, **({"port": port} if port else {}), **parts}
        host = port = ""
    query = f"?{urlencode(parts, quote_via=quote)}" if parts else ""
    return f"postgresql://{quote(user, safe='')}@{host}{':' if port else ''}{port}/{quote(name, safe='')}{query}"


def _quoted(schema: str) -> str:
    """A schema's name as a search path has it: PostgreSQL reads one without quotes in lower case."""
    return schema if re.fullmatch("[a-z_][a-z0-9_]*", schema) else '"' + schema.replace('"', '""') + '"'


def connect(address: Address) -> psycopg.Connection[Any]:
    """A connection of which every transaction is read-only and sees one state; the role is not checked.

    Raises:
        DataError: there is no such server, no such database, or no access; or the server is too old.
    """
    import psycopg

    try:
        given = {} if address.password is None else {"password": address.password}
        connection = psycopg.connect(address.conninfo, prepare_threshold=None, **given)
    except psycopg.Error as error:
        raise DataError(f"database {address.shown} cannot be reached: {_reason(error, address)}") from None
    if connection.info.server_version < OLDEST_SERVER:
        connection.close()
        raise DataError(f"database {address.shown} runs on a server older than PostgreSQL {OLDEST_SERVER // 10_000}")
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    return connection


def connect_readonly(url: str) -> psycopg.Connection[Any]:
    """A connection by a role that can only read, with the limits set for the session.

    Raises:
        DataError: it cannot be reached; or the role may do more than read, with what and the way out.
    """
    from prefloop.sql.postgres_role import check_role

    address = read_address(url)
    connection = connect(address)
    try:
        check_role(connection, address.shown)
        apply_settings(connection, session_settings(connection), local=False)
        connection.commit()
    except BaseException:
        connection.close()
        raise
    return connection


def session_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """The settings of every transaction of this role here: `SETTINGS`, its time limit, its schemas by name."""
    import psycopg

    known = {name for (name,) in connection.execute("SELECT name FROM pg_catalog.pg_settings")}
    found = {name: value for name, value in SETTINGS.items() if name in known}
    for name in ("client_connection_check_interval",):  # not on every system
        try:
            with connection.transaction(force_rollback=True):
                apply_settings(connection, {name: found[name]} if name in found else {})
        except psycopg.Error:
            found.pop(name)
    found["statement_timeout"] = f"{round(1000 * statement_seconds(connection))}ms"
    path = "SELECT string_agg(quote_ident(s), ', ') FROM unnest(current_schemas(false)) s WHERE s !~ '^pg_'"
    (schemas,) = _row(connection, path)
    found["search_path"] = f"pg_catalog{', ' if schemas else ''}{schemas or ''}, pg_temp"
    return found


def statement_seconds(connection: psycopg.Connection[Any]) -> float:
    """How long a statement of this role may take: its own ``statement_timeout``, else `STATEMENT_S`."""
    (milliseconds,) = _row(
        connection, "SELECT setting::float8 FROM pg_catalog.pg_settings WHERE name = 'statement_timeout'"
    )
    return min(milliseconds / 1000, LONGEST_STATEMENT_S) if milliseconds else STATEMENT_S


def apply_settings(connection: psycopg.Connection[Any], settings: dict[str, str], *, local: bool = True) -> None:
    """Set them for the transaction, or with ``local=False`` for the session."""
    calls = ", ".join(["pg_catalog.set_config(%s, %s, %s)"] * len(settings))
    if settings:
        connection.execute(f"SELECT {calls}", [part for pair in settings.items() for part in (*pair, local)])


def _row(connection: psycopg.Connection[Any], sql: str) -> tuple[Any, ...]:
    found = connection.execute(sql).fetchone()
    assert found is not None
    return found


def _reason(error: Exception, address: Address) -> str:
    """The first line of what the server or libpq says, without the password."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.replace(address.password, "***") if address.password else text

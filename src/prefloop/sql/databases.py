"""Databases that queries run on: a SQLite file, of which a copy is opened, or a PostgreSQL server's, as it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError
from prefloop.records import content_id
from prefloop.sql.postgres import connect_readonly, is_postgres, statement_seconds
from prefloop.sql.snapshot import snapshot

if TYPE_CHECKING:
    import psycopg

Database = Path | str
"""A SQLite file, or a ``postgresql://`` URL."""

STAMPED_BYTES = 256 * 2**20
"""Largest PostgreSQL database of which the contents are hashed: a second or two of reading."""

_TABLES = """
SELECT n.nspname, c.relname, pg_table_size(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND has_table_privilege(c.oid, 'SELECT')
AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1, 2"""


def frozen(databases: Sequence[Database], folder: Path) -> list[Database]:
    """Copies of SQLite files in a folder (`prefloop.sql.snapshot`); the URLs of PostgreSQL databases, checked.

    Raises:
        DataError: a file is missing or no database, or has no table; a server cannot be reached, or by a role that
            may do more than read.
    """
    return [str(one) if is_postgres(one) else snapshot(Path(one), folder) for one in databases]


def identity(database: Database) -> str:
    """What tells a database from others: its file's name, or host, port, name, role, time limit and contents.

    The contents of a PostgreSQL database count where they are at most `STAMPED_BYTES`.

    Raises:
        DataError: it cannot be reached.
    """
    if not is_postgres(database):
        return Path(database).stem
    with connect_readonly(str(database)) as connection:
        info = connection.info
        limit = statement_seconds(connection)
        return (
            f"{info.host}:{info.port}/{info.dbname} {info.user} {limit:g}s {content_stamp(connection) or 'unstamped'}"
        )


def database_stamp(url: str) -> str | None:
    """A hash of what a PostgreSQL database holds for its role (`content_stamp`).

    Raises:
        DataError: it cannot be reached, or its role may do more than read.
    """
    with connect_readonly(url) as connection:
        return content_stamp(connection)


def content_stamp(connection: psycopg.Connection[Any]) -> str | None:
    """A hash of all rows of the tables that the role may read, whatever their order.

    None of a database too large for `STAMPED_BYTES` or for the role's time-out.

    Raises:
        DataError: a table of the role cannot be read.
    """
    import psycopg
    from psycopg import sql

    tables = connection.execute(_TABLES).fetchall()
    if sum(size for *_, size in tables) > STAMPED_BYTES:
        return None
    found = []
    for schema, name, _ in tables:
        whole = sql.SQL("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t")
        try:
            found.append([schema, name, connection.execute(whole.format(sql.Identifier(schema, name))).fetchall()])
        except psycopg.errors.QueryCanceled:
            return None
        except psycopg.Error as error:
            raise DataError(f"{schema}.{name} cannot be read by its role: {str(error).splitlines()[0]}") from error
    return content_id(found)

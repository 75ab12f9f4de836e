"""What a role may do in a PostgreSQL database: refused unless it can only read; and the SQL that makes one that can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError

if TYPE_CHECKING:
    import psycopg

ROLE = "prefloop_reader"
SHOWN = 3
"""Findings told in a message."""

_MINE = """
WITH mine AS (SELECT r.* FROM pg_catalog.pg_roles r WHERE pg_has_role(session_user, r.oid, 'MEMBER')),
spaces AS (SELECT * FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
relations AS (
  SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class c JOIN spaces n ON n.oid = c.relnamespace
),
guarded AS (
  SELECT p.oid, format('%I.%I(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name
  FROM pg_catalog.pg_proc p JOIN spaces n ON n.oid = p.pronamespace JOIN pg_catalog.pg_language l ON l.oid = p.prolang
  WHERE p.prosecdef OR NOT (l.lanpltrusted OR l.lanname IN ('c', 'internal'))
)"""
"""The roles that it is or can become; what is not the system's: relations, and functions that no role holds back."""

_TOO_MUCH = f"""{_MINE}
SELECT 1, CASE WHEN m.rolsuper THEN 'is a superuser' WHEN m.rolcreaterole THEN 'may create roles'
  WHEN m.rolcreatedb THEN 'may create databases' ELSE 'may replicate' END
FROM mine m WHERE m.rolsuper OR m.rolcreaterole OR m.rolcreatedb OR m.rolreplication
UNION SELECT 2, 'is a member of ' || m.rolname FROM mine m WHERE m.rolname IN (
  'pg_write_all_data', 'pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program',
  'pg_signal_backend', 'pg_database_owner', 'pg_create_subscription', 'pg_checkpoint', 'pg_maintain')
UNION SELECT 3, 'owns ' || CASE WHEN d.dbid IN (0, (SELECT oid FROM pg_catalog.pg_database
  WHERE datname = current_database())) THEN pg_describe_object(d.classid, d.objid, d.objsubid)
  ELSE 'objects of another database' END
FROM pg_catalog.pg_shdepend d JOIN mine m ON m.oid = d.refobjid
WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.deptype = 'o'
UNION SELECT 4, 'may write table ' || c.name FROM relations c, mine m
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND (has_table_privilege(m.oid, c.oid, 'DELETE, TRUNCATE, TRIGGER')
  OR has_any_column_privilege(m.oid, c.oid, 'INSERT, UPDATE, REFERENCES'))
UNION SELECT 5, 'may advance sequence ' || c.name FROM relations c, mine m
WHERE c.relkind = 'S' AND has_sequence_privilege(m.oid, c.oid, 'USAGE, UPDATE')
UNION SELECT 6, 'may create tables in schema ' || n.nspname FROM spaces n, mine m
WHERE has_schema_privilege(m.oid, n.oid, 'CREATE')
UNION SELECT 7, 'may create schemas' FROM mine m WHERE has_database_privilege(m.oid, current_database(), 'CREATE')
UNION SELECT 8, 'may call ' || f.name || ', which may do what the role may not' FROM guarded f, mine m
WHERE has_function_privilege(m.oid, f.oid, 'EXECUTE')
UNION SELECT 9, 'has no temp_file_limit' WHERE current_setting('temp_file_limit') = '-1'
ORDER BY 1, 2"""

_READABLE = f"""{_MINE}
SELECT c.name FROM relations c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
AND has_any_column_privilege(session_user, c.oid, 'SELECT') ORDER BY 1"""

_GRANTED = f"""{_MINE}
SELECT quote_ident(n.nspname), string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY c.relname)
FROM pg_catalog.pg_class c JOIN spaces n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition GROUP BY 1 ORDER BY 1"""

_GUARDED = f"{_MINE} SELECT name FROM guarded ORDER BY 1"


def excess_rights(connection: psycopg.Connection[Any]) -> list[str]:
    """What the session's role, or a role that it can become, may do beyond reading; empty for a right one."""
    found = [str(text) for _, text in connection.execute(_TOO_MUCH)]
    return found[:1] if found[:1] == ["is a superuser"] else found


def readable_tables(connection: psycopg.Connection[Any]) -> list[str]:
    """Tables and views that the role may read, as ``schema.table``, quoted where they must be."""
    return [str(name) for (name,) in connection.execute(_READABLE)]


def check_role(connection: psycopg.Connection[Any], shown: str) -> None:
    """Refuse a role with which untrusted queries could do harm.

    Args:
        shown: the database's name in messages.

    Raises:
        DataError: the role may do more than read, or may read nothing.
    """
    excess = excess_rights(connection)
    if excess:
        more = f", and {len(excess) - SHOWN} more" if len(excess) > SHOWN else ""
        raise DataError(
            f"the role of {shown} {', '.join(excess[:SHOWN])}{more}: queries run by a role that can only read. "
            "'prefloop doctor --database URL' prints the SQL that makes one"
        )
    if not readable_tables(connection):
        raise DataError(f"the role of {shown} may read no table there: GRANT SELECT ON the tables to ask about")


def role_sql(connection: psycopg.Connection[Any], role: str = ROLE) -> str:
    """SQL that makes a role which can only read this database's tables, to be run by its administrator.

    The password is asked for by psql and is in no text.
    """
    import psycopg

    name = psycopg.sql.Identifier(role).as_string(connection)
    database = psycopg.sql.Identifier(connection.info.dbname).as_string(connection)
    granted = [(str(schema), str(tables)) for schema, tables in connection.execute(_GRANTED)]
    lines = [
        f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;",
        f"\\password {name}",
        f"ALTER ROLE {name} SET default_transaction_read_only = on;",
        f"ALTER ROLE {name} SET statement_timeout = '10s';",
        f"ALTER ROLE {name} SET temp_file_limit = '1GB'; -- by a superuser",
        f"GRANT CONNECT ON DATABASE {database} TO {name};",
    ]
    for schema, tables in granted:
        lines += [
            f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;",
            f"GRANT USAGE ON SCHEMA {schema} TO {name};",
            f"GRANT SELECT ON {tables} TO {name};",
        ]
    lines += [f"REVOKE EXECUTE ON ROUTINE {called} FROM PUBLIC;" for (called,) in connection.execute(_GUARDED)]
    if any(schema != "public" for schema, _ in granted):
        schemas = ", ".join(schema for schema, _ in granted)
        lines.append(f"ALTER ROLE {name} IN DATABASE {database} SET search_path = {schemas};")
    return "\n".join(lines)

"""A SQLite database in PostgreSQL: its tables with what they hold, and a role that can only read them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import sqlglot
from postgres import USER, Postgres
from psycopg import sql
from sqlglot import exp

from prefloop.sql.postgres_role import ROLE, role_sql

TYPES = {"INTEGER": "bigint", "REAL": "double precision", "BOOLEAN": "smallint"}
"""SQLite's types as a loader would choose them; flags are 0 and 1 in both."""


def new_database(server: Postgres) -> str:
    """The administrator's URL of an empty database, as libpq reads it."""
    return server.create_database().replace("+psycopg", "")


def make_reader(admin: str) -> str:
    """Run the SQL that prefloop prints for a database; the URL of its role."""
    with psycopg.connect(admin, autocommit=True) as connection:
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone()
        for line in role_sql(connection).splitlines():
            if not line.startswith("\\") and not (exists and line.startswith("CREATE ROLE")):
                connection.execute(line)
    return admin.replace(f"//{USER}@", f"//{ROLE}@")


def copy_tables(path: Path, admin: str) -> None:
    """Every table of a SQLite file with its rows."""
    with closing(sqlite3.connect(path)) as source, psycopg.connect(admin) as target:
        tables = source.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        for (table,) in tables.fetchall():
            columns = [(row[1], TYPES.get(row[2], "text")) for row in source.execute(f"PRAGMA table_info({table})")]
            target.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in columns)})")
            with target.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
                for row in source.execute(f"SELECT * FROM {table}"):
                    copy.write_row(row)
        target.execute("ANALYZE")  # now, not at some time while a test runs: plans stay what they are


def in_postgres(query: str) -> str:
    """A SQLite query as somebody would write it for PostgreSQL.

    Beyond sqlglot: a sum of truths is one of 0 and 1, a column that its group determines is aggregated, and a derived
    table has a name.
    """
    tree = sqlglot.parse_one(query, read="sqlite")
    for total in list(tree.find_all(exp.Sum, exp.Avg)):
        if isinstance(total.this, exp.Predicate | exp.Connector | exp.Not):
            total.set("this", exp.cast(exp.paren(total.this.copy()), "int"))
    for select in list(tree.find_all(exp.Select)):
        if grouped := select.args.get("group"):
            keys = {column.sql() for column in grouped.expressions}
            for shown in select.expressions:
                if isinstance(shown, exp.Column) and shown.sql() not in keys:
                    shown.replace(exp.alias_(exp.Min(this=shown.copy()), shown.name))
        if isinstance(select.parent, exp.Subquery) and isinstance(select.parent.parent, exp.From):
            select.parent.set("alias", exp.TableAlias(this=exp.to_identifier("derived")))
    return tree.sql(dialect="postgres")

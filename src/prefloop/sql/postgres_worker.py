"""The process that runs untrusted SQL on a PostgreSQL server: ``python -m prefloop.sql.postgres_worker``.

Layers, each of which holds alone against what changes data: a role that can only read; a read-only transaction that is
rolled back, in a session that is wiped after each query; a cursor, which takes nothing but a query; and a list of what
a query may hold (`prefloop.sql.postgres_query`). The server's clock ends a statement, the parent kills a worker that
answers no more. A password comes by the environment.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

import psycopg

from prefloop.errors import DataError
from prefloop.sql.postgres import Address, apply_settings, connect, session_settings
from prefloop.sql.postgres_query import RefusedError, checked_query
from prefloop.sql.postgres_values import load_plainly
from prefloop.sql.serving import cell, reply, serve, size

ROWS_PER_FETCH = 500

STATES = {
    "42P01": "unknown_table",
    "3F000": "unknown_table",
    "42703": "unknown_column",
    "42883": "unknown_function",
    "42702": "ambiguous_column",
    "42725": "type",  # which of several functions is meant
    "42804": "type",
    "42846": "type",
    "42P18": "type",
    "42P38": "type",
    "42501": "denied",
    "25006": "denied",  # a write in a read-only transaction
    "0A000": "denied",  # what a cursor does not take
    "57014": "timeout",
    "53200": "memory",
    "53400": "memory",  # temp_file_limit
    "54001": "syntax",  # nested too deeply
    "54000": "memory",
    "XX000": "memory",  # invalid memory alloc request size
    "40001": "internal",
    "55P03": "internal",  # somebody holds a lock on the table
}
"""SQLSTATE to error class; `CLASSES` holds for its first two digits, and anything else is ``syntax``."""

CLASSES = {"22": "type", "08": "internal", "53": "internal", "57": "internal", "58": "internal", "XX": "internal"}


@dataclass
class Session:
    """A connection, and what each of its transactions starts with."""

    connection: psycopg.Connection[Any]
    settings: dict[str, str]
    functions: frozenset[str]
    """Names of all functions that the server has."""

    @classmethod
    def open(cls, conninfo: str) -> Session:
        """Raises DataError."""
        connection = connect(Address(conninfo, "it"))
        load_plainly(connection)
        settings = session_settings(connection)
        functions = frozenset(str(name) for (name,) in connection.execute("SELECT proname FROM pg_catalog.pg_proc"))
        connection.rollback()
        return cls(connection, settings, functions)

    def run(self, sql: str, seconds: float, rows: int, result_bytes: int, *, check: bool = True) -> dict[str, Any]:
        """One query in a transaction of its own; every failure is a status.

        Args:
            check: whether the text must be on the lists; without it, the server's own layers are all there is.
        """
        try:
            text = checked_query(sql) if check else sql
        except RefusedError as error:
            if error.function and error.function not in self.functions:
                return reply("unknown_function", message=f"function {error.function} does not exist")
            return reply(error.status, message=str(error))
        try:
            return self._fetch(text, time.monotonic() + seconds, rows, result_bytes)
        except psycopg.Error as error:
            return reply(status(error), message=(str(error).strip() or type(error).__name__).splitlines()[0])
        except (MemoryError, UnicodeEncodeError) as error:
            return reply(
                "memory" if isinstance(error, MemoryError) else "syntax", message=str(error) or "out of memory"
            )
        finally:
            self._wipe()

    def _fetch(self, sql: str, deadline: float, rows: int, result_bytes: int) -> dict[str, Any]:
        connection = self.connection
        apply_settings(connection, {**self.settings, "statement_timeout": _left(deadline)})
        found: list[list[Any]] = []
        held = 0
        with connection.cursor(name="answer", scrollable=False) as cursor:
            cursor.execute(sql)  # DECLARE … CURSOR FOR, by the protocol that takes one statement
            columns = [column.name for column in cursor.description or ()]
            if not columns:
                return reply("syntax", message="a result without columns")
            while True:
                batch = cursor.fetchmany(min(ROWS_PER_FETCH, rows + 1 - len(found)))
                for row in batch:
                    found.append([cell(value) for value in row])
                    held += sum(map(size, row))
                if len(found) > rows:
                    return reply("too_many_rows", message=f"more than {rows} rows")
                if held > result_bytes:
                    return reply("too_large", message=f"more than {result_bytes:,} bytes")
                if len(batch) < ROWS_PER_FETCH:
                    return reply("ok", columns, found)
                apply_settings(connection, {"statement_timeout": _left(deadline)})  # whatever the query has set

    def _wipe(self) -> None:
        """Nothing of a query outlives it: no transaction, setting, lock, cursor or prepared statement."""
        try:
            self.connection.rollback()
            self.connection.autocommit = True
            self.connection.execute("DISCARD ALL")
            self.connection.autocommit = False
        except psycopg.Error:
            self.connection.close()


def status(error: psycopg.Error) -> str:
    """The error class of what the server or the connection says."""
    state = error.sqlstate
    if state is None:
        return "internal"
    if state == "42883" and error.diag.source_function == "op_error":
        return "type"  # an operator that does not exist for these types
    return STATES.get(state) or CLASSES.get(state[:2], "syntax")


def _left(deadline: float) -> str:
    return f"{max(1, round(1000 * (deadline - time.monotonic())))}ms"


def _main() -> None:
    milliseconds, rows, result_bytes, memory_mb = (int(argument) for argument in sys.argv[1:5])
    sessions: dict[str, Session] = {}

    def answer(database: str, sql: str) -> dict[str, Any]:
        for _ in range(2):  # the server may have ended the connection, or been started again
            try:
                if database not in sessions or sessions[database].connection.closed:
                    sessions[database] = Session.open(database)
                found = sessions[database].run(sql, milliseconds / 1000, rows, result_bytes)
            except (DataError, psycopg.Error, MemoryError) as error:
                found = reply("internal", message=str(error))
            if found["status"] != "internal":
                break
        return found

    serve(answer, memory_mb)


if __name__ == "__main__":
    _main()

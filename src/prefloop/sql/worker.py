"""The process that runs untrusted SQL: ``python -m prefloop.sql.worker``, one JSON line in, one out.

It imports neither torch nor anything of the package's upper rooms. Layers, each of which holds alone:
read-only immutable file, ``query_only``, an authorizer that allows SELECT on tables and harmless functions, size
limits, an opcode budget (the verdict: the same on every machine), an address-space limit, low priority. The parent
kills what outlives the wall clock.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from typing import Any

from prefloop.sql.serving import cell, reply, serve, size

OPCODES_PER_CALL = 10_000
"""SQLite calls the progress handler after this many opcodes; the budget counts in these."""

ALLOWED_ACTIONS = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)
DENIED_FUNCTIONS = frozenset(
    [
        "load_extension",
        "zeroblob",
        "randomblob",
        "random",
        "readfile",
        "writefile",
        "edit",
        "fts3_tokenizer",
        "sqlite_log",
        "lsmode",
        "current_date",
        "current_time",
        "current_timestamp",
        "changes",
        "total_changes",
        "last_insert_rowid",
        "sqlite_version",
        "sqlite_source_id",
        "sqlite_compileoption_get",
        "sqlite_compileoption_used",
    ]
)
CLOCK_FUNCTIONS = {
    "date": 1,
    "time": 1,
    "datetime": 1,
    "julianday": 1,
    "unixepoch": 1,
    "strftime": 2,
    "timediff": 2,
}
"""Date functions, and how many arguments they need so as not to read the clock."""

CLOCK_WORDS = frozenset(["now", "subsec", "subsecond", "localtime"])
"""Arguments that make a date function read the clock or the time zone of the machine."""

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,  # one function call is one opcode, however long its text
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

MESSAGES = (
    ("no such table", "unknown_table"),
    ("no such column", "unknown_column"),
    ("no such function", "unknown_function"),
    ("ambiguous column", "ambiguous_column"),
    ("datatype mismatch", "type"),
    ("not authorized", "denied"),
    ("authorization denied", "denied"),
    ("prohibited", "denied"),
    ("user-defined function raised", "denied"),  # a date function that would read the clock
    ("readonly", "denied"),
    ("too many attached", "denied"),
    ("interrupted", "timeout"),
    ("out of memory", "memory"),
    ("string or blob too big", "memory"),
    ("pattern too complex", "denied"),
    ("query string is too large", "syntax"),
    ("one statement at a time", "denied"),
    ("unable to open database", "internal"),
    ("malformed", "internal"),
    ("not a database", "internal"),
)
"""Parts of SQLite's messages and the error class each means; anything else is ``syntax``."""


class Budget:
    """Opcodes spent by one query."""

    def __init__(self, calls: int) -> None:
        self.calls, self.spent = calls, 0

    def __call__(self) -> bool:
        """Progress handler: true interrupts the query."""
        self.spent += 1
        return self.spent > self.calls


def connect(path: str) -> sqlite3.Connection:
    """A locked-down read-only connection to a file that nobody writes."""
    from urllib.parse import quote

    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA trusted_schema = 0")
    connection.execute("PRAGMA temp_store = MEMORY")
    _without_clock(connection)
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(_authorize)
    return connection


def _without_clock(connection: sqlite3.Connection) -> None:
    """Date functions that work on given dates alone: an answer that reads the clock is another one tomorrow."""
    plain = sqlite3.connect(":memory:")

    def guarded(name: str, needed: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            words = {a.strip().lower() for a in arguments if isinstance(a, str)}
            if len(arguments) < needed or words & CLOCK_WORDS:
                raise ValueError(f"{name} reads the clock")
            marks = ", ".join("?" * len(arguments))
            return plain.execute(f"SELECT {name}({marks})", arguments).fetchone()[0]

        return call

    for name, needed in CLOCK_FUNCTIONS.items():
        connection.create_function(name, -1, guarded(name, needed), deterministic=True)


def _authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
    if action not in ALLOWED_ACTIONS:
        return sqlite3.SQLITE_DENY
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in DENIED_FUNCTIONS:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK


def execute(connection: sqlite3.Connection, sql: str, calls: int, rows: int, result_bytes: int) -> dict[str, Any]:
    """Run one query under its budget; every failure is a status, never an exception."""
    budget = Budget(calls)
    connection.set_progress_handler(budget, OPCODES_PER_CALL)
    try:
        cursor = connection.execute(sql)
        found, held = [], 0
        for row in cursor:
            found.append([cell(value) for value in row])
            held += sum(map(size, row))
            if len(found) > rows or held > result_bytes:
                break
        columns = [column[0] for column in cursor.description or ()]
        cursor.close()
    except (sqlite3.Error, sqlite3.Warning, UnicodeEncodeError, OverflowError) as error:
        return reply(_status(error), message=str(error), opcodes=budget.spent)
    except MemoryError:
        return reply("memory", message="out of memory", opcodes=budget.spent)
    if not columns:
        return reply("syntax", message="no query", opcodes=budget.spent)
    if len(found) > rows:
        return reply("too_many_rows", message=f"more than {rows} rows", opcodes=budget.spent)
    if held > result_bytes:
        return reply("too_large", message=f"more than {result_bytes:,} bytes", opcodes=budget.spent)
    return reply("ok", columns, found, opcodes=budget.spent)


def _status(error: Exception) -> str:
    text = str(error).lower()
    return next((status for part, status in MESSAGES if part in text), "syntax")


def _main() -> None:
    calls, rows, result_bytes, memory_mb = (int(argument) for argument in sys.argv[1:5])
    connections: dict[str, sqlite3.Connection] = {}

    def answer(path: str, sql: str) -> dict[str, Any]:
        try:
            if path not in connections:
                connections[path] = connect(path)
            return execute(connections[path], sql, calls, rows, result_bytes)
        except (sqlite3.Error, MemoryError, RecursionError) as error:
            return reply("internal", message=str(error))

    serve(answer, memory_mb)


if __name__ == "__main__":
    _main()

"""A pool of worker processes that run untrusted queries (`prefloop.sql.worker`) and survive what those do.

The verdict comes from the opcode budget, so it does not depend on the machine. The wall clock only kills: a
query whose worker was killed is tried once more alone; killed again, it counts as ``timeout``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from prefloop.errors import DataError, JudgeError
from prefloop.sql.postgres import Address, connect_readonly, is_postgres, read_address, statement_seconds
from prefloop.sql.worker import OPCODES_PER_CALL

KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LANG", "LC_ALL")
"""A worker on a file needs no credentials, so it gets none."""
POSTGRES_ENVIRONMENT = ("HOME", "PGPASSFILE", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGSYSCONFDIR", "PGHOST")
POSTGRES_ENVIRONMENT += ("PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY")
"""What libpq reads; a worker on a server gets it too."""

PATIENCE = 2
"""Times a query may outlast the wall clock before it counts as ``timeout``."""

DEATHS = 5
"""Times a worker may die under a query of something else (out of memory, a foreign signal) before it is given up."""


@dataclass(frozen=True)
class Limits:
    """What one query may spend."""

    opcodes: int = 50_000_000
    """SQLite opcodes; decides ``timeout``. On PostgreSQL the role's statement_timeout does."""
    rows: int = 5_000
    result_bytes: int = 500_000
    """Size of a result: an answer that lists more answers nothing, and the judge holds many."""
    wall_s: float = 20.0
    """Seconds before a worker is taken for stuck and killed."""
    memory_mb: int = 1_024


@dataclass(frozen=True)
class QueryResult:
    """What a query gave.

    ``status`` is ``ok`` or an error class: ``syntax, unknown_table, unknown_column, unknown_function,
    ambiguous_column, type, denied, timeout, memory, too_many_rows,
    too_large, internal``.
    """

    status: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    message: str = ""
    opcodes: int = 0
    """Spent, in units of 10,000; 0 on PostgreSQL, which does not count."""


@dataclass(frozen=True)
class _Server:
    """A PostgreSQL database and how long a statement may take there."""

    address: Address
    seconds: float


class _Worker:
    """One child process and the watch over it."""

    def __init__(self, limits: Limits, server: _Server | None = None) -> None:
        """Args:
        server: the one it asks; without it, it opens files.
        """
        self._wall_s = limits.wall_s + (server.seconds if server else 0)
        self.overdue = False
        """The wall clock killed it."""
        budget = round(1000 * server.seconds) if server else limits.opcodes // OPCODES_PER_CALL
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", f"prefloop.sql.{'postgres_worker' if server else 'worker'}"),
                *map(str, (budget, limits.rows, limits.result_bytes, limits.memory_mb)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="surrogatepass",
            start_new_session=True,  # Ctrl-C goes to the parent alone, which ends its workers itself
            env=_environment(server),
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, number: int, database: str, sql: str) -> QueryResult | None:
        """The query's result, or None if the worker died or was killed over it (`overdue` says which)."""
        request = json.dumps({"id": number, "database": database, "sql": sql}) + "\n"
        alarm = threading.Timer(self._wall_s, self._expire)
        alarm.start()
        try:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(request)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError):
            return None
        finally:
            alarm.cancel()
        return _result(json.loads(line)) if line.endswith("\n") else None

    def _expire(self) -> None:
        self.overdue = True
        self._process.kill()

    def close(self) -> None:
        """End the process; it has nothing to lose."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                try:
                    stream.close()
                except OSError:  # a broken pipe holds unsent bytes of a dead worker
                    continue


class SandboxPool:
    """Runs queries on several databases in several worker processes; use as a context manager."""

    def __init__(self, databases: Sequence[Path | str], workers: int = 2, limits: Limits | None = None) -> None:
        """Args:
        databases: SQLite files that nobody writes (`prefloop.sql.snapshot` copies live ones), and
            ``postgresql://`` URLs, of a role that can only read.
        workers: processes, for each PostgreSQL database as many of its own; 0 means one per core.

        Raises:
            DataError: a database is missing, or its role may do more than read.
        """
        self._places = [_place(database) for database in databases]
        self.limits = limits or Limits()
        self.killed = 0
        """Workers lost to a query, over the pool's life."""
        self._count = workers or os.cpu_count() or 1
        self._workers: dict[tuple[int, _Server | None], _Worker] = {}
        """By slot, and what they work on."""
        self._lock = threading.Lock()

    def __enter__(self) -> SandboxPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers."""
        return [worker.pid for worker in self._workers.values()]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def run(
        self, queries: Sequence[tuple[int, str]], on_progress: Callable[[int], None] | None = None
    ) -> list[QueryResult]:
        """Results in the order of `queries`, each a database's position and SQL; equal queries run once."""
        distinct = list(dict.fromkeys(queries))
        jobs: SimpleQueue[tuple[int, int, str] | None] = SimpleQueue()
        for number, (database, sql) in enumerate(distinct):
            jobs.put((number, database, sql))
        slots = min(self._count, len(distinct))
        for _ in range(slots):
            jobs.put(None)
        found: dict[tuple[int, str], QueryResult] = {}
        failures: list[BaseException] = []

        def work(slot: int) -> None:
            try:
                while job := jobs.get():
                    number, database, sql = job
                    found[database, sql] = self._run_one(slot, number, database, sql)
                    if on_progress:
                        on_progress(1)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise JudgeError(f"the SQL sandbox failed: {failures[0]}") from failures[0]
        for number, (database, sql) in enumerate(distinct):
            if found[database, sql].status == "timeout" and isinstance(self._places[database], _Server):
                found[database, sql] = self._run_one(0, number, database, sql)  # alone: it may have waited for others
        return [found[query] for query in queries]

    def _run_one(self, slot: int, number: int, database: int, sql: str) -> QueryResult:
        place = self._places[database]
        server = place if isinstance(place, _Server) else None
        name = server.address.conninfo if server else str(place)
        overdue = deaths = 0
        while overdue < PATIENCE and deaths < DEATHS:
            worker = self._worker(slot, server)
            result = worker.ask(number, name, sql)
            if result is not None:
                return result
            overdue, deaths = overdue + worker.overdue, deaths + (not worker.overdue)
            worker.close()
            with self._lock:
                self.killed += 1
                del self._workers[slot, server]
        return QueryResult(
            "timeout" if overdue == PATIENCE else "memory", message="its worker was lost again and again"
        )

    def _worker(self, slot: int, server: _Server | None) -> _Worker:
        with self._lock:
            if (slot, server) not in self._workers:
                self._workers[slot, server] = _Worker(self.limits, server)
            return self._workers[slot, server]


def _place(database: Path | str) -> Path | _Server:
    if is_postgres(database):
        with connect_readonly(str(database)) as connection:
            return _Server(read_address(str(database)), statement_seconds(connection))
    if not Path(database).is_file():
        raise DataError(f"database {database} does not exist")
    return Path(database).resolve()


def _environment(server: _Server | None) -> dict[str, str]:
    kept = KEPT_ENVIRONMENT + (POSTGRES_ENVIRONMENT if server else ())
    found = {name: os.environ[name] for name in kept if name in os.environ}
    if server and server.address.password is not None:
        found["PGPASSWORD"] = server.address.password
    return found


def _result(reply: dict[str, Any]) -> QueryResult:
    rows = tuple(tuple(_cell(cell) for cell in row) for row in reply["rows"])
    return QueryResult(reply["status"], tuple(reply["columns"]), rows, reply["message"], reply["opcodes"])


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["b"]) if "b" in value else float(value["f"])
    return value

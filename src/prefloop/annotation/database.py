"""The project's database: SQLite in one file, or PostgreSQL by URL.

Reading and writing have engines of their own. Readers cannot write, and a job that reads sees one state throughout;
the writer's commits are durable (WAL with ``synchronous=FULL`` on SQLite, ``synchronous_commit`` on PostgreSQL), so
what was acknowledged survives a power cut. One process owns a project: it holds a lock, because leases are only
exclusive if one writer hands them out.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.exc import ArgumentError, DBAPIError

from prefloop.errors import ConfigError, StoreError

DRIVER = "postgresql+psycopg"
READERS = 8
"""Connections that read at once."""
_ADVISORY_LOCK = 0x70726566  # "pref"
_BUSY_MS = 10_000
_READ_ONLY = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_READONLY_CANTINIT)


@dataclass(frozen=True)
class Database:
    """Engines to one project."""

    url: sa.URL
    writing: sa.Engine
    """One connection; every transaction starts with BEGIN IMMEDIATE on SQLite."""
    reading: sa.Engine

    @property
    def shown(self) -> str:
        """The file, or the URL without its password."""
        if self.sqlite and self.url.database:
            return self.url.database
        return self.url.render_as_string(hide_password=True)

    @property
    def sqlite(self) -> bool:
        """Whether it is one file."""
        return self.url.get_backend_name() == "sqlite"

    def close(self) -> None:
        """Close every connection."""
        self.writing.dispose()
        self.reading.dispose()


def database_url(place: str | Path) -> sa.URL:
    """A path as SQLite's URL; a PostgreSQL URL with the driver that is installed.

    Raises:
        ConfigError: another kind of database, no file, or no URL; a password in it is not repeated.
    """
    text = str(place)
    if "://" not in text:
        return _file_url(text)
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(f"the database URL cannot be read: give {DRIVER}://user@host/name") from error
    if url.drivername in ("sqlite", "sqlite+pysqlite") and not url.query:
        return _file_url(url.database or "")
    if url.drivername in ("postgresql", DRIVER):
        return url.set(drivername=DRIVER)
    raise ConfigError(f"database {url.drivername}:// is not known: give a file, or {DRIVER}://user@host/name")


def check_file(path: Path) -> None:
    """Is a SQLite file that exists one of ours?

    Raises:
        StoreError: it is another program's, or no database.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _READ_ONLY:
            raise StoreError(f"{path} cannot be opened where nothing can be written: copy it elsewhere") from error
        raise StoreError(f"{path} cannot be read as a database: {error}") from error
    if tables and "alembic_version" not in tables:
        raise StoreError(f"{path} is another program's database: give a new file with --database")


def open_database(place: str | Path) -> Database:
    """Engines to the project at a path or URL, its tables brought up to date.

    Raises:
        ConfigError: the place is none that is known.
        StoreError: it cannot be reached or written, or was made by a later version.
    """
    url = database_url(place)
    sqlite = url.get_backend_name() == "sqlite"
    make = _sqlite if sqlite else _postgresql
    database = Database(url, make(url, writes=True), make(url, writes=False))
    try:
        if sqlite and url.database:
            path = Path(url.database)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)  # it holds what people said, and hashes of their passwords
        migrate(database)
    except (StoreError, OSError, DBAPIError) as error:
        database.close()
        if isinstance(error, StoreError):
            raise
        why = reason(error)
        if isinstance(error, OSError):
            why = f"{error.strerror or error}; choose another place with --database"
        raise StoreError(f"the database {database.shown} cannot be used: {why}") from error
    return database


def migrate(database: Database) -> None:
    """Bring the tables to this version's; the project is owned meanwhile, for no older server may be at work.

    Raises:
        StoreError: a later version made them, or a server is running and they would change.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with database.reading.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == script.get_current_head():
        return
    if current is not None and current not in {one.revision for one in script.walk_revisions()}:
        raise StoreError(f"{database.shown} was made by a later version of prefloop: install that one")
    with owned(database), database.writing.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    database.reading.dispose()  # a connection remembers the tables that it saw


@contextmanager
def owned(database: Database) -> Iterator[None]:
    """Hold the project for this process.

    Raises:
        StoreError: another process has it.
    """
    busy = f"another process serves {database.shown}: stop it first, or open its address in the browser"
    with (_file_lock if database.sqlite else _session_lock)(database, busy):
        yield


def reason(error: BaseException) -> str:
    """What a driver says, in one line: no statement, no values."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def _file_lock(database: Database, busy: str) -> Iterator[None]:
    path = f"{database.url.database}.lock"
    try:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error.strerror}): choose a folder that can be") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(busy) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def _session_lock(database: Database, busy: str) -> Iterator[None]:
    """The lock belongs to the connection that writes: whoever loses it has lost the right to write, too."""
    from psycopg.errors import LockNotAvailable

    def claim(connection: Any, _: object) -> None:
        try:
            connection.execute("SET LOCAL lock_timeout = '1s'")  # a process that just ended may still be seen
            connection.execute(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})")
        except LockNotAvailable as error:
            connection.close()
            raise StoreError(busy) from error
        connection.commit()  # the lock is the session's and stays

    sqlalchemy_event.listen(database.writing, "connect", claim)
    try:
        database.writing.dispose()
        database.writing.connect().close()
        yield
    finally:
        sqlalchemy_event.remove(database.writing, "connect", claim)
        database.writing.dispose()


def _file_url(text: str) -> sa.URL:
    if not text or text == ":memory:":
        raise ConfigError("a project needs a file: readers and the writer share it, and it is to last")
    return sa.URL.create("sqlite", database=str(Path(text).expanduser().resolve()))


def _postgresql(url: sa.URL, *, writes: bool) -> sa.Engine:
    size = {"pool_size": 1 if writes else READERS, "max_overflow": 0}
    engine = sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, **size)
    if not writes:
        return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @sqlalchemy_event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.execute("SET synchronous_commit = on")  # whatever the server's default
        connection.commit()

    return engine


def _sqlite(url: sa.URL, *, writes: bool) -> sa.Engine:
    size = {"pool_size": 1 if writes else READERS, "max_overflow": 0}
    shared = {"check_same_thread": False}
    engine = sa.create_engine(url, poolclass=sa.QueuePool, connect_args=shared, hide_parameters=True, **size)

    @sqlalchemy_event.listens_for(engine, "connect")
    def _connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not guessed by the driver
        durable = {"foreign_keys": "ON", "journal_mode": "WAL", "synchronous": "FULL"}
        for name, value in {"busy_timeout": _BUSY_MS, **(durable if writes else {"query_only": "ON"})}.items():
            connection.execute(f"PRAGMA {name}={value}")
        found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        if writes and found != ["wal", 2]:
            raise StoreError(f"{url.database}: SQLite keeps no durable log here: choose a folder on a local disk")

    @sqlalchemy_event.listens_for(engine, "begin")
    def _begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine

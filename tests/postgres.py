"""A real PostgreSQL for tests: its own server in a temporary folder, reached by a Unix socket, gone when the test is.

The fixture ``postgres`` (`conftest`) starts one for all tests of a process; each takes a database of its own from
``postgres.create_database()``.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

USER = "postgres"
"""The database's superuser; nobody but this machine's users reaches the socket."""
_START_S = 60
_FAST = {"fsync": "off", "full_page_writes": "off", "listen_addresses": "", "max_connections": "60"}


@dataclass
class Postgres:
    """A server that runs."""

    socket: Path
    """Folder of its socket."""
    _number: Iterator[int] = field(default_factory=lambda: count(1))

    def create_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{next(self._number)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str, driver: str = "postgresql+psycopg") -> str:
        """How SQLAlchemy reaches a database of this server."""
        return f"{driver}://{USER}@/{name}?host={self.socket}"

    def execute(self, statement: str) -> None:
        """Run a statement as the superuser, outside a transaction."""
        import psycopg

        with psycopg.connect(f"host={self.socket} user={USER} dbname=postgres", autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server; skips the test where PostgreSQL is not installed."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path has 107 characters at most
    try:
        account = _account()
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        as_user = _as_user(account)
        initdb = [*as_user, programs / "initdb", "-D", folder / "data", "-U", USER, "-A", "trust", "-E", "UTF8", "-N"]
        subprocess.run([*initdb, "--locale=C"], check=True, capture_output=True, cwd=folder)
        options = [option for name, value in _FAST.items() for option in ("-c", f"{name}={value}")]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [*as_user, programs / "postgres", "-D", folder / "data", "-k", folder, *options],
                stdout=log,
                stderr=log,
                cwd=folder,
            )
        try:
            _wait(programs / "pg_isready", folder, server)
            yield Postgres(folder)
        finally:
            server.send_signal(3)  # SIGQUIT: immediate shutdown, children included
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of the newest server programs."""
    places = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    places += sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name), reverse=True
    )
    for place in places:
        if all((place / name).is_file() for name in ("initdb", "postgres", "pg_isready")):
            return place
    pytest.skip("PostgreSQL's server programs are neither in PATH nor in /usr/lib/postgresql/*/bin")


def _account() -> pwd.struct_passwd | None:
    """Who runs it: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in (USER, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no account postgres or nobody")


def _as_user(account: pwd.struct_passwd | None) -> list[str]:
    """Words before a command: another account, and an end with the process that started it, however that ends."""
    setpriv = shutil.which("setpriv")
    if account is None:
        return [setpriv, "--pdeathsig", "QUIT"] if setpriv and sys.platform == "linux" else []
    if setpriv is None:
        pytest.skip("PostgreSQL does not run as root, and setpriv (util-linux) is not installed")
    who = ["--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups"]
    return [setpriv, *who, "--pdeathsig", "QUIT"]


def _wait(pg_isready: Path, folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Until it answers."""
    end = time.monotonic() + _START_S
    while subprocess.run([pg_isready, "-q", "-h", folder, "-U", USER]).returncode:
        if server.poll() is not None or time.monotonic() > end:
            pytest.fail(f"PostgreSQL did not start:\n{(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.05)  # between looks at whether the server is up; nothing is assumed of the time

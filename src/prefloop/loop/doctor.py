"""What `prefloop doctor` looks at. Each check is one function that finds something and says what to do."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import ConfigError, PrefloopError
from prefloop.loop.software import versions
from prefloop.models.load import EMBEDDED, load_policy
from prefloop.sql.pool import SandboxPool
from prefloop.sql.postgres import connect, is_postgres, read_address, session_settings
from prefloop.sql.postgres_role import excess_rights, readable_tables, role_sql
from prefloop.store.files import cache_folder

NEEDED_GB = 2.0
SQLITE = (3, 35)


@dataclass(frozen=True)
class Finding:
    """One check's outcome."""

    name: str
    ok: bool
    found: str
    advice: str = ""
    sql: str = ""
    """What a database's administrator should run."""


def examine_database(url: str) -> list[Finding]:
    """What the role of a PostgreSQL URL may do, and the SQL for one that can only read.

    Raises:
        DataError: it is no such URL, or cannot be reached.
    """
    if not is_postgres(url):
        raise ConfigError("--database here is the URL of a PostgreSQL server: postgresql://user@host/name")
    address = read_address(url)
    with connect(address) as connection:
        excess, tables = excess_rights(connection), readable_tables(connection)
        settings, version = session_settings(connection), connection.info.parameter_status("server_version")
        found = [Finding("server", True, f"{address.shown}, PostgreSQL {version}")]
        if excess:
            advice = "run this as the database's administrator in psql, and use its role:"
            return [*found, Finding("role", False, ", ".join(excess), advice, role_sql(connection))]
    if not tables:
        return [*found, Finding("role", False, "may read no table", "GRANT SELECT ON the tables to ask about")]
    limits = f"{settings['statement_timeout']} a statement, schemas {settings['search_path']}"
    return [*found, Finding("role", True, f"can only read: {', '.join(tables)}"), Finding("limits", True, limits)]


def examine() -> list[Finding]:
    """Run every check; a check that fails in an unforeseen way is a finding too."""
    return [_guarded(check) for check in (_python, _packages, _policy, _devices, _disk, _cache, _sandbox)]


def _guarded(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (OSError, ImportError, PrefloopError, sqlite3.Error) as error:
        return Finding(check.__name__.strip("_"), False, str(error), "see docs/troubleshooting.md")


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    recent = sqlite3.sqlite_version_info >= SQLITE
    advice = "" if recent else "install a Python that brings SQLite 3.35 or newer"
    return Finding("python", recent, f"{found}, SQLite {sqlite3.sqlite_version}", advice)


def _packages() -> Finding:
    return Finding("packages", True, ", ".join(f"{name} {value}" for name, value in versions().items()))


def _policy() -> Finding:
    policy = load_policy("embedded", device="cpu")
    size = sum(path.stat().st_size for path in EMBEDDED.iterdir()) / 1e6
    return Finding("embedded policy", True, f"{policy.model.num_parameters():,} parameters, {size:.1f} MB")


def _devices() -> Finding:
    import torch

    names = [f"cpu ({os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads)"]
    names += [f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    names += ["mps"] if torch.backends.mps.is_available() else []
    return Finding("devices", True, ", ".join(names))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    advice = "" if free >= NEEDED_GB else f"free {NEEDED_GB - free:.1f} GB, or give --out on another disk"
    return Finding("disk", free >= NEEDED_GB, f"{free:,.1f} GB free here", advice)


def _cache() -> Finding:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return Finding("cache", True, f"{folder} ({size:.0f} MB; set PREFLOOP_CACHE to move it, delete it freely)")


def _sandbox() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "check.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (x)")
        connection.close()
        with SandboxPool([path], 1) as pool:
            answered, refused = pool.run([(0, "SELECT 1 + 1"), (0, "DROP TABLE t")])
    ok = answered.rows == ((2,),) and refused.status == "denied"
    return Finding("SQL sandbox", ok, "runs queries, refuses writes" if ok else f"{answered.status}, {refused.status}")

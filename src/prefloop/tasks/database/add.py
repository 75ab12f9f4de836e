"""Puts a database into a task folder: its copy or URL, the schema that prompts show, and its variant."""

from __future__ import annotations

from pathlib import Path

from prefloop.errors import ConfigError, DataError
from prefloop.progress import note
from prefloop.sql.postgres import connect_readonly, read_address
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import write_text
from prefloop.tasks.database.model import DatabaseEntry
from prefloop.tasks.database.source.ddl import ddl
from prefloop.tasks.database.source.inspection import Inspected, inspect, opened
from prefloop.tasks.database.source.schema import POSTGRES, SQLITE
from prefloop.tasks.database.variants.sqlite import write_sqlite_variant

UNVARIED = "{}: nothing in it can be varied, so answers are compared on one database alone"


def add_database(
    source: Path | str, out: Path, name: str, shown: str, seed: int, variant: str | None = None
) -> tuple[DatabaseEntry, Inspected]:
    """Put a database into a task folder: its copy or URL, its schema as prompts show it, and its variant.

    A PostgreSQL variant may be replaced by the next command until `keep_variant` is called.

    Raises:
        ConfigError: `variant` is given for a SQLite file.
        DataError: it cannot be read, or holds no tables; or `variant` cannot be filled.
    """
    if isinstance(source, Path):
        if variant:
            raise ConfigError("--variant has no effect on a SQLite file, whose variant is a file beside its copy")
        return _add_file(source, out, name, shown, seed)
    return _add_server(source, out, name, shown, seed, variant)


def keep_variant(variant: str | None) -> None:
    """The task stands, and nothing may replace its PostgreSQL variant any more.

    Raises:
        DataError: it cannot be reached, or another command has filled it meanwhile.
    """
    if variant:
        from prefloop.tasks.database.variants.owned import keep

        keep(variant)


def _add_file(source: Path, out: Path, name: str, shown: str, seed: int) -> tuple[DatabaseEntry, Inspected]:
    copy = Path("databases") / f"{name}.sqlite"
    (out / "databases").mkdir(parents=True, exist_ok=True)
    snapshot(source, out / "databases").replace(out / copy)
    (out / "databases" / ".incoming.sqlite.lock").unlink(missing_ok=True)
    with opened(out / copy) as connection:
        found = inspect(connection, SQLITE, str(source))
    write_text(out / shown, ddl(found.schema, found.profiles))
    other = Path("databases") / f"{name}.variant.sqlite"
    changed = write_sqlite_variant(out / copy, out / other, found.schema, found.profiles, seed)
    if not changed:
        (out / other).unlink(missing_ok=True)
        note(UNVARIED.format(name))
    return DatabaseEntry(name=name, file=copy, variant=other if changed else None, shown=Path(shown)), found


def _add_server(
    source: str, out: Path, name: str, shown: str, seed: int, variant: str | None
) -> tuple[DatabaseEntry, Inspected]:
    if read_address(source).password is not None:
        raise DataError(
            "the URL holds a password, which a task folder must not keep: leave it out of the URL and put it into "
            "PGPASSWORD or ~/.pgpass"
        )
    from prefloop.tasks.database.variants.postgres import write_postgres_variant

    with connect_readonly(source) as connection:
        found = inspect(connection, POSTGRES, name)
        changed, url = {}, None
        if variant:
            changed, url = write_postgres_variant(connection, variant, found.schema, found.profiles, seed)
            if not changed:
                note(UNVARIED.format(name))
    write_text(out / shown, ddl(found.schema, found.profiles))
    return DatabaseEntry(name=name, url=source, variant_url=url if changed else None, shown=Path(shown)), found

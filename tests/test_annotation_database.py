"""The project's database: durable writing, reading that cannot write, one owner, tables as the schema says."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from annotation_queue import SECRET, fill, new_item, open_project, verdict
from postgres import Postgres

from prefloop.annotation import database as database_module
from prefloop.annotation.database import Database, check_file, database_url, open_database, owned, reason
from prefloop.annotation.queue import Nothing, lease, submit
from prefloop.annotation.schema import answer, event, item, judgement, metadata, rater, showing
from prefloop.annotation.stream import handle_of
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, StoreError
from prefloop.records import Prompt

HOLD = """
import sys
from prefloop.annotation.database import open_database, owned
with owned(open_database(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = HOLD.replace("    sys.stdin.read()\n", "")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return (
        str(tmp_path / "p.db") if request.param == "sqlite" else request.getfixturevalue("postgres").create_database()
    )


@pytest.fixture
def database(place: str) -> Iterator[Database]:
    found = open_database(place)
    yield found
    found.close()


def a_line(connection: sa.Connection, what: str = "x") -> None:
    connection.execute(sa.insert(event).values(at=0, what=what, about=""))


def lines(database: Database) -> list[str]:
    with database.reading.connect() as connection:
        return list(connection.scalars(sa.select(event.c.what).order_by(event.c.id)))


# Tables


def test_the_migrations_make_the_schema(database: Database) -> None:
    with database.writing.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_checks_and_partial_indexes_are_those_of_the_schema(place: str, tmp_path: Path, postgres: Postgres) -> None:
    """What Alembic does not compare."""
    migrated = open_database(place)
    plain = sa.create_engine(f"sqlite:///{tmp_path / 'plain.db'}" if migrated.sqlite else postgres.create_database())
    metadata.create_all(plain)

    def described(engine: sa.Engine) -> dict[str, Any]:
        look = sa.inspect(engine)
        return {
            name: (
                sorted((one["name"], one["sqltext"]) for one in look.get_check_constraints(name)),
                sorted(
                    (one["name"], one["column_names"], one["unique"], _where(one)) for one in look.get_indexes(name)
                ),
                sorted((one["name"], one["column_names"]) for one in look.get_unique_constraints(name)),
            )
            for name in metadata.tables
        }

    def _where(index: Any) -> str:
        return str(index.get("dialect_options", {}).get(f"{plain.dialect.name}_where", ""))

    assert described(migrated.reading) == described(plain)
    partial = {one[0] for table in described(plain).values() for one in table[1] if one[3]}
    assert partial == {"uq_showing_held", "uq_judgement_current"}
    migrated.close()
    plain.dispose()


@pytest.mark.parametrize(
    ("table", "first", "second"),
    [
        (item, {"target": 1}, {"done": 1, "leased": 1}),
        (item, {"target": 1}, {"leased": -1}),
        (item, {"target": 1}, {"skipped": -1}),
        (showing, {"state": "leased"}, {"state": "leased"}),
        (showing, {"state": "answered", "handle": "0"}, {"state": "answered", "handle": "0"}),
        (judgement, {"current": True}, {"current": True}),
    ],
    ids=[
        "over target",
        "leased below zero",
        "skipped below zero",
        "two leases",
        "two of one handle",
        "two current verdicts",
    ],
)
def test_the_database_itself_refuses_what_must_not_be(
    table: sa.Table, first: dict[str, Any], second: dict[str, Any], place: str
) -> None:
    database = open_project(place, AnnotationConfig(), [new_item(0), new_item(1)], 1)
    items = [new_item(i).id for i in range(2)]
    one, other = (_row(table, items[table is showing and i], i, **row) for i, row in enumerate((first, second)))
    with database.writing.begin() as connection:
        connection.execute(one)
    with database.writing.connect() as connection, pytest.raises(sa.exc.IntegrityError):
        connection.execute(other)
    database.close()


def _row(table: sa.Table, item_id: str, revision: int, **values: Any) -> sa.Insert | sa.Update:
    if table is item:
        return sa.update(item).values(**values)
    row = {"item_id": item_id, "rater_id": 1, "turn": 0, "order": [0, 1], "opened": 0}
    if table is showing:
        return sa.insert(table).values(**row | {"handle": str(revision), "expires": 9} | values)
    texts = {"client_id": str(revision), "kind": "choice", "reason": "", "comment": ""}
    rest = {"revision": revision, "counted": False, "objectives": {}, "edits": {}, "submitted": 0}
    return sa.insert(table).values(**row | texts | rest | values)


def test_rows_of_the_first_version_get_what_they_lack(place: str) -> None:
    """Handles, by which raters go on; and whose verdicts were discarded: of those removed, who has none that counts."""
    engine = sa.create_engine(database_url(place))
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(database_module.__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        items = [new_item(i) for i in range(2)]
        fill(connection, AnnotationConfig(), items, 4)
        looks = [(items[0].id, 1, 0), (items[0].id, 1, 1), (items[1].id, 1, 0), (items[1].id, 2, 0)]
        for item_id, who, turn in looks:
            row = {"item_id": item_id, "rater_id": who, "turn": turn, "order": [0, 1], "state": "answered"}
            connection.execute(sa.insert(showing).values(**row, opened=0, expires=0))
        for who in (1, 2):
            connection.execute(_row(judgement, items[1].id, who, rater_id=who, current=True, counted=who == 1))
        connection.execute(sa.update(rater).where(rater.c.id < 4).values(status="removed"))
    engine.dispose()
    database = open_database(place)
    with database.writing.connect() as connection:
        found = connection.execute(sa.select(*showing.c["item_id", "rater_id", "turn", "handle"])).all()
        assert {row[:3]: row.handle for row in found} == {key: handle_of(SECRET, *key) for key in looks}
        gone = connection.execute(sa.select(rater.c.id, rater.c.discarded).order_by(rater.c.id)).all()
        assert gone == [(1, False), (2, True), (3, True), (4, False)]
        assert connection.scalars(sa.select(item.c.extra)).all() == [0, 0]
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")  # and back
        command.upgrade(config, "head")
        assert connection.execute(sa.select(*showing.c["item_id", "rater_id", "turn", "handle"])).all() == found
    database.close()


def test_opening_again_changes_nothing(place: str) -> None:
    first = open_database(place)
    with first.writing.begin() as connection:
        a_line(connection, "stays")
    first.close()
    second = open_database(place)
    assert lines(second) == ["stays"]
    second.close()


def test_a_later_version_is_refused(place: str) -> None:
    database = open_database(place)
    with database.writing.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(StoreError, match="later version of prefloop: install that one") as refused:
        open_database(place)
    assert "cannot be used" not in str(refused.value)  # one reason, said once


def test_tables_do_not_change_under_a_running_server(place: str) -> None:
    database = open_database(place)
    with database.writing.begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
    with owned(database), pytest.raises(StoreError, match="another process serves"):
        open_database(place)
    database.close()


# Writing and reading


def test_the_writers_own_connection_is_durable(tmp_path: Path) -> None:
    database = open_database(tmp_path / "p.db")
    writer = Writer(database.writing)
    names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
    found = writer.run(lambda connection: [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names])
    writer.close()
    assert found == ["wal", 2, 1, 10_000, 0]
    database.close()


def test_postgresqls_writer_waits_for_the_disk_whatever_the_default(postgres: Postgres) -> None:
    place = postgres.create_database()
    postgres.execute(f"ALTER DATABASE {sa.make_url(place).database} SET synchronous_commit = off")
    database = open_database(place)
    writer = Writer(database.writing)
    assert writer.run(lambda connection: connection.scalar(sa.text("SHOW synchronous_commit"))) == "on"
    writer.close()
    database.close()


def test_a_writing_transaction_locks_from_its_start(tmp_path: Path) -> None:
    """A read that turns into a write could meet SQLITE_BUSY, whatever the timeout."""
    database = open_database(tmp_path / "p.db")
    other = sqlite3.connect(tmp_path / "p.db", timeout=0)
    with database.writing.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()
    database.close()


def test_readers_cannot_write(database: Database) -> None:
    for _ in range(2):  # a new connection, and one from the pool
        with (
            database.reading.connect() as connection,
            pytest.raises(sa.exc.DBAPIError, match=r"readonly|read-only"),
        ):
            a_line(connection)
    assert lines(database) == []


def test_a_reader_sees_one_moment(database: Database) -> None:
    counts = sa.select(sa.func.count()).select_from(event)
    with database.reading.connect() as connection:
        before = connection.scalar(counts)
        with database.writing.begin() as writing:
            a_line(writing)
        assert connection.scalar(counts) == before == 0
    with database.reading.connect() as connection:
        assert connection.scalar(counts) == 1


def test_errors_repeat_no_values(database: Database) -> None:
    with database.writing.connect() as connection, pytest.raises(sa.exc.DBAPIError) as refused:
        connection.execute(sa.insert(event).values(at=None, what="a-private-comment", about=""))
    assert "a-private-comment" not in str(refused.value).split("[SQL")[-1]
    assert "a-private-comment" not in reason(refused.value)


def test_hostile_text_comes_back(place: str) -> None:
    asked = new_item(0)
    texts = ["NUL \0, half a pair \ud800, '); DROP TABLE item; --", "\u202e\U0001f600 \x1b[31m\n\r\t %s :name"]
    answers = tuple(replace(one, text=text) for one, text in zip(asked.answers, texts, strict=True))
    prompt = Prompt.create(({"role": "user", "content": "a \0 b"},), "t", "train", {"gold": "\0"})
    asked = replace(asked, prompt=prompt, answers=answers)
    config = AnnotationConfig(objectives=("brief",))
    database = open_project(place, config, [asked])
    said = verdict(
        handle_of(SECRET, asked.id, 1, 0), comment=texts[1] + "\0", edits={1: "'\0\""}, objectives={"brief": "left"}
    )
    with database.writing.begin() as connection:
        assert lease(connection, 1, 0) != Nothing("done")
        first = submit(connection, 1, said, 0)
        assert (submit(connection, 1, said, 0).seq, first.state) == (first.seq, "counted")
    with database.reading.connect() as connection:
        stored = connection.scalars(sa.select(answer.c.text).order_by(answer.c.index)).all()
        assert stored == [texts[0].replace("\0", "\ufffd").replace("\ud800", "?"), texts[1]]
        assert connection.scalar(sa.select(item.c.messages)) == [{"role": "user", "content": "a \0 b"}]
        row = connection.execute(sa.select(judgement)).one()
        assert (row.comment, row.edits, row.objectives) == (texts[1], {"1": "'\""}, {"brief": "left"})
    database.close()


# Places


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("mysql://me:hunter2@host/db", r"mysql:// is not known"),
        ("postgresql+asyncpg://me:hunter2@host/db", r"postgresql\+asyncpg:// is not known"),
        ("sqlite+aiosqlite:///x.db", "is not known"),
        ("sqlite:///x.db?mode=memory&uri=true", "is not known"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        (":memory:", "needs a file"),
        ("", "needs a file"),
        ("postgresql://me:hunter2@host:no-port/db", "cannot be read"),
        ("://me:hunter2@host", "cannot be read"),
    ],
)
def test_places_that_are_no_database(place: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        database_url(place)
    assert "hunter2" not in str(refused.value)
    assert "postgresql+psycopg://" in str(refused.value) or "file" in str(refused.value)


def test_one_file_has_one_url_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["real/p.db", "link/p.db", "~/real/../real/p.db", f"sqlite:///{tmp_path}/link/p.db", "sqlite:///real/p.db"]
    assert {database_url(name).database for name in names} == {str(tmp_path.resolve() / "real" / "p.db")}
    assert database_url("postgresql://me@host/db").drivername == "postgresql+psycopg"


def test_a_password_is_shown_nowhere(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used") as refused:
        open_database(f"postgresql://me:hunter2@/db?host={tmp_path}")
    chain: list[BaseException | None] = [refused.value, refused.value.__cause__]
    assert all("hunter2" not in str(error) for error in chain)
    assert "me:***@" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["text", "folder", "read-only folder", "another application's"])
def test_a_file_that_is_no_project(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    if kind == "text":
        path.write_text("no database, but a rather long text\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "read-only folder":
        path = Path("/proc/nowhere/p.db")
    else:
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE item (name TEXT)")
        other.close()
    with pytest.raises(StoreError, match=r"p\.db cannot be used: ") as refused:
        open_database(path)
    assert "\n" not in str(refused.value)
    assert "SELECT" not in str(refused.value)
    if kind == "another application's":
        kept = sqlite3.connect(path).execute("SELECT name FROM sqlite_master").fetchall()
        assert kept == [("item",)]  # all of a migration or nothing


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    database = open_database(tmp_path / "deep" / "er" / "p.db")
    with owned(database), database.writing.begin() as connection:
        a_line(connection)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "deep" / "er").iterdir()}
    assert set(modes) >= {"p.db", "p.db-wal", "p.db.lock"}
    assert set(modes.values()) == {0o600}
    database.close()


# One owner


@contextmanager
def another_process(place: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, place], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.communicate()


def test_a_second_process_is_refused_until_the_first_has_ended(place: str) -> None:
    database = open_database(place)
    with another_process(place):
        with pytest.raises(StoreError, match="another process serves") as refused, owned(database):
            pass
        assert database.shown in str(refused.value)
    with owned(database):
        second = subprocess.run([sys.executable, "-c", TRY, place], capture_output=True, text=True)
        assert "another process serves" in second.stderr
        assert second.stdout == ""
    with owned(database):
        pass
    database.close()


def test_a_killed_process_owns_nothing(place: str) -> None:
    database = open_database(place)
    with another_process(place) as process:
        process.kill()
        process.wait()
        with owned(database):
            pass
    database.close()


def test_an_owner_reads_and_writes(place: str) -> None:
    database = open_database(place)
    with owned(database):
        writer = Writer(database.writing)
        for what in ("one", "two"):
            writer.run(lambda connection, what=what: a_line(connection, what))
        writer.close()
        assert lines(database) == ["one", "two"]
    database.close()


def test_who_lost_the_lock_with_the_connection_no_longer_writes(postgres: Postgres) -> None:
    place = postgres.create_database()
    database = open_database(place)
    with owned(database):
        writer = Writer(database.writing)
        writer.run(a_line)
        mine = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database.url.database}'"
        postgres.execute(mine)
        with another_process(place), pytest.raises(StoreError, match="could not be saved: another process serves"):
            writer.run(a_line)
        writer.run(a_line)  # it is free again
        writer.close()
    assert len(lines(database)) == 2
    database.close()


def test_a_database_where_nothing_can_be_written_says_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.db"
    path.write_bytes(b"x")

    def refused(*_: object, **__: object) -> None:
        error = sqlite3.OperationalError("attempt to write a readonly database")
        error.sqlite_errorcode = sqlite3.SQLITE_READONLY_DIRECTORY
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", refused)
        with pytest.raises(StoreError, match=r"p\.db cannot be opened where nothing can be written: copy it"):
            check_file(path)
    with pytest.raises(StoreError, match=r"cannot be used: .*; choose another place with --database"):
        open_database("/proc/nowhere/p.db")

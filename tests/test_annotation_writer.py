"""The one writer: first come first served, commits together, and what becomes of a job that fails, or a commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from postgres import Postgres

from prefloop.annotation.database import Database, open_database
from prefloop.annotation.schema import event, judgement
from prefloop.annotation.writer import TOGETHER, Writer
from prefloop.errors import StoreError

WAIT_S = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    sqlite = request.param == "sqlite"
    found = open_database(tmp_path / "p.db" if sqlite else request.getfixturevalue("postgres").create_database())
    yield found
    found.close()


@pytest.fixture
def writer(database: Database) -> Iterator[Writer]:
    found = Writer(database.writing)
    yield found
    found.close()


def saying(what: str) -> Callable[[sa.Connection], str]:
    """A job that writes a line and returns it."""

    def job(connection: sa.Connection) -> str:
        connection.execute(sa.insert(event).values(at=0, what=what, about=""))
        return what

    return job


def written(database: Database) -> list[str]:
    with database.reading.connect() as connection:
        return list(connection.scalars(sa.select(event.c.what).order_by(event.c.id)))


class Held:
    """A job that keeps the writer busy while others queue up behind it."""

    def __init__(self, writer: Writer) -> None:
        self._started, self._end = threading.Event(), threading.Event()
        self.future = writer.submit(self._wait)
        assert self._started.wait(WAIT_S)

    def _wait(self, _: sa.Connection) -> None:
        self._started.set()
        assert self._end.wait(WAIT_S)

    def let_go(self) -> None:
        self._end.set()


def commits_of(database: Database) -> list[int]:
    """Grows by one with every commit."""
    commits: list[int] = []
    sa.event.listen(database.writing, "commit", lambda _: commits.append(1))
    return commits


def outcome(future: Future[Any]) -> Any:
    return future.exception(WAIT_S) or future.result(WAIT_S)


def test_first_come_first_served_and_one_commit_for_all_that_waited(database: Database, writer: Writer) -> None:
    commits = commits_of(database)
    held = Held(writer)
    names = [f"job {i}" for i in range(40)]
    futures = [writer.submit(saying(name)) for name in names]
    held.let_go()
    assert [future.result(WAIT_S) for future in futures] == names
    assert written(database) == names
    assert len(commits) == 2  # the one that held it up, and all the others


def test_a_commit_takes_so_many_jobs_at_most(database: Database, writer: Writer) -> None:
    commits = commits_of(database)
    held = Held(writer)
    futures = [writer.submit(saying(str(i))) for i in range(2 * TOGETHER + 1)]
    held.let_go()
    for future in futures:
        future.result(WAIT_S)
    assert len(commits) == 1 + 3


def test_nothing_is_acknowledged_before_it_is_committed(database: Database, writer: Writer) -> None:
    seen = []
    for i in range(20):
        writer.run(saying(f"job {i}"))
        seen.append(len(written(database)))
    assert seen == list(range(1, 21))


def test_a_job_that_fails_is_undone_alone(database: Database, writer: Writer) -> None:
    def broken(connection: sa.Connection) -> None:
        saying("never seen")(connection)
        raise KeyError("a mistake")

    def refused(connection: sa.Connection) -> None:
        saying("nor this")(connection)
        connection.execute(sa.insert(event).values(id=1, at=0, what="twice", about=""))

    writer.run(saying("start"))
    held = Held(writer)
    futures = [writer.submit(job) for job in (saying("before"), broken, saying("between"), refused, saying("after"))]
    held.let_go()
    found = [outcome(future) for future in futures]
    assert isinstance(found[1], KeyError)
    assert isinstance(found[3], sa.exc.IntegrityError)
    assert [found[0], found[2], found[4]] == ["before", "between", "after"]
    assert written(database) == ["start", "before", "between", "after"]


def test_a_commit_that_fails_fails_all_of_it_and_the_writer_lives_on(tmp_path: Path) -> None:
    database = open_database(tmp_path / "p.db")
    writer = Writer(database.writing)

    def dangling(connection: sa.Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")  # found out at COMMIT only
        texts = dict.fromkeys(("client_id", "item_id", "kind", "reason", "comment"), "x")
        numbers = dict.fromkeys(("rater_id", "turn", "revision", "opened", "submitted"), 1)
        flags = {"current": True, "counted": True, "order": [], "objectives": {}, "edits": {}}
        connection.execute(sa.insert(judgement).values(**texts, **numbers, **flags))

    held = Held(writer)
    futures = [held.future, *(writer.submit(job) for job in (saying("a"), dangling, saying("b")))]
    held.let_go()
    assert outcome(futures[0]) is None
    for future in futures[1:]:
        error = outcome(future)
        assert isinstance(error, StoreError)
        assert str(error) == "could not be saved: FOREIGN KEY constraint failed"
    assert written(database) == []
    assert writer.run(saying("later")) == "later"
    assert written(database) == ["later"]
    writer.close()
    database.close()


def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    database = open_database(tmp_path / "p.db")
    writer = Writer(database.writing)

    def fill_up(connection: sa.Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")

    writer.run(fill_up)
    acknowledged, failures = [], []
    for i in range(40):
        try:
            acknowledged.append(writer.run(saying(f"{i:02}" + "x" * 3000)))
        except StoreError as error:
            failures.append(str(error))
    assert acknowledged
    assert set(failures) == {"could not be saved: database or disk is full"}
    assert written(database) == acknowledged
    writer.run(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000"))
    assert writer.run(saying("room again")) == "room again"
    writer.close()
    database.close()


def test_a_server_that_goes_away_fails_what_it_had_and_is_found_again(postgres: Postgres) -> None:
    database = open_database(postgres.create_database())
    writer = Writer(database.writing)

    def cut(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    held = Held(writer)
    futures = [writer.submit(job) for job in (saying("before"), cut, saying("after"))]
    held.let_go()
    errors = [outcome(future) for future in futures]
    assert all(isinstance(error, StoreError) for error in errors)
    assert written(database) == []
    assert writer.run(saying("reconnected")) == "reconnected"
    other = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'postgres' AND pid <> pg_backend_pid()"
    )
    postgres.execute(other)  # while the writer waits for work
    assert writer.run(saying("again")) == "again"
    assert written(database) == ["reconnected", "again"]
    writer.close()
    database.close()


def test_a_closed_engine_is_reported_to_who_waits(tmp_path: Path) -> None:
    database = open_database(tmp_path / "p.db")
    writer = Writer(database.writing)

    def refuse(*_: Any) -> None:
        raise OSError("no more files")

    database.writing.dispose()
    sa.event.listen(database.writing, "connect", refuse)
    with pytest.raises(StoreError, match="could not be saved: no more files"):
        writer.run(saying("lost"))
    sa.event.remove(database.writing, "connect", refuse)
    assert writer.run(saying("kept")) == "kept"
    writer.close()
    database.close()


def test_what_was_cancelled_in_time_is_not_done(database: Database, writer: Writer) -> None:
    held = Held(writer)
    futures = [writer.submit(saying(name)) for name in ("one", "two", "three")]
    assert futures[1].cancel()
    assert not held.future.cancel()  # too late: it runs
    held.let_go()
    assert [futures[0].result(WAIT_S), futures[2].result(WAIT_S)] == ["one", "three"]
    with pytest.raises(CancelledError):
        futures[1].result(WAIT_S)
    assert written(database) == ["one", "three"]


def test_a_coroutine_that_stops_waiting_does_not_stop_the_writer(database: Database, writer: Writer) -> None:
    async def impatient() -> None:
        held = Held(writer)
        waiting = asyncio.ensure_future(asyncio.wrap_future(writer.submit(saying("dropped"))))
        behind = asyncio.wrap_future(writer.submit(saying("wanted")))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        held.let_go()
        assert await asyncio.wait_for(behind, WAIT_S) == "wanted"

    asyncio.run(impatient())
    assert written(database) == ["wanted"]


def test_closing_finishes_the_queue_and_takes_no_more(database: Database) -> None:
    writer = Writer(database.writing)
    held = Held(writer)
    futures = [writer.submit(saying(str(i))) for i in range(100)]
    closing = threading.Thread(target=writer.close)
    closing.start()
    held.let_go()
    closing.join(WAIT_S)
    assert [future.result(0) for future in futures] == [str(i) for i in range(100)]
    assert written(database) == [str(i) for i in range(100)]
    with pytest.raises(StoreError, match="stopping"):
        writer.submit(saying("late"))
    writer.close()  # again is no harm


def test_nobody_who_was_let_in_waits_forever_at_the_end(tmp_path: Path) -> None:
    database = open_database(tmp_path / "p.db")
    writer = Writer(database.writing)
    accepted: list[Future[int]] = []
    full = threading.Event()

    def knock() -> None:
        try:
            while True:
                burst = [writer.submit(lambda _: 1) for _ in range(5)]
                accepted.extend(burst)
                burst[-1].result(WAIT_S)
                if len(accepted) > 50:
                    full.set()
        except StoreError:
            return

    threads = [threading.Thread(target=knock) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert full.wait(WAIT_S)
    writer.close()
    for thread in threads:
        thread.join(WAIT_S)
    assert all(future.done() and future.result(0) == 1 for future in accepted)
    database.close()

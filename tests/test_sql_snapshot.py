"""A live database is copied whole, named by its contents, and left as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from prefloop.errors import DataError, StoreError
from prefloop.sql.pool import SandboxPool
from prefloop.sql.snapshot import snapshot


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Path, sqlite3.Connection]]:
    """A database in WAL mode whose last rows stand in the WAL file alone, with its writer still connected."""
    path = tmp_path / "live.sqlite"
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("CREATE TABLE t (a INTEGER)")
        writer.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)])
        writer.commit()
        yield path, writer


def count(path: Path) -> int:
    """Rows as the sandbox sees them."""
    with SandboxPool([path], 1) as pool:
        (result,) = pool.run([(0, "SELECT COUNT(*) FROM t")])
    assert result.status == "ok", result
    return int(result.rows[0][0])


def test_a_copy_holds_what_is_committed_in_the_wal_and_does_not_move(
    live: tuple[Path, sqlite3.Connection], tmp_path: Path
) -> None:
    path, writer = live
    writer.execute("INSERT INTO t VALUES (3)")  # not committed
    first = snapshot(path, tmp_path / "copies")
    writer.commit()
    second = snapshot(path, tmp_path / "copies")
    assert (count(first), count(second)) == (2, 3)
    assert first != second


def test_equal_contents_share_one_copy(live: tuple[Path, sqlite3.Connection], tmp_path: Path) -> None:
    path, _ = live
    copies = tmp_path / "copies"
    assert snapshot(path, copies) == snapshot(path, copies)
    assert [p.name for p in copies.glob("*.sqlite")] == [snapshot(path, copies).name]


def test_the_source_is_not_written(live: tuple[Path, sqlite3.Connection], tmp_path: Path) -> None:
    path, _ = live
    before = path.read_bytes()
    snapshot(path, tmp_path / "copies")
    assert path.read_bytes() == before


def test_what_is_no_database_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").write_text("not a database, but long enough to look at " * 100)
    with pytest.raises(DataError, match=r"notes\.sqlite cannot be read as a SQLite database"):
        snapshot(tmp_path / "notes.sqlite", tmp_path / "copies")
    with pytest.raises(DataError, match="does not exist"):
        snapshot(tmp_path / "none.sqlite", tmp_path / "copies")
    assert [p.name for p in (tmp_path / "copies").iterdir()] == [".incoming.sqlite.lock"]


def test_a_folder_that_cannot_be_written_is_named(live: tuple[Path, sqlite3.Connection], tmp_path: Path) -> None:
    (tmp_path / "copies").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="copies"):
        snapshot(live[0], tmp_path / "copies")


def test_two_at_once_get_each_their_own_database(tmp_path: Path) -> None:
    """Twenty copies of two databases in four threads of one folder; every path holds what was asked for."""
    sources = []
    for rows in (1, 2):
        with closing(sqlite3.connect(tmp_path / f"{rows}.sqlite")) as connection:
            connection.execute("CREATE TABLE t (a INTEGER)")
            connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(rows)])
            connection.commit()
        sources.append(tmp_path / f"{rows}.sqlite")
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: snapshot(sources[i % 2], tmp_path / "copies"), range(20)))
    assert [count(path) for path in found[:4]] == [1, 2, 1, 2]
    assert found == found[:2] * 10

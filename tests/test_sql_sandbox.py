"""Hostile SQL is harmless, ends, and is counted under its class; workers may die at any time."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from prefloop.errors import DataError
from prefloop.sql.extract import extract_sql
from prefloop.sql.pool import DEATHS, Limits, QueryResult, SandboxPool

LIMITS = Limits(opcodes=2_000_000, rows=100, wall_s=600.0)
"""The wall clock never ends what is within the budget, however much else the machine has to do."""
ONE_OPCODE = "SELECT length(printf('%.*c', 2000000000, 'x'))"
"""Two billion steps in one call of a function, which no budget of opcodes ends."""
BOMB = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r"

HOSTILE = [
    ("DELETE FROM t", {"denied"}),
    ("DROP TABLE t", {"denied"}),
    ("UPDATE t SET a = 0", {"denied"}),
    ("INSERT INTO t VALUES (9, 'x')", {"denied"}),
    ("CREATE TABLE u (x)", {"denied"}),
    ("CREATE TEMP TABLE u (x)", {"denied"}),
    ("ATTACH DATABASE '/tmp/prefloop-attack.db' AS x", {"denied"}),
    ("DETACH DATABASE main", {"denied"}),
    ("PRAGMA query_only = 0", {"denied"}),
    ("SELECT * FROM pragma_table_info('t')", {"denied"}),
    ("VACUUM INTO '/tmp/prefloop-attack.db'", {"denied"}),
    ("SELECT load_extension('/tmp/x.so')", {"denied"}),
    ("SELECT readfile('/etc/passwd')", {"denied", "unknown_function"}),
    ("SELECT writefile('/tmp/prefloop-attack.db', 'x')", {"denied", "unknown_function"}),
    ("BEGIN; DROP TABLE t; COMMIT", {"denied"}),
    ("SELECT 1; DROP TABLE t", {"denied"}),
    (BOMB, {"timeout"}),
    ("SELECT COUNT(*) FROM t a, t b, t c, t d, t e, t f, t g", {"timeout"}),
    ("SELECT length(zeroblob(1000000000))", {"denied"}),
    ("SELECT length(printf('%.*c', 20000000, 'x'))", {"memory", "ok"}),
    ("SELECT replace(hex(zeroblob(9)), '0', 'xxxxxxxxxxxxxxxxxxxxxxxx')", {"denied"}),
    ("SELECT length(replace(replace(printf('%.*c', 9000000, 'a'), 'a', 'aaaa'), 'a', 'aaaa'))", {"memory", "ok"}),
    (f"SELECT 1 WHERE 'a' LIKE '{'%a' * 300}'", {"denied"}),
    (f"SELECT COUNT(*) FROM t WHERE '{'a' * 190}b' LIKE '{'%a' * 90}'", {"ok", "timeout"}),
    ("SELECT " + "(" * 5_000 + "1" + ")" * 5_000, {"syntax"}),
    ("SELECT '" + "x" * 10_000_000 + "'", {"syntax", "memory"}),
    ("SELECT 1\x00DROP TABLE t", {"syntax", "denied", "ok"}),
    ("SELECT '\ud800'", {"syntax"}),
    ("SELECT random()", {"denied"}),
    ("SELECT date('now')", {"denied"}),
    ("SELECT CURRENT_TIMESTAMP", {"denied"}),
    ("SELECT datetime()", {"denied"}),
    ("SELECT julianday('no' || 'W')", {"denied"}),
    ("SELECT strftime('%s')", {"denied"}),
    ("SELECT unixepoch(' now ')", {"denied"}),
    ("SELECT time('2024-01-05', 'localtime')", {"denied"}),
    ("SELECT instr(printf('%.*c', 9000000, 'a'), printf('%.*c', 4000000, 'a') || 'b')", {"memory", "ok"}),
    ("SELECT printf('%.*c', 90000, 'x') || a FROM t", {"too_large"}),
    ("SELECT group_concat(x) FROM (SELECT a.b AS x FROM t a, t b, t c, t d)", {"memory", "timeout", "ok"}),
    ("SELECT * FROM t a, t b", {"too_many_rows"}),
    ("", {"syntax"}),
    ("-- nothing", {"syntax"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sql") / "t.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a INTEGER, b TEXT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"name {i % 7}") for i in range(50)])
    connection.commit()
    connection.close()
    return path


def test_hostile_queries_are_harmless_end_and_are_counted(database: Path) -> None:
    before, folder = database.read_bytes(), sorted(p.name for p in database.parent.iterdir())
    with SandboxPool([database], 2, LIMITS) as pool:
        results = pool.run([(0, sql) for sql, _ in HOSTILE])
        assert pool.run([(0, "SELECT COUNT(*) FROM t")]) == [QueryResult("ok", ("COUNT(*)",), ((50,),), "", 0)]
    for (sql, allowed), result in zip(HOSTILE, results, strict=True):
        assert result.status in allowed, (sql[:80], result)
    assert len(HOSTILE) >= 25
    assert database.read_bytes() == before
    assert sorted(p.name for p in database.parent.iterdir()) == folder
    assert not Path("/tmp/prefloop-attack.db").exists()


def test_dates_that_are_given_may_be_computed_with(database: Path) -> None:
    queries = {
        "SELECT date('2024-01-31', '+1 day')": "2024-02-01",
        "SELECT strftime('%Y', '2024-01-31')": "2024",
        "SELECT julianday('2000-01-01')": 2451544.5,
        "SELECT COUNT(*) FROM t WHERE 'now' = 'now'": 50,
    }
    with SandboxPool([database], 1) as pool:
        results = pool.run([(0, sql) for sql in queries])
    assert [result.rows for result in results] == [((value,),) for value in queries.values()]


@pytest.mark.parametrize(("sql", "status"), [
    ("SELECT missing FROM t", "unknown_column"),
    ("SELECT * FROM nowhere", "unknown_table"),
    ("SELECT a FROM t x JOIN t y ON x.a = y.a", "ambiguous_column"),
    ("SELECT nofunc(a) FROM t", "unknown_function"),
    ("SELEC 1", "syntax"),
])  # fmt: skip
def test_error_classes(database: Path, sql: str, status: str) -> None:
    with SandboxPool([database], 1, LIMITS) as pool:
        assert pool.run([(0, sql)])[0].status == status


def test_values_keep_their_types(database: Path) -> None:
    with SandboxPool([database], 1, LIMITS) as pool:
        row = pool.run([(0, "SELECT NULL, 1, 1.5, 'é', x'00ff', 9e999")])[0].rows[0]
    assert row == (None, 1, 1.5, "é", b"\x00\xff", float("inf"))


def test_verdicts_do_not_depend_on_the_number_of_workers(database: Path) -> None:
    queries = [(0, sql) for sql, _ in HOSTILE[:24]]
    found = []
    for workers in (1, 3):
        with SandboxPool([database], workers, LIMITS) as pool:
            found.append(pool.run(queries))
    assert found[0] == found[1]


def test_a_killed_worker_loses_nothing(database: Path) -> None:
    queries = [(0, f"SELECT SUM(a.a * b.a) + {i} FROM t a, t b, t c") for i in range(60)]
    with SandboxPool([database], 2, Limits()) as pool:
        expected = pool.run(queries)
        rng = random.Random(1)

        def kill() -> None:
            for _ in range(DEATHS - 1):  # may all meet one query, where the machine is busy
                time.sleep(rng.uniform(0.01, 0.05))
                with suppress(ProcessLookupError):
                    os.kill(rng.choice(pool.pids), signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        assert pool.run(queries) == expected
        killer.join()


@pytest.mark.parametrize("sql", [BOMB, ONE_OPCODE], ids=["no budget", "one opcode"])
def test_a_query_that_hangs_its_worker_is_tried_again_alone_and_then_timed_out(database: Path, sql: str) -> None:
    """No opcode budget to speak of: only the wall clock ends it."""
    with SandboxPool([database], 1, Limits(opcodes=10**15, wall_s=1.0)) as pool:
        assert [(one.status, pool.killed) for one in pool.run([(0, sql)])] == [("timeout", 2)]
        answers = (pool.run([(0, "SELECT 1")])[0].rows for _ in range(50))  # a slow start of a worker is no answer
        assert ((1,),) in answers


def test_workers_end_with_the_pool(database: Path) -> None:
    with SandboxPool([database], 2, LIMITS) as pool:
        pool.run([(0, "SELECT 1"), (0, "SELECT 2")])
        pids = pool.pids
        assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.sqlite does not exist"):
        SandboxPool([tmp_path / "gone.sqlite"])


def test_the_last_finished_block_is_the_query() -> None:
    fence = "```"
    assert extract_sql(f"{fence}sql\nSELECT 1\n{fence} then {fence}SQL\n SELECT 2 ; \n{fence}") == "SELECT 2"
    assert extract_sql(f"{fence}sql\nSELECT 1\n{fence}\n{fence}sql\nSELECT 2") == "SELECT 1"
    assert extract_sql(f"{fence}\nSELECT 1\n{fence}") is None
    assert extract_sql("SELECT 1") is None
    assert extract_sql(f"{fence}sql\n;\n{fence}") is None


def mutated(count: int, seed: int) -> list[tuple[int, str]]:
    """Queries broken by random edits: swapped, doubled, dropped and foreign pieces."""
    rng = random.Random(seed)
    seeds = [sql for sql, _ in HOSTILE if 0 < len(sql) < 200] + [
        "SELECT b, COUNT(*) FROM t GROUP BY b ORDER BY 2 DESC LIMIT 3"
    ]
    found = []
    for _ in range(count):
        pieces = rng.choice(seeds).split(" ")
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(pieces))
            edit = rng.randrange(4)
            if edit == 0:
                pieces.insert(place, rng.choice(pieces))
            elif edit == 1 and len(pieces) > 1:
                pieces.pop(place)
            elif edit == 2:
                pieces[place] = rng.choice(rng.choice(seeds).split(" "))
            else:
                pieces[place] = "".join(
                    chr(rng.choice((rng.randrange(1, 128), rng.randrange(1, 0x3000)))) for _ in range(3)
                )
        found.append((0, " ".join(pieces)))
    return found


def check_mutated(database: Path, count: int) -> None:
    before = database.read_bytes()
    queries = mutated(count, seed=count)
    found = []
    for workers in (2, 3):
        with SandboxPool([database], workers, Limits(opcodes=300_000, rows=100)) as pool:
            found.append(pool.run(queries))
            assert pool.killed == 0
    assert found[0] == found[1]
    assert Counter(result.status for result in found[0])["internal"] == 0
    assert database.read_bytes() == before


def test_mutated_queries_neither_hang_nor_crash(database: Path) -> None:
    check_mutated(database, 1_500)


@pytest.mark.soak
def test_ten_thousand_mutated_queries(database: Path) -> None:
    check_mutated(database, 10_000)

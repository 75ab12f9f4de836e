"""Equal canonical text means equal results: spelling is set right, meaning is never touched."""

from __future__ import annotations

import sqlite3

import pytest

from prefloop.sql.canonical import canonical_sql

SAME = [
    ("select a from t", "SELECT a FROM t;"),
    ("SELECT a FROM t -- a comment", "SELECT /* another */ a\nFROM t"),
    ('SELECT "T"."A" FROM "T"', "SELECT t.a FROM t"),
    ("SELECT x.a FROM t x", "SELECT y.a FROM t AS y"),
    ("SELECT a FROM t WHERE a = 1 AND b = 2 AND c = 3", "SELECT a FROM t WHERE c = 3 AND a = 1 AND b = 2"),
    ("SELECT p.a FROM t p JOIN u q ON p.b = q.b", "SELECT u1.a FROM t u1 JOIN u u2 ON u1.b = u2.b"),
]
DIFFERENT = [
    ("SELECT a FROM t", "SELECT b FROM t"),
    ("SELECT a FROM t WHERE s = 'Bos'", "SELECT a FROM t WHERE s = 'BOS'"),
    ('SELECT a FROM t WHERE s = "Bos"', 'SELECT a FROM t WHERE s = "BOS"'),  # strings where no column is so named
    ("SELECT a FROM t WHERE a = 1 OR b = 2", "SELECT a FROM t WHERE a = 1 AND b = 2"),
    ("SELECT a FROM t WHERE a = 1 AND (b = 2 OR c = 3)", "SELECT a FROM t WHERE (a = 1 AND b = 2) OR c = 3"),
    ("SELECT a - b FROM t", "SELECT b - a FROM t"),
    ("SELECT a FROM t", "SELECT DISTINCT a FROM t"),
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC"),
    ("SELECT a FROM t LIMIT 1", "SELECT a FROM t LIMIT 2"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spelling_does_not_count(one: str, other: str) -> None:
    assert canonical_sql(one) == canonical_sql(other)
    assert canonical_sql(one) is not None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_meaning_counts(one: str, other: str) -> None:
    assert canonical_sql(one) != canonical_sql(other)


@pytest.mark.parametrize("sql", ["", "SELECT FROM WHERE", "SELECT 1; SELECT 2", "(" * 10_000, "SELECT 'a"])
def test_what_cannot_be_read_has_no_canonical_text(sql: str) -> None:
    assert canonical_sql(sql) is None


def test_the_canonical_text_still_runs_and_gives_the_same_rows() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript("CREATE TABLE t (a, b, c); CREATE TABLE u (b, s)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [(i, i % 3, i % 2) for i in range(12)])
    connection.executemany("INSERT INTO u VALUES (?, ?)", [(i, f"N{i}") for i in range(3)])
    for sql in (
        "SELECT X.a, Y.s FROM t AS X JOIN u Y ON X.b = Y.b WHERE X.c = 1 AND Y.s <> 'N0' ORDER BY X.a DESC",
        "SELECT s, COUNT(*) n FROM t JOIN u USING (b) GROUP BY s HAVING COUNT(*) > 1 AND SUM(a) > 2 ORDER BY n, s",
        "WITH last AS (SELECT Z.a FROM t Z ORDER BY Z.a DESC LIMIT 3) SELECT SUM(L.a) FROM last L",
    ):
        text = canonical_sql(sql)
        assert text is not None
        assert connection.execute(text).fetchall() == connection.execute(sql).fetchall()

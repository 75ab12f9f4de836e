"""What the query of an answer returns: run in the sandbox on a copy, shown escaped and bounded."""

from __future__ import annotations

import doctest
import hashlib
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.annotation import results
from prefloop.annotation.results import COLUMNS, LONGEST_CELL, ROWS, QueryResult, identical, result_table, run_answers
from prefloop.config.judges import ExecutionConfig
from prefloop.errors import DataError
from prefloop.judging.execution import ExecutionJudge
from prefloop.records import Completion, Prompt
from prefloop.tasks.nba.answers import render_answer

CELLS = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=300), st.text(max_size=300)
)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "games.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (n INTEGER, x TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"row {i}") for i in range(57)])
    return path


def fenced(sql: str) -> str:
    return render_answer("as asked.", sql)


def cells(page: str) -> list[str]:
    """Text of each data cell, by Python's own parser."""
    found: list[str] = []

    class Cells(HTMLParser):
        inside = False

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag == "td":
                self.inside = True
                found.append("")

        def handle_endtag(self, tag: str) -> None:
            self.inside &= tag != "td"

        def handle_data(self, data: str) -> None:
            if self.inside:
                found[-1] += data

    Cells().feed(page)
    return found


def said(page: str) -> str:
    return re.search('<p class="count">(.*)</p>', page)[1]


def test_docstring_examples() -> None:
    found = doctest.testmod(results)
    assert found.attempted >= 1
    assert not found.failed


class TestRunning:
    def test_each_answer_gets_its_own_result(self, database: Path) -> None:
        answers = [
            fenced("SELECT n, x FROM t ORDER BY n"),
            "That cannot be answered.",
            fenced("SELECT absent FROM t"),
            "SELECT COUNT(*) AS games FROM t;",
            fenced("SELECT n, x FROM t ORDER BY n DESC"),
            fenced("DELETE FROM t"),
            fenced("SELECT n FROM t WHERE n < 0"),
            "```sql\nSELECT 1",
        ]
        found = run_answers(answers, database)
        rows, none, wrong, count, reverse, deleting, empty, cut = found
        assert rows.columns == ["n", "x"]
        assert rows.rows == [[i, f"row {i}"] for i in range(ROWS)]
        assert (rows.count, rows.error) == (57, None)
        assert none == cut == QueryResult(error="no SQL in this answer")
        assert wrong.error == "unknown column: no such column: absent"
        assert (count.columns, count.rows) == (["games"], [[57]])
        assert reverse.rows[0] == [56, "row 56"]
        assert deleting.error == "denied: not authorized"
        assert (empty.rows, empty.count, empty.error) == ([], 0, None)
        assert [result.identical_to is None for result in found] == [result.error is not None for result in found]

    def test_the_database_is_neither_touched_nor_locked(self, database: Path) -> None:
        before = hashlib.sha256(database.read_bytes()).digest()
        with closing(sqlite3.connect(database, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            (found,) = run_answers([fenced("SELECT COUNT(*) FROM t")], database)
            writer.execute("ROLLBACK")
        assert found.rows == [[57]]
        assert hashlib.sha256(database.read_bytes()).digest() == before
        assert sorted(path.name for path in database.parent.iterdir()) == [database.name]

    def test_later_rows_are_seen(self, database: Path) -> None:
        query = fenced("SELECT COUNT(*) FROM t")
        first = run_answers([query], database)
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO t VALUES (57, 'row 57')")
        assert [first[0].rows, run_answers([query], database)[0].rows] == [[[57]], [[58]]]

    def test_no_query_needs_no_database(self, tmp_path: Path) -> None:
        assert run_answers([], tmp_path / "none") == []
        assert run_answers(["no"], tmp_path / "none") == [QueryResult(error="no SQL in this answer")]
        with pytest.raises(DataError, match="does not exist"):
            run_answers([fenced("SELECT 1")], tmp_path / "none")

    def test_results_are_json(self, database: Path) -> None:
        hostile = "SELECT x'00ff', 9e999, -9e999, NULL, 9223372036854775807, 0.1, printf('%.*c', 9000, 'x'), char(8238), '<b>'"
        (found,) = run_answers([fenced(hostile + f', 1 AS "{"c" * 900}"')], database)
        assert QueryResult(**json.loads(json.dumps(asdict(found), allow_nan=False))) == found
        cut = "x" * (LONGEST_CELL - 1) + "…"
        assert found.rows == [["x'00ff'", "inf", "-inf", None, 2**63 - 1, 0.1, cut, "\u202e", "<b>", 1]]
        assert len(found.columns[-1]) == LONGEST_CELL

    def test_too_much_is_an_error(self, database: Path) -> None:
        found = run_answers(
            [fenced("SELECT * FROM t a, t b, t c"), fenced("SELECT printf('%.*c', 90000, n) FROM t")], database
        )
        assert [result.error for result in found] == [
            "too many rows: more than 5000 rows",
            "too large: more than 500,000 bytes",
        ]


class TestIdentical:
    def test_whole_results_count_in_any_order(self, database: Path) -> None:
        everything, reverse, start, renamed, float_, nothing, error = run_answers(
            [
                fenced("SELECT n FROM t"),
                fenced("SELECT n FROM t ORDER BY n DESC"),
                fenced("SELECT n FROM t LIMIT 56"),  # the same first rows
                fenced("SELECT n AS games FROM t"),
                fenced("SELECT n + 0.0 FROM t"),
                fenced("SELECT n FROM t WHERE 0"),
                fenced("SELECT m FROM t"),
            ],
            database,
        )
        assert identical([everything, reverse, renamed])
        for other in (start, float_, nothing, error):
            assert not identical([everything, other])
        assert not identical([error, error])  # two errors are no result
        assert not identical([everything])
        assert not identical([])

    def test_it_is_the_execution_judges_denotation(self, database: Path) -> None:
        query = "SELECT x, n * 0.5, NULL FROM t WHERE n < 30"
        prompt = Prompt.create(({"role": "user", "content": "?"},), "sql", "test", {"gold_sql": query})
        completion = Completion("c", prompt.id, 0, 0, fenced(query), (), (), "stop", "p", {}, 0)
        with ExecutionJudge([database], ExecutionConfig()) as judge:
            (judgement,) = judge.judge([prompt], [completion])
        assert run_answers([completion.text], database)[0].identical_to == judgement.raw["digest"]


class TestTable:
    def test_a_small_result_by_hand(self) -> None:
        assert result_table([["<BOS>", 60, None]], ["team", "wins", "x&y"]) == (
            '<div class="result"><table>\n'
            '<thead><tr><th scope="col" dir="auto">team</th><th scope="col" dir="auto">wins</th>'
            '<th scope="col" dir="auto">x&amp;y</th></tr></thead>\n'
            '<tbody>\n<tr><td dir="auto">&lt;BOS&gt;</td><td class="number">60</td>'
            '<td><span class="null">NULL</span></td></tr>\n</tbody>\n</table>\n<p class="count">1 row</p></div>\n'
        )

    @pytest.mark.parametrize(
        ("rows", "truncated", "count", "expected"),
        [
            (0, False, None, "0 rows"),
            (20, False, None, "20 rows"),
            (21, False, None, "21 rows, the first 20 shown"),
            (5_000, False, None, "5,000 rows, the first 20 shown"),
            (20, True, 57, "57 rows, the first 20 shown"),
            (20, True, None, "the first 20 rows of more"),
            (500, True, None, "the first 20 rows of more"),
        ],
    )
    def test_the_number_of_rows(self, rows: int, truncated: bool, count: int | None, expected: str) -> None:
        page = result_table([[i] for i in range(rows)], ["n"], truncated=truncated, count=count)
        assert said(page) == expected
        assert cells(page) == [str(i) for i in range(min(rows, ROWS))]

    def test_null_is_told_from_its_word_and_from_nothing(self) -> None:
        page = result_table([[None, "NULL", ""]], ["a", "b", "c"])
        assert cells(page) == ["NULL", "NULL", ""]
        assert page.count('class="null"') == 1

    def test_wide_and_nameless_results(self) -> None:
        page = result_table([range(2_000)], [])
        assert "<thead>" not in page
        assert len(cells(page)) == COLUMNS
        assert said(page) == "1 row; the first 50 of 2,000 columns"

    @given(st.lists(st.lists(CELLS, max_size=4), max_size=25))
    def test_any_cell_is_escaped_and_bounded(self, rows: list[list[object]]) -> None:
        page = result_table(rows, ["a"])
        page.encode("utf-8")
        tags = set(re.findall(r"<[^>]*>", page))
        own = {"", "/"} | {f"/{name}" for name in ("div", "table", "thead", "tbody", "tr", "th", "td", "p", "span")}
        own |= {
            "table",
            "thead",
            "tbody",
            "tr",
            "td",
            'div class="result"',
            'th scope="col" dir="auto"',
            'p class="count"',
        }
        own |= {'td class="number"', 'td dir="auto"', 'span class="null"', 'span class="control"'}
        assert {tag[1:-1] for tag in tags} <= own
        shown = cells(page)
        assert len(shown) == sum(len(row) for row in rows[:ROWS])
        assert all(len(re.sub(r"⟨U\+\w+(?: ×\d+)?⟩", "x", text)) <= LONGEST_CELL for text in shown)

    def test_an_error_is_shown_instead(self) -> None:
        page = result_table([], [], error="no such column: <script>\u202e" + "x" * 900)
        assert page.startswith(
            '<p class="result error">no such column: &lt;script&gt;<span class="control">⟨U+202E⟩</span>xxx'
        )
        assert len(page) < 400

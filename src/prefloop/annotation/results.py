"""What the SQL of an answer returns, for the person who judges it: run in the sandbox, shown as a table.

Queries run in the worker processes of `prefloop.sql.pool` on a frozen copy, never in the server and never on the
database itself. Names of columns and cells are hostile text like the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.annotation.rendering import is_statement, spelled_out
from prefloop.records import content_id
from prefloop.sql import pool
from prefloop.sql.extract import extract_sql
from prefloop.sql.snapshot import snapshot
from prefloop.store.files import cache_folder

ROWS = 20
"""Rows kept and shown."""
COLUMNS = 50
"""Columns shown; a query may name two thousand."""
LONGEST_CELL = 200
"""Characters kept and shown of a cell or a column's name, the mark of the cut included."""

Cell = str | int | float | None


@dataclass(frozen=True)
class QueryResult:
    """What the query of one answer gave; plain JSON values."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    """The first `ROWS`, long cells cut."""
    count: int = 0
    """Rows of the whole result."""
    error: str | None = None
    """Why there is no result: no query in the answer, or the sandbox's error class and SQLite's message."""
    identical_to: str | None = None
    """Hash of the whole result, its rows in any order: equal hashes, equal results. None where there is none."""


OUTCOMES = {
    "right": None,
    "runs": None,
    "not SQL": None,
    "not executed": None,
    "wrong": "correction is wrong",
    "fails": "correction does not run",
    "no query": "correction has no query",
}
"""What execution says of a corrected answer, and for which reason it is then not trained on. *runs*: there is no gold
to compare with; *not executed*: its database is not at hand; *no query*: what it corrects, or the task, has one."""


@dataclass(frozen=True)
class Execution:
    """A corrected answer, executed."""

    outcome: str
    """One of `OUTCOMES`."""
    result: QueryResult | None = None
    """What its query returns on the first database; None where nothing was executed."""

    @property
    def left_out(self) -> str | None:
        """Why it is not trained on, or None."""
        return OUTCOMES[self.outcome]


def run_answers(texts: Sequence[str], database: Path) -> list[QueryResult]:
    """Run the query of each answer on a snapshot of `database`; equal queries run once.

    Blocks until all have ended, a few milliseconds each and one start of the workers: call it from a thread.

    Args:
        texts: answers, their queries as `query_of` finds them.
        database: a SQLite file that others may be writing.

    Raises:
        DataError: the database is missing, or no SQLite file.
        StoreError: the snapshot cannot be written into the cache folder.
        JudgeError: the workers cannot be started.
    """
    queries = [query_of(text) for text in texts]
    wanted = [(0, query) for query in queries if query]
    if not wanted:
        return [QueryResult(error="no SQL in this answer") for _ in texts]
    copy = snapshot(database, cache_folder() / "databases")
    with pool.SandboxPool([copy]) as sandbox:
        found = dict(zip(wanted, map(_kept, sandbox.run(wanted)), strict=True))
    return [found[0, query] if query else QueryResult(error="no SQL in this answer") for query in queries]


def query_of(text: str) -> str | None:
    """The query of an answer: its last finished ``sql`` fence, or all of it where it is one statement."""
    return extract_sql(text) or (text.strip().rstrip("; \n\t") if is_statement(text) else None)


def identical(results: Sequence[QueryResult]) -> bool:
    """Whether two or more results are all there and equal, in any order of rows."""
    hashes = {result.identical_to for result in results}
    return len(results) > 1 and len(hashes) == 1 and None not in hashes


def result_table(
    rows: Sequence[Sequence[Any]],
    columns: Sequence[str],
    error: str | None = None,
    truncated: bool = False,
    *,
    count: int | None = None,
) -> str:
    """At most `ROWS` rows as an HTML table with the number of rows under it, or the error; everything escaped.

    Args:
        rows: [n][width] cells, of which the first `ROWS` are shown.
        columns: [width] names; empty for a table without headings.
        truncated: `rows` are not the whole result.
        count: rows of the whole result, where known; default ``len(rows)``, which is a lower bound if `truncated`.

    >>> result_table([], [], error="no such table: t")
    '<p class="result error">no such table: t</p>\\n'
    """
    if error is not None:
        return f'<p class="result error">{spelled_out(_cut(error))}</p>\n'
    heads = "".join(f'<th scope="col" dir="auto">{spelled_out(_cut(name))}</th>' for name in columns[:COLUMNS])
    head = f"<thead><tr>{heads}</tr></thead>\n" if heads else ""
    body = "".join(f"<tr>{''.join(map(_cell, row[:COLUMNS]))}</tr>\n" for row in rows[:ROWS])
    width = max([len(columns), *map(len, rows[:ROWS])])
    said = _said(len(rows), width, truncated, count)
    return f'<div class="result"><table>\n{head}<tbody>\n{body}</tbody>\n</table>\n<p class="count">{said}</p></div>\n'


def _kept(result: pool.QueryResult) -> QueryResult:
    if result.status != "ok":
        return QueryResult(error=_cut(f"{result.status.replace('_', ' ')}: {result.message}"))
    return QueryResult(
        columns=[_cut(name) for name in result.columns],
        rows=[[_plain(cell) for cell in row] for row in result.rows[:ROWS]],
        count=len(result.rows),
        identical_to=content_id([sorted(repr(row) for row in result.rows)]),  # the execution judge's denotation
    )


def _plain(cell: Any) -> Cell:
    """A cell as a JSON value of bounded length: bytes as an SQL literal, infinity as text."""
    if isinstance(cell, bytes):
        return _cut(f"x'{cell[:LONGEST_CELL].hex()}'")
    if isinstance(cell, float) and cell in (float("inf"), float("-inf")):
        return str(cell)
    return _cut(cell) if isinstance(cell, str) else cell


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_CELL else f"{text[: LONGEST_CELL - 1]}…"


def _cell(value: Any) -> str:
    if value is None:
        return '<td><span class="null">NULL</span></td>'
    plain = _plain(value)
    kind = ' class="number"' if isinstance(plain, int | float) else ' dir="auto"'
    return f"<td{kind}>{spelled_out(_cut(str(plain)))}</td>"


def _said(given: int, width: int, truncated: bool, count: int | None) -> str:
    """How many rows there are, and what of them is shown."""
    shown = min(given, ROWS)
    if count is None and truncated:
        said = f"the first {shown:,} rows of more"
    else:
        whole = given if count is None else count
        said = f"{whole:,} {'row' if whole == 1 else 'rows'}"
        said += f", the first {shown:,} shown" if shown < whole else ""
    return f"{said}; the first {COLUMNS} of {width:,} columns" if width > COLUMNS else said

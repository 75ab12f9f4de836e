"""Test sets as others keep them: what is asked, what is answered, and the queries, of every row.

| read from | columns |
|---|---|
| the prompt | ``prompt``, ``question``, ``instruction``, ``messages``, ``conversations``, ``input`` or ``text`` |
| answers | ``answer``, ``output``, ``completion``, ``response``, ``reference``, ``chosen`` |
| queries | ``gold_sql``, ``sql``, ``SQL``, ``query``, also inside ``meta`` |
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.preferences.rows import BadRow, BadRowError, read_messages, read_rows
from prefloop.progress import note
from prefloop.sql.extract import extract_sql
from prefloop.store.rows import read_csv

PROMPTS = ("prompt", "question", "instruction", "messages", "conversations", "input", "text")
ANSWERS = ("answer", "output", "completion", "response", "reference", "chosen")
QUERIES = ("gold_sql", "sql", "SQL", "query")
NAMED = 5
"""Rows that cannot be read are named up to this many, and counted beyond."""


@dataclass(frozen=True)
class HeldOut:
    """One row of a test set."""

    file: str
    row: int
    """Line of a ``.jsonl`` or ``.csv`` file, row of others, from 1."""
    asked: tuple[str, ...]
    answers: tuple[str, ...]
    """Without the queries in them."""
    queries: tuple[str, ...]


def read_held_out(path: Path) -> Iterator[HeldOut]:
    """The rows of a ``.parquet``, ``.jsonl``, ``.json`` or ``.csv`` file; those without a prompt are named and counted.

    Raises:
        DataError: the file is missing, damaged, of another type, or has no row with a prompt.
    """
    bad: list[BadRow] = []
    found = 0
    for number, row in read_csv(path) if path.suffix.lower() == ".csv" else read_rows(path):
        try:
            yield _held_out(path, number, row)
            found += 1
        except BadRowError as error:
            bad.append(BadRow(number, str(error)))
    named = "; ".join(f"row {row.line}: {row.reason}" for row in bad[:NAMED])
    if not found:
        raise DataError(f"{path} has no test item ({named or 'it is empty'}): give a column {', '.join(PROMPTS[:3])}")
    if bad:
        note(f"{path}: {len(bad):,} rows are not compared with ({named})")


def _held_out(path: Path, number: int, row: Any) -> HeldOut:
    if not isinstance(row, dict):
        raise BadRowError("not readable")
    if row.get("split") == "train":
        raise BadRowError("of split 'train'")
    key = next((key for key in PROMPTS if row.get(key)), None)
    if key is None:
        raise BadRowError("no prompt")
    asked = tuple(m["content"] for m in read_messages(row[key], key) if m["role"] != "system")
    answers = [text for key in ANSWERS for text in _texts(row.get(key), key)]
    meta = _meta(row.get("meta"))
    given = [value for place in (row, meta) for name in QUERIES if isinstance(value := place.get(name), str) and value]
    queries = dict.fromkeys([*given, *(query for text in answers if (query := query_of(text)))])
    plain = tuple(text for text in map(without_queries, answers) if text)
    return HeldOut(str(path), number, asked, plain, tuple(queries))


def _texts(value: Any, name: str) -> list[str]:
    try:
        return [message["content"] for message in read_messages(value, name, role="assistant")]
    except BadRowError:
        return []


def _meta(value: Any) -> dict[str, Any]:
    """The meta of a prompt record, which is JSON text, or of a line of a file of prompts."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}


def query_of(text: str) -> str | None:
    """The query that an answer holds or is."""
    return extract_sql(text) or (text if _is_query(text) else None)


def without_queries(text: str) -> str:
    """An answer's words beside its query: queries are compared as queries."""
    return "" if _is_query(text) else " ".join(text.split("```")[::2])


def _is_query(text: str) -> bool:
    return text.lstrip()[:7].lower().startswith(("select ", "select\n", "with "))

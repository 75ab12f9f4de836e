"""Published layouts of text-to-SQL questions: Spider, BIRD, defog, GeoQuery (text2sql-data), and plain JSON lines.

What a layout's own scorer says of rows, order and columns is its convention, and becomes the comparison that its
questions start with (`CONVENTIONS`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefloop.errors import DataError
from prefloop.tasks.database.imports.entries import read_entries
from prefloop.tasks.database.model import Alternative

LAYOUTS = ("spider", "bird", "defog", "geoquery", "jsonl")
MOST_EXPANDED = 64
"""Golds that the column sets of one defog row may stand for."""


@dataclass(frozen=True)
class Convention:
    """How a layout's own scorer compares."""

    comparison: dict[str, Any] = field(default_factory=dict)
    ordered: bool = True
    """The order counts where the question asks for one."""


CONVENTIONS = {
    # bags of rows, any order of columns, as many columns as the gold (test-suite, taoyds/test-suite-sql-eval)
    "spider": Convention({"extra_columns": "forbid"}),
    # sets of rows, never their order, as many columns as the gold (bird-bench/mini_dev, evaluation_ex.py)
    "bird": Convention({"extra_columns": "forbid", "distinct": True}, ordered=False),
    # duplicates dropped, further columns allowed ("subset"), order where the question asks (defog-ai/sql-eval)
    "defog": Convention({"distinct": True}),
    # answers are sets of things (jkkummerfeld/text2sql-data has no scorer of results)
    "geoquery": Convention({"distinct": True}),
    "jsonl": Convention(),
}


@dataclass(frozen=True)
class Imported:
    """One question of a file, in its layout's terms."""

    place: str
    """File and entry or line."""
    question: str
    golds: tuple[str, ...]
    """Right queries; none where no query can answer."""
    database: str = ""
    split: str = ""
    family: str = ""
    template: str = ""
    note: str = ""
    answer: str = ""
    comparison: Mapping[str, Any] = field(default_factory=dict)
    compare_sql: str = ""
    alternatives: tuple[Alternative, ...] = ()
    """Beside the golds, with comparisons of their own."""
    wording: str = ""
    lacks: str = ""
    """Where no query can answer: what the database does not hold."""


@dataclass(frozen=True)
class BadRow:
    """An entry that is no question, and why."""

    place: str
    reason: str


Read = Iterator[Imported | BadRow]


def read_layout(path: Path, layout: str | None = None) -> tuple[str, list[Imported], list[BadRow]]:
    """The questions of a file.

    Args:
        layout: one of `LAYOUTS`; None looks at the first entry.

    Returns:
        The layout, the questions, and the entries that are none.

    Raises:
        DataError: the file is missing, empty, no JSON or CSV, or of no known layout.
    """
    entries = read_entries(path)
    found = layout or _layout(entries[0][1], path)
    reader = _READERS[found]
    rows: list[Imported | BadRow] = []
    for place, entry in entries:
        if isinstance(entry, str):
            rows.append(BadRow(place, entry))
            continue
        try:
            rows += reader(place, entry)
        except _UnreadableError as error:
            rows.append(BadRow(place, str(error)))
    return found, [r for r in rows if isinstance(r, Imported)], [r for r in rows if isinstance(r, BadRow)]


class _UnreadableError(ValueError):
    """An entry lacks what its layout has; the message says what."""


def _layout(entry: dict[str, Any] | str, path: Path) -> str:
    keys = set(entry) if isinstance(entry, dict) else set()
    marks = {
        "geoquery": {"sentences", "sql"},
        "bird": {"db_id", "question", "SQL"},
        "spider": {"db_id", "question", "query"},
        "defog": {"db_name", "question", "query"},
        "jsonl": {"question", "sql"},
    }
    found = next((layout for layout, needed in marks.items() if needed <= keys), None)
    if found is None:
        said = f"its first entry has {', '.join(sorted(keys))}" if keys else "its first entry cannot be read"
        raise DataError(f"{path}: of no known layout ({said}); name it with --layout ({', '.join(LAYOUTS)})")
    return found


def _text(entry: Mapping[str, Any], key: str, needed: bool = True) -> str:
    value = entry.get(key)
    if value is None and not needed:
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or (needed and not value.strip()):
        raise _UnreadableError(f"{key} is {'missing' if value is None else 'no text' if value else 'empty'}")
    return value.strip()


def _sql(text: str) -> str:
    return text.strip().rstrip("; \n\t")


def _split(entry: Mapping[str, Any]) -> str:
    return {"train": "train", "test": "test", "dev": "test"}.get(str(entry.get("split", "")).lower(), "")


def _spider(place: str, entry: Mapping[str, Any]) -> Read:
    gold = (_sql(_text(entry, "query")),)
    yield Imported(place, _text(entry, "question"), gold, _text(entry, "db_id"), _split(entry))


def _bird(place: str, entry: Mapping[str, Any]) -> Read:
    yield Imported(
        place,
        _text(entry, "question"),
        (_sql(_text(entry, "SQL")),),
        _text(entry, "db_id"),
        _split(entry),
        family=_text(entry, "difficulty", False),
        note=_text(entry, "evidence", False),
    )


def _defog(place: str, entry: Mapping[str, Any]) -> Read:
    golds = [gold for part in statements(_text(entry, "query")) for gold in expanded(part)]
    if not golds:
        raise _UnreadableError("query is empty")
    if len(golds) > MOST_EXPANDED:
        raise _UnreadableError(f"its column sets stand for {len(golds)} golds, more than {MOST_EXPANDED}")
    yield Imported(
        place,
        _text(entry, "question"),
        tuple(dict.fromkeys(golds)),
        _text(entry, "db_name"),
        family=_text(entry, "query_category", False),
        note=_text(entry, "instructions", False),
    )


def statements(text: str) -> list[str]:
    """The parts of a text between semicolons, those in quotes left alone.

    >>> statements("SELECT 'a;b'; SELECT 2;")
    ["SELECT 'a;b'", 'SELECT 2']
    """
    parts = re.findall(r"(?:'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[^;'\"])+", text)
    return [part.strip() for part in parts if part.strip()]


def expanded(sql: str) -> list[str]:
    """The queries that column sets in braces stand for: each part of ``{a, b}`` that is not empty.

    An empty ``{}`` behind it repeats the chosen columns, without their aliases (``GROUP BY {}``).

    >>> expanded("SELECT {a, b}, COUNT(*) FROM t GROUP BY {}")[0]
    'SELECT a, COUNT(*) FROM t GROUP BY a'
    """
    found = re.search(r"\{([^{}]+)\}", sql)
    if found is None:
        return [sql]
    columns = _columns(found[1])
    queries: list[str] = []
    for count in range(1, len(columns) + 1):
        for chosen in combinations(columns, count):
            bare = ", ".join(re.sub(r"\s+AS\s+\S+$", "", column, flags=re.IGNORECASE) for column in chosen)
            filled = sql[: found.start()] + ", ".join(chosen) + sql[found.end() :].replace("{}", bare)
            queries += expanded(filled)
            if len(queries) > MOST_EXPANDED:
                return queries
    return queries


def _columns(text: str) -> list[str]:
    """Columns between commas that stand in no parentheses."""
    columns, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and not depth:
            columns.append(text[start:i].strip())
            start = i + 1
    return [column for column in [*columns, text[start:].strip()] if column]


def _geoquery(place: str, entry: Mapping[str, Any]) -> Read:
    """One entry is a query with variables, and the sentences that ask it."""
    golds, sentences = entry.get("sql"), entry.get("sentences")
    if not isinstance(golds, list) or not golds or not all(isinstance(gold, str) for gold in golds):
        raise _UnreadableError("sql is no list of queries")
    if not isinstance(sentences, list):
        raise _UnreadableError("sentences is no list")
    variables = entry.get("variables") or []
    if not isinstance(variables, list):
        raise _UnreadableError("variables is no list")
    examples = {str(v["name"]): str(v.get("example", "")) for v in variables if isinstance(v, dict) and "name" in v}
    number = place.rpartition(" ")[2]
    for count, sentence in enumerate(sentences, 1):
        here = f"{place}, sentence {count}"
        if not isinstance(sentence, dict) or not isinstance(sentence.get("text"), str) or not sentence["text"].strip():
            yield BadRow(here, "no text")
            continue
        given = sentence.get("variables") or {}
        if not isinstance(given, dict):
            yield BadRow(here, "variables is no object")
            continue
        values = {**examples, **{str(name): str(value) for name, value in given.items() if str(value)}}
        yield Imported(
            here,
            _filled(sentence["text"].strip(), values),
            tuple(dict.fromkeys(_sql(_filled_sql(gold, values)) for gold in golds)),
            _text(entry, "database", False),
            _fold(entry.get("query-split")),
            template=f"entry {number}",
        )


def _fold(split: Any) -> str:
    """The set's own split by query; of numbered folds, 0 is the test."""
    if str(split).isdecimal():
        return "test" if int(split) == 0 else "train"
    return {"train": "train", "dev": "test", "test": "test"}.get(str(split), "")


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name in sorted(values, key=len, reverse=True):
        text = _put(rf"\b{re.escape(name)}\b", values[name], text)
    return text


def _filled_sql(sql: str, values: Mapping[str, str]) -> str:
    """Variables in quotes become text literals, bare ones the value itself."""
    for name in sorted(values, key=len, reverse=True):
        value = values[name].replace("'", "''")
        variable = re.escape(name)
        sql = _put(rf"\"\s*{variable}\s*\"|'\s*{variable}\s*'", f"'{value}'", sql)
        sql = _put(rf"\b{variable}\b", value, sql)
    return sql


def _put(pattern: str, value: str, text: str) -> str:
    """The text with every match replaced by the value as it stands, backslashes and all."""
    return re.sub(pattern, lambda _: value, text)


def _jsonl(place: str, entry: Mapping[str, Any]) -> Read:
    """The keys of a task's ``questions.jsonl``, each if it is there."""
    comparison = entry.get("comparison") or {}
    if not isinstance(comparison, dict):
        raise _UnreadableError("comparison is no object")
    lacks = _text(entry, "lacks", False)
    answerable = entry.get("sql") is not None
    if "sql" in entry and not answerable and not lacks:
        raise _UnreadableError("sql is null: say in lacks what the database does not hold")
    yield Imported(
        place,
        _text(entry, "question"),
        (_sql(_text(entry, "sql")),) if answerable or not lacks else (),
        _text(entry, "db_id" if "db_id" in entry else "database", False),
        _split(entry),
        _text(entry, "family", False),
        _text(entry, "template", False),
        _text(entry, "note", False),
        _text(entry, "answer", False),
        comparison,
        _sql(_text(entry, "compare_sql", False)),
        _alternatives(entry),
        _text(entry, "wording", False),
        lacks,
    )


def _alternatives(entry: Mapping[str, Any]) -> tuple[Alternative, ...]:
    given = entry.get("alternatives") or []
    if not isinstance(given, list):
        raise _UnreadableError("alternatives is no list")
    try:
        return tuple(Alternative.model_validate(each) for each in given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _UnreadableError(f"alternatives: {place + ': ' if place else ''}{first['msg']}") from error


_READERS: dict[str, Callable[[str, Mapping[str, Any]], Read]] = {
    "spider": _spider,
    "bird": _bird,
    "defog": _defog,
    "geoquery": _geoquery,
    "jsonl": _jsonl,
}

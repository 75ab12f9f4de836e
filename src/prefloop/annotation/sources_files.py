"""Prompts and answers from rows of CSV, JSON lines, JSON and Parquet files, every bad row named.

| layout | recognised by |
|---|---|
| two answers | ``first`` and ``second``, or one of the other `PAIRS` |
| a list | ``answers``, ``completions``, ``responses`` or ``generations``: texts, or objects with text and ``model`` |
| one answer a row | ``completion``, ``answer``, ``response`` or ``output``; rows with the same prompt belong together |
| labels of people | a ``rater`` and a ``choice``, or PandaLM's ``annotator1`` (`prefloop.preferences.people`) |

The prompt is in ``prompt``, ``question``, ``instruction`` (maybe with ``input``), ``messages`` or ``conversations``, as
text or messages, with ``system`` before it; two answers may be whole conversations that hold it. Models are named by
``model``, ``models`` (a list), or ``model_a`` and ``model_b`` (``first_model``, …). The user's names of columns come
first: ``columns={"prompt": "frage", "first": "links", "second": "rechts"}``. ``chosen`` is taken as better than
``rejected`` by a judge named ``imported``. An empty answer is an answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError
from prefloop.preferences.importers import IMPORTED
from prefloop.preferences.people import read_people
from prefloop.preferences.rows import BadRowError, read_messages
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.store import rows
from prefloop.store.rows import BadRow
from prefloop.tasks.instructions.layouts import check_text

PAIRS = (
    ("first", "second"),
    ("chosen", "rejected"),
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("answer_a", "answer_b"),
    ("answer1", "answer2"),
    ("answer_1", "answer_2"),
    ("completion_a", "completion_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
)
FILES = (".csv", *rows.READABLE)
"""Types of files that are read."""
LISTS = ("answers", "completions", "responses", "generations")
SINGLE = ("completion", "answer", "response", "output")
PROMPTS = ("prompt", "question", "instruction", "messages", "conversations")
COLUMNS = ("prompt", "system", "answers", "first", "second", "completion", "model")
"""What the user may name a column for."""
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, OverflowError)
"""What a row of another shape can bring about; a `BadRowError` is a ValueError."""
_TEXTS = ("text", "content", "completion", "response", "answer", "value")


@dataclass
class Gathered:
    """What sources give before answers are merged and chosen."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    completions: dict[str, Completion] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    """Of judges."""
    labels: list[Judgement] = field(default_factory=list)
    """Of people; judge ``people/<rater>``."""
    bad: list[BadRow] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    described: str = ""
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: Prompt, texts: list[tuple[str, str]]) -> list[str]:
        """Add answers, (text, model); their ids. The same text of the same model again is the same answer."""
        known = self.prompts.setdefault(prompt.id, prompt)
        ids = [content_id("completion", known.id, model, text) for text, model in texts]
        for identity, (text, model) in zip(ids, texts, strict=True):
            if identity not in self.completions:
                index = self._counts[known.id] = self._counts.get(known.id, -1) + 1
                self.completions[identity] = Completion(
                    identity, known.id, index, 0, text, (), (), "stop", model, {}, 0
                )
        return ids

    def count(self, what: str, number: int = 1) -> None:
        """Count something that was left out."""
        self.left_out[what] = self.left_out.get(what, 0) + number


@dataclass(frozen=True)
class Asked:
    """What a row asks, and its answers."""

    messages: tuple[Message, ...]
    answers: list[tuple[str, str]]
    """Text and model."""
    ranked: bool = False
    """The first is better than the second."""


def read_file(path: Path, columns: Mapping[str, str], found: Gathered) -> None:
    """Add what a file holds; rows that cannot be read go to `found.bad`.

    Raises:
        ConfigError: `columns` names something that no layout has.
        DataError: the file is missing, damaged as a whole, or of another type.
    """
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ConfigError(f"columns has {unknown[0]!r}: a column can be named for {', '.join(COLUMNS)}")
    if not columns and _has_labels(path):
        _add_people(path, found)
        return
    for line, row in numbered_rows(path):
        try:
            add_row(row, columns, found)
        except UNREADABLE as error:
            found.bad.append(BadRow(path.name, line, why(error)))


def why(error: Exception) -> str:
    """What is wrong with a row, whether it was foreseen or not."""
    if isinstance(error, BadRowError | rows.BadRowError):
        return str(error)
    return f"not of any known layout ({type(error).__name__}: {str(error)[:80]})"


def numbered_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers from 1, those of CSV with the line on which they end; empty lines are no rows.

    Raises:
        DataError: as in `prefloop.store.rows.read_rows`, or the CSV is damaged.
    """
    if not path.is_file():
        raise DataError(
            f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a {', '.join(FILES)} file"
        )
    if path.suffix.lower() not in FILES:
        raise DataError(f"{path}: unknown file type '{path.suffix}'; give {', '.join(FILES)}")
    if path.suffix.lower() != ".csv":
        for line, row in rows.read_rows(path):
            if not (isinstance(row, rows.Unreadable) and row.reason == rows.EMPTY):
                yield line, row
        return
    yield from rows.read_csv(path)


def add_row(row: Any, columns: Mapping[str, str], found: Gathered) -> None:
    """Add what one row asks.

    Raises:
        BadRowError: it is of no layout, or something in it is missing.
    """
    asked = read_row(row, columns)
    for text in (*(message["content"] for message in asked.messages), *(text for text, _ in asked.answers)):
        check_text(text)
    prompt = Prompt.create(asked.messages, IMPORTED, "train")
    ids = found.add(prompt, asked.answers)
    if asked.ranked and len(set(ids)) == 2:
        found.judgements.append(Judgement.create(prompt.id, (ids[0], ids[1]), IMPORTED, "choice", 1.0))


def read_row(row: Any, columns: Mapping[str, str]) -> Asked:
    """What a row asks, in the layout that its columns, or the user's names for them, show.

    Raises:
        BadRowError: as in `add_row`.
    """
    named = _renamed(checked(row), columns)
    pair = next((pair for pair in PAIRS if all(key in named for key in pair)), None)
    if "completion" in columns or "answers" in columns:
        pair = None
    if pair:
        return _two(named, pair)
    key = next((key for key in LISTS if isinstance(named.get(key), list) or _is_list(named.get(key))), None)
    if key and "completion" not in columns:
        return Asked(read_prompt(named), _listed(named, key))
    key = next((key for key in SINGLE if key in named), None)
    if key:
        return Asked(read_prompt(named), [(read_answer(named[key], key)[1], _model(named, "model", "policy"))])
    seen = ", ".join(sorted(map(str, named))[:6])
    raise BadRowError(f"no answers: neither first and second, nor a list of answers, nor a completion (it has {seen})")


def checked(row: Any) -> dict[str, Any]:
    """A row as a dictionary.

    Raises:
        BadRowError: it is damaged or something else.
    """
    if isinstance(row, rows.Unreadable):
        raise BadRowError(row.reason)
    if not isinstance(row, dict):
        raise BadRowError("not an object with columns")
    if None in row:
        raise BadRowError("more cells than the header names")
    return row


def read_prompt(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt's messages, the user's last.

    Raises:
        BadRowError: there is none, or it ends with another's turn.
    """
    key = next((key for key in PROMPTS if row.get(key) is not None), None)
    if key is None:
        raise BadRowError(f"none of the columns {', '.join(PROMPTS)}")
    messages = read_messages(row[key], key)
    given = row.get("input")
    if key == "instruction" and isinstance(given, str) and given.strip():
        messages = ({"role": "user", "content": f"{messages[0]['content']}\n\n{given}"},)
    if messages[-1]["role"] != "user":
        raise BadRowError(f"{key} does not end with the user's turn")
    if isinstance(row.get("system"), str) and row["system"].strip() and messages[0]["role"] != "system":
        messages = ({"role": "system", "content": row["system"]}, *messages)
    return messages


def read_answer(value: Any, name: str) -> tuple[tuple[Message, ...], str]:
    """The turns before an answer, and its text, which may be empty.

    Raises:
        BadRowError: it is neither text nor messages that end with the assistant's.
    """
    if isinstance(value, str):
        return (), value
    if isinstance(value, dict) and "role" not in value and "from" not in value:
        value = next((value[key] for key in _TEXTS if isinstance(value.get(key), str)), None)
        return read_answer(value, name)
    if not isinstance(value, list | dict) or not value:
        raise BadRowError(f"{name} is missing" if value is None else f"{name} is neither text nor messages")
    turns = value if isinstance(value, list) else [value]
    last = turns[-1]
    role, text = (last.get("role", last.get("from")), last.get("content", last.get("value"))) if last else ("", None)
    if role not in ("assistant", "gpt") or not isinstance(text, str):
        raise BadRowError(f"{name} does not end with the assistant's turn")
    return (read_messages(turns[:-1], name) if turns[:-1] else ()), text


def _two(row: dict[str, Any], pair: tuple[str, str]) -> Asked:
    (before, first), (other, second) = (read_answer(row[key], key) for key in pair)
    if before != other:
        raise BadRowError(f"{pair[0]} and {pair[1]} answer different prompts")
    prompt = before or read_prompt(row)
    if prompt[-1]["role"] != "user":
        raise BadRowError(f"what {pair[0]} answers does not end with the user's turn")
    models = [_model(row, f"{key}_model", f"model_{key.rpartition('_')[2]}", "model") for key in pair]
    return Asked(prompt, [(first, models[0]), (second, models[1])], ranked=pair == ("chosen", "rejected"))


def _listed(row: dict[str, Any], key: str) -> list[tuple[str, str]]:
    value = row[key]
    answers = value if isinstance(value, list) else _parsed(value, key)
    models = row.get("models")
    if isinstance(models, list) and len(models) != len(answers):
        raise BadRowError(f"{len(models)} models for {len(answers)} answers")
    found = []
    for number, answer in enumerate(answers, 1):
        _, text = read_answer(answer, f"answer {number}")
        model = answer.get("model", answer.get("policy")) if isinstance(answer, dict) else None
        listed = models[number - 1] if isinstance(models, list) else None
        found.append((text, str(model or listed or _model(row, "model"))))
    if not found:
        raise BadRowError(f"{key} is empty")
    return found


def _is_list(value: Any) -> bool:
    """A list in a cell of CSV."""
    return isinstance(value, str) and value.lstrip().startswith("[")


def _parsed(value: str, key: str) -> list[Any]:
    try:
        found = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{key} begins like a list but is no JSON ({error})") from error
    return found if isinstance(found, list) else [found]


def _model(row: Mapping[str, Any], *keys: str) -> str:
    return next((row[key] for key in keys if isinstance(row.get(key), str) and row[key].strip()), IMPORTED)


def _renamed(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """The row with the user's columns under our names."""
    if missing := [name for name in columns.values() if name not in row]:
        raise BadRowError(f"no column {missing[0]!r}")
    taken = set(columns.values())
    rest = {key: value for key, value in row.items() if key not in taken}
    return rest | {ours: row[theirs] for ours, theirs in columns.items()}


def _has_labels(path: Path) -> bool:
    """Does the first row that can be read hold what people said?"""
    first = next((row for _, row in numbered_rows(path) if isinstance(row, dict)), {})
    return {"rater", "choice", "first", "second"} <= first.keys() or {"response1", "annotator1"} <= first.keys()


def _add_people(path: Path, found: Gathered) -> None:
    labels = read_people(path)
    found.prompts |= {prompt.id: prompt for prompt in labels.prompts}
    found.completions |= {completion.id: completion for completion in labels.completions}
    found.labels += labels.judgements
    found.bad += [BadRow(path.name, row.line, row.reason) for row in labels.bad]

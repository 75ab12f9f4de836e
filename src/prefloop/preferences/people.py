"""Labels that people gave to pairs of answers, every bad row named by line and reason.

| layout | recognised by | labels |
|---|---|---|
| PandaLM | ``response1`` and ``response2`` with ``annotator1``, ``annotator2``, … | 1 or 2 = that response, 0 = tie |
| one label a row | ``prompt``, ``first``, ``second``, ``rater`` and ``choice`` | ``first``, ``second`` or ``tie`` |

PandaLM's prompt is its instruction and, after an empty line, its input; the models are read from ``cmp_key``. An empty
answer that people judged stays in: they saw it. In CSV the first line names the columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.preferences.importers import IMPORTED
from prefloop.preferences.rows import BadRow, BadRowError, read_messages, read_rows
from prefloop.records import Completion, Judgement, Message, Prompt, content_id
from prefloop.store.rows import read_csv

PEOPLE = "people/"
"""What the judge of a person's judgement begins with; the rater's name follows."""
TASK = "people"
WORDS = {"first": 1.0, "second": 0.0, "tie": 0.5}
PANDALM = {"1": 1.0, "2": 0.0, "0": 0.5}


@dataclass(frozen=True)
class HumanLabels:
    """What a file gave as records, and what it could not give."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    judgements: tuple[Judgement, ...]
    """Kind ``choice``, judge ``people/<rater>``; value 1 the first answer, 0 the second, ½ a tie."""
    bad: tuple[BadRow, ...]


@dataclass(frozen=True)
class _Pair:
    """What one row asks and shows, and its labels by rater."""

    messages: tuple[Message, ...]
    texts: tuple[str, str]
    policies: tuple[str, str]
    labels: tuple[tuple[str, Any], ...]
    values: dict[str, float]
    """What labels there are."""
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Found:
    """Records so far, by id."""

    prompts: dict[str, Prompt] = field(default_factory=dict)
    completions: dict[str, Completion] = field(default_factory=dict)
    judgements: dict[str, Judgement] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    """Distinct answers to each prompt."""


def read_people(path: Path) -> HumanLabels:
    """Read a ``.csv``, ``.jsonl``, ``.json`` or ``.parquet`` file of labels.

    A label that its rater gave to the same pair before is left out and counted with the bad rows.

    Raises:
        DataError: the file is missing, of another type, or has no usable label; the first reasons are named.
    """
    found = _Found()
    for line, row in _rows(path):
        try:
            _add(found, line, _read(row))
        except BadRowError as error:
            found.bad.append(BadRow(line, str(error)))
        except UnicodeEncodeError as error:
            found.bad.append(BadRow(line, f"text that is no Unicode ({error.reason})"))
    if not found.judgements:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in found.bad[:3]) or "it is empty"
        raise DataError(f"{path} holds no usable label: {reasons}")
    return HumanLabels(
        prompts=tuple(found.prompts.values()),
        completions=tuple(found.completions.values()),
        judgements=tuple(found.judgements.values()),
        bad=tuple(found.bad),
    )


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.suffix != ".csv":
        yield from read_rows(path)
        return
    yield from read_csv(path)


def _read(row: Any) -> _Pair:
    if not isinstance(row, dict):
        raise BadRowError("not a JSON object")
    if None in row:
        raise BadRowError("more cells than the header names")
    if "response1" in row and "response2" in row:
        return _read_pandalm(row)
    missing = [key for key in ("prompt", "first", "second", "rater", "choice") if row.get(key) is None]
    if missing:
        raise BadRowError(f"{', '.join(missing)} missing")
    rater = row["rater"]
    if isinstance(rater, bool) or not isinstance(rater, str | int) or not str(rater).strip():
        raise BadRowError("rater is no name")
    texts = _text(row, "first"), _text(row, "second")
    labels = ((str(rater).strip(), row["choice"]),)
    messages = read_messages(row["prompt"], "prompt")
    if messages[-1]["role"] != "user":
        raise BadRowError("prompt does not end with the user's turn")
    return _Pair(messages, texts, (IMPORTED, IMPORTED), labels, WORDS)


def _read_pandalm(row: dict[str, Any]) -> _Pair:
    asked = [_text(row, "instruction"), _text(row, "input") if row.get("input") is not None else ""]
    messages = read_messages("\n\n".join(part for part in asked if part.strip()), "instruction")
    models = str(row.get("cmp_key", "")).split("_")
    policies = (models[0], models[1]) if len(models) == 2 else (IMPORTED, IMPORTED)
    raters = sorted(key for key in row if key.startswith("annotator"))
    if not raters:
        raise BadRowError("no annotator's label")
    topic = row.get("motivation_app")
    meta = {"category": topic} if isinstance(topic, str) and topic else {}
    texts = _text(row, "response1"), _text(row, "response2")
    return _Pair(messages, texts, policies, tuple((rater, row[rater]) for rater in raters), PANDALM, meta)


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise BadRowError(f"{key} is not text but {type(value).__name__} ({str(value)[:40]})")
    return value


def _add(found: _Found, line: int, pair: _Pair) -> None:
    """Records of a row; nothing of it stays where it has no usable label."""
    prompt = Prompt.create(pair.messages, TASK, "test", pair.meta)
    ids = [
        content_id("completion", prompt.id, policy, text)
        for text, policy in zip(pair.texts, pair.policies, strict=True)
    ]
    if ids[0] == ids[1]:
        raise BadRowError("both answers are the same")
    judged = [judgement for label in pair.labels if (judgement := _judged(found, line, prompt.id, ids, label, pair))]
    if not judged:
        return
    found.prompts.setdefault(prompt.id, prompt)
    for identity, text, policy in zip(ids, pair.texts, pair.policies, strict=True):
        if identity not in found.completions:
            index = found.answers[prompt.id] = found.answers.get(prompt.id, -1) + 1
            answer = Completion(identity, prompt.id, index, 0, text, (), (), "stop", policy, {}, 0)
            found.completions[identity] = answer
    found.judgements |= {judgement.id: judgement for judgement in judged}


def _judged(
    found: _Found, line: int, prompt_id: str, ids: list[str], label: tuple[str, Any], pair: _Pair
) -> Judgement | None:
    """One rater's judgement, or None where the label is bad, which is noted."""
    rater, choice = label
    name = "" if isinstance(choice, bool) or not isinstance(choice, str | int) else str(choice).strip().lower()
    if name not in pair.values:
        allowed = ", ".join(pair.values)
        found.bad.append(BadRow(line, f"{rater}: '{str(choice)[:40]}' is not one of {allowed}"))
        return None
    judgement = Judgement.create(
        prompt_id, (ids[0], ids[1]), PEOPLE + rater, "choice", pair.values[name], raw={"choice": name}
    )
    if (first := found.lines.setdefault(judgement.id, line)) != line:
        same = found.judgements[judgement.id].value == judgement.value
        verb = "repeats" if same else "contradicts"
        found.bad.append(BadRow(line, f"{rater}: {verb} the label of line {first}"))
        return None
    return judgement

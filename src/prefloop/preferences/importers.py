"""Other people's preference files: TRL, UltraFeedback, Argilla and ShareGPT, every bad row named by line and reason.

| layout | recognised by | read as |
|---|---|---|
| TRL | ``chosen`` and ``rejected`` (strings or messages; the prompt apart or inside both) | one pair |
| UltraFeedback | ``instruction`` and ``completions`` with ratings | a ranking, best and worst as the pair |
| Argilla | ``prompt`` or ``instruction`` with ``responses``/``generations`` and ``ratings`` | the same |
| ShareGPT | ``conversations`` with ``chosen`` and ``rejected``, turns ``from``/``value`` (LLaMA-Factory) | one pair |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.records import Completion, Message, Preference, Prompt, content_id

IMPORTED = "imported"
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    line: int
    reason: str


@dataclass(frozen=True)
class Imported:
    """What a file gave: records that training can use, and what it could not give."""

    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    preferences: tuple[Preference, ...]
    bad: tuple[BadRow, ...]


def import_preferences(path: Path, task: str = IMPORTED) -> Imported:
    """Read a ``.jsonl``, ``.json`` or ``.parquet`` file.

    Raises:
        DataError: the file is missing, of another type, or has no usable row; the first reasons are named.
    """
    prompts: dict[str, Prompt] = {}
    completions: dict[str, Completion] = {}
    preferences: dict[str, Preference] = {}
    bad: list[BadRow] = []
    lines: dict[str, int] = {}
    for line, row in _rows(path):
        try:
            messages, answers = _read(row)
            prompt = Prompt.create(messages, task, "train")
            group = [_completion(prompt, index, text) for index, (text, _) in enumerate(answers)]
            preference = _preference(prompt, group, [score for _, score in answers])
            if line != (first := lines.setdefault(preference.id, line)):
                raise _BadRowError(f"says the same as line {first}")
        except _BadRowError as error:
            bad.append(BadRow(line, str(error)))
            continue
        except (AttributeError, KeyError, TypeError, UnicodeError) as error:
            bad.append(BadRow(line, f"not of any known layout ({type(error).__name__}: {error})"))
            continue
        prompts[prompt.id] = prompt
        completions |= {completion.id: completion for completion in group}
        preferences[preference.id] = preference
    if not preferences:
        reasons = "; ".join(f"line {row.line}: {row.reason}" for row in bad[:3]) or "it is empty"
        raise DataError(f"{path} holds no usable preference: {reasons}")
    return Imported(tuple(prompts.values()), tuple(completions.values()), tuple(preferences.values()), tuple(bad))


class _BadRowError(ValueError):
    """Why a row cannot be read."""


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a .jsonl, .json or .parquet file")
    if path.suffix == ".parquet":
        try:
            yield from enumerate(pq.read_table(path).to_pylist(), 1)
        except pa.ArrowException as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    elif path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        yield from enumerate(content if isinstance(content, list) else [content], 1)
    elif path.suffix == ".jsonl":
        yield from _json_lines(path)
    else:
        raise DataError(f"{path}: unknown file type '{path.suffix}'; give .jsonl, .json or .parquet")


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:  # UnicodeDecodeError is one too
                    yield number, None


def _read(row: Any) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """Prompt messages, and answers with scores."""
    if not isinstance(row, dict):
        raise _BadRowError("not a JSON object")
    if "chosen" in row and "rejected" in row:
        return _read_pair(row)
    for key in ("completions", "responses", "generations"):
        if isinstance(row.get(key), Sequence) and not isinstance(row[key], str):
            prompt = row.get("instruction", row.get("prompt", row.get("input")))
            return _messages(prompt, "prompt"), _rated(row, row[key])
    raise _BadRowError("neither chosen/rejected nor a list of rated completions")


def _read_pair(row: dict[str, Any]) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    sides = {key: _messages(row[key], key, role="assistant") for key in ("chosen", "rejected")}
    for key, messages in sides.items():
        if messages[-1]["role"] != "assistant":
            raise _BadRowError(f"{key} does not end with the assistant's turn")
    asked = row.get("prompt", row.get("conversations"))
    if asked is not None:
        prompt = _whole_prompt(row, _messages(asked, "prompt"), sides)
    else:
        prompt = sides["chosen"][:-1]
        if prompt != sides["rejected"][:-1]:
            raise _BadRowError("chosen and rejected answer different prompts")
    if not prompt:
        raise _BadRowError("prompt is missing")
    texts = [sides[key][-1]["content"] for key in ("chosen", "rejected")]
    chosen, rejected = (
        _number(row.get(f"score_{key}"), default) for key, default in (("chosen", 1.0), ("rejected", 0.0))
    )
    if chosen is not None and rejected is not None and chosen <= rejected:
        raise _BadRowError("tie: chosen does not score above rejected")
    return prompt, [(texts[0], chosen or 0.0), (texts[1], rejected or 0.0)]


def _whole_prompt(
    row: dict[str, Any], prompt: tuple[Message, ...], sides: dict[str, tuple[Message, ...]]
) -> tuple[Message, ...]:
    """The prompt with its system message; where both sides hold the whole conversation, all turns but the last."""
    if row.get("system"):
        prompt = ({"role": "system", "content": str(row["system"])}, *prompt)
    before = {messages[:-1] for messages in map(_frozen, sides.values())}
    if before == {()}:
        return prompt
    if len(before) > 1:
        raise _BadRowError("chosen and rejected answer different prompts")
    said = next(iter(before))
    if not set(_frozen(prompt)) <= set(said):
        raise _BadRowError("the prompt is not the beginning of chosen and rejected")
    return sides["chosen"][:-1]


def _frozen(messages: tuple[Message, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _messages(value: Any, name: str, role: str = "user") -> tuple[Message, ...]:
    if value is None or value in ("", []):
        raise _BadRowError(f"{name} is missing")
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    turns = value if isinstance(value, list) else [value]
    messages = [_turn(turn) for turn in turns]
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise _BadRowError(f"{name} is neither text nor a list of messages")
        if not message["content"].strip():
            raise _BadRowError(f"{name} is empty")
    return tuple({"role": str(m["role"]), "content": m["content"]} for m in messages)


def _turn(turn: Any) -> Any:
    """A ShareGPT turn as a message; anything else unchanged."""
    if isinstance(turn, dict) and "from" in turn and "value" in turn:
        return {"role": SHAREGPT_ROLES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
    return turn


def _rated(row: dict[str, Any], answers: Sequence[Any]) -> list[tuple[str, float]]:
    ratings = row.get("ratings", row.get("rating"))
    found = []
    for position, answer in enumerate(answers):
        text = answer.get("response", answer.get("text")) if isinstance(answer, dict) else answer
        if not isinstance(text, str) or not text.strip():
            raise _BadRowError(f"completion {position + 1} is empty")
        rating = ratings[position] if isinstance(ratings, list) and position < len(ratings) else None
        score = _aspects(answer) if isinstance(answer, dict) and rating is None else _number(rating, None)
        if score is not None:
            found.append((text, score))
    if len(found) < 2:
        raise _BadRowError("fewer than two rated completions")
    return found


def _aspects(answer: dict[str, Any]) -> float | None:
    """Mean of UltraFeedback's four ratings: they are strings, "N/A" occurs, and overall_score once was wrong."""
    annotations = answer.get("annotations") or {}
    ratings = [_number((annotations.get(aspect) or {}).get("Rating"), None) for aspect in ASPECTS]
    known = [rating for rating in ratings if rating is not None]
    return sum(known) / len(known) if known else _number(answer.get("overall_score", answer.get("rating")), None)


def _number(value: Any, default: float | None) -> float | None:
    """A finite number, or the default where the value is none; "N/A" occurs."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return default
    if not math.isfinite(number):
        raise _BadRowError(f"a score of {value}")
    return number


def _completion(prompt: Prompt, index: int, text: str) -> Completion:
    identity = content_id("completion", prompt.id, IMPORTED, text)
    return Completion(identity, prompt.id, index, 0, text, (), (), "stop", IMPORTED, {}, 0)


def _preference(prompt: Prompt, group: list[Completion], scores: list[float]) -> Preference:
    ranked = sorted(zip(group, scores, strict=True), key=lambda pair: -pair[1])
    (best, high), (worst, low) = ranked[0], ranked[-1]
    if best.text == worst.text:
        raise _BadRowError("chosen and rejected are the same")
    if high <= low:
        raise _BadRowError("tie: chosen does not score above rejected")
    return Preference.pair(prompt.id, best.id, worst.id, high, low, IMPORTED)

"""Other people's preference files: TRL, UltraFeedback, Argilla and ShareGPT, every bad row named by line and reason.

| layout | recognised by | read as |
|---|---|---|
| TRL | ``chosen`` and ``rejected`` (strings or messages; the prompt apart or inside both) | one pair |
| UltraFeedback | ``instruction`` and ``completions`` with ratings | a ranking, best and worst as the pair |
| Argilla | ``prompt`` or ``instruction`` with ``responses``/``generations`` and ``ratings`` | the same |
| ShareGPT | ``conversations`` with ``chosen`` and ``rejected``, turns ``from``/``value`` (LLaMA-Factory) | one pair |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.preferences.rows import BadRow, BadRowError, read_messages, read_rows
from prefloop.records import Completion, Message, Preference, Prompt, content_id

IMPORTED = "imported"
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


@dataclass(frozen=True)
class Imported:
    """A row as records."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    """All rated answers; the preference names the best and the worst."""
    preference: Preference


def imported(path: Path, task: str = IMPORTED) -> Iterator[Imported | BadRow]:
    """The rows of a ``.jsonl``, ``.json`` or ``.parquet`` file, one at a time, and what is wrong with those of no use.

    Raises:
        DataError: the file is missing, damaged as a whole, or of another type.
    """
    lines: dict[int, int] = {}  # by hash: the ids themselves take twice the memory
    for line, row in read_rows(path):
        try:
            found = _records(row, task)
            if line != (first := lines.setdefault(hash(found.preference.id), line)):
                raise BadRowError(f"says the same as line {first}")
        except BadRowError as error:
            yield BadRow(line, str(error))
        except (AttributeError, KeyError, TypeError, UnicodeError) as error:
            yield BadRow(line, f"not of any known layout ({type(error).__name__}: {error})")
        else:
            yield found


def _records(row: Any, task: str) -> Imported:
    messages, answers = _read(row)
    prompt = Prompt.create(messages, task, "train")
    group = [_completion(prompt, index, text) for index, (text, _) in enumerate(answers)]
    return Imported(prompt, tuple(group), _preference(prompt, group, [score for _, score in answers]))


def _read(row: Any) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    """Prompt messages, and answers with scores."""
    if not isinstance(row, dict):
        raise BadRowError("not a JSON object")
    if "chosen" in row and "rejected" in row:
        return _read_pair(row)
    for key in ("completions", "responses", "generations"):
        if isinstance(row.get(key), Sequence) and not isinstance(row[key], str):
            prompt = row.get("instruction", row.get("prompt", row.get("input")))
            return read_messages(prompt, "prompt"), _rated(row, row[key])
    raise BadRowError("neither chosen/rejected nor a list of rated completions")


def _read_pair(row: dict[str, Any]) -> tuple[tuple[Message, ...], list[tuple[str, float]]]:
    sides = {key: read_messages(row[key], key, role="assistant") for key in ("chosen", "rejected")}
    for key, messages in sides.items():
        if messages[-1]["role"] != "assistant":
            raise BadRowError(f"{key} does not end with the assistant's turn")
    asked = row.get("prompt", row.get("conversations"))
    if asked is not None:
        prompt = _whole_prompt(row, read_messages(asked, "prompt"), sides)
    else:
        prompt = sides["chosen"][:-1]
        if prompt != sides["rejected"][:-1]:
            raise BadRowError("chosen and rejected answer different prompts")
    if not prompt:
        raise BadRowError("prompt is missing")
    texts = [sides[key][-1]["content"] for key in ("chosen", "rejected")]
    chosen, rejected = (
        _number(row.get(f"score_{key}"), default) for key, default in (("chosen", 1.0), ("rejected", 0.0))
    )
    if chosen is not None and rejected is not None and chosen <= rejected:
        raise BadRowError("tie: chosen does not score above rejected")
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
        raise BadRowError("chosen and rejected answer different prompts")
    said = next(iter(before))
    if not set(_frozen(prompt)) <= set(said):
        raise BadRowError("the prompt is not the beginning of chosen and rejected")
    return sides["chosen"][:-1]


def _frozen(messages: tuple[Message, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _rated(row: dict[str, Any], answers: Sequence[Any]) -> list[tuple[str, float]]:
    ratings = row.get("ratings", row.get("rating"))
    found = []
    for position, answer in enumerate(answers):
        text = answer.get("response", answer.get("text")) if isinstance(answer, dict) else answer
        if not isinstance(text, str) or not text.strip():
            raise BadRowError(f"completion {position + 1} is empty")
        rating = ratings[position] if isinstance(ratings, list) and position < len(ratings) else None
        score = _aspects(answer) if isinstance(answer, dict) and rating is None else _number(rating, None)
        if score is not None:
            found.append((text, score))
    if len(found) < 2:
        raise BadRowError("fewer than two rated completions")
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
        raise BadRowError(f"a score of {value}")
    return number


def _completion(prompt: Prompt, index: int, text: str) -> Completion:
    identity = content_id("completion", prompt.id, IMPORTED, text)
    return Completion(identity, prompt.id, index, 0, text, (), (), "stop", IMPORTED, {}, 0)


def _preference(prompt: Prompt, group: list[Completion], scores: list[float]) -> Preference:
    ranked = sorted(zip(group, scores, strict=True), key=lambda pair: -pair[1])
    (best, high), (worst, low) = ranked[0], ranked[-1]
    if best.text == worst.text:
        raise BadRowError("chosen and rejected are the same")
    if high <= low:
        raise BadRowError("tie: chosen does not score above rejected")
    return Preference.pair(prompt.id, best.id, worst.id, high, low, IMPORTED)

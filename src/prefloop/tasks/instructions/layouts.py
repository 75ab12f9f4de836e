"""What a row asks, in the layouts that people exchange.

| layout | recognised by | asked | reference |
|---|---|---|---|
| LIMA | ``conversations``: texts in turn, the user's first | a user's turn | the answer after it |
| conversation | ``messages`` or ``conversations``: role/content, or ShareGPT's from/value | the same | the same |
| MT-bench | ``turns``: the user's texts alone | the first | first of ``reference`` |
| self-instruct | ``instruction`` and ``instances`` | instruction and first input | first output |
| Alpaca, UltraFeedback | ``instruction``, maybe ``input`` | both | ``output``, or first of ``correct_answers`` |
| prompt | ``prompt`` or ``question``: text or messages | it | ``completion``, ``response`` or ``answer`` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.records import Message
from prefloop.store.rows import BadRowError, Unreadable

Turns = Literal["first", "all"]

ROLES = {"human": "user", "gpt": "assistant"}
"""ShareGPT's names."""

ANSWERS = ("output", "completion", "response", "answer")
CATEGORIES = ("category", "motivation_app", "source")
"""Columns that name a prompt's category, the first there is."""


@dataclass(frozen=True)
class Question:
    """What a row asks, and what it says beside."""

    messages: tuple[Message, ...]
    """Maybe a system message, then user and assistant in turn; the user's is last."""
    reference: str | None = None
    source: str = ""
    category: str = ""
    note: str = ""
    """What of the row was left out, to be counted."""


def read_question(row: Any, turns: Turns = "first") -> Question:
    """What a row asks.

    Args:
        turns: of a conversation: its first user turn, or all up to the last one that is answered.

    Raises:
        BadRowError: it holds no prompt.
    """
    if isinstance(row, Unreadable):
        raise BadRowError(row.reason)
    if not isinstance(row, dict):
        raise BadRowError(f"{_kind(row)}, not an object with columns")
    messages, reference, note = _asked(row, turns)
    for text in (*(message["content"] for message in messages), reference or ""):
        check_text(text)
    category = next((str(row[key]) for key in CATEGORIES if isinstance(row.get(key), str) and row[key].strip()), "")
    source = row["source"] if isinstance(row.get("source"), str) else ""
    for text in (category, source):
        check_text(text)
    return Question(messages, reference, source, category, note)


def _asked(row: dict[str, Any], turns: Turns) -> tuple[tuple[Message, ...], str | None, str]:
    for key in ("conversations", "messages"):
        if isinstance(row.get(key), list) and "prompt" not in row:
            return _posed(_messages(row[key], key), turns, open_end="chosen" in row)
    if "turns" in row:
        return _user_turns(row)
    if "instruction" in row:
        return _instruction(row)
    for key in ("prompt", "question"):
        if key in row:
            return _prompt(row, key, turns)
    raise BadRowError("none of the columns prompt, instruction, messages, conversations, turns and question")


def _user_turns(row: dict[str, Any]) -> tuple[tuple[Message, ...], str | None, str]:
    """MT-bench: a later turn speaks of the answer to the one before, which the row does not hold."""
    turns = row["turns"]
    if not isinstance(turns, list) or not turns:
        raise BadRowError(f"turns is {_kind(turns)}, not a list of texts")
    note = "later turns left out, nothing answers the first" if len(turns) > 1 else ""
    return (_user(_text(turns[0], "turns")),), _first_text(row.get("reference")), note


def _instruction(row: dict[str, Any]) -> tuple[tuple[Message, ...], str | None, str]:
    asked = _text(row["instruction"], "instruction")
    given, reference, note = row.get("input"), _reference(row) or _first_text(row.get("correct_answers")), ""
    instances = row.get("instances")
    if isinstance(instances, list) and instances and isinstance(instances[0], dict):
        given, reference = instances[0].get("input"), _filled(instances[0].get("output"))
        note = "further instances of an instruction left out" if len(instances) > 1 else ""
    if given is not None and not isinstance(given, str):
        raise BadRowError(f"input is {_kind(given)}, not text")
    return (_user("\n\n".join([asked, given] if given and given.strip() else [asked])),), reference, note


def _prompt(row: dict[str, Any], key: str, turns: Turns) -> tuple[tuple[Message, ...], str | None, str]:
    if isinstance(row[key], list):
        messages, reference, note = _posed(_messages(row[key], key), turns, open_end=True)
        whole = len(messages) == len(row[key])
        return messages, reference or (_reference(row) if whole else None), note
    return (_user(_text(row[key], key)),), _reference(row), ""


def _posed(messages: list[Message], turns: Turns, open_end: bool) -> tuple[tuple[Message, ...], str | None, str]:
    """The turns up to the one that is asked, the answer that follows it, and what was left out.

    Args:
        open_end: the last turn is the question; else one without an answer is asked only where it is the first.
    """
    start = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    said = messages[start:]
    expected = ["user", "assistant"] * len(said)
    if start > 1 or not said or any(m["role"] != role for m, role in zip(said, expected, strict=False)):
        found = ", ".join(message["role"] for message in messages[:6])
        raise BadRowError(f"roles are not user and assistant in turn ({found})")
    last = len(said) - 1 - (len(said) % 2 == 0)  # of the user's turns
    note = ""
    if last == len(said) - 1 and last > 0 and not open_end:
        last, note = last - 2, "last user turn left out, nothing answers it"
    if turns == "first":
        last, note = 0, ("later turns left out" if len(said) > 2 else "")
    reference = said[last + 1]["content"] if last + 1 < len(said) else None
    return tuple(messages[: start + last + 1]), reference, note


def _messages(turns: Sequence[Any], name: str) -> list[Message]:
    if not turns:
        raise BadRowError(f"{name} is empty")
    if all(isinstance(turn, str) for turn in turns):
        return [
            {"role": ("user", "assistant")[i % 2], "content": _text(text, f"turn {i + 1} of {name}")}
            for i, text in enumerate(turns)
        ]
    found = []
    for i, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise BadRowError(f"turn {i + 1} of {name} is {_kind(turn)}, not a message")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not (role == "system" and content in (None, "")):
            named = ROLES.get(str(role), str(role))
            found.append({"role": named, "content": _text(content, f"turn {i + 1} of {name}")})
    return found


def _reference(row: dict[str, Any]) -> str | None:
    for key in ANSWERS:
        value = row.get(key)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1].get("content")
        if _filled(value):
            return _filled(value)
    return None


def _first_text(value: Any) -> str | None:
    """The first text of a list; UltraFeedback writes "None" for none."""
    return _filled(value[0]) if isinstance(value, list) and value and value[0] != "None" else None


def _filled(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _text(value: Any, name: str) -> str:
    if value is None:
        raise BadRowError(f"{name} is missing")
    if not isinstance(value, str):
        raise BadRowError(f"{name} is {_kind(value)}, not text")
    if not value.strip():
        raise BadRowError(f"{name} is empty")
    return value


def check_text(text: str) -> None:
    """Refuse what JSON can write and nothing takes: half of a surrogate pair.

    Raises:
        BadRowError: the text holds one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRowError("half a surrogate pair in the text, which is no Unicode") from error


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")

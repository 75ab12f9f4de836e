"""Instruction data for supervised fine-tuning, every bad row named by line and reason.

| layout | recognised by |
|---|---|
| conversation | ``messages`` or ``conversations`` (role/content, or from/value); every assistant turn is an example |
| prompt and completion (TRL) | ``prompt`` and ``completion``, text or messages |
| Alpaca | ``instruction``, maybe ``input``, and ``output`` |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import DataError
from prefloop.preferences.rows import BadRow, BadRowError, read_messages, read_rows
from prefloop.records import Message

Example = tuple[tuple[Message, ...], str]
"""Messages, and the assistant's answer to them."""


@dataclass(frozen=True)
class Instructions:
    """What a file gave, and what it could not give."""

    examples: tuple[Example, ...]
    bad: tuple[BadRow, ...]


def read_instructions(path: Path) -> Instructions:
    """Read a ``.jsonl``, ``.json`` or ``.parquet`` file.

    Raises:
        DataError: the file is missing, of another type, or has no usable row; the first reasons are named.
    """
    examples: list[Example] = []
    bad: list[BadRow] = []
    for line, row in read_rows(path):
        try:
            examples += _examples(row)
        except BadRowError as error:
            bad.append(BadRow(line, str(error)))
    if not examples:
        reasons = "; ".join(f"row {row.line}: {row.reason}" for row in bad[:3]) or "it is empty"
        raise DataError(f"{path} has no usable example ({reasons})")
    return Instructions(tuple(examples), tuple(bad))


def _examples(row: Any) -> list[Example]:
    if not isinstance(row, dict):
        raise BadRowError("not a JSON object")
    if "output" in row:
        asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        return _turns((*_system(row), *read_messages(asked, "instruction"), *_answer(row["output"], "output")))
    if "completion" in row:
        return _turns(
            (*_system(row), *read_messages(row.get("prompt"), "prompt"), *_answer(row["completion"], "completion"))
        )
    for key in ("messages", "conversations"):
        if key in row:
            return _turns((*_system(row), *read_messages(row[key], key)))
    raise BadRowError("neither messages, nor prompt and completion, nor instruction and output")


def _system(row: dict[str, Any]) -> tuple[Message, ...]:
    return read_messages(row["system"], "system", role="system") if row.get("system") else ()


def _answer(value: Any, name: str) -> tuple[Message, ...]:
    return read_messages(value, name, role="assistant")


def _turns(messages: tuple[Message, ...]) -> list[Example]:
    """Every assistant turn with what was said before it."""
    found = [(messages[:i], turn["content"]) for i, turn in enumerate(messages) if i and turn["role"] == "assistant"]
    if not found:
        raise BadRowError("no assistant turn that answers something")
    return found

"""Rows of data files, and the conversations in them, in the layouts that people exchange."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.records import Message
from prefloop.store import rows

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    line: int
    reason: str


class BadRowError(ValueError):
    """Why a row cannot be read."""


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows as `prefloop.store.rows.read_rows` gives them, without empty lines; None for one that cannot be read.

    Raises:
        DataError: the file is missing, damaged as a whole, or of another type.
    """
    for number, row in rows.read_rows(path):
        if not isinstance(row, rows.Unreadable):
            yield number, row
        elif row.reason != rows.EMPTY:
            yield number, None


def read_messages(value: Any, name: str, role: str = "user") -> tuple[Message, ...]:
    """A text, a message or a list of messages (also ShareGPT turns) as messages.

    Args:
        name: of the value, for errors.
        role: of a plain text.

    Raises:
        BadRowError: it is missing, empty or something else.
    """
    if value is None or value in ("", []):
        raise BadRowError(f"{name} is missing")
    if isinstance(value, str):
        value = [{"role": role, "content": value}]
    turns = value if isinstance(value, list) else [value]
    messages = [_turn(turn) for turn in turns]
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise BadRowError(f"{name} is neither text nor a list of messages")
        if not message["content"].strip():
            raise BadRowError(f"{name} is empty")
    return tuple({"role": str(m["role"]), "content": m["content"]} for m in messages)


def _turn(turn: Any) -> Any:
    """A ShareGPT turn as a message; anything else unchanged."""
    if isinstance(turn, dict) and "from" in turn and "value" in turn:
        return {"role": SHAREGPT_ROLES.get(str(turn["from"]), turn["from"]), "content": turn["value"]}
    return turn

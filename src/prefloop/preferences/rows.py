"""Rows of data files, and the conversations in them, in the layouts that people exchange."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.records import Message

SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read."""

    line: int
    reason: str


class BadRowError(ValueError):
    """Why a row cannot be read."""


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` file with their numbers from 1; None for a line that is no JSON.

    Raises:
        DataError: the file is missing, damaged as a whole, or of another type.
    """
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

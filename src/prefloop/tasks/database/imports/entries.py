"""The entries of a file of questions: a JSON list, JSON lines, or CSV, each with its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefloop.errors import DataError


def read_entries(path: Path) -> list[tuple[str, dict[str, Any] | str]]:
    """Entries with their places; a text in place of one says what is wrong with it.

    Raises:
        DataError: the file is missing, empty, not UTF-8, or no JSON or CSV.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a .json, .jsonl or .csv file of questions")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start:,}): convert it first") from error
    if path.suffix.lower() == ".csv":
        found = list(_csv_entries(path, text))
    elif path.suffix.lower() == ".json":
        found = list(_json_entries(path, text))
    else:
        found = list(_line_entries(path, text))
    if not found:
        raise DataError(f"{path} is empty: it holds no question")
    return found


def _csv_entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            place = f"{path.name}, line {reader.line_num}"
            yield place, ("more cells than columns" if None in row else {k: v or "" for k, v in row.items()})
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no valid CSV ({error})") from error


def _json_entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path} is no valid JSON ({error}): JSON lines are named .jsonl") from error
    if not isinstance(content, list):
        raise DataError(f"{path} holds no list of questions")
    for number, entry in enumerate(content, 1):
        yield f"{path.name}, entry {number}", entry if isinstance(entry, dict) else "not an object"


def _line_entries(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except ValueError as error:
                yield f"{path.name}, line {number}", f"not valid JSON ({error})"
                continue
            yield f"{path.name}, line {number}", entry if isinstance(entry, dict) else "not an object"

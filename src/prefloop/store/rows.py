"""Rows of data files that others wrote; what cannot be read keeps its place and says why."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError

READABLE = (".jsonl", ".json", ".parquet")
_BATCH = 1024
EMPTY = "the line is empty"


@dataclass(frozen=True)
class BadRow:
    """A row that could not be read, or that holds no prompt."""

    file: str
    line: int
    """Line of a ``.jsonl`` file, row of others, from 1."""
    reason: str

    @property
    def reason_kind(self) -> str:
        """The reason without what differs from row to row, to be counted."""
        return self.reason.partition(" (")[0]


@dataclass(frozen=True)
class Unreadable:
    """In the place of a row that is damaged."""

    reason: str


class BadRowError(ValueError):
    """Why a row holds no prompt."""


def read_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` file with their numbers from 1.

    A row is what the file holds, an `Unreadable` where that is damaged. A byte order mark and CRLF are understood.

    Raises:
        DataError: the file is missing, damaged as a whole, or of another type.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a {', '.join(READABLE)} file")
    kind = path.suffix.lower()
    if kind not in READABLE:
        raise DataError(f"{path}: unknown file type '{path.suffix}'; give {', '.join(READABLE)}")
    return {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet}[kind](path)


def read_csv(path: Path) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Rows of a ``.csv`` file whose first line names the columns, with the line each ends on.

    Raises:
        DataError: the file is missing, not UTF-8, or no CSV.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path} is not readable CSV ({error}): give the rows as JSON lines (.jsonl)") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if number == 1:
                _refuse_utf16(path, line)
                line = line.removeprefix(codecs.BOM_UTF8)
            yield number, _parsed(line.rstrip(b"\r\n"))


def _parsed(line: bytes) -> Any:
    if not line.strip():
        return Unreadable(EMPTY)
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Unreadable(f"not UTF-8 (byte {error.start + 1} of the line)")
    except RecursionError:
        return Unreadable("nested too deeply")
    except json.JSONDecodeError as error:
        return Unreadable(f"not JSON ({error.msg}, column {error.colno})")
    except ValueError as error:  # a number of more digits than Python reads
        return Unreadable(f"not JSON ({error})")


def _json_list(path: Path) -> Iterator[tuple[int, Any]]:
    content = path.read_bytes()
    _refuse_utf16(path, content)
    try:
        rows = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start + 1}): save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON ({error}): one object per line belongs in a .jsonl file") from error
    yield from enumerate(rows if isinstance(rows, list) else [rows], 1)


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is UTF-16: save it as UTF-8")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(_BATCH):
            for row in _batch_rows(batch):
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} is not a readable Parquet file ({reason}): fetch it again") from error


def _batch_rows(batch: pa.RecordBatch) -> list[Any]:
    """Rows of a batch; one by one where some text is no UTF-8, which Parquet does not check."""
    try:
        rows: list[Any] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        return [_parquet_row(batch.slice(i, 1)) for i in range(batch.num_rows)]


def _parquet_row(row: pa.RecordBatch) -> Any:
    try:
        return row.to_pylist()[0]
    except UnicodeDecodeError:
        return Unreadable("not UTF-8")

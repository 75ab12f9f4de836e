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
from prefloop.store.objects import fetched
from prefloop.store.tables import batches_of

READABLE = (".jsonl", ".json", ".parquet")
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
    path = fetched(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist: give a {', '.join(READABLE)} file")
    kind = path.suffix.lower()
    if kind not in READABLE:
        raise DataError(f"{path}: unknown file type '{path.suffix}'; give {', '.join(READABLE)}")
    return {".jsonl": _json_lines, ".json": _json_list, ".parquet": _parquet}[kind](path)


def read_csv(
    path: Path, encoding: str | None = None, way_out: str = "save it as UTF-8"
) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Rows of a ``.csv`` file whose first line names the columns, with the line each ends on.

    Args:
        encoding: any that Python knows; default UTF-8, with a byte order mark or without.
        way_out: what to do about a file of another encoding.

    Raises:
        DataError: the file is missing, of another encoding, or no CSV.
    """
    try:
        with path.open(encoding=encoding or "utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            names = [name for name in reader.fieldnames or () if name]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path} has several columns named {', '.join(twice)}: rename or remove all but one")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeError as error:  # of a byte, or of a mark that UTF-16 begins with
        raise DataError(f"{path} is not {encoding or 'UTF-8'} ({_misfit(path, encoding, error)}): {way_out}") from error
    except csv.Error as error:
        raise DataError(f"{path} is not readable CSV ({error}): give the rows as JSON lines (.jsonl)") from error


def _misfit(path: Path, encoding: str | None, error: UnicodeError) -> str:
    """The first byte that is not of an encoding, its line, and how its place reads in Windows-1252."""
    with path.open("rb") as handle:
        start = handle.read(2)
        if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "it begins as UTF-16"
        handle.seek(0)
        for number, line in enumerate(handle, 1):
            try:
                line.decode(encoding or "utf-8")
            except UnicodeDecodeError as found:
                near = line[max(found.start - 12, 0) : found.start + 8].decode("cp1252", "replace").strip()
                at = f"line {number}, byte {found.start + 1}: 0x{line[found.start]:02x}"
                return f"{at}, in Windows-1252 (cp1252) '{near}'"
            except UnicodeError:
                break
    return str(error)


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
        for batch in batches_of(pq.ParquetFile(path)):
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

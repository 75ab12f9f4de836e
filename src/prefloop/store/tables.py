"""Records to Parquet and back, whole or some at a time, with the schema version in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefloop.errors import DataError, PrefloopError
from prefloop.records import SCHEMA_VERSION, Completion, Judgement, Preference, Prompt, canonical_json
from prefloop.store.files import computed_path, writing
from prefloop.store.objects import fetched

Record = TypeVar("Record", Prompt, Completion, Judgement, Preference)

ROWS = 4_096
"""Rows of a row group, and the most that are turned into records at once."""

_TEXT, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_TIERS = pa.list_(pa.list_(_TEXT))

_JSON_FIELDS = {"meta", "sampling", "objectives", "raw"}
"""Open dictionaries; stored as canonical JSON text, which DuckDB and pandas can both open."""

SCHEMAS: dict[type, pa.Schema] = {
    Prompt: pa.schema([("id", _TEXT), ("messages", _MESSAGES), ("task", _TEXT), ("split", _TEXT), ("meta", _TEXT)]),
    Completion: pa.schema(
        [
            ("id", _TEXT),
            ("prompt_id", _TEXT),
            ("index", _INT),
            ("round", _INT),
            ("text", _TEXT),
            ("token_ids", pa.list_(pa.int32())),
            ("logprobs", pa.list_(pa.float32())),
            ("finish_reason", _TEXT),
            ("policy", _TEXT),
            ("sampling", _TEXT),
            ("seed", _INT),
        ]
    ),
    Judgement: pa.schema(
        [
            ("id", _TEXT),
            ("prompt_id", _TEXT),
            ("completion_ids", pa.list_(_TEXT)),
            ("judge", _TEXT),
            ("kind", _TEXT),
            ("value", _FLOAT),
            ("objectives", _TEXT),
            ("ranking", _TIERS),
            ("raw", _TEXT),
        ]
    ),
    Preference: pa.schema(
        [
            ("id", _TEXT),
            ("prompt_id", _TEXT),
            ("ranking", _TIERS),
            ("scores", pa.list_(_FLOAT)),
            ("margin", _FLOAT),
            ("soft_label", _FLOAT),
            ("weight", _FLOAT),
            ("source", _TEXT),
        ]
    ),
}


def write_records(path: Path, records: Iterable[Record], kind: type[Record]) -> None:
    """Write records of one kind as Parquet, whole or not at all; same records, same bytes."""
    with records_file(path, kind) as write:
        write(records)


@contextmanager
def records_file(path: Path, kind: type[Record]) -> Iterator[Callable[[Iterable[Record]], None]]:
    """Write records as they come, some at a time; the file appears once the block ends well."""
    schema = SCHEMAS[kind].with_metadata({"prefloop": f"{kind.__name__}/{SCHEMA_VERSION}"})
    with rows_file(path, schema) as write:
        yield lambda records: write(_row(record, schema) for record in records)


@contextmanager
def rows_file(path: Path, schema: pa.Schema) -> Iterator[Callable[[Iterable[dict[str, Any]]], None]]:
    """The same for rows of any schema. A row group holds `ROWS` rows however they were handed over.

    Failures of what computes the rows, in the block or as they are handed over, stay what they are.
    """
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        with writing(path):
            writer.write_table(pa.Table.from_pylist(waiting, schema=schema))
        waiting.clear()

    def write(rows: Iterable[dict[str, Any]]) -> None:
        for row in rows:
            if len(waiting) == ROWS:
                flush()
            waiting.append(row)

    with computed_path(path) as temporary:
        with writing(path):
            writer = pq.ParquetWriter(temporary, schema, compression="zstd")
        try:
            yield write
            flush()
        except BaseException:
            with suppress(OSError):  # the file goes anyway: what failed first is what is said
                writer.close()
            raise
        with writing(path):
            writer.close()


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read records of one kind from a file, or from an address in object storage.

    Raises:
        DataError: the file is missing, is no Parquet, or holds another kind or schema version.
    """
    return list(each_record(path, kind))


def each_record(path: Path, kind: type[Record], without: Collection[str] = ()) -> Iterator[Record]:
    """The records of a file, one at a time; as `read_batches`."""
    return (record for batch in read_batches(path, kind, without) for record in batch)


def read_batches(path: Path, kind: type[Record], without: Collection[str] = ()) -> Iterator[list[Record]]:
    """The records of a file, `ROWS` or fewer at a time; raises as `read_records` does.

    Args:
        without: columns of numbers that are not read and stay empty.
    """
    names = [name for name in SCHEMAS[kind].names if name not in without]
    with _opened(path, kind) as file:
        for batch in batches_of(file, names):
            yield records_of(batch, kind)


def find_records(path: Path, kind: type[Record], column: str, values: Collection[str]) -> list[Record]:
    """The records with one of `values` in a column of text, in the order of the file; raises as `read_records` does.

    Row groups without one are not read beyond that column.
    """
    wanted, found = pa.array(sorted(values), pa.string()), list[Record]()
    with _opened(path, kind) as file:
        for number in range(file.num_row_groups):
            held = pc.is_in(file.read_row_group(number, columns=[column])[column], value_set=wanted)
            if pc.any(held).as_py():
                rows = file.read_row_group(number, columns=SCHEMAS[kind].names).filter(held)
                found += [record for batch in rows.to_batches() for record in records_of(batch, kind)]
    return found


def read_column(path: Path, kind: type[Record], column: str) -> pa.ChunkedArray:
    """One column of a file of records; raises as `read_records` does."""
    with _opened(path, kind) as file:
        return file.read(columns=[column])[column]


def count_records(path: Path, kind: type[Record]) -> int:
    """How many records a file says it holds; raises as `read_records` does."""
    with _opened(path, kind) as file:
        return int(file.metadata.num_rows)


def batches_of(file: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A Parquet file, `ROWS` or fewer at a time. Each row group is asked for alone: a reader of several keeps what it
    read of all of them."""
    for number in range(file.num_row_groups):
        yield from file.iter_batches(ROWS, row_groups=[number], columns=columns, use_threads=False)


def records_of(batch: pa.RecordBatch, kind: type[Record]) -> list[Record]:
    """A batch's rows as records; a column of numbers that it lacks is empty in them."""
    rows: list[Any] = [()] * batch.num_rows
    there = set(batch.schema.names)
    columns = [_values(name, batch.column(name)) if name in there else rows for name in SCHEMAS[kind].names]
    return [kind(*row) for row in zip(*columns, strict=True)]


@contextmanager
def _opened(path: Path, kind: type[Record]) -> Iterator[pq.ParquetFile]:
    """A file of records, known to be of that kind; what damage shows while it is read names it, too."""
    path, wanted = fetched(path), f"{kind.__name__}/{SCHEMA_VERSION}"
    try:
        with pq.ParquetFile(path) as file:
            found = (file.schema_arrow.metadata or {}).get(b"prefloop", b"nothing").decode()
            if found != wanted:
                raise DataError(f"{path} holds {found}, not {wanted}: give the file written by this version's stage")
            yield file
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: run the stage that writes it first") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PrefloopError):
            raise
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _row(record: Any, schema: pa.Schema) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in schema.names}
    return {name: canonical_json(value) if name in _JSON_FIELDS else value for name, value in row.items()}


def _values(name: str, column: pa.Array) -> list[Any]:
    """A column as the values of a record's field."""
    if pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type) and not column.values.null_count:
        numbers, ends = column.values.to_numpy(zero_copy_only=False).tolist(), column.offsets.to_pylist()
        return [tuple(numbers[start:end]) for start, end in pairwise(ends)]
    values: list[Any] = column.to_pylist()
    if name in _JSON_FIELDS:
        return [json.loads(value) for value in values]
    if name == "ranking":
        return [tuple(tuple(tier) for tier in value) for value in values]
    return [tuple(value) if isinstance(value, list) else value for value in values]

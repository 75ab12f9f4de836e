"""Records to Parquet and back, with the schema version in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from prefloop.errors import DataError
from prefloop.records import SCHEMA_VERSION, Completion, Judgement, Preference, Prompt, canonical_json
from prefloop.store.files import atomic_path

Record = TypeVar("Record", Prompt, Completion, Judgement, Preference)

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


def write_records(path: Path, records: Sequence[Record], kind: type[Record]) -> None:
    """Write records of one kind as Parquet, whole or not at all; same records, same bytes."""
    schema = SCHEMAS[kind].with_metadata({"prefloop": f"{kind.__name__}/{SCHEMA_VERSION}"})
    table = pa.Table.from_pylist([_row(record, schema) for record in records], schema=schema)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """Read records of one kind.

    Raises:
        DataError: the file is missing, is no Parquet, or holds another kind or schema version.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: run the stage that writes it first") from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    found = (table.schema.metadata or {}).get(b"prefloop", b"nothing").decode()
    wanted = f"{kind.__name__}/{SCHEMA_VERSION}"
    if found != wanted:
        raise DataError(f"{path} holds {found}, not {wanted}: give the file written by this version's stage")
    return [_record(row, kind) for row in table.to_pylist()]


def _row(record: Any, schema: pa.Schema) -> dict[str, Any]:
    row = {name: getattr(record, name) for name in schema.names}
    return {name: canonical_json(value) if name in _JSON_FIELDS else value for name, value in row.items()}


def _record(row: dict[str, Any], kind: type[Record]) -> Record:
    return kind(**{name: _value(name, value) for name, value in row.items()})


def _value(name: str, value: Any) -> Any:
    if name in _JSON_FIELDS:
        return json.loads(value)
    if name == "ranking":
        return tuple(tuple(tier) for tier in value)
    return tuple(value) if isinstance(value, list) else value

"""Prompts with all rows that name them, some prompts at a time, from files of any size and order.

A file whose rows stand in the order of the prompts is read straight through. Any other is first parted on disk into
at most `PARTS` files of neighbouring prompts, so that memory holds one slice, and of the whole only each row's place.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from prefloop.records import Completion, Prompt
from prefloop.store.files import writing
from prefloop.store.tables import ROWS, SCHEMAS, batches_of, each_record, read_column, records_file, records_of

BLOCK = 64
"""Prompts that are never parted: judges take so many at a time."""
PARTS = 128
"""Files that are open at once while an unordered file is parted."""


@dataclass(frozen=True)
class Table:
    """A file of records that name prompts."""

    path: Path
    kind: type
    without: tuple[str, ...] = ()
    """Columns of numbers that are not needed."""


@dataclass(frozen=True)
class Slice:
    """Some prompts in their order, and of each table the rows that name them, in the order of its file."""

    prompts: list[Prompt]
    rows: tuple[list[Any], ...]


def ids_of(prompts: Iterable[Prompt]) -> pa.Array:
    """Their ids, in their order."""
    return pa.array((prompt.id for prompt in prompts), pa.string())


class Grouping:
    """Which rows of which tables belong to which prompts."""

    def __init__(self, ids: pa.Array, tables: Sequence[Table], most: int | None = ROWS) -> None:
        """Look up each row's prompt.

        Args:
            ids: of the prompts, in their order; a second prompt of one id has no rows.
            most: rows of a slice (of all tables), exceeded by less than a block of prompts; None: one slice.
        """
        self._tables = tables
        self.unknown: list[list[str]] = []
        """By table: ids of prompts that rows name and that are not among `ids`, sorted, each once."""
        places = []
        for table in tables:
            named = read_column(table.path, table.kind, "prompt_id")
            found = pc.index_in(named, value_set=ids)
            lost = pc.unique(named.filter(pc.is_null(found))).to_pylist() if found.null_count else []
            self.unknown.append(sorted(lost))
            places.append(pc.fill_null(found, -1).to_numpy().astype(np.int32))
            del named, found
        pa.default_memory_pool().release_unused()  # columns of the whole file were read, and are not needed again
        blocks = -(-len(ids) // BLOCK)
        weights = sum((np.bincount(p[p >= 0] // BLOCK, minlength=blocks) for p in places), np.zeros(blocks, np.int64))
        before = np.cumsum(weights + BLOCK) - weights - BLOCK
        self._slice_of = before // (most + BLOCK) if most else np.zeros(blocks, np.int64)
        self._sizes = np.bincount(self._slice_of, minlength=1) * BLOCK
        self._where = [np.where(p >= 0, self._slice_of[p // BLOCK], -1) if blocks else p for p in places]

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._sizes)

    @property
    def rows(self) -> list[int]:
        """By table: how many rows name a prompt."""
        return [int((where >= 0).sum()) for where in self._where]

    @property
    def lost(self) -> list[int]:
        """By table: how many rows name a prompt that there is not."""
        return [int((where < 0).sum()) for where in self._where]

    def slices(self, prompts: Iterable[Prompt], work: Path) -> Iterator[Slice]:
        """Go through all prompts, which must be those of the ids.

        Args:
            work: folder for parted files, removed at the end.
        """
        asked = iter(prompts)
        try:
            shutil.rmtree(work, ignore_errors=True)
            readers = [
                _rows(table, where, len(self._sizes), work / str(number))
                for number, (table, where) in enumerate(zip(self._tables, self._where, strict=True))
            ]
            for size in self._sizes:
                rows = tuple(next(reader) for reader in readers)
                yield Slice(list(islice(asked, int(size))), rows)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def ordered(batches: Iterable[Iterable[Completion]], prompts: Iterable[Prompt]) -> list[Completion]:
    """Answers that come some prompts at a time, in the order of the prompts; those of one in the order they came."""
    found: dict[str, list[Completion]] = {}
    for batch in batches:
        for completion in batch:
            found.setdefault(completion.prompt_id, []).append(completion)
    return [completion for prompt in prompts for completion in found[prompt.id]]


def ordered_on_disk(
    batches: Iterable[Iterable[Completion]], prompts: Sequence[Prompt], work: Path
) -> Iterator[list[Completion]]:
    """The same for any number of answers: some at a time, by way of a file.

    Args:
        work: folder for that file, removed at the end.
    """
    unordered = work / "unordered.parquet"
    try:
        with records_file(unordered, Completion) as write:
            for batch in batches:
                write(batch)
        groups = Grouping(ids_of(prompts), [Table(unordered, Completion)], ROWS)
        for part in groups.slices(prompts, work / "parts"):
            place = {prompt.id: number for number, prompt in enumerate(part.prompts)}
            yield sorted(part.rows[0], key=lambda completion: place[completion.prompt_id])
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _rows(table: Table, where: np.ndarray, slices: int, work: Path) -> Iterator[list[Any]]:
    """The rows of each slice."""
    if np.all(np.diff(where) >= 0) and not np.any(where < 0):
        yield from _straight(table, np.bincount(where, minlength=slices))
    else:
        yield from _parted(table, where, slices, work)


def _straight(table: Table, counts: np.ndarray) -> Iterator[list[Any]]:
    rows = each_record(table.path, table.kind, table.without)
    for count in counts:
        yield list(islice(rows, int(count)))


def _parted(table: Table, where: np.ndarray, slices: int, work: Path) -> Iterator[list[Any]]:
    """Rows of neighbouring slices go to one file each, with their slice beside them, and are picked from there."""
    width = -(-slices // PARTS)
    with writing(work):
        work.mkdir(parents=True)
        _part(table, where // width, -(-slices // width), pa.array(where), work)
    for part in range(-(-slices // width)):
        path = work / f"{part}.arrow"
        with pa.memory_map(str(path)) as source:
            rows = pa.ipc.open_file(source).read_all()
        for number in range(part * width, min((part + 1) * width, slices)):
            mine = rows.filter(pc.equal(rows["slice"], number))
            yield [record for batch in mine.to_batches() for record in records_of(batch, table.kind)]
        del rows
        path.unlink()


def _part(table: Table, part_of: np.ndarray, parts: int, slices: pa.Array, work: Path) -> None:
    names = [name for name in SCHEMAS[table.kind].names if name not in table.without]
    schema = pa.schema([*(SCHEMAS[table.kind].field(name) for name in names), ("slice", pa.int64())])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with ExitStack() as stack:
        files = [
            stack.enter_context(pa.ipc.new_file(work / f"{part}.arrow", schema, options=options))
            for part in range(parts)
        ]
        start = 0
        for batch in batches_of(pq.ParquetFile(table.path), names):
            mine = part_of[start : start + batch.num_rows]
            rows = pa.RecordBatch.from_arrays([*batch.columns, slices[start : start + len(mine)]], schema=schema)
            for part in np.unique(mine[mine >= 0]):
                files[part].write_batch(rows.filter(pa.array(mine == part)))
            start += len(mine)

"""Append-only journal: what a stage has finished so far, so that a killed run repeats nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TypeVar

from prefloop.errors import StoreError
from prefloop.progress import note, progress
from prefloop.records import canonical_json, content_id
from prefloop.store.files import held, unused, write_failure

Chunk = TypeVar("Chunk")


class Journal(Protocol):
    """What a stage needs of a journal: finished pieces by key."""

    def entries(self) -> Mapping[str, Any]:
        """Finished pieces by key, in the order they were appended."""
        ...

    def append(self, key: str, value: Any) -> None:
        """Record that piece `key` finished with `value` (any JSON value)."""
        ...


class FileJournal:
    """A journal in one JSON-lines file; a line counts only once its newline is on disk.

    Memory holds where each piece stands, never the piece. A line torn by a kill is cut off when the file is opened
    again, so the piece is simply done again; a damaged line before the end is named and done again, too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._size = 0
        self._lock = Lock()
        self._load()

    def _load(self) -> None:
        if not self.path.exists():
            return
        with self.path.open("rb") as handle:
            for number, line in enumerate(handle, 1):
                if not line.endswith(b"\n"):
                    break
                key = _key(line)
                if key is None:
                    note(f"{self.path}, line {number} is damaged: that piece of work is done again")
                else:
                    self._places[key] = self._size, len(line)
                self._size += len(line)
        if self._size < self.path.stat().st_size:
            self._cut()

    def entries(self) -> Mapping[str, Any]:
        """Finished pieces by key, in the order they were appended; each is read when it is asked for."""
        with self._lock:
            return Entries(self.path, dict(self._places))

    def append(self, key: str, value: Any) -> None:
        """Append and flush to disk before returning.

        Raises:
            StoreError: the disk is full or the folder is read-only; earlier entries are intact.
        """
        line = canonical_json({"key": key, "value": value}).encode() + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as handle:
                    handle.write(line)
                    handle.flush()
                    os.fsync(handle.fileno())
            except OSError as error:
                with suppress(OSError):  # half a line would make the next one unreadable
                    self._cut()
                raise write_failure(self.path, error) from error
            self._places[key] = self._size, len(line)
            self._size += len(line)

    def remove(self) -> None:
        """Delete the file; called once the stage's own file stands whole."""
        self.path.unlink(missing_ok=True)
        self._places.clear()
        self._size = 0

    def _cut(self) -> None:
        """Take away what follows the last whole line."""
        with self.path.open("rb+") as handle:
            handle.truncate(self._size)


class Entries(Mapping[str, Any]):
    """The pieces that a journal's file held when it was asked."""

    def __init__(self, path: Path, places: Mapping[str, tuple[int, int]]) -> None:
        self._path, self._places = path, places

    def __getitem__(self, key: str) -> Any:
        start, length = self._places[key]
        with self._path.open("rb") as handle:
            handle.seek(start)
            return json.loads(handle.read(length))["value"]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _key(line: bytes) -> str | None:
    """The key of a whole line, None where it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row["key"] if isinstance(row, dict) and isinstance(row.get("key"), str) and "value" in row else None


@contextmanager
def journal_beside(out: Path, resume: bool, identity: Any) -> Iterator[FileJournal]:
    """The journal of one stage beside its output, tied to what is being computed; it goes once that is written.

    Args:
        resume: take up interrupted work; else what lies there is removed.
        identity: all that decides the output, as a JSON value.

    Raises:
        StoreError: the output exists, another process is writing it, or `resume` meets interrupted work with other
            inputs.
    """
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        path = out.with_name(f".{out.name}.{content_id(identity)}.journal")
        others = [p for p in out.parent.glob(f".{escape(out.name)}.*.journal") if p != path]
        if others and resume:
            raise StoreError(
                f"the interrupted work for {out} had other inputs or settings: run without --resume to start over"
            )
        if not resume:
            for stale in [*others, path]:
                stale.unlink(missing_ok=True)
        journal = FileJournal(path)
        yield journal
        journal.remove()


def work_through(
    chunks: Mapping[str, Chunk],
    work: Callable[[dict[str, Chunk]], Iterable[tuple[str, Any]]],
    journal: Journal | None,
    *,
    label: str,
    unit: str,
    size: Callable[[Chunk], int],
    worth: Callable[[Any], bool] = lambda found: True,
) -> Iterator[tuple[str, Any]]:
    """What came of every chunk, by key: what the journal has, then the rest, worked out and kept as it comes.

    Args:
        work: yields what came of each chunk given (any JSON value) as soon as it is done, in whatever order.
        size: units in a chunk, for the progress.
        worth: whether what came of a chunk is kept; else it is worked out again by the next run.
    """
    done = journal.entries() if journal else {}
    left = {key: chunk for key, chunk in chunks.items() if key not in done}
    total, to_do = (sum(size(chunk) for chunk in some.values()) for some in (chunks, left))
    with progress(label, total, unit, done=total - to_do) as advance:
        yield from ((key, done[key]) for key in chunks if key in done)
        for key, value in work(left) if left else ():
            if journal and worth(value):
                journal.append(key, value)
            advance(size(left[key]))
            yield key, value

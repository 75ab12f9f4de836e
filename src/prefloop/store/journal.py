"""Append-only journal: what a stage has finished so far, so that a killed run repeats nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from prefloop.records import canonical_json
from prefloop.store.files import write_failure


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

    A line torn by a kill is cut off when the file is opened again, so the piece is simply done again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, Any] = {}
        self._load()

    def _load(self) -> None:
        if not self.path.exists():
            return
        whole = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    break
                row = json.loads(line)
            except ValueError:
                break
            self._entries[row["key"]] = row["value"]
            whole += len(line)
        if whole < self.path.stat().st_size:
            with self.path.open("rb+") as handle:
                handle.truncate(whole)

    def entries(self) -> dict[str, Any]:
        """Finished pieces by key, in the order they were appended."""
        return dict(self._entries)

    def append(self, key: str, value: Any) -> None:
        """Append and flush to disk before returning.

        Raises:
            StoreError: the disk is full or the folder is read-only; earlier entries are intact.
        """
        line = canonical_json({"key": key, "value": value}).encode() + b"\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as handle:
                handle.write(line)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise write_failure(self.path, error) from error
        self._entries[key] = value

    def remove(self) -> None:
        """Delete the file; called once the stage's own file stands whole."""
        self.path.unlink(missing_ok=True)
        self._entries.clear()

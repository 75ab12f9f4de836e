"""One run's folder: whose it is, what is finished, and where work in progress is journalled.

``recipe.json`` is written first and says whose folder it is, ``manifest.json`` last and says that it is whole.
Between them a stage is finished exactly when its files stand.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefloop.errors import StoreError
from prefloop.records import canonical_json
from prefloop.store.files import file_hash, read_json, write_failure, write_json
from prefloop.store.journal import FileJournal
from prefloop.store.tables import Record, read_records, write_records

RECIPE, MANIFEST, LOG, LOCK, WORK = "recipe.json", "manifest.json", "log.jsonl", ".lock", "work"
ASKED = "annotation.json"
"""Settings of the queue that a loop asks people by; `prefloop annotate` of its folder takes them."""
PROJECT = "annotation.db"
"""Where people judge the run's answers (`prefloop annotate`): it goes on changing, and no stage reads it."""


class RunFolder:
    """A locked run folder; open it with `RunFolder.open`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @contextmanager
    def open(cls, root: Path, recipe: dict[str, Any], resume: bool, overwrite: bool = False) -> Iterator[RunFolder]:
        """Create the folder, or take up an earlier run of the same recipe.

        Args:
            overwrite: empty a folder that holds a run first.

        Raises:
            StoreError: it belongs to another recipe, holds a run and `resume` is not set, is used by another
                process, or cannot be written.
        """
        folder = cls(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = (root / LOCK).open("w")
        except OSError as error:
            raise write_failure(root, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"{root} is in use by another prefloop process: wait for it or choose --out"
                ) from error
            if overwrite:
                folder._empty()
            folder._claim(recipe, resume)
            yield folder

    def _empty(self) -> None:
        """Remove a run, and nothing that is not a run."""
        entries = [entry for entry in self.root.iterdir() if entry.name != LOCK]
        if not entries:
            return
        path = self.root / RECIPE
        if not path.exists() or "recipe" not in (read_json(path) or {}):
            raise StoreError(f"{self.root} is not a run folder (no {RECIPE} of ours): --overwrite will not empty it")
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _claim(self, recipe: dict[str, Any], resume: bool) -> None:
        path = self.root / RECIPE
        if not path.exists():
            others = sorted(p.name for p in self.root.iterdir() if p.name not in {LOCK, LOG})
            if others:
                raise StoreError(f"{self.root} is not a run folder (it holds {others[0]}): choose another with --out")
            write_json(path, recipe)
            return
        found = read_json(path)
        if canonical_json(found) != canonical_json(recipe):
            differing = ", ".join(_differences(found, recipe)[:4])
            raise StoreError(
                f"{self.root} was made by another recipe (it differs in {differing}): choose another folder with --out"
            )
        if not resume:
            raise StoreError(
                f"{self.root} already holds this run: add --resume to go on with it, or --overwrite to start over"
            )

    def path(self, name: str) -> Path:
        """Path of a file of the run, its folder made if need be."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def inner(self, name: str) -> RunFolder:
        """A folder of stages inside this one, such as a round's, under the same lock."""
        inner = RunFolder(self.root / name)
        try:
            inner.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(inner.root, error) from error
        return inner

    def journal(self, stage: str) -> FileJournal:
        """The journal of work in progress of a stage."""
        return FileJournal(self.root / WORK / f"{stage}.jsonl")

    def records(self, name: str, kind: type[Record], compute: Callable[[FileJournal], list[Record]]) -> list[Record]:
        """Read a stage's records, or compute, write and read them; the journal goes once the file stands."""
        path = self.path(name)
        if not path.exists():
            stage = name.removesuffix(".parquet").replace("/", "-")
            journal = self.journal(stage)
            with self.timed(stage):
                write_records(path, compute(journal), kind)
            journal.remove()
        return read_records(path, kind)

    def document(self, name: str, compute: Callable[[], Any]) -> Any:
        """Read a stage's JSON document, or compute and write it."""
        path = self.path(name)
        if not path.exists():
            with self.timed(name.removesuffix(".json").replace("/", "-")):
                write_json(path, compute())
        return read_json(path)

    def log(self, event: str, **details: Any) -> None:
        """Append to ``log.jsonl``, the only file with times and durations."""
        row = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **details}
        try:
            with (self.root / LOG).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            raise write_failure(self.root / LOG, error) from error

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Log when a stage starts and how long it took."""
        started = time.monotonic()
        self.log("start", stage=stage)
        yield
        self.log("end", stage=stage, seconds=round(time.monotonic() - started, 2))

    @property
    def finished(self) -> bool:
        """Whether the manifest stands."""
        return (self.root / MANIFEST).exists()

    def finish(self, manifest: dict[str, Any]) -> None:
        """Remove work in progress, also of runs inside this one, and write the manifest with every file's hash."""
        for work in sorted(self.root.rglob(WORK)):
            shutil.rmtree(work, ignore_errors=True)
        volatile = {LOG, LOCK, MANIFEST}
        files = [p for p in sorted(self.root.rglob("*")) if p.is_file() and p.name not in volatile]
        files = [p for p in files if not p.name.startswith(PROJECT)]  # SQLite keeps more files beside it
        hashes = {str(p.relative_to(self.root)): file_hash(p) for p in files}
        write_json(self.root / MANIFEST, {**manifest, "files": hashes})


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a finished run.

    Raises:
        StoreError: there is none; says whether the run is unfinished or the folder none of ours.
    """
    path = root / MANIFEST
    if path.exists():
        manifest: dict[str, Any] = read_json(path)
        return manifest
    if (root / RECIPE).exists():
        raise StoreError(
            f"the run in {root} is not finished: go on with the command that began it, --out {root} and --resume"
        )
    raise StoreError(f"{root} is not a run folder: it has no {RECIPE}")


def _differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Dotted places where two nested dictionaries differ."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [place or "content"]
    return [
        found
        for key in sorted(a.keys() | b.keys())
        for found in _differences(a.get(key), b.get(key), f"{place}.{key}".lstrip("."))
    ]

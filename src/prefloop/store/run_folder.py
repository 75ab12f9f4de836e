"""One run's folder: whose it is, what is finished, and where work in progress is journalled.

``recipe.json`` is written first and says whose folder it is, ``manifest.json`` last and says that it is whole.
Between them a stage is finished exactly when its files stand.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prefloop.errors import DataError, StoreError
from prefloop.records import canonical_json
from prefloop.store.files import file_hash, held, read_json, write_failure, write_json
from prefloop.store.journal import FileJournal
from prefloop.store.objects import address
from prefloop.store.remote import Remote, working_folder
from prefloop.store.tables import Record, count_records, read_records, records_file

RECIPE, MANIFEST, LOG, LOCK, WORK = "recipe.json", "manifest.json", "log.jsonl", ".lock", "work"
DATA = (".parquet", ".json", ".jsonl", ".safetensors")
"""Files whose length must stay; pages and cards may be written again."""
ASKED = "annotation.json"
"""Settings of the queue that a loop asks people by; `prefloop annotate` of its folder takes them."""
PROJECT = "annotation.db"
"""Where people judge the run's answers (`prefloop annotate`): it goes on changing, and no stage reads it."""

UNSENT = (WORK, f"{PROJECT}*", ".*")
"""Files and folders of a run in object storage that stay on the machine it runs on."""
JOURNALS = f"{WORK}/*.jsonl"
"""Journals of stages, which are copied there as they grow."""


class RunFolder:
    """A locked run folder; open it with `RunFolder.open`."""

    def __init__(self, root: Path, remote: Remote | None = None) -> None:
        self.root, self._remote = root, remote

    def __str__(self) -> str:
        """What the user calls it."""
        return str(self._remote.place if self._remote else self.root)

    @classmethod
    @contextmanager
    def open(
        cls,
        root: Path,
        recipe: dict[str, Any],
        resume: bool,
        overwrite: bool = False,
        within: RunFolder | None = None,
    ) -> Iterator[RunFolder]:
        """Create the folder, or take up an earlier run of the same recipe.

        Args:
            root: a folder, or an address in object storage (`prefloop.store.remote`).
            overwrite: empty a folder that holds a run first.
            within: the open run folder that this one lies in.

        Raises:
            StoreError: it belongs to another recipe, holds a run and `resume` is not set, is used by another
                process, or cannot be written.
        """
        place = address(root)
        remote = within._remote if within else None
        own = Remote(place, first=RECIPE, last=MANIFEST, unsent=UNSENT, journals=JOURNALS) if place else None
        root = working_folder(root)
        folder = cls(root, own or remote)
        with held(root / LOCK, place or root), own.taken(resume) if own else nullcontext():
            if overwrite:
                folder._empty()
            folder._claim(recipe, resume)
            folder.send()
            yield folder
            folder.send()

    def _empty(self) -> None:
        """Remove a run, and nothing that is not a run."""
        entries = [entry for entry in self.root.iterdir() if entry.name != LOCK]
        if not entries:
            return
        path = self.root / RECIPE
        if not path.exists() or "recipe" not in (read_json(path) or {}):
            raise StoreError(f"{self} is not a run folder (no {RECIPE} of ours): --overwrite will not empty it")
        if self._remote:
            self._remote.clear()
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _claim(self, recipe: dict[str, Any], resume: bool) -> None:
        path = self.root / RECIPE
        if not path.exists():
            others = sorted(p.name for p in self.root.iterdir() if p.name not in {LOCK, LOG})
            if others:
                raise StoreError(f"{self} is not a run folder (it holds {others[0]}): choose another with --out")
            write_json(path, recipe)
            return
        found = read_json(path)
        if canonical_json(found) != canonical_json(recipe):
            differing = ", ".join(_differences(found, recipe)[:4])
            raise StoreError(
                f"{self} was made by another recipe (it differs in {differing}): choose another folder with --out"
            )
        if not resume:
            raise StoreError(
                f"{self} already holds this run: add --resume to go on with it, or --overwrite to start over"
            )

    def path(self, name: str) -> Path:
        """Path of a file of the run, its folder made if need be."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def inner(self, name: str) -> RunFolder:
        """A folder of stages inside this one, such as a round's, under the same lock."""
        inner = RunFolder(self.root / name, self._remote)
        try:
            inner.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_failure(inner.root, error) from error
        return inner

    def work(self, name: str) -> Path:
        """Where work in progress of that name is kept; it may be removed at any time."""
        return self.root / WORK / name

    def journal(self, stage: str) -> FileJournal:
        """The journal of work in progress of a stage."""
        return FileJournal(self.work(f"{stage}.jsonl"))

    def written(
        self, name: str, kind: type[Record], compute: Callable[[FileJournal], Iterable[Iterable[Record]]]
    ) -> Path:
        """The file of a stage's records, computed and written some at a time if it does not stand.

        Its journal goes once it does.

        Raises:
            StoreError: it stands and is damaged; says how it is made again.
        """
        path = self.path(name)
        if path.exists():
            with _made_again():
                count_records(path, kind)
            return path
        stage = name.removesuffix(".parquet").replace("/", "-")
        journal = self.journal(stage)
        with self.timed(stage), records_file(path, kind) as write:
            for some in compute(journal):
                write(some)
        journal.remove()
        self.send()
        return path

    def records(self, name: str, kind: type[Record], compute: Callable[[FileJournal], list[Record]]) -> list[Record]:
        """The same of records that are held whole."""
        path = self.written(name, kind, lambda journal: [compute(journal)])
        with _made_again():
            return read_records(path, kind)

    def document(self, name: str, compute: Callable[[], Any]) -> Any:
        """Read a stage's JSON document, or compute and write it."""
        path = self.path(name)
        if not path.exists():
            with self.timed(name.removesuffix(".json").replace("/", "-")):
                write_json(path, compute())
            self.send()
        return read_json(path)

    def send(self) -> None:
        """Where the run is in object storage, send what stands by now.

        Raises:
            StoreError: it cannot be reached; says where everything is kept.
        """
        if self._remote:
            self._remote.send()

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
        sizes = {str(p.relative_to(self.root)): p.stat().st_size for p in files if p.suffix in DATA}
        write_json(self.root / MANIFEST, {**manifest, "files": hashes, "sizes": sizes})

    def check(self) -> None:
        """See that every data file of a finished run is there and as long as it was: no file is read for that.

        Raises:
            StoreError: one is not; names it.
        """
        for name, size in read_manifest(self.root).get("sizes", {}).items():
            path = self.root / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"is damaged: it has {found:,} bytes and had {size:,}"
                raise StoreError(
                    f"{path} {state}; restore it, or delete it (of a checkpoint the whole folder) and {MANIFEST} and "
                    "go on with --resume, which computes it again"
                )


@contextmanager
def _made_again() -> Iterator[None]:
    """Say of a file of the run that cannot be read how it is made again."""
    try:
        yield
    except DataError as error:
        raise StoreError(f"{error}; delete it and go on with --resume, which computes it again") from error


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

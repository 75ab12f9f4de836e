"""A run folder in object storage: worked on in a local folder, from which every finished file is sent.

Work in progress (training states, locks, SQLite) stays local, but for journals, which are copied as they grow; a
stage's file, once it stands, is sent, the manifest last. Another machine that goes on with the run fetches what stands
there and begins where the first stage that does not was left. Of a file that changed in both places the remote one
counts: other files there were made from it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from prefloop.errors import StoreError
from prefloop.progress import Advance, progress
from prefloop.store.files import cache_folder, write_json
from prefloop.store.lease import Lease
from prefloop.store.objects import Address, address, download, reaching, results_below, version
from prefloop.store.remote_journals import RemoteJournals

MEGABYTE = 2**20
SHOWN_MB = 32
"""From so much on the progress of sending is shown."""
Sent = dict[str, list[Any]]
"""By path: size and modification time of the local file and version of the remote one when they were the same."""


def working_folder(out: Path) -> Path:
    """Where a run is worked on: `out` itself, or this machine's folder for an address."""
    place = address(out)
    return cache_folder() / "remote" / place.id / place.name if place else Path(out)


class Remote:
    """The remote side of a run folder; use it while the local folder is locked.

    Args:
        first, last: the file by which a run folder is known, and the one that says it is whole.
        unsent: patterns of files and folders that stay here.
        journals: pattern of work in progress that is copied as it grows.
    """

    def __init__(self, place: Address, *, first: str, last: str, unsent: tuple[str, ...], journals: str) -> None:
        self.place, self.local = place, working_folder(Path(str(place)))
        self._first, self._last, self._unsent = first, last, unsent
        self._state = self.local.with_name(f".{self.local.name}.sent.json")
        self._sent: Sent = {}
        self._owner = uuid.uuid4().hex
        self._fs = place.filesystem()
        self._lease: Lease | None = None
        each_a_commit = place.scheme == "hf" and not place.path.startswith("buckets/")
        self._journals = (
            None if each_a_commit else RemoteJournals(self._fs, place, self.local, journals, self._check_lease)
        )

    @contextmanager
    def taken(self, resume: bool) -> Iterator[None]:
        """Hold the lease, and have here what stands there: all of it to go on with, or what says whose run it is.

        Raises:
            StoreError: another process writes there, it holds something else than a run, or cannot be reached.
        """
        with suppress(OSError, ValueError, KeyError):  # none yet, or damaged: then everything is compared anew
            state = json.loads(self._state.read_text(encoding="utf-8"))
            self._owner, self._sent = state["owner"], state["sent"]
        self._save()
        self._lease = Lease(self._fs, self.place, self._owner)
        self._lease.take()
        try:
            with reaching(self.place):
                there = self._there()
                if there and self._first not in there:
                    raise StoreError(f"{self.place} is not a run folder (it holds {min(there)}): choose another --out")
                self._get(there, [name for name in there if resume or name == self._first])
                if self._journals and not there:
                    self._journals.clear()
                elif self._journals and resume:
                    self._journals.fetch()
            with self._journals.kept() if self._journals else nullcontext():
                yield
        finally:
            self._lease.release()

    def clear(self) -> None:
        """Remove the remote run, what it is known by last: interrupted, it is still known as one."""
        with reaching(self.place):
            for name in sorted(self._there(), key=lambda name: name == self._first):
                self._fs.rm_file(f"{self.place}/{name}")
            if self._journals:
                self._journals.clear()
        self._sent = {}
        self._save()

    def send(self) -> None:
        """Send what is new or changed, remove what is gone, the manifest last.

        Raises:
            StoreError: it cannot be reached, or another process took over; says what to do.
        """
        self._check_lease()
        here = self._here()
        gone = [name for name in self._sent if name not in here]
        new = [name for name, stamp in here.items() if self._sent.get(name, [])[:2] != stamp]
        size = sum(here[name][0] for name in new)
        kept = f"; all that was computed is kept in {self.local}: go on with --resume"
        with reaching(self.place, kept=kept), self._shown(size) as advance:
            for name in gone:
                self._fs.rm_file(f"{self.place}/{name}")
                del self._sent[name]
            for name in sorted(new, key=lambda name: (name == self._last, name)):
                if name == self._last and self._journals:
                    self._journals.send()
                self._fs.put_file(str(self.local / name), f"{self.place}/{name}")
                self._sent[name] = [*here[name], version(self._fs.info(f"{self.place}/{name}"))]
                self._save()
                advance(here[name][0] // MEGABYTE)
            if self._journals:
                self._journals.send()

    def _check_lease(self) -> None:
        if self._lease:
            self._lease.check()

    def _shown(self, size: int) -> AbstractContextManager[Advance]:
        """Progress, of what takes a while."""
        if size < SHOWN_MB * MEGABYTE:
            return nullcontext(lambda n: None)
        return progress(f"send to {self.place.scheme}", size // MEGABYTE, "MB")

    def _there(self) -> dict[str, str]:
        return results_below(self._fs, self.place)

    def _here(self) -> dict[str, list[int]]:
        """Size and modification time of every file that is to be there, too."""
        found = {}
        for path in sorted(self.local.rglob("*")):
            parts = path.relative_to(self.local).parts
            stays = any(fnmatch(part, pattern) for part in parts for pattern in self._unsent)
            if path.is_file() and not stays:
                found["/".join(parts)] = _stamp(path)
        return found

    def _get(self, there: dict[str, str], names: list[str]) -> None:
        """Fetch those whose version is not the one that was last the same here; what is gone there is sent again."""
        self._sent = {name: row for name, row in self._sent.items() if name in there}
        wanted = [
            name
            for name in names
            if self._sent.get(name, [None])[-1] != there[name] or not (self.local / name).is_file()
        ]
        download(self._fs, self.place, wanted, self.local)
        for name in wanted:
            self._sent[name] = [*_stamp(self.local / name), there[name]]
        self._save()

    def _save(self) -> None:
        write_json(self._state, {"owner": self._owner, "sent": self._sent, "address": str(self.place)})


def _stamp(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]

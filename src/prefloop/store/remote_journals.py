"""Journals of a run, copied to object storage piece by piece as they grow, for another machine to go on with.

Objects cannot be appended to. So ``.journal/PATH/OFFSET`` holds what the journal at PATH gained from byte OFFSET on,
in whole lines. Once a stage's file stands its journal goes, and its pieces with it. Memory holds `PIECE` bytes at a
time, or one line where that is longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from prefloop.store.files import atomic_path
from prefloop.store.objects import JOURNALS, Address, files_below

EVERY_S = 60.0
PIECE = 16 * 2**20
"""Bytes that are sent or fetched at once."""
TAIL = 64 * 2**10
"""Bytes by whose equality two copies of a journal are taken for the same up to there."""


class RemoteJournals:
    """The copies of one run's journals; one writer at a time, as its lease says.

    Args:
        local: the working folder.
        pattern: of the journals in it.
        check: raises where another process has taken over.
    """

    def __init__(self, fs: Any, place: Address, local: Path, pattern: str, check: Callable[[], None]) -> None:
        self._fs, self._local, self._pattern, self._check = fs, local, pattern, check
        self._place = Address(place.scheme, f"{place.path}/{JOURNALS}")
        self._sent: dict[str, int] = {}
        """By path: bytes that are there."""
        self._lock = threading.Lock()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Send what is new every `EVERY_S` seconds; what cannot be reached is tried again."""
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(EVERY_S):
                with suppress(Exception):  # out of reach, or taken over: what is sent next of the run says so
                    self.send()

        keeper = threading.Thread(target=keep, name="journals", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            ended.set()
            keeper.join()

    def fetch(self) -> None:
        """Have here the journals that are longer there. Others are sent on from where the copy ends, if it is a
        beginning of what is here, else anew."""
        pieces: dict[str, list[int]] = {}
        for path in files_below(self._fs, self._place):
            name, _, offset = path.rpartition("/")
            if offset.isdecimal():
                pieces.setdefault(name, []).append(int(offset))
        for name, offsets in pieces.items():
            journal = self._local / name
            whole = self._whole(name, offsets)
            for stray in {self._piece(name, offset) for offset in offsets} - whole.keys():
                self._fs.rm_file(stray)
            size = sum(whole.values())
            if size > (journal.stat().st_size if journal.is_file() else 0):
                with atomic_path(journal) as temporary, temporary.open("wb") as handle:
                    for piece, length in whole.items():
                        self._get(piece, length, handle)
            elif not self._begins(journal, size, whole):
                self._remove(name)
                continue
            self._sent[name] = size

    def send(self) -> None:
        """Send what the journals gained, and remove the copies of those that are gone."""
        with self._lock:
            self._check()
            here = {path.relative_to(self._local).as_posix(): path for path in self._local.rglob(self._pattern)}
            for name in [name for name in self._sent if name not in here]:
                self._remove(name)
            for name, path in here.items():
                with suppress(FileNotFoundError):  # its stage has ended meanwhile
                    self._send_one(name, path)

    def clear(self) -> None:
        """Remove all copies."""
        for path in files_below(self._fs, self._place):
            self._fs.rm_file(f"{self._place}/{path}")
        self._sent.clear()

    def _send_one(self, name: str, path: Path) -> None:
        if path.stat().st_size < self._sent.get(name, 0):  # begun anew
            self._remove(name)
        start = self._sent.get(name, 0)
        with path.open("rb") as handle:
            handle.seek(start)
            while gained := _lines(handle):
                self._fs.pipe_file(self._piece(name, start), gained)
                start += len(gained)
                self._sent[name] = start
                handle.seek(start)

    def _get(self, piece: str, size: int, handle: IO[bytes]) -> None:
        for start in range(0, size, PIECE):
            handle.write(self._fs.cat_file(piece, start=start, end=min(start + PIECE, size)))

    def _begins(self, journal: Path, size: int, whole: dict[str, int]) -> bool:
        """Whether the pieces are how the journal here begins, by what they end with."""
        if not whole:
            return False
        last, length = list(whole.items())[-1]
        there = self._fs.cat_file(last, start=max(0, length - TAIL), end=length)
        with journal.open("rb") as handle:
            handle.seek(size - len(there))
            return bool(handle.read(len(there)) == there)

    def _whole(self, name: str, offsets: list[int]) -> dict[str, int]:
        """Sizes of the pieces from the first on, as far as each begins where the one before ends."""
        found: dict[str, int] = {}
        size = 0
        for offset in sorted(offsets):
            if offset == size:
                piece = self._piece(name, offset)
                found[piece] = self._fs.size(piece)
                size += found[piece]
        return found

    def _piece(self, name: str, offset: int) -> str:
        return f"{self._place}/{name}/{offset:015d}"

    def _remove(self, name: str) -> None:
        for path in files_below(self._fs, Address(self._place.scheme, f"{self._place.path}/{name}")):
            self._fs.rm_file(f"{self._place}/{name}/{path}")
        self._sent.pop(name, None)


def _lines(handle: IO[bytes]) -> bytes:
    """The next whole lines of a journal that may be growing: `PIECE` bytes at most, but one line in any case."""
    some = handle.read(PIECE)
    if whole := some[: some.rfind(b"\n") + 1]:
        return whole
    line = some + handle.readline()
    return line if line.endswith(b"\n") else b""

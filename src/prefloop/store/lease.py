"""A lease on a folder in object storage: one writer at a time, by objects that only one process can create.

A lease is the object ``.lease/N.json`` with the highest N. It names its owner and a time until which it holds; the
owner renews it, and whoever comes later creates N+1 once that time is past. S3 and Google Cloud Storage create an
object for one of several at once (If-None-Match, ifGenerationMatch); the Hugging Face Hub cannot, so there the object
is read back, which leaves a window of a second. Clocks of different machines have to agree within minutes. A writer
that was taken for dead learns of it with its next renewal or upload, and stops.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from prefloop.errors import StoreError
from prefloop.store.objects import LEASES, Address, reaching

LEASE_S = 900.0
"""How long a lease holds without being renewed."""


class Lease:
    """Take it, ask `check` before writing, and release it.

    Args:
        owner: known to this machine's working folder alone, so that a run killed here goes on at once.
    """

    def __init__(self, fs: Any, place: Address, owner: str) -> None:
        self._fs, self._place, self._owner = fs, place, owner
        self._number = 0
        self._renewed = time.time()
        self._lost = ""
        self._ended = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Become the writer.

        Raises:
            StoreError: another one is; says which machine, and until when.
        """
        with reaching(self._place):
            numbers = self._numbers()
            newest = self._read(numbers[-1]) if numbers else None
            if newest and newest["owner"] != self._owner and newest["expires"] > time.time():
                until = time.strftime("%H:%M:%S", time.localtime(newest["expires"]))
                raise StoreError(
                    f"{self._place} is in use by a prefloop process on {newest['host']}, which holds it until {until} "
                    "and renews that while it lives: wait for it, choose another --out, or, if it died, wait or delete "
                    f"{self._path(numbers[-1])}"
                )
            self._number = numbers[-1] + 1 if numbers else 1
            try:
                self._fs.pipe_file(self._path(self._number), self._content(), mode="create")
            except FileExistsError:
                raise StoreError(self._taken()) from None
            mine = self._read(self._number)
            if mine is None or mine["owner"] != self._owner:
                raise StoreError(self._taken())
            for number in numbers:
                self._fs.rm_file(self._path(number))
            self._renewed = time.time()
        self._keeper.start()

    def check(self) -> None:
        """Refuse to write where another process has taken over.

        Raises:
            StoreError: it has.
        """
        if not self._lost and abs(time.time() - self._renewed) > LEASE_S / 3:  # asleep, or the renewing thread was late
            with reaching(self._place):
                self.renew()
        if self._lost:
            raise StoreError(self._lost)

    def release(self) -> None:
        """Leave the folder to others; one that cannot be reached becomes free with time."""
        self._ended.set()
        self._keeper.join()
        if not self._lost:
            try:
                self._fs.rm_file(self._path(self._number))
            except Exception:  # the lease ends by itself
                return

    def renew(self) -> None:
        """Hold for another while; after a pause so long that another process took over, that is noticed."""
        numbers = self._numbers()
        held = self._read(self._number) if numbers and numbers[-1] == self._number else None
        if held is None or held["owner"] != self._owner:  # numbers begin again once all have left
            self._lost = (
                f"{self._place} was taken over by another process while this one did not answer: it goes on there; "
                "what was computed here is kept"
            )
        else:
            self._fs.pipe_file(self._path(self._number), self._content())
            self._renewed = time.time()

    def _keep(self) -> None:
        while not self._lost and not self._ended.wait(LEASE_S / 3):
            try:
                self.renew()
            except Exception:  # out of reach for now; what is written next says so
                continue

    def _content(self) -> bytes:
        held = {"owner": self._owner, "host": socket.gethostname(), "expires": time.time() + LEASE_S}
        return json.dumps(held).encode()

    def _read(self, number: int) -> dict[str, Any] | None:
        try:
            held = json.loads(self._fs.cat_file(self._path(number)))
            return {"owner": str(held["owner"]), "host": str(held["host"]), "expires": float(held["expires"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # released meanwhile, or none of ours
            return None

    def _numbers(self) -> list[int]:
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(f"{self._place}/{LEASES}", detail=False)
        except FileNotFoundError:
            return []
        stems = (str(path).rstrip("/").rsplit("/", 1)[-1].removesuffix(".json") for path in found)
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _path(self, number: int) -> str:
        return f"{self._place}/{LEASES}/{number}.json"

    def _taken(self) -> str:
        return f"{self._place} has just been taken by another prefloop process: wait for it or choose --out"

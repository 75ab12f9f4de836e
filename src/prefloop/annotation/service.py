"""What the pages and the API share: the database, the one writer, the clock, and where the server is reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa

from prefloop.annotation.database import READERS, Database
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.writer import Writer
from prefloop.errors import ConfigError

Result = TypeVar("Result")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Address:
    """Where browsers reach the server.

    Raises:
        ConfigError: plain HTTP anywhere but on loopback, without `insecure`.
    """

    origin: str
    """Scheme, host and port, as in ``https://rate.example.org``."""
    insecure: bool = False
    """Plain HTTP on a network that is trusted: said on every page."""

    def __post_init__(self) -> None:
        if not self.secure and not self.loopback and not self.insecure:
            raise ConfigError(
                f"{self.origin} is plain HTTP: passwords and cookies could be read on the way. Give --tls-cert and "
                "--tls-key, or --public-url https://… behind a proxy, or --insecure-http on a network you trust"
            )

    @property
    def secure(self) -> bool:
        """Whether the browser speaks HTTPS."""
        return self.origin.startswith("https://")

    @property
    def host(self) -> str:
        """The only ``Host`` header that is answered; on loopback, its other names with the same port, too."""
        return self.origin.split("://", 1)[1]

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        name = self.host.rsplit(":", 1)[0].strip("[]") if not self.host.endswith("]") else self.host.strip("[]")
        return name in LOOPBACK


def milliseconds() -> int:
    """Now."""
    return time.time_ns() // 1_000_000


@dataclass
class Service:
    """One running project."""

    database: Database
    writer: Writer
    address: Address
    clock: Callable[[], int] = milliseconds
    alone: bool = False
    """One person on their own machine: the first link signs in without a password."""
    _readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(READERS, "reader"))
    _runner: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "runner"))
    _waiting: set[int] = field(default_factory=set)

    async def write(self, job: Callable[[sa.Connection], Result]) -> Result:
        """Run a job on the writer; returns once it is durable. No thread waits meanwhile."""
        return await asyncio.wrap_future(self.writer.submit(job))

    async def read(self, job: Callable[[sa.Connection], Result]) -> Result:
        """Run a job that only reads."""

        def run() -> Result:
            with self.database.reading.connect() as connection:
                return job(connection)

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def run(self, rater_id: int, job: Callable[[], Result]) -> Result:
        """Run something slow for a person, one after another for all, so that nobody takes the machine from the rest.

        Raises:
            RefusedError: something of this person's still runs.
        """
        if rater_id in self._waiting:
            raise RefusedError("conflict", "your last query still runs: wait for its result")
        self._waiting.add(rater_id)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._runner, job)
        finally:
            self._waiting.discard(rater_id)

    def close(self) -> None:
        """Finish what is queued and let go of the database."""
        self._readers.shutdown()
        self._runner.shutdown(cancel_futures=True)
        self.writer.close()
        self.database.close()

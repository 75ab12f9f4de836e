"""The server's side of the figures: another process computes them, seldom and with low priority; stop rules act here.

Statistics take seconds and import NumPy and SciPy; the server must answer raters meanwhile and stay small. The database
is named in the environment, because a command line with a password in it can be read by everybody on the machine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from prefloop.annotation.control import record
from prefloop.annotation.schema import event, judgement
from prefloop.annotation.service import Service
from prefloop.annotation.stream import Connection, read_project
from prefloop.annotation.webhooks import set_state
from prefloop.config.annotation import StopConfig
from prefloop.errors import StoreError

DATABASE_VARIABLE = "PREFLOOP_ANNOTATION_DATABASE"
"""Environment variable with the database's URL, password included."""
COMMAND = (sys.executable, "-m", "prefloop.annotation.figures")
NICENESS = 15
EVERY = 30.0
"""Seconds from one start to the next, at least."""
TIMEOUT = 300.0
"""Seconds after which a run is ended."""
STOP_RULE = "stop rule"
"""Event that remembers a rule that has stopped the project."""
REASONS = {
    "judgements": "{now} judgements were given, and {wanted} were wanted",
    "agreement_width": "the interval of alpha is {now:.2g} wide, and {wanted:g} is narrow enough",
    "preference_width": "the widest interval of a strength is {now:.2g} wide, and {wanted:g} is narrow enough",
}
_log = logging.getLogger(__name__)
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Latest:
    """The last figures there are."""

    figures: dict[str, Any] | None = None
    """As `prefloop.annotation.figures.figures` says; None before the first."""
    computed: int | None = None
    """When the run that found them began, in milliseconds."""
    running: bool = False
    failure: str = ""
    """Why the last run found none; the figures are then those of the run before."""


class Background:
    """Starts the figures process: one at a time, and only if the project has changed since.

    It belongs to the event loop that calls it.
    """

    def __init__(self, service: Service, *, every: float = EVERY, timeout: float = TIMEOUT) -> None:
        self._service = service
        self._every, self._timeout = round(every * 1000), timeout
        self._due, self._state = 0, (-1, -1)
        self._latest = Latest()
        self._task: asyncio.Task[None] | None = None

    @property
    def latest(self) -> Latest:
        """What is known now; starts nothing."""
        return replace(self._latest, running=self._running)

    async def refresh(self) -> Latest:
        """What is known now; starts a run where one is due."""
        now = self._service.clock()
        if not self._running and now >= self._due:
            state = await self._service.read(_state)
            changed = state != self._state or bool(self._latest.failure)
            if changed and not self._running:  # another request may have started one meanwhile
                self._due, self._state = now + self._every, state
                self._task = asyncio.create_task(self._compute(now))
        return self.latest

    async def watch(self) -> None:
        """Where the project has stop rules, look for changes until cancelled: they act even if nobody sees the desk."""
        if (await self._service.read(read_project)).config.stop == StopConfig():
            return
        while True:
            try:
                await self.refresh()
            except Exception:  # the next look may succeed
                _log.exception("stop rules: could not look for changes now")
            await asyncio.sleep(self._every / 1000)

    async def wait(self) -> Latest:
        """What is known once the run in hand, if there is one, has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
        return self.latest

    async def close(self) -> None:
        """End the run in hand."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def _running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _compute(self, now: int) -> None:
        try:
            figures = await self._figures()
            self._latest = Latest(figures, now)
            if any(rule["met"] for rule in figures["stop"]):
                await self._service.write(partial(stop, rules=figures["stop"], now=self._service.clock()))
        except (OSError, TimeoutError, ValueError, StoreError, DBAPIError) as error:
            self._latest = replace(self._latest, failure=str(error))

    async def _figures(self) -> dict[str, Any]:
        """Raises ValueError with the process's own last words, TimeoutError, or OSError where none can be started."""
        url = self._service.database.url.render_as_string(hide_password=False)
        settings = os.environ | dict.fromkeys(_THREADS, "1") | {DATABASE_VARIABLE: url}
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *COMMAND, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=settings
        )
        try:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
            async with asyncio.timeout(self._timeout):
                said, complaint = await process.communicate()
        except TimeoutError as error:
            raise TimeoutError(f"the figures took more than {self._timeout:g} s and were given up") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines() or [f"exit code {process.returncode}"]
            raise ValueError(f"the figures could not be computed: {last[-1]}")
        found: dict[str, Any] = json.loads(said)
        return found


def stop(connection: Connection, rules: list[dict[str, Any]], now: int) -> None:
    """Stop a running project by the rules that are met, each once: who lets it run again has decided against them.

    Args:
        rules: ``stop`` of `prefloop.annotation.figures.figures`.
    """
    if read_project(connection).state != "running":
        return
    acted = set(connection.scalars(sa.select(event.c.about).where(event.c.what == STOP_RULE)))
    met = {f"{rule['rule']} {rule['wanted']}": rule for rule in rules if rule["met"]}
    fresh = {key: rule for key, rule in met.items() if key not in acted}
    for key in fresh:
        record(connection, STOP_RULE, key, now)
    if fresh:
        reasons = "; ".join(REASONS[rule["rule"]].format(**rule) for rule in fresh.values())
        set_state(connection, "stopped", f"enough has been judged: {reasons}", now)


def _state(connection: Connection) -> tuple[int, int]:
    """What the figures depend on: the last verdict, and the last thing done from the desk (discarded verdicts)."""
    last = sa.select(
        sa.select(sa.func.max(judgement.c.seq)).scalar_subquery(), sa.select(sa.func.max(event.c.id)).scalar_subquery()
    )
    seq, done = connection.execute(last).one()
    return seq or 0, done or 0

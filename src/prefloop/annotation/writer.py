"""One thread that writes, first come first served, and commits what waits together.

SQLite lets one connection write at a time, and its busy handler is unfair: of many writers some wait seconds. A queue
before one connection bounds the wait, and one commit (one ``fsync``) acknowledges all that had come by then.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from prefloop.annotation.database import reason
from prefloop.errors import StoreError

Result = TypeVar("Result")
Job = tuple[Callable[[sa.Connection], Any], "Future[Any]"]
TOGETHER = 64
"""Most jobs in one commit."""


class Writer:
    """Runs jobs on the writing connection; a job's future is set once its work is durable.

    A job that raises is rolled back alone; those beside it stand. A failed commit fails all of its jobs.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._closed = False
        self._door = threading.Lock()  # nothing may be queued behind the end
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[sa.Connection], Result]) -> Future[Result]:
        """Queue a job; in a coroutine, await ``asyncio.wrap_future`` of the result.

        Raises:
            StoreError: the writer is closed.
        """
        future: Future[Result] = Future()
        with self._door:
            if self._closed:
                raise StoreError("the server is stopping")
            self._jobs.put((job, future))
        return future

    def run(self, job: Callable[[sa.Connection], Result]) -> Result:
        """Queue a job and wait for it."""
        return self.submit(job).result()

    def close(self) -> None:
        """Finish what is queued, then stop."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            jobs = [self._jobs.get()]
            while len(jobs) < TOGETHER and jobs[-1] is not None and not self._jobs.empty():
                jobs.append(self._jobs.get())
            stopping = jobs[-1] is None
            self._commit([job for job in jobs if job is not None])

    def _commit(self, jobs: list[Job]) -> None:
        taken = [(job, future) for job, future in jobs if future.set_running_or_notify_cancel()]
        if not taken:
            return
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                for job, future in taken:
                    outcomes.append((future, *_tried(job, connection)))
        except BaseException as error:  # the commit itself: a full disk, a lost server
            for _, future in taken:
                future.set_exception(StoreError(f"could not be saved: {reason(error)}"))
            return
        for future, result, failure in outcomes:
            future.set_exception(failure) if failure else future.set_result(result)


def _tried(job: Callable[[sa.Connection], Any], connection: sa.Connection) -> tuple[Any, BaseException | None]:
    savepoint = connection.begin_nested()
    try:
        result = job(connection)
        savepoint.commit()
    except Exception as error:
        try:
            savepoint.rollback()
        except Exception as lost:  # nothing is left to go back to: the disk is full, or the server gone
            raise (error if isinstance(error, DBAPIError) else lost) from None
        return None, error
    return result, None

"""Sends what the webhooks' outbox holds: one task for each receiver, so that one that hangs delays no other.

Receivers are strangers: a request has a time limit as a whole, follows no redirect, takes no proxy from the
environment, reads no answer beyond its status, and goes only to an address that was checked just before.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import httpx2

from prefloop.annotation import destinations, webhooks
from prefloop.annotation.destinations import Destination, Resolve
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Service
from prefloop.records import canonical_json

TIMEOUT_S = 10.0
"""One request as a whole: name service, connection, and the answer's headers."""
REST_MS = 15_000
"""After a failure a receiver is left alone for so long, whatever else is due to it."""
AT_ONCE = 100
"""Deliveries read from the outbox at a time."""
POLL_S = 2.0
SWEEP_S = 3600.0
_log = logging.getLogger(__name__)


class Courier:
    """Delivers the events of one project; start `run` as a task of the server's event loop, and cancel it at the end.

    Args:
        inside: receivers on this machine and in private networks are allowed; default: only where the server
            itself is reached on loopback.
        resolve: the name service; the tests bring their own.
    """

    def __init__(
        self,
        service: Service,
        *,
        inside: bool | None = None,
        timeout: float = TIMEOUT_S,
        resolve: Resolve | None = None,
    ) -> None:
        self._service = service
        self._inside = service.address.loopback if inside is None else inside
        self._timeout = timeout
        self._resolve = resolve
        # no connection is kept: a pool goes by address, and another receiver's certificate may stand at the same one
        limits = httpx2.Limits(max_keepalive_connections=0)
        self._client = httpx2.AsyncClient(
            verify=_certificates(), timeout=timeout, trust_env=False, follow_redirects=False, limits=limits
        )
        self._resting: dict[int, int] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Deliver until cancelled; what was not delivered then is sent by the next run."""
        loop = asyncio.get_running_loop()
        swept = loop.time()
        try:
            while True:
                await self._quietly(self._start_due)
                if loop.time() - swept > SWEEP_S:  # not at the start: first, what waits gets its chance
                    swept = loop.time()
                    await self._quietly(self._sweep)
                await asyncio.sleep(POLL_S)
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
            await self._client.aclose()

    async def once(self) -> None:
        """Try everything that is due now, and wait for it."""
        await self._start_due()
        await asyncio.gather(*self._tasks.values())

    async def _start_due(self) -> None:
        now = self._service.clock()
        self._tasks = {key: task for key, task in self._tasks.items() if not task.done()}
        self._resting = {key: until for key, until in self._resting.items() if until > now}
        left_alone = self._tasks.keys() | self._resting.keys()
        rows = await self._service.read(partial(webhooks.due, now=now, resting=set(left_alone), most=AT_ONCE))
        for key in dict.fromkeys(row.webhook_id for row in rows):
            mine = [row for row in rows if row.webhook_id == key]
            self._tasks[key] = asyncio.create_task(self._quietly(partial(self._deliver, key, mine)))

    async def _deliver(self, key: int, rows: list[Any]) -> None:
        """One after the other, in order, up to the first failure."""
        for row in rows:
            status, taken = await self._send(row)
            now = self._service.clock()
            if taken:
                await self._service.write(partial(webhooks.delivered, delivery_id=row.id, status=status))
                continue
            self._resting[key] = now + REST_MS
            over = await self._service.write(partial(webhooks.failed, delivery_id=row.id, reason=status, now=now))
            if over:
                _log.warning("webhook %s: gave up on %s %s: %s", key, row.event, row.payload["id"], status)
            return

    async def _send(self, row: Any) -> tuple[str, bool]:
        """What happened, and whether the receiver took it."""
        try:
            async with asyncio.timeout(self._timeout):
                place = await destinations.check(row.url, inside=self._inside, resolve=self._resolve)
                status = await self._post(place, row)
        except TimeoutError:
            return f"no answer within {self._timeout:g} s", False
        except RefusedError as error:
            return str(error), False
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}", False
        redirected = ": redirects are not followed" if 300 <= status < 400 else ""
        return f"answered {status}{redirected}", 200 <= status < 300

    async def _post(self, place: Destination, row: Any) -> int:
        body = canonical_json(row.payload).encode(errors="replace")
        headers = {
            "Host": place.host,
            "Content-Type": "application/json",
            "User-Agent": "prefloop-webhook/1",
            webhooks.EVENT: row.event,
            webhooks.DELIVERY_ID: row.payload["id"],
            webhooks.SIGNATURE: webhooks.sign(row.secret, body, self._service.clock() // 1000),
        }
        secure = {"sni_hostname": place.name} if place.url.scheme == "https" else {}
        request = self._client.build_request("POST", place.url, content=body, headers=headers, extensions=secure)
        response = await self._client.send(request, stream=True)
        await response.aclose()
        return response.status_code

    async def _sweep(self) -> None:
        now = self._service.clock()
        await self._service.write(partial(webhooks.sweep, now=now))

    async def _quietly(self, work: Callable[[], Any]) -> None:
        """The outbox keeps what could not be done; the server goes on."""
        try:
            await work()
        except Exception:  # one delivery that fails must not end those to other receivers; the log has its trace
            _log.exception("webhooks: could not deliver now")


@cache
def _certificates() -> ssl.SSLContext:
    """Of the public authorities, loaded once in a process."""
    return httpx2.create_ssl_context(trust_env=False)

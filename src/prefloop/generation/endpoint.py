"""Chat completions from an OpenAI-compatible server: many at once, retried, counted, kept in a journal.

The requests run on an event loop in a thread of its own: so this also works inside a notebook, whose thread
already runs a loop, and Ctrl-C in the caller's thread cancels what is under way.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import httpx2

from prefloop.errors import ConfigError
from prefloop.generation.pace import Pace, Sleep
from prefloop.generation.prospects import Prospects
from prefloop.generation.replies import Failure, Reply, failure_of, read_reply
from prefloop.progress import note, progress
from prefloop.records import content_id
from prefloop.store.journal import Journal

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""Back-off: 1, 2, 4, … seconds, each times a random number of 0.5 to 1, so that clients do not return together."""
LONGEST_RETRY_AFTER_S = 600.0
"""A server that asks for more patience than this has failed."""
LONGEST_BODY = 2**24
"""Bytes of a response; more is no chat answer."""
REPLACED = {"seed": None, "max_tokens": "max_completion_tokens"}
"""Parameters that some servers refuse, and what to send instead."""
REFUSAL = re.compile(
    r"unsupported|not supported|unrecogni[sz]ed|unknown|not permitted|not allowed|extra", re.IGNORECASE
)

Body = dict[str, Any]
"""A chat-completion request as the protocol has it."""


@dataclass(frozen=True)
class Endpoint:
    """A server, a model on it, and how hard it may be asked.

    Raises:
        ConfigError: the URL is none, or holds a password.
    """

    url: str
    """Base URL, as in ``http://localhost:8000/v1``; ``/chat/completions`` is added."""
    model: str
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key; without one no key is sent, as local servers like it."""
    concurrency: int = 16
    requests_per_minute: int | None = None
    timeout: float = 120.0
    """Seconds one request may take from its start to the end of its answer."""
    retries: int = 6
    price_in: float = 0.0
    """Price of a million tokens read."""
    price_out: float = 0.0
    """Price of a million tokens written."""

    def __post_init__(self) -> None:
        try:
            url = httpx2.URL(self.url)
        except httpx2.InvalidURL as error:
            raise ConfigError(f"the endpoint's URL cannot be read ({error}): give one like {_EXAMPLE}") from error
        if url.userinfo:
            raise ConfigError(f"the endpoint's URL holds a password: put it into {self.key_variable} instead")
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigError(f"endpoint {self.url!r} is no web address: give one like {_EXAMPLE}")

    @property
    def chat_url(self) -> httpx2.URL:
        """Where requests go; a query of the base URL stays."""
        url = httpx2.URL(self.url)
        return url.copy_with(path=url.path.rstrip("/") + "/chat/completions")

    @property
    def shown(self) -> str:
        """The base URL for messages and hashes: without its query, where some services want a key."""
        return str(httpx2.URL(self.url).copy_with(query=None)).rstrip("/")

    @property
    def id(self) -> str:
        """In the place of a policy's lineage: the weights behind an endpoint cannot be hashed."""
        return content_id("endpoint", self.shown, self.model)


_EXAMPLE = "http://localhost:8000/v1"


@dataclass
class Usage:
    """What was asked. Answers from a journal count as requests, but not their tokens, which were paid for before."""

    requests: int = 0
    kept: int = 0
    """Of the requests, those that a journal answered."""
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, reply: Reply, *, kept: bool) -> None:
        """Count one answer."""
        self.requests += 1
        self.kept += kept
        self.failed += bool(reply.error)
        if kept:
            return
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens


class EndpointClient:
    """Asks one endpoint.

    Args:
        sleep, clock: what waits and what tells seconds; the tests bring their own.

    Raises:
        ConfigError: the key cannot stand in a header.
    """

    def __init__(
        self, endpoint: Endpoint, *, sleep: Sleep = asyncio.sleep, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.endpoint = endpoint
        self.usage = Usage()
        self._key = os.environ.get(endpoint.key_variable, "").strip()
        if not self._key.isascii() or re.search(r"[\s\x00-\x1f\x7f]", self._key):
            raise ConfigError(f"the key in {endpoint.key_variable} holds characters that no key has: set it again")
        self._sleep = sleep
        self._pace = Pace(60 / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0, sleep, clock)
        self._refused: set[str] = set()
        self._said: set[str] = set()

    @property
    def cost(self) -> float:
        """What the tokens so far cost, in the unit of the prices."""
        read, written = self.usage.prompt_tokens, self.usage.completion_tokens
        return (read * self.endpoint.price_in + written * self.endpoint.price_out) / 1e6

    def complete(self, bodies: Sequence[Body], *, journal: Journal | None = None, label: str = "ask") -> list[Reply]:
        """Answers in the order of `bodies`; equal requests are sent once. A failed one has its `error` set.

        Args:
            bodies: requests; the model's name is put in here.
            journal: answers by content of the request. Failures are not kept, so a resumed run asks them again.

        Raises:
            ModelError: the first requests all failed for one cause, which the message names.
        """
        asked = [{"model": self.endpoint.model, **body} for body in bodies]
        keys = [content_id("chat", self.endpoint.shown, body) for body in asked]
        kept = journal.entries() if journal else {}
        found = {key: Reply(**kept[key]) for key in keys if key in kept}
        missing = {key: body for key, body in zip(keys, asked, strict=True) if key not in found}
        with (
            progress(label, len(found) + len(missing), "requests", done=len(found)) as advance,
            self._asked(missing) as answers,
        ):
            for key, answer in answers:
                found[key] = Reply(error=answer.words) if isinstance(answer, Failure) else answer
                if journal and not found[key].error:
                    journal.append(key, asdict(found[key]))
                advance(1)
        for key in dict.fromkeys(keys):
            self.usage.add(found[key], kept=key not in missing)
        return [found[key] for key in keys]

    @contextmanager
    def _asked(self, requests: Mapping[str, Body]) -> Iterator[Iterator[tuple[str, Reply | Failure]]]:
        """Answers by key as they come; leaving early cancels the rest."""
        results: queue.SimpleQueue[tuple[str, Reply | Failure] | Exception] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._work(requests, results.put))
        thread = threading.Thread(target=_drive, args=(loop, task, results.put), daemon=True)
        thread.start()
        try:
            yield (_unless_broken(results.get()) for _ in requests)
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()

    async def _work(self, requests: Mapping[str, Body], put: Callable[[Any], None]) -> None:
        waiting = iter(requests.items())
        prospects = Prospects(self.endpoint.shown, self.endpoint.model, self.endpoint.key_variable, len(requests))
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self.endpoint.concurrency)

        async def worker(http: httpx2.AsyncClient) -> None:
            for key, body in waiting:
                answer = await self._ask(http, body)
                put(prospects.verdict(answer) or (key, answer))
                if prospects.hopeless:
                    return

        async with (
            httpx2.AsyncClient(headers=headers, limits=limits, timeout=None) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(min(self.endpoint.concurrency, len(requests))):
                group.create_task(worker(http))

    async def _ask(self, http: httpx2.AsyncClient, body: Body) -> Reply | Failure:
        """An answer, or the last of as many failures as `retries` allows. Waits in its own place in the queue."""
        tried = 0
        while True:
            sent = self._accepted(body)
            await self._pace.turn()
            answer = await self._post(http, sent)
            if isinstance(answer, Reply):
                return answer
            if self._learned(answer, sent):
                continue
            if not answer.again or tried == self.endpoint.retries or (answer.wait or 0) > LONGEST_RETRY_AFTER_S:
                return answer
            self._say(answer)
            if answer.wait is None:
                longest = min(FIRST_WAIT_S * 2**tried, LONGEST_WAIT_S)
                await self._sleep(longest * random.uniform(0.5, 1.0))  # not seeded: no result depends on it
            else:
                self._pace.hold(answer.wait)
            tried += 1

    async def _post(self, http: httpx2.AsyncClient, body: Body) -> Reply | Failure:
        try:
            async with (
                asyncio.timeout(self.endpoint.timeout),
                http.stream("POST", self.endpoint.chat_url, json=body) as response,
            ):
                content = await _content(response)
        except TimeoutError:
            return Failure(f"no answer within {self.endpoint.timeout:g} s", again=True)
        except httpx2.RequestError as error:
            words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            return Failure(words, again=True, everyone=isinstance(error, httpx2.ConnectError))
        if content is None:
            return Failure(f"the answer is longer than {LONGEST_BODY:,} bytes")
        if response.status_code == 200:
            return read_reply(content, self._key)
        return failure_of(response.status_code, response.headers, content, self._key)

    def _accepted(self, body: Body) -> Body:
        """The request without what this server has refused."""
        sent = {name: value for name, value in body.items() if name not in self._refused}
        return sent | {new: body[old] for old in sorted(self._refused) if (new := REPLACED[old]) and old in body}

    def _learned(self, failure: Failure, sent: Body) -> bool:
        """Whether the server refused a parameter that can be done without; it is not sent again."""
        if failure.status not in (400, 422) or not REFUSAL.search(failure.words):
            return False
        found = {name for name in REPLACED if name in sent and re.search(rf"\b{name}\b", failure.words)}
        self._refused |= found
        return bool(found)

    def _say(self, failure: Failure) -> None:
        kind = f"{failure.status or failure.words}"
        if kind not in self._said:
            self._said.add(kind)
            note(
                f"endpoint {self.endpoint.shown}: {failure.words}; trying again, at most {self.endpoint.retries} times"
            )


async def _content(response: httpx2.Response) -> bytes | None:
    """The body, or None if it never ends."""
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > LONGEST_BODY:
            return None
    return b"".join(parts)


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], put: Callable[[Any], None]) -> None:
    with suppress(asyncio.CancelledError):
        try:
            loop.run_until_complete(task)
        except Exception as error:
            put(error)


def _unless_broken(result: tuple[str, Reply | Failure] | Exception) -> tuple[str, Reply | Failure]:
    if isinstance(result, Exception):
        raise result
    return result

"""Open-loop load on an annotation server: what is asked for comes when it is due, however long the answers take.

    python benchmarks/_annotation_load.py < settings.json

Reads one JSON object (`Load`'s fields), prints one. A request's latency counts from the moment it was due, so a server
that stalls is charged for all that came meanwhile; a client that waits for one answer before it asks for the next
would ask less of a slow server, and report less. It is a process of its own, so that its work is not the server's.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

GRACE_S = 10
"""What is unanswered so long after the last was due counts as an error."""


@dataclass
class Load:
    """Raters come at random moments, take an item, and say what they think of it a little later."""

    url: str
    tokens: list[str]
    """API tokens of the raters; one comes back once it has judged."""
    rate: float
    """Submissions per second, each after a request for an item."""
    seconds: float
    warm: float = 2.0
    """Seconds before them that are not counted."""
    think: float = 0.5
    """Seconds from when a rater came to when the verdict is due."""
    seed: int = 1
    latency: dict[str, list[float]] = field(default_factory=lambda: {"next": [], "submit": []})
    """Seconds from when it was due to the answer."""
    late: list[float] = field(default_factory=list)
    """How long after it was due the generator itself woke up: its own share in the latency."""
    errors: list[str] = field(default_factory=list)

    async def run(self) -> dict[str, Any]:
        """Offer the load; latencies in milliseconds."""
        clock, rng = asyncio.get_running_loop().time, random.Random(self.seed)
        self._idle: asyncio.LifoQueue[str] = asyncio.LifoQueue()
        for token in self.tokens:
            self._idle.put_nowait(token)
        self._open: list[Connection] = []
        self._counted = due = clock() + 0.1
        self._counted += self.warm
        tasks = set()
        while due < self._counted + self.seconds:
            await asyncio.sleep(due - clock())
            tasks.add(asyncio.create_task(self._come(due)))
            due += rng.expovariate(self.rate)
        _, unanswered = await asyncio.wait(tasks, timeout=GRACE_S)
        self.errors += ["no answer"] * len(unanswered)
        took = clock() - self._counted
        milliseconds = {name: [1000 * one for one in found] for name, found in self.latency.items()}
        answered = len(self.latency["submit"]) / max(self.seconds, took - self.think)
        return {
            **milliseconds,
            "late": [1000 * one for one in self.late],
            "errors": self.errors,
            "per_second": answered,
        }

    async def _come(self, due: float) -> None:
        clock = asyncio.get_running_loop().time
        self.late.append(clock() - due)
        token = await self._idle.get()
        try:
            shown = await self._timed("next", token, None, due)
            if "nothing" in shown:
                raise ConnectionError(f"nothing to judge: {shown['nothing']}")
            await asyncio.sleep(due + self.think - clock())
            verdict = {"client_id": str(uuid.uuid4()), "item_id": shown["id"]}
            await self._timed("submit", token, {**verdict, "kind": "choice", "strength": 2}, due + self.think)
        except (OSError, EOFError, RefusedAnswer) as error:
            self.errors.append(str(error) or type(error).__name__)
        else:
            self._idle.put_nowait(token)

    async def _timed(self, what: str, token: str, body: Any, due: float) -> Any:
        clock = asyncio.get_running_loop().time
        answer = await self._post({"next": "next", "submit": "judgements"}[what], token, body)
        if due >= self._counted:
            self.latency[what].append(clock() - due)
        return answer

    async def _post(self, path: str, token: str, body: Any) -> Any:
        """By a connection that is free, or a new one; a server may close those that are idle."""
        while self._open:
            connection = self._open.pop()
            try:
                answer = await connection.post(path, token, body)
            except (OSError, EOFError):
                connection.writer.close()
                continue
            self._open.append(connection)
            return answer
        parts = urlsplit(self.url)
        connection = Connection(parts.netloc, *await asyncio.open_connection(parts.hostname, parts.port))
        answer = await connection.post(path, token, body)
        self._open.append(connection)
        return answer


@dataclass
class Connection:
    """HTTP/1.1, as little of it as is needed: a client that costs less than the server that it measures."""

    host: str
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def post(self, path: str, token: str, body: Any) -> Any:
        """The answer's JSON.

        Raises:
            RefusedAnswer: any status but 200.
        """
        data = b"" if body is None else json.dumps(body).encode()
        head = f"POST /api/v1/{path} HTTP/1.1\r\nHost: {self.host}\r\nAuthorization: Bearer {token}\r\n"
        kind = f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        self.writer.write((head + kind).encode() + data)
        answered = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(answered.split("content-length: ")[1].split("\r\n")[0])
        content = await self.reader.readexactly(length)
        status = answered.split(" ", 2)[1]
        if status != "200":
            raise RefusedAnswer(f"{status}: {content.decode()[:200]}")
        return json.loads(content)


class RefusedAnswer(Exception):
    """Not what was hoped for; says what came."""


def main() -> None:
    """Read the settings, print what was found."""
    print(json.dumps(asyncio.run(Load(**json.load(sys.stdin)).run())))


if __name__ == "__main__":
    main()

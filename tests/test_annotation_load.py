"""Fifty raters at once over HTTP, and a server that dies under them: nothing is lost, doubled or over quota.

The server is `prefloop annotate` in a process of its own. What its clients saw acknowledged is held against the log in
the database once it has stopped. SIGKILL leaves the system's cache alone, so this does not show that a power cut is
survived; that commits are flushed to disk is asserted on the writer's connection (`test_annotation_database`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from annotation_queue import fix_secret
from annotation_server import new_item
from ports import free_port
from postgres import Postgres

from prefloop.annotation.accounts import create_rater, open_session
from prefloop.annotation.database import open_database
from prefloop.annotation.guards import session_cookie
from prefloop.annotation.items import add_items, create_project
from prefloop.annotation.schema import item, judgement, showing
from prefloop.annotation.service import Address, milliseconds
from prefloop.annotation.tokens import issue_token
from prefloop.config.annotation import AnnotationConfig

WAIT_S, SOAK_S = 120, 3600
PAUSE_S = 0.05
"""Before a client asks again."""
HABITS = {"once": 60, "retry": 8, "double click": 8, "two tabs": 8, "skip": 8, "edit": 8}
"""What raters do with an item, and how often in a hundred."""
OVERLAP = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    sqlite = request.param == "sqlite"
    return str(tmp_path / "p.db") if sqlite else request.getfixturevalue("postgres").create_database()


def make_project(place: str, items: int, raters: int) -> list[str]:
    """A project with hidden gold and repeats; the API tokens of its raters, then one of them as a session's cookie."""
    config = AnnotationConfig(overlap=OVERLAP, extra_raters=0, skips=50)
    known = {"best": [0], "explanation": ""}
    new = [new_item(f"question {number}", "an answer", "another") for number in range(items)]
    new += [new_item(f"gold {number}", "right", "wrong", role="gold", known=known) for number in range(5)]
    now = milliseconds()
    database = open_database(place)
    with database.writing.begin() as connection:
        create_project(connection, config, "test", now)
        fix_secret(connection)
        add_items(connection, new)
        people = [create_rater(connection, f"rater {number}", "rater", None, now) for number in range(raters)]
        tokens = [issue_token(connection, person, "test", ("annotate",), now) for person in people]
        tokens.append(open_session(connection, people[0], now))
    database.close()
    return tokens


@dataclass
class Server:
    """`prefloop annotate`, each time on the same port and database."""

    place: str
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process = field(init=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        options = ["--database", self.place, "--no-browser", "--port", str(self.port)]
        return [sys.executable, "-m", "prefloop", "annotate", *options]

    async def start(self) -> None:
        """Returns once it listens; who comes before it is up waits."""
        self.process = await asyncio.create_subprocess_exec(*self.command, stdout=asyncio.subprocess.PIPE)
        assert self.process.stdout is not None
        await self.process.stdout.readuntil(b"stop  Ctrl-C")

    async def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return await self.process.wait()


@dataclass
class Log:
    """What all clients sent and were told."""

    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    """``seq`` by client id."""
    states: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    cut: int = 0
    """Requests without an answer."""
    over: bool = False
    """Finish what is in hand, take nothing new."""

    async def reaches(self, acknowledged: int) -> None:
        while len(self.acknowledged) < acknowledged:
            await asyncio.sleep(PAUSE_S / 10)


@dataclass
class Rater:
    """A client that sends the very same again until it is answered."""

    http: httpx2.AsyncClient
    headers: dict[str, str]
    log: Log
    rng: random.Random

    async def post(self, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        while True:
            try:
                response = await self.http.post(f"/api/v1/{path}", json=body, headers=self.headers)
            except httpx2.TransportError:
                self.log.cut += 1
            else:
                if response.status_code != 503:
                    return response
            await asyncio.sleep(PAUSE_S)

    async def submit(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """What became of it; None where another verdict stands."""
        key = body["client_id"]
        self.log.sent[key] = body
        response = await self.post("judgements", body)
        if response.status_code == 409:
            self.log.refused += 1
            return None
        assert response.status_code == 200, response.text
        saved: dict[str, Any] = response.json()
        assert self.log.acknowledged.setdefault(key, saved["seq"]) == saved["seq"]
        self.log.states[saved["state"]] += 1
        return saved

    def verdict(self, shown: dict[str, Any], kind: str = "choice", **options: Any) -> dict[str, Any]:
        said = {"strength": self.rng.randrange(6)} if kind == "choice" else {"reason": "broken"}
        client_id = str(uuid.UUID(int=self.rng.getrandbits(128)))
        return {"client_id": client_id, "item_id": shown["id"], "kind": kind} | said | options

    async def work(self) -> None:
        while not self.log.over:
            response = await self.post("next")
            assert response.status_code == 200, response.text
            shown = response.json()
            if shown.get("nothing") == "done":
                return
            if "nothing" in shown:
                assert shown["nothing"] == "held"
                await asyncio.sleep(PAUSE_S)
            else:
                await self.judge(shown)

    async def judge(self, shown: dict[str, Any]) -> None:
        (habit,) = self.rng.choices(list(HABITS), list(HABITS.values()))
        body = self.verdict(shown, "skip" if habit == "skip" else "choice")
        if habit == "double click":
            both = await asyncio.gather(self.submit(body), self.submit(body))
            assert sum(one is not None and one["state"] == "known" for one in both) >= 1
            return
        if habit == "two tabs":
            both = await asyncio.gather(self.submit(body), self.submit(self.verdict(shown)))
            assert both.count(None) == 1
            return
        saved = await self.submit(body)
        assert saved is not None
        if habit == "retry":
            assert await self.submit(body) == {**saved, "state": "known"}
        if habit == "edit":
            await self.submit(self.verdict(shown, revises=saved["seq"], comment="on second thoughts"))


def raters(http: httpx2.AsyncClient, tokens: list[str], log: Log) -> list[Rater]:
    return [
        Rater(http, {"Authorization": f"Bearer {token}"}, log, random.Random(number))
        for number, token in enumerate(tokens)
    ]


def client(server: Server) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx2.AsyncClient(base_url=server.url, timeout=30, limits=limits)


def run(main: Coroutine[Any, Any, None], server: Server, seconds: float = WAIT_S) -> None:
    """Run a test's coroutine; its server never outlives it."""

    async def bounded() -> None:
        try:
            async with asyncio.timeout(seconds):
                await main
        finally:
            if hasattr(server, "process") and server.process.returncode is None:
                await server.end(signal.SIGKILL)

    asyncio.run(bounded())


def check(place: str, log: Log, *, full: bool) -> None:
    """The database holds what was acknowledged, once, and nothing else; its counters are the fold of that."""
    database = open_database(place)
    with database.reading.connect() as connection:
        rows = connection.execute(sa.select(judgement).order_by(judgement.c.seq)).all()
        items = {row.id: row for row in connection.execute(sa.select(item))}
        held = connection.execute(sa.select(showing).where(showing.c.state == "leased")).all()
        names = {row.handle: row.item_id for row in connection.execute(sa.select(showing))}
        if database.sqlite:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
            assert not connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    database.close()
    assert len(rows) == len({row.client_id for row in rows})
    assert {row.client_id: row.seq for row in rows} == log.acknowledged
    assert not any(differs(row, log.sent[row.client_id], names) for row in rows)
    latest = fold(rows, items)
    leases = Counter(row.item_id for row in held if row.turn == 0)
    for found in items.values():
        mine = [row for key, row in latest.items() if (key[0], key[2]) == (found.id, 0)]
        said = Counter(row.kind for row in mine)
        done = said["choice"] if found.role == "item" else 0
        assert (found.done, found.skipped, found.leased) == (done, said["skip"], leases[found.id])
        assert found.status == ("closed" if found.role == "item" and done == found.target else "open")
        assert not full or found.role != "item" or done == found.target == OVERLAP


def differs(row: Any, sent: dict[str, Any], names: dict[str, str]) -> bool:
    """Whether the log has something else than what was sent under this id."""
    defaults = {"strength": None, "reason": "", "comment": ""}
    wanted = {name: value for name, value in (defaults | sent).items() if name != "revises"}
    wanted["item_id"] = names[sent["item_id"]]
    return any(getattr(row, name) != value for name, value in wanted.items())


def fold(rows: list[Any], items: dict[str, Any]) -> dict[tuple[str, int, int], Any]:
    """The verdict that stands of each (item, rater, turn); at no moment had an item more of them than its target."""
    latest: dict[tuple[str, int, int], Any] = {}
    filled: dict[str, set[int]] = {key: set() for key in items}
    for row in rows:
        before = latest.get((row.item_id, row.rater_id, row.turn))
        assert row.revision == (0 if before is None else before.revision + 1)
        latest[row.item_id, row.rater_id, row.turn] = row
        counts = row.kind == "choice" and row.turn == 0 and items[row.item_id].role == "item"
        assert row.counted == counts
        if counts:
            filled[row.item_id].add(row.rater_id)
            assert len(filled[row.item_id]) <= items[row.item_id].target
    assert {row.seq for row in latest.values()} == {row.seq for row in rows if row.current}
    return latest


def test_fifty_raters_fill_every_item_and_no_more(place: str) -> None:
    tokens, log, server = make_project(place, items=40, raters=50)[:-1], Log(), Server(place)

    async def main() -> None:
        await server.start()
        async with client(server) as http:
            await asyncio.gather(*(one.work() for one in raters(http, tokens, log)))
        await server.end(signal.SIGTERM)

    run(main(), server)
    check(place, log, full=True)
    assert {"taken", "known", "skipped", "edited"} == set(log.states)
    assert log.refused


def kill(place: str, kills: int, seed: int, seconds: float = WAIT_S) -> None:
    """Kill the server again and again while sixteen raters work; they go on with the next one."""
    tokens, log, server = make_project(place, items=60 * kills, raters=16)[:-1], Log(), Server(place)
    rng = random.Random(seed)

    async def main() -> None:
        await server.start()
        async with client(server) as http, asyncio.TaskGroup() as working:
            for one in raters(http, tokens, log):
                working.create_task(one.work())
            for _ in range(kills):
                await log.reaches(len(log.acknowledged) + rng.randint(1, 80))
                await asyncio.sleep(rng.uniform(0, PAUSE_S))  # anywhere in a commit
                assert await server.end(signal.SIGKILL) == -signal.SIGKILL
                await server.start()
            log.over = True
        await server.end(signal.SIGTERM)

    run(main(), server, seconds)
    check(place, log, full=False)
    assert log.cut >= kills


def test_two_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    kill(str(tmp_path / "p.db"), 2, seed=1)


@pytest.mark.soak
def test_two_kills_on_postgresql_lose_nothing(postgres: Postgres) -> None:
    kill(postgres.create_database(), 2, seed=2)


@pytest.mark.soak
def test_two_hundred_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    kill(str(tmp_path / "p.db"), 200, seed=3, seconds=SOAK_S)


def test_sigterm_under_load_answers_what_it_took_and_ends_well(tmp_path: Path) -> None:
    place = str(tmp_path / "p.db")
    tokens, log, server = make_project(place, items=400, raters=20)[:-1], Log(), Server(place)
    codes: list[int] = []

    async def main() -> None:
        await server.start()
        async with client(server) as http, asyncio.TaskGroup() as working:
            for one in raters(http, tokens, log):
                working.create_task(one.work())
            await log.reaches(60)
            codes.append(await server.end(signal.SIGTERM))
            await server.start()
            log.over = True
        codes.append(await server.end(signal.SIGTERM))

    run(main(), server)
    check(place, log, full=False)
    assert log.cut
    assert codes == [0, 0]


def test_a_verdict_that_waited_for_the_restart_counts(tmp_path: Path) -> None:
    """A browser: its session, its item and the order of the answers are the same after the server was killed."""
    place = str(tmp_path / "p.db")
    *_, cookie = make_project(place, items=1, raters=1)
    log, server = Log(), Server(place)
    name, _ = session_cookie(Address(server.url))
    headers = {"Cookie": f"{name}={cookie}", "Origin": server.url, "Sec-Fetch-Site": "same-origin"}

    async def main() -> None:
        await server.start()
        async with client(server) as http:
            browser = Rater(http, headers, log, random.Random(0))
            shown = (await browser.post("next")).json()
            await server.end(signal.SIGKILL)
            waiting = asyncio.create_task(browser.submit(browser.verdict(shown)))
            while not log.cut:
                await asyncio.sleep(PAUSE_S)
            await server.start()
            saved = await waiting
            assert saved is not None
            assert saved["state"] == "taken"
            seen = (await http.get(f"/api/v1/items/{shown['id']}", headers=headers)).json()
            assert seen["answers"] == shown["answers"]
        await server.end(signal.SIGTERM)

    run(main(), server)
    check(place, log, full=False)


@pytest.mark.soak  # quick ones: test_annotation_open, and by the lock test_annotation_database
def test_a_second_server_on_the_same_project_is_refused(place: str) -> None:
    make_project(place, items=1, raters=1)
    server = Server(place)

    async def main() -> None:
        await server.start()
        second = await asyncio.to_thread(subprocess.run, Server(place).command, capture_output=True, text=True)
        assert second.returncode == 5
        assert "another process serves" in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        assert second.stdout == ""
        assert (await asyncio.to_thread(httpx2.get, f"{server.url}/login")).status_code == 200

    run(main(), server)

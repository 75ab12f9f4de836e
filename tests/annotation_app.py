"""What tests of the annotation API share: a small project on SQLite with people in every role, its app, and a server."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from annotation_queue import fix_secret
from annotation_tables import new_database
from fastapi import FastAPI
from starlette.testclient import TestClient

from prefloop.annotation import api
from prefloop.annotation.accounts import create_rater, open_session
from prefloop.annotation.guards import session_cookie
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.service import Address, Service
from prefloop.annotation.tokens import issue_token
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt, content_id

START = 1_700_000_000_000
PEOPLE = {"admin": "admin", "reviewer": "reviewer", "first": "rater", "second": "rater"}
"""Names and roles."""
SCOPES = {
    "admin": ("annotate", "read", "manage"),
    "reviewer": ("annotate", "read"),
    "rater": ("annotate",),
}
POLICY = "policy-that-nobody-may-see"
JUDGE = "judge-that-nobody-may-see"
RESULT = {"columns": ["n"], "rows": [[1]], "count": 1, "error": None, "identical_to": "hash-that-stays-here"}


@dataclass
class Clock:
    """Milliseconds that pass when they are told to."""

    now: int = START

    def __call__(self) -> int:
        return self.now

    def pass_(self, milliseconds: int) -> None:
        self.now += milliseconds


@dataclass
class World:
    """One project with its app."""

    service: Service
    app: FastAPI
    clock: Clock
    ids: dict[str, int]
    sessions: dict[str, str]
    tokens: dict[str, str]
    """With every scope that the role has."""
    items: list[str] = field(default_factory=list)

    def client(self, name: str | None = None, token: str | None = None) -> TestClient:
        """Somebody with their token, or with one given; without either, nobody."""
        given = token or (self.tokens[name] if name else None)
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        return TestClient(self.app, self.service.address.origin, raise_server_exceptions=False, headers=headers)

    def browser(self, name: str) -> TestClient:
        """Somebody with their session."""
        client = TestClient(self.app, self.service.address.origin, raise_server_exceptions=False)
        client.cookies.set(session_cookie(self.service.address)[0], self.sessions[name])
        return client

    def token(self, name: str, *scopes: str) -> str:
        """Another token of somebody."""
        return self.service.writer.run(lambda c: issue_token(c, self.ids[name], "narrow", scopes, self.clock()))


def new_item(place: int, role: str = "item", answers: int = 2) -> NewItem:
    """An item whose every hidden part has a name that can be searched for."""
    meta = {"gold_sql": "meta-that-nobody-may-see"}
    prompt = Prompt.create(({"role": "user", "content": f"question {place}"},), "nba", "train", meta)
    written = tuple(completion(prompt, index, f"answer {index} to question {place}") for index in range(answers))
    known = None if role == "item" else {"best": [0], "explanation": f"because of {place}"}
    expected = {"best": 1, "judge": JUDGE}
    results = (RESULT, *(None,) * (answers - 1))
    return NewItem(
        prompt, written, results, {"schema": "CREATE TABLE t (n)"}, role, known, expected, "hidden-stratum", 0.125
    )


def completion(prompt: Prompt, index: int, text: str) -> Completion:
    """One answer."""
    key = content_id("completion", prompt.id, index)
    return Completion(key, prompt.id, index, 0, text, (1, 2), (-0.5, -0.5), "stop", POLICY, {"temperature": 1.0}, 7)


@contextmanager
def world(
    place: Path | str, items: list[NewItem] | None = None, origin: str = "http://127.0.0.1:8642", **settings: Any
) -> Iterator[World]:
    """A project with four people, by default of five items, each wanted once; in a folder, or in a database's URL."""
    database = new_database(place / "project.db" if isinstance(place, Path) else place)
    clock = Clock()
    service = Service(database, Writer(database.writing), Address(origin), clock)
    app = FastAPI(routes=list(api.router.routes))
    new = [new_item(place) for place in range(5)] if items is None else items
    defaults: dict[str, Any] = {"overlap": 1, "extra_raters": 0, "gold_share": 0, "repeat_share": 0}
    config = AnnotationConfig(**defaults | settings)

    found = World(service, app, clock, {}, {}, {}, [one.id for one in new])

    def fill(connection: Any) -> None:
        create_project(connection, config, "somewhere", clock())
        fix_secret(connection)
        add_items(connection, new)
        for name, role in PEOPLE.items():
            found.ids[name] = create_rater(connection, name, role, None, clock())
            found.sessions[name] = open_session(connection, found.ids[name], clock())
            found.tokens[name] = issue_token(connection, found.ids[name], "all", SCOPES[role], clock())

    try:
        service.writer.run(fill)
        found.app.state.service = service
        api.install_errors(found.app)
        yield found
    finally:
        service.close()


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The app behind a real server on a free port; its origin."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)  # between looks at a condition that the test then asserts
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def choice(item: dict[str, Any], strength: int = 1, **more: Any) -> dict[str, Any]:
    """A verdict on an item that `next` gave."""
    fresh = {"client_id": str(uuid.uuid4()), "item_id": item["id"]}
    return fresh | {"kind": "choice", "strength": strength} | more

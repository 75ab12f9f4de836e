"""A running annotation server on a project of its own, and people to sign in with: for browsers and for load."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from annotation_queue import fix_secret
from annotation_tables import new_database

from prefloop.annotation.accounts import create_rater, invite, open_session
from prefloop.annotation.app import create_app
from prefloop.annotation.database import owned
from prefloop.annotation.guards import session_cookie
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.service import Address, Service, milliseconds
from prefloop.annotation.tokens import issue_token
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt


def new_item(question: str, *answers: str, **options: object) -> NewItem:
    """An item; answer i is by the policy ``policy-i``."""
    prompt = Prompt.create(({"role": "user", "content": question},), "t", "train")
    completions = tuple(
        Completion(f"secret-{question}-{i}", prompt.id, i, 0, text, (), (), "stop", f"policy-{i}", {}, 0)
        for i, text in enumerate(answers)
    )
    return NewItem(prompt, completions, **options)  # type: ignore[arg-type]  # options are NewItem's own


@dataclass
class Running:
    """A server in a thread of this process."""

    service: Service
    url: str

    @property
    def cookie(self) -> str:
        """The name of the session's cookie."""
        return session_cookie(self.service.address)[0]

    def join_link(self, role: str = "admin") -> str:
        token = self.service.writer.run(lambda c: invite(c, role, milliseconds(), 1))
        return f"{self.url}/join#{token}"

    def session(self, name: str, role: str = "rater") -> str:
        """The cookie of a new person."""

        def make(connection: object) -> str:
            rater_id = create_rater(connection, name, role, None, milliseconds())
            return open_session(connection, rater_id, milliseconds())

        return self.service.writer.run(make)

    def token(self, name: str, role: str = "rater", scopes: tuple[str, ...] = ("annotate",)) -> str:
        """An API token of a new person."""

        def make(connection: object) -> str:
            rater_id = create_rater(connection, name, role, None, milliseconds())
            return issue_token(connection, rater_id, "test", scopes, milliseconds())

        return self.service.writer.run(make)


@contextmanager
def serving(
    place: str | Path,
    items: list[NewItem],
    config: AnnotationConfig | None = None,
    *,
    alone: bool = False,
    clock: Callable[[], int] = milliseconds,
) -> Iterator[Running]:
    """A server on a free port of the loopback."""
    database = new_database(place)
    with owned(database), socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # who comes before the server is up waits
        writer = Writer(database.writing)
        if config is not None or items:
            writer.run(lambda c: create_project(c, config or AnnotationConfig(), "test", clock()))
            writer.run(fix_secret)
            writer.run(lambda c: add_items(c, items))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        service = Service(database, writer, Address(url), clock, alone=alone)
        server = uvicorn.Server(uvicorn.Config(create_app(service), log_level="warning", server_header=False))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        try:
            yield Running(service, url)
        finally:
            server.should_exit = True
            thread.join()
            service.close()

"""Projects for the benchmark of the annotation server, the server itself in a process of its own, and PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from prefloop.annotation.accounts import create_rater, open_session
from prefloop.annotation.database import open_database
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.schema import item, judgement, showing
from prefloop.annotation.service import milliseconds
from prefloop.annotation.simulate import enrol
from prefloop.annotation.stream import handle_of, read_project
from prefloop.annotation.tokens import issue_token
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt

OVERLAP = 3
SPAN_MS = 7 * 24 * 3_600_000
"""The verdicts that a project begins with came in the week before."""
_WORDS = "the a model answer result query table value is was of in for which player season points when than and".split()
_CODE = "\n\n```sql\nSELECT name, SUM(points) FROM games GROUP BY name ORDER BY 2 DESC LIMIT 5;\n```\n"


@dataclass(frozen=True)
class Accounts:
    """Secrets of who may come in."""

    tokens: tuple[str, ...]
    """API tokens of the raters."""
    sessions: tuple[str, ...]
    """Cookies of the raters."""
    admin: str
    """Cookie of the admin."""


@dataclass(frozen=True)
class Server:
    """`prefloop annotate` at work."""

    url: str
    pid: int
    first_answer_s: float
    """From the start of the process to its first answer with status 200."""

    def megabytes(self) -> float:
        """Resident memory, as the system counts it."""
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True)
        return int(said.stdout) / 1024


def make_project(place: str | Path, items: int, raters: int, judgements: int = 0) -> Accounts:
    """Fill an empty database; `judgements` are on the first items, of all raters in turn."""
    now = milliseconds()
    database = open_database(place)
    with database.writing.begin() as connection:
        create_project(connection, AnnotationConfig(overlap=OVERLAP, name="benchmark"), "benchmark", now - SPAN_MS)
        add_items(connection, (new_item(number) for number in range(items)))
        people = enrol(connection, raters, now - SPAN_MS)
        add_judgements(connection, people, judgements, now)
        tokens = tuple(issue_token(connection, one, "benchmark", ("annotate",), now) for one in people)
        sessions = tuple(open_session(connection, one, now) for one in people)
        admin = open_session(connection, create_rater(connection, "admin", "admin", None, now), now)
    database.close()
    return Accounts(tokens, sessions, admin)


def new_item(number: int) -> NewItem:
    """A question and two answers of some hundred characters; one in 20 is gold."""
    rng = random.Random(number)
    prompt = Prompt.create(({"role": "user", "content": f"{number}: {_prose(rng, 40)}?"},), "benchmark", "train")
    answers = tuple(
        Completion(f"{prompt.id}-{i}", prompt.id, i, 0, _prose(rng, 60) + _CODE, (), (), "stop", f"policy-{i}", {}, i)
        for i in range(2)
    )
    known = {"best": [0], "explanation": ""}
    return NewItem(prompt, answers, role="gold", known=known) if number % 20 == 19 else NewItem(prompt, answers)


def _prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


def add_judgements(connection: sa.Connection, people: list[int], count: int, now: int) -> None:
    """As many verdicts as raters would have left who began with the first item; straight into the tables."""
    first = sa.select(item.c.id).where(item.c.role == "item").order_by(item.c.position)
    ids = list(connection.scalars(first.limit(-(-count // OVERLAP))))
    shown, said, secret = [], [], read_project(connection).secret
    for number in range(count):
        opened = now - SPAN_MS + number * (SPAN_MS // count)
        both = {"item_id": ids[number // OVERLAP], "rater_id": people[number % len(people)], "turn": 0}
        both |= {"order": [number % 2, 1 - number % 2], "opened": opened}
        handle = handle_of(secret, both["item_id"], both["rater_id"], 0)
        shown.append({**both, "handle": handle, "state": "answered", "expires": opened})
        row = {"client_id": f"{number:032x}", "revision": 0, "current": True, "counted": True, "kind": "choice"}
        row |= {"strength": number % 5 + 1, "objectives": {}, "reason": "", "comment": "", "edits": {}}
        said.append({**both, **row, "submitted": opened + 30_000})
    if not count:
        return
    connection.execute(sa.insert(showing), shown)
    connection.execute(sa.insert(judgement), said)
    full = ids[: count // OVERLAP]
    for start in range(0, len(full), 500):
        which = item.c.id.in_(full[start : start + 500])
        connection.execute(sa.update(item).where(which).values(done=OVERLAP, status="closed"))
    if rest := count % OVERLAP:
        connection.execute(sa.update(item).where(item.c.id == ids[-1]).values(done=rest))


def write_prompts(path: Path, prompts: int) -> Path:
    """A file of answers, as `prefloop annotate` reads it."""
    rows = []
    for number in range(prompts):
        made = new_item(number)
        first, second = (answer.text for answer in made.answers)
        rows.append({"prompt": made.prompt.messages[0]["content"], "first": first, "second": second})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@contextlib.contextmanager
def served(*arguments: str | Path) -> Iterator[Server]:
    """`prefloop annotate` with these arguments on any free port, until the block ends."""
    command = [sys.executable, "-m", "prefloop", "annotate", *map(str, arguments), "--no-browser", "--port", "0"]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        opened = next((line for line in process.stdout if line.startswith("  open")), None)
        if opened is None:
            raise RuntimeError(f"the server did not start: {process.communicate()[1][-500:]}")
        url = opened.split()[1].partition("/join")[0]
        httpx2.get(f"{url}/login", timeout=60).raise_for_status()
        yield Server(url, process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextlib.contextmanager
def postgresql() -> Iterator[str | None]:
    """The URL of an empty database on a server that makes commits durable, or None where there is no PostgreSQL."""
    tests = str(Path(__file__).parents[1] / "tests")
    sys.path.append(tests)
    import postgres

    sys.path.remove(tests)
    postgres._FAST.update(fsync="on", full_page_writes="on")  # its tests need no durability; what is measured here does
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(postgres.running_postgres())
        except pytest.skip.Exception:
            yield None
            return
        yield server.create_database()


def kilobytes(place: Path) -> float:
    """An SQLite database with the log beside it."""
    found = (Path(f"{place}{suffix}") for suffix in ("", "-wal"))
    return sum(path.stat().st_size for path in found if path.exists()) / 1024

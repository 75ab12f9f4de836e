"""Annotation projects for tests of the figures: items, raters who say what they are told to, and simulated ones."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from annotation_tables import new_database

from prefloop.annotation.database import Database
from prefloop.annotation.figures import figures, reading
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.protocol import Verdict
from prefloop.annotation.queue import Nothing, Showing, lease, submit
from prefloop.annotation.schema import judgement
from prefloop.annotation.schema import project as project_table
from prefloop.annotation.simulate import SimulatedRater, enrol
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt

START = 1_700_000_000_000
PLAIN = {"overlap": 2, "extra_raters": 0, "gold_share": 0.0, "repeat_share": 0.0}


@dataclass
class Project:
    """A project, its writer, and what makes it."""

    database: Database
    writer: Writer

    def add(self, items: Sequence[NewItem]) -> list[str]:
        self.writer.run(lambda connection: add_items(connection, items))
        return [one.id for one in items]

    def raters(self, count: int) -> list[int]:
        return self.writer.run(lambda connection: enrol(connection, count, START))

    def judge(self, rater: int, says: Mapping[str, Any], at: int = START) -> None:
        """Answer what the queue offers: first, tie, second, bad, tiers of a ranking, or skip."""

        def step(connection: sa.Connection) -> bool:
            shown = lease(connection, rater, at)
            if isinstance(shown, Nothing):
                return False
            said = _verdict(says[shown.item_id], shown)
            base = {"client_id": str(uuid.uuid4()), "item_id": shown.handle}
            submit(connection, rater, Verdict.model_validate(base | said), at + 20_000)
            return True

        while self.writer.run(step):
            pass

    def fill(
        self, people: Mapping[int, SimulatedRater], items: Sequence[NewItem], quality: Mapping[str, float]
    ) -> None:
        """Verdicts of simulated raters on all items, sides at random, past the queue: many in no time."""
        rows = []
        for rater, one in people.items():
            rng = random.Random(rater)
            for asked in items:
                order = rng.sample(range(len(asked.answers)), len(asked.answers))
                qualities = {index: quality[answer.id] for index, answer in enumerate(asked.answers)}
                lengths = {index: len(answer.text) for index, answer in enumerate(asked.answers)}
                said = one.says("pairwise", order, qualities, lengths, rng)
                base = {"client_id": str(uuid.uuid4()), "item_id": asked.id}
                row = Verdict.model_validate(base | said).row() | {"rater_id": rater, "order": order, "revision": 0}
                row["turn"] = 0
                took = round(1000 * rng.lognormvariate(log(one.seconds), 0.4))
                row |= {"counted": asked.role == "item", "current": True, "opened": START, "submitted": START + took}
                rows.append(row)
        self.writer.run(lambda connection: connection.execute(sa.insert(judgement), rows))

    def figures(self) -> dict[str, Any]:
        with reading(self.database.url.render_as_string(hide_password=False)) as connection:
            found = figures(connection)
        return json.loads(json.dumps(found, allow_nan=False))


def _verdict(said: Any, shown: Showing) -> dict[str, Any]:
    if said == "skip":
        return {"kind": "skip", "reason": "ambiguous"}
    if not isinstance(said, str):
        return {"kind": "ranking", "ranking": said}
    if said in ("tie", "bad"):
        return {"kind": "choice", "strength": {"tie": 3, "bad": 0}[said]}
    return {"kind": "choice", "strength": 2 if shown.order[0] == {"first": 0, "second": 1}[said] else 4}


@contextmanager
def projects(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    """Makes projects from their settings, in files of their own or in a database given by its URL."""
    made: list[Project] = []

    def build(place: str = "", **settings: Any) -> Project:
        database = new_database(place or tmp_path / f"project-{len(made)}.db")
        project = Project(database, Writer(database.writing))
        config = AnnotationConfig(**(PLAIN | settings))
        project.writer.run(lambda connection: create_project(connection, config, "a test", START))
        project.writer.run(
            lambda connection: connection.execute(sa.update(project_table).values(secret=f"{len(made)}"))
        )
        made.append(project)
        return project

    try:
        yield build
    finally:
        for project in made:
            project.writer.close()
            project.database.close()


def item_of(number: int, texts: Sequence[str] = ("one", "two"), prompt: str = "", **options: Any) -> NewItem:
    """An item; its answers are of policies p0, p1, … and have the ids ``number-index``."""
    asked = Prompt.create(({"role": "user", "content": prompt or f"question {number}"},), "test", "train")
    policies = options.pop("policies", [f"p{index}" for index in range(len(texts))])
    answers = tuple(
        Completion(f"{number}-{index}", asked.id, index, 0, text, (), (), "stop", policy, {}, 1)
        for index, (text, policy) in enumerate(zip(texts, policies, strict=True))
    )
    return NewItem(asked, answers, **options)


def words(count: int, seed: int = 0) -> list[NewItem]:
    """Items whose two answers differ in length at random."""
    rng = random.Random(seed)
    return [item_of(n, ["x" * length for length in rng.sample(range(5, 50), 2)]) for n in range(count)]


def drawn(items: Sequence[NewItem], gap: float, seed: int = 0) -> dict[str, float]:
    """Qualities: one answer of every item, either, is better by `gap` logits."""
    rng = random.Random(seed)
    found: dict[str, float] = {}
    for one in items:
        best = rng.randrange(len(one.answers))
        found |= {answer.id: gap * (index == best) for index, answer in enumerate(one.answers)}
    return found


def known(items: Sequence[NewItem], quality: Mapping[str, float]) -> list[NewItem]:
    """The same items as hidden gold."""
    return [
        replace(one, role="gold", known={"best": [int(np.argmax([quality[answer.id] for answer in one.answers]))]})
        for one in items
    ]

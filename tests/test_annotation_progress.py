"""Live counts of a project, worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from annotation_projects import START, Project, item_of, projects

from prefloop.annotation.control import set_state
from prefloop.annotation.progress import HOUR, local_midnight, progress
from prefloop.annotation.queue import lease


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


def test_progress_worked_by_hand(make: Callable[..., Project]) -> None:
    project = make(skips=1)
    ids = project.add([item_of(n) for n in range(3)])
    project.add([item_of(9, role="gold", known={"best": [0]})])
    a, b = project.raters(2)
    now = START + 20_000 + HOUR // 2
    project.judge(a, {ids[0]: "first", ids[1]: "skip", ids[2]: "tie"})

    def told(now: int, midnight: int) -> Any:
        with project.database.reading.connect() as connection:
            return progress(connection, now, midnight)

    found = told(now, START)
    assert found.items == {"gold": {"open": 1}, "item": {"aside": 1, "open": 2}}
    assert (found.done, found.target, found.aside, found.skips) == (2, 4, 1, {"ambiguous": 1})
    # two slots since work began, half an hour and 20 s ago
    assert found.per_hour == pytest.approx(2 / (0.5 + 20 / 3600))
    assert found.hours_left == pytest.approx(0.5 + 20 / 3600)
    assert [(row.rater_id, row.today, row.all, row.last) for row in found.raters] == [
        (a, 2, 2, START + 20_000),
        (b, 0, 0, None),
    ]
    assert (found.active, found.leases) == (0, 0)

    project.writer.run(lambda connection: lease(connection, b, now))
    held = told(now, now)
    assert (held.active, held.leases) == (1, 1)
    assert held.raters[0].today == 0
    assert told(START + 30_000, START).active == 2  # a verdict ten seconds ago, and a lease
    later = told(now + 10 * HOUR, now)
    assert (later.active, later.leases, later.per_hour, later.hours_left) == (0, 0, 0.0, None)
    project.writer.run(lambda connection: set_state(connection, "paused", "lunch", now))
    assert (told(now, START).state, told(now, START).reason) == ("paused", "lunch")
    json.dumps(asdict(found))


def test_progress_of_an_empty_and_of_a_finished_project(make: Callable[..., Project]) -> None:
    empty = make()
    with empty.database.reading.connect() as connection:
        found = progress(connection, START, START)
    assert (found.done, found.target, found.hours_left, found.raters, found.items) == (0, 0, 0.0, (), {})
    done = make()
    ids = done.add([item_of(1)])
    for rater in done.raters(2):
        done.judge(rater, {ids[0]: "first"})
    with done.database.reading.connect() as connection:
        found = progress(connection, START + 5 * HOUR, START)
    assert (found.done, found.target, found.hours_left) == (2, 2, 0.0)


def test_midnight_is_the_last_one_here() -> None:
    midnight = local_midnight(START)
    assert START - 25 * HOUR < midnight <= START
    assert local_midnight(midnight) == midnight
    assert local_midnight(midnight - 1) < midnight

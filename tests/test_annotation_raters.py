"""Simulated raters do as they are told, and the figures find their skill and habits again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from annotation_projects import START, Project, drawn, item_of, known, projects, words
from hypothesis import given
from hypothesis import strategies as st

from prefloop.annotation.simulate import SimulatedRater, simulate
from prefloop.errors import ConfigError

SHARES, SEEDS = st.floats(0, 1), st.integers(0, 99)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


@given(side=st.integers(-10, 10), length=st.integers(-10, 10), guess=st.integers(0, 10), skill=SHARES, seed=SEEDS)
def test_a_simulated_rater_orders_all_answers_or_is_refused(
    side: int, length: int, guess: int, skill: float, seed: int
) -> None:
    habits = (side / 10, length / 10, guess / 10)
    if abs(side) + abs(length) + guess > 10:
        with pytest.raises(ConfigError, match="add up"):
            SimulatedRater(skill, *habits)
        return
    one = SimulatedRater(skill, *habits)
    assert -1e-12 <= one.eta <= 1 + 1e-12
    order = one.order([2, 0, 1], {0: 0.0, 1: 50.0, 2: 0.0}, {0: 1, 1: 1, 2: 9}, random.Random(seed))
    assert sorted(order) == [0, 1, 2]


def test_habits_without_skill_are_certain() -> None:
    qualities, lengths, rng = {0: 100.0, 1: 0.0}, {0: 5, 1: 6}, random.Random(0)
    for one, best in (
        (SimulatedRater(side=1), 1),
        (SimulatedRater(side=-1), 0),
        (SimulatedRater(length=1), 1),
        (SimulatedRater(length=-1), 0),
        (SimulatedRater(skill=1), 0),
        (SimulatedRater(skill=0), 1),
    ):
        assert {one.order([1, 0], qualities, lengths, rng)[0] for _ in range(20)} == {best}


def test_a_simulation_stops_where_it_is_told_to_and_goes_on(make: Callable[..., Project]) -> None:
    project = make(overlap=3)
    items = words(10)
    project.add(items)
    people, quality = dict.fromkeys(project.raters(4), SimulatedRater()), drawn(items, 1)
    assert simulate(project.writer, people, quality, start=START, verdicts=7) == 7
    assert simulate(project.writer, people, quality, start=START) == 23
    assert simulate(project.writer, people, quality, start=START) == 0


def test_the_figures_find_the_skill_and_habits_of_simulated_raters(make: Callable[..., Project]) -> None:
    """3,200 verdicts on answers that differ without doubt; a rate of 400 has a standard error of 0.025 at most."""
    project = make(overlap=8)
    items = words(400)
    quality = drawn(items, gap=12)
    items[300:] = known(items[300:], quality)
    project.add(items)
    people = [
        SimulatedRater(1.0),
        SimulatedRater(0.9),
        SimulatedRater(0.75),
        SimulatedRater(0.6),
        SimulatedRater(0.95, side=0.4),
        SimulatedRater(0.95, side=-0.5),
        SimulatedRater(0.95, length=0.5, tie=0.1, both_bad=0.05),
        SimulatedRater(0.95, guess=0.6, tie=0.2, seconds=5),
    ]
    ids = project.raters(8)
    project.fill(dict(zip(ids, people, strict=True)), items, quality)
    found = project.figures()
    rows = {row["rater"]: row for row in found["raters"]}
    for number, one in enumerate(people, 1):
        row, decided = rows[f"simulated-{number}"], 1 - one.tie - one.both_bad
        assert row["gold"]["n"] == 100
        # within 4 standard errors: 0.2 of 100 cases, 0.1 of 400
        assert row["gold"]["value"] == pytest.approx(decided * one.eta, abs=0.2)
        assert row["gold"]["low"] <= row["gold"]["value"] <= row["gold"]["high"]
        assert row["left"]["value"] == pytest.approx((1 + one.side) / 2, abs=0.12)
        assert row["longer"]["value"] == pytest.approx((1 + one.length) / 2, abs=0.12)
        assert row["seconds"]["value"] == pytest.approx(one.seconds, rel=0.2)
        assert row["eta"]["value"] == pytest.approx(one.eta, abs=0.1)
    flagged = {number for number in range(1, 9) if rows[f"simulated-{number}"]["side_habit"]}
    assert {5, 6} <= flagged
    etas = [rows[f"simulated-{number}"]["eta"]["value"] for number in range(1, 9)]
    assert np.corrcoef(etas, [one.eta for one in people])[0, 1] > 0.9
    # of 2,400 verdicts that count; standard errors 0.004 and 0.0016
    assert found["policies"]["tie"]["value"] == pytest.approx((0.1 + 0.2) / 8, abs=0.016)
    assert found["policies"]["both_bad"]["value"] == pytest.approx(0.05 / 8, abs=0.006)
    agreeing = [rows[f"simulated-{number}"]["majority"]["value"] for number in range(1, 5)]
    assert agreeing == sorted(agreeing, reverse=True)


def test_simulated_rankings_recover_skill(make: Callable[..., Project]) -> None:
    project = make(kind="ranking", overlap=3)
    items = [item_of(n, ["x" * k for k in (3, 5, 7, 9)]) for n in range(60)]
    project.add(items)
    quality = {answer.id: 6.0 * index for one in items for index, answer in enumerate(one.answers)}
    people = dict(
        zip(project.raters(3), [SimulatedRater(1.0), SimulatedRater(1.0, tie=0.2), SimulatedRater(0.7)], strict=True)
    )
    simulate(project.writer, people, quality, start=START)
    found = project.figures()
    etas = [row["eta"]["value"] for row in found["raters"]]
    assert etas == pytest.approx([1.0, 1.0, 0.7], abs=0.1)
    assert [row["longer"]["value"] for row in found["raters"]] == pytest.approx([1, 1, 0.7], abs=0.16)
    assert not any(row["side_habit"] for row in found["raters"][:2])
    assert [row["policy"] for row in sorted(found["policies"]["strengths"], key=lambda row: row["value"])] == [
        "p0", "p1", "p2", "p3"
    ]  # fmt: skip

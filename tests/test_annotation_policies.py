"""Strengths of policies and the order effect: found again in simulated verdicts, and missing where there are none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from annotation_projects import Project, item_of, projects

from prefloop.annotation.simulate import SimulatedRater


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


def test_one_policy_has_no_strengths(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n, policies=["same", "same"]) for n in range(2)])
    project.judge(project.raters(1)[0], dict.fromkeys(ids, "first"))
    found = project.figures()["policies"]
    assert found["strengths"] == []
    assert "two policies" in found["order_effect"]["why"]


def test_policies_that_were_never_compared_are_told_apart(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n, policies=["a", "b"] if n % 2 else ["c", "d"]) for n in range(6)])
    for rater, says in zip(project.raters(2), ["first", "second"], strict=True):
        project.judge(rater, dict.fromkeys(ids[:5], says) | {ids[5]: "first"})
    rows = {row["policy"]: row for row in project.figures()["policies"]["strengths"]}
    assert rows["a"]["component"] == rows["b"]["component"] != rows["c"]["component"] == rows["d"]["component"]
    assert rows["a"]["value"] > 0  # 4 : 2
    assert rows["c"]["value"] == pytest.approx(0, abs=1e-4)  # 3 : 3


def test_policies_and_the_order_effect_are_found_again(make: Callable[..., Project]) -> None:
    """Three policies 0.8 logits apart; a side taken in a fifth of the verdicts, whatever the answers."""
    project, rng = make(overlap=3), random.Random(4)
    pairs = [rng.sample(range(3), 2) for _ in range(600)]
    items = [item_of(n, policies=[f"policy {k}" for k in pair]) for n, pair in enumerate(pairs)]
    project.add(items)
    quality = {answer.id: 0.8 * int(answer.policy[-1]) for one in items for answer in one.answers}
    ids = project.raters(3)
    project.fill(dict.fromkeys(ids, SimulatedRater(1.0, side=0.2, tie=0.1)), items, quality)
    figured = project.figures()
    found = figured["policies"]
    strengths = [row["value"] for row in found["strengths"]]
    # a fifth taken by the side shrinks the differences by at most that much
    assert np.diff(strengths) == pytest.approx([0.72, 0.72], abs=0.35)
    assert all(row["low"] < row["value"] < row["high"] < row["low"] + 0.6 for row in found["strengths"])
    assert found["order_effect"]["low"] > 1.1
    # of equal answers the first is taken with .2 + .8·½ = .6: odds of 1.5
    assert found["order_effect"]["value"] == pytest.approx(1.5, abs=0.25)
    assert found["tie"]["value"] == pytest.approx(0.1, abs=0.04)
    # with no differences but those of the policies, Crowd-BT over these finds the readers' skill
    assert all(row["eta_policies"]["value"] > 0.75 for row in figured["raters"])

"""Bulk collection: one person for most items, more for a share drawn by hash, on which agreement is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_projects import Project, item_of, projects
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefloop.annotation.open import settings_of
from prefloop.annotation.schema import item
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError

BULK: dict[str, Any] = {"overlap": 1, "overlap_sample": 0.2, "overlap_target": 3}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


def standing(project: Project) -> dict[str, tuple[str, int, int]]:
    with project.database.reading.connect() as connection:
        rows = connection.execute(sa.select(*item.c["id", "status", "done", "target"]))
        return {row.id: (row.status, row.done, row.target) for row in rows}


def test_about_the_share_of_the_items_is_drawn_and_always_the_same() -> None:
    names = [f"{n:020x}" for n in range(10_000)]
    config, other = AnnotationConfig(**BULK), AnnotationConfig(**BULK, seed=2)
    drawn = {name for name in names if config.overlap_of(name) == 3}
    assert {config.overlap_of(name) for name in names} == {1, 3}
    assert abs(len(drawn) - 2_000) < 5 * 40  # of a binomial, √(10,000 · 0.2 · 0.8) = 40
    assert drawn == {name for name in reversed(names) if AnnotationConfig(**BULK).overlap_of(name) == 3}
    both = len(drawn & {name for name in names if other.overlap_of(name) == 3})
    assert abs(both - 400) < 5 * 20  # another seed draws another sample: √(10,000 · 0.04 · 0.96) ≈ 20


@given(st.text(max_size=30), st.integers(), st.floats(0, 1), st.integers(1, 10), st.integers(1, 10))
def test_the_sample_only_grows_with_its_share(name: str, seed: int, share: float, overlap: int, more: int) -> None:
    def people(sample: float) -> int:
        config = AnnotationConfig(overlap=overlap, overlap_target=overlap + more, overlap_sample=sample, seed=seed)
        return config.overlap_of(name)

    assert people(0.0) == overlap
    assert people(1.0) == overlap + more
    assert people(share / 2) <= people(share)


def test_a_sample_that_asks_no_more_people_is_refused() -> None:
    with pytest.raises(ValidationError, match="overlap_target is 3, no more than overlap"):
        AnnotationConfig(overlap=3, overlap_sample=0.2)
    with pytest.raises(ConfigError, match="leave overlap_sample at 0, or lower overlap"):
        settings_of({"overlap": 4, "overlap_sample": 0.1}, alone=False)
    assert AnnotationConfig(overlap=3).overlap_of("any") == 3  # without a sample its target is idle


def test_sampled_items_ask_for_more_people_and_the_others_for_one(make: Callable[..., Project]) -> None:
    project = make(**BULK, extra_raters=2)
    ids = project.add([item_of(n) for n in range(40)])
    config = AnnotationConfig(**BULK)
    sampled = {name for name in ids if config.overlap_of(name) == 3}
    assert 0 < len(sampled) < 40
    raters = project.raters(5)
    for rater in raters[:3]:
        project.judge(rater, dict.fromkeys(ids, "first"))
    assert standing(project) == {name: ("closed", n := 3 if name in sampled else 1, n) for name in ids}
    found = project.figures()["agreement"]["percent"]
    assert (found["value"], found["n"]) == (1.0, 3 * len(sampled))  # three pairs of people on each sampled item


def test_a_split_asks_extra_people_on_sampled_items_alone(make: Callable[..., Project]) -> None:
    project = make(**BULK, extra_raters=2)
    judged_otherwise = {"expected": {"best": 1, "judge": "j"}}
    ids = project.add([item_of(n, **judged_otherwise) for n in range(20)])
    sampled = {name for name in ids if AnnotationConfig(**BULK).overlap_of(name) == 3}
    raters = project.raters(5)
    for rater, says in zip(raters, ("first", "second", "tie"), strict=False):
        project.judge(rater, dict.fromkeys(ids, says))
    assert standing(project) == {name: ("open", 3, 5) if name in sampled else ("closed", 1, 1) for name in ids}
    for rater in raters[3:]:
        project.judge(rater, dict.fromkeys(ids, "first"))
    assert standing(project) == {name: ("closed", 5, 5) if name in sampled else ("closed", 1, 1) for name in ids}

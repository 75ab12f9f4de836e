"""How well people agree: against the krippendorff package and SciPy, in rankings worked by hand, and with themselves."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import krippendorff
import numpy as np
import pytest
import sqlalchemy as sa
from annotation_projects import START, Project, drawn, item_of, projects, words
from scipy.stats import kendalltau

from prefloop.annotation.protocol import winner
from prefloop.annotation.schema import judgement
from prefloop.annotation.simulate import SimulatedRater, simulate


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


def test_one_rater_agrees_with_nobody(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n) for n in range(3)])
    project.judge(project.raters(1)[0], dict.fromkeys(ids, "first"))
    found = project.figures()
    assert found["agreement"]["alpha"]["why"] == "nothing has been judged by two people yet"
    assert found["agreement"]["percent"]["value"] is None
    (row,) = found["raters"]
    assert row["majority"]["value"] is None
    assert "nobody else" in row["majority"]["why"]
    assert row["left"]["n"] == 3
    assert row["eta"]["value"] > 0.5


def test_alpha_is_undefined_where_everybody_says_the_same(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n) for n in range(2)])
    for rater in project.raters(2):
        project.judge(rater, dict.fromkeys(ids, "tie"))
    found = project.figures()
    assert "the same" in found["agreement"]["alpha"]["why"]
    assert found["agreement"]["percent"]["value"] == 1
    assert found["agreement"]["percent"]["low"] < 1  # two prompts prove little
    assert "ties" in found["policies"]["order_effect"]["why"]  # the fit's own reason
    assert all(row["value"] is None for row in found["policies"]["strengths"])
    assert "better" in found["raters"][0]["eta"]["why"]


def test_rankings_worked_by_hand(make: Callable[..., Project]) -> None:
    project = make(kind="ranking")
    ids = project.add([item_of(n, ("a", "bb", "ccc")) for n in range(2)])
    a, b = project.raters(2)
    project.judge(a, {ids[0]: [[0], [1], [2]], ids[1]: [[0], [1], [2]]})
    project.judge(b, {ids[0]: [[0], [2], [1]], ids[1]: [[0, 1], [2]]})
    found = project.figures()["agreement"]
    # tau-b: (3 − 2·1)/3 in the first item; signs (1, 1, 1)·(0, 1, 1) / √(3·2) in the second
    taus = [1 / 3, 2 / 6**0.5]
    assert found["kendall"]["value"] == pytest.approx(np.mean(taus))
    assert found["kendall"]["n"] == 2
    # pairs 01, 02, 12: first 1, first 1, first 0 | first ½, first 1, first 1 → n = 12, first 10, second 1, tie 1
    assert found["alpha"]["value"] == pytest.approx(1 - 11 * (2 + 2) / (144 - (100 + 1 + 1)))
    assert found["percent"]["value"] == pytest.approx(4 / 6)


def test_tau_and_alpha_of_partial_rankings_are_those_of_the_packages(make: Callable[..., Project]) -> None:
    project, rng = make(kind="ranking", overlap=3), random.Random(1)
    ids = project.add([item_of(n, ["x" * rng.randrange(1, 9) for _ in range(4)]) for n in range(15)])
    places: dict[str, list[list[int]]] = {key: [] for key in ids}
    for rater in project.raters(3):
        says = {}
        for key in ids:
            says[key] = random_tiers(rng)
            place = {index: tier for tier, tied in enumerate(says[key]) for index in tied}
            places[key].append([place.get(index, 9) for index in range(4)])
        project.judge(rater, says)
    found = project.figures()["agreement"]
    taus = [kendalltau(x, y).statistic for several in places.values() for x, y in combinations(several, 2)]
    assert found["kendall"]["value"] == pytest.approx(np.nanmean(taus))
    assert found["kendall"]["n"] == np.isfinite(taus).sum()

    def label(x: int, y: int) -> float:
        return np.nan if x == y == 9 else np.sign(y - x)

    table = [
        [label(one[r][i], one[r][j]) for one in places.values() for i, j in combinations(range(4), 2)] for r in range(3)
    ]
    oracle = krippendorff.alpha(reliability_data=table, value_domain=[-1, 0, 1], level_of_measurement="nominal")
    assert found["alpha"]["value"] == pytest.approx(oracle)


def random_tiers(rng: random.Random) -> list[list[int]]:
    """Two to four of four answers, some tied, the others left out."""
    kept = rng.sample(range(4), rng.randint(2, 4))
    tiers = [[kept[0]]]
    for index in kept[1:]:
        if rng.random() < 0.3:
            tiers[-1].append(index)
        else:
            tiers.append([index])
    return tiers


def test_alpha_is_that_of_the_krippendorff_package(make: Callable[..., Project]) -> None:
    project = make(overlap=3, extra_raters=2)
    items = words(60)
    project.add(items)
    people = [SimulatedRater(0.8, side=0.1, tie=0.15, both_bad=0.1, guess=0.1)] * 6
    ids = project.raters(6)
    simulate(project.writer, dict(zip(ids, people, strict=True)), drawn(items, 2.0), start=START)
    names = {"both bad": 0, "tie": 1, 0: 2, 1: 3}
    table = np.full((6, 60), np.nan)
    column = {one.id: n for n, one in enumerate(items)}
    with project.database.reading.connect() as connection:
        rows = connection.execute(sa.select(judgement).where(judgement.c.counted, judgement.c.current)).all()
    for row in rows:
        table[ids.index(row.rater_id), column[row.item_id]] = names[winner(row)]
    oracle = krippendorff.alpha(reliability_data=table, value_domain=[0, 1, 2, 3], level_of_measurement="nominal")
    found = project.figures()
    assert found["agreement"]["alpha"]["value"] == pytest.approx(oracle)
    pairs = [(x, y) for one in table.T for x, y in combinations(one[~np.isnan(one)], 2)]
    assert found["agreement"]["percent"]["value"] == pytest.approx(np.mean([x == y for x, y in pairs]))
    assert found["agreement"]["percent"]["n"] == len(pairs)


def test_repeats_show_who_agrees_with_themselves(make: Callable[..., Project]) -> None:
    project = make(overlap=2, repeat_share=0.5)
    items = words(60)
    project.add(items)
    careful, sided = project.raters(2)
    people = {careful: SimulatedRater(1.0), sided: SimulatedRater(side=1.0)}
    simulate(project.writer, people, drawn(items, 30), start=START)
    with project.database.reading.connect() as connection:
        rows = connection.execute(sa.select(judgement.c.rater_id).where(judgement.c.turn == 1)).scalars().all()
    found = project.figures()["agreement"]["self"]
    # the careful one says the same again, the other takes the same side of swapped answers: never the same
    assert found["n"] == len(rows) > 20
    assert found["value"] == pytest.approx(rows.count(careful) / len(rows))
    assert found["low"] < found["value"] < found["high"]

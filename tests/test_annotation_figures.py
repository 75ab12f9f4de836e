"""The desk's figures: worked by hand, against the krippendorff package and SciPy, and found again in simulated raters.

Every rater here is simulated or says what the test dictates, by answer index; the sides are the queue's.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from postgres import running_postgres
from scipy.stats import kendalltau

from prefloop.annotation import background
from prefloop.annotation.background import DATABASE_VARIABLE, Background, Latest
from prefloop.annotation.control import record, remove_rater, set_state
from prefloop.annotation.database import Database, open_database
from prefloop.annotation.figures import figures, main, reading
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.progress import HOUR, local_midnight, progress
from prefloop.annotation.protocol import Verdict, winner
from prefloop.annotation.queue import Nothing, Showing, lease, submit
from prefloop.annotation.schema import item, judgement
from prefloop.annotation.schema import project as project_table
from prefloop.annotation.service import Address, Service
from prefloop.annotation.simulate import SimulatedRater, enrol, simulate
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig, StopConfig
from prefloop.errors import ConfigError, StoreError
from prefloop.records import Completion, Prompt

START = 1_700_000_000_000
PLAIN = {"overlap": 2, "extra_raters": 0, "gold_share": 0.0, "repeat_share": 0.0}
SHARES, SEEDS = st.floats(0, 1), st.integers(0, 99)


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
            base = {"client_id": str(uuid.uuid4()), "item_id": shown.item_id, "turn": shown.turn}
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


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    made: list[Project] = []

    def build(place: str = "", **settings: Any) -> Project:
        database = open_database(place or tmp_path / f"project-{len(made)}.db")
        project = Project(database, Writer(database.writing))
        config = AnnotationConfig(**(PLAIN | settings))
        project.writer.run(lambda connection: create_project(connection, config, "a test", START))
        project.writer.run(
            lambda connection: connection.execute(sa.update(project_table).values(secret=f"{len(made)}"))
        )
        made.append(project)
        return project

    yield build
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


# By hand


def test_a_tiny_project_worked_by_hand(make: Callable[..., Project]) -> None:
    project = make()
    texts = [("longer one", "two"), ("one", "longer two"), ("one", "longer two"), ("same", "size")]
    expected = [{"best": 0, "judge": "j"}, {"best": 0, "judge": "j"}, {"best": 0, "judge": "j"}, None]
    ids = project.add([item_of(n, texts[n], expected=expected[n]) for n in range(4)])
    a, b = project.raters(2)
    project.judge(a, dict(zip(ids, ["first", "first", "second", "bad"], strict=True)))
    project.judge(b, dict(zip(ids, ["first", "second", "second", "tie"], strict=True)))
    found = project.figures()

    # labels: first 3, second 3, tie 1, both bad 1 of n = 8; disagreement 2 in items 1 and 3:
    # α = 1 − 7·4 / (64 − (9 + 9 + 1 + 1)) = 4/11
    alpha = found["agreement"]["alpha"]
    assert alpha["value"] == pytest.approx(4 / 11)
    assert alpha["n"] == 4
    assert alpha["low"] < 4 / 11 < alpha["high"]
    assert (found["agreement"]["percent"]["value"], found["agreement"]["percent"]["n"]) == (0.5, 4)
    assert found["agreement"]["self"]["why"] == "no item has been repeated yet"
    assert found["agreement"]["kendall"]["why"] == "only rankings have it"

    # longer: a is for it in item 0 and 2, against it in item 1; b always; item 3 is not decided
    by_rater = {row["rater"]: row for row in found["raters"]}
    assert by_rater["simulated-1"]["longer"]["value"] == pytest.approx(2 / 3)
    assert by_rater["simulated-2"]["longer"]["value"] == 1
    assert by_rater["simulated-1"]["both_bad"]["value"] == by_rater["simulated-2"]["tie"]["value"] == 0.25
    assert by_rater["simulated-1"]["majority"]["value"] == 0.5  # the majority of one other
    assert by_rater["simulated-1"]["seconds"]["value"] == 20
    assert by_rater["simulated-1"]["judged"] == 4
    assert by_rater["simulated-1"]["gold"] == {
        "value": None, "low": None, "high": None, "n": 0, "why": "no gold item judged yet"
    }  # fmt: skip

    # majorities: item 0 first, item 2 second; the judge says first, the length first and second
    policies = found["policies"]
    assert (policies["expected"]["value"], policies["expected"]["n"]) == (0.5, 2)
    assert policies["length_only"]["value"] == 1
    assert policies["longer"]["value"] == pytest.approx(5 / 6)
    assert policies["tie"]["value"] == policies["both_bad"]["value"] == 1 / 8
    # 3 wins each and 2 ties; the order effect takes its part, so they need not come out equal
    assert [row["policy"] for row in policies["strengths"]] == ["p0", "p1"]
    assert sum(row["value"] for row in policies["strengths"]) == pytest.approx(0)
    assert all(abs(row["value"]) < 0.7 and row["n"] == 8 and row["component"] == 0 for row in policies["strengths"])

    split = found["items"]
    assert [entry["item"] for entry in split["split"]] == [ids[1], ids[3]]
    assert split["split"][0] == {"item": ids[1], "votes": {"0": 1, "1": 1}, "entropy": 1}
    assert split["split"][1]["votes"] == {"both bad": 1, "tie": 1}
    assert split["count"] == 2
    assert found["stop"] == []
    assert (found["seq"], found["verdicts"]) == (8, 8)


def test_votes_divided_most_come_first(make: Callable[..., Project]) -> None:
    project = make(overlap=3)
    ids = project.add([item_of(n) for n in range(3)])
    for rater, says in zip(project.raters(3), ["first", "first", "second"], strict=True):
        project.judge(rater, {ids[0]: "first", ids[1]: says, ids[2]: {"first": "tie"}.get(says, "bad")})
    # the third rater alone differs everywhere but in item 0: entropy of 2 : 1, ties by position
    found = project.figures()["items"]
    assert [entry["item"] for entry in found["split"]] == ids[1:]
    assert found["split"][0]["entropy"] == pytest.approx(log(3, 2) - 2 / 3)


def test_an_empty_project_says_why_of_everything(make: Callable[..., Project]) -> None:
    for kind in ("pairwise", "ranking"):
        found = make(kind=kind, stop=StopConfig(judgements=5, agreement_width=0.1, preference_width=0.1)).figures()
        missing = [*(figure for name, figure in found["agreement"].items() if name != "kendall_pairs")]
        missing += [figure for name, figure in found["policies"].items() if name != "strengths"]
        assert all(figure["value"] is None and figure["why"] and figure["n"] == 0 for figure in missing)
        assert found["raters"] == found["policies"]["strengths"] == found["items"]["split"] == []
        assert [rule["met"] for rule in found["stop"]] == [False] * 3
        assert found["stop"][0]["now"] == 0
        assert all(rule["now"] is None and rule["why"] for rule in found["stop"][1:])


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


def test_one_prompt_has_estimates_without_intervals(make: Callable[..., Project]) -> None:
    project = make(stop=StopConfig(agreement_width=2))
    ids = project.add([item_of(n, prompt="the only one") for n in range(3)])
    for rater, says in zip(project.raters(2), ["second", "first"], strict=True):
        project.judge(rater, dict(zip(ids, ["first", "second", says], strict=True)))
    found = project.figures()
    for figure in (found["agreement"]["alpha"], found["policies"]["order_effect"], *found["policies"]["strengths"]):
        assert figure["value"] is not None
        assert figure["low"] is figure["high"] is None
        assert figure["why"] == found["stop"][0]["why"] == "one prompt only: nothing tells how prompts differ"
    assert not found["stop"][0]["met"]


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


def test_discarded_verdicts_and_surplus_are_left_out(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n) for n in range(2)])
    a, b, c = project.raters(3)
    for rater, says in ((a, "first"), (b, "second")):
        project.judge(rater, dict.fromkeys(ids, says))
    assert project.figures()["items"]["count"] == 2
    project.writer.run(lambda connection: remove_rater(connection, b, START, discard=True))
    assert project.figures()["items"]["count"] == 0
    project.judge(c, dict(zip(ids, ["first", "second"], strict=True)))
    found = project.figures()
    # labels 1 1 | 1 0: α = 1 − 3·2 / (16 − 10)
    assert found["agreement"]["alpha"]["value"] == pytest.approx(0)
    assert [entry["item"] for entry in found["items"]["split"]] == [ids[1]]


def test_stop_rules_are_met_by_count_and_by_width(make: Callable[..., Project]) -> None:
    rules = StopConfig(judgements=12, agreement_width=1.9, preference_width=0.01)
    project = make(stop=rules)
    ids = project.add([item_of(n) for n in range(6)])
    for shift, rater in enumerate(project.raters(2)):
        project.judge(rater, {key: "first" if (n + shift * (n == 0)) % 2 else "second" for n, key in enumerate(ids)})
    found = project.figures()
    count, alpha, strength = found["stop"]
    assert (count["now"], count["met"]) == (12, True)
    width = found["agreement"]["alpha"]["high"] - found["agreement"]["alpha"]["low"]
    assert (alpha["now"], alpha["met"]) == (width, True)
    widest = max(row["high"] - row["low"] for row in found["policies"]["strengths"])
    assert (strength["now"], strength["met"], strength["why"]) == (widest, False, "")


def test_items_set_aside_are_listed(make: Callable[..., Project]) -> None:
    project = make(overlap=3, skips=2)
    ids = project.add([item_of(n) for n in range(2)])
    for rater in project.raters(2):
        project.judge(rater, {ids[0]: "skip", ids[1]: "first"})
    found = project.figures()
    assert found["items"]["aside"] == [ids[0]]
    assert found["verdicts"] == 2


# Rankings


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
    assert found["kendall_pairs"] == [
        {"raters": ["simulated-1", "simulated-2"], "n": 2, "value": pytest.approx(np.mean(taus))}
    ]
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


# Simulated raters


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
        assert row["judged"] == 300
        assert row["gold"]["n"] == 100
        # within 4 standard errors: 0.2 of 100 cases, 0.1 of 400
        assert row["gold"]["value"] == pytest.approx(decided * one.eta, abs=0.2)
        assert row["gold"]["low"] <= row["gold"]["value"] <= row["gold"]["high"]
        assert row["left"]["value"] == pytest.approx((1 + one.side) / 2, abs=0.12)
        assert row["longer"]["value"] == pytest.approx((1 + one.length) / 2, abs=0.12)
        assert row["tie"]["value"] == pytest.approx(one.tie, abs=0.08)
        assert row["both_bad"]["value"] == pytest.approx(one.both_bad, abs=0.05)
        assert row["seconds"]["value"] == pytest.approx(one.seconds, rel=0.2)
        assert row["eta"]["value"] == pytest.approx(one.eta, abs=0.1)
    flagged = {number for number in range(1, 9) if rows[f"simulated-{number}"]["side_habit"]}
    assert {5, 6} <= flagged
    etas = [rows[f"simulated-{number}"]["eta"]["value"] for number in range(1, 9)]
    assert np.corrcoef(etas, [one.eta for one in people])[0, 1] > 0.9
    agreeing = [rows[f"simulated-{number}"]["majority"]["value"] for number in range(1, 5)]
    assert agreeing == sorted(agreeing, reverse=True)


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
    assert found["agreement"]["kendall_pairs"][0]["raters"] == ["simulated-1", "simulated-2"]
    assert [row["policy"] for row in sorted(found["policies"]["strengths"], key=lambda row: row["value"])] == [
        "p0", "p1", "p2", "p3"
    ]  # fmt: skip


def test_a_simulation_stops_where_it_is_told_to_and_goes_on(make: Callable[..., Project]) -> None:
    project = make(overlap=3)
    items = words(10)
    project.add(items)
    people, quality = dict.fromkeys(project.raters(4), SimulatedRater()), drawn(items, 1)
    assert simulate(project.writer, people, quality, start=START, verdicts=7) == 7
    assert simulate(project.writer, people, quality, start=START) == 23
    assert simulate(project.writer, people, quality, start=START) == 0


# Live counts


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


# Another process


@pytest.fixture
def served(make: Callable[..., Project]) -> tuple[Project, Service, list[int]]:
    """A project with verdicts, its service, and the clock the service goes by."""
    project, clock = make(), [START]
    ids = project.add([item_of(n) for n in range(2)])
    project.judge(project.raters(1)[0], dict.fromkeys(ids, "first"))
    return project, Service(project.database, project.writer, Address("http://127.0.0.1:1"), lambda: clock[0]), clock


def script(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Run this in place of the figures."""
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", text))


def test_the_command_prints_the_figures(make: Callable[..., Project], capsys: pytest.CaptureFixture[str]) -> None:
    project = make()
    ids = project.add([item_of(n) for n in range(3)])
    project.judge(project.raters(1)[0], dict.fromkeys(ids, "first"))
    place = project.database.url.database
    printed = subprocess.run(
        [sys.executable, "-m", "prefloop.annotation.figures", place], capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout) == project.figures()
    assert main([place]) == 0
    assert json.loads(capsys.readouterr().out) == project.figures()


def test_a_place_without_a_project_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv(DATABASE_VARIABLE, raising=False)
    assert main([]) == 2
    assert DATABASE_VARIABLE in capsys.readouterr().err
    missing = tmp_path / "missing.db"
    assert main([str(missing)]) == StoreError.exit_code
    assert str(missing) in capsys.readouterr().err
    assert not missing.exists()
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database, but long enough to look at" * 100)
    assert main([str(other)]) == StoreError.exit_code
    assert "not a database" in capsys.readouterr().err
    monkeypatch.setenv(DATABASE_VARIABLE, "postgresql+psycopg://me:hidden@127.0.0.1:1/none")
    assert main([]) == StoreError.exit_code
    said = capsys.readouterr()
    assert "hidden" not in said.out + said.err
    assert "me:***@127.0.0.1:1/none" in said.err


def test_the_figures_cannot_write(make: Callable[..., Project]) -> None:
    project = make()
    with pytest.raises(StoreError, match="readonly"), reading(project.database.url.database or "") as connection:
        connection.execute(sa.delete(item))


def test_the_server_gets_the_figures_from_another_process(served: tuple[Project, Service, list[int]]) -> None:
    project, service, _ = served
    project.writer.run(lambda connection: record(connection, "note", "before", START))

    async def ask() -> tuple[Latest, Latest, Latest]:
        desk = Background(service)
        begun = await desk.refresh()
        return begun, await desk.wait(), await desk.refresh()

    begun, found, again = asyncio.run(ask())
    assert begun == Latest(running=True)
    assert found == again == Latest(project.figures(), START)


def test_the_same_verdicts_have_the_same_figures_on_postgresql(make: Callable[..., Project]) -> None:
    found, counts = [], []
    with running_postgres() as server:
        for place in ("", server.create_database()):
            project = make(place)
            items = words(12)
            project.add(items)
            people = dict.fromkeys(project.raters(2), SimulatedRater(0.8, tie=0.2))
            project.fill(people, items, drawn(items, 2.0))
            found.append(project.figures())
            with project.database.reading.connect() as connection:
                counts.append(progress(connection, START + HOUR, START))
        with pytest.raises(StoreError, match="read-only"), reading(server.url("test_1")) as connection:
            connection.execute(sa.delete(judgement))
        project.database.close()
    assert found[0] == found[1]
    assert counts[0] == counts[1]
    assert found[0]["agreement"]["alpha"]["n"] == 12


def test_runs_are_seldom_single_and_only_after_a_change(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project, service, clock = served
    runs = tmp_path / "runs"
    script(monkeypatch, f"open({str(runs)!r}, 'a').write('x'); print('{{}}')")

    async def at(seconds: int, desk: Background) -> int:
        clock[0] = START + 1000 * seconds
        await asyncio.gather(*(desk.refresh() for _ in range(5)))
        await desk.wait()
        return len(runs.read_text())

    async def ask() -> None:
        desk = Background(service, every=30)
        assert await at(0, desk) == 1
        assert await at(100, desk) == 1  # nothing has changed
        project.judge(project.raters(1)[0], dict.fromkeys(_ids(project), "second"))
        assert await at(101, desk) == 2
        project.writer.run(lambda connection: record(connection, "removed", "rater 1", START))
        assert await at(130, desk) == 2  # too soon
        assert await at(131, desk) == 3
        assert desk.latest == Latest({}, START + 131_000)

    asyncio.run(ask())


def _ids(project: Project) -> list[str]:
    with project.database.reading.connect() as connection:
        return list(connection.scalars(sa.select(item.c.id)))


def test_a_run_that_fails_leaves_the_last_figures_and_a_reason(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, clock = served

    async def ask(desk: Background) -> Latest:
        clock[0] += 60_000
        await desk.refresh()
        return await desk.wait()

    async def all_of() -> list[Latest]:
        desk, found = Background(service), []
        for text in ("import sys; sys.exit('no room')", "print('{\"a\": 1}')", "", "print('not JSON')"):
            script(monkeypatch, text)
            found.append(await ask(desk))
        return found

    failed, right, *rest = asyncio.run(all_of())
    assert failed == Latest(failure="the figures could not be computed: no room")
    assert right == Latest({"a": 1}, START + 120_000)  # tried again, though nothing had changed
    assert rest == [right, right]  # nothing has changed since: not run


def test_words_that_are_no_figures_are_a_failure(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask() -> Latest:
        desk = Background(served[1])
        await desk.refresh()
        return await desk.wait()

    script(monkeypatch, "print('not JSON')")
    assert "Expecting value" in asyncio.run(ask()).failure
    monkeypatch.setattr(background, "COMMAND", ("/no/such/program",))
    assert "/no/such/program" in asyncio.run(ask()).failure


def test_a_run_that_takes_too_long_or_is_not_wanted_is_killed(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid = tmp_path / "pid"
    script(
        monkeypatch,
        f"import os, pathlib, signal; pathlib.Path({str(pid)!r} + '~').write_text(str(os.getpid()));"
        f"os.rename({str(pid)!r} + '~', {str(pid)!r}); signal.pause()",
    )

    async def too_long() -> Latest:
        desk = Background(served[1], timeout=0.5)
        await desk.refresh()
        return await desk.wait()

    async def closed() -> Latest:
        desk = Background(served[1])
        await desk.refresh()
        while not pid.exists():
            await asyncio.sleep(0.01)
        await desk.close()
        return desk.latest

    found = asyncio.run(too_long())
    assert "more than 0.5 s" in found.failure
    assert not found.running
    pid.unlink(missing_ok=True)
    assert asyncio.run(closed()) == Latest()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_the_process_is_nice_and_its_password_is_in_the_environment_alone(
    served: tuple[Project, Service, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, service, _ = served
    url = sa.make_url("postgresql+psycopg://me:hidden@127.0.0.1:1/none")
    service.database = replace(service.database, url=url)
    script(
        monkeypatch,
        "import json, os, pathlib, time\n"
        f"while os.nice(0) < {background.NICENESS}: time.sleep(0.01)\n"
        "line = pathlib.Path('/proc/self/cmdline').read_text()\n"
        f"print(json.dumps(['hid' + 'den' in line, os.environ[{DATABASE_VARIABLE!r}]]))",
    )

    async def ask() -> Latest:
        desk = Background(service)
        await desk.refresh()
        return await desk.wait()

    assert asyncio.run(ask()).figures == [False, "postgresql+psycopg://me:hidden@127.0.0.1:1/none"]


def test_the_server_side_imports_no_statistics() -> None:
    code = (
        "import sys, prefloop.annotation.background, prefloop.annotation.progress, prefloop.annotation.simulate;"
        "print(*{'numpy', 'scipy', 'pandas', 'torch', 'prefloop.annotation.figures'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""

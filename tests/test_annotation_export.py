"""What comes out of a project: the fold of its log, every kind of verdict, and the training set, derived by hand."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from annotation_tables import new_database
from postgres import Postgres

from prefloop.annotation import adjudication, control, queue
from prefloop.annotation.database import Database
from prefloop.annotation.export import export_project
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.protocol import Verdict
from prefloop.annotation.schema import item, judgement, rater, showing
from prefloop.annotation.stream import handle_of
from prefloop.config.annotation import AnnotationConfig
from prefloop.config.recipe import PreferenceConfig
from prefloop.errors import StoreError
from prefloop.loop.prefer_stage import prefer_files
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.tables import read_records

NAMES = ["Ann Ames", "Bob Berg", "Cy Cole", "Di Dorn"]
OBJECTIVES = ("concise", "right")


class World:
    """A project in a file, and people who judge in it without its queue's order."""

    def __init__(self, place: Path | str, **settings: Any) -> None:
        self.database: Database = new_database(place / "project.db" if isinstance(place, Path) else place)
        config = AnnotationConfig(**{"objectives": OBJECTIVES, "extra_raters": 0, "skips": 9, **settings})
        self.clock = count(1_000_000, 1000)
        self._ids = count(1)
        with self.database.writing.begin() as connection:
            create_project(connection, config, "a test", 0)
            for number, name in enumerate(NAMES, 1):
                row = {"pseudonym": f"r{number}", "name": name, "role": "rater", "status": "active"}
                connection.execute(sa.insert(rater).values(id=number, qualified=True, created=0, **row))

    def add(self, question: str, *texts: str, **options: Any) -> NewItem:
        prompt = Prompt.create(({"role": "user", "content": question},), "t", "train", {"gold_sql": "SELECT 1"})
        answers = [
            Completion(
                f"{prompt.id}-{i}", prompt.id, i, 0, text, (i, 7), (-0.5, -1.25), "stop", "m@1", {"top_p": 0.9}, 3
            )
            for i, text in enumerate(texts)
        ]
        new = NewItem(prompt, tuple(answers), **options)
        with self.database.writing.begin() as connection:
            add_items(connection, [new])
        return new

    def say(self, who: int, new: NewItem, turn: int = 0, order: tuple[int, ...] | None = None, **said: Any) -> int:
        """Submit, as an edit where this person judged the item before; the place in the log."""
        shown = order or tuple(range(len(new.answers)))
        kind = next((kind for name, kind in (("strength", "choice"), ("ranking", "ranking")) if name in said), "skip")
        with self.database.writing.begin() as connection:
            key = {"item_id": new.id, "rater_id": who, "turn": turn}
            same = [getattr(showing.c, name) == value for name, value in key.items()]
            now = next(self.clock)
            if connection.execute(sa.select(showing).where(*same)).first() is None:
                row = {"state": "expired", "order": list(shown), "opened": now - 4500, "expires": now}
                connection.execute(sa.insert(showing).values(**key, **row, handle=self.handle(who, new, turn)))
            last = connection.scalar(
                sa.select(judgement.c.seq).where(
                    *(getattr(judgement.c, name) == value for name, value in key.items()), judgement.c.current
                )
            )
            found = {"kind": kind, "client_id": self.client_id(), "item_id": self.handle(who, new, turn), **said}
            return queue.submit(connection, who, Verdict(**found, revises=last), now).seq

    def handle(self, who: int, new: NewItem, turn: int) -> str:
        return handle_of("a test", new.id, who, turn)

    def settle(self, who: int, new: NewItem, **said: Any) -> None:
        verdict = Verdict(client_id=self.client_id(), item_id=new.id, kind="choice", **said)
        with self.database.writing.begin() as connection:
            adjudication.adjudicate(connection, who, verdict, next(self.clock))

    def client_id(self) -> str:
        return str(uuid.UUID(int=next(self._ids)))

    def run(self, job: Any, *arguments: Any, **options: Any) -> None:
        with self.database.writing.begin() as connection:
            job(connection, *arguments, **options)

    def export(self, out: Path, **options: Any) -> dict[str, Any]:
        with self.database.reading.connect() as connection:
            return export_project(connection, out, **options)

    def rows(self) -> list[dict[str, Any]]:
        with self.database.reading.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(sa.select(judgement).order_by(judgement.c.seq))]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


@pytest.fixture
def ranking(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, kind="ranking")
    yield made
    made.database.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judged(out: Path) -> list[Judgement]:
    return read_records(out / "judgements.parquet", Judgement)


def preferred(out: Path) -> list[Preference]:
    return read_records(out / "preferences" / "records" / "preferences.parquet", Preference)


def ids(new: NewItem) -> list[str]:
    return [answer.id for answer in new.answers]


# The log


def fold(log: list[dict[str, Any]]) -> set[int]:
    """Numbers of the last revisions: by item, rater and turn; of adjudications, the item's last."""
    last: dict[Any, int] = {}
    for row in log:
        person = None if row["kind"] == "adjudication" else row["rater"]
        last[row["item_id"], person, row["turn"]] = row["seq"]
    return set(last.values())


@pytest.mark.parametrize("seed", range(4))
def test_the_fold_of_the_exported_log_is_what_stands(world: World, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    items = [world.add(f"question {n}", "one", "two") for n in range(4)]
    for _ in range(60):
        who, new, turn = rng.randint(1, 4), rng.choice(items), int(rng.random() < 0.2)
        step = rng.random()
        before = [r for r in world.rows() if (r["item_id"], r["rater_id"], r["turn"]) == (new.id, who, turn)]
        if step < 0.1:
            world.settle(who, new, strength=rng.randint(0, 5))
        elif step < 0.25 and before and before[-1]["kind"] != "withdrawn":
            world.say(who, new, turn, kind="withdrawn")
        elif step < 0.35:
            world.say(who, new, turn, reason="ambiguous")
        else:
            world.say(who, new, turn, order=rng.choice([(0, 1), (1, 0)]), strength=rng.randint(0, 5))
    rows = world.rows()
    world.export(tmp_path / "out")
    log = lines(tmp_path / "out" / "judgements.jsonl")
    assert [row["seq"] for row in log] == [row["seq"] for row in rows]
    assert fold(log) == {row["seq"] for row in log if row["current"]} == {r["seq"] for r in rows if r["current"]}
    stands = {row["seq"] for row in log if row["current"] and row["kind"] != "withdrawn"}
    assert {judgement.raw["seq"] for judgement in judged(tmp_path / "out")} == stands


def test_the_log_says_what_was_submitted_and_no_name(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two", stratum="gap", probability=0.25)
    world.say(2, new, order=(1, 0), strength=2, comment="Nearer.", objectives={"concise": "right"}, edits={0: "uno"})
    world.say(2, new, strength=4)
    world.export(tmp_path / "out")
    first, second = lines(tmp_path / "out" / "judgements.jsonl")
    assert first["completion_ids"] == ids(new)[::-1]
    assert first | second == second | {"seq": 2}
    wanted = {
        "rater": "r2", "item_id": new.id, "prompt_id": new.prompt.id, "turn": 0, "revision": 0, "order": [1, 0],
        "kind": "choice", "strength": 2, "ranking": None, "objectives": {"concise": "right"}, "comment": "Nearer.",
        "reason": "", "edits": {"0": "uno"}, "opened": 995_500, "submitted": 1_000_000, "seconds": 4.5,
        "counted": True, "current": False, "role": "item", "stratum": "gap", "probability": 0.25,
    }  # fmt: skip
    assert {name: first[name] for name in wanted} == wanted
    assert (second["revision"], second["current"], second["order"]) == (1, True, [1, 0])
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*") if path.suffix in {".jsonl", ".json", ".md"}]
    tables = [repr(pq.read_table(path).to_pylist()) for path in (tmp_path / "out").rglob("*.parquet")]
    assert not [name for name in NAMES for text in (*texts, *tables) if name in text]


def test_prompts_and_answers_come_back_as_they_went_in(world: World, tmp_path: Path) -> None:
    made = [world.add("q1", "one", "two"), world.add("q2", "eins", "zwei")]
    known = {"best": [0], "explanation": "It counts."}
    made.append(world.add("q3", "uno", "dos", role="gold", known=known, context={"Schema": "games(id)"}))
    with world.database.writing.begin() as connection:  # two answers of a prompt that was asked before, in other pairs
        again = NewItem(made[0].prompt, made[0].answers[::-1])
        add_items(connection, [again])
    world.export(tmp_path / "out")
    assert read_records(tmp_path / "out" / "prompts.parquet", Prompt) == [new.prompt for new in made]
    assert read_records(tmp_path / "out" / "completions.parquet", Completion) == [
        a for new in made for a in new.answers
    ]
    rows = {row["id"]: row for row in lines(tmp_path / "out" / "items.jsonl")}
    assert rows[made[2].id]["known"] == known
    assert rows[made[2].id]["context"] == {"Schema": "games(id)"}
    assert rows[again.id]["completion_ids"] == ids(made[0])[::-1]


# Every kind of verdict


def verdict_of(said: Judgement, new: NewItem) -> dict[str, Any]:
    """What was submitted, from the record alone."""
    place = {answer: index for index, answer in enumerate(ids(new))}
    kind = "skip" if said.raw["reason"] else said.kind
    return {
        "order": [place[answer] for answer in said.completion_ids],
        "kind": kind,
        "strength": said.raw["strength"],
        "ranking": [[place[answer] for answer in tier] for tier in said.ranking] or None,
        "objectives": {name: {1.0: "left", 0.5: "equal", 0.0: "right"}[v] for name, v in said.objectives.items()},
        "reason": said.raw["reason"],
        "comment": said.raw["comment"],
        "edits": said.raw["edits"],
        "opened": said.raw["opened"],
        "submitted": said.raw["submitted"],
    }


CHOICES = [
    *({"strength": strength} for strength in range(6)),
    *({"reason": reason} for reason in ("cannot-judge", "ambiguous", "broken")),
    {"strength": 1, "objectives": {"concise": "left", "right": "equal"}},
    {"strength": 2, "comment": 'Ünïcode, "quotes", |pipes|\n{braces}', "edits": {1: "better"}},
]
RANKINGS = [((2,), (0,), (1,)), ((0, 1), (2,)), ((1,),), ((0, 1, 2),), ((2, 1),)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_every_choice_comes_back(world: World, tmp_path: Path, order: tuple[int, int]) -> None:
    items = [world.add(f"q{n}", "one", "two") for n in range(len(CHOICES))]
    for new, said in zip(items, CHOICES, strict=True):
        world.say(1, new, order=order, **said)
    world.export(tmp_path / "out")
    found = [j for j in judged(tmp_path / "out") if j.raw["status"] != "corrected"]
    for row, new, said in zip(world.rows(), items, found, strict=True):
        wanted = verdict_of(said, new)
        assert {name: row[name] for name in wanted} == wanted
        assert said.judge == "people/r1"
    assert [said.value for said in found[:6]] == [None, 1.0, 1.0, 0.5, 0.0, 0.0]  # strengths 0 to 5, of the order shown
    assert [said.raw["status"] for said in found[:4]] == ["both bad", "preferred", "preferred", "tie"]
    assert found[0].raw["both_bad"] is True
    assert not any("both_bad" in said.raw for said in found[1:])
    assert [(said.value, said.raw["status"]) for said in found[6:9]] == [
        (None, "skipped (cannot-judge)"), (None, "skipped (ambiguous)"), (None, "skipped (broken)")
    ]  # fmt: skip


def test_every_ranking_comes_back(ranking: World, tmp_path: Path) -> None:
    items = [ranking.add(f"q{n}", "one", "two", "three") for n in range(len(RANKINGS) + 1)]
    for new, tiers in zip(items, RANKINGS, strict=False):
        ranking.say(1, new, order=(2, 0, 1), ranking=tiers)
    ranking.say(1, items[-1], order=(2, 0, 1), reason="broken")
    ranking.export(tmp_path / "out")
    found = judged(tmp_path / "out")
    for row, new, said in zip(ranking.rows(), items, found, strict=True):
        wanted = verdict_of(said, new)
        assert {name: row[name] for name in wanted if name != "kind"} == {
            n: v for n, v in wanted.items() if n != "kind"
        }
        assert said.kind == "ranking"
    assert [said.value for said in found] == [1.0] * len(RANKINGS) + [None]


# The training set


def test_the_majority_with_its_share_and_mean_strength(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    a, b = ids(new)
    world.say(1, new, order=(0, 1), strength=1)  # a much better: +2
    world.say(2, new, order=(1, 0), strength=4)  # a better: +1
    world.say(3, new, order=(0, 1), strength=4)  # b better: -1
    world.export(tmp_path / "out")
    (found,) = preferred(tmp_path / "out")
    assert (found.ranking, found.weight, found.source) == (((a,), (b,)), 1.0, "majority/people")
    assert found.soft_label == pytest.approx(2 / 3)
    assert found.margin == pytest.approx((2 + 1 - 1) / 3)
    (row,) = lines(tmp_path / "out" / "preferences" / "preferences.jsonl")
    assert (row["chosen"], row["rejected"]) == (
        [{"role": "assistant", "content": "one"}],
        [{"role": "assistant", "content": "two"}],
    )
    assert (row["soft_label"], row["margin"], row["ranking"]) == (found.soft_label, found.margin, [[a], [b]])
    assert pq.read_table(tmp_path / "out" / "preferences" / "preferences.parquet").to_pylist() == [row]


def test_ties_both_bad_and_skips_make_no_pair_and_are_counted(world: World, tmp_path: Path) -> None:
    tied, split, bad, skipped, half = (world.add(f"q{n}", "one", "two") for n in range(5))
    world.say(1, tied, strength=3)
    world.say(1, split, strength=1)
    world.say(2, split, strength=5)
    world.say(1, bad, strength=0)
    world.say(1, skipped, reason="ambiguous")
    world.say(1, half, strength=2)
    world.say(2, half, strength=3)
    world.say(3, half, strength=0)  # no vote at all: the share is (1 + 1/2) / 2, not / 3
    found = world.export(tmp_path / "out")
    (only,) = preferred(tmp_path / "out")
    assert (only.prompt_id, only.soft_label, only.margin) == (half.prompt.id, 0.75, 0.5)
    assert found["preferences"] == {
        "prompts": 5, "kept pairs": 1, "comparison tied": 2, "prompt without a comparison": 2,
        "judgement without a preference: both bad": 2, "judgement left out: ambiguous question": 1,
    }  # fmt: skip


def test_gold_repeats_and_surplus_stay_and_are_not_trained_on(world: World, tmp_path: Path) -> None:
    plain = world.add("q", "one", "two")
    gold = world.add("gold?", "one", "two", role="gold", known={"best": [0]})
    calibration = world.add("calibration?", "one", "two", role="training", known={"best": [0]})
    for who in (1, 2, 3):
        world.say(who, plain, strength=2)
    world.say(4, plain, strength=4)  # the target is three
    world.say(1, plain, turn=1, order=(1, 0), strength=2)
    world.say(1, gold, strength=5)
    world.say(1, calibration, strength=5)
    found = world.export(tmp_path / "out")
    marked = {(j.judge, j.raw["role"], j.raw["turn"]): j.raw.get("left_out") for j in judged(tmp_path / "out")}
    assert marked == {
        ("people/r1", "item", 0): None, ("people/r2", "item", 0): None, ("people/r3", "item", 0): None,
        ("people/r4", "item", 0): "surplus", ("people/r1", "item", 1): "repeat",
        ("people/r1", "gold", 0): "gold item", ("people/r1", "training", 0): "calibration item",
    }  # fmt: skip
    assert [p.soft_label for p in preferred(tmp_path / "out")] == [1.0]
    assert found["counts"]["left_out"] == {"calibration item": 1, "gold item": 1, "repeat": 1, "surplus": 1}
    assert found["counts"]["overlap"] == {"3": 1}
    world.export(tmp_path / "more", include_surplus=True)
    assert [p.soft_label for p in preferred(tmp_path / "more")] == [0.75]


def test_who_was_removed_with_their_verdicts_is_not_trained_on(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    world.say(1, new, strength=1)
    world.say(2, new, strength=5)
    world.run(control.remove_rater, 2, 0, discard=True)
    world.export(tmp_path / "out", include_surplus=True)
    assert [j.raw.get("left_out") for j in judged(tmp_path / "out")] == [None, "discarded with its rater"]
    assert [(p.chosen, p.soft_label) for p in preferred(tmp_path / "out")] == [(ids(new)[0], 1.0)]


@pytest.mark.parametrize("discard", [True, False])
def test_surplus_of_somebody_removed_is_discarded_only_if_they_were_with_their_verdicts(
    discard: bool, world: World, tmp_path: Path
) -> None:
    new = world.add("q", "one", "two")
    for who in (1, 2, 3):
        world.say(who, new, strength=2)
    world.say(4, new, strength=4)  # the target is three
    world.run(control.remove_rater, 4, 0, discard=discard)
    why = "discarded with its rater" if discard else "surplus"
    assert world.export(tmp_path / "out")["counts"]["left_out"] == {why: 1}
    world.export(tmp_path / "more", include_surplus=True)
    assert [p.soft_label for p in preferred(tmp_path / "more")] == [1.0 if discard else 0.75]


def test_an_adjudication_takes_the_place_of_the_votes(world: World, tmp_path: Path) -> None:
    new, bad = world.add("q", "one", "two"), world.add("p", "one", "two")
    for who in (1, 2, 3):
        world.say(who, new, strength=1)
        world.say(who, bad, strength=1)
    world.settle(4, new, strength=1)
    world.settle(3, new, strength=4)  # the last holds, whoever gave it
    world.settle(4, bad, strength=0)
    found = world.export(tmp_path / "out")
    (only,) = preferred(tmp_path / "out")
    assert (only.chosen, only.soft_label, only.margin) == (ids(new)[1], 1.0, 1.0)
    assert found["counts"]["left_out"] == {"adjudicated": 6}
    assert [j.judge for j in judged(tmp_path / "out") if j.raw.get("adjudication")] == [
        "people/r3/adjudication",
        "people/r4/adjudication",
    ]
    assert found["preferences"]["judgement without a preference: both bad"] == 1


def test_an_item_set_aside_leaves_the_training_set(tmp_path: Path) -> None:
    made = World(tmp_path, skips=1)
    new = made.add("q", "one", "two")
    made.say(1, new, strength=1)
    made.say(2, new, reason="ambiguous")
    found = made.export(tmp_path / "out")
    made.database.close()
    assert found["counts"]["items"] == {"aside": 1}
    assert found["counts"]["left_out"] == {"item set aside": 2}
    assert preferred(tmp_path / "out") == []
    assert lines(tmp_path / "out" / "preferences" / "preferences.jsonl") == []


# Corrected answers


def test_corrected_beats_chosen_beats_rejected(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    a, b = ids(new)
    world.say(1, new, order=(1, 0), strength=5, edits={0: "one!", 1: " TWO  extra"})
    world.say(2, new, strength=2)
    world.say(3, new, strength=4)
    world.export(tmp_path / "out")
    *_, first, second = read_records(tmp_path / "out" / "completions.parquet", Completion)
    assert (first.policy, first.text, first.sampling, first.index) == ("people/r1", "one!", {"edited": a}, 2)
    assert (second.policy, second.text, second.sampling, second.index) == ("people/r1", " TWO  extra", {"edited": b}, 3)
    found = {p.ranking: p for p in preferred(tmp_path / "out")}
    assert set(found) == {((a,), (b,)), ((first.id,), (a,), (b,)), ((second.id,), (a,), (b,))}
    assert {p.weight for p in found.values()} == {1 / 3}
    pair, longer = found[(a,), (b,)], found[(first.id,), (a,), (b,)]
    assert pair.soft_label == pytest.approx(2 / 3)  # the correction adds no second vote of its rater
    assert pair.margin == pytest.approx((2 + 1 - 1) / 3)
    assert longer.soft_label == 1.0
    # By hand: corrected +1 over both; a: -1 and +2/3; b: -1 and -2/3; halved means
    assert longer.scores == pytest.approx((1 / 2, (-1 + 2 / 3) / 4, (-1 - 2 / 3) / 4))


def test_a_correction_of_two_bad_answers_beats_each(world: World, tmp_path: Path) -> None:
    bad, tie, skipped = (world.add(f"q{n}", "one", "two") for n in range(3))
    world.say(1, bad, strength=0, edits={0: "three"})
    world.say(1, tie, strength=3, edits={1: "four"})
    world.say(1, skipped, reason="broken", edits={1: "five"})
    world.export(tmp_path / "out")
    made = {c.text: c.id for c in read_records(tmp_path / "out" / "completions.parquet", Completion)[-3:]}
    assert list(made) == ["three", "four", "five"]
    a, b = ids(bad)
    assert sorted(p.ranking for p in preferred(tmp_path / "out")) == sorted(
        [((made["three"],), (a,)), ((made["three"],), (b,)), ((made["four"],), tuple(ids(tie)))]
    )


@pytest.mark.parametrize("text", ["", "  \n", "one", " one ", "two"])
def test_a_correction_that_says_nothing_new_is_no_answer(world: World, tmp_path: Path, text: str) -> None:
    new = world.add("q", "one", "two")
    world.say(1, new, strength=1, edits={0: text})
    world.export(tmp_path / "out")
    assert len(read_records(tmp_path / "out" / "completions.parquet", Completion)) == 2
    assert [p.ranking for p in preferred(tmp_path / "out")] == [tuple((answer,) for answer in ids(new))]
    assert lines(tmp_path / "out" / "judgements.jsonl")[0]["edits"] == {"0": text}


def test_rankings_of_several_people_become_one(ranking: World, tmp_path: Path) -> None:
    new = ranking.add("q", "one", "two", "three", "four")
    a, b, c, d = ids(new)
    ranking.say(1, new, ranking=((0,), (1,), (2,), (3,)))
    ranking.say(2, new, ranking=((1,), (0,), (2, 3)))
    ranking.say(3, new, ranking=((0,),), edits={0: "zero"})  # top one: b, c and d are below, in no order
    ranking.export(tmp_path / "out")
    found = {len(p.ranking): p for p in preferred(tmp_path / "out")}
    # Shares of a: over b 2/3, over c and d 1. Of b: 1/3 over a, 1 over c and d (two raters). c over d: (1 + ½) / 2.
    assert found[4].ranking == ((a,), (b,), (c,), (d,))
    assert found[4].soft_label == 1.0
    steps = [(1 / 3 + 1 + 1) / 6, (-1 / 3 + 1 + 1) / 6, (-1 - 1 + 0.5) / 6, (-1 - 1 - 0.5) / 6]
    assert found[4].scores == pytest.approx(steps)
    assert found[4].margin == pytest.approx(steps[0] - steps[3])
    zero = read_records(tmp_path / "out" / "completions.parquet", Completion)[-1]
    assert found[5].ranking[0] == (zero.id,)


# The folder


def busy(world: World) -> None:
    items = [world.add(f"q{n}", "one", "two") for n in range(6)]
    gold = world.add("gold?", "yes", "no", role="gold", known={"best": [0]})
    rng = random.Random(1)
    for new in (*items, gold):
        for who in (1, 2, 3):
            edits = {0: "one better"} if rng.random() < 0.3 else {}
            world.say(who, new, order=rng.choice([(0, 1), (1, 0)]), strength=rng.randint(0, 5), edits=edits)


def contents(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_the_same_database_gives_the_same_bytes_and_nothing_is_written_over(world: World, tmp_path: Path) -> None:
    busy(world)
    first, second = tmp_path / "a", tmp_path / "b"
    world.export(first)
    (second / "mine").mkdir(parents=True)
    with pytest.raises(StoreError, match="exists already"):
        world.export(second)
    (second / "mine").rmdir()
    world.export(second)
    assert contents(first) == contents(second)
    with pytest.raises(StoreError, match="exists already"):
        world.export(second)
    world.say(4, world.add("new", "one", "two"), strength=1)
    world.export(second, overwrite=True)
    assert contents(first).keys() == contents(second).keys()
    assert contents(first) != contents(second)


def test_postgresql_gives_the_same_bytes(world: World, tmp_path: Path, postgres: Postgres) -> None:
    other = World(postgres.create_database())
    try:
        for made, name in ((world, "a"), (other, "b")):
            busy(made)
            made.export(tmp_path / name)
    finally:
        other.database.close()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_prefer_builds_the_same_preferences_of_the_exported_records(world: World, tmp_path: Path) -> None:
    busy(world)
    out = tmp_path / "out"
    world.export(out)
    files = (out / "prompts.parquet", out / "completions.parquet", out / "judgements.parquet")
    made = prefer_files(*files, tmp_path / "set", PreferenceConfig())
    assert read_records(tmp_path / "set" / "records" / "preferences.parquet", Preference) == preferred(out)
    assert made["pairs"] == len(preferred(out)) > 3
    assert made["drops"]["judgement left out: gold item"] >= 3
    assert "| strategy | majority |" in (tmp_path / "set" / "README.md").read_text()
    assert contents(tmp_path / "set")["preferences.jsonl"] == contents(out)["preferences/preferences.jsonl"]


def test_the_card_and_the_counts(world: World, tmp_path: Path) -> None:
    busy(world)
    world.add("open", "one", "two")
    found = world.export(tmp_path / "out")
    assert found == json.loads((tmp_path / "out" / "project.json").read_text())
    assert (found["open_items"], found["counts"]["items"], found["raters"]) == (
        1,
        {"closed": 6, "open": 1},
        3,
    )
    assert found["counts"]["overlap"] == {"0": 1, "3": 6}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "7 items for 3 people; 21 verdicts stand, of 21 that were sent" in card
    assert "| people for an item | 3 |" in card
    assert "secret" not in (tmp_path / "out" / "project.json").read_text()


def test_names_of_the_users_making_stay_one_line_of_the_card(tmp_path: Path) -> None:
    made = World(tmp_path, name="a | b\n# {evil} `x`", objectives=("a|b",))
    made.export(tmp_path / "out")
    made.database.close()
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# Annotation project `a / b # {evil} 'x'`\n")
    assert "| objectives | a/b |" in card


def test_an_export_of_nothing_is_whole(world: World, tmp_path: Path) -> None:
    found = world.export(tmp_path / "out")
    assert found["judgements"] == found["open_items"] == 0
    assert judged(tmp_path / "out") == preferred(tmp_path / "out") == []


def test_an_export_imports_no_torch_and_no_scipy(world: World, tmp_path: Path) -> None:
    busy(world)
    script = (
        "import sys; from pathlib import Path; from prefloop.annotation.database import open_database\n"
        "from prefloop.annotation.export import export_project\n"
        f"database = open_database({str(tmp_path / 'project.db')!r})\n"
        f"export_project(database.reading.connect(), Path({str(tmp_path / 'out')!r}))\n"
        "print(sorted({'torch', 'transformers', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_items_that_are_closed_are_not_open(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    for who in (1, 2, 3):
        world.say(who, new, strength=1)
    assert world.export(tmp_path / "out")["open_items"] == 0
    with world.database.reading.connect() as connection:
        assert connection.scalar(sa.select(item.c.status)) == "closed"

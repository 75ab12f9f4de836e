"""Ambiguous questions: who calls them so, what leaves the training set, and what stands in the set of their own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_annotation_export import World, ids, judged, lines, preferred

from prefloop.annotation import control
from prefloop.annotation.adjudication import ambiguous, disagreements, is_ambiguous
from prefloop.annotation.items import NewItem
from prefloop.annotation.progress import progress


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def on_desk(world: World) -> list[str]:
    with world.database.reading.connect() as connection:
        found = ambiguous(connection)
        assert progress(connection, 2_000_000, 0).ambiguous == len(found)
        return found


def listed(world: World) -> dict[str, str]:
    with world.database.reading.connect() as connection:
        return {one.item_id: one.says for one in disagreements(connection)}


def calls(world: World, new: NewItem, *who: int, reading: str = "") -> None:
    for one in who:
        world.say(one, new, reason="ambiguous", comment=reading)


def test_the_rule_is_a_majority_of_those_who_answered_or_skipped() -> None:
    assert not is_ambiguous([])
    assert is_ambiguous(["ambiguous"])
    assert not is_ambiguous(["ambiguous", ""])
    assert is_ambiguous(["ambiguous", "", "ambiguous"])
    assert not is_ambiguous(["ambiguous", "broken", "ambiguous", "cannot-judge"])


def test_an_ambiguous_question_leaves_the_training_set_with_its_readings(world: World, tmp_path: Path) -> None:
    new, plain = world.add("How many games?", "one", "two"), world.add("Name a prime.", "7", "9")
    world.say(1, new, strength=1)
    world.say(2, new, reason="ambiguous", comment="Games of the regular season.")
    world.say(3, new, reason="ambiguous")
    world.say(1, plain, strength=1, comment="No reading.")
    world.say(2, plain, reason="ambiguous", comment="Which kind of prime?")
    found = world.export(tmp_path / "out")
    (row,) = lines(tmp_path / "out" / "ambiguous.jsonl")
    assert row == {
        "item_id": new.id,
        "prompt_id": new.prompt.id,
        "prompt": [{"role": "user", "content": "How many games?"}],
        "completion_ids": ids(new),
        "answers": ["one", "two"],
        "status": "open",
        "readings": {"r2": "Games of the regular season.", "r3": ""},
        "counts": {"ambiguous": 2, "other skips": 0, "verdicts": 1},
    }
    assert [p.prompt_id for p in preferred(tmp_path / "out")] == [plain.prompt.id]  # one of two is no majority
    assert {said.raw.get("left_out") for said in judged(tmp_path / "out") if said.prompt_id == new.prompt.id} == {
        "ambiguous question"
    }
    assert found["counts"]["ambiguous"] == 1
    assert found["counts"]["left_out"] == {"ambiguous question": 3}
    assert found["preferences"]["judgement left out: ambiguous question"] == 3
    assert on_desk(world) == [new.id]
    assert listed(world) == {
        new.id: "2 × skipped: ambiguous, 1 × answer 1 much better",
        plain.id: "1 × answer 1 much better, 1 × skipped: ambiguous",
    }


def test_other_skips_stand_against_it(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    calls(world, new, 1)
    world.say(2, new, reason="broken")
    assert on_desk(world) == []
    calls(world, new, 3)
    world.export(tmp_path / "out")
    (row,) = lines(tmp_path / "out" / "ambiguous.jsonl")
    assert row["counts"] == {"ambiguous": 2, "other skips": 1, "verdicts": 0}


def test_who_takes_it_back_or_changes_it_says_so_no_longer(world: World) -> None:
    new = world.add("q", "one", "two")
    calls(world, new, 1, 2)
    world.say(3, new, strength=1)
    assert on_desk(world) == [new.id]
    world.say(2, new, strength=4)
    assert on_desk(world) == []
    world.say(2, new, reason="ambiguous")
    world.say(3, new, kind="withdrawn")
    assert on_desk(world) == [new.id]


def test_a_reviewer_settles_an_ambiguous_question(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    calls(world, new, 1, 2)
    world.settle(4, new, strength=2)
    found = world.export(tmp_path / "out")
    assert on_desk(world) == []
    assert (found["counts"]["ambiguous"], len(preferred(tmp_path / "out"))) == (0, 1)


def test_a_rater_removed_with_their_verdicts_calls_nothing_ambiguous(world: World, tmp_path: Path) -> None:
    new = world.add("q", "one", "two")
    calls(world, new, 1, 2)
    world.say(3, new, strength=1)
    world.run(control.remove_rater, 1, 0, discard=False)
    assert on_desk(world) == [new.id]
    world.run(control.remove_rater, 2, 0, discard=True)
    assert on_desk(world) == []
    assert world.export(tmp_path / "out")["counts"]["ambiguous"] == 0


def test_gold_repeats_and_calibration_are_no_ambiguous_items(world: World, tmp_path: Path) -> None:
    known: dict[str, Any] = {"known": {"best": [0]}}
    for role in ("gold", "training"):
        calls(world, world.add(role, "one", "two", role=role, **known), 1, 2)
    again = world.add("again", "one", "two")
    world.say(1, again, strength=1)
    world.say(1, again, turn=1, order=(1, 0), reason="ambiguous")
    world.say(2, again, turn=1, order=(1, 0), reason="ambiguous")
    assert on_desk(world) == []
    assert world.export(tmp_path / "out")["counts"]["ambiguous"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_desk_and_export_agree_whatever_is_said(world: World, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    items = [world.add(f"question {n}", "one", "two") for n in range(5)]
    for _ in range(50):
        who, new, turn, step = rng.randint(1, 4), rng.choice(items), int(rng.random() < 0.1), rng.random()
        if step < 0.05:
            world.settle(who, new, strength=2)
        elif step < 0.1:
            world.run(control.requeue, new.id, 0)
        elif step < 0.6:
            world.say(who, new, turn, reason=rng.choice(["ambiguous", "ambiguous", "broken"]))
        else:
            world.say(who, new, turn, strength=rng.randint(0, 5))
    world.run(control.remove_rater, 1, 0, discard=rng.random() < 0.5)
    world.export(tmp_path / "out")
    told = [row["item_id"] for row in lines(tmp_path / "out" / "ambiguous.jsonl")]
    assert told == on_desk(world)
    assert set(told) <= listed(world).keys()
    marked = [said for said in judged(tmp_path / "out") if said.raw.get("left_out") == "ambiguous question"]
    assert {said.raw["item_id"] for said in marked} == set(told)

"""The desk's figures put together: a project worked by hand, what is missing and why, stop rules, the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_projects import START, Project, drawn, item_of, projects, words
from postgres import Postgres

from prefloop.annotation.background import DATABASE_VARIABLE
from prefloop.annotation.control import remove_rater
from prefloop.annotation.figures import main, reading
from prefloop.annotation.progress import HOUR, progress
from prefloop.annotation.schema import item, judgement
from prefloop.annotation.simulate import SimulatedRater
from prefloop.config.annotation import StopConfig
from prefloop.errors import StoreError


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Project]]:
    with projects(tmp_path) as build:
        yield build


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
    assert by_rater["simulated-1"]["majority"]["value"] == 0.5  # the majority of one other
    assert by_rater["simulated-1"]["seconds"]["value"] == 20
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
    assert found["stop"] == []


def test_an_empty_project_says_why_of_everything(make: Callable[..., Project]) -> None:
    for kind in ("pairwise", "ranking"):
        found = make(kind=kind, stop=StopConfig(judgements=5, agreement_width=0.1, preference_width=0.1)).figures()
        missing = list(found["agreement"].values())
        missing += [figure for name, figure in found["policies"].items() if name != "strengths"]
        assert all(figure["value"] is None and figure["why"] and figure["n"] == 0 for figure in missing)
        assert found["raters"] == found["policies"]["strengths"] == []
        assert [rule["met"] for rule in found["stop"]] == [False] * 3
        assert found["stop"][0]["now"] == 0
        assert all(rule["now"] is None and rule["why"] for rule in found["stop"][1:])


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


def test_discarded_verdicts_and_surplus_are_left_out(make: Callable[..., Project]) -> None:
    project = make()
    ids = project.add([item_of(n) for n in range(2)])
    a, b, c = project.raters(3)
    for rater, says in ((a, "first"), (b, "second")):
        project.judge(rater, dict.fromkeys(ids, says))
    assert project.figures()["agreement"]["percent"]["n"] == 2
    project.writer.run(lambda connection: remove_rater(connection, b, START, discard=True))
    assert project.figures()["agreement"]["percent"]["n"] == 0
    project.judge(c, dict(zip(ids, ["first", "second"], strict=True)))
    found = project.figures()["agreement"]
    # labels 1 1 | 1 0: α = 1 − 3·2 / (16 − 10)
    assert found["alpha"]["value"] == pytest.approx(0)
    assert found["percent"]["value"] == 1 / 2


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


def test_the_same_verdicts_have_the_same_figures_on_postgresql(
    make: Callable[..., Project], postgres: Postgres
) -> None:
    found, counts = [], []
    url = postgres.create_database()
    for place in ("", url):
        project = make(place)
        items = words(12)
        project.add(items)
        people = dict.fromkeys(project.raters(2), SimulatedRater(0.8, tie=0.2))
        project.fill(people, items, drawn(items, 2.0))
        found.append(project.figures())
        with project.database.reading.connect() as connection:
            counts.append(progress(connection, START + HOUR, START))
    with pytest.raises(StoreError, match="read-only"), reading(url) as connection:
        connection.execute(sa.delete(judgement))
    project.database.close()
    assert found[0] == found[1]
    assert counts[0] == counts[1]
    assert found[0]["agreement"]["alpha"]["n"] == 12

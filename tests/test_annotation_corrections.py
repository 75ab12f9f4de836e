"""Corrected answers are executed before they are trained on: right, wrong, failing, and where nothing can run them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_annotation_export import World, ids, judged, lines, preferred
from typer.testing import CliRunner

from prefloop.annotation.items import NewItem, add_items
from prefloop.annotation.open import collect_project
from prefloop.cli.app import app
from prefloop.config.judges import PeopleConfig
from prefloop.errors import DataError
from prefloop.judging.people import PeopleJudge
from prefloop.progress import set_quiet
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.tables import read_records
from prefloop.tasks.nba.answers import render_answer

GOLD = "SELECT COUNT(*) FROM games"
RIGHT, WRONG = "SELECT SUM(1) FROM games", "SELECT COUNT(*) + 1 FROM games"


def fenced(sql: str) -> str:
    return render_answer("number of games.", sql)


def made(path: Path, games: int) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE games (id INTEGER PRIMARY KEY, points INTEGER)")
        connection.executemany("INSERT INTO games (points) VALUES (?)", [(n,) for n in range(games)])
    return path


@pytest.fixture
def league(tmp_path: Path) -> Path:
    return made(tmp_path / "league.sqlite", 30)


@pytest.fixture
def world(tmp_path: Path, league: Path) -> Iterator[World]:
    built = World(tmp_path, overlap=1, sql=league)
    yield built
    built.database.close()


def ask(world: World, question: str, meta: dict[str, Any], first: str, second: str, task: str = "sql") -> NewItem:
    prompt = Prompt.create(({"role": "user", "content": question},), task, "train", meta)
    texts = enumerate((first, second))
    answers = tuple(
        Completion(f"{prompt.id}-{i}", prompt.id, i, 0, text, (), (), "stop", "m", {}, 0) for i, text in texts
    )
    new = NewItem(prompt, answers)
    with world.database.writing.begin() as connection:
        add_items(connection, [new])
    return new


def corrected(world: World, text: str, meta: dict[str, Any], question: str = "How many games?") -> NewItem:
    """An item whose first answer was preferred and corrected."""
    new = ask(world, question, meta, fenced("SELECT id FROM games"), fenced("SELECT points FROM games"))
    world.say(1, new, strength=2, edits={0: text})
    return new


def made_by_people(out: Path) -> Completion:
    return read_records(out / "completions.parquet", Completion)[-1]


def of_correction(out: Path) -> Judgement:
    (found,) = (said for said in judged(out) if said.raw["status"] == "corrected")
    return found


WITH_GOLD = [
    (fenced(RIGHT), "right", None, None),
    (fenced(WRONG), "wrong", "correction is wrong", None),
    (fenced("SELECT absent FROM games"), "fails", "correction does not run", "unknown column: no such column: absent"),
    (fenced("DELETE FROM games"), "fails", "correction does not run", "denied: not authorized"),
    ("It cannot be said.", "no query", "correction has no query", "no SQL in this answer"),
    (f"```sql\n{RIGHT}", "no query", "correction has no query", "no SQL in this answer"),  # the fence is not closed
]


@pytest.mark.parametrize(("text", "outcome", "left_out", "error"), WITH_GOLD)
def test_what_the_tasks_check_says_decides(
    world: World, tmp_path: Path, text: str, outcome: str, left_out: str | None, error: str | None
) -> None:
    new = corrected(world, text, {"gold_sql": GOLD})
    a, b = ids(new)
    found = world.export(tmp_path / "out")
    kept = made_by_people(tmp_path / "out")
    assert (kept.text, kept.sampling["edited"]) == (text, a)
    executed = kept.sampling["executed"]
    assert (executed["outcome"], executed["error"]) == (outcome, error)
    said = of_correction(tmp_path / "out")
    assert (said.raw["executed"], said.raw.get("left_out")) == (outcome, left_out)
    chain = ((kept.id,), (a,), (b,))
    assert {p.ranking for p in preferred(tmp_path / "out")} == {((a,), (b,))} | (set() if left_out else {chain})
    assert lines(tmp_path / "out" / "judgements.jsonl")[0]["edits"] == {"0": text}
    assert found["corrections"]["outcomes"] == {outcome: 1}
    named = {"item_id": new.id, "seq": 1, "completion_id": kept.id, "rater": "r1", "reason": left_out, "error": error}
    assert found["corrections"]["held_back"] == ([named] if left_out else [])
    assert found["preferences"].get(f"judgement left out: {left_out}") == (1 if left_out else None)
    assert f"| {outcome} | 1 |" in (tmp_path / "out" / "README.md").read_text()


def test_the_result_stands_with_the_correction(world: World, tmp_path: Path) -> None:
    corrected(world, fenced("SELECT id, points * 2 AS twice FROM games ORDER BY id"), {"gold_sql": GOLD})
    world.export(tmp_path / "out")
    executed = made_by_people(tmp_path / "out").sampling["executed"]
    assert executed["columns"] == ["id", "twice"]
    assert executed["rows"] == [[n + 1, 2 * n] for n in range(20)]  # the first twenty
    assert executed["count"] == 30


@pytest.mark.parametrize(
    ("text", "outcome", "left_out"),
    [
        (fenced(WRONG), "runs", None),  # nobody knows better
        ("SELECT COUNT(*) FROM games;", "runs", None),  # one bare statement is a query, too
        (fenced("SELECT absent FROM games"), "fails", "correction does not run"),
        ("I do not know.", "no query", "correction has no query"),
    ],
)
def test_without_a_gold_a_correction_has_to_run(
    world: World, tmp_path: Path, text: str, outcome: str, left_out: str | None
) -> None:
    corrected(world, text, {})
    world.export(tmp_path / "out")
    said = of_correction(tmp_path / "out")
    assert (said.raw["executed"], said.raw.get("left_out")) == (outcome, left_out)
    assert len(preferred(tmp_path / "out")) == 1 + (left_out is None)


def test_where_no_query_can_answer_a_refusal_is_right(world: World, tmp_path: Path) -> None:
    refusal = "Plan: none.\nThis cannot be answered from this database."
    for question, text in (("Who will win?", refusal), ("Who won?", fenced(RIGHT))):
        corrected(world, text, {"gold_sql": None}, question)
    found = world.export(tmp_path / "out")
    outcomes = {said.prompt_id: said.raw["executed"] for said in judged(tmp_path / "out") if "executed" in said.raw}
    assert list(outcomes.values()) == ["right", "wrong"]
    assert found["corrections"]["outcomes"] == {"right": 1, "wrong": 1}


def test_a_gold_that_does_not_run_decides_nothing(world: World, tmp_path: Path) -> None:
    corrected(world, fenced(WRONG), {"gold_sql": "SELECT gone FROM games"})
    assert world.export(tmp_path / "out")["corrections"]["outcomes"] == {"runs": 1}


def test_prose_is_not_executed_and_stays_above_what_it_corrects(world: World, tmp_path: Path) -> None:
    new = ask(world, "Name a prime.", {}, "It is 9.", "It is 8.")
    world.say(1, new, strength=2, edits={0: "It is 7."})
    found = world.export(tmp_path / "out")
    assert found["corrections"] == {"outcomes": {"not SQL": 1}, "held_back": []}
    assert "executed" not in made_by_people(tmp_path / "out").sampling
    assert len(preferred(tmp_path / "out")) == 2


def test_both_answers_bad_and_a_wrong_correction_of_them_make_no_pair(world: World, tmp_path: Path) -> None:
    new = ask(world, "q", {"gold_sql": GOLD}, fenced("SELECT 1"), fenced("SELECT 2"))
    world.say(1, new, strength=0, edits={0: fenced(WRONG)})
    found = world.export(tmp_path / "out")
    assert preferred(tmp_path / "out") == []
    assert len(found["corrections"]["held_back"]) == 1  # one correction, though it would have stood above two


def test_the_database_is_named_for_collecting_or_else_nothing_is_executed(
    tmp_path: Path, league: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = World(tmp_path, overlap=1, sql=tmp_path / "moved.sqlite")
    corrected(moved, fenced("SELECT absent FROM games"), {})
    set_quiet(False)
    found = moved.export(tmp_path / "none")
    assert "moved.sqlite is not here any more: corrected answers are not executed" in capsys.readouterr().err
    assert found["corrections"] == {"outcomes": {"not executed": 1}, "held_back": []}
    assert len(preferred(tmp_path / "none")) == 2
    assert moved.export(tmp_path / "named", sql=league)["corrections"]["outcomes"] == {"fails": 1}
    with pytest.raises(DataError, match=r"gone\.sqlite does not exist"):
        moved.export(tmp_path / "gone", sql=tmp_path / "gone.sqlite")
    assert not (tmp_path / "gone").exists()
    moved.database.close()


def test_prompts_of_the_league_are_checked_on_both_leagues(
    tmp_path: Path, league: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leagues = [league, made(tmp_path / "other.sqlite", 31)]
    monkeypatch.setattr("prefloop.tasks.nba.task.judge_databases", lambda: leagues)
    plain = World(tmp_path, overlap=1)
    for question, sql in (("a", GOLD), ("b", "SELECT 30")):  # as many as the first league has games
        new = ask(plain, question, {"gold_sql": GOLD}, fenced("SELECT 1"), fenced("SELECT 2"), task="nba-sql")
        plain.say(1, new, strength=2, edits={0: fenced(sql)})
    assert plain.export(tmp_path / "out")["corrections"]["outcomes"] == {"right": 1, "wrong": 1}
    plain.database.close()


HOSTILE = [
    "ATTACH DATABASE '/tmp/evil.db' AS evil",
    "SELECT load_extension('/tmp/evil.so')",
    "SELECT writefile('/tmp/evil', 'x')",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
    "SELECT hex(randomblob(900000000))",
    "SELECT a.id FROM games a, games b, games c, games d",
    "SELECT '" + "x" * 15_000 + "' FROM nowhere",
]


def test_hostile_corrections_fail_and_touch_nothing(world: World, tmp_path: Path, league: Path) -> None:
    before = hashlib.sha256(league.read_bytes()).digest()
    for number, sql in enumerate(HOSTILE):
        corrected(world, fenced(sql), {"gold_sql": GOLD}, f"q{number}")
    found = world.export(tmp_path / "out")
    assert found["corrections"]["outcomes"] == {"fails": len(HOSTILE)}
    assert all(len(row["error"]) <= 200 for row in found["corrections"]["held_back"])
    assert hashlib.sha256(league.read_bytes()).digest() == before
    assert len(preferred(tmp_path / "out")) == len(HOSTILE)  # of each item the two answers alone


def test_the_same_database_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    for number, (text, *_) in enumerate(WITH_GOLD):
        corrected(world, text, {"gold_sql": GOLD}, f"q{number}")
    for name in "ab":
        world.export(tmp_path / name)
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} for name in "ab"
    )
    assert first == second


def test_the_export_tells_no_folder_of_who_made_it(world: World, tmp_path: Path) -> None:
    world.export(tmp_path / "out")
    text = (tmp_path / "out" / "project.json").read_text()
    assert json.loads(text)["settings"]["sql"] == "league.sqlite"
    assert str(tmp_path) not in text


def test_collect_names_what_is_held_back_and_no_control_characters(world: World, tmp_path: Path) -> None:
    ordinary, coloured = (
        corrected(world, fenced(sql), {"gold_sql": GOLD}, sql)
        for sql in (WRONG, 'SELECT "\x1b[31mred\u202e" FROM nowhere')
    )
    skipped = ask(world, "Which one?", {}, "a", "b")
    world.say(1, skipped, reason="ambiguous", comment="By points.")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["collect", str(tmp_path / "project.db"), "--out", str(out)])
    assert result.output.splitlines() == [
        f"3 verdicts of 1 people, 2 pairs in {out}",
        "ambiguous questions, not trained on: 1, in ambiguous.jsonl",
        "corrected answers, executed: fails 1, wrong 1",
        f"  not trained on: item {ordinary.id}, by r1: correction is wrong",
        f"  not trained on: item {coloured.id}, by r1: correction does not run (unknown table: no such table: nowhere)",
    ]


def test_a_long_list_of_them_is_cut(world: World, tmp_path: Path) -> None:
    for number in range(7):
        corrected(world, fenced(f'SELECT "\x1b[31m{number}" FROM games, nowhere'), {}, f"q{number}")
    database = str(tmp_path / "project.db")
    result = CliRunner().invoke(app, ["collect", database, "--out", str(tmp_path / "out")])
    assert len(result.output.splitlines()) == 2 + 5 + 1
    assert result.output.splitlines()[-1] == "  and 2 more, in project.json"
    assert "\x1b" not in result.output
    again = collect_project(database, tmp_path / "again")
    assert len(again["corrections"]["held_back"]) == 7


def test_the_judge_of_a_run_says_what_became_of_corrections(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [corrected(world, fenced(sql), {"gold_sql": GOLD}, sql) for sql in (RIGHT, WRONG)]
    world.export(tmp_path / "out")
    capsys.readouterr()
    set_quiet(False)
    prompts, answers = [new.prompt for new in asked], [one for new in asked for one in new.answers]
    with PeopleJudge(PeopleConfig(path=tmp_path / "out")) as judge:
        found = judge.judge(prompts, answers)
    assert [said.raw["status"] for said in found] == ["preferred", "preferred"]
    assert capsys.readouterr().err.strip() == (
        "people wrote 2 corrected answers, 1 not trained on (correction is wrong): "
        f"see {tmp_path / 'out' / 'preferences'}, not this run"
    )

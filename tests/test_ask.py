"""One question: plan, SQL and rows, before and after; hostile answers and mistakes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop

from prefloop.config.recipe import load_recipe
from prefloop.loop import ask
from prefloop.loop.ask import ask_question
from prefloop.progress import set_quiet
from prefloop.records import Completion, content_id
from prefloop.store.files import write_json


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "games.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE games (n INTEGER, who TEXT)")
        connection.executemany("INSERT INTO games VALUES (?, ?)", [(n, "[red]x[/red]") for n in range(25)])
    return path


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a policy answers, by its name."""
    texts: dict[str, str] = {}

    def generate(policy: str, prompts: Any, sampling: Any, **options: Any) -> list[Completion]:
        assert sampling.greedy
        key = content_id(policy, prompts[0].id)
        return [Completion(key, prompts[0].id, -1, 0, texts[policy], (), (), "stop", "p", {}, 1)]

    monkeypatch.setattr(ask, "generate_completions", generate)
    monkeypatch.setattr(ask, "load_policy", lambda name: "before")
    monkeypatch.setattr(ask, "initial_policy", lambda recipe: "before")
    monkeypatch.setattr(ask, "load_checkpoint", lambda recipe, path: f"after {recipe.training.method} {path.name}")
    monkeypatch.setattr(ask, "merged", lambda policy: policy)
    return texts


def fenced(sql: str) -> str:
    return f"Plan: count.\n```sql\n{sql}\n```"


def test_the_embedded_policy_answers_about_the_simulated_league(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(False)
    (reply,) = ask_question("most points per game last season")
    set_quiet(True)
    assert "Asked of the simulated league, whose players and results are invented" in capsys.readouterr().err
    assert reply.policy == "before"
    assert reply.plan
    assert reply.result is not None
    assert reply.result.status == "ok"
    assert reply.result.rows
    assert reply.row()["synthetic_games"] > 300


def test_rows_come_from_the_database_that_is_named(database: Path, says: dict[str, str]) -> None:
    says["before"] = fenced("SELECT COUNT(*) AS n FROM games")
    (reply,) = ask_question("how many?", database=database)
    assert (reply.plan, reply.sql) == ("count.", "SELECT COUNT(*) AS n FROM games")
    assert (reply.result.columns, reply.result.rows) == (("n",), ((25,),))


@pytest.mark.parametrize("sql", ["DELETE FROM games", "ATTACH 'x' AS y", "SELECT * FROM nothing"])
def test_a_hostile_or_wrong_query_is_an_error_and_changes_nothing(
    database: Path, says: dict[str, str], sql: str
) -> None:
    says["before"] = fenced(sql)
    (reply,) = ask_question("?", database=database)
    assert reply.result.status != "ok"
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM games").fetchone() == (25,)


def test_a_refusal_has_no_rows(database: Path, says: dict[str, str]) -> None:
    says["before"] = "Plan: cannot be answered: the database holds no data on heights."
    (reply,) = ask_question("?", database=database)
    assert (reply.sql, reply.result) == (None, None)


def finished(root: Path, recipe: Any, **files: Any) -> Path:
    root.mkdir()
    write_json(root / "recipe.json", {"recipe": recipe.settings})
    write_json(root / "manifest.json", {"recipe": recipe.settings})
    for name, content in files.items():
        write_json(root / f"{name}.json", content)
    return root


def test_before_and_after_of_a_run_and_of_the_best_round_of_a_loop(
    tmp_path: Path, database: Path, says: dict[str, str]
) -> None:
    says["before"] = fenced("SELECT 1")
    says["after lora checkpoint"] = fenced("SELECT 2")
    run = finished(tmp_path / "run", load_recipe("nba-sql"))
    loop = finished(tmp_path / "loop", load_recipe("rlhf-nba"), rounds={"best": 2})
    for root in (run, loop):
        replies = ask_question("?", root, database)
        assert [(reply.policy, reply.result.rows) for reply in replies] == [("before", ((1,),)), ("after", ((2,),))]


def test_before_and_after_stand_beside_each_other_where_there_is_room(
    tmp_path: Path, database: Path, says: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    says |= {"before": fenced("SELECT 1 AS first"), "after lora checkpoint": fenced("SELECT 2 AS second")}
    run = finished(tmp_path / "run", load_recipe("nba-sql"))
    for columns, together in ((140, True), (80, False)):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = prefloop("ask", "?", "--run", run, "--database", database).stdout.splitlines()
        assert any("before" in line and "after" in line for line in shown) is together
        assert any("first" in line and "second" in line for line in shown) is together
        assert sum("1 row" in line for line in shown) == (1 if together else 2)


def test_a_run_whose_task_is_no_sql_is_asked_about_the_simulated_league(tmp_path: Path, says: dict[str, str]) -> None:
    says |= {"before": fenced("SELECT COUNT(*) FROM games"), "after qlora checkpoint": fenced("SELECT 2")}
    run = finished(tmp_path / "run", load_recipe("lima-pairrm-dpo"))
    before, after = ask_question("?", run)
    assert before.result.rows[0][0] > 500
    assert after.result.rows == ((2,),)


def test_the_command(tmp_path: Path, database: Path, says: dict[str, str]) -> None:
    says["before"] = fenced("SELECT n, who, NULL AS missing FROM games")
    done = prefloop("ask", "all of them", "--database", database)
    assert done.returncode == 0, done.stderr
    assert "25 rows, the first 20 shown" in done.stdout
    assert "[red]x[/red]" in done.stdout  # a cell is text, not markup
    assert "NULL" in done.stdout
    (told,) = json.loads(prefloop("ask", "all of them", "--database", database, "--json").stdout)
    assert (told["plan"], len(told["result"]["rows"]), told["synthetic_games"]) == ("count.", 25, 0)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("ALTER TABLE games ADD COLUMN notes TEXT")
        connection.execute("UPDATE games SET notes = CASE WHEN n < 3 THEN 'synthetic' ELSE 'moved' END")
        connection.execute("UPDATE games SET notes = 'moved; synthetic player rows' WHERE n > 20")
    (told,) = json.loads(prefloop("ask", "all of them", "--database", database, "--json").stdout)
    assert told["synthetic_games"] == 7
    says["before"] = fenced("SELECT x FROM games")
    assert "no such column: x" in prefloop("ask", "x", "--database", database).stdout
    lost = finished(tmp_path / "lost", load_recipe("iterative-dpo"), rounds={"best": 0})
    for words, code, said in (
        (["  "], 2, "ask a question"),
        (["x", "--run", tmp_path / "gone"], 5, "is not a run folder"),
        (["x", "--run", lost], 2, "no round of"),
        (["x", "--database", tmp_path / "gone.sqlite"], 3, "gone.sqlite"),
    ):
        failed = prefloop("ask", *words)
        assert (failed.returncode, said in failed.stderr) == (code, True), failed.stderr

"""A database task run: prompts, the judge with alternatives and several databases, a whole recipe, PostgreSQL."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from command_line import prefloop
from postgres import Postgres, running_postgres
from postgres_copy import make_reader, new_database
from psycopg import sql
from shop import TABLES, build_shop, rows
from test_annotation_export import World

from prefloop.annotation.items import NewItem, add_items
from prefloop.annotation.open import _asked, with_results
from prefloop.config.judges import ExecutionConfig
from prefloop.config.recipe import load_recipe
from prefloop.config.tasks import DatabaseTaskConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.judging.execution import ExecutionJudge
from prefloop.loop import main
from prefloop.loop.main import run_recipe
from prefloop.loop.plan import plan
from prefloop.progress import set_quiet
from prefloop.records import Completion, Judgement, Prompt
from prefloop.sql.pool import SandboxPool
from prefloop.sql.postgres import connect_readonly
from prefloop.store.tables import read_records
from prefloop.tasks.database.audit.audit import audit_task
from prefloop.tasks.database.folder import read_task
from prefloop.tasks.database.imports.questions import task_from_questions
from prefloop.tasks.database.make import task_from_database
from prefloop.tasks.database.source.inspection import _repeated, inspect
from prefloop.tasks.database.task import database_prompts, judge_sets
from prefloop.tasks.database.variants import changes, owned
from prefloop.tasks.database.variants.postgres import write_postgres_variant
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.questions.grammar import Question, draw_question
from prefloop.tasks.nba.questions.worlds import LeagueWorld
from prefloop.tasks.nba.task import team_words

CONFIG = ExecutionConfig(workers=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("task")
    task_from_database(build_shop(place / "shop.sqlite"), place / "my-task", train=24, test=12, workers=1)
    return place / "my-task"


def answer(prompt: Prompt, text: str, index: int = 0) -> Completion:
    return Completion(f"{prompt.id}/{index}", prompt.id, index, 0, text, (1,), (0.0,), "stop", "p", {}, 0)


def correct(folder: Path, prompts: list[Prompt], texts: list[str]) -> list[float]:
    with ExecutionJudge(judge_sets(folder), CONFIG) as judge:
        judged = judge.judge(prompts, [answer(p, t) for p, t in zip(prompts, texts, strict=True)])
    return [judgement.objectives.get("correct", -1.0) for judgement in judged]


def gold(prompt: Prompt) -> str:
    return render_answer(prompt.meta["gold_plan"], prompt.meta["gold_sql"])


def test_every_gold_answer_scores_one(made: Path) -> None:
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=made), 1)
    with ExecutionJudge(judge_sets(made), CONFIG) as judge:
        judged = judge.judge(prompts, [answer(prompt, gold(prompt)) for prompt in prompts])
    for prompt, judgement in zip(prompts, judged, strict=True):
        assert judgement.objectives == pytest.approx(dict.fromkeys(judgement.objectives, 1.0)), prompt.meta["question"]


def test_what_a_prompt_holds(made: Path) -> None:
    prompts, _, origin = database_prompts(DatabaseTaskConfig(folder=made), 1)
    system, user = prompts[0].messages
    assert "in SQLite" in system["content"]
    assert "CREATE TABLE customers" in system["content"]
    assert "any of them will do" in system["content"]
    assert user["content"] == prompts[0].meta["question"]
    assert origin == "The prompts are the user's own."
    named, *_ = database_prompts(DatabaseTaskConfig(folder=made, schema_in_prompt="names"), 1)
    assert "products(id, title, category, price, stock)" in named[0].messages[0]["content"]
    bare, *_ = database_prompts(DatabaseTaskConfig(folder=made, schema_in_prompt="none"), 1)
    assert len(bare[0].messages) == 1
    seen = {prompt.meta["template"] for prompt in prompts if prompt.split == "train"}
    assert all(prompt.meta["seen"] == (prompt.meta["template"] in seen) for prompt in prompts)


def test_fewer_questions_are_drawn_by_seed_and_the_test_stays(made: Path) -> None:
    def drawn(seed: int, **counts: int) -> dict[str, set[str]]:
        prompts, *_ = database_prompts(DatabaseTaskConfig(folder=made, **counts), seed)
        return {split: {p.id for p in prompts if p.split == split} for split in ("train", "test")}

    one, two = drawn(1, train_questions=10, test_questions=6), drawn(2, train_questions=10, test_questions=6)
    assert (len(one["train"]), len(one["test"])) == (10, 6)
    assert one["test"] == two["test"]
    assert one["train"] != two["train"]
    assert one["train"] < drawn(1, train_questions=15)["train"]
    with pytest.raises(DataError, match=r"24 train questions that can be asked, not 25: lower task\.train_questions"):
        drawn(1, train_questions=25)


def test_alternatives_sets_of_databases_and_golds_without_a_variant(tmp_path: Path) -> None:
    """Two databases with tables of one name; a question right in either of two ways; one the variant is silent on."""
    for name, seed in (("north", 3), ("south", 4)):
        build_shop(tmp_path / f"{name}.sqlite", seed)
    price = "SELECT title FROM products ORDER BY price DESC LIMIT 1"
    lines = [
        {
            "question": "How many open orders up north?",
            "sql": "SELECT COUNT(*) FROM orders WHERE status = 'open'",
            "db_id": "north",
            "split": "test",
        },
        {
            "question": "How many open orders down south?",
            "sql": "SELECT COUNT(*) FROM orders WHERE status = 'open'",
            "db_id": "south",
            "split": "train",
        },
        {"question": "Dearest product down south?", "sql": price, "db_id": "south", "split": "train"},
        {
            "question": "Who has 47 credit?",
            "sql": "SELECT name FROM customers WHERE credit = (SELECT credit FROM customers WHERE id = 2) AND id = 2",
            "db_id": "north",
            "split": "train",
        },
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = tmp_path / "t"
    task_from_questions(tmp_path / "own.jsonl", tmp_path, task, workers=1)
    questions = [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]
    questions[1]["alternatives"] = [
        {"sql": "SELECT status, COUNT(*) FROM orders WHERE status = 'open' GROUP BY status"}
    ]
    questions[1]["comparison"] = {"extra_columns": "forbid"}
    empty = (
        "SELECT title FROM products WHERE id = 1 AND price = (SELECT price FROM products WHERE id = 1) AND price = {}"
    )
    with sqlite3.connect(task / "databases/north.sqlite") as connection:
        (value,) = connection.execute("SELECT price FROM products WHERE id = 1").fetchone()
    questions.append(
        {"question": "What costs so much?", "sql": empty.format(value), "split": "train", "database": "north"}
    )
    (task / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    found = audit_task(task, workers=1)
    assert found["rejected"] == []
    assert found["on_one_database"] == [5]
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=task), 1)
    by_text = {prompt.meta["question"]: prompt for prompt in prompts}
    assert by_text["What costs so much?"].meta["database"] == "north/alone"
    assert "south" not in by_text["Dearest product down south?"].messages[0]["content"]
    open_, dear, costs = (by_text[lines[1]["question"]], by_text[lines[2]["question"]], by_text["What costs so much?"])

    def sql(text: str) -> str:
        return f"Plan: x\n```sql\n{text}\n```"

    counted = "SELECT COUNT(id) FROM orders WHERE status = 'open'"
    both = "SELECT 'open', COUNT(*) FROM orders WHERE status = 'open'"
    wrong = "SELECT COUNT(*), MIN(id) FROM orders WHERE status = 'open'"
    cheapest = "SELECT title FROM products ORDER BY price LIMIT 1"
    constant = f"SELECT title FROM products WHERE price = {value} AND id = 1"
    cases = [
        (open_, counted, 1),
        (open_, both, 1),
        (open_, wrong, 0),
        (dear, price, 1),
        (dear, cheapest, 0),
        (costs, constant, 1),
    ]
    for prompt, text, expected in cases:
        assert correct(task, [prompt], [sql(text)]) == [expected], text
    with pytest.raises(ConfigError, match="several databases"):
        database_prompts(DatabaseTaskConfig(folder=task, schema_in_prompt="none"), 1)


def test_a_prompt_of_a_database_that_is_not_there_is_refused(made: Path) -> None:
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=made), 1)
    with (
        ExecutionJudge({"other": [made / "databases/shop.sqlite"]}, CONFIG) as judge,
        pytest.raises(DataError, match="no database called 'shop'"),
    ):
        judge.judge(prompts[:1], [answer(prompts[0], "x")])


@pytest.fixture(scope="module")
def league_questions(leagues: list[Path]) -> list[Question]:
    """Questions of the NBA grammar, of families that the embedded policy knows and of rankings; each gold once."""
    rng, world, names = np.random.default_rng(5), LeagueWorld(leagues[0]), team_words()
    drawn = [draw_question(rng, family, world, names) for _ in range(14) for family in "ABDE"]
    return list({question.query.sql(): question for question in drawn if question.query}.values())


@pytest.fixture(scope="module")
def league_task(
    league_questions: list[Question], leagues: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """A task of these questions, without the comparisons that the grammar knows, and its audit."""
    place = tmp_path_factory.mktemp("league")
    lines = [
        {"question": question.text, "sql": question.query.sql()} for question in league_questions if question.query
    ]
    (place / "nba.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place / "t", task_from_questions(place / "nba.jsonl", leagues[0], place / "t", workers=1)


@pytest.mark.soak
def test_comparisons_by_rule_agree_with_those_that_a_grammar_knows(
    league_questions: list[Question], league_task: tuple[Path, dict[str, Any]]
) -> None:
    task, found = league_task
    assert {row["reason"] for row in found["rejected"]} <= {
        "gold is empty",
        "gold is NULL",
        "tie at the limit",
        "the same text as another question",
        "another question's query gives the same result",
    }
    made = {q.question: q.comparison for q in read_task(task).questions}
    tops = [question for question in league_questions if "top_k" in question.comparison]
    assert len(tops) > 8
    for question in tops:
        comparison = made[question.text]
        assert comparison["top_k"] == question.comparison["top_k"]
        assert comparison["order_keys"] == question.comparison["order_keys"]
    others = {question.text for question in league_questions} - {question.text for question in tops}
    assert not any("top_k" in made[text] for text in others)


SMALL: dict[str, Any] = {
    "policy.model": "embedded",
    "policy.dtype": "float32",
    "task.schema_in_prompt": "none",
    "task.train_questions": 8,
    "task.test_questions": 4,
    "generation.k": 3,
    "generation.max_new_tokens": 96,
    "evaluation.sampled_questions": 2,
    "evaluation.samples": 2,
    "evaluation.bootstrap": 100,
    "training.epochs": 1,
    "training.dtype": "float32",
    "training.checkpointing": False,
    "threads": 1,
}


def test_a_whole_run_and_what_changes_under_it(
    league_questions: list[Question], league_task: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The embedded policy, asked what it knows: every stage, the report, and the guards against edits."""
    task, out = Path(shutil.copytree(league_task[0], tmp_path / "t")), tmp_path / "run"
    recipe = load_recipe("database-sql", {**SMALL, "task.folder": str(task)})
    planned = plan(recipe)
    assert (planned.questions, planned.training_answers, planned.test_answers) == (12, 24, 2 * (4 + 2 * 2))
    evaluation = run_recipe(recipe, out)
    assert evaluation["execution_accuracy"]["n"] == 4
    prompts = read_records(out / "prompts.parquet", Prompt)
    assert {prompt.task for prompt in prompts} == {"database"}
    judged = read_records(out / "judgements.parquet", Judgement)
    assert {judgement.objectives["correct"] for judgement in judged} == {0.0, 1.0}
    assert "nba.jsonl" in (out / "preferences/README.md").read_text()
    assert "</html>" in (out / "report.html").read_text()
    assert run_recipe(recipe, out, resume=True) == evaluation
    asked = prefloop("ask", league_questions[0].text, "--run", out, "--json")
    assert asked.returncode == 0, asked.stderr
    assert [reply["policy"] for reply in json.loads(asked.stdout)] == ["before", "after"]
    (task / "task.yaml").write_text((task / "task.yaml").read_text().replace("no others", "nothing else"))
    with pytest.raises(StoreError, match="recipe"):
        run_recipe(recipe, out, resume=True)


def test_options_of_the_recipe(made: Path, tmp_path: Path) -> None:
    assert load_recipe("nba-sql", {"task": "database", "task.folder": "x"}).task == DatabaseTaskConfig(folder=Path("x"))
    with pytest.raises(ConfigError, match=r"task\.folder: field required"):
        load_recipe("nba-sql", {"task": "database"})
    with pytest.raises(ConfigError, match=r"evaluation\.judge: has no effect with task\.name=database"):
        load_recipe("database-sql", {"evaluation.judge": "pairrm"})
    gone = load_recipe("database-sql", {"task.folder": str(tmp_path / "gone"), "policy.model": "embedded"})
    with pytest.raises(DataError, match=r"task\.yaml does not exist: make a task folder"):
        plan(gone)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


def test_people_see_what_queries_return_and_corrections_are_judged_on_the_variant_too(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=made), 1)
    counted = "SELECT COUNT(*) FROM orders"
    asked = next(prompt for prompt in prompts if (prompt.meta["gold_sql"] or "").startswith(counted))
    recipe = {"recipe": {"task": {"name": "database", "folder": str(made)}}}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    place = made / "databases/shop.sqlite"
    assert _asked(str(tmp_path)) == {"sql": str(place)}
    with closing(sqlite3.connect(place)) as connection:
        (value,) = connection.execute(asked.meta["gold_sql"]).fetchone()
    first, second = answer(asked, "Plan: x\n```sql\nSELECT 'no'\n```"), answer(asked, gold(asked), 1)
    (shown,) = with_results([NewItem(asked, (first, second))], place)
    assert [result["rows"] for result in shown.results] == [[["no"]], [[value]]]
    world = World(tmp_path, overlap=1, sql=place)
    with world.database.writing.begin() as connection:
        add_items(connection, [shown])
    for rater, query in enumerate((asked.meta["gold_sql"], f"SELECT {value}"), 1):
        world.say(rater, shown, strength=2, edits={0: f"Plan: x\n```sql\n{query}\n```"})
    found = world.export(tmp_path / "out")
    assert found["corrections"]["outcomes"] == {"right": 1, "wrong": 1}  # the second is right on the database alone
    monkeypatch.chdir(place.parent)
    found = world.export(tmp_path / "beside", sql=Path(place.name))
    assert found["corrections"]["outcomes"] == {"right": 1, "wrong": 1}
    elsewhere = tmp_path / "elsewhere.sqlite"
    shutil.copy(place, elsewhere)
    set_quiet(False)
    found = world.export(tmp_path / "alone", sql=elsewhere)
    world.database.close()
    assert found["corrections"]["outcomes"] == {"right": 2}
    assert "elsewhere.sqlite is not the copy in a task folder" in capsys.readouterr().err


def test_a_run_is_annotated_from_wherever_one_stands(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its recipe names the task folder from where the run was made."""
    run, other = tmp_path / "runs/one", tmp_path / "other"
    for folder in (run, other):
        folder.mkdir(parents=True)
    shutil.copytree(made, tmp_path / "my-task")
    recipe = {"recipe": {"task": {"name": "database", "folder": "my-task"}}}
    (run / "recipe.json").write_text(json.dumps(recipe))
    set_quiet(False)
    for place, named in ((tmp_path, "runs/one"), (other, "../runs/one"), (run, ".")):
        monkeypatch.chdir(place)
        assert Path(_asked(named)["sql"]).samefile(tmp_path / "my-task/databases/shop.sqlite")
    assert not capsys.readouterr().err
    (tmp_path / "my-task").rename(tmp_path / "moved")
    assert _asked(".") == {}
    assert "my-task is not here: no results of queries are shown" in capsys.readouterr().err
    assert _asked(".", told=False) == {}
    assert not capsys.readouterr().err


@pytest.fixture
def shop_server(postgres: Postgres) -> tuple[str, str]:
    """The administrator's and the reader's URL of the shop on a server, with what only PostgreSQL has."""
    admin = new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute(TABLES.replace("ordered_on TEXT", "ordered_on DATE").replace("REAL", "NUMERIC(12, 2)"))
        connection.execute('CREATE TABLE "Mixed Case" ("Id" INTEGER PRIMARY KEY, "Ünit" TEXT)')
        for table, found in rows().items():
            marks = ", ".join(["%s"] * len(found[0]))
            connection.cursor().executemany(f"INSERT INTO {table} VALUES ({marks})", found)
    return admin, make_reader(admin)


def test_a_postgresql_database_by_a_role_that_can_only_read(shop_server: tuple[str, str], tmp_path: Path) -> None:
    admin, url = shop_server
    found = task_from_database(url, tmp_path / "t", train=24, test=12, workers=1)
    assert found["accepted"] == {"train": 24, "test": 12}
    (database,) = found["databases"].values()
    assert database["engine"] == "postgres"
    assert database["tables"] == {"Mixed Case": 0, "customers": 18, "orders": 200, "products": 12}
    assert database["guessed_keys"] == ["orders.product_id = products.id"]
    assert not database["variant"]
    assert '"Ünit" text' in (tmp_path / "t/schema.sql").read_text()
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=tmp_path / "t"), 1)
    assert "in PostgreSQL" in prompts[0].messages[0]["content"]
    assert set(correct(tmp_path / "t", prompts, [gold(prompt) for prompt in prompts])) == {1.0}
    wrong = "Plan: x\n```sql\nDELETE FROM orders\n```"
    assert set(correct(tmp_path / "t", prompts[:3], [wrong] * 3)) == {0.0}
    with pytest.raises(DataError, match="holds a password") as error:
        task_from_database(url.replace("@", ":secret@", 1), tmp_path / "u")
    assert "secret" not in str(error.value)
    with pytest.raises(DataError, match="can only read"):
        task_from_database(admin, tmp_path / "v")  # a superuser


def test_a_postgresql_variant_unmasks_what_is_right_by_accident(
    postgres: Postgres, shop_server: tuple[str, str], tmp_path: Path
) -> None:
    """Golds are right on both, a result written as a query on neither; the same seed gives the same variant."""
    admin, url = shop_server
    into, again = new_database(postgres), new_database(postgres)
    with_password = into.replace("@", ":op3n@", 1)
    found = task_from_database(url, tmp_path / "t", train=24, test=12, variant=with_password, workers=1)
    assert found["accepted"] == {"train": 24, "test": 12}
    ((name, database),) = found["databases"].items()
    assert f"/{name}?" in url
    assert database["variant"]
    assert not any(b"op3n" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    prompts, *_ = database_prompts(DatabaseTaskConfig(folder=tmp_path / "t"), 1)
    assert set(correct(tmp_path / "t", prompts, [gold(prompt) for prompt in prompts])) == {1.0}
    counted = "SELECT COUNT(*) FROM"
    asked = next(prompt for prompt in prompts if (prompt.meta["gold_sql"] or "").startswith(counted))
    with psycopg.connect(admin) as connection:
        (value,) = connection.execute(asked.meta["gold_sql"]).fetchone() or (None,)
    assert correct(tmp_path / "t", [asked], [f"Plan: x\n```sql\nSELECT {value}\n```"]) == [0.0]
    task_from_database(url, tmp_path / "u", train=24, test=12, variant=again, workers=1)
    assert (tmp_path / "u/questions.jsonl").read_bytes() == (tmp_path / "t/questions.jsonl").read_bytes()
    everything = "SELECT * FROM orders ORDER BY id"
    with psycopg.connect(admin) as one, psycopg.connect(into) as two, psycopg.connect(again) as three:
        original, varied = one.execute(everything).fetchall(), two.execute(everything).fetchall()
        assert varied == three.execute(everything).fetchall()
        same = "SELECT id, name FROM customers ORDER BY id"
        assert one.execute(same).fetchall() == two.execute(same).fetchall()
    assert len(varied) == 175  # an eighth of 200 is gone
    known = {row[0]: row for row in original}
    assert all(known[row[0]][1:3] == row[1:3] for row in varied)  # keys stay
    assert any(known[row[0]][3:] != row[3:] for row in varied)
    with pytest.raises(DataError, match=r"holds public\..*: give an empty database"):
        task_from_database(url, tmp_path / "v", variant=into, workers=1)
    open_to_all = new_database(postgres)
    with psycopg.connect(open_to_all) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO prefloop_reader")
    with pytest.raises(DataError, match=r"may create tables in schema public .* only to read there"):
        task_from_database(url, tmp_path / "v", variant=open_to_all, workers=1)
    with pytest.raises(DataError, match="cannot be reached"):
        task_from_database(url, tmp_path / "v", variant=into.replace("/test_", "/absent_"), workers=1)
    assert not (tmp_path / "v").exists()
    with pytest.raises(ConfigError, match="no effect on a SQLite file"):
        task_from_database(build_shop(tmp_path / "s.sqlite"), tmp_path / "w", variant=into)


def test_a_run_does_not_go_on_over_a_server_that_holds_something_else(
    postgres: Postgres, shop_server: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither over the database nor over its variant; over the same rows it does."""
    admin, url = shop_server
    into = new_database(postgres)
    task_from_database(url, tmp_path / "t", train=8, test=4, variant=into, workers=1)
    recipe = load_recipe("database-sql", {**SMALL, "task.folder": str(tmp_path / "t")})
    stages: list[Path] = []
    monkeypatch.setattr(main, "_run", lambda recipe, folder, *rest: stages.append(folder.root) or {})
    out = tmp_path / "run"
    run_recipe(recipe, out)
    run_recipe(recipe, out, resume=True)
    assert stages == [out, out]
    for place in (admin, into):
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute("UPDATE orders SET quantity = quantity + 1 WHERE id = 7")
            with pytest.raises(StoreError, match=r"servers"):
                run_recipe(recipe, out, resume=True)
            connection.execute("UPDATE orders SET quantity = quantity - 1 WHERE id = 7")
    run_recipe(recipe, out, resume=True)
    assert len(stages) == 3


def test_a_set_of_which_nothing_can_be_asked_fills_no_variant(
    postgres: Postgres, shop_server: tuple[str, str], tmp_path: Path
) -> None:
    _, url = shop_server
    into = new_database(postgres)
    (tmp_path / "q.jsonl").write_text('{"question": "Any?", "sql": "SELECT nothing FROM products"}\n')
    with pytest.raises(DataError, match=r"passes the audit: 1 are left out, the first: .* gold does not run"):
        task_from_questions(tmp_path / "q.jsonl", url, tmp_path / "t", variant=into, workers=1)
    with psycopg.connect(into) as connection:
        assert connection.execute("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_postgresql_variant_keeps_types_keys_schemas_and_indexes(postgres: Postgres) -> None:
    """A query that PostgreSQL takes on the database, it takes on the variant."""
    admin, into = new_database(postgres), new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute(
            """CREATE SCHEMA sales; CREATE TYPE sales.mood AS ENUM ('sad', 'ok', 'glad');
            CREATE DOMAIN sales.amount AS numeric(8, 2) CHECK (VALUE > 0); SET search_path = sales;
            CREATE TABLE shops (id int PRIMARY KEY, "Shop Name" text, tags text[], note jsonb, seen timestamptz);
            CREATE TABLE "Takings" (shop_id int REFERENCES shops, day date, taken amount, mood mood, feelings mood[],
              raw bytea, twice numeric GENERATED ALWAYS AS (taken * 2) STORED, PRIMARY KEY (shop_id, day),
              UNIQUE (day, taken));
            CREATE INDEX by_mood ON "Takings" (mood); CREATE TABLE visits (hour int, people int);
            INSERT INTO visits SELECT i % 7, i % 9 FROM generate_series(1, 16) i;
            INSERT INTO shops SELECT i, E'shop\t\\ ' || i, ARRAY['a', NULL, 'b"c'], '{"x": [1, null]}',
              '2024-01-01 00:00+02'::timestamptz + i * interval '1 hour' FROM generate_series(1, 5) i;
            INSERT INTO "Takings" SELECT s, date '2024-01-01' + d, d * s + 0.25, (enum_range(NULL::mood))[1 + d % 3],
              ARRAY['ok'::mood], decode(lpad(to_hex(d), 2, '0'), 'hex')
              FROM generate_series(1, 5) s, generate_series(1, 30) d;"""
        )
        connection.execute("CREATE VIEW sales.v AS SELECT 1")
    reader = make_reader(admin)
    with connect_readonly(reader) as source:
        looked = inspect(source, "postgres", "it")
        changed, url = write_postgres_variant(source, into, looked.schema, looked.profiles, seed=1)
    assert changed == {
        "Takings": ["taken", "mood", "feelings", "rows"],
        "shops": ["tags", "note", "seen"],
        "visits": ["hour", "people", "rows"],
    }
    queries = [
        'SELECT s.id, s."Shop Name", COUNT(*) FROM shops s JOIN "Takings" t ON t.shop_id = s.id GROUP BY s.id',
        "SELECT mood, AVG(twice) FROM sales.\"Takings\" WHERE mood > 'sad' GROUP BY mood",
        "SELECT tags, note, seen FROM shops",
        "SELECT COUNT(*), MIN(hour) >= 0 AND MAX(people) < 9 FROM visits",
        "SELECT COUNT(*) FROM \"Takings\" WHERE 'ok' = ANY(feelings) AND raw IS NOT NULL AND twice = 2 * taken",
    ]
    with SandboxPool([reader, url], 1) as pool:
        found = pool.run([(i, query) for query in queries for i in (0, 1)])
    assert {result.status for result in found} == {"ok"}, found
    assert found[0].rows != found[1].rows  # counts: rows are gone
    assert found[2].rows != found[3].rows
    assert (found[6].rows, found[7].rows) == (((16, 1),), ((14, 1),))  # without a key
    assert (found[8].rows, found[9].rows) == (((150,),), ((131,),))  # an eighth of 150 is gone, all else holds
    indexes = (
        "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'sales' AND indexdef !~ 'UNIQUE' ORDER BY 2"
    )
    with psycopg.connect(into) as connection:
        assert {name for name, _ in connection.execute(indexes)} == {"Takings"}


def write_variant(admin: str, into: str, seed: int = 1) -> tuple[dict[str, list[str]], str]:
    """What changes in the variant of a database, and its reader's URL."""
    with connect_readonly(make_reader(admin)) as source:
        looked = inspect(source, "postgres", "it")
        return write_postgres_variant(source, into, looked.schema, looked.profiles, seed)


def test_no_name_of_a_table_or_column_costs_the_variant_a_row(postgres: Postgres) -> None:
    """10 of 80 rows go; tables are called as the helpers that fill them were, a column as the row's alias was."""
    admin, into, again = (new_database(postgres) for _ in range(3))
    tables = ("original", "drawn", "same", "d", "Mixed")
    with psycopg.connect(admin) as connection:
        connection.execute('CREATE SCHEMA "My ""Sales"')
        for i, table in enumerate(tables):
            name = sql.Identifier('My "Sales', table)
            connection.execute(sql.SQL("CREATE TABLE {} (t int, price{} int)").format(name, sql.SQL(str(i))))
            rows = "INSERT INTO {} SELECT 7, %s + (i * 37) %% 80 FROM generate_series(1, 80) i"
            connection.execute(sql.SQL(rows).format(name), [100 * i])
    changed, url = write_variant(admin, into)
    assert set(changed) == set(tables)
    queries = [f'SELECT COUNT(*), COUNT(price{i}) FROM "{table}"' for i, table in enumerate(tables)]
    with SandboxPool([url], 1) as pool:
        assert [result.rows for result in pool.run([(0, query) for query in queries])] == [((70, 70),)] * len(tables)
    with psycopg.connect(admin) as connection:  # the rows in another order
        for i, table in enumerate(tables):
            name = sql.Identifier('My "Sales', table)
            connection.execute(sql.SQL("CREATE TEMP TABLE held AS SELECT * FROM {}").format(name))
            connection.execute(sql.SQL("TRUNCATE {}").format(name))
            back = f"INSERT INTO {{}} SELECT * FROM held ORDER BY price{i}"
            connection.execute(sql.SQL(back).format(name))
            connection.execute("DROP TABLE held")
    write_variant(admin, again)
    with psycopg.connect(into) as one, psycopg.connect(again) as two:
        for i, table in enumerate(tables):
            query = sql.SQL("SELECT * FROM {} ORDER BY " + f"price{i}").format(sql.Identifier('My "Sales', table))
            assert one.execute(query).fetchall() == two.execute(query).fetchall(), table


def test_a_table_too_large_to_be_drawn_anew_loses_rows_alone(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, into = new_database(postgres), new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TABLE big (a int, b int GENERATED ALWAYS AS (a * 2) STORED)")
        connection.execute("INSERT INTO big SELECT i FROM generate_series(1, 80) i")
    monkeypatch.setattr(changes, "MOST_CELLS", 79)
    assert write_variant(admin, into)[0] == {"big": ["rows"]}
    with psycopg.connect(into) as connection:
        found = connection.execute("SELECT COUNT(*), COUNT(DISTINCT a), SUM(b - 2 * a) FROM big").fetchone()
    assert found == (70, 70, 0)


def test_what_an_unfinished_task_left_is_replaced_and_nothing_else(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, into = new_database(postgres), new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TABLE items (price int, mood mood)")
        connection.execute("INSERT INTO items SELECT i, 'sad' FROM generate_series(1, 80) i")
    with pytest.raises(DataError, match="no questions"):
        task_from_database(make_reader(admin), tmp_path / "t", train=0, test=0, variant=into, workers=1)
    foreign = {
        "CREATE VIEW seen AS SELECT * FROM items": "public.seen",
        "CREATE TABLE others (x int)": "public.others",
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'": r"function public.f\(integer\)",
        "CREATE SEQUENCE numbers": "public.numbers",
        "CREATE DOMAIN amount AS int": "type public.amount",
        "CREATE TYPE colour AS ENUM ('red')": "type public.colour",
        "COMMENT ON TABLE items IS 'ours'": "public.items",
    }
    everything = "SELECT * FROM items ORDER BY price"
    with psycopg.connect(into, autocommit=True) as connection:
        before = connection.execute(everything).fetchall()
        for statement, name in foreign.items():
            with connection.transaction(force_rollback=True):
                connection.execute(statement)
                with pytest.raises(DataError, match=f"holds {name}: give an empty database"):
                    owned.clear(connection, "it")
                assert len(connection.execute(everything).fetchall()) == 70
    write_variant(admin, into, seed=2)
    with psycopg.connect(into) as connection:
        after = connection.execute(everything).fetchall()
    assert (len(before), len(after), before != after) == (70, 70, True)
    owned.keep(into)
    with pytest.raises(DataError, match=r"holds public\.items"):
        write_variant(admin, into)
    with pytest.raises(DataError, match="filled by another command meanwhile"):
        owned.keep(into)


def test_a_variant_that_is_refused_changes_no_rights(postgres: Postgres) -> None:
    """PUBLIC may create in schema public, as before PostgreSQL 15: taken away with the variant, not without it."""
    admin, into = new_database(postgres), new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TABLE items AS SELECT i AS price FROM generate_series(1, 80) i")
    may = "SELECT has_schema_privilege('prefloop_reader', 'public', 'CREATE')"
    with psycopg.connect(into, autocommit=True) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE SEQUENCE n; GRANT USAGE ON n TO PUBLIC")
        for refused in ("holds public.n", "may create tables"):
            with pytest.raises(DataError, match=refused):
                write_variant(admin, into)
            assert connection.execute(may).fetchone() == (True,)
            connection.execute("DROP SEQUENCE IF EXISTS n; GRANT CREATE ON SCHEMA public TO prefloop_reader")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM prefloop_reader")
        write_variant(admin, into)
        assert connection.execute(may).fetchone() == (False,)


def test_values_and_types_that_python_or_equality_lack_are_read(postgres: Postgres) -> None:
    admin = new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute(
            """CREATE TABLE odd (day date, seen timestamptz, at time, took interval, price numeric, size numeric, n int);
            INSERT INTO odd SELECT 'infinity', '-infinity', '24:00', '170000000 years', 'infinity', 'nan', 1
              FROM generate_series(1, 3);
            INSERT INTO odd VALUES ('0044-03-15 BC', '2024-01-01', '12:00', '1 day', 1.5, 2, 2);
            CREATE TABLE shapes (place box, notes json[], n int); CREATE TABLE plain (n int);
            INSERT INTO plain VALUES (1), (1)"""
        )
    with connect_readonly(make_reader(admin)) as source:
        found = inspect(source, "postgres", "it")
        profiles = found.profiles["odd"]
        assert {name: profiles[name].kind for name in ("day", "seen", "price", "size")} == dict.fromkeys(
            ("day", "seen", "price", "size"), "other"
        )
        assert ("infinity", 3) in profiles["day"].values
        assert found.repeated["odd"]["rows"] == 2
        assert (found.repeated["plain"]["rows"], "shapes" in found.repeated) == (1, False)
        changed, _ = write_postgres_variant(source, new_database(postgres), found.schema, found.profiles, seed=1)
    assert "n" in changed["odd"]


def test_a_search_for_repeated_rows_that_takes_too_long_is_left_out(postgres: Postgres) -> None:
    """Nothing else of the look is: what cannot be read is named."""
    admin = new_database(postgres)
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TABLE big AS SELECT i % 1000 AS n FROM generate_series(1, 300000) i")
    with connect_readonly(make_reader(admin)) as source:
        looked = inspect(source, "postgres", "it")
        assert looked.repeated["big"]["rows"] == 299_000
        source.execute("SET statement_timeout = '1ms'")
        assert _repeated(source, looked.schema, looked.schema.table("big")) == {}
        source.rollback()
        source.execute("SET lock_timeout = '1ms'")
        with psycopg.connect(admin) as connection:
            connection.execute("LOCK big")
            with pytest.raises(DataError, match="table big cannot be read: canceling statement due to lock timeout"):
                inspect(source, "postgres", "it")


def test_the_walk_through_of_the_documentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of it but the run on a GPU, in its order."""
    page = (Path(__file__).parent.parent / "docs/task-database.md").read_text()
    commands = [line for line in page.split("## The folder")[0].splitlines() if line.startswith("prefloop ")]
    assert len(commands) == 5
    build_shop(tmp_path / "shop.sqlite")
    for command in commands[:3]:
        words = shlex.split(command)[1:]
        settings = ["--set", "policy.model=embedded"] if words[0] == "run" else []
        done = prefloop(*words, *settings, cwd=tmp_path)
        assert done.returncode == 0, (command, done.stderr)
    line = '{"question": "Which 3 products have the highest price?"'
    example = next(text for text in page.splitlines() if text.startswith(line))
    with (tmp_path / "my-task/questions.jsonl").open("a") as file:
        file.write(example + "\n")
    assert prefloop("run", "database-sql", "--set", "task.folder=my-task", "--dry-run", cwd=tmp_path).returncode == 3
    again = prefloop("task", "audit", "my-task", "--workers", 1, cwd=tmp_path)
    assert "41 training and 20 test questions" in again.stdout, again.stdout

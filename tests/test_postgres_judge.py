"""PostgreSQL judges as SQLite does, on the same data; judge, ask and doctor on a real server."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_line import prefloop
from postgres import Postgres, running_postgres
from postgres_copy import copy_tables, in_postgres, make_reader, new_database

from prefloop.config.judges import ExecutionConfig
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import ConfigError, DataError, JudgeError
from prefloop.judging.execution import ExecutionJudge
from prefloop.loop import ask
from prefloop.loop.ask import ask_question
from prefloop.loop.judge_stage import judge_file
from prefloop.loop.prompt_files import read_prompts
from prefloop.records import Completion, Judgement, content_id
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.sql.databases import frozen, identity
from prefloop.sql.pool import Limits, SandboxPool
from prefloop.store.files import cache_folder
from prefloop.store.tables import read_records, write_records
from prefloop.tasks.nba import task
from prefloop.tasks.nba.league import LeagueConfig, build_league

CONFIG = ExecutionConfig(workers=2)


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with running_postgres() as found:
        yield found


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("league") / "league.sqlite"
    build_league(LeagueConfig(games=300), path)
    return path


@pytest.fixture(scope="module")
def in_server(server: Postgres, league: Path) -> str:
    admin = new_database(server)
    copy_tables(league, admin)
    return make_reader(admin)


@pytest.fixture
def shop(server: Postgres) -> tuple[str, str]:
    """The administrator's and the reader's URL of a small database."""
    admin = new_database(server)
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE TABLE orders (id int, total numeric(9, 2), day date)")
        connection.execute("INSERT INTO orders VALUES (1, 10, '2024-01-01'), (2, 32.50, '2024-01-02')")
    return admin, make_reader(admin)


# The same verdicts


def test_verdicts_are_sqlites_on_the_same_data(league: Path, in_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every gold of a drawn set, and every common mistake in it, on both: the gold of one with the answer of either."""
    questions: list[task.Question] = []
    audited = task._audited

    def noted(*arguments: Any) -> Iterator[task.Question]:
        for question in audited(*arguments):
            questions.append(question)
            yield question

    monkeypatch.setattr(task, "_audited", noted)  # the questions behind the prompts
    task.test_prompts(NbaTaskConfig(test_questions=90), [league], 2)
    cases = []
    for query, spec in [(q.query, ComparisonSpec.from_dict(q.comparison)) for q in questions[:100] if q.query]:
        answers = [query, *(task.commit_fault(query, fault) for fault in task.applicable(query))]
        cases += [(query.sql(limited=False), answer.sql(), spec) for answer in answers]
    texts = sorted({text for gold, answer, _ in cases for text in (gold, answer)})
    with SandboxPool([league, in_server], 2, Limits(rows=20_000, result_bytes=10**7)) as pool:
        here = dict(zip(texts, pool.run([(0, text) for text in texts]), strict=True))
        there = dict(zip(texts, pool.run([(1, in_postgres(text)) for text in texts]), strict=True))
    assert {found.status for found in here.values()} == {"ok"}
    statuses = Counter(found.status for found in there.values())
    print(
        [(in_postgres(x), y.status, y.message) for x, y in there.items() if y.status not in ("ok", "unknown_function")]
    )
    assert statuses.keys() <= {"ok", "unknown_function"}  # SUM of a truth that has another name
    assert statuses["ok"] >= 0.95 * len(texts)
    judged: Counter[bool | str] = Counter()
    for gold, answer, spec in cases:
        if {there[gold].status, there[answer].status} == {"ok"}:
            right = compare(here[gold].rows, here[answer].rows, spec).equal
            theirs = {compare(side[gold].rows, there[answer].rows, spec).equal for side in (here, there)}
            same = theirs == {right}
            assert same or "LIMIT" in answer, answer  # it may cut through a tie: which rows are left is the server's
            judged[right if same else "tie"] += 1
    assert judged[True] >= 70, judged
    assert judged[False] >= 60, judged
    assert judged["tie"] <= 2, judged


VALUES = [
    ("AVG(i)", "AVG(i)"), ("SUM(i)", "SUM(i)"), ("SUM(n)", "SUM(n)"), ("1.0 * SUM(i) / 7", "1.0 * SUM(i) / 7"),
    ("SUM(i) / 2", "SUM(i) / 2"), ("MAX(d)", "MAX(d)"), ("MAX(s)", "MAX(s)"), ("SUM(f)", "SUM(f)"),
    ("MIN(b)", "MIN(b::int)"), ("b", "b"), ("COUNT(*)", "COUNT(*)"), ("x", "x"), ("MAX(m)", "MAX(m)"), ("t", "t"),
    ("ROUND(AVG(n), 1)", "ROUND(AVG(n)::numeric, 1)"), ("MIN(i > 1)", "BOOL_AND(i > 1)"), ("d, b", "d, b"),
    ("NULLIF(MIN(i), 1)", "NULLIF(MIN(i), 1)"), ("MAX(9e999)", "MAX('Infinity'::float8)"), ("MIN(t)", "MIN(t)"),
]  # fmt: skip
"""What is selected from SQLite, and from PostgreSQL."""


def test_values_of_every_type_compare_alike(server: Postgres, tmp_path: Path) -> None:
    """A number, date, flag or text is the same answer on either, and no other one is."""
    path, admin = tmp_path / "v.sqlite", new_database(server)
    rows = [(1, 0.5, "2024-01-31", "é", 1, b"a", 10.25, "2024-01-31 10:00:00", 0.1), (2, 1.5, "2024-02-01", "z", 0, b"b", 20.5, "2024-02-01 00:00:00", 0.2), (3, 2.5, "2023-12-01", "B", 1, b"c", 1e300, "2023-12-01 23:59:59", 0.7)]  # fmt: skip
    with closing(sqlite3.connect(path)) as here, here:
        here.execute("CREATE TABLE v (i INTEGER, f REAL, d TEXT, s TEXT, b BOOLEAN, x BLOB, n REAL, m TEXT, t REAL)")
        here.executemany(f"INSERT INTO v VALUES ({', '.join('?' * 9)})", rows)
    with psycopg.connect(admin) as there:
        there.execute(
            "CREATE TABLE v (i int, f float8, d date, s text, b boolean, x bytea, n numeric, m timestamp, t float4)"
        )
        there.cursor().executemany(
            f"INSERT INTO v VALUES ({', '.join(['%s'] * 4)}, %s = 1, {', '.join(['%s'] * 4)})", rows
        )
    sides = [f"SELECT {mine} FROM v" for mine, _ in VALUES], [f"SELECT {theirs} FROM v" for _, theirs in VALUES]
    with SandboxPool([path, make_reader(admin)], 1) as pool:
        here, there = (pool.run([(i, sql) for sql in side]) for i, side in enumerate(sides))
    everything: list[list[bool]] = []
    for results in (here, there):
        assert {result.status for result in results} == {"ok"}, results
        everything.append([compare(a.rows, b.rows).equal for a in here for b in results])
    assert everything[0] == everything[1]


# The judge


def questions_file(folder: Path, **golds: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps({"prompt": q, "meta": {"gold_sql": sql}}) + "\n" for q, sql in golds.items()))
    return path


def answers_file(folder: Path, questions: Path, *sql: str) -> Path:
    prompts = read_prompts(questions)
    answers = [
        Completion(f"{prompt.id}/{i}", prompt.id, i, 0, f"```sql\n{text}\n```", (1,), (0.0,), "stop", "p", {}, 0)
        for prompt in prompts
        for i, text in enumerate(sql)
    ]
    write_records(folder / "answers.parquet", answers, Completion)
    return folder / "answers.parquet"


def test_your_own_server_and_gold_queries(shop: tuple[str, str], tmp_path: Path) -> None:
    questions = questions_file(tmp_path, total="SELECT SUM(total) FROM orders", broken="SELECT nothing FROM orders")
    answers = answers_file(
        tmp_path,
        questions,
        "SELECT 42.5",
        "SELECT COUNT(*) FROM orders",
        "DELETE FROM orders",
        "SELECT total FROM clients",
    )
    out = tmp_path / "judgements.parquet"
    with_password = shop[1].replace("@", ":op3n@", 1)
    done = prefloop("judge", questions, answers, "--database", with_password, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    written = [path for folder in (tmp_path, cache_folder()) for path in folder.rglob("*") if path.is_file()]
    assert not any(b"op3n" in path.read_bytes() for path in written)
    assert "op3n" not in done.stdout + done.stderr
    assert json.loads(done.stdout)["statuses"] == {"gold_error": 4, "ok": 2, "denied": 1, "unknown_table": 1}
    judged = read_records(out, Judgement)
    assert [j.objectives.get("correct") for j in judged] == [1, 0, 0, 0, None, None, None, None]


def test_a_judge_knows_its_database_without_the_password(shop: tuple[str, str], server: Postgres) -> None:
    admin, reader = shop
    name = identity(reader)
    assert identity(reader.replace("@", ":open@", 1)) == name
    assert name.startswith(f"{server.socket}:5432/test_")
    assert "open" not in name
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("VACUUM FULL orders")
        assert identity(reader) == name  # the same rows
        connection.execute("UPDATE orders SET total = 33 WHERE id = 2")
        assert identity(reader) != name
        connection.execute("UPDATE orders SET total = 32.50 WHERE id = 2")
        assert identity(reader) == name  # in another order
    with ExecutionJudge([reader], CONFIG) as judge:
        assert judge.identity


def test_a_database_that_changes_meanwhile_gives_no_judgements(shop: tuple[str, str], tmp_path: Path) -> None:
    admin, reader = shop
    questions = questions_file(tmp_path, total="SELECT SUM(total) FROM orders")
    answers = answers_file(tmp_path, questions, "SELECT 42.5")
    done = threading.Event()

    def write() -> None:
        with psycopg.connect(admin, autocommit=True) as connection:
            while not done.is_set():
                connection.execute("INSERT INTO orders VALUES (3, 1, '2024-01-03')")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(JudgeError, match="changed while it was judged"):
            judge_file(questions, answers, tmp_path / "j.parquet", CONFIG, databases=[reader])
    finally:
        done.set()
        writer.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.parquet", "questions.jsonl"]
    judge_file(questions, answers, tmp_path / "j.parquet", CONFIG, databases=[reader])


def test_what_cannot_be_judged_on_is_named(shop: tuple[str, str], tmp_path: Path) -> None:
    admin, reader = shop
    questions = questions_file(tmp_path, total="SELECT 1")
    answers, out = answers_file(tmp_path, questions, "SELECT 1"), tmp_path / "j.parquet"
    with pytest.raises(DataError, match="is a superuser"):
        judge_file(questions, answers, out, CONFIG, databases=[admin])
    with pytest.raises(ConfigError, match=r"judge\.opcodes has no effect on PostgreSQL"):
        judge_file(questions, answers, out, ExecutionConfig(opcodes=10**6), databases=[reader])
    assert not out.exists()


# Ask and doctor


def test_ask_runs_its_query_on_the_server(
    shop: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def generate(policy: Any, prompts: Any, sampling: Any, **options: Any) -> list[Completion]:
        text = "Plan: sum.\n```sql\nSELECT day, total FROM orders ORDER BY day\n```"
        return [Completion(content_id("x"), prompts[0].id, -1, 0, text, (), (), "stop", "p", {}, 1)]

    monkeypatch.setattr(ask, "generate_completions", generate)
    (reply,) = ask_question("how much?", database=shop[1])
    assert reply.result is not None
    assert reply.result.rows == (("2024-01-01", 10.0), ("2024-01-02", 32.5))
    refused = prefloop("ask", "how much?", "--database", shop[0])
    assert (refused.returncode, "is a superuser" in refused.stderr) == (3, True)
    (tmp_path / "empty.sqlite").touch()
    empty = prefloop("ask", "how much?", "--database", tmp_path / "empty.sqlite")
    assert (empty.returncode, "without a table" in empty.stderr) == (3, True)


def test_doctor_prints_the_sql_of_a_right_role(shop: tuple[str, str]) -> None:
    admin, reader = shop
    wrong = prefloop("doctor", "--database", admin)
    assert wrong.returncode == 1
    assert "is a superuser" in wrong.stdout
    assert "GRANT SELECT ON public.orders TO" in wrong.stdout
    right = prefloop("doctor", "--database", reader, "--json")
    assert right.returncode == 0, right.stdout
    assert {f["name"]: f["ok"] for f in json.loads(right.stdout)} == {"server": True, "role": True, "limits": True}
    assert prefloop("doctor", "--database", "shop.sqlite").returncode == 2


def test_files_and_servers_may_be_judged_on_together(shop: tuple[str, str], tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER, total REAL)")
        connection.execute("INSERT INTO orders VALUES (1, 7.0)")
    opened = frozen([tmp_path / "s.sqlite", shop[1]], tmp_path / "copies")
    with SandboxPool(opened, 2) as pool:
        found = pool.run([(0, "SELECT SUM(total) FROM orders"), (1, "SELECT SUM(total) FROM orders")])
        assert len(pool.pids) == 2
    assert [result.rows for result in found] == [((7.0,),), ((42.5,),)]

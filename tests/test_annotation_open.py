"""`prefloop annotate` and `prefloop collect` from the command line, and what a new project is made of."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
import uvicorn
from annotation_server import new_item
from command_line import prefloop
from ports import free_port
from typer.testing import CliRunner

from prefloop.annotation import schema, serve
from prefloop.annotation.accounts import create_rater
from prefloop.annotation.database import open_database
from prefloop.annotation.imported import add_labels
from prefloop.annotation.items import add_items, blinded, create_project
from prefloop.annotation.open import collect_project, default_database, gather, settings_of
from prefloop.annotation.protocol import Verdict
from prefloop.annotation.queue import Showing, lease, submit
from prefloop.annotation.serve import Gathered, Serving, prepare
from prefloop.annotation.writer import Writer
from prefloop.cli.app import app
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.progress import set_quiet
from prefloop.records import Judgement

ROWS = [{"prompt": f"Question {i}?", "answers": [f"first {i}", f"second {i}"]} for i in range(4)]


@contextmanager
def annotating(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own process, and the link it printed."""
    command = [sys.executable, "-m", "prefloop", "annotate", "--no-browser", "--port", str(free_port()), *arguments]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            link = next((found[1] for line in process.stdout if (found := re.search(r"open\s+(\S+)", line))), "")
            assert link, process.stderr.read() if process.stderr else ""
            yield process, link
        finally:
            process.kill()


def sign_in(link: str) -> httpx2.Client:
    origin, token = link.split("/join#")
    client = httpx2.Client(base_url=origin, headers={"Origin": origin}, follow_redirects=True, timeout=60)
    assert client.post("/join", data={"token": token}).status_code == 200
    return client


def judge_all(client: httpx2.Client) -> list[str]:
    """One verdict on every item; their client ids."""
    sent = []
    while True:
        found = client.post("/api/v1/next").json()
        if "nothing" in found:
            return sent
        sent.append(f"00000000-0000-4000-8000-{len(sent):012d}")
        body = {"client_id": sent[-1], "item_id": found["id"], "kind": "choice", "strength": 2}
        assert client.post("/api/v1/judgements", json=body).status_code == 200


def test_from_a_file_of_answers_to_a_preference_set(tmp_path: Path) -> None:
    """Start, judge, stop by SIGTERM, start again, collect, prefer."""
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, [*ROWS, {"prompt": "", "answers": ["a", "b"]}])))
    with annotating("answers.jsonl", "--set", "repeat_share=0", cwd=tmp_path) as (process, link):
        client = sign_in(link)
        sent = judge_all(client)
        assert len(sent) == 4
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert process.stderr
        said = process.stderr.read()
    assert "4 items from answers.jsonl" in said
    assert "line 5: " in said
    with annotating("--database", "answers.annotation.db", "--set", "overlap=2", cwd=tmp_path) as (process, again):
        assert sign_in(again).post("/api/v1/next").json() == {"nothing": "done"}
        process.terminate()
        assert process.stderr
        assert process.stderr.read().endswith("has a project, whose settings hold: overlap=1, not 2\n")
    result = CliRunner().invoke(
        app, ["collect", str(tmp_path / "answers.annotation.db"), "--out", str(tmp_path / "out")]
    )
    assert result.output == f"4 verdicts of 1 people, 4 pairs in {tmp_path / 'out'}\n"
    pairs = [json.loads(line) for line in (tmp_path / "out/preferences/preferences.jsonl").read_text().splitlines()]
    assert sorted(pair["prompt"][0]["content"] for pair in pairs) == [row["prompt"] for row in ROWS]


def test_a_second_server_on_the_same_project_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    with annotating("answers.jsonl", cwd=tmp_path):
        command = [
            sys.executable,
            "-m",
            "prefloop",
            "annotate",
            "answers.jsonl",
            "--no-browser",
            "--port",
            str(free_port()),
        ]
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert second.returncode == 5
    assert "another process serves" in second.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name what is to be judged"),
        (["gone.jsonl"], "gone.jsonl"),
        (["--database", "new.db"], "holds no project yet"),
        (["one.jsonl"], "gives nothing to compare: 1 prompts with fewer than two"),
        (["answers.jsonl", "--set", "overlap=0"], "overlap"),
        (["answers.jsonl", "--set", "colour=red"], "no setting colour; there are name, kind, overlap"),
        (["answers.jsonl", "--host", "0.0.0.0"], "--public-url"),
        (["answers.jsonl", "--public-url", "http://rate.example.org"], "plain HTTP"),
        (["answers.jsonl", "--tls-cert", "c.pem"], "belong together"),
        (["answers.jsonl", "--database", "mysql://root:secret@host/x"], "not known"),
    ],
)
def test_mistakes_are_named_and_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "p", "answers": ["a"]}))
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: pytest.fail("it is served"))
    result = prefloop("annotate", "--no-browser", *arguments, cwd=tmp_path)
    assert result.returncode in (2, 3), result.stderr
    assert said in result.stderr
    assert "secret" not in result.stderr
    assert "Traceback" not in result.stderr


def test_alone_one_verdict_is_enough_and_a_team_gives_three() -> None:
    assert settings_of({}, alone=True).overlap == 1
    assert settings_of({}, alone=False).overlap == 3
    assert settings_of({"overlap": 2, "selection.strategy": "random"}, alone=True).selection.strategy == "random"
    with pytest.raises(ConfigError, match=r"overlap: .*; selection\.ranked: "):
        settings_of({"overlap": 0, "selection.ranked": 1}, alone=True)
    assert Serving().alone
    assert not Serving(public_url="https://x.example").alone


def test_a_project_lies_beside_what_it_is_about(tmp_path: Path) -> None:
    assert default_database(str(tmp_path)) == tmp_path / "annotation.db"
    assert default_database("owner/name").name == "owner--name.annotation.db"


def test_an_index_says_nothing_of_who_wrote_the_answer() -> None:
    items = [blinded(new_item(f"q{i}", "good", "bad", role="gold", known={"best": [0]}, expected={"best": 1, "judge": "j"}))
             for i in range(200)]  # fmt: skip
    first = [item.answers[0].policy for item in items]
    assert 70 < first.count("policy-0") < 130
    for item in items:
        assert item.known
        assert item.expected
        assert item.answers[item.known["best"][0]].text == "good"
        assert item.answers[item.expected["best"]].text == "bad"
        assert blinded(item) == item  # the order is the answers' own
    tie = blinded(new_item("q", "a", "b", role="gold", known={"best": ["tie"]}))
    assert tie.known == {"best": ["tie"]}


def test_what_people_said_elsewhere_counts(tmp_path: Path) -> None:
    items = [new_item(f"q{i}", "a", "b") for i in range(3)]

    def label(number: int, rater: str, value: float | None, **raw: Any) -> Judgement:
        ids = tuple(completion.id for completion in items[number].answers)[::-1]  # shown the other way round
        return Judgement.create(items[number].prompt.id, ids, f"people/{rater}", "choice", value, raw=raw)

    strange = Judgement.create("p", ("x", "y"), "people/ann", "choice", 1.0)
    labels = [
        label(0, "ann", 1.0),
        label(0, "bob", 0.5),
        label(0, "cy", 0.0),
        label(1, "ann", 0.5, choice="both bad"),
        strange,
    ]
    database = open_database(tmp_path / "a.db")
    with database.writing.begin() as connection:
        create_project(connection, AnnotationConfig(overlap=2, extra_raters=0), "test", 1)
        add_items(connection, items)
        found = add_labels(connection, labels, 5)
        rows = connection.execute(sa.select(schema.judgement).order_by(schema.judgement.c.seq)).all()
        states = connection.execute(
            sa.select(schema.item.c.done, schema.item.c.status).order_by(schema.item.c.position)
        ).all()
        people = connection.execute(sa.select(schema.rater)).all()
    database.close()
    assert dict(found) == {"taken": 3, "more than the item's target": 1, "about answers that are no item": 1}
    assert [(row.strength, row.order, row.counted) for row in rows] == [
        (2, [1, 0], True),
        (3, [1, 0], True),
        (0, [1, 0], True),
    ]
    assert [tuple(row) for row in states] == [(2, "closed"), (1, "open"), (0, "open")]
    assert {row.name for row in people} == {None}
    again = open_database(tmp_path / "b.db")  # one person, both orders, and a label without a verdict
    with again.writing.begin() as connection:
        create_project(connection, AnnotationConfig(overlap=3), "test", 1)
        add_items(connection, items)
        turned = Judgement.create(items[0].prompt.id, labels[0].completion_ids[::-1], "people/ann", "choice", 0.0)
        found = add_labels(connection, [labels[0], turned, label(1, "bob", None)], 5)
    again.close()
    assert dict(found) == {"taken": 1, "a person's second ones on an item": 1, "without a verdict": 1}
    assert all(row.status == "removed" and row.pseudonym.startswith("import-") for row in people)


def test_an_export_of_finished_work_says_that_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_quiet(False)
    item = new_item("q", "a", "b")
    label = Judgement.create(item.prompt.id, tuple(one.id for one in item.answers), "people/ann", "choice", 1.0)
    for overlap, left in ((1, False), (2, True)):
        database = open_database(tmp_path / f"{overlap}.db")
        writer = Writer(database.writing)
        prepare(database, writer, lambda _: Gathered([item], "an export", [label]), AnnotationConfig(overlap=overlap))
        writer.close()
        database.close()
        said = capsys.readouterr().err
        assert "verdicts that people gave elsewhere: 1 taken" in said
        assert ("nothing is left to judge: a larger --set overlap, now 1" in said) != left


def test_a_database_of_sql_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(json.dumps(ROWS[0]))
    for arguments in (["--sql", "gone.sqlite"], ["--set", "sql=gone.sqlite"]):
        result = CliRunner().invoke(app, ["annotate", str(tmp_path / "answers.jsonl"), *arguments])
        assert isinstance(result.exception, DataError)
        assert "gone.sqlite does not exist: --sql names the SQLite file" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_what_was_collected_can_be_judged_on(tmp_path: Path) -> None:
    """Collected verdicts come back into another project as they were: strength, order, both bad."""
    items = [new_item(f"q{i}", f"a{i}", f"b{i}") for i in range(6)]
    first = open_database(tmp_path / "one.db")
    with first.writing.begin() as connection:
        create_project(connection, AnnotationConfig(overlap=1, gold_share=0, repeat_share=0), "test", 1)
        add_items(connection, items)
        ada = create_rater(connection, "Ada", "rater", None, 1)
        for strength in range(6):
            held = lease(connection, ada, 1)
            assert isinstance(held, Showing)
            sent = {"client_id": f"00000000-0000-4000-8000-{strength:012d}", "item_id": held.handle}
            submit(connection, ada, Verdict(**sent, kind="choice", strength=strength), 2)
    first.close()
    collect_project(str(tmp_path / "one.db"), tmp_path / "people")
    found = gather(str(tmp_path / "people"), AnnotationConfig(overlap=1), known={}, gold_of_run=0, columns=None,
                   features=None, split="train")  # fmt: skip
    second = open_database(tmp_path / "two.db")
    with second.writing.begin() as connection:
        create_project(connection, AnnotationConfig(overlap=1), "test", 1)
        add_items(connection, found.items)
        assert dict(add_labels(connection, found.labels, 5)) == {"taken": 6}
    second.close()
    said = [said_in(tmp_path / name) for name in ("one.db", "two.db")]
    assert said[0] == said[1]
    assert len(said[0]) == 6


def said_in(path: Path) -> dict[str, Any]:
    """Strength by prompt, said of the answer with the lower text first."""
    database = open_database(path)
    with database.reading.connect() as connection:
        texts = {(r.item_id, r.index): r.text for r in connection.execute(sa.select(schema.answer))}
        found = {}
        for row in connection.execute(sa.select(schema.judgement)):
            left, right = (texts[row.item_id, index] for index in row.order)
            found[min(left, right)] = row.strength if left < right or not row.strength else 6 - row.strength
    database.close()
    return found


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE item (x)")
    before = (tmp_path / "other.db").read_bytes()
    (tmp_path / "answers.jsonl").write_text(json.dumps(ROWS[0]))
    for arguments in (["collect", str(tmp_path / "other.db"), "--out", str(tmp_path / "out")],
                      ["annotate", str(tmp_path / "answers.jsonl"), "--database", str(tmp_path / "other.db")]):  # fmt: skip
        result = CliRunner().invoke(app, arguments)
        assert "another program's database" in str(result.exception)
    assert (tmp_path / "other.db").read_bytes() == before
    (tmp_path / "empty.jsonl").touch()
    for name, said in (
        ("empty.jsonl", "is empty and holds no project"),
        ("gone", "does not exist: give the run folder"),
    ):
        result = CliRunner().invoke(app, ["collect", str(tmp_path / name), "--out", str(tmp_path / "out")])
        assert said in str(result.exception)
    assert (tmp_path / "empty.jsonl").read_bytes() == b""
    (tmp_path / "empty.jsonl").unlink()
    (tmp_path / "one.jsonl").write_text(json.dumps({"prompt": "p", "answers": ["a"]}))
    assert CliRunner().invoke(app, ["annotate", str(tmp_path / "one.jsonl")]).exit_code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "one.jsonl", "other.db"]


def test_features_of_a_reward_model_choose_the_pairs(tmp_path: Path) -> None:
    """`prefloop features`, then a project by D-optimal design."""
    from prefloop.models.load import load_policy
    from prefloop.models.reward import new_reward_model
    from prefloop.records import Completion, Prompt
    from prefloop.store.tables import write_records

    model = new_reward_model(load_policy("embedded", device="cpu"), "full", "float32", seed=1)
    model.model.save_pretrained(tmp_path / "reward")
    model.tokenizer.save_pretrained(tmp_path / "reward")
    items = [new_item(f"q{i}", f"answer {i}", f"other {i * i}", "third") for i in range(6)]
    (tmp_path / "run").mkdir()
    write_records(tmp_path / "run" / "prompts.parquet", [item.prompt for item in items], Prompt)
    write_records(tmp_path / "run" / "completions.parquet", [c for item in items for c in item.answers], Completion)
    run, out = str(tmp_path / "run"), str(tmp_path / "f.npz")
    result = CliRunner().invoke(app, ["features", run, "--model", str(tmp_path / "reward"), "--out", out])
    assert result.output.startswith("18 of 18 answers as vectors of 256 numbers"), result.output
    again = CliRunner().invoke(app, ["features", run, "--model", str(tmp_path / "reward"), "--out", out])
    assert isinstance(again.exception, StoreError)  # nothing is overwritten
    with annotating(run, "--features", out, "--set", "selection.strategy=d-optimal", cwd=tmp_path) as (_, link):
        assert len(judge_all(sign_in(link))) >= 6
    with open_database(tmp_path / "run" / "annotation.db").reading.connect() as connection:
        assert set(connection.scalars(sa.select(schema.item.c.stratum))) == {"d-optimal"}


# Ports


@contextmanager
def taken(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind((host, port))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_is_named_with_the_one_used_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command up to the point where it would serve."""
    monkeypatch.setattr(serve, "_run", lambda service, *_: service.close())
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    arguments = ["annotate", str(tmp_path / "answers.jsonl"), "--no-browser"]
    with taken() as port:
        monkeypatch.setattr(serve, "PORT", port)
        said = CliRunner().invoke(app, arguments).output
    used = re.search(r"open  http://127\.0\.0\.1:(\d+)/join#", said)
    assert used
    assert int(used[1]) != port
    assert f"Port {port} is taken by another program" in said
    assert f"This project uses port {used[1]}" in said
    monkeypatch.setattr(serve, "PORT", free_port())
    said = CliRunner().invoke(app, arguments).output
    assert f":{serve.PORT}/join#" in said
    assert "is taken" not in said


@pytest.mark.parametrize("public", [None, "https://rate.example.org"])
def test_a_port_that_was_asked_for_is_not_replaced(public: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with taken() as port:
        with pytest.raises(ConfigError, match=rf"port {port} .*stop the program that has it, or give another --port"):
            serve._listen(Serving(port=port, public_url=public))
        if public:  # a proxy looks for it there
            monkeypatch.setattr(serve, "PORT", port)
            with pytest.raises(ConfigError, match=rf"port {port} .*to which https://rate\.example\.org leads"):
                serve._listen(Serving(public_url=public))
    with pytest.raises(ConfigError, match=r"choose another with --host and --port"):
        serve._listen(Serving(host="192.0.2.1"))

"""What a project is made of: every layout read, every bad row named, and nothing that people have said lost."""

from __future__ import annotations

import csv
import doctest
import json
import sys
from pathlib import Path
from subprocess import run
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.annotation import sources_tools
from prefloop.annotation.database import open_database
from prefloop.annotation.items import add_items, create_project
from prefloop.annotation.schema import answer, item
from prefloop.annotation.sources import Sourced, read_items
from prefloop.annotation.sources_known import gold_from_execution, known_items
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError, DataError
from prefloop.records import Completion, Judgement, Preference, Prompt, content_id
from prefloop.store.tables import write_records

IN_ORDER = AnnotationConfig.model_validate({"selection": {"strategy": "in-order", "pairs_per_prompt": 9}})
RANKED = AnnotationConfig.model_validate({"kind": "ranking", "selection": {"strategy": "in-order"}})


def written(path: Path, *rows: Any) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(rows[0] if len(rows) == 1 and isinstance(rows[0], list) else list(rows)))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    else:
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def texts(found: Sourced) -> list[tuple[str, ...]]:
    return [tuple(a.text for a in each.answers) for each in found.items]


def asked(found: Sourced) -> list[str]:
    return [each.prompt.messages[-1]["content"] for each in found.items]


def test_docstring_examples() -> None:
    assert doctest.testmod(sources_tools).failed == 0


def test_reading_sources_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, prefloop.annotation.sources_known; "
        "sys.exit(bool({'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    assert run([sys.executable, "-c", code], check=False).returncode == 0


# Files


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize(
    "pair", [("first", "second"), ("response_a", "response_b"), ("response1", "response2"), ("answer_1", "answer_2")]
)
def test_two_answers_a_row(tmp_path: Path, kind: str, pair: tuple[str, str]) -> None:
    rows = [{"prompt": f"Why {n}?", pair[0]: f"so {n}", pair[1]: "no, never"} for n in range(2)]
    found = read_items(written(tmp_path / f"pairs.{kind}", *rows), IN_ORDER)
    assert texts(found) == [("so 0", "no, never"), ("so 1", "no, never")]
    assert asked(found) == ["Why 0?", "Why 1?"]
    assert (found.bad, found.labels, found.left_out) == ([], [], {})
    assert found.described == f"pairs.{kind}: 2 items of 2 prompts"
    assert [a.index for a in found.items[0].answers] == [0, 1]


def test_lists_of_answers_and_their_models(tmp_path: Path) -> None:
    rows = [
        {"question": "Q1?", "answers": ["a", "b", "c"]},
        {"instruction": "Q2", "input": "given", "completions": [{"text": "x", "model": "m1"}, {"content": "y"}]},
        {"prompt": "Q3?", "system": "Be kind.", "responses": ["s", "t"], "models": ["m1", "m2"]},
    ]
    found = read_items(written(tmp_path / "lists.jsonl", *rows), IN_ORDER)
    assert texts(found) == [("a", "b"), ("a", "c"), ("b", "c"), ("x", "y"), ("s", "t")]
    assert asked(found)[3] == "Q2\n\ngiven"
    assert found.items[4].prompt.messages[0] == {"role": "system", "content": "Be kind."}
    assert [a.policy for a in found.items[3].answers] == ["m1", "imported"]
    assert [a.policy for a in found.items[4].answers] == ["m1", "m2"]
    in_csv = written(tmp_path / "lists.csv", {"prompt": "Q?", "answers": '["a, \\"b\\"", "c"]'})
    assert texts(read_items(in_csv, IN_ORDER)) == [('a, "b"', "c")]


def test_one_answer_a_row_grouped_by_prompt(tmp_path: Path) -> None:
    rows = [
        {"prompt": p, "completion": f"{p} of {m}", "model": m} for m in ("m1", "m2", "m3") for p in ("A?", "B?")
    ] + [{"prompt": "C?", "completion": "alone", "model": "m1"}]
    found = read_items(written(tmp_path / "long.parquet", *rows), RANKED)
    assert texts(found) == [("A? of m1", "A? of m2", "A? of m3"), ("B? of m1", "B? of m2", "B? of m3")]
    assert found.left_out == {"prompts with fewer than two different answers": 1}
    assert "1 prompts with fewer" in found.described


def test_conversations_and_chosen_pairs(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Why?"},
    ]
    said = [[*turns, {"role": "assistant", "content": text}] for text in ("good", "bad")]
    row = {"chosen": said[0], "rejected": said[1]}
    found = read_items(written(tmp_path / "trl.jsonl", row), IN_ORDER)
    assert texts(found) == [("good", "bad")]
    assert found.items[0].prompt.messages == tuple(turns)
    assert found.items[0].expected == {"best": 0, "judge": "imported"}
    other = [{"role": "user", "content": "Else?"}, {"role": "assistant", "content": "bad"}]
    with pytest.raises(DataError, match="chosen and rejected answer different prompts"):
        read_items(written(tmp_path / "apart.jsonl", {"chosen": said[0], "rejected": other}), IN_ORDER)


def test_columns_named_by_the_user(tmp_path: Path) -> None:
    row = {"frage": "Warum?", "links": "darum", "rechts": "weil", "prompt": "unused", "responses": ["x", "y"]}
    path = written(tmp_path / "own.csv", row)
    names = {"prompt": "frage", "first": "links", "second": "rechts"}
    found = read_items(path, IN_ORDER, columns=names)
    assert (asked(found), texts(found)) == (["Warum?"], [("darum", "weil")])
    with pytest.raises(DataError, match="line 2: no column 'quer'"):
        read_items(path, IN_ORDER, columns={"prompt": "quer"})
    with pytest.raises(ConfigError, match="columns has 'side'"):
        read_items(path, IN_ORDER, columns={"side": "links"})
    long = written(tmp_path / "long.jsonl", *({"q": "Why?", "said": t, "responses": ["z", "w"]} for t in "ab"))
    assert texts(read_items(long, IN_ORDER, columns={"prompt": "q", "completion": "said"})) == [("a", "b")]


def test_bad_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    good = {"prompt": "Why?", "first": "a", "second": ""}
    rows: list[Any] = [
        good,
        "{broken\n",
        [1, 2],
        {"first": "a", "second": "b"},
        {"prompt": "Why?"},
        {"prompt": "Why?", "first": None, "second": "b"},
        {"prompt": [{"role": "assistant", "content": "hm"}], "first": "a", "second": "b"},
        {"prompt": "Why?", "answers": ["a", 7]},
        {"prompt": "Why?", "answers": ["a", "b"], "models": ["m"]},
        {"prompt": "Why?", "first": "\ud800", "second": "b"},
        "\n",
        {"prompt": "Why not?", "answers": []},
    ]
    found = read_items(written(tmp_path / "rows.jsonl", *rows), IN_ORDER)
    assert texts(found) == [("a", "")]  # an empty answer is an answer
    said = {row.line: row.reason for row in found.bad}
    expected = {
        2: "not JSON",
        3: "not an object",
        4: "none of the columns prompt",
        5: "no answers: neither first and second",
        6: "first is missing",
        7: "does not end with the user's turn",
        8: "answer 2 is neither text nor messages",
        9: "1 models for 2 answers",
        10: "surrogate",
        12: "answers is empty",
    }
    assert said.keys() == expected.keys()
    assert all(part in said[line] for line, part in expected.items()), said
    assert {row.file for row in found.bad} == {"rows.jsonl"}
    assert "10 rows not read" in found.described


def test_damaged_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,first,second\nWhy?,a,b\nWho?,a,b,too many\nHow?,"two\nlines",b\n')
    found = read_items(path, IN_ORDER)
    assert texts(found) == [("a", "b"), ("two\nlines", "b")]
    assert [(row.line, row.reason) for row in found.bad] == [(3, "more cells than the header names")]
    path.write_text('prompt,first,second\nWhy?,"a,b\n')
    with pytest.raises(DataError, match="not readable CSV"):
        read_items(path, IN_ORDER)
    path.write_bytes(b"prompt,first,second\nWhy?,\xff,b\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_items(path, IN_ORDER)


def test_the_same_text_is_one_answer(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "answers": [{"text": t, "model": m} for t, m in (("a", "m1"), (" a\n", "m2"), ("b", "m1"))]},
        {"prompt": "Who?", "answers": ["x", "x "]},
    ]
    found = read_items(written(tmp_path / "same.jsonl", *rows), IN_ORDER)
    assert texts(found) == [("a", "b")]
    prompt = found.items[0].prompt
    twin = content_id("completion", prompt.id, "m2", " a\n")
    assert found.items[0].answers[0].sampling == {"duplicates": {twin: "m2"}}
    assert found.left_out == {
        "answers merged with the same text": 2,
        "prompts with fewer than two different answers": 1,
    }


def test_labels_of_people_come_along(tmp_path: Path) -> None:
    row = {"prompt": "Why?", "first": "a", "second": "b", "rater": "ann", "choice": "second"}
    found = read_items(written(tmp_path / "labels.csv", row, {**row, "rater": "bob", "choice": "tie"}), IN_ORDER)
    assert texts(found) == [("a", "b")]
    assert [(label.judge, label.value) for label in found.labels] == [("people/ann", 0.0), ("people/bob", 0.5)]
    assert found.labels[0].completion_ids == tuple(a.id for a in found.items[0].answers)
    assert found.items[0].expected is None  # people are no judges
    assert "2 labels of people" in found.described


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl does not exist"):
        read_items(tmp_path / "a.jsonl", IN_ORDER)
    with pytest.raises(DataError, match="does not exist: give a run folder"):
        read_items(str(tmp_path / "folder"), IN_ORDER)
    everything = r"does not exist: give a run folder, a \.csv, \.jsonl, \.json, \.parquet file or a Hub data set"
    for name in ("a.csv", "a.jsonl", "a.txt", "gone"):
        with pytest.raises(DataError, match=everything):
            read_items(str(tmp_path / name), IN_ORDER)
    for name, said in (("a.csv", "does not exist"), ("", "is a folder")):
        with pytest.raises(DataError, match=rf"{said}: give a \.csv, \.jsonl, \.json, \.parquet file"):
            known_items(tmp_path / name)
    with pytest.raises(DataError, match="neither a run nor a preference set"):
        read_items(tmp_path, IN_ORDER)
    with pytest.raises(DataError, match=r"unknown file type '\.txt'"):
        read_items(written(tmp_path / "a.txt", "x"), IN_ORDER)
    with pytest.raises(DataError, match="nothing to compare: it is empty"):
        read_items(written(tmp_path / "empty.jsonl"), IN_ORDER)
    with pytest.raises(ConfigError, match="split 'dev' is unknown"):
        read_items(tmp_path, IN_ORDER, split="dev")
    with pytest.raises(ConfigError, match="split=test belongs to a run"):
        read_items(written(tmp_path / "b.jsonl", {}), IN_ORDER, split="test")


def test_a_data_set_of_the_hub(hub: HubServer) -> None:
    rows = [{"prompt": f"Why {n}?", "chosen": "a", "rejected": "b"} for n in range(3)]
    hub.add("me/pairs")
    hub.add("me/more")
    hub.put("me/pairs", {"data/train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    hub.put("me/more", {"a.csv": b"prompt,first,second\nWhy?,a,b\n", "train.jsonl": b"{}\n"})
    found = read_items("me/pairs", IN_ORDER)
    assert len(found.items) == 3
    assert found.described == "Hub data set me/pairs: 3 items of 3 prompts"
    assert texts(read_items("me/more:a.csv", IN_ORDER)) == [("a", "b")]
    with pytest.raises(DataError, match="me/none"):
        read_items("me/none", IN_ORDER)


# Runs


def completion(prompt: Prompt, index: int, text: str, policy: str = "base") -> Completion:
    identity = Completion.make_id(prompt.id, policy, {"temperature": 1.0}, 1, 0, index)
    return Completion(
        identity, prompt.id, index, 0, text, (1, 2), (-0.5, -0.25), "stop", policy, {"temperature": 1.0}, 1
    )


def execution(answered: Completion, correct: float, **raw: Any) -> Judgement:
    objectives = {"correct": correct, "valid": 1.0}
    return Judgement.create(answered.prompt_id, (answered.id,), "execution", "score", correct, objectives, raw=raw)


def a_run(folder: Path) -> tuple[list[Prompt], list[Completion]]:
    prompts = [
        Prompt.create(({"role": "user", "content": f"{split} {n}?"},), "nba-sql", split, {"gold_sql": "SELECT 1"})
        for split in ("train", "test")
        for n in range(4)
    ]
    answers = [completion(p, i, f"answer {i % 3}") for p in prompts[:4] for i in range(4)]  # two are the same
    write_records(folder / "prompts.parquet", prompts, Prompt)
    write_records(folder / "completions.parquet", answers, Completion)
    reward = [Judgement.create(c.prompt_id, (c.id,), "reward@1", "score", float(-c.index)) for c in answers]
    write_records(folder / "judgements.parquet", reward, Judgement)
    checked = [execution(c, float(c.index == 2)) for c in answers]
    write_records(folder / "stages" / "execution-judgements.parquet", checked, Judgement)
    for side in ("before", "after"):
        greedy = [completion(p, -1, f"{side} {p.id}", side) for p in prompts[4:]]
        write_records(folder / "evaluation" / f"{side}-greedy-completions.parquet", greedy, Completion)
        judged = [execution(c, float(side == "after")) for c in greedy]
        write_records(folder / "evaluation" / f"{side}-greedy-judgements.parquet", judged, Judgement)
    return prompts, answers


def test_a_run_with_two_judges(tmp_path: Path) -> None:
    _, answers = a_run(tmp_path / "runs" / "one")
    found = read_items(tmp_path / "runs" / "one", AnnotationConfig())
    assert len(found.items) == 4
    assert found.candidates == 12
    assert found.described.startswith("run one, train answers: 4 items of 4 prompts; 4 answers merged")
    assert found.items == read_items(tmp_path / "runs" / "one", AnnotationConfig()).items
    every = read_items(tmp_path / "runs" / "one", IN_ORDER).items
    assert [a.index for a in every[1].answers] == [0, 2]
    assert every[1].expected == {"best": 1, "judge": "execution"}
    assert every[0].expected == {"best": 0, "judge": "reward@1"}  # execution finds both wrong
    assert every[0].answers[0].sampling == {"temperature": 1.0, "duplicates": {answers[3].id: "base"}}
    assert every[0].answers[1] == answers[1]
    with pytest.raises(ConfigError, match="columns are named for files alone"):
        read_items(tmp_path / "runs" / "one", IN_ORDER, columns={"prompt": "x"})


def test_the_answers_before_and_after_training(tmp_path: Path) -> None:
    a_run(tmp_path)
    found = read_items(tmp_path, IN_ORDER, split="test")
    assert [[a.policy for a in each.answers] for each in found.items] == [["before", "after"]] * 4
    assert {json.dumps(each.expected) for each in found.items} == {'{"best": 1, "judge": "execution"}'}


def test_a_judged_run_compared_under_ids_of_its_own(tmp_path: Path) -> None:
    """Both sides may have the same ids, so its judgements are about ids with the side's letter."""
    prompt = Prompt.create(({"role": "user", "content": "Why?"},), "instructions", "test")
    sides = {side: completion(prompt, -1, side) for side in ("before", "after")}
    write_records(tmp_path / "prompts.parquet", [prompt], Prompt)
    for side, greedy in sides.items():
        write_records(tmp_path / "evaluation" / f"{side}-greedy-completions.parquet", [greedy], Completion)
    ids = tuple(content_id(letter, sides["before"].id) for letter in "ab")
    judged = [Judgement.create(prompt.id, ids, "llm", "choice", 0.0)]
    write_records(tmp_path / "evaluation" / "judgements.parquet", judged, Judgement)
    (found,) = read_items(tmp_path, IN_ORDER, split="test").items
    assert tuple(a.id for a in found.answers) == ids
    assert found.expected == {"best": 1, "judge": "llm"}


def test_a_preference_set(tmp_path: Path) -> None:
    prompts, answers = a_run(tmp_path / "run")
    pair = Preference.pair(prompts[0].id, answers[2].id, answers[0].id, 1.0, 0.0, "best-worst/execution")
    for name, rows, kind in (
        ("prompts", prompts[:1], Prompt),
        ("completions", answers[:3], Completion),
        ("preferences", [pair], Preference),
    ):
        write_records(tmp_path / "set" / "records" / f"{name}.parquet", rows, kind)
    found = read_items(tmp_path / "set", IN_ORDER)
    assert texts(found) == [("answer 0", "answer 1"), ("answer 0", "answer 2"), ("answer 1", "answer 2")]
    assert [each.expected for each in found.items] == [None, {"best": 1, "judge": "best-worst/execution"}, None]


def test_items_stand_in_the_database_as_they_were(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    items = read_items(tmp_path / "run", AnnotationConfig()).items
    database = open_database(tmp_path / "project.db")
    with database.writing.begin() as connection:
        create_project(connection, AnnotationConfig(), "run", 0)
        assert add_items(connection, items) == len(items)
        assert add_items(connection, items) == 0
        rows = connection.execute(item.select().order_by(item.c.position)).all()
        details = connection.execute(answer.select()).all()
    database.close()
    assert [(row.id, row.stratum, row.probability) for row in rows] == [(i.id, i.stratum, i.probability) for i in items]
    assert [row.expected for row in rows] == [i.expected for i in items]
    kept = {a.id: a.sampling for i in items for a in i.answers}
    assert {row.completion_id: row.details["sampling"] for row in details} == kept


# Argilla


def record(identity: str, responses: Any, suggestions: Any = None, **fields: Any) -> dict[str, Any]:
    fields = fields or {"instruction": "Write a haiku.", "response-1": "old pond", "response-2": "frog"}
    return {
        "id": identity,
        "fields": fields,
        "metadata": {},
        "suggestions": suggestions or {},
        "responses": responses,
        "vectors": {},
        "_server_id": "5e1c0ea8-6a37-4f9e-8a7e-0d2b4f6f3c11",
    }


def said(value: Any, user: str = "u1") -> dict[str, Any]:
    return {"value": value, "user_id": user}


def test_argilla_rankings_and_labels(tmp_path: Path) -> None:
    ranked = {"preference": [said(["response-2", "response-1"]), said(["response-1", "response-2"], "u2")]}
    suggested = {"preference": {"value": ["response-2", "response-1"], "score": None, "agent": "judge-model"}}
    labelled = {"better": [said("Response 1"), said("tie", "u2"), said("both bad", "u3"), said("dunno", "u4")]}
    rows = [record("r1", ranked, suggested), record("r2", labelled, prompt="Who?", response_a="he", response_b="she")]
    rows[1]["responses"]["better"][0] = said("A")
    found = read_items(written(tmp_path / "argilla.json", rows), IN_ORDER)
    assert texts(found) == [("old pond", "frog"), ("he", "she")]
    assert asked(found) == ["Write a haiku.", "Who?"]
    assert [(label.judge, label.value) for label in found.labels] == [
        ("people/u1", 0.0),
        ("people/u2", 1.0),
        ("people/u1", 1.0),
        ("people/u2", 0.5),
        ("people/u3", 0.5),
    ]
    assert found.labels[4].raw == {"question": "better", "value": "both bad", "choice": "both bad"}
    assert found.items[0].expected == {"best": 1, "judge": "judge-model"}
    assert found.left_out == {"answers to better that compare nothing": 1}
    assert found.described.startswith("argilla.json (Argilla): 2 items of 2 prompts, 5 labels of people; 1 answers")


def test_argilla_rankings_of_more_with_ties(tmp_path: Path) -> None:
    fields = {"prompt": "Q?", **{f"reply-{n}": f"text {n}" for n in (1, 2, 3)}}
    tied = [{"value": "reply-3", "rank": 1}, {"value": "reply-1", "rank": 2}, {"value": "reply-2", "rank": 2}]
    answers = {"order": [said(tied), said(["reply-2", "reply-1"], "u2"), said(["reply-1", "reply-1"], "u3")]}
    found = read_items(written(tmp_path / "a.json", [record("r", answers, **fields)]), RANKED)
    ids = {a.text: a.id for a in found.items[0].answers}
    one, two, three = (ids[f"text {n}"] for n in (1, 2, 3))
    assert [label.ranking for label in found.labels] == [((three,), (one, two)), ((two,), (one,))]
    assert {label.kind for label in found.labels} == {"ranking"}
    assert found.left_out == {"answers to order that compare nothing": 1}


def test_argilla_questions_beside_the_first_are_objectives(tmp_path: Path) -> None:
    answers = {"better": [said("response-1")], "honest": [said("response-2")], "notes": [said("nice")]}
    found = read_items(written(tmp_path / "a.json", [record("r", answers)]), IN_ORDER)
    (label,) = found.labels
    assert (label.value, label.objectives) == (1.0, {"better": 1.0, "honest": 0.0})
    assert found.left_out == {"answers to notes that compare nothing": 1}


@pytest.mark.parametrize("orient", ["names", "index"])
def test_argilla_dictionaries(tmp_path: Path, orient: str) -> None:
    rows = [
        record("r1", {"q": [said("response-1")]}),
        record("r2", {"q": [said("2")]}, prompt="P?", text1="a", text2="b"),
    ]
    by_name = {key: [row[key] for row in rows] for key in rows[0]}
    whole = by_name if orient == "names" else {row["id"]: row for row in rows}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(whole))
    found = read_items(path, IN_ORDER)
    assert texts(found) == [("old pond", "frog"), ("a", "b")]
    assert [label.value for label in found.labels] == [1.0, 0.0]


def test_argilla_flat_data_sets_leave_drafts_out(tmp_path: Path) -> None:
    row = {
        "id": "1",
        "status": "completed",
        "_server_id": "x",
        "prompt": "P?",
        "response_a": "a",
        "response_b": "b",
        "better.responses": ["response_a", "response_b", "response_b"],
        "better.responses.users": ["u1", "u2", "u3"],
        "better.responses.status": ["submitted", "draft", "discarded"],
        "better.suggestion": "response_b",
        "better.suggestion.agent": "llm",
        "better.suggestion.score": 0.7,
    }
    found = read_items(written(tmp_path / "flat.parquet", row), IN_ORDER)
    assert [(label.judge, label.value) for label in found.labels] == [("people/u1", 1.0)]
    assert found.items[0].expected == {"best": 1, "judge": "llm"}
    assert found.left_out == {"responses draft": 1, "responses discarded": 1}


def test_argilla_records_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    rows = [
        record("good", {}),
        record("alone", {}, prompt="P?", response_a="a"),
        record("mute", {}, text1="a", text2="b"),
    ]
    found = read_items(written(tmp_path / "a.json", [*rows, {"id": "odd"}, 7]), IN_ORDER)
    reasons = [(row.line, row.reason) for row in found.bad]
    assert [line for line, _ in reasons] == [2, 3, 4, 5]
    assert "record alone: fewer than two answers among the fields prompt, response_a" in reasons[0][1]
    assert "record mute: none of the columns prompt" in reasons[1][1]
    assert reasons[3][1] == "not an object with columns"


# Label Studio


def task(identity: int, result: list[Any], by: Any = 1, **more: Any) -> dict[str, Any]:
    annotation = {"id": 9, "completed_by": by, "was_cancelled": False, "ground_truth": False, "result": result}
    data = {"prompt": f"Q{identity}?", "answer1": f"left {identity}", "answer2": f"right {identity}"}
    return {"id": identity, "data": data, "annotations": [annotation], "predictions": [], **more}


def pairwise(selected: str, to_name: str = "answer1,answer2") -> dict[str, Any]:
    return {
        "id": "Dx_aB91ISN",
        "from_name": "pw",
        "to_name": to_name,
        "type": "pairwise",
        "value": {"selected": selected},
    }


def test_label_studio_pairs(tmp_path: Path) -> None:
    guess = [{"model_version": "v1", "score": 0.9, "result": [pairwise("right")]}]
    rows = [
        task(1, [pairwise("left")], predictions=guess),
        task(2, [pairwise("left", "answer2,answer1")], {"id": 7, "email": "someone@example.com"}),
        task(3, [{"from_name": "pick", "to_name": "p", "type": "choices", "value": {"choices": ["Answer 2"]}}], None),
        task(4, [pairwise("none"), {"from_name": "note", "type": "textarea", "value": {"text": ["hm"]}}]),
    ]
    skipped = {"id": 10, "completed_by": 3, "was_cancelled": True, "result": [pairwise("right")]}
    rows[0]["annotations"].append(skipped)
    found = read_items(written(tmp_path / "project.json", rows), IN_ORDER)
    assert [(label.judge, label.value) for label in found.labels] == [
        ("people/1", 1.0),
        ("people/7", 0.0),
        ("people/unknown", 0.0),
    ]
    assert texts(found) == [(f"left {n}", f"right {n}") for n in (1, 2, 3, 4)]
    assert found.items[0].expected == {"best": 1, "judge": "v1"}
    assert found.left_out == {
        "annotations skipped by their annotator": 1,
        "answers to pw that compare nothing": 1,
        "answers to note that compare nothing": 1,
    }


def test_label_studio_rankers(tmp_path: Path) -> None:
    entries = [{"id": f"llm_{n}", "title": f"Answer {n}", "body": f"body {n}"} for n in (1, 2, 3)]

    def ranker(value: Any) -> list[Any]:
        return [{"from_name": "rank", "to_name": "prompt", "type": "ranker", "value": {"ranker": value}}]

    data = {"prompt": "Q?", "items": entries}
    by_name = {"rank": ["llm_2", "llm_3", "llm_1"]}
    buckets = {"_": ["llm_1"], "biased_results": ["llm_3"], "relevant_results": ["llm_2"]}
    said = [by_name, ["llm_3", "llm_1", "llm_2"], buckets]
    annotations = [{"completed_by": n, "result": ranker(value)} for n, value in enumerate(said)]
    found = read_items(written(tmp_path / "p.json", [{"data": data, "annotations": annotations}]), RANKED)
    ids = [a.id for a in found.items[0].answers]
    assert texts(found) == [("body 1", "body 2", "body 3")]
    assert [label.ranking for label in found.labels] == [
        ((ids[1],), (ids[2],), (ids[0],)),
        ((ids[2],), (ids[0],), (ids[1],)),
    ]
    assert found.left_out == {"answers to rank that compare nothing": 1}


def test_label_studio_own_field_names_and_the_short_export(tmp_path: Path) -> None:
    row = {
        "id": 1,
        "data": {"q": "Q?", "eins": "a", "zwei": "b"},
        "annotations": [{"completed_by": 1, "result": [pairwise("right", "x")]}],
    }
    path = written(tmp_path / "p.json", [row])
    found = read_items(path, IN_ORDER, columns={"prompt": "q", "first": "eins", "second": "zwei"})
    assert (texts(found), [label.value for label in found.labels]) == ([("a", "b")], [0.0])
    short = {"prompt": "Q?", "id": 1, "annotator": 1, "annotation_id": 2, "lead_time": 3.2, "pw": "left"}
    with pytest.raises(DataError, match="export the project as JSON"):
        read_items(written(tmp_path / "min.json", [short]), IN_ORDER)


def test_labels_survive_where_answers_are_merged(tmp_path: Path) -> None:
    fields = {"prompt": "Q?", "reply-1": "same", "reply-2": "same ", "reply-3": "other"}
    rows = [
        record(
            "r1",
            {"order": [said(["reply-3", "reply-2", "reply-1"]), said(["reply-1", "reply-3", "reply-2"], "u2")]},
            **fields,
        ),
        record("r2", {"q": [said("1")]}, prompt="Twice?", text1="x", text2="x"),
        record("r3", {"order": [said(["reply-1", "reply-2", "reply-3"])]}, **fields),
    ]
    found = read_items(written(tmp_path / "a.json", rows), IN_ORDER)
    kept, other = (a.id for a in found.items[0].answers)
    assert [label.ranking for label in found.labels] == [((other,), (kept,)), ((kept,), (other,))]
    assert found.left_out["labels between answers that are the same"] == 1
    assert found.left_out["further labels of a rater on the same answers"] == 1


# Hostile rows

KEYS = (
    "prompt first second answers completion messages role content response-1 response-2 items id value rank user_id "
    "status result type ranker choices text model completed_by from_name selected"
).split()
LEAVES = st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    LEAVES | st.sampled_from(["left", "1", "response-1", "pairwise", "ranker"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
GOOD = {"prompt": "Q?", "first": "a", "second": "b"}
SHAPES = [
    ("prompt first second", GOOD),
    ("prompt answers models", GOOD),
    ("fields responses suggestions", record("r", {})),
    ("data annotations predictions", task(1, [])),
    ("prompt response-1 response-2 q.responses q.responses.users q.suggestion", {**GOOD, "q.responses": []}),
]


@pytest.mark.parametrize(("keys", "good"), SHAPES)
@given(data=st.data())
@settings(max_examples=60)
def test_any_json_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory, keys: str, good: dict[str, Any], data: st.DataObject
) -> None:
    shape = st.fixed_dictionaries(dict.fromkeys(keys.split(), JSON))
    rows = data.draw(st.lists(shape | JSON, min_size=1, max_size=3))
    if "fields" in keys:  # the insides, too
        fields = record("r", data.draw(JSON), data.draw(JSON))
        rows.append({**fields, "responses": {"q": data.draw(JSON)}})
    if "data" in keys:
        rows += [task(2, data.draw(JSON)), task(3, [{"type": "ranker", "value": data.draw(JSON)}])]
    path = written(tmp_path_factory.getbasetemp() / "any.jsonl", good, *rows)
    found = read_items(path, IN_ORDER)
    assert len(found.items) >= 1
    assert {row.line for row in found.bad} <= set(range(2, len(rows) + 2))


def test_one_bad_record_of_a_dictionary_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    rows = {
        "r1": record("r1", {}),
        "r2": record("r2", {"q": 5}),
        "r3": record("r3", {}, prompt="P?", text1="a", text2="b"),
    }
    path.write_text(json.dumps(rows))
    found = read_items(path, IN_ORDER)
    assert texts(found) == [("old pond", "frog"), ("a", "b")]
    assert [row.reason for row in found.bad] == [
        "record r2: not of any known layout (TypeError: 'int' object is not iterable)"
    ]


# Known answers


def test_known_items(tmp_path: Path) -> None:
    pair = {"prompt": "Q?", "answers": ["a", "b"]}
    rows = [
        {**pair, "best": 1, "explanation": "b is right."},
        {"prompt": "Q2?", "answers": ["a", "b", "c"], "best": [0, 2]},
        {"prompt": "Q3?", "first": "a", "second": "b", "best": "Tie"},
        {"prompt": "Q4?", "first": "a", "second": "b", "best": "both_bad"},
        {"prompt": "Q5?", "chosen": "a", "rejected": "b"},
        {**pair, "best": 0},
        {**pair, "prompt": "Q6?", "best": 2},
        {**pair, "prompt": "Q6?", "best": True},
        {**pair, "prompt": "Q6?"},
        {**pair, "prompt": "Q6?", "best": 0, "explanation": 5},
        {"prompt": "Q7?", "answers": ["a", "a "], "best": 0},
        {"prompt": "Q8?", "completion": "a", "best": 0},
    ]
    found = known_items(written(tmp_path / "known.jsonl", *rows))
    assert [each.known for each in found.items] == [
        {"best": [1], "explanation": "b is right."},
        {"best": [0, 2], "explanation": ""},
        {"best": ["tie"], "explanation": ""},
        {"best": ["both bad"], "explanation": ""},
        {"best": [0], "explanation": ""},
    ]
    assert {each.role for each in found.items} == {"training"}
    reasons = [(row.line, row.reason) for row in found.bad]
    assert [line for line, _ in reasons] == [6, 7, 8, 9, 10, 11, 12]
    assert "the same prompt and answers" in reasons[0][1]
    assert "give the number of an answer, 0 to 1, or tie, both bad" in reasons[1][1]
    assert "explanation is not text" in reasons[4][1]
    assert "needs two or more answers" in reasons[6][1]


def test_known_items_in_csv_and_those_that_are_none(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gold.csv", {"prompt": "Q?", "first": "a", "second": "b", "best": "1", "explanation": "so"}
    )
    (found,) = known_items(path, "gold").items
    assert (found.role, found.known) == ("gold", {"best": [1], "explanation": "so"})
    with pytest.raises(ConfigError, match="role 'silver'"):
        known_items(path, "silver")
    with pytest.raises(DataError, match="no item with a known answer: line 1: best is 'None'"):
        known_items(written(tmp_path / "none.jsonl", {"prompt": "Q?", "first": "a", "second": "b"}))


def test_gold_that_execution_decided() -> None:
    prompts = [Prompt.create(({"role": "user", "content": f"{n}?"},), "nba-sql", "train") for n in range(6)]
    answers, judged = [], []
    for n, prompt in enumerate(prompts):
        group = [completion(prompt, i, f"{n} {i}") for i in range(3)]
        answers += group
        wrong = {"status": "ok", "kind": "values", "rows": [[12, None]]} if n < 4 else {"status": "timeout"}
        right = {"status": "ok", "kind": "exact", "rows": [[13, "x" * 99]]}
        judged += [
            execution(group[0], 0, **wrong),
            execution(group[1], float(n != 3), **right),
            execution(group[2], 0, **wrong),
        ]
    items = gold_from_execution(prompts, answers, judged, 10, seed=1)
    assert sorted(each.prompt.messages[0]["content"] for each in items) == ["0?", "1?", "2?"]
    for each in items:
        best = each.known["best"][0]
        assert each.answers[best].index == 1
        assert [a.index for a in each.answers] == sorted(a.index for a in each.answers)
        assert each.expected == {"best": best, "judge": "execution"}
        assert each.role == "gold"
        assert each.known["explanation"] == (
            "The better answer's query returns what was asked for. The other's runs, but it returns other values. "
            f"First rows: 13 | {'x' * 40}; of the other: 12 | NULL."
        )
    assert items == gold_from_execution(prompts, answers, judged, 10, seed=1)
    assert len(gold_from_execution(prompts, answers, judged, 2, seed=2)) == 2
    twin = completion(prompts[0], 9, " 0 1\n")
    again = gold_from_execution(prompts, [*answers, twin], [*judged, execution(twin, 1, status="ok")], 10, seed=1)
    assert [each.id for each in again] == [each.id for each in items]
    assert gold_from_execution(prompts, answers, [], 2, seed=2) == []
    refused = execution(answers[1], 1, status="refused", kind="refused")
    (unanswerable,) = gold_from_execution(
        prompts[:1], answers, [refused, execution(answers[0], 0, status="not_refused")], 1, seed=1
    )
    assert "cannot answer this question" in unanswerable.known["explanation"]

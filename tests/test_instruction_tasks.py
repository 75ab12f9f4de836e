"""Prompts from files that others wrote: what is asked, what is turned away and why, and draws that do not move."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import HubServer
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import ConfigError, DataError
from prefloop.records import Judgement, Prompt
from prefloop.store import hub as client
from prefloop.store.rows import BadRowError, Unreadable, read_rows
from prefloop.store.tables import read_records, write_records
from prefloop.tasks.instructions.layouts import read_question
from prefloop.tasks.instructions.sample import InstructionSet, instruction_prompts, normalised
from prefloop.tasks.instructions.ultrafeedback import (
    ASPECTS,
    mean_rating,
    read_number,
    repaired_overall,
    ultrafeedback_preferences,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "preferences"
shared_data = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real data does not lie beside the checkout (../shared/data)"),
]
TOKEN = "hf_" + "Kq7xWz3Tb9" * 3 + "Mn5v"


def _write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _texts(found: InstructionSet, split: str) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in found.prompts if prompt.split == split]


def _asked(row: Any, turns: Any = "first") -> tuple[list[str], str | None]:
    question = read_question(row, turns)
    return [f"{m['role'][0]}:{m['content']}" for m in question.messages], question.reference


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes that the user would see."""
    notes: list[str] = []
    monkeypatch.setattr("prefloop.tasks.instructions.sample.note", notes.append)
    return notes


class TestLayouts:
    CONVERSATION: tuple[str, ...] = ("a?", "A.", "b?", "B.", "c?")

    @pytest.mark.parametrize(
        ("length", "turns", "asked", "reference"),
        [
            (1, "first", "u:a?", None),
            (1, "all", "u:a?", None),
            (2, "first", "u:a?", "A."),
            (2, "all", "u:a?", "A."),
            (3, "first", "u:a?", "A."),
            (3, "all", "u:a?", "A."),  # nothing answers b?
            (4, "first", "u:a?", "A."),
            (4, "all", "u:a? a:A. u:b?", "B."),
            (5, "all", "u:a? a:A. u:b?", "B."),  # nothing answers c?
        ],
    )
    def test_lima_rows(self, length: int, turns: str, asked: str, reference: str | None) -> None:
        row = {"conversations": list(self.CONVERSATION[:length]), "source": "wikihow"}
        question = read_question(row, turns)
        assert _asked(row, turns) == (asked.split(), reference)
        assert (question.source, question.category) == ("wikihow", "wikihow")
        assert bool(question.note) == (len(question.messages) + (reference is not None) < length)

    @pytest.mark.parametrize(
        ("row", "asked", "reference"),
        [
            ({"prompt": "a?"}, ["u:a?"], None),
            ({"prompt": "a?", "completion": "A."}, ["u:a?"], "A."),
            ({"prompt": "a?", "completion": [{"role": "assistant", "content": "A."}]}, ["u:a?"], "A."),
            ({"prompt": "a?", "messages": [{"role": "user", "content": "other"}]}, ["u:a?"], None),
            ({"question": "a?", "answer": "A."}, ["u:a?"], "A."),
            ({"instruction": "do", "input": "this", "output": "done"}, ["u:do\n\nthis"], "done"),
            ({"instruction": "do", "input": "  ", "output": "done"}, ["u:do"], "done"),
            ({"instruction": "do", "instances": [{"input": "x", "output": "y"}]}, ["u:do\n\nx"], "y"),
            ({"instruction": "do", "completions": [], "correct_answers": ["yes", "si"]}, ["u:do"], "yes"),
            ({"instruction": "do", "completions": [], "correct_answers": ["None"]}, ["u:do"], None),
            ({"turns": ["a?", "and b?"], "reference": ["A.", "B."]}, ["u:a?"], "A."),
            (
                {"conversations": [{"from": "human", "value": "a?"}, {"from": "gpt", "value": "A."}]},
                ["u:a?"],
                "A.",
            ),
            (
                {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a?"}]},
                ["s:be brief", "u:a?"],
                None,
            ),
            ({"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "a?"}]}, ["u:a?"], None),
        ],
    )
    def test_other_rows(self, row: dict[str, Any], asked: list[str], reference: str | None) -> None:
        assert _asked(row, "all") == (asked, reference)

    def test_the_last_turn_of_a_prompt_column_is_its_question(self) -> None:
        turns = [{"role": r, "content": c} for r, c in (("user", "a?"), ("assistant", "A."), ("user", "b?"))]
        assert _asked({"prompt": turns, "completion": "B."}, "all") == (["u:a?", "a:A.", "u:b?"], "B.")
        assert _asked({"prompt": turns, "completion": "B."}, "first") == (["u:a?"], "A.")
        assert _asked({"conversations": turns, "chosen": {}, "rejected": {}}, "all")[0] == ["u:a?", "a:A.", "u:b?"]

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            (None, "nothing, not an object"),
            ([1], "a list, not an object"),
            ({}, "none of the columns"),
            ({"prompt": None}, "prompt is missing"),
            ({"prompt": 3.5}, "prompt is a number, not text"),
            ({"prompt": True}, "prompt is a truth value, not text"),
            ({"prompt": " \t\n\u2003"}, "prompt is empty"),
            ({"prompt": math.nan}, "prompt is a number"),
            ({"prompt": "\ud83d half"}, "half a surrogate pair"),
            ({"prompt": "a?", "completion": "\udc00"}, "half a surrogate pair"),
            ({"instruction": "do", "input": {"x": 1}}, "input is an object, not text"),
            ({"instruction": ""}, "instruction is empty"),
            ({"turns": "a?"}, "turns is text, not a list"),
            ({"conversations": []}, "conversations is empty"),
            ({"conversations": ["a?", " "]}, "turn 2 of conversations is empty"),
            ({"conversations": ["a?", 7]}, "turn 1 of conversations is text, not a message"),
            ({"messages": [{"role": "assistant", "content": "A."}]}, "not user and assistant in turn"),
            ({"messages": [{"role": "user", "content": "a?"}, {"role": "user", "content": "b?"}]}, "(user, user)"),
            ({"messages": [{"role": "system", "content": "x"}]}, "not user and assistant in turn"),
            ({"messages": [{"role": "tool", "content": "x"}]}, "not user and assistant in turn"),
            ({"messages": [{"role": "user", "content": None}]}, "turn 1 of messages is missing"),
            (Unreadable("not UTF-8 (byte 3 of the line)"), "not UTF-8"),
        ],
    )
    def test_rows_without_a_prompt_say_why(self, row: Any, reason: str) -> None:
        with pytest.raises(BadRowError) as error:
            read_question(row)
        assert reason in str(error.value)

    json_values = st.recursive(
        st.none()
        | st.booleans()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from(["user", "assistant", "system"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["role", "content", "from", "value", "input", "output"]), inner, max_size=3
            )
        ),
        max_leaves=8,
    )
    columns = st.sampled_from(
        "prompt question instruction input output completion messages conversations turns instances reference source "
        "category correct_answers chosen".split()
    )

    @given(row=st.dictionaries(columns, json_values, max_size=4), turns=st.sampled_from(["first", "all"]))
    def test_any_row_is_a_prompt_that_ends_with_the_user_or_a_reason(self, row: dict[str, Any], turns: Any) -> None:
        try:
            question = read_question(row, turns)
        except BadRowError:
            return
        roles = [m["role"] for m in question.messages if m["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert all(m["content"].strip() for m in question.messages)
        if turns == "first":
            assert len(roles) == 1


class TestFiles:
    def test_every_bad_line_is_named_and_none_is_lost(self, tmp_path: Path, said: list[str]) -> None:
        path = tmp_path / "mixed.jsonl"
        lines = [
            b'\xef\xbb\xbf{"prompt": "one"}\r',  # byte order mark, CRLF
            b'{"prompt": "two"}\r',
            b"",
            b'{"prompt": "caf\xe9"}',  # Latin-1
            b'{"prompt": "cut',
            b'{"prompt": "  "}',
            b'{"prompt": "ONE "}',  # as line 1
            b'{"prompt": ' + json.dumps("x" * 100_000).encode() + b"}",
            b'{"prompt": NaN, "score": Infinity}',
            b"[" * 100_000,
            '{"prompt": "שלום 🎉 \u202e"}'.encode(),
        ]
        path.write_bytes(b"\n".join(lines) + b"\n")
        found = instruction_prompts(str(path), train=3, test=1, seed=5)
        assert {text for split in ("train", "test") for text in _texts(found, split)} <= {
            "one", "ONE ", "two", "x" * 100_000, "שלום 🎉 \u202e"
        }  # fmt: skip
        reasons = {bad.line: bad.reason for bad in found.bad}
        assert [*reasons] == sorted(reasons)
        duplicate = reasons.pop(7, None) or reasons.pop(1)
        assert duplicate in ("says the same as another row (line 1)", "says the same as another row (line 7)")
        assert reasons.pop(10).startswith(("not JSON", "nested too deeply"))
        assert reasons == {
            3: "the line is empty",
            4: "not UTF-8 (byte 16 of the line)",
            5: "not JSON (Unterminated string starting at, column 12)",
            6: "prompt is empty",
            9: "prompt is a number, not text",
        }
        counts = found.counts["train"]
        assert counts["rows read"] == 11
        assert counts["longer than 32,000 characters"] == 1
        turned_away = sum(count for name, count in counts.items() if name.startswith("not used: "))
        assert turned_away == len(found.bad) == 7
        assert counts["accepted"] + counts.get("not drawn", 0) + found.counts["test"]["accepted"] + turned_away == 11
        assert said == [
            "mixed: 7 rows give no prompt of their own: "
            + "; ".join(f"mixed.jsonl, line {bad.line}: {bad.reason}" for bad in found.bad[:3])
            + "; …"
        ]

    def test_json_and_parquet_give_the_same_prompts_as_lines(self, tmp_path: Path) -> None:
        rows = [{"prompt": f"question {i}?", "category": "ab"[i % 2]} for i in range(20)]
        lines = _write(tmp_path / "a.jsonl", rows)
        (tmp_path / "b.json").write_text("\ufeff" + json.dumps(rows), encoding="utf-8")
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.PARQUET")
        sets = [
            instruction_prompts(str(path), train=7, test=4, seed=2)
            for path in (lines, tmp_path / "b.json", tmp_path / "c.PARQUET")
        ]
        assert len({tuple(prompt.id for prompt in found.prompts) for found in sets}) == 1
        assert all(found.prompts[0].meta["category"] in "ab" for found in sets)
        assert sets[0].origin.startswith("The prompts are from `a.jsonl` (SHA-256 `")
        assert sets[0].hashes["a.jsonl"] in sets[0].origin

    def test_parquet_text_that_is_no_utf8_costs_its_own_row_alone(self, tmp_path: Path) -> None:
        raw = pa.array([b"one", b"caf\xe9", b"three"], pa.binary())
        text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
        pq.write_table(pa.table({"prompt": text}), tmp_path / "p.parquet")
        found = [(number, row) for number, row in read_rows(tmp_path / "p.parquet")]
        assert found == [(1, {"prompt": "one"}), (2, Unreadable("not UTF-8")), (3, {"prompt": "three"})]

    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("a.csv", b"prompt\nx\n", "unknown file type '.csv'"),
            ("a.jsonl", '{"prompt": "x"}'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
            ("a.json", b'[{"prompt": "caf\xe9"}]', "is not UTF-8 (byte 17)"),
            ("a.json", b'{"prompt": "x"}\n{"prompt": "y"}\n', "belongs in a .jsonl file"),
            ("a.parquet", b"PAR1 nothing", "is not a readable Parquet file"),
            ("a.jsonl", b"", "has 0 different prompts left, but 1 are asked for"),
            ("a.jsonl", b'{"text": "x"}\n', "(1 rows gave none: a.jsonl, line 1: none of the columns"),
        ],
    )
    def test_a_file_that_gives_nothing_says_why(self, tmp_path: Path, name: str, content: bytes, reason: str) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as error:
            instruction_prompts(str(tmp_path / name), train=1, test=0, seed=1)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "source", ["limas", "snorkel:4", "ultrafeedback:gsm", "a/b/c", "lima:x", "https://x.org/a"]
    )
    def test_unknown_sources_are_refused(self, source: str) -> None:
        with pytest.raises(ConfigError, match="give"):
            instruction_prompts(source, train=1, test=1, seed=1)

    def test_a_missing_file_is_named(self) -> None:
        with pytest.raises(DataError, match=r"data/none\.jsonl does not exist: give a \.jsonl"):
            instruction_prompts("data/none.jsonl", train=1, test=1, seed=1)

    @pytest.mark.parametrize("wrong", [{"train": -1}, {"test": -1}, {"turns": "last"}])
    def test_settings_that_mean_nothing_are_refused(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="give numbers from 0, and turns first or all"):
            instruction_prompts(str(tmp_path), **{"train": 1, "test": 1, "seed": 1, **wrong})


class TestDraws:
    ROWS: ClassVar = [{"prompt": f"question {i}?", "n": i} for i in range(40)] + [
        {"prompt": "Question 3?", "source": "b"},
        {"prompt": "question  3?", "source": "a"},
        {"prompt": "question 3?", "source": "c"},
    ]

    @given(order=st.permutations(range(43)), seed=st.integers(0, 3))
    def test_the_order_of_rows_changes_nothing(
        self, order: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("order")
        given_ = instruction_prompts(str(_write(folder / "a.jsonl", self.ROWS)), train=20, test=10, seed=seed)
        (folder / "b").mkdir()
        shuffled = _write(folder / "b" / "a.jsonl", [self.ROWS[i] for i in order])
        again = instruction_prompts(str(shuffled), train=20, test=10, seed=seed)
        assert [vars_of(p) for p in given_.prompts] == [vars_of(p) for p in again.prompts]
        assert given_.counts == again.counts

    def test_splits_are_disjoint_and_a_seed_chooses(self, tmp_path: Path) -> None:
        path = str(_write(tmp_path / "a.jsonl", self.ROWS))
        one = instruction_prompts(path, train=30, test=10, seed=1)
        assert (len(_texts(one, "train")), len(_texts(one, "test"))) == (30, 10)
        assert len({normalised(prompt.messages) for prompt in one.prompts}) == 40
        two = instruction_prompts(path, train=30, test=10, seed=2)
        assert _texts(one, "test") == _texts(two, "test")  # every seed of a run is examined on the same prompts
        few = [instruction_prompts(path, train=10, test=10, seed=seed) for seed in (1, 2)]
        assert _texts(few[0], "train") != _texts(few[1], "train")
        assert {prompt.id for prompt in two.prompts} == {prompt.id for prompt in one.prompts}
        assert one.counts["train"] == {
            "accepted": 30,
            "not used: says the same as another row": 3,
            "rows read": 43,
        }
        with pytest.raises(DataError, match="for training has 30 different prompts left, but 31 are asked for"):
            instruction_prompts(path, train=31, test=10, seed=1)

    def test_more_prompts_are_the_same_and_others(self, tmp_path: Path) -> None:
        path = str(_write(tmp_path / "a.jsonl", self.ROWS))
        few, many = (instruction_prompts(path, train=n, test=5, seed=3) for n in (6, 12))
        assert _texts(many, "train")[:6] == _texts(few, "train")
        assert _texts(many, "test") == _texts(few, "test")

    def test_what_counts_as_the_same_text(self) -> None:
        def key(text: str, system: str = "") -> str:
            first = ({"role": "system", "content": system},) if system else ()
            return normalised((*first, {"role": "user", "content": text}))

        assert key("  What\nIS it? ") == key("what is it?") == key("what is it?", system="be brief")
        assert key("cafe\u0301") == key("CAFÉ")
        assert key("3 + 4?") != key("3 - 4?")

    def test_prompts_survive_the_store(self, tmp_path: Path) -> None:
        found = instruction_prompts(str(_write(tmp_path / "a.jsonl", self.ROWS)), train=5, test=5, seed=1)
        write_records(tmp_path / "prompts.parquet", list(found.prompts), Prompt)
        assert read_records(tmp_path / "prompts.parquet", Prompt) == list(found.prompts)


def vars_of(prompt: Prompt) -> tuple[Any, ...]:
    return prompt.id, prompt.messages, prompt.split, prompt.meta


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    import huggingface_hub.constants as constants

    with HubServer() as server:
        server.tokens = {TOKEN: ("me", True)}
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-home"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _: None, time=lambda: 0.0))
        monkeypatch.setattr(client.time, "sleep", lambda _: None)
        yield server


def _jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


class TestHubSources:
    LIMA_TRAIN: ClassVar = [
        {"conversations": [f"train {i}?", f"answer {i}"], "source": "stackexchange"} for i in range(1029)
    ]
    LIMA_TEST: ClassVar = [{"conversations": [f"test {i}?"], "source": "authors"} for i in range(300)]

    def test_lima(self, hub: HubServer, said: list[str]) -> None:
        hub.add("GAIR/lima")
        twice = {"conversations": ["TEST 7?", "answer"], "source": "wikihow"}
        hub.put("GAIR/lima", {"train.jsonl": _jsonl([*self.LIMA_TRAIN, twice]), "test.jsonl": _jsonl(self.LIMA_TEST)})
        found = instruction_prompts("lima", train=1029, test=10, seed=1)
        assert not said  # 1,030 and 300 rows, as known
        assert all(text.startswith("train ") for text in _texts(found, "train"))
        assert all(text.startswith("test ") for text in _texts(found, "test"))
        assert found.counts["train"] == {"accepted": 1029, "not used: in the test split, too": 1, "rows read": 1030}
        assert found.counts["test"] == {"accepted": 10, "not drawn": 290, "rows read": 300}
        train, test = found.prompts[0], found.prompts[-1]
        assert train.meta["source"] == train.meta["category"] == "stackexchange"
        assert train.meta["reference"] == train.messages[0]["content"].replace("train", "answer").rstrip("?")
        assert "reference" not in test.meta
        assert "research use only" in train.meta["license"]
        assert "research use only" in found.origin
        assert sorted(found.hashes) == ["test.jsonl", "train.jsonl"]

    def test_lima_with_another_number_of_rows_is_named(self, hub: HubServer, said: list[str]) -> None:
        hub.add("GAIR/lima")
        hub.put("GAIR/lima", {"train.jsonl": _jsonl(self.LIMA_TRAIN[:5]), "test.jsonl": _jsonl(self.LIMA_TEST)})
        instruction_prompts("lima", train=5, test=10, seed=1)
        assert said == ["lima: 5 rows in the train split where 1,030 are known: its files have changed"]

    def test_lima_is_gated(self, hub: HubServer) -> None:
        hub.add("GAIR/lima", gated=True)
        hub.put("GAIR/lima", {"train.jsonl": b"", "test.jsonl": b""})
        with pytest.raises(DataError) as error:
            instruction_prompts("lima", train=5, test=10, seed=1)
        assert f"open {hub.url}/datasets/GAIR/lima, accept its terms" in str(error.value)
        assert TOKEN not in str(error.value)

    def test_snorkel_iterations(self, hub: HubServer, tmp_path: Path) -> None:
        name = "snorkelai/Snorkel-Mistral-PairRM-DPO-Dataset"
        hub.add(name)
        for split, count in (("train", 12), ("test", 4)):
            rows = [
                {
                    "prompt_id": str(i),
                    "prompt": f"{split} {i}",
                    "all_generated_responses": ["x"],
                    "all_rm_scores": [0.5],
                }
                for i in range(count)
            ]
            pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
            path = f"data/{split}_iteration_2-00000-of-00001.parquet"
            hub.put(name, {path: (tmp_path / "rows.parquet").read_bytes()})
        found = instruction_prompts("snorkel:2", train=10, test=3, seed=1)
        assert [text.split()[0] for text in _texts(found, "train")] == ["train"] * 10
        assert [text.split()[0] for text in _texts(found, "test")] == ["test"] * 3
        assert found.origin.endswith("(Apache-2.0), iteration 2.")
        with pytest.raises(DataError, match="no such file"):
            instruction_prompts("snorkel", train=10, test=3, seed=1)

    def test_ultrafeedback_leaves_truthful_qa_out(self, hub: HubServer) -> None:
        parts = ("evol_instruct", "false_qa", "flan", "sharegpt", "truthful_qa", "ultrachat")
        hub.add("openbmb/UltraFeedback")
        files = {
            f"{part}.jsonl": _jsonl(
                [{"source": part, "instruction": f"{part} {i}", "completions": []} for i in range(3)]
            )
            for part in parts
        }
        hub.put("openbmb/UltraFeedback", files)
        found = instruction_prompts("ultrafeedback", train=12, test=3, seed=1)
        assert {prompt.meta["category"] for prompt in found.prompts} == set(parts) - {"truthful_qa"}
        only = instruction_prompts("ultrafeedback:truthful_qa", train=2, test=1, seed=1)
        assert {prompt.meta["source"] for prompt in only.prompts} == {"truthful_qa"}

    def test_any_data_set(self, hub: HubServer, tmp_path: Path) -> None:
        hub.add("me/set")
        rows = [{"prompt": f"q {i}"} for i in range(6)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
        shards = [f"data/train-0000{i}-of-00002.parquet" for i in (0, 1)]
        commit = hub.put("me/set", {"README.md": b"#", shards[0]: (tmp_path / "rows.parquet").read_bytes()})
        more = [{"prompt": f"r {i}"} for i in range(4)]
        pq.write_table(pa.Table.from_pylist(more), tmp_path / "rows.parquet")
        commit = hub.put("me/set", {shards[1]: (tmp_path / "rows.parquet").read_bytes()})
        found = instruction_prompts("me/set", train=8, test=2, seed=1)
        assert found.counts["train"]["rows read"] == 10
        assert f"me/set at commit `{commit}`" in found.origin
        hub.put("me/set", {"data/test-00000-of-00001.parquet": (tmp_path / "rows.parquet").read_bytes()})
        own = instruction_prompts("me/set", train=6, test=4, seed=1)
        assert {text[0] for text in _texts(own, "test")} == {"r"}
        assert {text[0] for text in _texts(own, "train")} == {"q"}
        hub.put("me/set", {"other/train.jsonl": _jsonl(rows)})
        with pytest.raises(DataError, match="several files that could be meant: give me/set:FILE, such as data/test"):
            instruction_prompts("me/set", train=1, test=1, seed=1)
        named = instruction_prompts("me/set:other/train.jsonl", train=4, test=2, seed=1)
        assert named.origin.startswith("The prompts are from `other/train.jsonl` of the data set me/set")

    def test_a_data_set_without_data_files(self, hub: HubServer) -> None:
        hub.add("me/empty")
        hub.put("me/empty", {"README.md": b"#"})
        with pytest.raises(DataError, match=r"me/empty has no \.jsonl, \.json, \.parquet file"):
            instruction_prompts("me/empty", train=1, test=1, seed=1)


def _annotations(*ratings: Any) -> dict[str, Any]:
    return {aspect: {"Rating": rating, "Rationale": "…"} for aspect, rating in zip(ASPECTS, ratings, strict=True)}


def _completion(text: str, *ratings: Any, system: str = "", **more: Any) -> dict[str, Any]:
    entry = {
        "model": "alpaca-7b",
        "response": text,
        "custom_system_prompt": system,
        "annotations": _annotations(*ratings),
    }
    return {**entry, **more}


class TestRatings:
    ROW: ClassVar = {
        "source": "flan",
        "instruction": "Say hello.",
        "models": ["a", "b", "c", "d"],
        "completions": [
            _completion("Hello.", "5", "4", "5", "3", system="Be honest.", overall_score=8.5),
            _completion("Hi!", "1", "2", "1", "N/A", system="Be honest.", overall_score=2),
            _completion("Go away.", "1", "2", "1", "2", overall_score=10),
            _completion("Hm.", "4", "5", "5", "5", overall_score=10.0),
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }

    def test_ultrafeedback(self, tmp_path: Path) -> None:
        prompts, completions, judgements, counts = ultrafeedback_preferences(_write(tmp_path / "u.jsonl", [self.ROW]))
        asked = {"role": "user", "content": "Say hello."}
        assert [prompt.messages for prompt in prompts] == [
            ({"role": "system", "content": "Be honest."}, asked),
            (asked,),
        ]
        assert [c.prompt_id for c in completions] == [prompts[0].id] * 2 + [prompts[1].id] * 2
        assert [c.text for c in completions] == ["Hello.", "Hi!", "Go away.", "Hm."]
        assert [j.value for j in judgements] == [(5 + 4 + 5 + 3) / 4, None, (1 + 2 + 1 + 2) / 4, (4 + 5 + 5 + 5) / 4]
        assert judgements[0].objectives == dict(zip(ASPECTS, (5.0, 4.0, 5.0, 3.0), strict=True))
        assert judgements[1].objectives == dict(zip(ASPECTS[:3], (1.0, 2.0, 1.0), strict=True))
        assert judgements[1].raw["error"] == "helpfulness is 'N/A'"
        assert [j.completion_ids for j in judgements] == [(c.id,) for c in completions]
        assert [j.raw["repaired_overall"] for j in judgements] == [8.5, 2.0, 1.0, 10.0]
        assert (counts.rows, counts.bad, counts.unscored, counts.alone, counts.overall_of_ten) == (1, (), 1, 0, 1)
        assert prompts[0].meta == {"source": "flan", "category": "flan"}

    def test_pooled_under_the_bare_instruction(self, tmp_path: Path) -> None:
        rated = ultrafeedback_preferences(_write(tmp_path / "u.jsonl", [self.ROW]), system=False)
        assert len(rated.prompts) == 1
        assert [c.prompt_id for c in rated.completions] == [rated.prompts[0].id] * 4

    def test_snorkel_rows_and_what_is_wrong_with_scores(self, tmp_path: Path) -> None:
        good = {
            "prompt_id": "x",
            "prompt": "Say hello.",
            "chosen": [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "Hello."}],
            "rejected": [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": "No."}],
            "all_generated_responses": ["Hello.", "No.", "  ", "Hello.", "Hey."],
            "all_rm_scores": [1.5, -2.0, 0.0, 1.5, math.nan],
        }
        rows = [
            good,
            {**good, "prompt": "b", "all_rm_scores": [1.0]},
            {**good, "prompt": "c", "all_generated_responses": "Hello."},
            {**good, "prompt": "d", "all_generated_responses": [1, 2, 3, 4, 5]},
            {**good, "prompt": "e", "all_generated_responses": [" "] * 5},
            good,
            {"prompt": "f"},
        ]
        prompts, completions, judgements, counts = ultrafeedback_preferences(_write(tmp_path / "s.jsonl", rows))
        assert [prompt.messages[0]["content"] for prompt in prompts] == ["Say hello."]
        assert [(c.index, c.text) for c in completions] == [(0, "Hello."), (1, "No."), (3, "Hello."), (4, "Hey.")]
        assert len({c.id for c in completions}) == 4
        assert [j.value for j in judgements] == [1.5, -2.0, 1.5, None]
        assert judgements[3].raw["error"] == "the score is nan"
        assert [(bad.line, bad.reason) for bad in counts.bad] == [
            (2, "5 responses but 1 scores"),
            (3, "all_generated_responses is not a filled list"),
            (4, "response 1 is not text"),
            (5, "every response is empty"),
            (6, "same prompt as an earlier row (line 1)"),
            (7, "neither completions, nor all_generated_responses, nor score_chosen and score_rejected"),
        ]
        assert counts.dropped["empty response"] == 1
        assert sum(counts.dropped.values()) == len(counts.bad) + 1
        assert (counts.rows, counts.unscored) == (7, 1)
        write_records(tmp_path / "j.parquet", list(judgements), Judgement)
        assert read_records(tmp_path / "j.parquet", Judgement) == list(judgements)

    def test_binarised_ties_are_dropped_and_counted(self, tmp_path: Path) -> None:
        def row(prompt: str, chosen: Any, rejected: Any) -> dict[str, Any]:
            said = [{"role": "user", "content": prompt}]
            return {
                "prompt": prompt,
                "prompt_id": "x",
                "messages": [*said, {"role": "assistant", "content": "yes"}],
                "chosen": [*said, {"role": "assistant", "content": "yes"}],
                "rejected": [*said, {"role": "assistant", "content": "no"}],
                "score_chosen": chosen,
                "score_rejected": rejected,
            }

        table = pa.Table.from_pylist([row("a", 8.5, 3.0), row("b", 5.0, 5.0), row("c", 7.0, math.nan)])
        pq.write_table(table, tmp_path / "b.parquet")
        _, completions, judgements, counts = ultrafeedback_preferences(tmp_path / "b.parquet")
        assert [c.text for c in completions] == ["yes", "no"] * 2
        assert [j.value for j in judgements] == [8.5, 3.0, 7.0, None]
        assert counts.dropped == {"tie: chosen and rejected have the same score": 1}
        assert [bad.line for bad in counts.bad] == [2]

    def test_a_file_without_ratings_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="holds no rated completion: line 1: completion 1 has no response"):
            ultrafeedback_preferences(_write(tmp_path / "u.jsonl", [{"instruction": "a", "completions": [None]}]))
        with pytest.raises(DataError, match="holds no rated completion: it is empty"):
            ultrafeedback_preferences(_write(tmp_path / "v.jsonl", []))

    def test_the_mean_needs_all_four_aspects(self) -> None:
        assert mean_rating(_annotations("1", 2, "3.0", 4.0))[0] == 2.5
        for wrong in ("N/A", None, "", "nan", "inf", [], True):
            value, known, lacking = mean_rating(_annotations("1", wrong, "3", "4"))
            assert value is None
            assert set(known) == set(ASPECTS) - {"honesty"}
            assert lacking == f"honesty is {wrong!r}"
        assert mean_rating(None) == (None, {}, ", ".join(f"{aspect} is None" for aspect in ASPECTS))

    @pytest.mark.parametrize(
        ("overall", "mean", "repaired"),
        [
            (10, 2.0, 1),
            (10, 2.25, None),
            (10, 4.0, None),
            (10, 4.25, 10),
            (10, None, 10),
            (9, 1.0, 9),
            (None, 1.0, None),
        ],
    )
    def test_the_overall_score_of_ten(self, overall: float | None, mean: float | None, repaired: float | None) -> None:
        assert repaired_overall(overall, mean) == repaired

    @given(st.one_of(st.text(max_size=6), st.floats(), st.integers(), st.none(), st.booleans()))
    def test_a_number_is_finite_or_none(self, value: Any) -> None:
        number = read_number(value)
        assert number is None or math.isfinite(number)


@pytest.mark.parametrize(
    ("name", "rows", "different", "references"),
    [
        ("mt_bench_question.jsonl", 80, 80, 38),  # 39 lines have references, one of them for its second turn alone
        ("self_instruct_user_oriented_252.jsonl", 252, 252, 252),
        ("self_instruct_seed_tasks_175.jsonl", 175, 175, 175),
        ("llamafactory_dpo_en_demo.json", 300, 295, None),
    ],
)
class TestRealFiles:
    pytestmark = shared_data

    def test_all_rows_are_accounted_for(self, name: str, rows: int, different: int, references: int | None) -> None:
        found = instruction_prompts(str(DATA / name), train=different - 20, test=20, seed=1, turns="all")
        counts = found.counts["train"]
        assert counts["rows read"] == rows
        assert len(found.prompts) == different == rows - len(found.bad)
        assert len({normalised(prompt.messages) for prompt in found.prompts}) == different
        if references is not None:
            assert sum("reference" in prompt.meta for prompt in found.prompts) == references

    def test_the_draw_holds_against_any_order(
        self, name: str, rows: int, different: int, references: int | None, tmp_path: Path
    ) -> None:
        content = [row for _, row in read_rows(DATA / name)]
        random.Random(7).shuffle(content)
        shuffled = _write(tmp_path / Path(name).with_suffix(".jsonl").name, content)
        draws = [instruction_prompts(str(path), train=30, test=10, seed=4) for path in (DATA / name, shuffled)]
        assert [prompt.id for prompt in draws[0].prompts] == [prompt.id for prompt in draws[1].prompts]


def test_reading_rows_needs_no_torch() -> None:
    import subprocess

    code = "import sys; import prefloop.tasks.instructions.sample; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

"""Sources mixed by weight, and training rows that a test set holds taken out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import prefloop
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import ConfigError, DataError
from prefloop.loop.cleaning import decontaminate
from prefloop.loop.learned import read_learned
from prefloop.loop.mixing import mix_sources
from prefloop.preferences.contamination import Contamination
from prefloop.preferences.export import write_preference_set
from prefloop.preferences.held_out import HeldOut, read_held_out
from prefloop.preferences.mix import drawn, quotas
from prefloop.records import Completion, Preference, Prompt
from prefloop.sql.canonical import canonical_sql, masked_sql
from prefloop.store.tables import read_records, write_records

CARD = {"policy": "p", "judge": "j", "strategy": "s", "recipe": "none", "origin": "", "diagnostics": {}, "drops": {}}


def prompt(text: str, meta: dict[str, object] | None = None) -> Prompt:
    system = {
        "role": "system",
        "content": "You answer questions about a league of basketball teams with one query of SQL.",
    }
    return Prompt.create((system, {"role": "user", "content": text}), "t", "train", meta)


def answer(asked: Prompt, text: str, index: int, policy: str = "p") -> Completion:
    name = Completion.make_id(asked.id, policy, {}, 1, 0, index)
    return Completion(name, asked.id, index, 0, text, (1, 2, 3), (0.0,) * 3, "stop", policy, {}, 1)


def make_set(folder: Path, rows: Sequence[tuple[Prompt, str, str]], policy: str = "p") -> Path:
    """A preference set of these prompts with a better and a worse answer."""
    answers, preferences = [], []
    for number, (asked, better, worse) in enumerate(rows):
        pair = [answer(asked, text, 2 * number + i, policy) for i, text in enumerate((better, worse))]
        answers += pair
        preferences.append(Preference.pair(asked.id, pair[0].id, pair[1].id, 1.0, 0.0, "best-worst/j"))
    asked = list({asked.id: asked for asked, _, _ in rows}.values())
    write_preference_set(folder, asked, answers, preferences, {"name": folder.name, **CARD})
    return folder


def numbered(count: int, word: str) -> list[tuple[Prompt, str, str]]:
    return [(prompt(f"{word} {i}"), f"good {i}", f"bad {i}") for i in range(count)]


class TestQuotas:
    @pytest.mark.parametrize(
        ("weights", "available", "rows", "expected"),
        [
            ([0.7, 0.3], [100, 30], None, [70, 30]),  # the second decides: 30 / 0.3 = 100
            ([7, 3], [70, 1000], None, [70, 30]),
            ([0.1, 0.2], [1, 2], None, [1, 2]),
            ([1, 1, 1], [9, 9, 9], 10, [4, 3, 3]),
            ([0.5, 0.5], [10, 2], 10, [5, 5]),  # wanted, not had
            ([1, 3], [0, 5], None, [0, 0]),
        ],
    )
    def test_by_hand(self, weights: list[float], available: list[int], rows: int | None, expected: list[int]) -> None:
        assert quotas(weights, available, rows) == expected

    @given(
        st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1000)), min_size=1, max_size=5), st.integers(1, 3000)
    )
    def test_whole_and_near_the_weights(self, sources: list[tuple[float, int]], rows: int) -> None:
        weights, available = [weight for weight, _ in sources], [count for _, count in sources]
        wanted = quotas(weights, available, rows)
        assert sum(wanted) == rows
        assert all(abs(w - rows * x / sum(weights)) < 1.001 for w, x in zip(wanted, weights, strict=True))
        free = quotas(weights, available)
        assert all(took <= had for took, had in zip(free, available, strict=True))  # no source runs dry by itself

    @given(st.binary(max_size=60).map(lambda b: bytearray(x % 2 for x in b)), st.integers(0, 60), st.integers(0, 5))
    def test_a_draw_takes_usable_rows_once_by_seed(self, usable: bytearray, count: int, seed: int) -> None:
        marks = drawn(usable, count, seed, 0)
        assert sum(marks) == min(count, sum(usable))
        assert all(mark <= may for mark, may in zip(marks, usable, strict=True))
        assert marks == drawn(usable, count, seed, 0)


class TestMix:
    def test_shares_lineage_and_repeats(self, tmp_path: Path) -> None:
        shared = (prompt("both  ask"), "Same", "Other")
        a = make_set(tmp_path / "a", [*numbered(20, "a"), shared])
        b = make_set(tmp_path / "b", [*numbered(9, "b"), (prompt("Both ask!"), "same ", "other")], policy="q")
        found = mix_sources([a, b], tmp_path / "mixed", [0.7, 0.3])
        assert found["rows"] == 30
        assert [(s["rows"], s["repeated"], s["wanted"], s["taken"]) for s in found["sources"]] == [
            (21, 0, 21, 21),
            (10, 1, 9, 9),
        ]
        assert [s["share"] for s in found["sources"]] == [0.7, 0.3]
        preferences, completions, prompts = read_learned(tmp_path / "mixed").records
        assert len(preferences) == 30
        assert all(p.prompt_id in prompts and {p.chosen, p.rejected} <= completions.keys() for p in preferences)
        lineage = {row["id"]: row["source"] for row in pq.read_table(tmp_path / "mixed/sources.parquet").to_pylist()}
        assert lineage.keys() == {p.id for p in preferences}
        for path in (a, b):
            mine = {p.id for p in read_records(path / "records/preferences.parquet", Preference)}
            assert {name for name, source in lineage.items() if source == str(path)} <= mine
        assert Counter(lineage.values()) == {str(a): 21, str(b): 9}
        rows = pq.read_table(tmp_path / "mixed/preferences.parquet").to_pylist()
        assert rows == [json.loads(line) for line in (tmp_path / "mixed/preferences.jsonl").read_text().splitlines()]
        card = (tmp_path / "mixed/README.md").read_text()
        assert "30 pairs for 30 prompts" in card
        assert "`p, q`" in card

    def test_the_same_seed_gives_the_same_bytes_and_another_other_rows(self, tmp_path: Path) -> None:
        sources = [make_set(tmp_path / "a", numbered(30, "a")), make_set(tmp_path / "b", numbered(30, "b"))]
        for name, seed in (("x/mixed", 1), ("y/mixed", 1), ("z/mixed", 2)):
            mix_sources(sources, tmp_path / name, rows=20, seed=seed)
        files = sorted(p.relative_to(tmp_path / "x") for p in (tmp_path / "x").rglob("*") if p.is_file())
        assert len(files) == 8
        assert all((tmp_path / "x" / f).read_bytes() == (tmp_path / "y" / f).read_bytes() for f in files)
        ids = [{p.id for p in read_learned(tmp_path / n / "mixed").preferences} for n in ("x", "z")]
        assert len(ids[0]) == len(ids[1]) == 20
        assert ids[0] != ids[1]

    def test_a_source_that_runs_dry_is_named_with_what_it_reached(self, tmp_path: Path) -> None:
        a, b = make_set(tmp_path / "a", numbered(30, "a")), make_set(tmp_path / "b", numbered(2, "b"))
        done = prefloop("mix", a, b, "-w", 0.5, "-w", 0.5, "--rows", 20, "--out", tmp_path / "m", "--json")
        found = json.loads(done.stdout)
        assert [(s["wanted"], s["taken"]) for s in found["sources"]] == [(10, 10), (10, 2)]
        assert found["rows"] == 12
        assert json.loads((tmp_path / "m" / "mix.json").read_text()) == found

    def test_prompts_are_mixed_too(self, tmp_path: Path) -> None:
        write_records(tmp_path / "a.parquet", [prompt(f"a {i}") for i in range(6)], Prompt)
        (tmp_path / "b.jsonl").write_text("".join(json.dumps({"prompt": f"b {i}"}) + "\n" for i in range(3)))
        done = prefloop("mix", tmp_path / "a.parquet", tmp_path / "b.jsonl", "--out", tmp_path / "m")
        assert done.stdout.startswith("6 rows in "), done.stderr
        asked = [p.messages[-1]["content"][0] for p in read_records(tmp_path / "m" / "prompts.parquet", Prompt)]
        assert Counter(asked) == {"a": 3, "b": 3}

    def test_what_cannot_be_mixed_is_refused(self, tmp_path: Path) -> None:
        a = make_set(tmp_path / "a", numbered(3, "a"))
        write_records(tmp_path / "p.parquet", [prompt("x")], Prompt)
        with pytest.raises(ConfigError, match="not both"):
            mix_sources([a, tmp_path / "p.parquet"], tmp_path / "m")
        with pytest.raises(ConfigError, match="--weight: 1 for 2 sources"):
            mix_sources([a, a], tmp_path / "m", [1.0])
        with pytest.raises(ConfigError, match="above 0"):
            mix_sources([a, a], tmp_path / "m", [1.0, 0.0])
        with pytest.raises(DataError, match="no row that is not in the sources before it"):
            mix_sources([a, a], tmp_path / "m")
        with pytest.raises(DataError, match="is no preference set"):
            mix_sources([tmp_path], tmp_path / "m")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "p.parquet"]

    def test_one_answer_with_two_texts_is_refused(self, tmp_path: Path) -> None:
        asked = prompt("q")
        a = make_set(tmp_path / "a", [(asked, "one", "two")])
        b = make_set(tmp_path / "b", [(asked, "one more", "two")])  # the same policy and seed: the same ids
        with pytest.raises(DataError, match="has two texts"):
            mix_sources([a, b], tmp_path / "m")


SENTENCE = "in the season of nineteen ninety eight who scored the most points for a team from the west"
SQL = "SELECT p.name FROM players p WHERE p.season = 1998 AND p.team = 'BOS' ORDER BY p.points DESC LIMIT 1"
ALIAS = "select x.name from players as x where x.team='BOS' and x.season=1998 order by x.points desc limit 1"
OTHER = SQL.replace("1998", "2003").replace("BOS", "LAL")


def fenced(sql: str) -> str:
    return f"Plan: look it up.\n```sql\n{sql}\n```"


@pytest.fixture
def held_out_file(tmp_path: Path) -> Path:
    rows = [
        {"question": SENTENCE},
        {"question": "Who won?", "answer": "yes"},
        {"question": "Best scorer of Boston in 1998?", "query": SQL},
        {"nothing": 1},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestDecontaminate:
    def test_each_rule_by_hand(self, tmp_path: Path, held_out_file: Path) -> None:
        words = SENTENCE.split()
        thirteen, twelve = " ".join(words[2:15]).upper(), " ".join(words[2:14])
        rows = [
            (prompt(f"Say: {thirteen}, please?"), "x", "y"),  # 13 words in a row
            (prompt(f"Say: {twelve} please?"), "x", "y"),  # 12: stays
            (prompt("who WON"), "x", "y"),  # a short test prompt as a whole
            (prompt("who won then"), "yes", "no"),  # more than it, and a short test answer: stays
            (prompt("a"), fenced(ALIAS), "y"),  # the same query, spelled otherwise
            (prompt("b", {"gold_sql": ALIAS}), "x", "y"),
            (prompt("c"), "x", fenced(OTHER)),  # the same but for literals: stays unless asked for
            (prompt("d"), f"I quote: {SENTENCE}", "y"),
            (prompt("e"), "x", "y"),
        ]
        source = make_set(tmp_path / "set", rows)
        found = decontaminate(source, [held_out_file], tmp_path / "clean")
        assert found["dropped"] == {
            "13 words, answer": 1,
            "13 words, prompt": 1,
            "same query, answer": 1,
            "same query, prompt": 1,
            "whole text, prompt": 1,
        }
        assert (found["rows"], found["kept"], found["masked"], found["test_items"]) == (9, 4, 1, 3)
        dropped = [json.loads(line) for line in (tmp_path / "clean/dropped.jsonl").read_text().splitlines()]
        assert [(d["asked"][:5], d["test"]["row"]) for d in dropped] == [
            ("Say: ", 1), ("who W", 2), ("a", 3), ("b", 3), ("d", 1)
        ]  # fmt: skip
        assert dropped[0]["found"] == thirteen.lower()
        preferences, _, prompts = read_learned(tmp_path / "clean").records
        assert [prompts[p.prompt_id].messages[-1]["content"] for p in preferences] == [
            f"Say: {twelve} please?", "who won then", "c", "e"
        ]  # fmt: skip
        masked = decontaminate(source, [held_out_file], tmp_path / "masked", mask=True)
        assert masked["dropped"]["query but for literals, answer"] == 1
        assert masked["kept"] == 3

    def test_fewer_words_find_more(self, tmp_path: Path, held_out_file: Path) -> None:
        text = " ".join(SENTENCE.split()[2:14])
        source = make_set(tmp_path / "set", [(prompt(f"Say: {text} please?"), "x", "y"), (prompt("e"), "x", "y")])
        assert decontaminate(source, [held_out_file], tmp_path / "clean", words=12)["dropped"] == {
            "12 words, prompt": 1
        }

    def test_a_shared_system_message_is_no_leak_and_train_rows_are_no_test(self, tmp_path: Path) -> None:
        test = [prompt("t 1"), Prompt.create(prompt("a 1").messages, "other", "train")]
        write_records(tmp_path / "run.parquet", [Prompt.create(test[0].messages, "t", "test"), test[1]], Prompt)
        write_records(tmp_path / "p.parquet", [prompt("a 1"), prompt("t 1"), prompt("a 2")], Prompt)
        done = prefloop(
            "decontaminate", tmp_path / "p.parquet", "--against", tmp_path / "run.parquet", "--out", tmp_path / "clean"
        )
        assert done.stdout.startswith("2 of 3 rows are left"), done.stderr
        left = read_records(tmp_path / "clean" / "prompts.parquet", Prompt)
        assert [p.messages[-1]["content"] for p in left] == ["a 1", "a 2"]

    def test_nothing_left_and_nothing_to_compare_with_are_errors(self, tmp_path: Path, held_out_file: Path) -> None:
        source = make_set(tmp_path / "set", [(prompt("who won"), "x", "y")])
        with pytest.raises(DataError, match="nothing is left"):
            decontaminate(source, [held_out_file], tmp_path / "clean")
        (tmp_path / "empty.jsonl").write_text('{"a": 1}\n')
        with pytest.raises(DataError, match=r"empty\.jsonl has no test item \(row 1: no prompt\)"):
            decontaminate(source, [tmp_path / "empty.jsonl"], tmp_path / "clean")
        assert not (tmp_path / "clean").exists()

    @given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abcx"), max_size=20))
    def test_a_run_is_found_exactly_where_there_is_one(self, test: list[str], text: list[str]) -> None:
        """Against every run of three words by itself."""
        index = Contamination(3)
        index.add(HeldOut("f", 1, (" ".join(test),), (), ()))
        runs = {tuple(test[i : i + 3]) for i in range(len(test) - 2)}
        short = 0 < len(test) < 3 and test == text
        hit = index.text_hit(" ".join(text))
        places = [i for i in range(len(text) - 2) if tuple(text[i : i + 3]) in runs]
        assert (hit is not None) == (bool(places) or short)
        if places:
            assert hit.found == " ".join(text[places[0] : places[0] + 3])


def test_layouts_of_test_sets(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,SQL\nHow many?,SELECT 1\n")
    (row,) = read_held_out(tmp_path / "a.csv")
    assert (row.asked, row.queries, row.row) == (("How many?",), ("SELECT 1",), 2)
    conversation = [{"from": "human", "value": "q"}, {"from": "gpt", "value": fenced("SELECT 2")}]
    (tmp_path / "b.json").write_text(
        json.dumps([{"conversations": conversation, "output": f"So: {fenced('SELECT 3')}"}])
    )
    (row,) = read_held_out(tmp_path / "b.json")
    assert row.asked[0] == "q"
    assert row.queries == ("SELECT 3",)
    assert row.answers[0].split() == ["So:", "Plan:", "look", "it", "up."]
    write_records(
        tmp_path / "c.parquet",
        [Prompt.create(prompt("q", {"gold_sql": "SELECT 4"}).messages, "t", "test", {"gold_sql": "SELECT 4"})],
        Prompt,
    )
    (row,) = read_held_out(tmp_path / "c.parquet")
    assert (row.asked, row.queries) == (("q",), ("SELECT 4",))


def test_masked_queries() -> None:
    assert canonical_sql(SQL) == canonical_sql(ALIAS) != canonical_sql(OTHER)
    assert masked_sql(SQL) == masked_sql(ALIAS) == masked_sql(OTHER)
    assert masked_sql("SELECT a FROM t WHERE a = 2 AND a > 1") == masked_sql("SELECT a FROM t WHERE a = 1 AND a > 2")
    assert masked_sql("SELECT a FROM t") != masked_sql("SELECT b FROM t")
    assert masked_sql("not a query (") is None

"""Files of any size and order: read and written some rows at a time, judged and paired as if they were held whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import prefloop
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from prefloop.config.engine import EngineSection
from prefloop.config.judges import CustomConfig
from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.errors import DataError
from prefloop.loop import import_stage, judge_stage, prefer_stage
from prefloop.loop.learned import REFERENCE_ANSWERS, Learned, read_learned
from prefloop.loop.prompt_files import each_prompt
from prefloop.preferences.build import build_preferences, diagnostics
from prefloop.preferences.export import write_preference_set
from prefloop.progress import progress, set_quiet
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store import grouped, tables
from prefloop.store.grouped import Grouping, Table, ids_of
from prefloop.store.journal import FileJournal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import (
    count_records,
    find_records,
    read_batches,
    read_records,
    records_file,
    write_records,
)

ANSWERS = 5
JUDGE = CustomConfig(function="test_streaming:length")


def length(prompt: Prompt, answers: list[str]) -> list[float]:
    return [len(answer) % 7 for answer in answers]


def prompts(count: int) -> list[Prompt]:
    return [Prompt.create(({"role": "user", "content": f"question {i}"},), "t", "train") for i in range(count)]


def answers(asked: Sequence[Prompt], each: int = ANSWERS) -> list[Completion]:
    rng, found = random.Random(1), []
    for prompt in asked:
        for index in range(each):
            text = "x" * rng.randrange(1, 40) + str(index)
            tokens = tuple(range(len(text)))
            name = Completion.make_id(prompt.id, "p", {}, 1, 0, index)
            ended = rng.choice(["stop", "stop", "length"])
            found.append(
                Completion(name, prompt.id, index, 0, text, tokens, (-0.5,) * len(tokens), ended, "p", {"k": 1}, 1)
            )
    return found


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices of a few prompts, so that small files have many."""
    monkeypatch.setattr(grouped, "BLOCK", 2)
    monkeypatch.setattr(grouped, "PARTS", 3)
    monkeypatch.setattr(grouped, "ROWS", 16)
    monkeypatch.setattr(tables, "ROWS", 16)
    monkeypatch.setattr(judge_stage, "ANSWERS", 12)
    monkeypatch.setattr(prefer_stage, "ROWS", 12)


class TestTables:
    def test_bytes_do_not_depend_on_how_records_are_handed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "ROWS", 16)
        found = answers(prompts(10))
        write_records(tmp_path / "whole", found, Completion)
        with records_file(tmp_path / "parts", Completion) as write:
            for start, end in ((0, 1), (1, 1), (1, 33), (33, 50)):
                write(iter(found[start:end]))
        assert (tmp_path / "whole").read_bytes() == (tmp_path / "parts").read_bytes()
        assert pq.ParquetFile(tmp_path / "whole").num_row_groups == 4  # 16 + 16 + 16 + 2
        assert [len(batch) for batch in read_batches(tmp_path / "whole", Completion)] == [16, 16, 16, 2]
        assert read_records(tmp_path / "whole", Completion) == found
        assert count_records(tmp_path / "whole", Completion) == 50

    def test_a_file_of_up_to_one_row_group_is_as_one_write_made_it(self, tmp_path: Path) -> None:
        found = answers(prompts(10))
        write_records(tmp_path / "ours", found, Completion)
        schema = tables.SCHEMAS[Completion].with_metadata({"prefloop": "Completion/1"})
        rows = [tables._row(completion, schema) for completion in found]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "plain", compression="zstd")
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "plain").read_bytes()

    def test_a_writer_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), records_file(tmp_path / "x", Prompt) as write:
            write(1 // 0 for _ in prompts(3))
        assert list(tmp_path.iterdir()) == []

    def test_records_are_found_by_a_column_and_others_not_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "ROWS", 16)
        found = answers(prompts(20))
        write_records(tmp_path / "c", found, Completion)
        wanted = {found[0].prompt_id, found[77].prompt_id, "unknown"}
        made: list[int] = []
        monkeypatch.setattr(tables, "records_of", lambda b, k, of=tables.records_of: made.append(len(b)) or of(b, k))
        hits = find_records(tmp_path / "c", Completion, "prompt_id", wanted)
        assert hits == [c for c in found if c.prompt_id in wanted]
        assert sum(made) == len(hits) == 10

    def test_reading_keeps_nothing_of_what_was_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A reader of several row groups would keep all their bytes until the end."""
        monkeypatch.setattr(tables, "ROWS", 128)
        noise = np.random.default_rng(1).random((5_000, 200)).tolist()
        found = [replace(c, logprobs=row) for c, row in zip(answers(prompts(1_000)), noise, strict=True)]
        write_records(tmp_path / "c", found, Completion)
        before = pa.total_allocated_bytes()
        held = [pa.total_allocated_bytes() - before for _ in read_batches(tmp_path / "c", Completion)]
        assert len(held) == 40
        assert max(held) < (tmp_path / "c").stat().st_size / 4

    def test_what_is_not_read_is_empty(self, tmp_path: Path) -> None:
        found = answers(prompts(1))
        write_records(tmp_path / "c", found, Completion)
        (batch,) = read_batches(tmp_path / "c", Completion, without=("token_ids", "logprobs"))
        assert batch == [replace(c, token_ids=(), logprobs=()) for c in found]

    @given(st.lists(st.lists(st.integers(-5, 5) | st.none(), max_size=4), max_size=6), st.data())
    def test_lists_of_numbers_are_what_arrow_says(self, lists: list[list[int | None]], data: st.DataObject) -> None:
        array = pa.array(lists, pa.list_(pa.int32()))
        start = data.draw(st.integers(0, len(lists)))
        array = array.slice(start)
        assert tables._values("token_ids", array) == [tuple(values) for values in array.to_pylist()]


class TestGrouping:
    @settings(max_examples=25)
    @given(order=st.randoms(use_true_random=False), count=st.integers(0, 40), most=st.sampled_from([4, 30, None]))
    def test_every_row_stands_with_its_prompt_in_the_order_of_its_file(
        self, tmp_path_factory: pytest.TempPathFactory, order: random.Random, count: int, most: int | None
    ) -> None:
        folder, asked = tmp_path_factory.mktemp("g"), prompts(count)
        found = answers([p for p in asked if order.random() < 0.8], each=3)
        if order.random() < 0.7:
            order.shuffle(found)
        stray = replace(found[0], id="stray", prompt_id="nobody") if found else None
        rows = [*found[:2], stray, *found[2:]] if stray else found
        write_records(folder / "c", rows, Completion)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(grouped, "BLOCK", 2)
            patch.setattr(grouped, "PARTS", 3)
            patch.setattr(tables, "ROWS", 7)
            patch.setattr(grouped, "ROWS", 7)
            groups = Grouping(pa.array([p.id for p in asked], pa.string()), [Table(folder / "c", Completion)], most)
            parts = list(groups.slices(asked, folder / "work"))
        assert [p for part in parts for p in part.prompts] == asked
        place = {c.id: i for i, c in enumerate(found)}
        for part in parts:
            known = {p.id for p in part.prompts}
            assert part.rows[0] == [c for c in found if c.prompt_id in known]
            assert [place[c.id] for c in part.rows[0]] == sorted(place[c.id] for c in part.rows[0])
        assert sum(len(part.rows[0]) for part in parts) == len(found) == groups.rows[0]
        assert (groups.unknown, groups.lost) == (([["nobody"]], [1]) if stray else ([[]], [0]))
        assert not (folder / "work").exists()
        if most:
            assert all(len(part.rows[0]) <= most + 2 + 2 * 3 for part in parts)

    def test_a_prompt_that_is_given_twice_gets_its_rows_once(self, tmp_path: Path) -> None:
        asked = prompts(2)
        write_records(tmp_path / "c", answers(asked), Completion)
        ids = pa.array([asked[0].id, asked[1].id, asked[0].id])
        (part,) = Grouping(ids, [Table(tmp_path / "c", Completion)]).slices([*asked, asked[0]], tmp_path / "w")
        assert len(part.rows[0]) == 2 * ANSWERS

    def test_answers_that_come_in_chunks_are_put_in_the_order_of_the_prompts(
        self, tmp_path: Path, small_slices: None
    ) -> None:
        asked = prompts(40)
        found = {p.id: [c for c in answers(asked, each=3) if c.prompt_id == p.id] for p in asked}
        chunks = [asked[i::7] for i in range(7)]
        batches = [[c for p in chunk for c in found[p.id]] for chunk in chunks]
        expected = [c for p in asked for c in found[p.id]]
        assert grouped.ordered(batches, asked) == expected
        parts = list(grouped.ordered_on_disk(iter(batches), asked, tmp_path / "work"))
        assert [c for part in parts for c in part] == expected
        assert len(parts) > 3
        assert not (tmp_path / "work").exists()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    asked = prompts(60)
    write_records(tmp_path / "p.parquet", asked, Prompt)
    write_records(tmp_path / "c.parquet", answers(asked), Completion)
    return tmp_path / "p.parquet", tmp_path / "c.parquet"


class TestStages:
    def test_many_slices_judge_as_one(self, files: tuple[Path, Path], small_slices: None, tmp_path: Path) -> None:
        asked, answered = read_records(files[0], Prompt), read_records(files[1], Completion)
        summary = judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        found = read_records(tmp_path / "j.parquet", Judgement)
        assert [j.completion_ids for j in found] == [(c.id,) for c in answered]
        assert [j.value for j in found] == [float(len(c.text) % 7) for c in answered]
        assert summary["judgements"] == 300
        assert summary["mean_score"] == pytest.approx(np.mean([len(c.text) % 7 for c in answered]))
        shuffled = random.Random(2).sample(answered, len(answered))
        write_records(tmp_path / "shuffled.parquet", shuffled, Completion)
        judge_stage.judge_file(files[0], tmp_path / "shuffled.parquet", tmp_path / "k.parquet", JUDGE)
        again = read_records(tmp_path / "k.parquet", Judgement)
        assert sorted(again, key=lambda j: j.id) == sorted(found, key=lambda j: j.id)
        order = {prompt.id: place for place, prompt in enumerate(asked)}
        assert [order[j.prompt_id] for j in again] == sorted(order[j.prompt_id] for j in again)

    @pytest.mark.parametrize(
        "options",
        [{}, {"min_margin_quantile": 0.4, "pairs_per_prompt": 2}, {"strategy": "all-pairs", "max_similarity": 0.9}],
    )
    def test_many_slices_pair_as_one(
        self, files: tuple[Path, Path], small_slices: None, tmp_path: Path, options: dict[str, object]
    ) -> None:
        config = PreferenceConfig(**options)
        judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        asked, answered = read_records(files[0], Prompt), read_records(files[1], Completion)
        judged = read_records(tmp_path / "j.parquet", Judgement)
        found = prefer_stage.prefer_files(*files, tmp_path / "j.parquet", tmp_path / "set", config)
        whole = build_preferences(asked, answered, judged, config, 1)
        assert read_records(tmp_path / "set" / "records" / "preferences.parquet", Preference) == list(whole.preferences)
        assert found["drops"] == whole.drops
        figures = diagnostics(whole.preferences, answered, judged)
        assert found["diagnostics"] == pytest.approx(figures)
        write_preference_set(
            tmp_path / "at-once",
            asked,
            answered,
            whole.preferences,
            {
                "name": "set", "policy": "p", "judge": judged[0].judge, "strategy": whole.strategy, "recipe": "none",
                "origin": "The prompts are the user's own.", "diagnostics": found["diagnostics"], "drops": whole.drops,
            },
        )  # fmt: skip
        for path in sorted(p for p in (tmp_path / "at-once").rglob("*") if p.is_file()):
            assert path.read_bytes() == (tmp_path / "set" / path.relative_to(tmp_path / "at-once")).read_bytes(), path

    def test_answers_to_prompts_that_are_not_given_are_refused_or_counted(
        self, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        asked = read_records(files[0], Prompt)
        judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        write_records(tmp_path / "some.parquet", asked[:50], Prompt)
        with pytest.raises(DataError, match=r"c\.parquet answers prompt .*, which .*some\.parquet does not hold"):
            judge_stage.judge_file(tmp_path / "some.parquet", files[1], tmp_path / "k.parquet", JUDGE)
        found = prefer_stage.prefer_files(
            tmp_path / "some.parquet", files[1], tmp_path / "j.parquet", tmp_path / "set", PreferenceConfig()
        )
        assert found["drops"]["answer to a prompt that is not given"] == 10 * ANSWERS

    @pytest.mark.parametrize("options", [{}, {"min_margin_quantile": 0.4}])
    def test_prompts_of_the_test_split_are_not_paired_but_counted(
        self, files: tuple[Path, Path], small_slices: None, tmp_path: Path, options: dict[str, object]
    ) -> None:
        config = PreferenceConfig(**options)
        asked = read_records(files[0], Prompt)
        mixed = [replace(prompt, split="test") if n % 3 == 0 else prompt for n, prompt in enumerate(asked)]
        train = [prompt for prompt in mixed if prompt.split == "train"]
        write_records(files[0], mixed, Prompt)
        judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        found = prefer_stage.prefer_files(*files, tmp_path / "j.parquet", tmp_path / "set", config)
        kept = {prompt.id for prompt in train}
        answered = [c for c in read_records(files[1], Completion) if c.prompt_id in kept]
        judged = [j for j in read_records(tmp_path / "j.parquet", Judgement) if j.prompt_id in kept]
        whole = build_preferences(train, answered, judged, config, 1)
        assert read_records(tmp_path / "set" / "records" / "preferences.parquet", Preference) == list(whole.preferences)
        assert found["drops"] == {**whole.drops, "prompt of the test split": 20}
        assert found["diagnostics"] == pytest.approx(diagnostics(whole.preferences, answered, judged))
        assert "| prompt of the test split | 20 |" in (tmp_path / "set" / "README.md").read_text()

    def test_pairs_of_test_prompts_alone_are_refused(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        asked = read_records(files[0], Prompt)
        write_records(files[0], [replace(prompt, split="test") for prompt in asked], Prompt)
        done = prefloop("prefer", *files, tmp_path / "j.parquet", "--out", tmp_path / "set")
        assert done.returncode == DataError.exit_code
        assert "p.parquet has no training prompt, and pairs are for training: give prompts whose split" in done.stderr
        assert not (tmp_path / "set").exists()

    def test_judging_that_was_stopped_goes_on_with_the_same_bytes(
        self, files: tuple[Path, Path], small_slices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        judge_stage.judge_file(*files, tmp_path / "whole.parquet", JUDGE)
        append, left = FileJournal.append, [3]

        def stopped(self: FileJournal, key: str, value: object) -> None:
            append(self, key, value)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        monkeypatch.setattr(FileJournal, "append", stopped)
        with pytest.raises(KeyboardInterrupt):
            judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE)
        assert not (tmp_path / "j.parquet").exists()
        (journal,) = tmp_path.glob(".j.parquet.*.journal")
        assert len(FileJournal(journal).entries()) == 3
        judge_stage.judge_file(*files, tmp_path / "j.parquet", JUDGE, resume=True)
        assert (tmp_path / "j.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
        assert {p.name for p in tmp_path.iterdir()} == {"p.parquet", "c.parquet", "j.parquet", "whole.parquet"}

    def test_many_batches_import_as_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [{"prompt": f"question {i % 9}", "chosen": f"a{i % 4}", "rejected": f"b{i % 3}"} for i in range(40)] + [
            {"prompt": "no answers"}
        ]
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        whole = import_stage.import_file(tmp_path / "p.jsonl", tmp_path / "whole")
        distinct = len({json.dumps(row) for row in rows[:40]})
        assert (whole["pairs"], len(whole["bad"])) == (distinct, 41 - distinct)
        monkeypatch.setattr(import_stage, "ROWS", 3)
        assert import_stage.import_file(tmp_path / "p.jsonl", tmp_path / "parts") == whole
        for path in sorted(p for p in (tmp_path / "whole").rglob("*") if p.is_file()):
            assert path.read_bytes() == (tmp_path / "parts" / path.relative_to(tmp_path / "whole")).read_bytes()

    def test_no_stage_imports_torch(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        script = """
import sys
from command_line import prefloop
p, c, out = sys.argv[1:]
for words in (
    ["judge", p, c, "--judge", "test_streaming:length", "--out", f"{out}/j.parquet"],
    ["prefer", p, c, f"{out}/j.parquet", "--out", f"{out}/set"],
    ["decontaminate", f"{out}/set", "--against", f"{out}/test.jsonl", "--out", f"{out}/clean"],
    ["mix", f"{out}/clean", "--out", f"{out}/mixed"],
    ["prefer", "--import", f"{out}/mixed/preferences.jsonl", "--out", f"{out}/imported"],
):
    done = prefloop(*words)
    assert done.returncode == 0, done.stderr
print("torch" in sys.modules)
"""
        (tmp_path / "test.jsonl").write_text('{"prompt": "question 7"}\n')
        code = script.replace("import sys\n", "import sys\nsys.path[:0] = [sys.argv.pop(1)]\n", 1)
        # this module imports what a judge of one's own may; the stages themselves must not need torch
        words = [sys.executable, "-c", code, str(Path(__file__).parent), *map(str, files), str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.stdout == "False\n", done.stderr


def test_a_finished_run_is_shown_without_what_computes() -> None:
    code = "import sys, prefloop.loop.main, prefloop.loop.show; print({'torch', 'scipy.stats'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "set()\n", done.stderr


def test_length_bias_is_scipys(tmp_path: Path) -> None:
    """Spearman's ρ by prompt, averaged, with ties and groups of several sizes."""
    asked, rng = prompts(30), random.Random(3)
    found = [c for c in answers(asked) if rng.random() < 0.8]
    judged = [Judgement.create(c.prompt_id, (c.id,), "j", "score", float(rng.randrange(4))) for c in found]
    groups: dict[str, list[tuple[float, int]]] = {}
    for completion, judgement in zip(found, judged, strict=True):
        groups.setdefault(completion.prompt_id, []).append((judgement.value, len(completion.token_ids)))
    expected = [
        spearmanr(*zip(*group, strict=True)).statistic
        for group in groups.values()
        if len({score for score, _ in group}) > 1 and len({size for _, size in group}) > 1
    ]
    assert diagnostics([], found, judged)["score_length_correlation"] == pytest.approx(np.mean(expected))


def test_progress_of_parts_counts_in_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    set_quiet(False)
    with progress("judge", 30, "answers", parts=True):
        for done in (4, 0):
            with progress("inside", 10, "answers", done=done) as advance:
                advance(10 - done)
        with progress("inside", 99, "requests") as advance:
            advance(99)
    assert capsys.readouterr().err.startswith("judge: 20/30 answers, ")


class Spread:
    """Stands in for Ray's workers: does each chunk here, and says what it was started for."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def each(self, task: Any, chunks: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        self.started.append(list(chunks))
        work = task.open("cpu", 1)
        yield from ((key, work(json.loads(json.dumps(chunk)))) for key, chunk in chunks.items())


@pytest.fixture
def spread(monkeypatch: pytest.MonkeyPatch) -> Spread:
    found = Spread()
    monkeypatch.setattr("prefloop.judging.ray.workers", lambda *args, **options: found)
    return found


RAY = EngineSection(name="ray")


class TestSpreadJudging:
    """By workers, chunks are cut as they are here, so that each engine takes up what the other began."""

    def test_workers_are_started_for_several_slices_at_once(
        self, files: tuple[Path, Path], small_slices: None, tmp_path: Path, spread: Spread
    ) -> None:
        slices = len(judge_stage.answer_groups(ids_of(each_prompt(files[0])), files[1], JUDGE))
        judge_stage.judge_file(*files, tmp_path / "here.parquet", JUDGE)
        judge_stage.judge_file(*files, tmp_path / "there.parquet", JUDGE, engine=RAY)
        assert (tmp_path / "there.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
        assert len(spread.started) == -(-slices // judge_stage.SPREAD)
        assert slices > judge_stage.SPREAD

    def test_a_run_goes_on_by_the_other_engine_without_judging_again(
        self, files: tuple[Path, Path], small_slices: None, tmp_path: Path, spread: Spread
    ) -> None:
        """Each prompt's chunk has the key that it had: a slice's last chunk is short under both engines."""
        from prefloop.loop.run import Stages, _labels  # with torch, which no stage imports

        asked = [prompt for number, prompt in enumerate(read_records(files[0], Prompt)) if number % 5]
        kept: dict[str, list[str]] = {}
        for engine in ("local", "ray"):
            recipe = Recipe(judge=JUDGE, engine=engine)
            folder = RunFolder(tmp_path / engine)
            policies = SimpleNamespace(release=lambda: None)
            with patch.object(FileJournal, "remove"):
                _labels(Stages(recipe, folder, policies), None, asked, files[1])
            kept[engine] = list(folder.journal("judgements").entries())
        assert kept["ray"] == kept["local"]
        assert [key for some in spread.started for key in some] == kept["local"]


def test_a_training_reads_the_answers_of_its_pairs_alone(files: tuple[Path, Path], tmp_path: Path) -> None:
    asked, found = read_records(files[0], Prompt), answers(read_records(files[0], Prompt))
    pair = Preference.pair(asked[3].id, found[15].id, found[17].id, 1.0, 0.0, "best-worst/own")
    whole = Learned([pair], {answer.id: answer for answer in found}, {prompt.id: prompt for prompt in asked})
    whole.write(tmp_path)
    assert read_learned(tmp_path).completions == {answer.id: answer for answer in (found[15], found[17])}
    whole.write(tmp_path / "records")
    write_records(tmp_path / "records" / REFERENCE_ANSWERS, [replace(found[17], id="reference")], Completion)
    own = replace(pair, ranking=((pair.ranking[0][0],), ("reference",)))
    write_records(tmp_path / "records" / "preferences.parquet", [own], Preference)
    assert set(read_learned(tmp_path).completions) == {found[15].id, "reference"}


def test_the_command_says_what_it_judged(files: tuple[Path, Path], tmp_path: Path, small_slices: None) -> None:
    done = prefloop("judge", *files, "--judge", "test_streaming:length", "--out", tmp_path / "j.parquet")
    assert done.stdout.startswith("300 judgements of test_streaming:length@"), done.stderr

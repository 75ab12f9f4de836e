"""The execution judge on the real leagues: verdicts by hand, cut-off answers, hostile SQL, resume."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from prefloop.config.judges import ExecutionConfig
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import DataError
from prefloop.judging import execution
from prefloop.judging.execution import ExecutionJudge
from prefloop.loop import judge_stage
from prefloop.loop.judge_stage import judge_file
from prefloop.loop.prompt_files import read_prompts
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store import grouped
from prefloop.store.journal import FileJournal
from prefloop.store.tables import read_records, write_records
from prefloop.tasks.nba import task
from prefloop.tasks.nba.answers import render_answer

CONFIG = ExecutionConfig(workers=2)
FILLER = "Let me think about this carefully before I write anything down. " * 12


@pytest.fixture(scope="module")
def prompts(leagues: list[Path]) -> list[Prompt]:
    return list(task.test_prompts(NbaTaskConfig(test_questions=80), leagues, 2).prompts)


def answer(prompt: Prompt, text: str, index: int = 0) -> Completion:
    return Completion(f"{prompt.id}/{index}", prompt.id, index, 0, text, (1,), (0.0,), "stop", "p", {}, 0)


def gold(prompt: Prompt) -> str:
    return render_answer(prompt.meta["gold_plan"], prompt.meta["gold_sql"])


def one(prompts: list[Prompt], answerable: bool) -> Prompt:
    return next(prompt for prompt in prompts if prompt.meta["answerable"] is answerable)


def test_every_gold_answer_scores_one(prompts: list[Prompt], leagues: list[Path]) -> None:
    with ExecutionJudge(leagues, CONFIG) as judge:
        judged = judge.judge(prompts, [answer(prompt, gold(prompt)) for prompt in prompts])
    for prompt, judgement in zip(prompts, judged, strict=True):
        assert judgement.objectives["correct"] == judgement.objectives["valid"] == 1, prompt.meta["question"]
        assert judgement.objectives["verbosity"] == 1
        assert judgement.value == pytest.approx(1, abs=0.02), prompt.meta["question"]


def test_objectives_by_hand(prompts: list[Prompt], leagues: list[Path]) -> None:
    asked, refused = one(prompts, True), one(prompts, False)
    plan, sql = asked.meta["gold_plan"], asked.meta["gold_sql"]
    cases = [
        (asked, render_answer(plan, "SELECT 'nonsense'"), {"correct": 0, "valid": 1, "verbosity": 1}, "ok"),
        (asked, render_answer(plan, "SELEC 1"), {"correct": 0, "valid": 0, "verbosity": 1}, "syntax"),
        (asked, render_answer(plan, "SELECT x FROM games"), {"correct": 0, "valid": 0}, "unknown_column"),
        (asked, render_answer(plan, "DROP TABLE games"), {"correct": 0, "valid": 0, "reasoning": 0}, "denied"),
        (asked, f"Plan: {plan}", {"correct": 0, "valid": 0, "reasoning": 0}, "no_sql"),
        (asked, gold(asked)[:-3], {"correct": 0, "valid": 0}, "no_sql"),
        (asked, render_answer(FILLER + plan, sql), {"correct": 1, "valid": 1}, "ok"),
        (refused, "Plan: cannot be answered: no data on this.", {"correct": 1, "valid": 1, "reasoning": 1}, "refused"),
        (refused, render_answer(plan, sql), {"correct": 0, "valid": 0}, "not_refused"),
    ]
    with ExecutionJudge(leagues, CONFIG) as judge:
        judged = judge.judge([asked, refused], [answer(p, text, i) for i, (p, text, *_) in enumerate(cases)])
    for (_, text, expected, status), judgement in zip(cases, judged, strict=True):
        assert judgement.raw["status"] == status, text
        assert {name: judgement.objectives[name] for name in expected} == expected, text
        weights = {"correct": 1.0, "valid": 0.2, "reasoning": 0.1, "verbosity": 0.1}
        mean = sum(w * judgement.objectives[n] for n, w in weights.items()) / 1.4
        assert judgement.value == pytest.approx(mean)
    long = cases[6][1]
    assert judged[6].objectives["verbosity"] == pytest.approx(1.2 * asked.meta["gold_length"] / len(long), abs=1e-6)


def test_right_on_one_league_only_is_wrong(prompts: list[Prompt], leagues: list[Path]) -> None:
    """A literal that happens to be the first league's answer."""
    with ExecutionJudge(leagues, CONFIG) as judge:
        asked = next(p for p in prompts if p.meta["answerable"] and "top_k" not in p.meta["comparison"])
        result = judge._golds.run([(0, asked.meta["gold_sql"]), (1, asked.meta["gold_sql"])])
        row = ", ".join(repr(cell) if isinstance(cell, str) else str(cell) for cell in result[0].rows[0])
        judged = judge.judge([asked], [answer(asked, render_answer("x", f"SELECT {row}"))])[0]
    assert result[0].rows != result[1].rows
    assert judged.objectives["correct"] == 0


def test_judging_goes_on_where_it_was_killed(prompts: list[Prompt], leagues: list[Path], tmp_path: Path) -> None:
    completions = [answer(prompt, gold(prompt)) for prompt in prompts]
    with ExecutionJudge(leagues, CONFIG) as judge:
        whole = judge.judge(prompts, completions, journal=FileJournal(tmp_path / "a"))
        lines = (tmp_path / "a").read_bytes().splitlines(keepends=True)
        assert len(lines) == 2  # 80 prompts, 64 to a chunk
        (tmp_path / "b").write_bytes(lines[0] + lines[1][:50])
        resumed = judge.judge(prompts, completions, journal=FileJournal(tmp_path / "b"))
    assert resumed == whole
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()


def test_golds_that_are_let_go_are_run_again(
    prompts: list[Prompt], leagues: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = prompts[:12]
    answers = [answer(prompt, gold(prompt)) for prompt in asked]
    with ExecutionJudge(leagues, CONFIG) as judge:
        whole = judge.judge(asked, answers)
    monkeypatch.setattr(ExecutionJudge, "per_chunk", 3)
    monkeypatch.setattr(execution, "GOLDS_KEPT", 4)
    with ExecutionJudge(leagues, CONFIG) as judge:
        assert judge.judge(asked, answers) == whole
        assert judge.judge(asked[::-1], answers) == whole
        assert len(judge._gold_results) <= 4 + 3


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Somebody's own database and questions with a gold query each; the third gold does not run."""
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path / "cache"))
    with closing(sqlite3.connect(tmp_path / "shop.sqlite")) as connection:
        connection.execute("CREATE TABLE orders (id INTEGER, total REAL)")
        connection.executemany("INSERT INTO orders VALUES (?, ?)", [(1, 10.0), (2, 32.5)])
        connection.commit()
    golds = {"How many?": "SELECT COUNT(*) FROM orders", "Who is it?": None, "Broken?": "SELECT nothing FROM orders"}
    lines = [{"prompt": question, "meta": {"gold_sql": sql}} for question, sql in golds.items()]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "shop.sqlite", tmp_path / "questions.jsonl"


def test_your_own_database_and_gold_queries(shop: tuple[Path, Path], tmp_path: Path) -> None:
    database, questions = shop
    count, unanswerable, broken = read_prompts(questions)
    answers = [
        answer(count, "```sql\nSELECT COUNT(id) FROM orders\n```"),
        answer(count, "```sql\nSELECT SUM(total) FROM orders\n```", 1),
        answer(unanswerable, "This cannot be answered: no names are kept."),
        answer(broken, "```sql\nSELECT 1\n```"),
    ]
    write_records(tmp_path / "answers.parquet", answers, Completion)
    out = tmp_path / "judgements.parquet"
    summary = judge_file(questions, tmp_path / "answers.parquet", out, CONFIG, databases=[database])
    assert summary["statuses"] == {"ok": 2, "refused": 1, "gold_error": 1}
    assert (summary["unscored"], summary["objectives"]["correct"]) == (1, 2 / 3)
    judged = read_records(out, Judgement)
    assert [j.objectives.get("correct") for j in judged] == [1, 0, 1, None]
    assert "verbosity" not in judged[0].objectives  # no gold answer to compare lengths with
    assert judged[1].value == pytest.approx((0.2 * 1 + 0.1 * 0) / 1.3)  # valid, not correct, no plan


def test_prompts_without_a_gold_query_cannot_be_judged_by_execution(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "How many?"}\n')
    (prompt,) = read_prompts(tmp_path / "q.jsonl")
    write_records(tmp_path / "a.parquet", [answer(prompt, "text")], Completion)
    with pytest.raises(DataError, match=r"prompts have no meta\.gold_sql"):
        judge_file(tmp_path / "q.jsonl", tmp_path / "a.parquet", tmp_path / "j.parquet", CONFIG)


def test_a_prompt_without_a_gold_query_matters_where_it_is_answered_and_before_anything_is_judged(
    shop: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In slices of one prompt: what the first ones hold does not decide what becomes of the others."""
    monkeypatch.setattr(grouped, "BLOCK", 1)
    monkeypatch.setattr(judge_stage, "ANSWERS", 1)
    database, questions = shop
    with questions.open("a") as lines:
        lines.write('{"prompt": "Without a gold?"}\n')
    asked = read_prompts(questions)
    files = questions, tmp_path / "a.parquet", tmp_path / "j.parquet"
    written = [answer(asked[0], "```sql\nSELECT COUNT(*) FROM orders\n```"), answer(asked[3], "text")]
    write_records(files[1], written, Completion)
    with pytest.raises(DataError, match=rf"1 prompts have no meta\.gold_sql, {asked[3].id} first"):
        judge_file(*files, CONFIG, databases=[database])
    assert not list(tmp_path.glob(".j*"))  # no journal: nothing was judged
    write_records(files[1], written[:1], Completion)
    assert judge_file(*files, CONFIG, databases=[database])["objectives"]["correct"] == 1
    with ExecutionJudge([database], CONFIG) as judge:
        assert [j.value is not None for j in judge.judge(asked, written[:1])] == [True]


def test_a_file_without_answers_is_refused(shop: tuple[Path, Path], tmp_path: Path) -> None:
    write_records(tmp_path / "a.parquet", [], Completion)
    with pytest.raises(DataError, match=r"a\.parquet has no answer to judge: give a file with answers"):
        judge_file(shop[1], tmp_path / "a.parquet", tmp_path / "j.parquet", CONFIG, databases=[shop[0]])
    assert not list(tmp_path.glob("*j.parquet*"))

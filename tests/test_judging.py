"""The execution judge on the real leagues: verdicts by hand, cut-off answers, hostile SQL, resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.config.recipe import JudgeConfig, TaskConfig
from prefloop.judging.execution import ExecutionJudge
from prefloop.records import Completion, Prompt
from prefloop.store.journal import FileJournal
from prefloop.tasks.nba import task
from prefloop.tasks.nba.answers import render_answer

CONFIG = JudgeConfig(workers=2)
FILLER = "Let me think about this carefully before I write anything down. " * 12


@pytest.fixture(scope="module")
def prompts(leagues: list[Path]) -> list[Prompt]:
    return list(task.test_prompts(TaskConfig(test_questions=80), leagues, 2).prompts)


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

"""The instruction data set: both formats, every source, counts that add up, no evaluation question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.config.tasks import NbaTaskConfig
from prefloop.loop import instructions
from prefloop.loop.instructions import write_instructions
from prefloop.sql.extract import extract_sql
from prefloop.tasks.nba import task
from prefloop.tasks.nba.text import normalised


def test_the_instruction_set_is_right_counted_and_apart_from_the_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    draw = task.test_prompts

    def noted(*arguments: Any) -> Any:
        asked.append((arguments, draw(*arguments)))
        return asked[-1][1]

    monkeypatch.setattr(instructions, "test_prompts", noted)
    counts = write_instructions(tmp_path, examples=30, generated=10, seed=1)
    alpaca = [json.loads(line) for line in (tmp_path / "alpaca.jsonl").read_text().splitlines()]
    messages = [json.loads(line) for line in (tmp_path / "messages.jsonl").read_text().splitlines()]
    assert [row["input"] for row in alpaca] == [row["messages"][0]["content"] for row in messages]
    assert [row["output"] for row in alpaca] == [row["messages"][1]["content"] for row in messages]
    assert len(alpaca) == sum(count for name, count in counts.items() if name.startswith("kept"))
    assert {row["source"] for row in alpaca} >= {"seed", "grammar"}
    assert len({normalised(row["input"]) for row in alpaca}) == len(alpaca)
    assert all(extract_sql(row["output"]) or "cannot be answered" in row["output"] for row in alpaca)
    ((arguments, test),) = asked
    assert arguments[0] == NbaTaskConfig()  # the questions of every evaluation with the shipped settings
    grammar = {normalised(row["input"]) for row in alpaca if row["source"] != "seed"}
    assert not grammar & {normalised(prompt.meta["question"]) for prompt in test.prompts}
    assert json.loads((tmp_path / "counts.json").read_text()) == counts

"""The benchmark of reward models on people's labels: no model scores a prompt it learned from, and it learns."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.preferences.people import HumanLabels, read_people
from prefloop.records import Completion, Judgement, Prompt

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `benchmarks/people.py`."""
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import people

    return people


def labels(path: Path, pairs: list[tuple[str, str, str, list[str]]]) -> HumanLabels:
    """Labels from (prompt, first, second, one choice per rater)."""
    rows = [
        {"prompt": prompt, "first": first, "second": second, "rater": f"rater-{number}", "choice": choice}
        for prompt, first, second, choices in pairs
        for number, choice in enumerate(choices)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_people(path)


def made(path: Path, count: int) -> HumanLabels:
    """People prefer the answer that says good; both answers are equally long, and good comes first every other time."""
    pairs = []
    for number in range(count):
        answers = [f"{word} answer {number % 7}" for word in ("good", "evil")]
        first, second = answers if number % 2 else answers[::-1]
        pairs.append((f"question {number}", first, second, ["first" if number % 2 else "second"] * 3))
    return labels(path, pairs)


def test_the_majority_decides_and_ties_are_counted(benchmark: Any, tmp_path: Path) -> None:
    found = labels(
        tmp_path / "labels.jsonl",
        [
            ("one", "a", "b", ["first", "second", "first"]),
            ("two", "a", "b", ["second", "second", "tie"]),
            ("three", "a", "b", ["tie", "tie", "first"]),
            ("four", "a", "b", ["first", "second"]),
        ],
    )
    part, tied = benchmark.decided(found)
    asked = {prompt.id: prompt.messages[0]["content"] for prompt in found.prompts}
    answers = {answer.id: answer.text for answer in found.completions}
    won = {asked[p.prompt_id]: (answers[p.chosen], answers[p.rejected]) for p in part.preferences}
    assert won == {"one": ("a", "b"), "two": ("b", "a")}
    assert tied == 2


def test_every_prompt_is_in_one_fold_whatever_the_order(benchmark: Any) -> None:
    prompts = [f"p{number}" for number in range(17)]
    folds = benchmark.folds_of(prompts, 5, seed=3)
    assert Counter(name for fold in folds for name in fold) == Counter(prompts)
    assert sorted(map(len, folds)) == [3, 3, 3, 4, 4]
    assert folds == benchmark.folds_of(prompts[::-1], 5, seed=3) != benchmark.folds_of(prompts, 5, seed=4)


class Remembering:
    """In place of the judge: refuses prompts that its model learned from, scores with the number of those it did."""

    def __init__(self, config: Any) -> None:
        self.learned = set(json.loads(Path(config.model).read_text()))

    def __enter__(self) -> Remembering:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def judge(self, prompts: list[Prompt], completions: list[Completion]) -> list[Judgement]:
        assert not self.learned & {prompt.id for prompt in prompts}
        assert {answer.prompt_id for answer in completions} == {prompt.id for prompt in prompts}
        size = float(len(self.learned))
        return [Judgement.create(a.prompt_id, (a.id,), "fold's own name", "score", size) for a in completions]


def test_no_model_scores_what_it_learned_from(benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RewardModelJudge", Remembering)
    found = made(tmp_path / "labels.jsonl", 7)
    whole, _ = benchmark.decided(found)

    def fit(part: Any, folder: Path) -> Path:
        seen = {answer.prompt_id for answer in part.completions.values()} | {p.prompt_id for p in part.preferences}
        assert seen == set(part.prompts)
        (folder / "model").write_text(json.dumps(sorted(part.prompts)))
        return folder / "model"

    said = benchmark.out_of_fold(whole, benchmark.folds_of(list(whole.prompts), 3, seed=1), "mine", fit)
    assert sorted(j.completion_ids[0] for j in said) == sorted(answer.id for answer in found.completions)
    assert {j.judge for j in said} == {"mine"}
    assert Counter(j.value for j in said) == {4.0: 6, 5.0: 8}  # folds of 3, 2 and 2 prompts, two answers to each


def test_what_a_judge_gains_on_length(benchmark: Any, tmp_path: Path) -> None:
    """Length is right in two of four pairs; the judge, which takes the first answer, in three: a gain of ¼."""
    found = labels(
        tmp_path / "labels.jsonl",
        [
            ("one", "long", "s", ["first"]),
            ("two", "long", "s", ["first"]),
            ("three", "s", "long", ["first"]),
            ("four", "long", "s", ["second"]),
            ("five", "long", "s", ["tie"]),
            ("six", "s", "long", ["second"]),
        ],
    )
    said = [
        Judgement.create(pair.prompt_id, (answer,), "judge", "score", value)
        for pair in found.judgements[:5]
        for answer, value in zip(pair.completion_ids, (1.0, 0.0), strict=True)
    ]
    gain, n = benchmark.beyond_length(found, said)
    assert (gain.estimate, n) == (0.25, 4)  # neither the tie nor the pair without scores counts


def test_a_model_from_scratch_learns_what_people_want(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "RATES", {"scratch": (1e-9, 3e-3)})
    monkeypatch.setattr(benchmark, "WIDTH", 64)
    monkeypatch.setattr(benchmark, "HEADS", 1)
    monkeypatch.setattr(benchmark, "FEED_FORWARD", 64)
    found = benchmark.measure(made(tmp_path / "labels.jsonl", 30), folds=2, seed=1)
    judges = found["agreement"]["judges"]
    assert judges["baseline/length"]["accuracy"]["estimate"] == 0.5
    assert judges["reward-model/scratch"]["judged"] == 30
    assert judges["reward-model/scratch"]["accuracy"]["estimate"] > 0.9
    assert found["beyond_length"]["reward-model/scratch"]["estimate"] > 0.4
    for still, learning in found["tried"]["scratch"]:
        assert learning["loss"] < still["loss"]
        assert learning["pairs"] == 15
    assert "| scratch | 2 | 1e-09: " in benchmark.text(found)

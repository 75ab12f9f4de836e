"""Two sides before a judge: verdicts in both orders, figures by hand, files and models as sides."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from prefloop.config.judges import CustomConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.evaluation.judged import judged_figures, self_agreement, verdicts
from prefloop.loop.judged import summary
from prefloop.loop.versus import compare_sides
from prefloop.records import Completion, Judgement, Prompt


def prompt(number: int, category: str = "") -> Prompt:
    return Prompt.create(({"role": "user", "content": f"question {number}"},), "custom", "test", {"category": category})


def answer(asked: Prompt, side: str, text: str) -> Completion:
    return Completion(f"{side}{asked.id}", asked.id, -1, 0, text, (), (), "stop", side, {}, 1)


def score(
    of: Completion, value: float | None, logits: dict[str, float] | None = None, **objectives: float
) -> Judgement:
    raw = {"logits": logits} if logits else {}
    return Judgement.create(of.prompt_id, (of.id,), "judge", "score", value, objectives, raw=raw)


def choice(first: Completion, second: Completion, value: float | None, inconsistent: bool = False) -> Judgement:
    pair = (first.id, second.id)
    return Judgement.create(first.prompt_id, pair, "judge", "choice", value, raw={"inconsistent": inconsistent})


ASKED = prompt(0)
A, B = answer(ASKED, "a", "one word"), answer(ASKED, "b", "another")


def verdict_of(*judgements: Judgement) -> tuple[str, float | None, bool]:
    (found,) = verdicts([ASKED], [A], [B], judgements)
    return found.winner, found.probability, found.inconsistent


def test_a_higher_score_wins() -> None:
    assert verdict_of(score(A, 0.1), score(B, 0.2)) == ("b", None, False)
    assert verdict_of(score(A, 0.2), score(B, 0.1)) == ("a", None, False)
    assert verdict_of(score(A, 0.2), score(B, 0.2)) == ("tie", None, False)
    assert verdict_of(score(A, None), score(B, 0.2))[0] == "unscored"
    assert verdict_of(score(B, 0.2))[0] == "unscored"


def test_a_judge_that_compares_both_ways_must_agree_with_itself() -> None:
    """Logits are for the answer on the left: +2 with a on the left and −1 with b there both say a."""
    agreed = verdict_of(score(A, 1.5, {B.id: 2.0}), score(B, -1.5, {A.id: -1.0}))
    assert agreed == ("a", pytest.approx(1 / (1 + math.exp(3))), False)
    left_both_times = verdict_of(score(A, 0.5, {B.id: 2.0}), score(B, -0.5, {A.id: 1.0}))
    assert left_both_times == ("tie", pytest.approx(1 / (1 + math.exp(1))), True)


def test_choices_are_read_from_either_side() -> None:
    assert verdict_of(choice(A, B, 1.0)) == ("a", 0.0, False)
    assert verdict_of(choice(B, A, 1.0)) == ("b", 1.0, False)
    assert verdict_of(choice(B, A, 0.5, inconsistent=True)) == ("tie", 0.5, True)
    assert verdict_of(choice(B, A, None))[0] == "unscored"


def test_answers_of_the_same_text_tie_without_a_judge() -> None:
    same = answer(ASKED, "b", "one word ")
    (found,) = verdicts([ASKED], [A], [same], [])
    assert (found.winner, found.probability) == ("tie", 0.5)


def test_figures_by_hand() -> None:
    """Four prompts: two wins of b, one loss, one unscored; b's answers have 1, 3, 1 and 1 words, a's two each."""
    asked = [prompt(i, "sql" if i < 2 else "prose") for i in range(4)]
    a = [answer(p, "a", "one two") for p in asked]
    b = [answer(p, "b", text) for p, text in zip(asked, ("one", "one two three", "two", "three"), strict=True)]
    values = [(0.0, 1.0), (0.0, 1.0), (1.0, 0.5), (None, 1.0)]
    judged = [
        score(side, value, helpful=value if value is not None else 0.0)
        for x, y, pair in zip(a, b, values, strict=True)
        for side, value in zip((x, y), pair, strict=True)
    ]
    figures = judged_figures(verdicts(asked, a, b, judged), judged, seed=1, draws=200)
    wins = figures["win_rate"]
    assert (wins["wins"], wins["losses"], wins["ties"], wins["unscored"], wins["n"]) == (2, 1, 0, 1, 3)
    assert wins["rate"] == pytest.approx(2 / 3)
    assert 0 <= wins["ci_low"] <= 2 / 3 <= wins["ci_high"] <= 1
    assert figures["length_controlled"] is None  # three prompts fit nothing
    verbosity = figures["verbosity"]
    assert (verbosity["unit"], verbosity["before"], verbosity["after"]) == ("words", 2.0, 1.5)
    assert verbosity["length_ratio"] == pytest.approx((0.5 * 1.5 * 0.5 * 0.5) ** 0.25)
    # decided pairs with different lengths: b shorter wins, b longer wins, a longer wins
    assert (verbosity["longer_wins"], verbosity["longer_wins_n"]) == (pytest.approx(2 / 3), 3)
    assert figures["objectives"]["score"]["difference"] == pytest.approx((1 + 1 - 0.5) / 3)
    assert figures["by_category"]["sql"] == {"wins": 2, "ties": 0, "losses": 0, "unscored": 0, "inconsistent": 0}
    # words: one two ×4 = 8 words, 2 different; one, one two three, two, three = 6 words, 3 different
    assert figures["distinct"]["1"] == {"a": pytest.approx(2 / 8), "b": pytest.approx(3 / 6)}
    assert "is a lead, not a result" in figures["power"]["warning"]
    told = dict(summary(figures, ("old", "new")))
    assert told["win rate of new"].startswith("66.7% [")
    assert told["verdicts"] == "2 wins, 0 ties, 1 losses, 1 unscored"


def test_length_is_controlled_where_there_is_enough() -> None:
    """b wins exactly where it is longer: at equal length nothing is left."""
    asked = [prompt(i) for i in range(40)]
    a = [answer(p, "a", "x" * 10) for p in asked]
    b = [answer(p, "b", "y" * (15 if i % 4 else 5)) for i, p in enumerate(asked)]
    judged = [score(c, float(len(c.text))) for side in (a, b) for c in side]
    figures = judged_figures(verdicts(asked, a, b, judged), judged, seed=1, draws=200)
    assert figures["win_rate"]["rate"] == 0.75
    assert figures["length_controlled"]["rate"] < 0.65  # the ridge keeps a little
    assert figures["verbosity"]["longer_wins"] == 1.0


def test_nothing_judged_claims_nothing() -> None:
    figures = judged_figures(verdicts([ASKED], [A], [B], []), [], seed=1, draws=100)
    assert figures["win_rate"]["rate"] is None
    assert "nothing to claim" in figures["power"]["warning"]


def test_a_judge_is_held_against_itself() -> None:
    """One pair agreed in both orders, one always for the first place; one answer of two scored alike twice."""

    def orders(*verdicts: str) -> dict[str, Any]:
        return {"orders": [[{"verdict": verdict}] for verdict in verdicts], "inconsistent": verdicts[0] == verdicts[1]}

    def samples(*verdicts: int) -> dict[str, Any]:
        return {"samples": [{"verdict": verdict} for verdict in verdicts]}

    pairs = [
        Judgement.create(str(i), ("a", "b"), "j", "choice", 0.5, raw=raw)
        for i, raw in enumerate((orders("A", "B"), orders("A", "A")))
    ]
    scored = [
        Judgement.create(str(i), ("a",), "j", "score", 3.0, raw=raw)
        for i, raw in enumerate((samples(3, 3), samples(2, 4), samples(5)))
    ]
    found = self_agreement([*pairs, *scored])
    assert found["consistency_rate"] == 0.5
    assert found["first_slot_win_rate"] == 0.75
    assert (found["same_score_rate"], found["answers_scored_several_times"]) == (0.5, 2)
    assert self_agreement([score(A, 1.0)]) == {}


# --- sides ---


@pytest.fixture
def longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CustomConfig:
    (tmp_path / "judge_of_length.py").write_text(
        "def longest(prompt, answers):\n    return [len(a) for a in answers]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return CustomConfig(function="judge_of_length:longest")


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return str(path)


def test_files_of_answers_are_compared(longest: CustomConfig, tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "answer": "short"} for i in range(3)])
    b = lines(
        tmp_path / "b.jsonl",
        [{"instruction": f"q{i}", "output": text} for i, text in enumerate(("longer one", "<b>bold & long</b>", "s"))],
    )
    figures = compare_sides(a, b, tmp_path / "out", longest)
    assert (figures["win_rate"]["wins"], figures["win_rate"]["losses"]) == (2, 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>bold" not in page
    with pytest.raises(StoreError, match="--resume"):
        compare_sides(a, b, tmp_path / "out", longest)
    assert compare_sides(a, b, tmp_path / "out", longest, resume=True) == figures
    with pytest.raises(StoreError, match="another recipe"):
        compare_sides(b, a, tmp_path / "out", longest, resume=True)


def test_only_common_prompts_count(longest: CustomConfig, tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "answer": "short"} for i in range(3)])
    b = lines(tmp_path / "b.jsonl", [{"prompt": f"q{i}", "answer": "much longer"} for i in range(2, 5)])
    assert compare_sides(a, b, tmp_path / "out", longest)["prompts"] == 1
    c = lines(tmp_path / "c.jsonl", [{"prompt": "elsewhere", "answer": "much longer"}])
    with pytest.raises(DataError, match="no prompt in common"):
        compare_sides(a, c, tmp_path / "none", longest)


def test_a_comparison_can_be_started_over(longest: CustomConfig, tmp_path: Path) -> None:
    a = lines(tmp_path / "a.jsonl", [{"prompt": "q", "answer": "short"}])
    same = compare_sides(a, a, tmp_path / "out", longest)
    assert (same["win_rate"]["ties"], same["power"]["warning"]) == (1, "all 1 prompts tied: no difference to show.")
    b = lines(tmp_path / "b.jsonl", [{"prompt": "q", "answer": ""}])
    figures = compare_sides(a, b, tmp_path / "out", longest, overwrite=True)
    assert (figures["win_rate"]["losses"], figures["verbosity"]["after"]) == (1, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "q", "answer": "a\\ud800b"}', "line 1: the answer is no Unicode text"),
        ('{"prompt": "\\ud800", "answer": "x"}', "line 1: 'prompt' must be Unicode text"),
        ('{"prompt": [1, 2], "answer": "x"}', "line 1: 'prompt' must be Unicode text or a list of messages"),
        ("", "is empty: put one JSON object"),
        ("{", "line 1: not valid JSON"),
        ('{"prompt": "q"}', "line 1: give 'prompt' .* and 'answer'"),
        ('{"prompt": "q", "answer": "x"}\n{"prompt": "q", "answer": "y"}', "line 2: this prompt was answered before"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(longest: CustomConfig, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(text)
    good = lines(tmp_path / "good.jsonl", [{"prompt": "q", "answer": "short"}])
    with pytest.raises(DataError, match=message):
        compare_sides(str(tmp_path / "bad.jsonl"), good, tmp_path / "out", longest)


def test_models_answer_what_is_asked(longest: CustomConfig, tmp_path: Path) -> None:
    """The embedded policy against a file; without prompts nobody knows what to ask."""
    asked = lines(tmp_path / "asked.jsonl", [{"prompt": "How many games did the Wolves win?"}])
    answers = lines(tmp_path / "b.jsonl", [{"prompt": "How many games did the Wolves win?", "answer": "x" * 5_000}])
    figures = compare_sides("embedded", answers, tmp_path / "out", longest, prompts=Path(asked))
    assert figures["win_rate"]["wins"] == 1
    with pytest.raises(ConfigError, match="give --prompts"):
        compare_sides("embedded", "embedded", tmp_path / "none", longest)

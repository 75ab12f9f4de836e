"""Figures of a round against values counted by hand."""

from __future__ import annotations

import doctest
from math import sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.evaluation import rounds, rounds_details, rounds_report
from prefloop.evaluation.rounds import (
    diversity_figures,
    judge_health,
    length_figures,
    over_optimisation,
    prompt_overlap,
    round_accuracy,
)
from prefloop.maths.statistics import paired_bootstrap
from prefloop.records import Completion, Judgement, Prompt


def answer(prompt: str, index: int, text: str, tokens: int = 5) -> Completion:
    return Completion(f"{prompt}/{index}", prompt, index, 1, text, tuple(range(tokens)), (), "stop", "p", {}, 1)


def score(prompt: str, index: int, value: float | None) -> Judgement:
    return Judgement.create(prompt, (f"{prompt}/{index}",), "judge", "score", value)


def asked(text: str, split: str = "train") -> Prompt:
    return Prompt.create(({"role": "user", "content": text},), "nba-sql", split)


@pytest.mark.parametrize("module", [rounds, rounds_details, rounds_report])
def test_docstring_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


class TestLength:
    def test_ratio_on_the_questions_that_both_answered(self) -> None:
        """6 and 9 tokens over 4 and 6: 15/10; the third question was not asked at the start."""
        now = [answer("a", -1, "x", 6), answer("b", -1, "x", 9), answer("c", -1, "x", 30)]
        found = length_figures(now, [answer("a", -1, "x", 4), answer("b", -1, "x", 6)])
        assert found == {"mean": 15.0, "ratio_start": 1.5}

    def test_nothing_in_common_is_an_error(self) -> None:
        with pytest.raises(DataError, match="no question"):
            length_figures([answer("a", -1, "x")], [answer("b", -1, "x")])


class TestDiversity:
    def test_counted_by_hand(self) -> None:
        """a: "x y z" twice (once in capitals) and "x y w": bigrams xy, yz, xy, yz, xy, yw: 3 of 6 distinct; 1 of 3
        repeats. b: two that differ: "p q", "r s": 2 of 2; none repeats."""
        texts = {"a": ["x y z", "X  y z", "x y w"], "b": ["p q", "r s"]}
        samples = [answer(prompt, i, text) for prompt, given in texts.items() for i, text in enumerate(given)]
        found = diversity_figures([*samples, answer("a", -1, "greedy"), answer("c", 0, "alone")])
        assert found["distinct_2"] == pytest.approx((3 / 6 + 1) / 2)
        assert found["duplicates"] == pytest.approx((1 / 3 + 0) / 2)

    def test_limits(self) -> None:
        assert diversity_figures([]) == {"distinct_2": None, "duplicates": None}
        same = [answer("a", i, "one two three") for i in range(8)]
        assert diversity_figures(same)["duplicates"] == pytest.approx(7 / 8)
        assert diversity_figures([answer("a", i, "word") for i in range(2)])["distinct_2"] is None


class TestJudgeHealth:
    def test_counted_by_hand(self) -> None:
        """a: 5, 5, 2 and b: 1, 3; three of five are not the highest, 1 of 4 pairs is tied; deviations √2 and 1."""
        values = [("a", 0, 5.0), ("a", 1, 5.0), ("a", 2, 2.0), ("b", 0, 1.0), ("b", 1, 3.0), ("b", 2, None)]
        found = judge_health([score(*row) for row in values])
        assert found["maximum_share"] == pytest.approx(2 / 5)
        assert found["tie_rate"] == pytest.approx(1 / 4)
        assert found["spread"] == pytest.approx((sqrt(2) + 1) / 2)
        assert found["unscored"] == 1

    def test_the_highest_of_a_rubric_may_never_be_given(self) -> None:
        given = [score("a", 0, 3.0), score("a", 1, 3.0)]
        assert judge_health(given)["maximum_share"] == 1.0
        assert judge_health(given, highest=5.0)["maximum_share"] == 0.0

    def test_averages_that_differ_in_the_last_digit_are_tied(self) -> None:
        found = judge_health([score("a", 0, 0.1 + 0.2), score("a", 1, 0.3)])
        assert (found["tie_rate"], found["maximum_share"]) == (1.0, 1.0)

    def test_comparisons_have_no_scores(self) -> None:
        choice = Judgement.create("a", ("a/0", "a/1"), "people", "choice", 1.0)
        expected = {"maximum_share": None, "tie_rate": None, "spread": None, "unscored": 0}
        assert judge_health([choice]) == judge_health([]) == expected


def test_prompts_overlap_whatever_their_punctuation() -> None:
    prompts = [asked("Who led in 2022-23?"), asked("who led, in 2022 23"), asked("Who lost?"), asked("New one")]
    earlier, evaluation = [asked("WHO LED in 2022-23")], [asked("who lost", "test"), asked("who won", "test")]
    assert prompt_overlap(prompts, earlier, evaluation) == {"rounds": 2, "evaluation": 1}
    assert prompt_overlap(prompts, [], []) == {"rounds": 0, "evaluation": 0}


BEFORE = {f"q{i}": float(i % 2) for i in range(40)}
AFTER = {f"q{i}": float(i % 4 > 0) for i in range(40)}
TEMPLATES = {f"q{i}": f"t{i // 2}" for i in range(40)}


class TestAccuracy:
    def test_is_the_paired_bootstrap_by_template(self) -> None:
        """Of each four questions 2 were right and 3 are: ½ to ¾."""
        found = round_accuracy(BEFORE, AFTER, TEMPLATES, 3, 500)
        names = sorted(AFTER)
        sides = [BEFORE[n] for n in names], [AFTER[n] for n in names]
        gain = paired_bootstrap(*sides, [TEMPLATES[n] for n in names], draws=500, seed=3, bounds=(0, 1))
        assert found["gain"] == {"estimate": 0.25, "ci_low": gain.low, "ci_high": gain.high}
        assert found["accuracy"]["estimate"] == 0.75
        assert (found["n"], found["paired"]) == (40, 40)

    def test_unscored_questions_are_left_out_of_the_pairs(self) -> None:
        before = {name: value for name, value in BEFORE.items() if name != "q0"}
        found = round_accuracy(before, {**AFTER, "new": 1.0}, TEMPLATES, 3, 100)
        assert (found["n"], found["paired"]) == (41, 39)

    def test_the_start_has_no_gain(self) -> None:
        found = round_accuracy(None, AFTER, TEMPLATES, 3, 100)
        assert (found["gain"], found["paired"]) == (None, 0)

    def test_one_template_gives_no_interval(self) -> None:
        with pytest.raises(DataError, match="fewer than two templates"):
            round_accuracy(None, AFTER, dict.fromkeys(AFTER, "t"), 3, 100)
        with pytest.raises(DataError, match="0 scored questions"):
            round_accuracy({}, AFTER, TEMPLATES, 3, 100)

    @given(st.permutations(range(40)))
    def test_order_changes_nothing(self, order: list[int]) -> None:
        shuffled = {f"q{i}": AFTER[f"q{i}"] for i in order}
        assert round_accuracy(BEFORE, shuffled, TEMPLATES, 3, 50) == round_accuracy(BEFORE, AFTER, TEMPLATES, 3, 50)


def look(iteration: int, proxy: float | None, accuracy: float | None) -> dict[str, Any]:
    return {
        "round": 1,
        "iteration": iteration,
        "kl": float(iteration),
        "proxy": proxy,
        "accuracy": accuracy,
        "questions": 200,
    }


class TestOverOptimisation:
    def test_proxy_rises_while_accuracy_falls(self) -> None:
        found = over_optimisation([look(0, 0.0, 0.5), look(5, 1.0, 0.7), look(7, 1.5, None), look(9, 2.0, 0.4)])
        assert (found["peak"]["accuracy"], found["peak"]["kl"]) == (0.7, 5.0)
        assert (found["last"]["proxy"], found["last"]["accuracy"]) == (2.0, 0.4)
        assert found["proxy_rise"] == 1.0
        assert found["fall"] == pytest.approx(0.3)
        assert found["over_optimised"]

    @pytest.mark.parametrize(
        "curve",
        [
            [look(0, 0.0, 0.5), look(5, 1.0, 0.7)],  # still rising
            [look(0, 1.0, 0.7), look(5, 0.5, 0.6)],  # both fall: not by the proxy
            [look(0, None, 0.7), look(5, None, 0.6)],
            [look(0, 1.0, 0.7)],
            [look(0, 0.0, 0.5), look(5, 1.0, 0.90), look(9, 2.0, 0.84)],  # 1.96 errors: 0.0656
        ],
    )
    def test_anything_else_is_not(self, curve: list[dict[str, Any]]) -> None:
        assert not over_optimisation(curve)["over_optimised"]

    def test_of_equal_peaks_the_first(self) -> None:
        assert over_optimisation([look(0, 0, 0.7), look(5, 1, 0.7), look(9, 2, 0.6)])["peak"]["iteration"] == 0

    def test_without_an_accuracy_there_is_nothing_to_say(self) -> None:
        assert over_optimisation([]) is None
        assert over_optimisation([look(0, 1.0, None)]) is None

"""The comparison on six questions whose every figure is derived here by hand."""

from __future__ import annotations

import doctest
from dataclasses import replace
from io import StringIO
from math import exp, log

import pytest
from rich.console import Console

from prefloop.errors import DataError
from prefloop.evaluation import metrics, svg, wording
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.compare import evaluate
from prefloop.evaluation.metrics import HeldOutPair, majority_correct, repetition
from prefloop.evaluation.tables import shown_prompts, side_by_side, summary_table
from prefloop.records import Completion, Judgement, Prompt, canonical_json

# template, family, register, seen, trap | right, valid, reasoning, tokens: before, then after
QUESTIONS = [
    ("t1", "A", "question", True, "season", (1, 1, 1.0, 10), (1, 1, 1.0, 20)),
    ("t1", "A", "terse", True, None, (0, 1, 0.5, 10), (1, 1, 1.0, 20)),
    ("t2", "B", "question", False, "season", (0, 1, 1.0, 10), (1, 1, 1.0, 10)),
    ("t2", "B", "terse", False, None, (0, 0, 0.0, 10), (0, 1, 0.5, 10)),
    ("t3", "B", "question", False, "season", (1, 1, 0.5, 10), (0, 0, 0.0, 5)),
    ("t3", "A", "terse", False, None, (0, 1, 1.0, 10), (1, 1, 0.5, 5)),
]
SAMPLED = {  # question: right samples of 4, before and after
    0: (1, 4),
    2: (2, 3),
    4: (0, 0),
}
HELD_OUT = [
    HeldOutPair("t1", 2.0, 1.0),
    HeldOutPair("t1", -1.0, -3.0),
    HeldOutPair("t2", 0.0, 0.0),
    HeldOutPair("t2", 3.0, -1.0),
]
PROMPTS = [
    Prompt.create(
        ({"role": "user", "content": f"Question {i}?"},),
        "nba-sql",
        "test",
        {"template": template, "family": family, "register": register, "seen": seen, "trap": trap},
    )
    for i, (template, family, register, seen, trap, *_) in enumerate(QUESTIONS)
]


def answer(prompt: Prompt, side: str, index: int, figures: tuple[float, ...]) -> tuple[Completion, Judgement]:
    """An answer of `tokens` different tokens; its SQL names the side."""
    right, valid, reasoning, tokens = figures
    identity = Completion.make_id(prompt.id, side, {}, 1, 0, index)
    sql = f"SELECT '{side}'"
    completion = Completion(
        identity,
        prompt.id,
        index,
        0,
        f"Plan: look.\n```sql\n{sql}\n```",
        tuple(range(int(tokens))),
        (),
        "length" if tokens == 20 else "stop",
        side,
        {},
        1,
    )
    raw = {"sql": sql, "status": "ok" if valid else "syntax", "rows": [], "digest": f"{right}" * int(valid)}
    objectives = {"correct": float(right), "valid": float(valid), "reasoning": reasoning, "verbosity": 1.0}
    judgement = Judgement.create(prompt.id, (identity,), "execution", "score", right, objectives, raw=raw)
    return completion, judgement


def side(name: str) -> Answers:
    place = {"before": 0, "after": 1}[name]
    greedy = [answer(p, name, -1, row[5 + place]) for p, row in zip(PROMPTS, QUESTIONS, strict=True)]
    sampled = [
        answer(PROMPTS[i], name, index, (float(index < counts[place]), 1, 1.0, 10))
        for i, counts in SAMPLED.items()
        for index in range(4)
    ]
    return Answers(*zip(*greedy, strict=True), *zip(*sampled, strict=True))


BEFORE, AFTER = side("before"), side("after")


def compared(before: Answers = BEFORE, after: Answers = AFTER, prompts: list[Prompt] = PROMPTS) -> dict:
    return evaluate(prompts, before, after, HELD_OUT, seed=3, draws=4000, beta=0.5)


def unscored(answers: Answers, *places: int) -> Answers:
    """The same answers, with the harness failing on some."""
    judgements = [
        replace(j, value=None, objectives={}, raw={**j.raw, "status": "internal"}) if i in places else j
        for i, j in enumerate(answers.greedy_judgements)
    ]
    return replace(answers, greedy_judgements=judgements)


@pytest.mark.parametrize("module", [metrics, svg, wording])
def test_docstring_examples(module: object) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


class TestAccuracy:
    def test_overall(self) -> None:
        """Right before: 0, 4. After: 0, 1, 2, 5. So 3 fixed, 1 broken, p = 2 · (1 + 4) / 2⁴ = 5/8.

        Mean differences of the templates, each of two questions: t1 ½, t2 ½, t3 0. Three templates drawn of three
        give 0 with probability 1/27 and ½ with 8/27, both more than 2.5%: the interval is 0 to ½.
        Before, t1 ½, t2 0, t3 ½ (0 with 1/27); after, 1, ½, ½ (1 with 1/27).
        """
        row = compared()["execution_accuracy"]
        assert row["before"] == pytest.approx(2 / 6)
        assert row["after"] == pytest.approx(4 / 6)
        assert row["gain"] == pytest.approx(2 / 6)
        assert (row["ci_low"], row["ci_high"]) == (0.0, 0.5)
        assert row["before_ci"] == [0.0, 0.5]
        assert row["after_ci"] == [0.5, 1.0]
        assert (row["n"], row["templates"]) == (6, 3)
        assert row["mcnemar"] == {"fixed": 3, "broken": 1, "p": pytest.approx(5 / 8)}

    def test_unseen_templates(self) -> None:
        """Questions 2 to 5: right 1 of 4 before, 2 of 4 after; t2 gains ½, t3 nothing."""
        row = compared()["execution_accuracy_unseen"]
        assert (row["before"], row["after"], row["gain"], row["n"]) == (0.25, 0.5, 0.25, 4)
        assert (row["ci_low"], row["ci_high"]) == (0.0, 0.5)
        assert row["mcnemar"] == {"fixed": 2, "broken": 1, "p": 1.0}

    def test_one_template_has_no_interval(self) -> None:
        row = compared()["execution_accuracy_seen"]
        assert (row["before"], row["after"], row["templates"]) == (0.5, 1.0, 1)
        assert row["ci_low"] is row["ci_high"] is row["before_ci"] is row["after_ci"] is None

    def test_splits_are_holm_adjusted(self) -> None:
        """Family A: questions 0, 1, 5: 1/3 to 3/3, 2 fixed, p = ½. B: 2, 3, 4: 1/3 to 1/3, p = 1."""
        rows = compared()["by_family"]
        assert list(rows) == ["A", "B"]
        assert rows["A"]["gain"] == pytest.approx(2 / 3)
        assert rows["A"]["mcnemar"] == {"fixed": 2, "broken": 0, "p": 0.5, "p_holm": 1.0}
        assert rows["B"]["gain"] == 0
        assert rows["B"]["mcnemar"] == {"fixed": 1, "broken": 1, "p": 1.0, "p_holm": 1.0}
        assert compared()["by_register"]["terse"]["after"] == pytest.approx(2 / 3)
        assert set(compared()["by_trap"]) == {"none", "season"}

    def test_valid_sql(self) -> None:
        """Invalid: question 3 before, question 4 after. Template differences: 0, ½, −½."""
        row = compared()["valid_sql"]
        assert (row["before"], row["after"]) == pytest.approx((5 / 6, 5 / 6))
        assert row["difference"] == 0
        assert (row["ci_low"], row["ci_high"]) == (-0.5, 0.5)

    def test_statuses(self) -> None:
        assert compared()["errors"] == {"before": {"ok": 5, "syntax": 1}, "after": {"ok": 5, "syntax": 1}}


class TestSamples:
    def test_accuracy_at_temperature_one(self) -> None:
        """Before 1/4, 2/4, 0; after 4/4, 3/4, 0: gains ¾, ¼, 0."""
        row = compared()["sampled_accuracy"]
        assert row["before"] == pytest.approx(1 / 4)
        assert row["after"] == pytest.approx(7 / 12)
        assert row["gain"] == pytest.approx(1 / 3)
        assert (row["n"], row["k"], row["ci_low"], row["ci_high"]) == (3, 4, 0.0, 0.75)

    def test_pass_at_k(self) -> None:
        """Two of three questions have a right sample among four, before and after."""
        row = compared()["pass_at_k"]
        assert (row["k"], row["before"], row["after"], row["gain"]) == (
            4,
            pytest.approx(2 / 3),
            pytest.approx(2 / 3),
            0,
        )

    def test_majority(self) -> None:
        """Before: 1 right of 4 loses; 2 of 4 tie and the earlier sample, which is right, wins; 0 loses."""
        row = compared()["majority_vote"]
        assert row["before"] == pytest.approx(1 / 3)
        assert row["after"] == pytest.approx(2 / 3)

    def test_errors_have_no_vote_and_refusals_agree(self) -> None:
        def vote(status: str, digest: str, right: float) -> Judgement:
            raw = {"status": status, "digest": digest}
            return Judgement.create("p", ("c",), "execution", "score", right, {"correct": right}, raw=raw)

        error, one, two = vote("syntax", "", 0.0), vote("ok", "x", 1.0), vote("ok", "y", 0.0)
        refused = vote("refused", "", 0.0)
        assert majority_correct([error, error, error, one]) == 1
        assert majority_correct([two, one, one]) == 1
        assert majority_correct([two, one]) == 0
        assert majority_correct([one, refused, refused]) == 0
        assert majority_correct([error]) == 0

    def test_without_digests_there_is_no_vote(self) -> None:
        bare = [replace(j, raw={k: v for k, v in j.raw.items() if k != "digest"}) for j in BEFORE.sampled_judgements]
        assert "majority_vote" not in compared(before=replace(BEFORE, sampled_judgements=bare))

    def test_a_question_needs_all_its_samples_scored(self) -> None:
        broken = [replace(BEFORE.sampled_judgements[0], value=None), *BEFORE.sampled_judgements[1:]]
        found = compared(before=replace(BEFORE, sampled_judgements=broken))
        assert found["sampled_accuracy"]["n"] == 2
        assert found["sampled_accuracy"]["before"] == pytest.approx((2 / 4 + 0) / 2)
        assert found["unscored"]["before"]["sampled"] == 1

    def test_nothing_sampled(self) -> None:
        bare = [replace(answers, sampled=(), sampled_judgements=()) for answers in (BEFORE, AFTER)]
        found = compared(*bare)
        assert found["sampled_accuracy"] == found["pass_at_k"] == {"n": 0, "k": 0}
        assert "majority_vote" not in found


class TestReasoningAndLength:
    def test_agreement_and_cells(self) -> None:
        """Agreement sums to 4 before and 4 after. Sound before: 0 (right), 2, 5 (wrong); unsound and right: 4."""
        row = compared()["reasoning"]
        assert (row["before"], row["after"]) == pytest.approx((4 / 6, 4 / 6))
        assert row["before_cells"] == pytest.approx(
            {"sound_right": 1 / 6, "sound_wrong": 2 / 6, "unsound_right": 1 / 6, "unsound_wrong": 2 / 6}
        )
        assert row["after_cells"] == pytest.approx(
            {"sound_right": 3 / 6, "sound_wrong": 0, "unsound_right": 1 / 6, "unsound_wrong": 2 / 6}
        )

    def test_length_ratio(self) -> None:
        """t1 doubles, t2 stays, t3 halves: ratio 1; all three draws from t1 (1/27) give 2, from t3 ½."""
        row = compared()["verbosity"]
        assert row["length_ratio"] == pytest.approx(1)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.5, 2))
        assert row["more_verbose"] is False

    def test_length_figures(self) -> None:
        """After: 20, 20, 10, 10, 5, 5 tokens, the twenties cut; 4 right of 6; plan 'Plan: look.'"""
        row = compared()["verbosity"]["after"]
        assert row["mean_tokens"] == pytest.approx(70 / 6)
        assert (row["median_tokens"], row["p90_tokens"]) == (10, 20)
        assert row["plan_characters"] == len("Plan: look.")
        assert row["sql_characters"] == len("SELECT 'after'")
        assert row["truncated"] == pytest.approx(2 / 6)
        assert row["truncated_ci"][0] > 0.05
        assert row["repetition"] == 0
        assert row["correct_per_token"] == pytest.approx((4 / 6) / (70 / 6))

    def test_growth_everywhere_is_more_verbose(self) -> None:
        longer = [replace(c, token_ids=c.token_ids * 2) for c in BEFORE.greedy]
        row = compared(after=replace(AFTER, greedy=longer))["verbosity"]
        assert (row["length_ratio"], row["ci_low"], row["ci_high"]) == pytest.approx((2, 2, 2))
        assert row["more_verbose"] is True

    def test_repetition_counts_four_grams(self) -> None:
        """1 2 3 4 1 2 3 4: five 4-grams, of which 1234 stands twice."""
        assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
        assert repetition([7, 7, 7]) == 0


class TestPreferences:
    def test_figures(self) -> None:
        """Margins 2, −1, 0, 3: right, wrong, tie, right, so 2.5 of 4; β = ½; t1 has ½, t2 ¾."""
        row = compared()["preference_accuracy"]
        assert row["accuracy"] == pytest.approx(2.5 / 4)
        assert (row["ci_low"], row["ci_high"]) == (0.5, 0.75)
        assert row["mean_margin"] == pytest.approx(1)
        assert row["margin_quantiles"]["0.5"] == pytest.approx(1)
        losses = [log(1 + exp(-0.5 * margin)) for margin in (2, -1, 0, 3)]
        assert row["log_loss"] == pytest.approx(sum(losses) / 4)
        assert row["displacement"] == pytest.approx((1 - 3 + 0 - 1) / 4)
        assert row["chosen_less_likely"] == 0.5

    def test_the_reference_itself_is_at_chance(self) -> None:
        same = [HeldOutPair(f"t{i}", 0.0, 0.0) for i in range(5)]
        row = evaluate(PROMPTS, BEFORE, BEFORE, same, seed=0, draws=100, beta=0.1)["preference_accuracy"]
        assert row["accuracy"] == 0.5
        unseen = 1 - 0.025 ** (1 / 5)  # share of templates that may differ although none of five did
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.5 - unseen / 2, 0.5 + unseen / 2))
        assert row["log_loss"] == pytest.approx(log(2))

    def test_too_few_pairs(self) -> None:
        found = evaluate(PROMPTS, BEFORE, AFTER, HELD_OUT[:2], seed=0, draws=100, beta=0.1)
        assert found["preference_accuracy"] == {"n": 2}


class TestFailuresAreNotData:
    def test_unscored_is_left_out_and_counted(self) -> None:
        """Without question 4 on the after side: right 1 of 5 before, 4 of 5 after."""
        found = compared(after=unscored(AFTER, 4))
        row = found["execution_accuracy"]
        assert (row["n"], row["before"], row["after"]) == (5, pytest.approx(1 / 5), pytest.approx(4 / 5))
        assert row["mcnemar"]["broken"] == 0
        assert "internal" not in found["errors"]["after"]
        assert found["unscored"] == {
            "before": {"greedy": 0, "sampled": 0},
            "after": {"greedy": 1, "sampled": 0},
            "questions": 1,
        }

    def test_nothing_scored_is_an_error(self) -> None:
        with pytest.raises(DataError, match="none of 6 test questions"):
            compared(before=unscored(BEFORE, *range(6)))

    def test_a_missing_answer_is_an_error(self) -> None:
        with pytest.raises(DataError, match=f"1 test questions have no greedy answer after.*{PROMPTS[5].id}"):
            compared(after=replace(AFTER, greedy=AFTER.greedy[:5]))
        with pytest.raises(DataError, match="no judgement before"):
            compared(before=replace(BEFORE, greedy_judgements=BEFORE.greedy_judgements[1:]))


class TestPower:
    def test_few_questions_are_a_lead(self) -> None:
        """4 of 6 verdicts changed; even 4 of 6 improved would not show with six questions."""
        found = compared()["power"]
        assert found["discordant"] == pytest.approx(4 / 6)
        assert found["minimum_detectable_gain"] is None
        assert "too few" in found["warning"]
        assert "+33.3 points" in found["warning"]

    def test_no_change(self) -> None:
        assert compared(after=BEFORE)["power"]["warning"] == (
            "No verdict changed on 6 questions: there is no gain to show."
        )

    @pytest.mark.parametrize(("per_template", "n"), [(1, 400), (4, 100)])
    def test_design_effect_divides_n(self, per_template: int, n: int) -> None:
        """400 questions, 1 in 5 fixed, whole templates at a time: four to a template count as one."""
        prompts = numbered(400, per_template)
        before, after = [0.0] * 400, [float(i // per_template % 5 == 0) for i in range(400)]
        found = greedy_only(prompts, before, after)["power"]
        assert found["discordant"] == 0.2
        assert found["effective_n"] == pytest.approx(n)
        assert found["warning"] == ""

    def test_gain_below_what_shows(self) -> None:
        """400 independent questions, 40 fixed and 39 broken: +0.25 points.

        ψ = 79/400, so δ = √ψ · (1.96·20 + 0.8416·√(400 − 3.8415 + 0.7083)) / 400.7083 = 0.0621.
        """
        before = [float(i % 10 == 1 and i != 1) for i in range(400)]
        after = [float(i % 10 == 0) for i in range(400)]
        found = greedy_only(numbered(400, 1), before, after)["power"]
        assert found["minimum_detectable_gain"] == pytest.approx(0.0621, abs=5e-5)
        assert "show a gain of 6.2 points or more" in found["warning"]
        assert "The gain of +0.2 points is smaller" in found["warning"]


def numbered(count: int, per_template: int) -> list[Prompt]:
    return [
        Prompt.create(
            ({"role": "user", "content": f"Number {i}?"},),
            "nba-sql",
            "test",
            {**PROMPTS[0].meta, "template": f"t{i // per_template}"},
        )
        for i in range(count)
    ]


def greedy_only(prompts: list[Prompt], before: list[float], after: list[float]) -> dict:
    """The comparison of valid ten-token answers that are right as given."""
    sides = []
    for name, values in (("before", before), ("after", after)):
        rows = [answer(p, name, -1, (value, 1, 1.0, 10)) for p, value in zip(prompts, values, strict=True)]
        sides.append(Answers(*zip(*rows, strict=True), (), ()))
    return evaluate(prompts, *sides, [], seed=0, draws=50, beta=0.1)


def test_evaluation_is_a_json_object_and_deterministic() -> None:
    assert canonical_json(compared()) == canonical_json(compared())
    backwards = replace(BEFORE, greedy=BEFORE.greedy[::-1], greedy_judgements=BEFORE.greedy_judgements[::-1])
    assert canonical_json(compared(backwards)) == canonical_json(compared())


def many_prompts() -> list[Prompt]:
    return [
        Prompt.create(
            ({"role": "user", "content": f"Q{i}"},),
            "nba-sql",
            "test",
            {"family": "ABCDEF"[i % 6], "seen": i >= 45, "template": f"t{i}"},
        )
        for i in range(60)
    ]


class TestShown:
    def test_goes_round_the_families_of_unseen_templates(self) -> None:
        chosen = shown_prompts(many_prompts(), 12, 5)
        assert all(not prompt.meta["seen"] for prompt in chosen)
        assert [sum(p.meta["family"] == family for p in chosen) for family in "ABCDEF"] == [2] * 6
        assert len({prompt.id for prompt in chosen}) == 12

    def test_seed_decides_and_order_does_not(self) -> None:
        prompts = many_prompts()
        assert shown_prompts(prompts, 10, 5) == shown_prompts(prompts[::-1], 10, 5)
        assert shown_prompts(prompts, 10, 5) != shown_prompts(prompts, 10, 6)

    def test_does_not_depend_on_who_was_right(self) -> None:
        """Nobody can pick: only prompts go in. Train questions never come out."""
        train = [replace(prompt, split="train") for prompt in many_prompts()[:30]]
        chosen = shown_prompts([*train, *many_prompts()[30:]], 8, 1)
        assert all(prompt.split == "test" for prompt in chosen)

    def test_seen_templates_only_fill_up(self) -> None:
        chosen = shown_prompts(many_prompts(), 50, 1)
        assert [prompt.meta["seen"] for prompt in chosen] == [False] * 45 + [True] * 5

    def test_side_by_side(self) -> None:
        frame = side_by_side(PROMPTS, BEFORE, unscored(AFTER, 3), n=6, seed=2)
        assert list(frame.columns) == [
            "question",
            "original answer",
            "tuned answer",
            "original correct",
            "tuned correct",
        ]
        rows = {row["question"]: row for row in frame.to_dict("records")}
        assert rows["Question 5?"]["original correct"] is False
        assert rows["Question 5?"]["tuned correct"] is True
        assert rows["Question 3?"]["tuned correct"] is None
        assert "SELECT 'after'" in rows["Question 0?"]["tuned answer"]


class TestSummaryTable:
    @staticmethod
    def lines(evaluation: dict) -> list[str]:
        console = Console(width=100, file=StringIO())
        console.print(summary_table(evaluation))
        return console.file.getvalue().splitlines()

    def test_figures_and_width(self) -> None:
        lines = self.lines(compared())
        assert max(map(len, lines)) <= 100
        text = " ".join(" ".join(lines).split())
        assert "execution accuracy 33.3% [0, 50] 66.7% [50, 100] +33.3 +0.0 to +50.0 6" in text
        assert "seen templates 50.0% 100.0% +50.0 – 2" in text
        assert "majority of 4" in text
        assert "tokens per answer 10.0 11.7 ×1.000 0.500 to 2.000 6" in text
        assert "held-out preferences 50.0% 62.5% – 50.0% to 75.0% 4" in text
        assert "…" not in text

    def test_what_was_not_measured_has_no_row(self) -> None:
        bare = [replace(answers, sampled=(), sampled_judgements=()) for answers in (BEFORE, AFTER)]
        text = "\n".join(self.lines(evaluate(PROMPTS, *bare, [], seed=1, draws=50, beta=0.1)))
        for absent in ("T=1", "pass@", "majority", "preferences"):
            assert absent not in text

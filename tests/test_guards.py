"""Guards of a loop against limits taken from their sources, at and just beyond each."""

from __future__ import annotations

import copy
import doctest
import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.config.loop import GuardsConfig
from prefloop.errors import DataError
from prefloop.loop import guard_rules, guards
from prefloop.loop.guards import Finding, best, ends, judge_round, promoted

CONFIG = GuardsConfig()
SEVERITY = ("ok", "warn", "hold", "stop")


def est(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "ci_low": low, "ci_high": high}


def figures(number: int = 1) -> dict[str, Any]:
    """A made-up round that no guard has anything to say about."""
    return {
        "round": number,
        "data": {
            "diagnostics": {
                "chosen_longer": 0.5,
                "token_ratio": 1.0,
                "margin_mean": 0.4,
                "score_length_correlation": 0.0,
            },
            "overlap": {"rounds": 0, "evaluation": 0},
        },
        "judge": {"name": "reward", "maximum_share": 0.3, "spread": 0.2},
        "training": {"kl": 5.0, "displacement": 0.2},
        "watched": {
            "accuracy": 0.6,
            "gain_start": est(0.1, 0.05, 0.15),
            "gain_previous": est(0.1, 0.05, 0.15),
            "length": {"mean": 90.0, "ratio_start": 1.0},
        },
        "diversity": {"distinct_2": 0.4, "duplicates": 0.1},
    }


START: dict[str, Any] = {
    "round": 0,
    "watched": {"accuracy": 0.5, "gain_start": None, "gain_previous": None},
    "diversity": {"distinct_2": 0.4, "duplicates": 0.1},
    "promoted": True,
}


def changed(number: int, **paths: Any) -> dict[str, Any]:
    """The round with other figures; a path is written with two underscores for each step."""
    found = figures(number)
    for path, value in paths.items():
        *places, name = path.split("__")
        place = found
        for step in places:
            place = place[step]
        place[name] = value
    return found


def finding(name: str, found: dict[str, Any], earlier: list[dict[str, Any]] | None = None, **limits: Any) -> Finding:
    seen = judge_round(found, [START, figures(1)] if earlier is None else earlier, CONFIG.model_copy(update=limits))
    (one,) = [one for one in seen if one.name == name]
    return one


def test_docstring_examples() -> None:
    assert doctest.testmod(guards).failed == 0
    assert doctest.testmod(guards).attempted >= 3


def test_a_round_without_fault_is_promoted_and_nothing_ends() -> None:
    findings = judge_round(figures(2), [START, figures(1)], CONFIG)
    assert [one.name for one in findings] == list(guard_rules.GUARDS)
    assert {one.verdict for one in findings} == {"ok"}
    assert promoted(findings)
    assert ends(findings) is None


@pytest.mark.parametrize(
    ("name", "path", "limit", "verdict"),
    [
        ("chosen longer", "data__diagnostics__chosen_longer", 0.60, "warn"),
        ("chosen longer", "data__diagnostics__chosen_longer", 0.70, "stop"),
        ("token ratio", "data__diagnostics__token_ratio", 1.15, "warn"),
        ("score and length", "data__diagnostics__score_length_correlation", 0.4, "warn"),
        ("answer length", "watched__length__ratio_start", 1.25, "warn"),
        ("answer length", "watched__length__ratio_start", 1.5, "hold"),
        ("KL", "training__kl", 20.0, "hold"),
        ("judge's maximum", "judge__maximum_share", 0.8, "stop"),
        ("displacement", "training__displacement", 0.5, "warn"),
        ("repeated prompts", "data__overlap__rounds", 0, "stop"),
        ("test prompts", "data__overlap__evaluation", 0, "stop"),
    ],
)
def test_beyond_the_limit_and_not_at_it(name: str, path: str, limit: float, verdict: str) -> None:
    beyond = finding(name, changed(2, **{path: limit + 1e-6}))
    assert (beyond.verdict, beyond.limit, beyond.value) == (verdict, limit, pytest.approx(limit + 1e-6))
    at = finding(name, changed(2, **{path: limit}))
    assert SEVERITY.index(at.verdict) < SEVERITY.index(verdict)


@pytest.mark.parametrize(
    ("name", "path", "base", "verdict"),
    [
        ("judge's spread", "judge__spread", 0.2, "stop"),
        ("contrast", "data__diagnostics__margin_mean", 0.4, "warn"),
        ("variety", "diversity__distinct_2", 0.4, "warn"),
    ],
)
def test_halved_since_the_first_round(name: str, path: str, base: float, verdict: str) -> None:
    below = finding(name, changed(2, **{path: base * 0.49}))
    assert (below.verdict, below.limit) == (verdict, 0.5)
    assert below.value == pytest.approx(0.49)
    assert finding(name, changed(2, **{path: base * 0.5})).verdict == "ok"


def test_the_first_round_is_what_later_ones_are_compared_with() -> None:
    """Of 0.4, 0.25 and 0.19 the last is below half of the first, not of the second."""
    path = "data__diagnostics__margin_mean"
    earlier = [START, changed(1, **{path: 0.4}), changed(2, **{path: 0.25})]
    assert finding("contrast", changed(3, **{path: 0.19}), earlier).verdict == "warn"
    assert finding("contrast", changed(3, **{path: 0.19}), earlier[::2]).value == pytest.approx(0.76)


@pytest.mark.parametrize(("start", "warn", "stop"), [(0.0, 0.3, 0.5), (0.4, 0.58, 0.7)])
def test_repeats_count_from_what_round_0_repeats(start: float, warn: float, stop: float) -> None:
    """Of the 60% that did not repeat in round 0, three tenths are 18 points and half are 30."""
    earlier = [{**START, "diversity": {"duplicates": start}}]
    verdicts = {}
    for share in (warn - 1e-6, warn + 1e-6, stop - 1e-6, stop + 1e-6):
        found = finding("repeated answers", changed(1, diversity__duplicates=share), earlier)
        verdicts[share] = (found.verdict, found.limit)
    limits = [warn, warn, warn, stop]
    assert list(verdicts.values()) == [
        (v, pytest.approx(x)) for v, x in zip(("ok", "warn", "warn", "stop"), limits, strict=True)
    ]


def test_limits_come_from_the_recipe() -> None:
    assert finding("answer length", changed(2, watched__length__ratio_start=1.15), length_growth=0.1).verdict == "hold"
    assert finding("judge's maximum", changed(2, judge__maximum_share=0.4), saturation=0.3).verdict == "stop"
    assert finding("repeated answers", changed(2, diversity__duplicates=0.4), duplicates=0.3).verdict == "stop"
    assert finding("contrast", changed(2, data__diagnostics__margin_mean=0.35), contrast=0.9).verdict == "warn"
    assert finding("KL", changed(2, training__kl=4.0), kl=3.0).verdict == "hold"
    unlimited = finding("KL", changed(2, training__kl=400.0), kl=None)
    assert (unlimited.verdict, unlimited.limit) == ("ok", None)


@pytest.mark.parametrize(
    ("name", "path"), [("against the start", "gain_start"), ("against the round before", "gain_previous")]
)
class TestRegression:
    @pytest.mark.parametrize(
        ("gain", "verdict"),
        [
            (est(-0.01, -0.02, -0.001), "hold"),  # surely a fall, however small
            (est(-0.021, -0.06, 0.02), "hold"),  # larger than the 2 points that are put up with
            (est(-0.02, -0.06, 0.02), "ok"),
            (est(-0.01, -0.05, 0.0), "ok"),
            (est(0.05, -0.01, 0.11), "ok"),
        ],
    )
    def test_a_sure_fall_or_a_large_one(self, name: str, path: str, gain: dict[str, float], verdict: str) -> None:
        found = finding(name, changed(2, **{f"watched__{path}": gain}))
        assert (found.verdict, found.value, found.limit) == (verdict, gain["estimate"], -0.02)

    def test_its_sentence_has_gain_and_interval(self, name: str, path: str) -> None:
        text = finding(name, changed(2, **{f"watched__{path}": est(-0.04, -0.08, -0.01)})).text
        assert "−4.0 points (−8.0 to −1.0), a fall of more than 2.0: the round is not promoted." in text


class TestGain:
    NONE = est(0.02, -0.01, 0.05)

    def test_one_round_without_a_gain_is_a_warning(self) -> None:
        found = finding("gain", changed(2, watched__gain_previous=self.NONE))
        assert (found.verdict, found.value, found.limit) == ("warn", -0.01, 0.0)

    def test_a_lower_bound_of_zero_shows_no_gain(self) -> None:
        assert finding("gain", changed(2, watched__gain_previous=est(0.02, 0.0, 0.05))).verdict == "warn"

    def test_two_in_a_row_end_the_loop(self) -> None:
        earlier = [START, figures(1), changed(2, watched__gain_previous=self.NONE)]
        findings = judge_round(changed(3, watched__gain_previous=self.NONE), earlier, CONFIG)
        assert not promoted(findings)
        assert ends(findings) == next(one.text for one in findings if one.name == "gain")

    def test_two_that_do_not_follow_each_other_do_not(self) -> None:
        earlier = [START, changed(1, watched__gain_previous=self.NONE), figures(2)]
        assert finding("gain", changed(3, watched__gain_previous=self.NONE), earlier).verdict == "warn"

    def test_the_start_has_no_gain_that_counts(self) -> None:
        assert finding("gain", changed(1, watched__gain_previous=self.NONE), [START]).verdict == "warn"


def test_a_judge_that_runs_the_answers_is_not_inflated() -> None:
    """More answers with the highest score are then more right answers."""
    found = changed(2, judge__maximum_share=0.9, judge__spread=0.01)
    assert finding("judge's maximum", found).verdict == "stop"
    found["judge"]["name"] = "execution"
    assert finding("judge's maximum", found).verdict == finding("judge's spread", found).verdict == "warn"


def test_training_that_a_guard_ended_is_said() -> None:
    found = changed(2, training__kl=18.0, training__stopped="KL 20.3 is above 20")
    assert (finding("KL", found).verdict, "was ended at the limit" in finding("KL", found).text) == ("warn", True)


def test_what_was_not_measured_is_named_once_and_holds_nothing_back() -> None:
    bare = {"round": 1, "judge": None, "training": {"kl": None}, "data": {"diagnostics": {"margin_mean": float("nan")}}}
    findings = judge_round(bare, [START], CONFIG)
    assert [(one.name, one.verdict) for one in findings] == [("not measured", "ok")]
    assert findings[0].text == f"Not measured: {', '.join(guard_rules.GUARDS)}."
    assert promoted(findings)


def test_switched_off_everything_is_found_and_nothing_acted_upon() -> None:
    found = changed(2, judge__maximum_share=0.99, watched__length__ratio_start=2.0)
    on, off = (judge_round(found, [START, figures(1)], CONFIG.model_copy(update={"enabled": e})) for e in (True, False))
    assert [(one.name, one.value, one.verdict) for one in on] == [(one.name, one.value, one.verdict) for one in off]
    assert not promoted(on)
    assert ends(on)
    assert promoted(off)
    assert ends(off) is None
    assert not any(one.acted for one in off)
    texts = {one.verdict: one.text for one in off}
    assert texts["hold"].endswith("above ×1.50: the round would not be promoted, but guards are off.")
    assert texts["stop"].endswith("above 80.0%: the loop would end, but guards are off.")


def test_several_reasons_to_end_are_all_told() -> None:
    findings = judge_round(changed(2, judge__maximum_share=0.9, data__overlap__rounds=3), [START, figures(1)], CONFIG)
    assert ends(findings) == (
        "Answers with the judge's highest score: 90.0%, above 80.0%: the loop ends. "
        "Prompts that an earlier round had as well: 3, above 0: the loop ends."
    )


class TestBest:
    @staticmethod
    def rounds(*accuracies: float, held: tuple[int, ...] = ()) -> list[dict[str, Any]]:
        return [
            {"round": i, "promoted": i not in held, "watched": {"accuracy": a}, "accuracy": est(1 - a, 0, 1)}
            for i, a in enumerate(accuracies)
        ]

    def test_highest_watched_accuracy_whatever_the_reported_one_is(self) -> None:
        assert best(self.rounds(0.5, 0.7, 0.6)) == 1

    def test_of_ties_the_first(self) -> None:
        assert best(self.rounds(0.5, 0.7, 0.7)) == 1

    def test_only_promoted_rounds_and_the_start_count(self) -> None:
        assert best(self.rounds(0.5, 0.6, 0.9, held=(2,))) == 1
        assert best(self.rounds(0.5, 0.6, 0.9, held=(0, 1, 2))) == 0

    def test_the_start_can_be_the_best(self) -> None:
        assert best(self.rounds(0.5, 0.4)) == 0

    def test_without_the_figure_nothing_is_guessed(self) -> None:
        with pytest.raises(DataError, match="watched"):
            best([{"round": 0, "promoted": True}])


share = st.floats(0, 1)
worse = {
    "chosen longer": ("data__diagnostics__chosen_longer", share),
    "token ratio": ("data__diagnostics__token_ratio", st.floats(0, 10)),
    "answer length": ("watched__length__ratio_start", st.floats(0.01, 10)),
    "KL": ("training__kl", st.floats(-1, 1e6)),
    "judge's maximum": ("judge__maximum_share", share),
    "repeated answers": ("diversity__duplicates", share),
}


@given(st.sampled_from(sorted(worse)), st.data())
def test_a_worse_figure_is_never_judged_more_mildly(name: str, data: st.DataObject) -> None:
    path, values = worse[name]
    low, high = sorted((data.draw(values), data.draw(values)))
    verdicts = [finding(name, changed(2, **{path: value})).verdict for value in (low, high)]
    assert SEVERITY.index(verdicts[0]) <= SEVERITY.index(verdicts[1])


@given(share, st.floats(-1, 1), st.booleans())
def test_findings_are_plain_json_and_the_round_is_left_alone(level: float, gain: float, enabled: bool) -> None:
    found = changed(2, judge__maximum_share=level, watched__gain_previous=est(gain, gain - 0.05, gain + 0.05))
    before, earlier = copy.deepcopy(found), [START, figures(1)]
    findings = judge_round(found, earlier, CONFIG.model_copy(update={"enabled": enabled}))
    assert found == before
    assert findings == judge_round(
        {**found, "guards": [{"verdict": "stop"}], "promoted": False},
        earlier,
        CONFIG.model_copy(update={"enabled": enabled}),
    )
    rows = json.loads(json.dumps([asdict(one) for one in findings], allow_nan=False))
    assert all(row["text"].endswith(".") and row["text"][0].isupper() for row in rows)
    assert promoted(findings) == (not enabled or not {"hold", "stop"} & {row["verdict"] for row in rows})

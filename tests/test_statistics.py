"""Statistics against values derived by hand, closed forms, and other implementations."""

from __future__ import annotations

import doctest
from itertools import combinations
from math import comb, inf, isclose, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from prefloop.maths import statistics
from prefloop.maths.statistics import (
    Interval,
    clustered_mean_interval,
    clustered_standard_error,
    design_effect,
    holm,
    mcnemar_exact,
    minimum_detectable_gain,
    paired_bootstrap,
    pass_at_k,
    ratio_interval,
    sample_size,
    seed_summary,
    wilson,
)


def coin(n: int, p: float, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random(n) < p).astype(float)


def test_docstring_examples() -> None:
    found = doctest.testmod(statistics)
    assert found.attempted >= 10
    assert found.failed == 0


class TestMcNemar:
    def test_tail_summed_by_hand(self) -> None:
        """9 fixed, 2 broken, 4 unchanged: p = 2 · (C(11,0) + C(11,1) + C(11,2)) / 2¹¹ = 134 / 2048."""
        before = [0] * 9 + [1] * 2 + [0, 0, 1, 1]
        after = [1] * 9 + [0] * 2 + [0, 0, 1, 1]
        fixed, broken, p = mcnemar_exact(before, after)
        assert (fixed, broken) == (9, 2)
        assert p == pytest.approx(134 / 2048)

    def test_no_change_and_balanced_change_are_no_evidence(self) -> None:
        assert mcnemar_exact([0, 1, 1], [0, 1, 1]) == (0, 0, 1.0)
        assert mcnemar_exact([0, 1], [1, 0]) == (1, 1, 1.0)

    @given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
    def test_formula_and_symmetry(self, pairs: list[tuple[bool, bool]]) -> None:
        before, after = zip(*pairs, strict=True)
        fixed, broken, p = mcnemar_exact(before, after)
        n, least = fixed + broken, min(fixed, broken)
        assert isclose(p, min(1.0, 2 * sum(comb(n, i) for i in range(least + 1)) / 2**n), rel_tol=1e-9)
        assert mcnemar_exact(after, before) == (broken, fixed, p)


class TestBootstrap:
    def test_all_resamples_of_two_unequal_clusters(self) -> None:
        """A = (0), B = (1, 1, 1): draws AA, AB, BB have means 0, ¾, 1 with probabilities ¼, ½, ¼."""
        values, clusters = [0, 1, 1, 1], "abbb"
        assert clustered_mean_interval(values, clusters) == Interval(0.75, 0.0, 1.0)
        middle = clustered_mean_interval(values, clusters, level=0.4)
        assert (middle.low, middle.high) == (0.75, 0.75)

    def test_normal_limit(self) -> None:
        """Many independent questions: d̄ ± 1.96 · SE. A quantile of 20,000 draws is good to about 0.02 SE."""
        before, after = coin(1000, 0.4, 1), coin(1000, 0.6, 2)
        found = paired_bootstrap(before, after, range(1000), draws=20_000)
        error = clustered_standard_error(after - before, range(1000))
        assert found.estimate == pytest.approx((after - before).mean())
        assert found.low == pytest.approx(found.estimate - 1.96 * error, abs=0.08 * error)
        assert found.high == pytest.approx(found.estimate + 1.96 * error, abs=0.08 * error)

    def test_copies_of_a_question_add_nothing(self) -> None:
        """Four copies of each answer, clustered, give the interval of one copy; as independent rows, half of it."""
        once = coin(250, 0.5, 3)
        four, names = np.repeat(once, 4), [str(i) for i in np.repeat(np.arange(250), 4)]
        alone = clustered_mean_interval(once, [str(i) for i in range(250)])
        clustered = clustered_mean_interval(four, names)
        naive = clustered_mean_interval(four, range(1000))
        assert (clustered.low, clustered.high) == pytest.approx((alone.low, alone.high))
        assert (naive.high - naive.low) / (clustered.high - clustered.low) == pytest.approx(0.5, abs=0.03)

    def test_pairing_uses_what_both_sides_share(self) -> None:
        """The same 50 questions solved on both sides: no difference and no doubt, however varied they are."""
        side = coin(100, 0.5, 4)
        assert paired_bootstrap(side, side, range(100)) == Interval(0.0, 0.0, 0.0)

    @given(st.permutations(range(12)), st.integers(0, 5))
    @settings(max_examples=25)
    def test_order_of_questions_does_not_matter(self, order: list[int], seed: int) -> None:
        values, clusters = [0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1], "aabbccddeeff"
        found = clustered_mean_interval([values[i] for i in order], [clusters[i] for i in order], draws=200, seed=seed)
        assert found == clustered_mean_interval(values, clusters, draws=200, seed=seed)

    def test_blocks_of_draws_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values, clusters = coin(90, 0.3, 5), [str(i // 3) for i in range(90)]
        whole = clustered_mean_interval(values, clusters, draws=1000, seed=9)
        monkeypatch.setattr(statistics, "CELLS_AT_ONCE", 30 * 7)
        assert clustered_mean_interval(values, clusters, draws=1000, seed=9) == whole

    def test_seed_decides_the_draws(self) -> None:
        values = np.sqrt(np.arange(40))
        first = clustered_mean_interval(values, range(40), seed=1, draws=300)
        assert first == clustered_mean_interval(values, range(40), seed=1, draws=300)
        assert first != clustered_mean_interval(values, range(40), seed=2, draws=300)

    @pytest.mark.parametrize(
        ("values", "clusters", "message"),
        [
            ([1, 0], "aa", "two clusters"),
            ([1, 0], "abc", "cluster names"),
            ([], "", "cluster names"),
            ([1, float("nan")], "ab", "missing"),
        ],
    )
    def test_what_cannot_be_answered_is_refused(self, values: list[float], clusters: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            clustered_mean_interval(values, clusters)

    def test_sides_of_different_length_are_refused(self) -> None:
        with pytest.raises(ValueError, match="pair them"):
            paired_bootstrap([1, 0], [1, 0, 1], "abc")


class TestRatio:
    def test_constant_ratio_has_no_doubt(self) -> None:
        found = ratio_interval([5, 10, 20], [4, 8, 16], "abc")
        assert (found.estimate, found.low, found.high) == pytest.approx((1.25, 1.25, 1.25))

    def test_geometric_mean_and_all_resamples(self) -> None:
        """Ratios 2 and 8: e^{(ln 2 + ln 8)/2} = 4; resampled 2, 4, 8 with probabilities ¼, ½, ¼."""
        found = ratio_interval([2, 16], [1, 2], "ab")
        assert (found.estimate, found.low, found.high) == pytest.approx((4, 2, 8))

    def test_turned_around_it_is_the_inverse(self) -> None:
        top, bottom, names = np.arange(1.0, 31), np.arange(31.0, 1, -1), range(30)
        one, other = ratio_interval(top, bottom, names), ratio_interval(bottom, top, names)
        assert one.estimate * other.estimate == pytest.approx(1)
        assert one.low * other.high == pytest.approx(1)

    def test_zero_length_is_refused(self) -> None:
        with pytest.raises(ValueError, match="positive"):
            ratio_interval([1, 0], [1, 1], "ab")


class TestStandardError:
    def test_single_questions_reduce_to_the_plain_error(self) -> None:
        values = coin(70, 0.3, 7)
        assert clustered_standard_error(values, range(70)) == pytest.approx(values.std() / sqrt(70))

    def test_k_copies_grow_it_by_root_k(self) -> None:
        """n·k rows in n clusters: the clustered error stays, the naive one shrinks by √k; k = 9."""
        values = coin(40, 0.5, 8)
        rows, names = np.repeat(values, 9), np.repeat(np.arange(40), 9).tolist()
        plain = clustered_standard_error(rows, range(360))
        assert clustered_standard_error(rows, names) == pytest.approx(3 * plain)
        assert design_effect(rows, names) == pytest.approx(9)

    def test_opposite_answers_within_a_cluster_claim_no_bonus(self) -> None:
        assert clustered_standard_error([0, 1, 0, 1], "aabb") == 0
        assert design_effect([0, 1, 0, 1], "aabb") == 1
        assert design_effect([1, 1, 1], "aab") == 1


class TestRates:
    @given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_wilson_against_scipy(self, case: tuple[int, int]) -> None:
        successes, n = case
        found = wilson(successes, n, level=0.9)
        expected = stats.binomtest(successes, n).proportion_ci(0.9, method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)

    def test_wilson_refuses_no_rate(self) -> None:
        for successes, n in ((0, 0), (3, 2), (-1, 5)):
            with pytest.raises(ValueError, match="no rate"):
                wilson(successes, n)

    @pytest.mark.parametrize("n", [1, 4, 6])
    def test_pass_at_k_by_enumeration(self, n: int) -> None:
        for correct in range(n + 1):
            samples = [i < correct for i in range(n)]
            for k in range(1, n + 1):
                groups = list(combinations(samples, k))
                assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, groups)) / len(groups))

    def test_pass_at_k_refuses_what_was_not_sampled(self) -> None:
        for arguments in ((4, 1, 5), (4, 1, 0), (4, 5, 1)):
            with pytest.raises(ValueError, match=r"lie in|cannot be right"):
                pass_at_k(*arguments)


class TestPower:
    @pytest.mark.parametrize(
        ("discordant", "gain", "power", "n"),
        [
            *((0.10, 0.05, *row) for row in ((0.8, 312), (0.9, 417))),
            *((0.15, 0.05, *row) for row in ((0.8, 469), (0.9, 627))),
            *((0.20, 0.05, *row) for row in ((0.8, 626), (0.9, 837))),
            *((0.25, 0.05, *row) for row in ((0.8, 783), (0.9, 1047))),
            *((0.30, 0.05, *row) for row in ((0.8, 940), (0.9, 1257))),
            (0.40, 0.05, 0.8, 1254),
            (0.15, 0.10, 0.8, 116),
            (0.20, 0.10, 0.8, 155),
            (0.25, 0.10, 0.8, 194),
            (0.30, 0.10, 0.8, 234),
        ],
    )
    def test_published_table(self, discordant: float, gain: float, power: float, n: int) -> None:
        assert sample_size(gain, discordant, power=power) == n

    @pytest.mark.parametrize(
        ("n", "points"), [(141, 10.5), (200, 8.8), (500, 5.6), (844, 4.3), (1034, 3.9), (1534, 3.2)]
    )
    def test_smallest_gain_at_a_fifth_discordant(self, n: int, points: float) -> None:
        assert round(100 * minimum_detectable_gain(n, 0.2), 1) == points

    @given(st.integers(60, 5000), st.floats(0.1, 1.0), st.floats(0.55, 0.95), st.floats(0.01, 0.2))
    def test_inverse_of_sample_size(self, n: int, discordant: float, power: float, alpha: float) -> None:
        gain = minimum_detectable_gain(n, discordant, alpha, power)
        if gain < discordant:
            assert sample_size(gain * (1 + 1e-9), discordant, alpha, power) in (n, n + 1)
        else:
            assert sample_size(discordant, discordant, alpha, power) >= n

    def test_too_few_questions_show_nothing(self) -> None:
        assert minimum_detectable_gain(3, 0.5) == inf
        assert minimum_detectable_gain(500, 0.0) == inf
        assert minimum_detectable_gain(20, 0.05) == inf

    def test_impossible_gains_are_refused(self) -> None:
        for gain in (0.0, -0.1, 0.3):
            with pytest.raises(ValueError, match="does not fit"):
                sample_size(gain, 0.2)
        with pytest.raises(ValueError, match="power"):
            sample_size(0.05, 0.2, power=0.3)


class TestHolm:
    def test_by_hand_with_ties(self) -> None:
        assert holm([0.02, 0.5, 0.02, 0.9]) == pytest.approx([0.08, 1.0, 0.08, 1.0])
        assert holm([]) == []

    @given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=8), st.floats(0.001, 0.6))
    def test_rejects_what_the_step_down_procedure_rejects(self, p: list[float], alpha: float) -> None:
        """Walk up the sorted p-values and stop at the first above α / (m − i)."""
        rejected: set[int] = set()
        for place, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[index] > alpha / (len(p) - place):
                break
            rejected.add(index)
        adjusted = holm(p)
        if not any(isclose(value, alpha, rel_tol=1e-9) for value in adjusted):
            assert {i for i, value in enumerate(adjusted) if value <= alpha} == rejected


def test_seeds_are_summarised_not_pooled() -> None:
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom, from a table
    whole = {"mean": 0.3, "min": 0.2, "max": 0.4, "sd": 0.1, "ci_low": 0.3 - half, "ci_high": 0.3 + half}
    assert seed_summary([0.2, 0.3, 0.4]) == pytest.approx(whole, abs=1e-7)
    alone = {"mean": 0.2, "min": 0.2, "max": 0.2}
    assert seed_summary([0.2]) == alone | dict.fromkeys(("sd", "ci_low", "ci_high"))
    assert seed_summary([None, 0.5, None])["mean"] == 0.5
    assert set(seed_summary([None]).values()) == {None}


def test_log_scale_is_natural() -> None:
    """Guards the scale on which ratios are averaged: mean of ln 1 and ln 2 is ln √2."""
    assert log(ratio_interval([1, 2], [1, 1], "ab").estimate) == pytest.approx(log(sqrt(2)))

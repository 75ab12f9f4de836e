"""Agreement of raters against values derived by hand, sklearn and krippendorff; judges against people on made data."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.maths import agreement
from prefloop.maths.agreement import (
    alpha_interval,
    cohen_kappa,
    decided_hits,
    kappa_interval,
    krippendorff_alpha,
    mean_kappa_interval,
    plurality,
    same_label,
)
from prefloop.maths.resampling import none_seen

NONE = float("nan")
LABELS = st.sampled_from([0.0, 0.5, 1.0, NONE])


def test_docstring_examples() -> None:
    found = doctest.testmod(agreement)
    assert found.attempted >= 5
    assert not found.failed


# Accuracy


def test_an_accuracy_leaves_out_what_people_tie_and_halves_what_the_judge_ties() -> None:
    judged, people = [1, 0, 0.5, 0.5, 1, NONE, 1], [1, 1, 1, 0.5, 0.5, 1, NONE]
    hits = decided_hits(judged, people)
    assert hits[:3].tolist() == [1, 0, 0.5]
    assert np.isnan(hits[3:]).all()
    assert same_label(judged, people)[:5].tolist() == [1, 0, 0, 1, 0]


def test_a_judge_that_always_ties_is_as_good_as_a_coin() -> None:
    people = np.random.default_rng(0).choice([0.0, 1.0], 1000)
    coin = np.random.default_rng(1).choice([0.0, 1.0], 1000)
    assert decided_hits(np.full(1000, 0.5), people).mean() == 0.5
    assert decided_hits(coin, people).mean() == pytest.approx(0.5, abs=0.05)


# Kappa


def test_kappa_of_a_table_worked_by_hand() -> None:
    # 20 both yes, 5 yes/no, 10 no/yes, 15 both no: P_o = 35/50, P_e = .5·.6 + .5·.4 = .5
    first = [1] * 25 + [0] * 25
    second = [1] * 20 + [0] * 5 + [1] * 10 + [0] * 15
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_kappa_is_that_of_sklearn(rows: list[tuple[float, float]]) -> None:
    score = pytest.importorskip("sklearn.metrics").cohen_kappa_score
    both = [(str(a), str(b)) for a, b in rows if not (np.isnan(a) or np.isnan(b))]
    found = cohen_kappa(*zip(*rows, strict=True))
    if not both or len({label for pair in both for label in pair}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(score(*zip(*both, strict=True)), abs=1e-12)


def test_kappa_is_undefined_where_nothing_varies() -> None:
    assert cohen_kappa([1, 1], [1, 1]) is None
    assert cohen_kappa([1, NONE], [NONE, 1]) is None
    assert cohen_kappa([1, 0], [1, 1]) == 0  # a rater that always says the same agrees by chance alone
    assert kappa_interval([1, 1], [1, 1], "ab") is None
    assert kappa_interval([1, 0], [1, 0], "aa") is None  # one prompt says nothing about others


def test_the_interval_of_kappa_goes_by_clusters() -> None:
    rng = np.random.default_rng(2)
    first = rng.choice([0.0, 1.0], 120)
    second = np.where(rng.random(120) < 0.8, first, 1 - first)
    alone = kappa_interval(first, second, list(range(120)), draws=2000)
    assert alone.estimate == cohen_kappa(first, second)
    # of the asymptotic standard error √(P_o (1 − P_o) / n) / (1 − P_e)
    observed = (first == second).mean()
    p, q = first.mean(), second.mean()
    error = np.sqrt(observed * (1 - observed) / 120) / (1 - p * q - (1 - p) * (1 - q))
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    repeated = kappa_interval(np.repeat(first, 3), np.repeat(second, 3), list(np.repeat(np.arange(120), 3)), draws=2000)
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_full_agreement_on_few_items_is_not_certain() -> None:
    labels = [1, 0, 1, 0]
    found = kappa_interval(labels, labels, "abcd")
    assert (found.estimate, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - none_seen(4) / 0.5)  # P_e = ½
    many = kappa_interval(labels * 100, labels * 100, list(range(400)))
    assert found.low < many.low < 1
    alpha = alpha_interval([labels, labels], "abcd")
    assert (alpha.estimate, alpha.high) == (1, 1)
    assert -1 <= alpha.low < 0.5


def test_mean_kappa_of_three_raters() -> None:
    rng = np.random.default_rng(3)
    truth = rng.choice([0.0, 0.5, 1.0], 90)
    table = [np.where(rng.random(90) < 0.8, truth, rng.choice([0.0, 0.5, 1.0], 90)) for _ in range(3)]
    found = mean_kappa_interval(table, list(range(90)), draws=300)
    each = [cohen_kappa(table[a], table[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.estimate == pytest.approx(np.mean(each))
    assert found.low < found.estimate < found.high
    assert mean_kappa_interval(table[:2], list(range(90)), draws=300) == kappa_interval(
        table[0], table[1], list(range(90)), draws=300
    )
    assert mean_kappa_interval(table[:1], list(range(90))) is None
    apart = [[1, 0, NONE, NONE], [NONE, NONE, 1, 0]]  # no item in common
    assert mean_kappa_interval(apart, "abcd") is None


# Alpha


def test_alpha_of_krippendorffs_own_example() -> None:
    """Krippendorff 2011, section C: four observers, twelve units, nominal α = 0.743."""
    rows = ["1 2 3 3 2 1 4 1 2 . . .", "1 2 3 3 2 2 4 1 2 5 . 3", ". 3 3 3 2 3 4 2 2 5 1 .", "1 2 3 3 2 4 4 1 2 5 1 ."]
    table = [[NONE if cell == "." else float(cell) for cell in row.split()] for row in rows]
    assert krippendorff_alpha(table) == pytest.approx(0.743, abs=0.0005)


@given(st.integers(2, 5).flatmap(lambda raters: st.lists(st.tuples(*[LABELS] * raters), min_size=1, max_size=25)))
@settings(max_examples=150, deadline=None)
def test_alpha_is_that_of_the_krippendorff_package(items: list[tuple[float, ...]]) -> None:
    package = pytest.importorskip("krippendorff")
    table = np.array(items).T
    pairable = [label for item in items if sum(not np.isnan(x) for x in item) > 1 for label in item]
    used = {label for label in pairable if not np.isnan(label)}
    found = krippendorff_alpha(table)
    if len(used) < 2:
        assert found is None
        return
    oracle = package.alpha(reliability_data=table, value_domain=[0.0, 0.5, 1.0], level_of_measurement="nominal")
    assert found == pytest.approx(oracle, abs=1e-12)


def test_alpha_in_the_limits() -> None:
    assert krippendorff_alpha([[1, 0, 1]]) is None  # one rater
    assert krippendorff_alpha([[0.5, 0.5], [0.5, 0.5]]) is None  # all ties: nothing to tell apart
    assert krippendorff_alpha([[1, 0], [1, 0]]) == 1
    assert krippendorff_alpha([[1, 0], [0, 1]]) == pytest.approx(-0.5)  # D_o = 1, D_e = 2·2·2 / (4·3)
    rng = np.random.default_rng(4)
    assert krippendorff_alpha(rng.choice([0.0, 1.0], (3, 3000))) == pytest.approx(0, abs=0.03)
    assert alpha_interval([[1, 0, 1]], "abc") is None
    assert alpha_interval([[0.5, 0.5], [0.5, 0.5]], "ab") is None


def test_the_interval_of_alpha() -> None:
    rng = np.random.default_rng(5)
    truth = rng.choice([0.0, 1.0], 200)
    table = [np.where(rng.random(200) < 0.9, truth, 1 - truth) for _ in range(3)]
    table[0][:50] = NONE
    found = alpha_interval(table, list(range(200)), draws=1000)
    assert found.estimate == krippendorff_alpha(table)
    assert found.low < 0.64 < found.high  # pairs agree with .9² + .1² = .82, D_e = ½
    order = rng.permutation(200)
    mixed = alpha_interval([row[order] for row in table], [int(i) for i in order], draws=1000)
    assert [mixed.low, mixed.high] == pytest.approx([found.low, found.high], abs=1e-12)


def test_most_votes_win_and_a_draw_is_a_tie() -> None:
    table = [[1, 1, 1, 0, 0.5, NONE], [1, 0, 0.5, NONE, 0.5, NONE], [0, NONE, 0.5, NONE, 1, NONE]]
    assert plurality(table)[:5].tolist() == [1, 0.5, 0.5, 0, 0.5]
    assert np.isnan(plurality(table)[5])
    assert np.isnan(plurality([[NONE, NONE]])).all()


def test_labels_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="align them by item"):
        cohen_kappa([1, 0], [1])
    with pytest.raises(ValueError, match=r"\[raters, items\]"):
        krippendorff_alpha([1, 0])
    with pytest.raises(ValueError, match="2 values for 3 cluster names"):
        kappa_interval([1, 0], [0, 1], "abc")

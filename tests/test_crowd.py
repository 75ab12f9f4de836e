"""Crowd-BT and one-coin Dawid-Skene on raters of known skill, against their formulas and crowd-kit; habits by hand."""

from __future__ import annotations

import doctest

import numpy as np
import pandas
import pytest
from crowdkit.aggregation import DawidSkene, OneCoinDawidSkene
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import kendalltau, spearmanr

from prefloop.maths import crowd
from prefloop.maths.comparisons import davidson
from prefloop.maths.crowd import (
    crowd_bt,
    first_choice_rate,
    longer_choice_rate,
    one_coin_dawid_skene,
    self_agreement,
)
from prefloop.maths.davidson_likelihood import outcome_probabilities
from prefloop.maths.statistics import wilson

ITEMS, RATERS = 15, 20
NONE = float("nan")


def simulated(seed: int, n: int = 4000, items: int = ITEMS, raters: int = RATERS, nu: float = 0.0):
    """True strengths and skills, and comparisons drawn from them; the unskilled even turn them round."""
    rng = np.random.default_rng(seed)
    strengths, eta = rng.normal(scale=1.5, size=items), rng.uniform(0.35, 1, size=raters)
    first, rater = rng.integers(items, size=n), rng.integers(raters, size=n)
    second = (first + rng.integers(1, items, size=n)) % items
    chances = outcome_probabilities(strengths[first] - strengths[second], nu)
    chances = eta[rater, None] * chances + (1 - eta[rater, None]) * chances[:, ::-1]
    drawn = (rng.random(n)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    return strengths, eta, first, second, np.array([1, 0.5, 0])[drawn], rater


def majority_wins(first, second, outcome, items: int) -> np.ndarray:
    """By how many more items each is preferred by most than not."""
    lead = np.zeros((items, items))
    np.add.at(lead, (first, second), outcome - 0.5)
    np.add.at(lead, (second, first), 0.5 - outcome)
    return np.sign(lead).sum(axis=1)


def test_docstring_examples() -> None:
    found = doctest.testmod(crowd)
    assert found.attempted
    assert not found.failed


# Crowd-BT


@pytest.mark.parametrize("nu", [0.0, 0.6])
def test_skill_is_recovered_and_the_models_beat_the_majority(nu: float) -> None:
    skill, by_majority, by_davidson, by_crowd = [], [], [], []
    for seed in range(8):
        strengths, eta, first, second, outcome, rater = simulated(seed, nu=nu)
        found = crowd_bt(first, second, outcome, rater, ITEMS, RATERS)
        skill.append(np.corrcoef(found.eta, eta)[0, 1])
        by_majority.append(kendalltau(strengths, majority_wins(first, second, outcome, ITEMS)).statistic)
        by_davidson.append(kendalltau(strengths, davidson(first, second, outcome, ITEMS).strengths).statistic)
        by_crowd.append(kendalltau(strengths, found.strengths).statistic)
    assert min(skill) > 0.9
    assert np.mean(by_majority) < np.mean(by_davidson) < np.mean(by_crowd)


def test_it_maximises_its_own_formula() -> None:
    _, _, first, second, outcome, rater = simulated(1, n=300, items=4, raters=3, nu=0.4)
    found = crowd_bt(first, second, outcome, rater, 4, 3, prior=0.8, eta_prior=(5, 3))

    def likelihood(s: np.ndarray, eta: np.ndarray) -> float:
        better = expit(s[first] - s[second])
        says_first = eta[rater] * better + (1 - eta[rater]) * (1 - better)
        return float((outcome * np.log(says_first) + (1 - outcome) * np.log(1 - says_first)).sum())

    def negative(x: np.ndarray) -> float:
        s, eta = x[:4], expit(x[4:])
        games = 0.8 * (np.log(expit(s)) + np.log(expit(-s))).sum()
        return -likelihood(s, eta) - games - (4 * np.log(eta) + 2 * np.log(1 - eta)).sum()

    best = minimize(negative, np.append(np.zeros(4), logit([0.6, 0.6, 0.6])), method="BFGS", options={"gtol": 1e-6})
    assert found.strengths == pytest.approx(best.x[:4] - best.x[:4].mean(), abs=1e-4)
    assert found.eta == pytest.approx(expit(best.x[4:]), abs=1e-4)
    assert found.log_likelihood == pytest.approx(likelihood(found.strengths, found.eta), abs=1e-6)


def test_raters_at_the_ends() -> None:
    """One is always right, one always wrong, one guesses; one never answers."""
    rng = np.random.default_rng(0)
    first = rng.integers(6, size=900)
    second = (first + rng.integers(1, 6, size=900)) % 6
    rater = np.arange(900) % 3
    right = (first < second).astype(float)
    outcome = np.select([rater == 0, rater == 1], [right, 1 - right], rng.integers(2, size=900).astype(float))
    found = crowd_bt([*first] * 2, [*second] * 2, [*outcome, *right], [*rater, *np.full(900, 4)], 6, 5)
    assert (np.diff(found.strengths) < 0).all()
    assert found.eta[[0, 4]].min() > 0.97
    assert found.eta[1] < 0.03
    assert found.eta[2] == pytest.approx((outcome == right)[rater == 2].mean(), abs=0.03)  # about ½
    assert found.eta[3] == pytest.approx(3 / 4)  # the mode of Beta(4, 2)
    # most raters are taken to be right: where most turn the items round, so is the ranking
    upside_down = crowd_bt(first, second, 1 - right, rater, 6, 3)
    assert (np.diff(upside_down.strengths) > 0).all()
    assert upside_down.eta.min() > 0.9


def test_raters_known_to_be_sure_make_it_bradley_terry() -> None:
    _, _, first, second, outcome, rater = simulated(2, n=400, items=5, raters=4)
    sure = crowd_bt(first, second, outcome, rater, 5, 4, eta_prior=(1e9, 1.001))
    plain = davidson(first, second, outcome, 5, prior=0.5)
    assert sure.eta == pytest.approx(np.ones(4), abs=1e-4)
    assert sure.strengths == pytest.approx(plain.strengths, abs=2e-3)


def test_a_tie_is_half_a_win_either_way() -> None:
    columns = [0, 0, 1], [1, 1, 2], [1, 0.5, 0.5], [0, 1, 1]
    halves = [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 1, 0], [0, 0, 1, 1, 1, 1]
    # twice the priors for twice the answers
    whole = crowd_bt(*columns, 3, 2, prior=0.5, eta_prior=(4, 2))
    split = crowd_bt(*halves, 3, 2, prior=1.0, eta_prior=(7, 3))
    assert split.strengths == pytest.approx(whole.strengths, abs=1e-5)
    assert split.eta == pytest.approx(whole.eta, abs=1e-5)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_it_ranks_as_crowd_kit_does(seed: int) -> None:
    aggregation = pytest.importorskip("crowdkit.aggregation")
    pandas = pytest.importorskip("pandas")
    strengths, _, first, second, outcome, rater = simulated(seed, n=2000, items=10, raters=8)
    found = crowd_bt(first, second, outcome, rater, 10, 8)
    names = np.array([f"item {i}" for i in range(10)])
    table = pandas.DataFrame({"worker": rater, "left": names[first], "right": names[second]})
    table["label"] = np.where(outcome == 1, table.left, table.right)
    plain = aggregation.BradleyTerry(n_iter=200).fit_predict(table)[names]
    noisy = aggregation.NoisyBradleyTerry(n_iter=30).fit(table)
    assert spearmanr(found.strengths, plain).statistic > 0.85
    assert (
        spearmanr(davidson(first, second, outcome, 10, prior=0).strengths, plain).statistic > 0.95
    )  # it stops after two steps
    assert spearmanr(found.strengths, noisy.scores_[names]).statistic > 0.8
    to_truth = [spearmanr(strengths, ranked).statistic for ranked in (found.strengths, noisy.scores_[names], plain)]
    assert to_truth[0] == max(to_truth)


@given(st.permutations(range(4)), st.permutations(range(3)), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_numbers_and_sides_do_not_matter(items: list[int], raters: list[int], seed: int) -> None:
    _, _, first, second, outcome, rater = simulated(seed, n=60, items=4, raters=3, nu=0.5)
    found = crowd_bt(first, second, outcome, rater, 4, 3)
    again = crowd_bt(np.array(items)[second], np.array(items)[first], 1 - outcome, np.array(raters)[rater], 4, 3)
    assert again.strengths[items] == pytest.approx(found.strengths, abs=1e-4)
    assert again.eta[raters] == pytest.approx(found.eta, abs=1e-4)


def test_components_are_reported_by_crowd_bt_too() -> None:
    found = crowd_bt([0, 2], [1, 3], [1, 1], [0, 0], 5, 1)
    assert found.components.tolist() == [0, 0, 1, 1, 2]
    assert found.strengths[:2].sum() == pytest.approx(0)
    assert found.strengths[4] == 0


def test_malformed_crowds_are_refused() -> None:
    for rater, message in (
        ([0, 0], "2 raters for 1 comparisons"),
        ([1], r"rater 1 is not in 0\.\.0"),
        ([0.5], "rater"),
    ):
        with pytest.raises(ValueError, match=message):
            crowd_bt([0], [1], [1], rater, 2, 1)
    for priors in ({"prior": 0}, {"eta_prior": (2, 4)}, {"eta_prior": (2, 1)}, {"eta_prior": (NONE, 1.5)}):
        with pytest.raises(ValueError, match="priors need"):
            crowd_bt([0], [1], [1], [0], 2, 1, **priors)
    with pytest.raises(ValueError, match="outcome"):
        crowd_bt([0], [1], [NONE], [0], 2, 1)


# One-coin Dawid-Skene


def labelled(seed: int, units: int = 400, raters: int = 12, share: float = 0.5):
    """True labels, skills, and labels of some raters on each unit, drawn from them."""
    rng = np.random.default_rng(seed)
    truth, eta = rng.integers(2, size=units), rng.uniform(0.3, 0.98, size=raters)
    unit, rater = np.nonzero(rng.random((units, raters)) < share)
    right = rng.random(len(unit)) < eta[rater]
    return truth, eta, unit, np.where(right, truth[unit], 1 - truth[unit]), rater


def as_table(unit, label, rater):
    """As crowd-kit reads it."""
    return pandas.DataFrame({"task": unit, "label": label, "worker": rater})


def test_two_raters_who_agree_on_one_unit() -> None:
    """truth = η² / (η² + (1 − η)²) and η = (3 + truth) / 5 meet where 10η³ − 17η² + 11η − 3 = 0."""
    found = one_coin_dawid_skene([0, 0], [1, 1], [0, 1], 1, 2)
    (eta,) = [root.real for root in np.roots([10, -17, 11, -3]) if abs(root.imag) < 1e-9]
    assert found.eta == pytest.approx([eta, eta], abs=1e-7)
    assert found.truth == pytest.approx([5 * eta - 3], abs=1e-6)


def test_two_raters_who_differ_tell_nothing() -> None:
    found = one_coin_dawid_skene([0, 0], [1, 0], [0, 1], 1, 2)
    assert found.truth == pytest.approx([0.5])  # ... so each is half right: (3 + ½) / 5
    assert found.eta == pytest.approx([0.7, 0.7])


def test_known_labels_count_what_is_right() -> None:
    truth, _, unit, label, rater = labelled(0, units=60, raters=4)
    found = one_coin_dawid_skene(unit, label, rater, 60, 4, known_U=truth, eta_prior=(6.5, 1.5))
    right, count = np.bincount(rater, label == truth[unit]), np.bincount(rater)
    assert found.eta == pytest.approx((right + 5.5) / (count + 6))
    assert found.truth.tolist() == truth.tolist()


def test_few_known_labels_turn_a_crowd_that_is_mostly_wrong() -> None:
    """Two of three are wrong nine times in ten: the crowd is read as right, until ten known labels say what it is."""
    rng = np.random.default_rng(3)
    truth, eta = rng.integers(2, size=200), np.array([0.9, 0.1, 0.1])
    unit, rater = np.repeat(np.arange(200), 3), np.tile(np.arange(3), 200)
    label = np.where(rng.random(600) < eta[rater], truth[unit], 1 - truth[unit])
    unanchored = one_coin_dawid_skene(unit, label, rater, 200, 3)
    known = np.where(np.arange(200) < 10, truth, NONE)
    anchored = one_coin_dawid_skene(unit, label, rater, 200, 3, known_U=known)
    assert unanchored.eta == pytest.approx(1 - eta, abs=0.08)
    assert ((unanchored.truth > 0.5) == truth).mean() < 0.1
    assert anchored.eta == pytest.approx(eta, abs=0.08)
    assert ((anchored.truth > 0.5) == truth).mean() > 0.9


@pytest.mark.parametrize("known", [False, True])
def test_the_one_coin_model_maximises_its_own_formula(known: bool) -> None:
    truth, _, unit, label, rater = labelled(1, units=25, raters=5)
    given = np.where(np.arange(25) % 5 == 0, truth, NONE) if known else None
    found = one_coin_dawid_skene(unit, label, rater, 25, 5, known_U=given, eta_prior=(3.0, 1.5))

    def chances(eta: np.ndarray) -> np.ndarray:
        """Of the labels of each unit and each truth, [2, U]."""
        both = np.full((2, 25), 0.5)
        for u, said, r in zip(unit, label, rater, strict=True):
            for y in (0, 1):
                both[y, u] *= eta[r] if said == y else 1 - eta[r]
        if known:
            both[:, ::5] = np.where(np.array([[0], [1]]) == truth[::5], both[:, ::5], 0)
        return both

    def negative(z: np.ndarray) -> float:
        eta = expit(z)
        return -float(np.log(chances(eta).sum(axis=0)).sum() + (2 * np.log(eta) + 0.5 * np.log(1 - eta)).sum())

    best = minimize(negative, np.full(5, logit(0.8)), method="BFGS", options={"gtol": 1e-6})
    both = chances(found.eta)
    assert found.eta == pytest.approx(expit(best.x), abs=1e-5)
    assert found.truth == pytest.approx(both[1] / both.sum(axis=0), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_skill_and_truth_are_recovered_better_than_by_majority(seed: int) -> None:
    truth, eta, unit, label, rater = labelled(seed, share=0.4)
    found = one_coin_dawid_skene(unit, label, rater, len(truth), len(eta))
    lead = np.bincount(unit, 2 * label - 1, len(truth))
    by_majority = np.where(lead == 0, 0.5, (lead > 0) == truth).mean()
    assert np.corrcoef(found.eta, eta)[0, 1] > 0.9
    assert found.eta == pytest.approx(eta, abs=0.15)  # four standard errors
    assert ((found.truth > 0.5) == truth).mean() > by_majority


WEAK = (1 + 3e-6, 1 + 1e-6)
"""A prior that only says where to start, as crowd-kit has none."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning:crowdkit")
def test_it_is_the_one_coin_model_of_crowd_kit() -> None:
    # with every unit mirrored either label is as likely before, which crowd-kit estimates
    _, _, unit, label, rater = labelled(5, units=80, raters=6)
    unit, label, rater = np.append(unit, unit + 80), np.append(label, 1 - label), np.append(rater, rater)
    oracle = OneCoinDawidSkene(n_iter=2000, tol=1e-13).fit(as_table(unit, label, rater))
    found = one_coin_dawid_skene(unit, label, rater, 160, 6, eta_prior=WEAK)
    assert found.eta == pytest.approx(oracle.skills_.sort_index().to_numpy(), abs=1e-4)
    answered = np.unique(unit)
    assert found.truth[answered] == pytest.approx(oracle.probas_.loc[answered, 1].to_numpy(), abs=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:crowdkit")
def test_it_is_dawid_and_skene_where_confusion_is_symmetric() -> None:
    """Units and their mirror images make every confusion matrix symmetric, though Dawid and Skene fit all four cells."""
    _, _, unit, label, rater = labelled(6, units=80, raters=6)
    unit, label, rater = np.append(unit, unit + 80), np.append(label, 1 - label), np.append(rater, rater)
    oracle = DawidSkene(n_iter=2000, tol=1e-13).fit(as_table(unit, label, rater))
    found = one_coin_dawid_skene(unit, label, rater, 160, 6, eta_prior=WEAK)
    for r, eta in enumerate(found.eta):
        assert oracle.errors_.loc[r].sort_index()[[0, 1]].to_numpy() == pytest.approx(
            np.array([[eta, 1 - eta], [1 - eta, eta]]), abs=1e-4
        )


def test_it_is_crowd_bt_where_strengths_are_known_to_be_far_apart() -> None:
    """Two items, one of them better without doubt, are the same pair over and over: p is 1 for both models."""
    rng = np.random.default_rng(8)
    eta = np.array([0.95, 0.8, 0.6])
    rater = np.arange(900) % 3
    outcome = (rng.random(900) < eta[rater]).astype(float)
    pairs = crowd_bt(np.zeros(900, dtype=int), np.ones(900, dtype=int), outcome, rater, 2, 3, prior=1e-6)
    coins = one_coin_dawid_skene(np.zeros(900, dtype=int), outcome, rater, 1, 3)
    assert pairs.eta == pytest.approx(coins.eta, abs=1e-3)
    assert coins.truth == pytest.approx([1.0])


@given(st.permutations(range(5)), st.permutations(range(3)), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_numbers_and_names_of_labels_do_not_matter(units: list[int], raters: list[int], seed: int) -> None:
    _, _, unit, label, rater = labelled(seed, units=5, raters=3, share=0.7)
    found = one_coin_dawid_skene(unit, label, rater, 5, 3)
    again = one_coin_dawid_skene(np.array(units)[unit], 1 - label, np.array(raters)[rater], 5, 3)
    assert again.eta[raters] == pytest.approx(found.eta, abs=1e-6)
    assert 1 - again.truth[units] == pytest.approx(found.truth, abs=1e-6)


def test_what_was_not_labelled_keeps_the_prior() -> None:
    found = one_coin_dawid_skene([1], [0], [1], 3, 3, eta_prior=(4, 2))
    assert found.eta == pytest.approx([3 / 4] * 3)
    assert found.truth == pytest.approx([0.5, 0.25, 0.5])
    nothing: list[int] = []
    empty = one_coin_dawid_skene(nothing, nothing, nothing, 1, 1)
    assert (empty.eta.tolist(), empty.truth.tolist()) == ([0.75], [0.5])


def test_malformed_labels_are_refused() -> None:
    good = {"unit_N": [0], "label_N": [1], "rater_N": [0], "n_units": 1, "n_raters": 1}
    for change, message in (
        ({"unit_N": [1]}, r"unit 1 is not in 0\.\.0"),
        ({"rater_N": [-1]}, "rater -1"),
        ({"label_N": [0.5]}, r"label 0\.5 is neither"),
        ({"label_N": [NONE]}, "label nan is neither"),
        ({"label_N": [1, 1]}, "align them"),
        ({"rater_N": [0, 0]}, "align them"),
        ({"known_U": [1, 0]}, "give one for each of 1 units"),
        ({"known_U": [2]}, "known label 2.0 is neither"),
        ({"eta_prior": (2, 2)}, "priors need a > b > 1"),
        ({"eta_prior": (float("inf"), 2)}, "priors need a > b > 1"),
    ):
        with pytest.raises(ValueError, match=message):
            one_coin_dawid_skene(**good | change)


def test_a_fit_that_does_not_settle_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "EM_STEPS", 2)
    with pytest.raises(RuntimeError, match="after 2 steps of EM"):
        one_coin_dawid_skene([0, 0], [1, 1], [0, 1], 1, 2)


# Habits


def test_the_side_that_is_chosen() -> None:
    assert first_choice_rate([1] * 7 + [0] * 3 + [0.5] * 5) == wilson(7, 10)
    assert first_choice_rate([0.5, 0.5]) is None
    assert first_choice_rate([]) is None
    assert first_choice_rate([1, NONE]) == wilson(1, 1)


def test_the_longer_that_is_chosen() -> None:
    outcome = [1, 0, 1, 0, 0.5, 1, NONE]
    found = longer_choice_rate(outcome, [9, 9, 5, 5, 9, 7, 9], [5, 5, 9, 9, 5, 7, 5])
    assert found == wilson(2, 4)  # neither the tie, nor equal lengths, nor what was not answered
    assert longer_choice_rate([1], [5], [5]) is None
    with pytest.raises(ValueError, match="align them"):
        longer_choice_rate([1, 0], [5], [5])


def test_agreement_with_oneself() -> None:
    assert self_agreement([1, 0, 0.5, 1], [0, 1, 0.5, 0]) == wilson(4, 4)
    assert self_agreement([1] * 5, [1] * 5) == wilson(0, 5)  # always the first
    assert self_agreement([1, 0.5, NONE], [0.5, 1, 1]) == wilson(0, 2)
    assert self_agreement([], []) is None
    with pytest.raises(ValueError, match="align them"):
        self_agreement([1], [1, 0])

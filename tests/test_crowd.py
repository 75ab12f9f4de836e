"""Crowd-BT on raters of known skill, against its own formula and crowd-kit; the habits of raters by hand."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import kendalltau, spearmanr

from prefloop.maths import crowd
from prefloop.maths.comparisons import davidson
from prefloop.maths.crowd import crowd_bt, first_choice_rate, longer_choice_rate, self_agreement
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


@pytest.mark.parametrize("seed", range(3))
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

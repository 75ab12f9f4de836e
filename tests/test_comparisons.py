"""Davidson's model against hand-derived values, published fits, the textbook likelihood and its own symmetries."""

from __future__ import annotations

import doctest
import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize

from prefloop.maths import comparisons, davidson_likelihood, tally
from prefloop.maths.comparisons import davidson, davidson_intervals
from prefloop.maths.davidson_likelihood import Point, loss, outcome_probabilities, penalty, slopes
from prefloop.maths.tally import connected_components, diverges, levelled, unbeaten

PANDALM = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "preferences" / "pandalm_testset_v1_3annotators.json"
)

PUDDING = """1 2 19 22 16  1 3 16 19 12  2 3 19 19 10  1 4 18 23 13  2 4 23 19 9  3 4 19 20 15  1 5 13 19 18  2 5 16 20 12
             3 5 16 15 17  4 5 17 14 16  1 6 18 21 12  2 6 22 20 12  3 6 13 18 10  4 6 14 19 18  5 6 11 21 12"""
"""Davidson 1970, example 2: brands of chocolate pudding i and j, how often i, j and neither was preferred."""

BASEBALL = """4 3 4 2 4 3 6 1 4 2 6 0   3 3 4 2 4 3 6 0 6 1 4 3   2 5 4 3 2 4 4 3 4 2 6 0   3 3 5 1 2 5 4 3 4 2 6 1
              5 1 2 5 3 3 4 2 5 2 6 0   2 5 3 3 3 4 4 3 4 2 2 4   2 5 1 5 1 6 2 4 1 6 3 4"""
"""Agresti 2002, Categorical Data Analysis (2nd ed.), p. 438: games of the American League's Eastern Division in 1987,
won by the home and by the away team: Milwaukee, Detroit, Toronto, New York, Boston, Cleveland, Baltimore at home."""

Columns = tuple[list[int], list[int], list[float]]


def rows(largest: int = 4, outcomes: tuple[float, ...] = (0.0, 0.5, 1.0), most: int = 25) -> st.SearchStrategy[Columns]:
    one = st.tuples(st.integers(0, largest - 1), st.integers(0, largest - 1), st.sampled_from(outcomes))
    lists = st.lists(one.filter(lambda row: row[0] != row[1]), min_size=1, max_size=most)
    return lists.map(lambda found: tuple(list(column) for column in zip(*found, strict=True)))


def pudding() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    table = np.array(PUDDING.split(), dtype=int).reshape(15, 5)
    first, second = np.tile(table[:, 0] - 1, 3), np.tile(table[:, 1] - 1, 3)
    return first, second, np.repeat([1, 0, 0.5], 15), table[:, 2:].T.ravel()


def baseball() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    pairs = np.array([(home, away) for home in range(7) for away in range(7) if home != away])
    won = np.array(BASEBALL.split(), dtype=int).reshape(42, 2)
    return np.tile(pairs[:, 0], 2), np.tile(pairs[:, 1], 2), np.repeat([1, 0], 42), won.T.ravel()


def textbook(first, second, outcome, weight, pi, nu, gamma=1.0) -> float:
    """Davidson's log-likelihood as he writes it, with the π of the first item multiplied by γ."""
    a, b = gamma * pi[first], pi[second]
    chosen = np.select([outcome == 1, outcome == 0], [a, b], nu * np.sqrt(a * b))
    return float(np.sum(weight * np.log(chosen / (a + b + nu * np.sqrt(a * b)))))


def simulated(seed: int, items: int, n: int, nu: float, gamma: float = 1.0):
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=items)
    first = rng.integers(items, size=n)
    second = (first + rng.integers(1, items, size=n)) % items
    chances = outcome_probabilities(strengths[first] - strengths[second], nu, gamma)
    drawn = (rng.random(n)[:, None] > chances.cumsum(axis=1)).sum(axis=1)
    return strengths - strengths.mean(), first, second, np.array([1, 0.5, 0])[drawn]


def test_docstring_examples() -> None:
    for module in (comparisons, davidson_likelihood, tally):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed


# By hand


def test_two_items() -> None:
    # ν = t / √(w l), and the strengths differ by ln(w / l)
    fit = davidson([0] * 3, [1] * 3, [1, 0.5, 0], 2, weight_N=[8, 6, 2], prior=0)
    assert fit.nu == pytest.approx(6 / 4, abs=1e-6)
    assert fit.strengths == pytest.approx([np.log(4) / 2, -np.log(4) / 2], abs=1e-6)
    assert fit.log_likelihood == pytest.approx(8 * np.log(8 / 16) + 6 * np.log(6 / 16) + 2 * np.log(2 / 16))
    # without ties the variance of the log odds is 1/w + 1/l; half the gap has a quarter of it
    decided = davidson([0, 0], [1, 1], [1, 0], 2, weight_N=[8, 2], prior=0)
    assert decided.errors == pytest.approx(np.full(2, np.sqrt(1 / 8 + 1 / 2) / 2), rel=1e-5)
    assert (decided.nu, decided.gamma, decided.connected) == (0, 1, True)
    assert np.isnan([decided.log_nu_error, decided.log_gamma_error]).all()


def test_the_side_shown_first_by_hand() -> None:
    # 0 first: 3 to 1 for it; 1 first: 1 to 1. So γ e^d = 3 and γ e^−d = 1.
    columns = [0, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 0]
    fit = davidson(*columns, 2, weight_N=[3, 1, 2, 2], order_effect=True, prior=0)
    assert fit.gamma == pytest.approx(np.sqrt(3), abs=1e-6)
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(np.log(3) / 2, abs=1e-6)
    # both log odds have their own binomial variance, and ln γ is their mean
    assert fit.log_gamma_error == pytest.approx(np.sqrt(1 / 3 + 1 + 1 / 2 + 1 / 2) / 2, rel=1e-5)


def test_equal_items_tie_as_often_as_nu_says() -> None:
    for nu in (0, 0.5, 2, 10):
        won, tied, lost = outcome_probabilities([0], nu)[0]
        assert tied == pytest.approx(nu / (2 + nu))
        assert won == lost == pytest.approx(1 / (2 + nu))
    # gap ln 4 and γ = 4: odds 16, and ties √16 · ν to 1
    assert outcome_probabilities([np.log(4)], 0.5, 4)[0] == pytest.approx(np.array([16, 2, 1]) / 19)
    assert outcome_probabilities([2000.0, -2000.0], 1).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_the_prior_is_a_virtual_win_and_loss() -> None:
    # one item beats the other once; by symmetry s = (a, −a), with slope 1 − σ(2a) = prior · (2σ(a) − 1)
    a = davidson([0], [1], [1], 2, prior=1).strengths[0]
    assert 1 / (1 + np.exp(2 * a)) == pytest.approx(np.tanh(a / 2), abs=1e-6)
    assert a > davidson([0], [1], [1], 2, prior=2).strengths[0] > 0


# Published fits


def test_the_puddings_of_davidson() -> None:
    """Values that the R package PlackettLuce 0.4 prints for `pudding` (vignette Overview, sections 2.1 and 2.2).

    They are of the seventh iteration, as in Davidson's paper, so they hold to about 1e-4.
    """
    first, second, outcome, counts = pudding()
    fit = davidson(first, second, outcome, 6, weight_N=counts, prior=0)
    worth = np.exp(fit.strengths)
    published = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855]
    assert worth / worth.sum() == pytest.approx(published, abs=3e-5)
    assert fit.nu == pytest.approx(0.7468147, abs=3e-5)
    centred = [-0.176581, 0.043664, -0.023617, -0.001295, -0.042726, 0.200555]
    assert fit.strengths == pytest.approx(centred, abs=2e-4)
    errors = [0.121949, 0.121818, 0.126823, 0.122003, 0.127054, 0.126594]
    assert fit.errors == pytest.approx(errors, abs=3e-6)
    assert fit.log_nu_error == pytest.approx(0.082499, abs=1e-6)
    assert -2 * fit.log_likelihood == pytest.approx(1619.4, abs=0.05)


def test_the_baseball_of_agresti() -> None:
    """Coefficients that the R package BradleyTerry2 prints for `baseball` (tests/baseball.Rout.save)."""
    home, away, outcome, counts = baseball()
    plain = davidson(home, away, outcome, 7, weight_N=counts, prior=0)
    over_baltimore = plain.strengths[:6] - plain.strengths[6]
    assert over_baltimore == pytest.approx([1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839], abs=6e-5)
    sided = davidson(home, away, outcome, 7, weight_N=counts, order_effect=True, prior=0)
    over_baltimore = sided.strengths[:6] - sided.strengths[6]
    assert over_baltimore == pytest.approx([1.6196, 1.4754, 1.3271, 1.2813, 1.1438, 0.7047], abs=6e-5)
    assert np.log(sided.gamma) == pytest.approx(0.3023, abs=6e-5)
    assert sided.log_gamma_error == pytest.approx(0.1309, abs=6e-5)
    assert 2 * (sided.log_likelihood - plain.log_likelihood) == pytest.approx(5.4106, abs=6e-5)


def test_the_pseudo_games_of_plackettluce() -> None:
    """The toy network of the same vignette (section 2.3) without D, and with half a win and loss for each item."""
    winners, losers = [0, 2, 1, 1, 0], [1, 0, 0, 2, 3]
    plain = davidson(winners[:4], losers[:4], [1] * 4, 3, prior=0).strengths
    assert plain - plain[0] == pytest.approx([0, 0.8392, 0.4196], abs=6e-5)
    whole = davidson(winners, losers, [1] * 5, 4, prior=0.5).strengths
    assert whole - whole[0] == pytest.approx([0, 0.5184185, 0.1354707, -1.1537565], abs=1e-6)


# Independent computation


def test_without_ties_it_is_the_bradley_terry_fit_of_choix() -> None:
    choix = pytest.importorskip("choix")
    _, first, second, outcome = simulated(0, 6, 300, nu=0)
    games = [(a, b) if o else (b, a) for a, b, o in zip(first, second, outcome, strict=True)]
    oracle = choix.opt_pairwise(6, games, alpha=0, tol=1e-9)
    fit = davidson(first, second, outcome, 6, prior=0)
    assert fit.nu == 0
    assert fit.strengths == pytest.approx(oracle - oracle.mean(), abs=1e-5)
    # one tie in very many games changes next to nothing
    weights = np.append(np.full(300, 1e4), 1)
    few = davidson([*first, 0], [*second, 1], [*outcome, 0.5], 6, weight_N=weights, prior=0)
    assert few.nu < 1e-5
    assert few.strengths == pytest.approx(fit.strengths, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_maximises_the_textbook_likelihood(seed: int) -> None:
    _, first, second, outcome = simulated(seed, 4, 150, nu=0.6, gamma=1.5)
    fit = davidson(first, second, outcome, 4, order_effect=True, prior=0)

    def negative(x: np.ndarray) -> float:
        pi = np.exp(np.append(x[:3], -x[:3].sum()))
        return -textbook(first, second, outcome, 1, pi, np.exp(x[3]), np.exp(x[4]))

    best = minimize(negative, np.zeros(5), method="BFGS", options={"gtol": 1e-6})
    assert fit.strengths[:3] == pytest.approx(best.x[:3], abs=1e-4)
    assert [np.log(fit.nu), np.log(fit.gamma)] == pytest.approx(best.x[3:], abs=1e-4)
    assert fit.log_likelihood == pytest.approx(-best.fun)


@given(rows(), st.booleans(), st.floats(0.1, 2), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_slopes_are_those_of_finite_differences(columns: Columns, order: bool, prior: float, seed: int) -> None:
    found, _ = tally.tally(*columns, 4)
    x = np.random.default_rng(seed).normal(size=6)

    def value(x: np.ndarray) -> float:
        point = Point(x[:4], x[4], x[5] if order else 0.0)
        return loss(found, point) + penalty(prior, point, order)

    along, along_nu, along_gamma = slopes(found, prior, Point(x[:4], x[4], x[5] if order else 0.0))
    expected = approx_fprime(x, value, 1e-7)
    assert [*along, along_nu] == pytest.approx(expected[:5], abs=1e-4)
    if order:
        assert along_gamma == pytest.approx(expected[5], abs=1e-4)


@pytest.mark.parametrize("prior", [0.0, 0.7])
def test_errors_are_those_of_the_numeric_hessian(prior: float) -> None:
    _, first, second, outcome = simulated(5, 4, 200, nu=0.6, gamma=1.5)
    fit = davidson(first, second, outcome, 4, order_effect=True, prior=prior)
    found, _ = tally.tally(first, second, outcome, 4)

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.hstack(slopes(found, prior, Point(x[:4], x[4], x[5])))

    # the fit is centred; find the place of the virtual item again, which alone the prior sees
    shift = minimize(lambda a: penalty(prior, Point(fit.strengths + a[0], 0, 0), False), [0.0], tol=1e-12).x[0]
    at = np.concatenate([fit.strengths + shift, np.log([fit.nu, fit.gamma])])
    assert gradient(at) == pytest.approx(np.zeros(6), abs=1e-4)
    hessian = np.array([(gradient(at + h) - gradient(at - h)) / 2e-5 for h in np.eye(6) * 1e-5])
    covariance = np.linalg.pinv(hessian, rcond=1e-6)
    centring = np.eye(6)
    centring[:4, :4] -= 0.25
    errors = np.sqrt(np.diag(centring @ covariance @ centring.T))
    assert [*fit.errors, fit.log_nu_error, fit.log_gamma_error] == pytest.approx(errors, rel=1e-4)


def test_the_truth_lies_within_the_errors() -> None:
    truth, first, second, outcome = simulated(7, 6, 20_000, nu=0.8, gamma=1.4)
    fit = davidson(first, second, outcome, 6, order_effect=True)
    assert (np.abs(fit.strengths - truth) < 4 * fit.errors).all()
    assert abs(np.log(fit.nu / 0.8)) < 4 * fit.log_nu_error
    assert abs(np.log(fit.gamma / 1.4)) < 4 * fit.log_gamma_error
    # leaving γ out biases ν and the fit, and the likelihood says so
    assert davidson(first, second, outcome, 6).log_likelihood < fit.log_likelihood - 50


@pytest.mark.shared_data
@pytest.mark.skipif(not PANDALM.is_file(), reason="the real data is not there")
def test_models_ranked_by_the_raters_of_pandalm() -> None:
    table = json.loads(PANDALM.read_text())
    names = sorted({name for row in table for name in row["cmp_key"].split("_")})
    labels = {"1": 1.0, "2": 0.0, "0": 0.5}
    shown = [[names.index(name) for name in row["cmp_key"].split("_")] for row in table for _ in range(3)]
    outcome = np.array([labels[str(row[f"annotator{i}"])] for row in table for i in (1, 2, 3)])
    first, second = np.array(shown).T
    fit = davidson(first, second, outcome, len(names), prior=0)
    assert fit.connected

    def negative(x: np.ndarray) -> float:
        return -textbook(first, second, outcome, 1, np.exp(np.append(x[:-1], -x[:-1].sum())), np.exp(x[-1]))

    best = minimize(negative, np.zeros(len(names)), method="BFGS", options={"gtol": 1e-4})
    assert fit.strengths[:-1] == pytest.approx(best.x[:-1], abs=1e-3)
    found = davidson_intervals(
        first, second, outcome, [row["instruction"] for row in table for _ in range(3)], len(names), draws=100
    )
    # three raters of one pair say much the same, so errors that take them as independent are too small
    widths = np.array([interval.high - interval.low for interval in found.strengths])
    assert (widths > 2 * 1.96 * fit.errors).all()


# Properties


@given(rows(), st.permutations(range(4)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_other_numbers_for_the_items_change_nothing_else(columns: Columns, new: list[int], order: bool) -> None:
    first, second, outcome = columns
    assume(set(outcome) != {0.5})
    fit = davidson(first, second, outcome, 4, order_effect=order)
    again = davidson([new[i] for i in first], [new[i] for i in second], outcome, 4, order_effect=order)
    assert again.strengths[new] == pytest.approx(fit.strengths, abs=1e-5)
    assert (again.nu, again.gamma) == pytest.approx((fit.nu, fit.gamma), rel=1e-4)


@given(rows())
@settings(max_examples=40, deadline=None)
def test_swapped_sides(columns: Columns) -> None:
    first, second, outcome = columns
    assume(set(outcome) != {0.5})
    turned = [1 - o for o in outcome]
    fit, again = davidson(first, second, outcome, 4), davidson(second, first, turned, 4)
    assert (again.strengths == fit.strengths).all()
    fit = davidson(first, second, outcome, 4, order_effect=True)
    again = davidson(second, first, turned, 4, order_effect=True)
    assert again.strengths == pytest.approx(fit.strengths, abs=1e-5)
    assert (1 / again.gamma, again.nu) == pytest.approx((fit.gamma, fit.nu), rel=1e-4)


@given(rows(outcomes=(0.0, 1.0)), st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_equal_wins_either_way_bring_items_together(columns: Columns, more: int) -> None:
    first, second, outcome = columns
    gap = np.ptp(davidson(first, second, outcome, 4).strengths[[0, 1]])
    both = [*first, *[0] * 2 * more], [*second, *[1] * 2 * more], [*outcome, *[1] * more, *[0] * more]
    assume(connected_components(first, second, 4)[0] == connected_components(first, second, 4)[1])
    assert np.ptp(davidson(*both, 4).strengths[[0, 1]]) <= gap + 1e-6


@given(rows(), st.lists(st.integers(1, 4), min_size=25, max_size=25))
@settings(max_examples=30, deadline=None)
def test_a_weight_is_a_number_of_repetitions(columns: Columns, times: list[int]) -> None:
    first, second, outcome = columns
    assume(set(outcome) != {0.5})
    times = times[: len(first)]
    fit = davidson(first, second, outcome, 4, weight_N=times)
    repeated = [np.repeat(column, times) for column in columns]
    again = davidson(*repeated, 4)
    assert again.strengths == pytest.approx(fit.strengths, abs=1e-6)
    assert again.errors == pytest.approx(fit.errors, rel=1e-4, nan_ok=True)


# Graphs, and fits that do not exist


def test_components_are_reported() -> None:
    fit = davidson([0, 0, 2], [1, 1, 3], [1, 0, 1], 5)
    assert fit.components.tolist() == [0, 0, 1, 1, 2]
    assert not fit.connected
    assert fit.strengths[:2] == pytest.approx([0, 0], abs=1e-6)
    assert fit.strengths[2] == pytest.approx(-fit.strengths[3])  # each component has sum 0
    assert fit.strengths[4] == 0
    assert np.isnan(fit.errors).tolist() == [False] * 4 + [True]
    alone = davidson([0], [1], [1], 2)  # what is not connected does not matter to it
    assert fit.strengths[2:4] == pytest.approx(alone.strengths, abs=1e-6)
    assert fit.errors[2:4] == pytest.approx(alone.errors, rel=1e-4)


@pytest.mark.parametrize(
    ("columns", "order", "message"),
    [
        (([0, 0, 2, 2], [1, 1, 3, 3], [1, 0, 1, 0]), False, "2 groups of items unconnected"),
        (([0, 0, 1, 1], [1, 1, 2, 2], [1, 0, 1, 1]), False, r"nothing beats or ties items \[0, 1\]"),
        (([0, 0], [1, 1], [1, 0.5]), False, "no finite fit"),
        (([0, 0], [1, 1], [1, 0]), True, "show some pairs in both orders"),
        (([0, 1], [1, 0], [1, 1]), True, "no finite fit"),  # the first always wins
        (([0, 0], [1, 1], [0.5, 0.5]), False, "all 2 comparisons are ties"),
    ],
)
def test_what_has_no_finite_fit_is_refused_with_the_reason(columns, order: bool, message: str) -> None:
    items = max(max(columns[0]), max(columns[1])) + 1
    with pytest.raises(ValueError, match=message):
        davidson(*columns, items, order_effect=order, prior=0)
    if 0 in columns[2] or 1 in columns[2]:
        fit = davidson(*columns, items, order_effect=order, prior=0.5)
        assert np.isfinite([*fit.strengths, *fit.errors, fit.nu, fit.gamma]).all()


@given(rows(3, most=5), st.booleans())
@settings(max_examples=200, deadline=None)
def test_divergence_is_found_by_trying_all_directions(columns: Columns, order: bool) -> None:
    first, second, outcome = (np.array(column) for column in columns)
    steps = np.arange(-4, 5)
    tried = np.array(list(product(steps, steps, steps if (outcome == 0.5).any() else [0], steps if order else [0])))
    strengths = np.insert(tried[:, :2], 0, 0, axis=1)
    gap = strengths[:, first] - strengths[:, second] + tried[:, 3:]
    twice = np.stack([gap, np.repeat(2 * tried[:, 2:3], len(first), axis=1), -gap])  # of first, tie, second
    if not (outcome == 0.5).any():
        twice[1] = np.minimum(gap, -gap)
    seen = np.select([outcome == 1, outcome == 0.5], [twice[0], twice[1]], twice[2])
    never_lower = (seen == twice.max(axis=0)).all(axis=1)
    sometimes_higher = (seen > twice.min(axis=0)).any(axis=1)
    found, _ = tally.tally(first, second, outcome, 3)
    assert diverges(found, order) == bool((never_lower & sometimes_higher).any())


@given(rows(3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_without_a_prior_there_is_a_maximum_or_a_reason(columns: Columns, order: bool) -> None:
    first, second, outcome = (np.array(column) for column in columns)
    reason = ""
    try:
        fit = davidson(*columns, 3, order_effect=order, prior=0)
    except ValueError as refused:
        reason = str(refused)
    if reason:
        assert "set a prior" in reason or "are ties" in reason
        return
    best = textbook(first, second, outcome, 1, np.exp(fit.strengths), fit.nu, fit.gamma)
    assert best == pytest.approx(fit.log_likelihood)
    rng = np.random.default_rng(0)
    for shift in rng.normal(scale=0.1, size=(20, 5)):
        gamma = fit.gamma * np.exp(shift[4]) if order else 1.0
        near = textbook(first, second, outcome, 1, np.exp(fit.strengths + shift[:3]), fit.nu * np.exp(shift[3]), gamma)
        assert near <= best + 1e-6


def test_ties_that_hold_a_chain_of_wins_together() -> None:
    # along a direction that diverges, each win needs a gap of 2n at least, and the tie of the ends allows 2n in all
    fit = davidson([0, 1, 0], [1, 2, 2], [1, 1, 0.5], 3, prior=0)
    assert fit.strengths[0] > fit.strengths[1] > fit.strengths[2]
    assert fit.strengths[1] == pytest.approx(0, abs=1e-5)
    with pytest.raises(ValueError, match="no finite fit"):  # a tie of neighbours allows any gap
        davidson([0, 1, 0], [1, 2, 2], [1, 0.5, 0.5], 3, prior=0)


def test_paths_of_wins() -> None:
    assert unbeaten([0, 1, 2], [1, 2, 0], 3) is None
    assert unbeaten([0, 1, 0], [1, 0, 2], 3).tolist() == [0, 1]
    assert levelled([0, 0], [1, 2], 3)
    assert not levelled([0, 1, 2], [1, 2, 0], 3)
    chain = np.arange(400)
    assert levelled(chain, chain + 1, 401)
    assert not levelled([*chain, 0], [*chain + 1, 400], 401)


def test_malformed_comparisons_are_refused() -> None:
    for columns, message in (
        (([0], [0], [1]), "item 0 with itself"),
        (([0], [2], [1]), r"item 2 is not in 0\.\.1"),
        (([-1], [1], [1]), r"item -1 is not in"),
        (([0.5], [1], [1]), "list of item numbers"),
        (([0], [1], [0.7]), "outcome 0.7 of comparison 0"),
        (([0], [1], [float("nan")]), "outcome nan"),
        (([0, 1], [1, 0], [1]), "align them"),
        (([], [], []), "no comparisons yet"),
    ):
        with pytest.raises(ValueError, match=message):
            davidson(*columns, 2)
    for weights in ([-1], [float("nan")], [float("inf")], [1, 2]):
        with pytest.raises(ValueError, match="one weight"):
            davidson([0], [1], [1], 2, weight_N=weights)
    with pytest.raises(ValueError, match="weight above 0"):
        davidson([0], [1], [1], 2, weight_N=[0])
    for prior in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="virtual wins"):
            davidson([0], [1], [1], 2, prior=prior)


def test_extreme_weights_and_strengths() -> None:
    fit = davidson([0, 0, 0], [1, 1, 1], [1, 0, 0.5], 2, weight_N=[1e9, 1, 1e4], prior=0)
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(np.log(1e9), rel=1e-3)
    assert fit.nu == pytest.approx(1e4 / np.sqrt(1e9), rel=1e-3)
    ladder = np.arange(60)  # each beats the next, always
    fit = davidson(np.repeat(ladder[:-1], 50), np.repeat(ladder[1:], 50), np.ones(59 * 50), 60)
    assert (np.diff(fit.strengths) < 0).all()


# Intervals


def test_intervals_of_independent_comparisons_are_those_of_the_errors() -> None:
    _, first, second, outcome = simulated(3, 4, 1500, nu=0.7, gamma=1.3)
    fit = davidson(first, second, outcome, 4, order_effect=True)
    found = davidson_intervals(first, second, outcome, list(range(1500)), 4, order_effect=True, draws=600)
    assert found.undefined == 0
    for k, interval in enumerate(found.strengths):
        assert interval.estimate == fit.strengths[k]
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * fit.errors[k], rel=0.12)
    assert np.log(found.gamma.high / found.gamma.low) == pytest.approx(2 * 1.96 * fit.log_gamma_error, rel=0.12)
    assert np.log(found.nu.high / found.nu.low) == pytest.approx(2 * 1.96 * fit.log_nu_error, rel=0.12)


def test_intervals_go_by_clusters() -> None:
    _, first, second, outcome = simulated(4, 4, 200, nu=0.7)
    names = list(range(200))
    alone = davidson_intervals(first, second, outcome, names, 4, draws=300, prior=0)
    thrice = [np.repeat(column, 3) for column in (first, second, outcome, names)]
    repeated = davidson_intervals(*thrice, 4, draws=300, prior=0)
    weighed = davidson_intervals(first, second, outcome, names, 4, weight_N=np.full(200, 3), draws=300, prior=0)
    for a, b, c in zip(alone.strengths, repeated.strengths, weighed.strengths, strict=True):
        assert [b.low, b.high] == pytest.approx([a.low, a.high], abs=1e-5)
        assert [c.low, c.high] == pytest.approx([a.low, a.high], abs=1e-5)
    order = np.random.default_rng(0).permutation(200)
    mixed = davidson_intervals(first[order], second[order], outcome[order], list(order), 4, draws=300, prior=0)
    assert [i.low for i in mixed.strengths] == pytest.approx([i.low for i in alone.strengths], abs=1e-6)
    assert mixed.nu.high == pytest.approx(alone.nu.high, abs=1e-6)


def test_resamples_without_a_fit_are_counted() -> None:
    columns = [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0.5]
    found = davidson_intervals(*columns, "abcd", 2, draws=400, prior=0)
    # a fit needs a win of either side: P(no b) + P(no a, c) − P(neither)
    expected = 400 * ((3 / 4) ** 4 + (2 / 4) ** 4 - (1 / 4) ** 4)
    assert found.undefined == pytest.approx(expected, abs=4 * np.sqrt(expected))
    assert np.isfinite([found.nu.low, found.nu.high]).all()
    assert found.nu.low == 0  # a resample without the tie
    with_prior = davidson_intervals(*columns, "abcd", 2, draws=400)
    assert with_prior.undefined == pytest.approx(400 / 4**4, abs=8)  # ties alone
    with pytest.raises(ValueError, match="two clusters"):
        davidson_intervals(*columns, "aaaa", 2)
    with pytest.raises(ValueError, match="3 cluster names"):
        davidson_intervals(*columns, "abc", 2)

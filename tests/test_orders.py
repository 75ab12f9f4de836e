"""Plackett-Luce against closed forms, choix's other algorithm, Bradley-Terry and simulated rankings."""

from __future__ import annotations

import doctest
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.maths import orders
from prefloop.maths.comparisons import davidson, davidson_intervals
from prefloop.maths.orders import plackett_luce_strengths, ranking_pairs


def whole(*items: int) -> list[list[int]]:
    return [[item] for item in items]


def simulated(seed: int, items: int, n: int, length: int) -> tuple[np.ndarray, list[list[int]]]:
    """Rankings of `length` items each, drawn by adding Gumbel noise to the strengths and sorting."""
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=items)
    shown = [rng.choice(items, length, replace=False) for _ in range(n)]
    ranked = [drawn[np.argsort(-(strengths[drawn] + rng.gumbel(size=length)))].tolist() for drawn in shown]
    return strengths - strengths.mean(), ranked


def test_docstring_examples() -> None:
    found = doctest.testmod(orders)
    assert found.attempted
    assert not found.failed


def test_first_choices_have_the_odds_of_their_counts() -> None:
    # of three, 0 comes first 5 times, 1 three times, 2 twice: s are the logs of the counts
    rankings = [[[0], [1, 2]]] * 5 + [[[1], [0, 2]]] * 3 + [[[2], [0, 1]]] * 2
    logs = np.log([5, 3, 2])
    assert plackett_luce_strengths(rankings, 3, prior=0).strengths == pytest.approx(logs - logs.mean(), abs=1e-5)


def test_all_orders_alike_make_all_items_alike() -> None:
    found = plackett_luce_strengths([whole(*order) for order in permutations(range(4))], 4, prior=0).strengths
    assert found == pytest.approx(np.zeros(4), abs=1e-6)


def test_rankings_of_two_are_bradley_terry() -> None:
    _, ranked = simulated(0, 5, 200, 2)
    pairs = np.array(ranked)
    plain = davidson(pairs[:, 0], pairs[:, 1], np.ones(200), 5, prior=0).strengths
    assert plackett_luce_strengths([whole(*r) for r in ranked], 5, prior=0).strengths == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_fit_of_the_mm_algorithm(seed: int) -> None:
    choix = pytest.importorskip("choix")
    _, ranked = simulated(seed, 6, 120, 4)
    oracle = choix.mm_rankings(6, ranked, tol=1e-12)
    found = plackett_luce_strengths([whole(*r) for r in ranked], 6, prior=0).strengths
    assert found == pytest.approx(oracle - oracle.mean(), abs=1e-4)


def test_the_truth_is_recovered_from_the_top_two_of_four() -> None:
    truth, ranked = simulated(3, 6, 1500, 4)
    partial = plackett_luce_strengths([[[a], [b], rest] for a, b, *rest in ranked], 6).strengths
    full = plackett_luce_strengths([whole(*r) for r in ranked], 6).strengths
    assert partial == pytest.approx(truth, abs=0.2)
    assert full == pytest.approx(truth, abs=0.15)


def test_the_prior_is_that_of_davidson() -> None:
    _, ranked = simulated(1, 5, 20, 2)
    pairs = np.array(ranked)
    for prior in (1, 4):
        plain = davidson(pairs[:, 0], pairs[:, 1], np.ones(20), 5, prior=prior).strengths
        assert plackett_luce_strengths([whole(*r) for r in ranked], 5, prior).strengths == pytest.approx(
            plain, abs=1e-5
        )


def test_the_pseudo_rankings_of_plackettluce() -> None:
    """The toy network in the vignette of the R package PlackettLuce 0.4 (section 2.3), with its npseudo = ½.

    Every ranking twice and one virtual win and loss are the same.
    """
    rankings = [whole(0, 1), whole(2, 0), whole(0, 3), whole(1, 0), whole(1, 2)] * 2
    found = plackett_luce_strengths(rankings, 4, prior=1).strengths
    assert found - found[0] == pytest.approx([0, 0.5184185, 0.1354707, -1.1537565], abs=1e-6)


def test_components_are_reported() -> None:
    found = plackett_luce_strengths([whole(0, 1), [[2], [3, 4]]], 6)
    assert found.components.tolist() == [0, 0, 1, 1, 1, 2]
    assert found.strengths[:2].sum() == pytest.approx(0)
    assert found.strengths[2:5].sum() == pytest.approx(0)
    assert found.strengths[5] == 0
    # what is not connected does not matter, and many small groups are as easy as few
    assert found.strengths[:2] == pytest.approx(plackett_luce_strengths([whole(0, 1)], 2).strengths)
    many = plackett_luce_strengths([whole(4 * i + 2, 4 * i, 4 * i + 3, 4 * i + 1) for i in range(2000)], 8000)
    each = many.strengths.reshape(2000, 4)
    assert (np.diff(each[:, [2, 0, 3, 1]], axis=1) < 0).all()
    assert each == pytest.approx(np.tile(each[0], (2000, 1)))


def test_what_has_no_finite_fit_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"nothing beats items \[0\]"):
        plackett_luce_strengths([whole(0, 1, 2), whole(0, 2, 1)], 3, prior=0)
    with pytest.raises(ValueError, match="2 groups of items unconnected"):
        plackett_luce_strengths([whole(0, 1), whole(1, 0)], 3, prior=0)
    found = plackett_luce_strengths([whole(0, 1, 2), whole(0, 2, 1)], 3).strengths
    assert found[0] > 0
    assert found[1] == pytest.approx(found[2], abs=1e-5)


def test_malformed_rankings_are_refused() -> None:
    for ranking, message in (
        ([[0, 1], [2]], "tie above its last tier: fit `ranking_pairs`"),
        ([[0], [0]], "an item twice"),
        ([[0], []], "an empty tier"),
        ([[0], [3]], r"not in 0\.\.2"),
        ([[0, 1, 2]], "two tiers or more"),
    ):
        with pytest.raises(ValueError, match=message):
            plackett_luce_strengths([ranking], 3)
    with pytest.raises(ValueError, match="collect some first"):
        plackett_luce_strengths([], 3)
    for prior in (-1, 0.5):
        with pytest.raises(ValueError, match="whole number"):
            plackett_luce_strengths([whole(0, 1)], 2, prior=prior)


# Rankings with ties


def test_a_ranking_with_ties_breaks_into_the_pairs_that_agree_with_it() -> None:
    first, second, outcome, number = ranking_pairs([[[3], [0, 1]], [[2, 3]], [[1]]], 4)
    rows = list(zip(first.tolist(), second.tolist(), outcome.tolist(), number.tolist(), strict=True))
    assert rows == [(3, 0, 1, 0), (3, 1, 1, 0), (0, 1, 0.5, 0), (2, 3, 0.5, 1)]
    assert all(len(column) == 0 for column in ranking_pairs([], 4))


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=10))
@settings(max_examples=30, deadline=None)
def test_pairs_of_rankings_count_who_is_above_whom(ranked: list[list[int]]) -> None:
    first, second, outcome, number = ranking_pairs([whole(*r) for r in ranked], 4)
    assert (outcome == 1).all()
    assert len(first) == 6 * len(ranked)
    for a, b, row in zip(first, second, number, strict=True):
        assert ranked[row].index(a) < ranked[row].index(b)


def test_pairs_of_rankings_go_through_davidson_with_the_ranking_as_cluster() -> None:
    truth, ranked = simulated(5, 5, 300, 5)
    tied = [[[a], [b, c], [d], [e]] for a, b, c, d, e in ranked]  # second and third not told apart
    first, second, outcome, number = ranking_pairs(tied, 5)
    found = davidson_intervals(first, second, outcome, number.tolist(), 5, draws=100)
    assert found.nu.estimate > 0
    estimates = np.array([interval.estimate for interval in found.strengths])
    assert (np.argsort(estimates) == np.argsort(truth)).all()

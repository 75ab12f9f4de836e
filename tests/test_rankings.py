"""Objectives on scores against hand values, every order of a ranking by brute force, DPO's and TRL's."""

from __future__ import annotations

import doctest
import math
from collections import defaultdict
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.maths import rankings
from prefloop.maths.adjustments import soft_label
from prefloop.maths.objectives import PairLogps, dpo
from prefloop.maths.rankings import all_pairs, bradley_terry, plackett_luce

SCORES = st.lists(st.floats(-5, 5), min_size=1, max_size=5)


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_ranking(scores: Tensor, tiers: list[int]) -> Tensor:
    return plackett_luce(scores, torch.tensor(tiers), torch.zeros(len(tiers), dtype=torch.long), 1)


def order_nll(scores: list[float], order: tuple[int, ...]) -> float:
    """−ln of the product of draws, as the definition has it."""
    left = [math.exp(scores[i]) for i in order]
    return -sum(math.log(left[k] / sum(left[k:])) for k in range(len(order)))


def orders_of(tiers: list[int]) -> list[tuple[int, ...]]:
    """Every order in which no answer comes before one of a better tier."""
    return [order for order in permutations(range(len(tiers))) if [tiers[i] for i in order] == sorted(tiers)]


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(rankings, extraglobs={"torch": torch})
    assert result.attempted >= 3
    assert result.failed == 0


# --- pairs ---


def test_bradley_terry_by_hand() -> None:
    """Scores 3 and 1: ln(1 + e^-2) = 0.126928; margin 2: ln 2; target 0.8: 0.126928 + 0.2·2; c = 0.01: + 0.16."""
    scores = doubles(3), doubles(1)
    assert bradley_terry(*scores).item() == pytest.approx(0.126928, abs=1e-6)
    assert bradley_terry(*scores, margins=doubles(2)).item() == pytest.approx(math.log(2))
    assert bradley_terry(*scores, target=0.8).item() == pytest.approx(0.526928, abs=1e-6)
    assert bradley_terry(*scores, centring=0.01).item() == pytest.approx(0.286928, abs=1e-6)
    mixed = bradley_terry(doubles(3, 3), doubles(1, 1), target=doubles(1, 0.8))
    assert mixed.tolist() == pytest.approx([0.126928, 0.526928], abs=1e-6)


def test_equal_scores_cost_ln_2_whatever_the_target() -> None:
    losses = bradley_terry(torch.zeros(3), torch.zeros(3), target=torch.tensor([0.0, 0.5, 1.0]), centring=0.01)
    assert losses.tolist() == pytest.approx([math.log(2)] * 3)


def test_a_tie_pulls_scores_together_and_a_graded_target_to_its_log_odds() -> None:
    """Target σ(γ·strength) is met exactly where the scores differ by γ·strength; a tie where they do not differ."""
    target = soft_label(doubles(0.0, 3.0), gamma=0.5)
    chosen = doubles(0.0, 1.5).requires_grad_()
    bradley_terry(chosen, doubles(0.0, 0.0), target=target).sum().backward()
    assert chosen.grad is not None
    assert chosen.grad.tolist() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_bradley_terry_pushes_apart_and_centring_towards_zero() -> None:
    """At scores 2, 2: gradient ∓½ of the preference, 2·0.01·(2 + 2) = 0.08 of the centring on both."""
    scores = doubles(2, 2).requires_grad_()
    bradley_terry(scores[:1], scores[1:], centring=0.01).sum().backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.42, 0.58])


def test_bradley_terry_is_dpo_on_implicit_rewards() -> None:
    logps = torch.randn(4, 6, dtype=torch.float64)
    ours = bradley_terry(0.1 * (logps[0] - logps[2]), 0.1 * (logps[1] - logps[3]), target=0.9)
    assert torch.allclose(ours, dpo(PairLogps(*logps, *torch.ones(2, 6)), 0.1, label_smoothing=0.1))


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("margin", [None, [0.5, 0.0, 2.0]])
def test_bradley_terry_is_trls_reward_loss(centring: float | None, margin: list[float] | None) -> None:
    """`RewardTrainer.compute_loss` itself, on a model that answers with given scores."""
    trl = pytest.importorskip("trl", reason="TRL is a test oracle, not a dependency: pip install trl")
    scores = torch.tensor([1.0, -2.0, 0.3, 0.5, 1.0, -4.0])
    trainer = object.__new__(trl.RewardTrainer)
    trainer.__dict__.update(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=centring),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {} if margin is None else {"margin": torch.tensor(margin)}
    theirs = trainer.compute_loss(lambda **inputs: SimpleNamespace(logits=scores[:, None]), inputs)
    margins = None if margin is None else torch.tensor(margin)
    ours = bradley_terry(scores[:3], scores[3:], margins=margins, centring=centring or 0.0)
    assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-6)


# --- rankings ---


@given(SCORES)
def test_a_ranking_without_ties_is_the_product_of_its_draws(scores: list[float]) -> None:
    """All K! orders have a probability, and they sum to 1."""
    tensor, total = doubles(*scores), 0.0
    for order in permutations(range(len(scores))):
        tiers = [order.index(i) for i in range(len(scores))]
        loss = one_ranking(tensor, tiers).item()
        assert loss == pytest.approx(order_nll(scores, order), abs=1e-9)
        total += math.exp(-loss)
    assert total == pytest.approx(1)


@given(SCORES, st.data())
def test_a_ranking_with_ties_against_every_order_it_may_have(scores: list[float], data: st.DataObject) -> None:
    """Never below the mean over the orders; equal to every one of them where tied answers have equal scores."""
    k = len(scores)
    tiers = data.draw(st.lists(st.integers(0, 2), min_size=k, max_size=k))
    orders = orders_of(tiers)
    mean = sum(order_nll(scores, order) for order in orders) / len(orders)
    assert one_ranking(doubles(*scores), tiers).item() >= mean - 1e-9
    level = [float(tier) for tier in tiers]  # one score per tier
    loss = one_ranking(doubles(*level), tiers).item()
    assert [order_nll(level, order) for order in orders] == pytest.approx([loss] * len(orders))


@pytest.mark.parametrize("tiers", [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0], [2, 0, 0, 1]])
def test_equal_scores_cost_ln_of_k_factorial_whatever_the_ties(tiers: list[int]) -> None:
    assert one_ranking(doubles(7, 7, 7, 7), tiers).item() == pytest.approx(math.log(24))


def test_two_answers_are_bradley_terry_and_two_tied_ones_twice_a_tie() -> None:
    a, b = doubles(1.3), doubles(-0.4)
    assert one_ranking(torch.cat([a, b]), [0, 1]).item() == pytest.approx(bradley_terry(a, b).item())
    tied = 2 * bradley_terry(a, b, target=0.5).item() - math.log(2)
    assert one_ranking(torch.cat([a, b]), [4, 4]).item() == pytest.approx(tied)


def test_dpo_on_rankings_of_two_is_dpo() -> None:
    """2305.18290, eq. 20 with K = 2 is eq. 7: the scores are β (log π − log π_ref)."""
    logps = torch.tensor([[-20.0, -3.0], [-50.0, -8.0], [-30.0, -5.0], [-40.0, -7.0]])
    scores = 0.1 * (logps[:2] - logps[2:]).T.flatten()  # pair after pair, chosen first
    losses = plackett_luce(scores, torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]), 2)
    assert losses.tolist() == pytest.approx(dpo(PairLogps(*logps, *torch.ones(2, 2)), 0.1).tolist())


def test_prompts_do_not_touch_each_other_and_the_order_of_answers_does_not_matter() -> None:
    scores, tiers = torch.randn(7, dtype=torch.float64), torch.tensor([0, 1, 1, 2, 0, 0, 3])
    groups = torch.tensor([0, 0, 0, 0, 2, 2, 2])
    losses = plackett_luce(scores, tiers, groups, 3)
    assert losses[0].item() == pytest.approx(one_ranking(scores[:4], [0, 1, 1, 2]).item())
    assert losses[1].item() == 0.0  # no answers
    assert losses[2].item() == pytest.approx(one_ranking(scores[4:], [0, 0, 3]).item())
    shuffled = torch.randperm(7)
    again = plackett_luce(scores[shuffled], tiers[shuffled], groups[shuffled], 3)
    assert again.tolist() == pytest.approx(losses.tolist())


def test_the_gradient_of_a_ranking() -> None:
    """Sums to zero, is exact by finite differences, finite at extremes, and vanishes at a tie of equal scores."""
    scores = doubles(0.3, -1.0, 2.0, 0.5, 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: one_ranking(s, [0, 1, 1, 2, 2]), scores)
    (gradient,) = torch.autograd.grad(one_ranking(scores, [0, 1, 1, 2, 2]).sum(), scores)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-12)
    assert gradient[0].item() < 0  # the best goes up
    (level,) = torch.autograd.grad(one_ranking(scores, [0, 1, 2, 3, 3]).sum(), scores)
    assert (level[3] - level[4]).item() == pytest.approx(0, abs=1e-12)
    extreme = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    loss = one_ranking(extreme, [0, 0, 1])
    (steep,) = torch.autograd.grad(loss.sum(), extreme)
    assert loss.item() == pytest.approx(3e4)  # 2e4 for the first against the third, 1e4 for the second
    assert steep.isfinite().all()


def test_all_pairs_weigh_one_per_prompt() -> None:
    """Tiers 0,1,1 | 0 | 2,2 | 0,1: pairs (0,1), (0,2) of ½ each, none, none, and (6,7) of 1."""
    tiers = torch.tensor([0, 1, 1, 0, 2, 2, 0, 1])
    better, worse, weights = all_pairs(tiers, torch.tensor([0, 0, 0, 1, 2, 2, 3, 3]))
    assert list(zip(better.tolist(), worse.tolist(), weights.tolist(), strict=True)) == [
        (0, 1, 0.5),
        (0, 2, 0.5),
        (6, 7, 1.0),
    ]
    better, worse, weights = all_pairs(torch.arange(5), torch.zeros(5, dtype=torch.long))
    assert len(better) == len(worse) == math.comb(5, 2)
    assert weights.tolist() == pytest.approx([0.1] * 10)
    assert [len(part) for part in all_pairs(torch.zeros(3), torch.tensor([0, 0, 0]))] == [0, 0, 0]


def test_unequal_shapes_are_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes"):
        bradley_terry(torch.zeros(2), torch.zeros(1))
    with pytest.raises(ValueError, match="shapes"):
        bradley_terry(torch.zeros(2), torch.zeros(2), margins=torch.zeros(1))
    with pytest.raises(ValueError, match="shapes"):
        plackett_luce(torch.zeros(2), torch.zeros(1), torch.zeros(2), 1)

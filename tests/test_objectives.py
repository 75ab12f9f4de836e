"""Objectives against values derived by hand, their limits and gradients (TRL: tests/test_training.py)."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prefloop.maths import objectives
from prefloop.maths.objectives import cross_entropy, dpo, nll

LOGPS = st.floats(-200, 0)


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(objectives, extraglobs={"torch": torch})
    assert result.attempted >= 4
    assert result.failed == 0


def test_dpo_by_hand() -> None:
    """Log-ratios 2 and -1: r = (0.5·2, 0.5·-1), margin 1.5, loss ln(1 + e^-1.5) = ln 1.22313 = 0.20141."""
    losses, metrics = dpo(
        torch.tensor([-3.0]), torch.tensor([-8.0]), torch.tensor([-5.0]), torch.tensor([-7.0]), beta=0.5
    )
    assert losses.item() == pytest.approx(0.20141, abs=1e-5)
    assert metrics["rewards/chosen"].item() == 1.0
    assert metrics["rewards/rejected"].item() == -0.5
    assert metrics["rewards/margins"].item() == 1.5
    assert metrics["rewards/accuracies"].item() == 1.0
    assert metrics["logps/rejected"].item() == -8.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_dpo_starts_at_ln_2(smoothing: float) -> None:
    chosen, rejected = torch.tensor([-3.0, -70.0]), torch.tensor([-9.0, -1.0])
    losses, metrics = dpo(chosen, rejected, chosen, rejected, 0.1, smoothing)
    assert losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert metrics["rewards/accuracies"].tolist() == [0.0, 0.0]  # a tie is not a win


def test_smoothed_dpo_is_the_expected_loss_over_flips() -> None:
    """ε = 0.2 at margin 2: 0.8 ln(1 + e^-2) + 0.2 ln(1 + e^2) = 0.8·0.126928 + 0.2·2.126928 = 0.526928."""
    sides = torch.tensor([[-20.0], [-50.0], [-30.0], [-40.0]])
    losses, _ = dpo(*sides, beta=0.1, label_smoothing=0.2)
    assert losses.item() == pytest.approx(0.526928, abs=1e-6)
    per_pair, _ = dpo(*sides.repeat(1, 2), 0.1, torch.tensor([0.0, 0.2]))
    assert per_pair.tolist() == pytest.approx([0.126928, 0.526928], abs=1e-6)


@given(LOGPS, LOGPS, LOGPS, LOGPS)
def test_dpo_with_half_smoothing_is_symmetric(a: float, b: float, c: float, d: float) -> None:
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (a, b, c, d)]
    straight, _ = dpo(*tensors, 0.1, 0.5)
    swapped, _ = dpo(tensors[1], tensors[0], tensors[3], tensors[2], 0.1, 0.5)
    assert straight.item() == pytest.approx(swapped.item(), rel=1e-12)


@given(LOGPS, LOGPS, LOGPS, LOGPS)
def test_dpo_pushes_the_pair_apart_with_equal_force(a: float, b: float, c: float, d: float) -> None:
    """dL/dlogp(chosen) = -β σ(-margin) = -dL/dlogp(rejected) (2305.18290, section 4)."""
    chosen = torch.tensor([a], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([b], dtype=torch.float64, requires_grad=True)
    reference = [torch.tensor([value], dtype=torch.float64) for value in (c, d)]
    losses, metrics = dpo(chosen, rejected, *reference, 0.1)
    losses.sum().backward()
    expected = 0.1 / (1 + math.exp(metrics["rewards/margins"].item()))
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-expected, rel=1e-9)
    assert rejected.grad.item() == pytest.approx(expected, rel=1e-9)


def test_smoothed_dpo_is_least_at_the_log_odds_of_the_label() -> None:
    """With ε = 0.2 the gradient vanishes at margin ln(0.8/0.2) = ln 4; the plain loss still pushes there."""
    chosen = torch.tensor([math.log(4)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    for smoothing, expected in ((0.2, 0.0), (0.0, -0.2)):
        (gradient,) = torch.autograd.grad(dpo(chosen, zero, zero, zero, 1.0, smoothing)[0].sum(), chosen)
        assert gradient.item() == pytest.approx(expected, abs=1e-12)


def test_dpo_metrics_carry_no_gradient_and_extremes_stay_finite() -> None:
    chosen = torch.tensor([-1e4, -1.0], requires_grad=True)
    losses, metrics = dpo(chosen, torch.tensor([-1.0, -1e4]), torch.zeros(2), torch.zeros(2), 1.0)
    assert losses.tolist() == pytest.approx([9999.0, 0.0])
    assert not any(values.requires_grad for values in metrics.values())


def test_nll_is_the_mean_over_tokens_of_each_sequence() -> None:
    logps = torch.tensor([-6.0, -1.0], requires_grad=True)
    losses = nll(logps, torch.tensor([3, 2]))
    assert losses.tolist() == [2.0, 0.5]
    losses.sum().backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([-1 / 3, -1 / 2])


def test_cross_entropy_weighs_tokens_and_leaves_out_zeros() -> None:
    """(1·ln 2 + 0.5·ln 4) / 1.5 = (0.5 ln 4 + 0.5 ln 4) / 1.5 = 2 ln 2 / 1.5."""
    logps = torch.tensor([0.5, 0.25, 1e-30]).log()
    loss = cross_entropy(logps, torch.tensor([1.0, 0.5, 0.0]))
    assert loss.item() == pytest.approx(2 * math.log(2) / 1.5)
    uniform = torch.full((7,), 1 / 1024).log()
    assert cross_entropy(uniform, torch.ones(7)).item() == pytest.approx(math.log(1024))


def test_unequal_shapes_are_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes"):
        nll(torch.zeros(2), torch.ones(1))
    with pytest.raises(ValueError, match="shapes"):
        dpo(torch.zeros(2), torch.zeros(1), torch.zeros(2), torch.zeros(2), 0.1)

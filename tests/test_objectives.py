"""Objectives against values derived by hand, their limits and gradients, and TRL's own losses.

TRL's losses are called in its trainers themselves, on a model that answers with given log-probabilities; a whole
training against TRL is in tests/test_training.py.
"""

from __future__ import annotations

import doctest
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.maths import adjustments, objectives, tensors, unpaired
from prefloop.maths.adjustments import ld_logps, soft_label, wpo_weights
from prefloop.maths.objectives import (
    PairLogps,
    apo_down,
    apo_zero,
    cpo,
    cross_entropy,
    dpo,
    dpo_norm,
    dpop,
    hinge,
    ipo,
    nca,
    nll,
    orpo,
    preference_metrics,
    robust,
    simpo,
    sppo,
)
from prefloop.maths.tensors import group_sums
from prefloop.maths.unpaired import kto, kto_kl

Objective = Callable[[PairLogps], Tensor]
LOGPS = st.floats(-200, 0)
LN2 = math.log(2)
TRL = "TRL is a test oracle, not a dependency: pip install trl"


def pair(chosen: float, rejected: float, reference_chosen: float = 0.0, reference_rejected: float = 0.0) -> PairLogps:
    """One pair of answers of 4 and 5 tokens."""
    sides = [[chosen], [rejected], [reference_chosen], [reference_rejected], [4.0], [5.0]]
    return PairLogps(*torch.tensor(sides, dtype=torch.float64))


def gradients(objective: Objective, pairs: PairLogps) -> tuple[float, float]:
    """dL/dlog π(y_w) and dL/dlog π(y_l) of one pair."""
    sides = [side.clone().requires_grad_() for side in (pairs.chosen_B, pairs.rejected_B)]
    moved = replace(pairs, chosen_B=sides[0], rejected_B=sides[1])
    chosen, rejected = torch.autograd.grad(objective(moved).sum(), sides)
    return chosen.item(), rejected.item()


EXAMPLE = pair(-20.0, -50.0, -30.0, -40.0)
"""The pair of the docstrings: log-ratios 10 and −10, per token 2.5 and −2."""


@pytest.mark.parametrize("module", [objectives, unpaired, adjustments, tensors])
def test_the_examples_in_the_docstrings(module: Any) -> None:
    single = PairLogps(*torch.tensor([[-20.0], [-50.0], [-30.0], [-40.0], [4.0], [5.0]]))
    result = doctest.testmod(module, extraglobs={"torch": torch, "pairs": single})
    assert result.attempted >= {objectives: 16, unpaired: 2, adjustments: 4, tensors: 1}[module]
    assert result.failed == 0


# --- every pairwise objective ---


class Case(NamedTuple):
    objective: Objective
    value: float
    """On EXAMPLE, derived below."""
    start: float | None
    """Where policy and reference are the same model; None without a reference."""


CASES = {
    "dpo": Case(lambda p: dpo(p, 0.1), 0.126928, LN2),
    "dpo smoothed": Case(lambda p: dpo(p, 0.1, 0.1), 0.326928, LN2),
    "robust": Case(lambda p: robust(p, 0.1, 0.2), -0.539739, LN2),
    "ipo": Case(lambda p: ipo(p, 0.1), 0.25, 25.0),
    "ipo summed": Case(lambda p: ipo(p, 0.1, average=False), 225.0, 25.0),
    "hinge": Case(lambda p: hinge(p, 0.02), 0.6, 1.0),
    "dpo_norm": Case(lambda p: dpo_norm(p, 0.4), 0.152978, LN2),
    "simpo": Case(lambda p: simpo(p, 0.4, 2.5), 0.313262, None),
    "cpo": Case(lambda p: cpo(p, 0.1), 0.048587, None),
    "orpo": Case(lambda p: orpo(p, 0.1), 5.000667, None),
    "dpop": Case(lambda p: dpop(p, 0.1, 5.0), 0.126928, LN2),
    "apo_zero": Case(lambda p: apo_zero(p, 0.1), 0.537883, 1.0),
    "apo_down": Case(lambda p: apo_down(p, 0.1), 0.850262, 1.0),
    "nca": Case(lambda p: nca(p, 0.1), 1.126523, 2 * LN2),
    "sppo": Case(lambda p: sppo(p, 0.1), 50.0, 50.0),
}
"""EXAMPLE: βr = 1, −1, βΔ = 2 at β = 0.1. ln(1 + e⁻²) = 0.126928, ln(1 + e²) = 2.126928, σ(1) = 0.731059, σ(2) = 0.880797.

* dpo smoothed: 0.9 · 0.126928 + 0.1 · 2.126928. robust: (0.8 · 0.126928 − 0.2 · 2.126928) / 0.6.
* ipo: (4.5 − 5)², (20 − 5)², at the start 5². hinge: 1 − 0.02 · 20. dpo_norm: ln(1 + e^(−0.4 · 4.5)).
* simpo: ln(1 + e^(−0.4 · (−5 + 10 − 2.5))); cpo: ln(1 + e^(−0.1 · 30)).
* orpo: log-odds −5 − ln(1 − e⁻⁵) = −4.993239 and −10 − ln(1 − e⁻¹⁰) = −9.999955; 5 + 0.1 ln(1 + e^(−5.006715)).
* apo_zero: 2 − 2σ(1). apo_down: σ(1) + 1 − σ(2). nca: 1.5 · 0.313262 + 0.5 · 1.313262. sppo: 5² + 5².
"""
START = {name: case for name, case in CASES.items() if case.start is not None}


@pytest.mark.parametrize("name", CASES)
def test_values_by_hand(name: str) -> None:
    assert CASES[name].objective(EXAMPLE).tolist() == pytest.approx([CASES[name].value], abs=2e-6)


@pytest.mark.parametrize("name", START)
def test_values_at_the_start(name: str) -> None:
    """Policy = reference: the same for every pair, however likely its answers."""
    for logps in ((-3.0, -9.0), (-70.0, -1.0)):
        assert CASES[name].objective(pair(*logps, *logps)).item() == pytest.approx(CASES[name].start)


@pytest.mark.parametrize("name", CASES)
def test_chosen_up_and_rejected_down_lower_the_loss_at_the_start(name: str) -> None:
    """apo_down is the exception: its two terms' pulls on the chosen answer cancel where both rewards are 0."""
    chosen, rejected = gradients(CASES[name].objective, pair(-10, -9, -10, -9))
    assert rejected > 0
    assert chosen == 0 if name == "apo_down" else chosen < 0


def test_where_the_loss_pushes_the_other_way() -> None:
    """On EXAMPLE, far from the start: apo_down lowers the chosen answer as it is meant to; nca holds it back once
    σ(βr_w) > ⅔; IPO and SPPO pull a pair back that went beyond its target."""
    for name, signs in {"apo_down": (1, 1), "nca": (1, 1), "ipo summed": (1, -1), "sppo": (1, -1)}.items():
        found = gradients(CASES[name].objective, EXAMPLE)
        assert tuple(math.copysign(1, value) for value in found) == signs, name


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_exact(name: str) -> None:
    """Finite differences in float64, on pairs on both sides of every kink and branch."""
    sides = torch.tensor(
        [[-20.0, -3.0, -6.0, -0.4], [-50.0, -8.0, -0.2, -4.0], [-30.0, -5.0, -4.0, -0.9], [-40.0, -7.0, -0.3, -2.0]],
        dtype=torch.float64,
    )
    chosen, rejected = (side.clone().requires_grad_() for side in sides[:2])
    lengths = torch.tensor([[4.0, 2.0, 3.0, 1.0], [5.0, 4.0, 1.0, 2.0]])
    assert torch.autograd.gradcheck(
        lambda w, l: CASES[name].objective(PairLogps(w, l, *sides[2:], *lengths)),  # noqa: E741
        (chosen, rejected),
    )


@pytest.mark.parametrize("name", ["simpo", "cpo", "orpo"])
def test_without_a_reference_it_is_not_looked_at(name: str) -> None:
    objective = CASES[name].objective
    assert torch.equal(objective(EXAMPLE), objective(pair(-20.0, -50.0)))


@pytest.mark.parametrize("name", CASES)
def test_extremes_stay_finite(name: str) -> None:
    """Answers 10,000 nats apart, either way round, and certain ones (log-probability 0) in float32."""
    logps = torch.tensor([[-1e4, -1.0, 0.0, 0.0, -1e4], [-1.0, -1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    losses = CASES[name].objective(PairLogps(*logps, *torch.zeros(2, 5), *torch.full((2, 5), 3.0)))
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()


# --- limits of each ---


@given(LOGPS, LOGPS, LOGPS, LOGPS)
def test_dpo_pushes_the_pair_apart_with_equal_force(a: float, b: float, c: float, d: float) -> None:
    """dL/dlogp(chosen) = -β σ(-margin) = -dL/dlogp(rejected) (2305.18290, section 4)."""
    pairs = pair(a, b, c, d)
    expected = 0.1 / (1 + math.exp(preference_metrics(pairs, 0.1)["rewards/margins"].item()))
    assert gradients(lambda p: dpo(p, 0.1), pairs) == pytest.approx((-expected, expected), rel=1e-9)


@given(LOGPS, LOGPS, LOGPS, LOGPS)
def test_dpo_with_half_smoothing_is_symmetric(a: float, b: float, c: float, d: float) -> None:
    straight, swapped = dpo(pair(a, b, c, d), 0.1, 0.5), dpo(pair(b, a, d, c), 0.1, 0.5)
    assert straight.item() == pytest.approx(swapped.item(), rel=1e-12)


def test_dpo_with_large_beta_is_the_margin_where_wrong_and_nothing_where_right() -> None:
    assert dpo(EXAMPLE, 1e3).item() == 0
    assert dpo(pair(-50.0, -20.0, -40.0, -30.0), 1e3).item() == pytest.approx(2e4)


def test_smoothed_dpo_is_the_expected_loss_over_flips() -> None:
    """ε = 0.2 at margin 2: 0.8 ln(1 + e^-2) + 0.2 ln(1 + e^2) = 0.8·0.126928 + 0.2·2.126928 = 0.526928."""
    sides = torch.tensor([[-20.0], [-50.0], [-30.0], [-40.0], [4.0], [5.0]]).repeat(1, 2)
    per_pair = dpo(PairLogps(*sides), 0.1, torch.tensor([0.0, 0.2]))
    assert per_pair.tolist() == pytest.approx([0.126928, 0.526928], abs=1e-6)


def test_smoothed_dpo_is_least_at_the_log_odds_of_the_label() -> None:
    """With ε = 0.2 the gradient vanishes at margin ln(0.8/0.2) = ln 4; the plain loss still pushes there."""
    for smoothing, expected in ((0.2, 0.0), (0.0, -0.2)):
        chosen, _ = gradients(partial(dpo, beta=1.0, label_smoothing=smoothing), pair(math.log(4), 0.0))
        assert chosen == pytest.approx(expected, abs=1e-12)


def test_a_soft_label_is_met_at_its_margin() -> None:
    """MMPO: the gradient vanishes where the implicit reward margin is γ times the judged one, 0.5 · 3."""
    label = soft_label(torch.tensor([3.0], dtype=torch.float64), gamma=0.5)
    assert gradients(lambda p: dpo(p, 1.0, 1 - label), pair(1.5, 0.0))[0] == pytest.approx(0, abs=1e-12)
    assert soft_label(torch.tensor([0.0, 1.0]), gamma=1e3).tolist() == [0.5, 1.0]


@given(LOGPS, LOGPS)
def test_robust_is_unbiased_and_dpo_without_noise(a: float, b: float) -> None:
    """(1 − ε) L(right way round) + ε L(flipped) is DPO's loss on the right way round."""
    right, flipped = pair(a, b, -50, -60), pair(b, a, -60, -50)
    assert robust(right, 0.1, 0.0).item() == pytest.approx(dpo(right, 0.1).item())
    expected = 0.7 * robust(right, 0.1, 0.3) + 0.3 * robust(flipped, 0.1, 0.3)
    assert expected.item() == pytest.approx(dpo(right, 0.1).item(), abs=1e-9)


def test_robust_refuses_labels_that_say_nothing() -> None:
    with pytest.raises(ValueError, match=r"0\.5"):
        robust(EXAMPLE, 0.1, 0.5)


def test_ipo_is_least_at_half_the_inverse_of_tau() -> None:
    """r_w = 20 nats in 4 tokens: margin 5 per token = 1/(2 · 0.1)."""
    assert ipo(pair(20.0, 0.0), 0.1).item() == 0
    assert gradients(lambda p: ipo(p, 0.1), pair(20.0, 0.0)) == (0, 0)
    assert ipo(pair(5.0, 0.0), 0.1, average=False).item() == 0


def test_hinge_ends_at_its_margin() -> None:
    """Δ = 20: at β = 0.1 beyond 1/β = 10, no loss and no gradient; at β = 0.02 the gradient is ∓β."""
    assert hinge(EXAMPLE, 0.1).item() == 0
    assert gradients(lambda p: hinge(p, 0.1), EXAMPLE) == (0, 0)
    assert gradients(lambda p: hinge(p, 0.02), EXAMPLE) == pytest.approx((-0.02, 0.02))


def test_what_reduces_to_what() -> None:
    """dpo_norm is DPO on means; simpo at γ = 0 dpo_norm without a reference; cpo DPO without one; dpop DPO at λ = 0."""
    free, one_token = (
        pair(-20.0, -50.0),
        replace(EXAMPLE, chosen_lengths_B=torch.ones(1), rejected_lengths_B=torch.ones(1)),
    )
    assert torch.equal(dpo_norm(one_token, 0.1), dpo(EXAMPLE, 0.1))
    assert torch.equal(simpo(EXAMPLE, 2.0, 0.0), dpo_norm(free, 2.0))
    assert torch.equal(cpo(EXAMPLE, 0.1), dpo(free, 0.1))
    assert torch.equal(dpop(pair(-50.0, -20.0, -30.0, -40.0), 0.1, 0.0), dpo(pair(-50.0, -20.0, -30.0, -40.0), 0.1))
    assert torch.equal(orpo(EXAMPLE, 0.0), nll(EXAMPLE.chosen_B, EXAMPLE.chosen_lengths_B))


def test_simpo_asks_for_its_margin() -> None:
    """Mean log-probabilities −5 and −10: at a ratio of exactly 5 the loss is ln 2, at any β."""
    assert simpo(EXAMPLE, 2.0, 5.0).item() == pytest.approx(LN2)
    assert simpo(EXAMPLE, 10.0, 5.0).item() == pytest.approx(LN2)


def test_orpo_odds_are_exact_near_certainty_and_far_from_it() -> None:
    """p = ⅔ and ½ (either side of the switch at −ln 2): odds 2 and 1. p = 1 − 1e-6: log-odds ln(999999)."""
    for p, q in ((2 / 3, 0.5), (0.4, 0.5), (1 - 1e-6, 0.5), (1e-30, 0.5)):
        sides = torch.tensor([[p], [q], [1.0], [1.0]], dtype=torch.float64).log()
        odds = p / (1 - p) / (q / (1 - q))
        expected = -math.log(p) + math.log1p(1 / odds)
        assert orpo(PairLogps(*sides, *torch.ones(2, 1)), 1.0).item() == pytest.approx(expected, rel=1e-9)
    single = PairLogps(*torch.tensor([[-1e-6], [-LN2], [0.0], [0.0]]), *torch.ones(2, 1))
    assert orpo(single, 1.0).item() == pytest.approx(2e-6, rel=1e-3)  # log1p(−exp) would have lost half the digits


def test_dpop_fines_a_fall_of_the_chosen_answer() -> None:
    """Below the reference, raising the chosen answer counts 1 + λ times; above it, once."""
    chosen, rejected = gradients(lambda p: dpop(p, 0.1, 5.0), pair(-31.0, -50.0, -30.0, -40.0))
    assert chosen / rejected == pytest.approx(-6)
    chosen, rejected = gradients(lambda p: dpop(p, 0.1, 5.0), EXAMPLE)
    assert chosen / rejected == pytest.approx(-1)


def test_anchored_losses_saturate() -> None:
    """Large β: apo_zero 0 once both answers are on their side; apo_down 1, since the chosen answer is not down."""
    assert apo_zero(EXAMPLE, 1e3).item() == 0
    assert apo_down(EXAMPLE, 1e3).item() == 1
    assert apo_down(pair(-40.0, -80.0, -30.0, -40.0), 1e3).item() == 0  # both down, the rejected further


def test_nca_holds_the_chosen_answer_at_two_thirds() -> None:
    assert gradients(lambda p: nca(p, 1.0), pair(LN2, 0.0))[0] == pytest.approx(0, abs=1e-12)


def test_sppo_is_least_at_the_win_rates() -> None:
    """P_w = 0.9 and P_l = 0.3 at η = 1/β = 10: r_w = 4, r_l = −2. Answers as good as the policy's own stay."""
    wins = torch.tensor([0.9, 0.5]), torch.tensor([0.3, 0.5])
    sides = torch.tensor([[4.0, 0.0], [-2.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    assert sppo(PairLogps(*sides), 0.1, *wins).tolist() == pytest.approx([0, 0], abs=1e-10)


def test_per_token_divides_once() -> None:
    mean = EXAMPLE.per_token()
    assert (mean.chosen_logratios_B.item(), mean.rejected_logratios_B.item(), mean.margins_B.item()) == (2.5, -2.0, 4.5)
    assert mean.per_token() == mean
    metrics = preference_metrics(mean, 2.0)
    assert (metrics["rewards/chosen"].item(), metrics["logps/chosen"].item()) == (5.0, -5.0)


def test_metrics_by_hand_without_gradient() -> None:
    """Log-ratios 2 and -1 at β = 0.5: rewards 1 and -0.5, margin 1.5. A tie is not a win."""
    sides = torch.tensor([[-3.0, -4.0], [-8.0, -9.0], [-5.0, -4.0], [-7.0, -9.0], [1.0, 1.0], [1.0, 1.0]])
    metrics = preference_metrics(PairLogps(*sides.requires_grad_()), 0.5)
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "rewards/chosen": [1.0, 0.0],
        "rewards/rejected": [-0.5, 0.0],
        "rewards/margins": [1.5, 0.0],
        "rewards/accuracies": [1.0, 0.0],
        "logps/chosen": [-3.0, -4.0],
        "logps/rejected": [-8.0, -9.0],
    }
    assert not any(values.requires_grad for values in metrics.values())


def test_unequal_shapes_are_refused_not_broadcast() -> None:
    with pytest.raises(ValueError, match="shapes"):
        nll(torch.zeros(2), torch.ones(1))
    with pytest.raises(ValueError, match="shapes"):
        PairLogps(torch.zeros(2), torch.zeros(1), *torch.zeros(2, 2), *torch.ones(2, 2))
    with pytest.raises(ValueError, match="shapes"):
        PairLogps(*torch.zeros(4, 2), *torch.ones(2, 1))


# --- supervised ---


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


# --- KTO ---


def test_kto_by_hand() -> None:
    """β = 0.1, z = 10: good at r = 30: 1 − σ(2) = 0.119203; bad at r = 0: 1.5 (1 − σ(1)) = 1.5 · 0.268941."""
    losses = kto(torch.tensor([30.0, 0.0]), torch.tensor([True, False]), torch.tensor(10.0), 0.1, lambda_bad=1.5)
    assert losses.tolist() == pytest.approx([0.119203, 0.403412], abs=1e-6)


def test_kto_starts_at_half_its_weights_and_pushes_both_ways() -> None:
    logratios = torch.zeros(2, requires_grad=True)
    losses = kto(logratios, torch.tensor([True, False]), kto_kl(torch.zeros(3)), 0.1, 1.0, 4 / 3)
    assert losses.tolist() == pytest.approx([1 / 2, 2 / 3])
    losses.sum().backward()
    assert logratios.grad is not None
    assert logratios.grad.tolist() == pytest.approx([-0.1 / 4, 0.1 / 4 * 4 / 3])  # β σ'(0) λ


def test_kto_takes_no_gradient_through_the_reference_point() -> None:
    z, logratios = torch.tensor(2.0, requires_grad=True), torch.tensor([1.0, 5.0], requires_grad=True)
    kto(logratios, torch.tensor([True, False]), z, 0.1).sum().backward()
    assert z.grad is None
    assert not kto_kl(logratios).requires_grad
    assert kto_kl(-logratios).item() == 0


def test_kto_gradients_are_exact_and_its_losses_bounded() -> None:
    logratios = torch.tensor([-3.0, 4.0, 0.5], dtype=torch.float64, requires_grad=True)
    good, z = torch.tensor([True, False, True]), torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: kto(x, good, z, 0.3, 1.2, 0.8), logratios)
    assert kto(1e6 * logratios.detach(), good, z, 0.3, 1.2, 0.8).tolist() == pytest.approx([1.2, 0.8, 0.0])


# --- adjustments ---

LENGTHS = torch.tensor([4, 2, 1, 3, 5, 1])
"""Three chosen answers, then three rejected ones."""
OWNER = torch.repeat_interleave(torch.arange(6), LENGTHS)
POSITIONS = torch.cat([torch.arange(int(length)) for length in LENGTHS])
PUBLIC = torch.minimum(LENGTHS[:3], LENGTHS[3:]).repeat(2)


def test_ld_logps_between_the_plain_sum_and_a_cut() -> None:
    """Chosen of 4 tokens against rejected of 3: its fourth token counts α."""
    tokens = -torch.rand(16)
    assert torch.allclose(ld_logps(tokens, OWNER, POSITIONS, PUBLIC, 1.0), group_sums(tokens, OWNER, 6))
    cut = ld_logps(tokens, OWNER, POSITIONS, PUBLIC, 0.0)
    assert cut[0].item() == pytest.approx(tokens[:3].sum().item())
    assert cut[3].item() == pytest.approx(tokens[7:10].sum().item())  # the shorter one: whole
    halved = ld_logps(tokens, OWNER, POSITIONS, PUBLIC, 0.5)
    assert halved[0].item() == pytest.approx(tokens[:3].sum().item() + 0.5 * tokens[3].item())
    assert torch.autograd.gradcheck(
        lambda x: ld_logps(x, OWNER, POSITIONS, PUBLIC, 0.3), tokens.double().requires_grad_()
    )


def test_wpo_weights_are_one_for_uniform_policies_and_carry_no_gradient() -> None:
    """log π(y_t) = log Σ_v π(v)² = −ln 64 everywhere; twice as likely tokens weigh 2."""
    uniform = torch.full((16,), -math.log(64), requires_grad=True)
    assert torch.allclose(wpo_weights(uniform, uniform, OWNER, LENGTHS), torch.ones(6))
    weights = wpo_weights(uniform + LN2, uniform, OWNER, LENGTHS)
    assert torch.allclose(weights, torch.full((6,), 2.0))
    assert not weights.requires_grad


# --- TRL ---

DPO_TYPES: dict[str, Callable[[PairLogps, float], Tensor]] = {
    "sigmoid": dpo,
    "robust": lambda p, beta: robust(p, beta, 0.2),
    "ipo": ipo,
    "hinge": hinge,
    "sigmoid_norm": dpo_norm,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "nca_pair": nca,
    "sppo_hard": sppo,
}


class Batch(NamedTuple):
    """Log-probabilities of the 16 tokens of six answers, without a model."""

    policy_T: Tensor
    reference_T: Tensor
    squares_T: Tensor

    def pairs(self) -> PairLogps:
        sums, reference = (group_sums(values, OWNER, 6) for values in (self.policy_T, self.reference_T))
        return PairLogps(*sums.split(3), *reference.split(3), *LENGTHS.split(3))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    policy, reference, squares = -3 * torch.rand(3, 16, generator=generator)
    return Batch(policy.requires_grad_(), reference, squares)


class Answering(torch.nn.Module):
    """A model that answers with given log-probabilities, laid out as TRL's fused head does, 2 prompt tokens first."""

    is_gradient_checkpointing = False

    def __init__(self, tokens_T: Tensor, squares_T: Tensor) -> None:
        super().__init__()
        self.eval()
        self.tokens, self.squares = (self.padded(values) for values in (tokens_T, squares_T))

    @staticmethod
    def padded(values_T: Tensor) -> Tensor:
        """[6, 6]: one prompt position, then the answer, then zeros."""
        rows = values_T.split(LENGTHS.tolist())
        answers = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return torch.nn.functional.pad(answers, (1, 0))

    def forward(self, **inputs: Any) -> Any:
        zeros = torch.zeros_like(self.tokens)
        return SimpleNamespace(
            log_probs=self.tokens,
            log_sum_sq_probs=self.squares,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
        )


MASK = torch.nn.functional.pad((torch.arange(5) < LENGTHS[:, None]).long(), (2, 0))
"""[6, 7] completion mask: two prompt tokens, the answer, padding."""
SIDES = ("chosen", "rejected")
GATHER = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


def trl_dpo(batch: Batch, loss_type: str, beta: float, **settings: Any) -> tuple[Tensor, dict[str, float]]:
    """Loss and metrics of `DPOTrainer._compute_loss` itself."""
    trl = pytest.importorskip("trl", reason=TRL)
    trainer = object.__new__(trl.DPOTrainer)
    trainer.__dict__.update(
        model=Answering(batch.policy_T, batch.squares_T),
        ref_model=Answering(batch.reference_T, batch.squares_T),
        accelerator=GATHER,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        beta=beta,
        loss_types=[loss_type],
        loss_weights=[1.0],
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        **{"label_smoothing": 0.2, "ld_alpha": None, "use_weighting": False, "f_divergence_type": "reverse_kl"}
        | settings,
    )
    inputs = {"input_ids": MASK, "attention_mask": MASK, "completion_mask": MASK}
    loss = trainer._compute_loss(trainer.model, inputs, return_outputs=False)
    return loss, {name: values[0] for name, values in trainer._metrics["eval"].items()}


@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("loss_type", DPO_TYPES)
def test_pairwise_losses_are_trls(loss_type: str, beta: float, batch: Batch) -> None:
    """Value, gradient in every token's log-probability, and metrics of one batch."""
    theirs, logged = trl_dpo(batch, loss_type, beta)
    pairs = batch.pairs()
    ours = DPO_TYPES[loss_type](pairs, beta).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = torch.autograd.grad(theirs, batch.policy_T)[0]
    assert torch.allclose(torch.autograd.grad(ours, batch.policy_T)[0], expected, rtol=1e-4, atol=1e-6)
    for name, values in preference_metrics(pairs, beta).items():
        assert values.mean().item() == pytest.approx(logged[name], rel=1e-5), name


def test_trl_ignores_label_smoothing_under_sigmoid(batch: Batch) -> None:
    """A difference on purpose: TRL's loss with label_smoothing 0.2 is plain DPO; ours is cDPO."""
    pairs = batch.pairs()
    theirs = trl_dpo(batch, "sigmoid", 2.0, label_smoothing=0.2)[0].item()
    assert theirs == pytest.approx(dpo(pairs, 2.0).mean().item(), rel=1e-5)
    assert theirs != pytest.approx(dpo(pairs, 2.0, 0.2).mean().item(), rel=1e-2)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_ld_dpo_is_trls(alpha: float, batch: Batch) -> None:
    """On policy and reference, as TRL does (LLaMA-Factory: on the policy alone)."""
    theirs, _ = trl_dpo(batch, "sigmoid", 0.5, ld_alpha=alpha)
    sides = [ld_logps(tokens, OWNER, POSITIONS, PUBLIC, alpha) for tokens in (batch.policy_T, batch.reference_T)]
    ours = dpo(PairLogps(*sides[0].split(3), *sides[1].split(3), *LENGTHS.split(3)), 0.5).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = torch.autograd.grad(theirs, batch.policy_T)[0]
    assert torch.allclose(torch.autograd.grad(ours, batch.policy_T)[0], expected, rtol=1e-4, atol=1e-6)


def test_wpo_is_trls(batch: Batch) -> None:
    theirs, _ = trl_dpo(batch, "sigmoid", 0.5, use_weighting=True)
    weights = wpo_weights(batch.policy_T, batch.squares_T, OWNER, LENGTHS)
    ours = (dpo(batch.pairs(), 0.5) * weights[:3] * weights[3:]).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    expected = torch.autograd.grad(theirs, batch.policy_T)[0]
    assert torch.allclose(torch.autograd.grad(ours, batch.policy_T)[0], expected, rtol=1e-4, atol=1e-6)


def test_trls_sft_term_is_a_mean_over_tokens_ours_over_answers(batch: Batch) -> None:
    """A difference on purpose: chosen answers of 4, 2 and 1 tokens weigh 4 : 2 : 1 in TRL, the same in `nll`."""
    theirs, _ = trl_dpo(batch, "sft", 0.1)
    assert theirs.item() == pytest.approx(cross_entropy(batch.policy_T[:7], torch.ones(7)).item(), rel=1e-5)
    ours = nll(batch.pairs().chosen_B, LENGTHS[:3]).mean()
    assert ours.item() != pytest.approx(theirs.item(), rel=1e-2)


def reference_free(module: str, trainer: str, **settings: Any) -> Any:
    """A trainer of trl.experimental without a model."""
    experimental = pytest.importorskip(f"trl.experimental.{module}", reason=TRL)
    found = object.__new__(getattr(experimental, trainer))
    found.__dict__.update(accelerator=GATHER, **settings)
    return found


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_simpo_is_trls_with_the_ratio_for_the_absolute_gamma(gamma: float, batch: Batch) -> None:
    """A difference on purpose: TRL's simpo_gamma is γ, ours γ/β."""
    trainer = reference_free(
        "cpo", "CPOTrainer", alpha=0.0, beta=2.0, loss_type="simpo", simpo_gamma=gamma, label_smoothing=0.0
    )
    pairs = batch.pairs()
    mean = pairs.per_token()
    theirs, rewards, _ = trainer.cpo_loss(mean.chosen_B, mean.rejected_B)
    assert torch.allclose(simpo(pairs, 2.0, gamma / 2.0), theirs, rtol=1e-5)
    free = replace(mean, reference_chosen_B=torch.zeros(3), reference_rejected_B=torch.zeros(3))
    assert torch.allclose(preference_metrics(free, 2.0)["rewards/chosen"], rewards)


def test_cpo_is_trls(batch: Batch) -> None:
    trainer = reference_free("cpo", "CPOTrainer", alpha=0.0, beta=0.5, loss_type="sigmoid", label_smoothing=0.0)
    pairs = batch.pairs()
    theirs, *_ = trainer.cpo_loss(pairs.chosen_B, pairs.rejected_B)
    assert torch.allclose(cpo(pairs, 0.5), theirs, rtol=1e-5)


def test_orpo_is_trls_but_for_the_prompt_in_its_nll() -> None:
    """`ORPOTrainer.get_batch_loss_metrics` itself, from the logits of two prompt tokens and the answers.

    A difference on purpose: TRL's NLL is a mean over the tokens of prompts and answers together, ours is the mean
    over an answer's own tokens, per answer. The odds-ratio terms are equal.
    """
    trainer = reference_free(
        "orpo", "ORPOTrainer", beta=0.3, is_encoder_decoder=False, padding_value=0, aux_loss_enabled=False
    )
    logits, ids = 3 * torch.randn(6, 7, 11), torch.randint(11, (6, 7))
    present = torch.arange(7) < 2 + LENGTHS[:, None]
    labels = torch.where(MASK.bool(), ids, -100)
    inputs = {"input_ids": ids, "attention_mask": present.long(), "labels": labels}
    sides = {
        f"{side}_{key}": rows for key, value in inputs.items() for side, rows in zip(SIDES, value.split(3), strict=True)
    }
    theirs, logged = trainer.get_batch_loss_metrics(lambda *args, **kwargs: SimpleNamespace(logits=logits), sides)

    picked = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]  # the logits before a token predict it
    sums = (picked * MASK[:, 1:]).sum(1)
    pairs = PairLogps(*sums.split(3), torch.zeros(3), torch.zeros(3), *LENGTHS.split(3))
    ours = orpo(pairs, 0.3)
    nll_B = nll(pairs.chosen_B, pairs.chosen_lengths_B)
    assert (ours - nll_B).mean().item() == pytest.approx(theirs.item() - logged["nll_loss"], rel=1e-5)
    prompts_too = cross_entropy(picked[:3][present[:3, 1:]], torch.ones(10))
    assert logged["nll_loss"] == pytest.approx(prompts_too.item(), rel=1e-5)
    assert logged["nll_loss"] != pytest.approx(nll_B.mean().item(), rel=1e-3)


@pytest.mark.parametrize("good", [[True, False, True, True, False, False], [True] * 6, [False] * 6])
@pytest.mark.parametrize("shift", [-1.0, 1.0])
def test_kto_is_trls(good: list[bool], shift: float, batch: Batch) -> None:
    """`KTOTrainer._compute_loss` itself; its mismatched answers are given, so that z is positive or clamped."""
    trl = pytest.importorskip("trl", reason=TRL)
    labels, mismatched = torch.tensor(good), shift + torch.rand(6)
    policy, reference = Answering(batch.policy_T, batch.squares_T), Answering(batch.reference_T, batch.squares_T)
    trainer = object.__new__(trl.KTOTrainer)
    trainer.__dict__.update(
        model=policy,
        ref_model=reference,
        accelerator=GATHER,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        beta=0.3,
        loss_type="kto",
        desirable_weight=1.2,
        undesirable_weight=0.8,
        calculate_KL=True,
        precompute_ref_logps=False,
        aux_loss_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _compute_kl_logps=lambda model, batch: mismatched if model is policy else torch.zeros(6),
    )
    inputs = {"input_ids": MASK, "attention_mask": MASK, "completion_mask": MASK, "label": labels}
    theirs = trainer._compute_loss(policy, inputs, return_outputs=False)
    logratios = group_sums(batch.policy_T - batch.reference_T, OWNER, 6)
    ours = kto(logratios, labels, kto_kl(mismatched), 0.3, 1.2, 0.8).mean()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert kto_kl(mismatched).item() == pytest.approx(trainer._metrics["eval"]["kl"][0])
    expected = torch.autograd.grad(theirs, batch.policy_T)[0]
    assert torch.allclose(torch.autograd.grad(ours, batch.policy_T)[0], expected, rtol=1e-4, atol=1e-7)

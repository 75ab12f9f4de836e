"""Advantages and clipped losses against hand values, cuts into micro-batches and TRL's own trainers."""

from __future__ import annotations

import doctest
import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import MagicMock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from prefloop.maths import advantages as module
from prefloop.maths.advantages import (
    Normalisation,
    completion_weights,
    grpo,
    policy_gradient_loss,
    rloo,
    sequence_policy_gradient_loss,
    whitened,
    zero_spread,
)

NAN = math.nan
TRL = "TRL is a test oracle, not a dependency: pip install trl"
REWARDS = torch.tensor([[1.0, 0.0, 0.5, NAN], [0.3, 0.3, 0.3, 0.3], [NAN, NAN, 2.0, NAN], [4.0, -1.0, 0.0, 0.0]])
"""Four prompts: one answer unscored, no spread, one answer scored, all scored."""
LENGTHS = torch.tensor([3, 1, 5, 2])
OWNER = torch.repeat_interleave(torch.arange(4), LENGTHS)
ADVANTAGES = torch.tensor([1.0, -1.0, 0.0, -0.5])
CLIP: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.28}


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.attempted >= 10
    assert result.failed == 0


def sampled(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of 11 tokens under the policy, the sampler and the reference: some ratios are clipped."""
    generator = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(11, generator=generator)
    return old + 0.4 * torch.randn(11, generator=generator), old, old + 0.2 * torch.randn(11, generator=generator)


# --- advantages ---


def test_rloo_by_hand() -> None:
    """1 − (0 + ½)/2 = 0.75; 0 − (1 + ½)/2 = −0.75; ½ − ½ = 0; the unscored answer 0. Last row: 4 − (−1)/3, ..."""
    expected = [[0.75, -0.75, 0.0, 0.0], [0.0] * 4, [0.0] * 4, [13 / 3, -7 / 3, -1.0, -1.0]]
    assert rloo(REWARDS).tolist() == [pytest.approx(row) for row in expected]


def test_grpo_by_hand() -> None:
    """Row 0: mean ½, deviation √((¼ + ¼ + 0)/2) = ½, so ±1 and 0; without division ±½."""
    assert grpo(REWARDS, epsilon=0.0)[0].tolist() == pytest.approx([1.0, -1.0, 0.0, 0.0])
    assert grpo(REWARDS)[0, 0].item() == pytest.approx(0.5 / 0.5001)
    assert grpo(REWARDS, std=False)[0].tolist() == pytest.approx([0.5, -0.5, 0.0, 0.0])
    assert grpo(REWARDS)[3].std().item() == pytest.approx(1, abs=1e-4)


def test_groups_without_signal_give_zero_exactly_and_are_counted() -> None:
    """The float32 mean of eight times 0.7 is not 0.7; divided by 1e-4 that rounding would be a signal."""
    for rewards in (torch.full((1, 8), 0.7), torch.tensor([[1.0]]), torch.full((1, 2), NAN)):
        for advantages in (rloo(rewards), grpo(rewards), grpo(rewards, std=False)):
            assert advantages.tolist() == [[0.0] * rewards.shape[1]]
    assert zero_spread(REWARDS).tolist() == [False, True, True, False]


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.floats(-5, 5), st.floats(0.5, 3))
def test_advantages_sum_to_zero_and_ignore_a_shift(rewards: list[float], shift: float, scale: float) -> None:
    """A constant added to all rewards changes nothing; a factor scales RLOO and leaves GRPO as it is."""
    row = torch.tensor([rewards], dtype=torch.float64)
    moved = scale * row + shift
    assert rloo(row).sum().item() == pytest.approx(0, abs=1e-9)
    if not zero_spread(row) and row.std() > 1e-6 and not zero_spread(moved):
        assert rloo(moved)[0].tolist() == pytest.approx((scale * rloo(row))[0].tolist(), abs=1e-6)
        assert grpo(moved, epsilon=0.0)[0].tolist() == pytest.approx(grpo(row, epsilon=0.0)[0].tolist(), abs=1e-4)


def test_rloo_is_grpo_without_division_times_k_over_k_minus_1() -> None:
    rewards = torch.randn(5, 4)
    assert torch.allclose(rloo(rewards), grpo(rewards, std=False) * 4 / 3, atol=1e-6)


def test_whitening_by_hand() -> None:
    """1, 0, ½ | 0.3 four times | 2 | 4, −1, 0, 0: twelve scored, sum 7.7, sum of squares 1.25 + 0.36 + 4 + 17."""
    mean, deviation = 7.7 / 12, math.sqrt((22.61 - 7.7**2 / 12) / 11)
    white = whitened(REWARDS, epsilon=0.0)
    assert white[0, 0].item() == pytest.approx((1 - mean) / deviation)
    assert white[2, 2].item() == pytest.approx((2 - mean) / deviation)
    assert white.isnan().equal(REWARDS.isnan())
    assert white[~white.isnan()].mean().item() == pytest.approx(0, abs=1e-6)
    assert white[~white.isnan()].std().item() == pytest.approx(1)
    assert zero_spread(white).tolist() == [False, True, True, False]


def test_whitening_what_has_no_spread_gives_zero_exactly() -> None:
    for rewards in (torch.full((3, 8), 0.7), torch.tensor([[2.0, NAN]])):
        assert whitened(rewards).nansum().item() == 0.0
        assert whitened(rewards).isnan().equal(rewards.isnan())
    assert whitened(torch.full((1, 2), NAN)).isnan().all()


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.floats(-5, 5), st.floats(0.5, 3))
def test_whitening_knows_no_scale_and_no_shift(rewards: list[float], shift: float, scale: float) -> None:
    table = torch.tensor(rewards, dtype=torch.float64).view(2, 2)
    if table.std() > 1e-3:
        moved = whitened(scale * table + shift, epsilon=0.0)
        assert moved.flatten().tolist() == pytest.approx(whitened(table, epsilon=0.0).flatten().tolist(), abs=1e-6)


def trl_advantages(trainer: str, **settings: Any) -> Tensor:
    """What TRL's `_generate_and_score_completions` hands on, its sampling and scoring replaced by REWARDS."""
    trl = pytest.importorskip("trl", reason=TRL)
    answers = REWARDS.numel()
    self = MagicMock(
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        accelerator=SimpleNamespace(
            device="cpu", process_index=0, gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
        ),
        num_generations=4,
        beta=0.0,
        reward_weights=torch.ones(1),
        reward_func_names=["judge"],
        pad_to_multiple_of=None,
        mask_truncated_completions=False,
        environment_factories=None,
        environments=None,
        tools=None,
        use_vllm=False,
        log_multimodal=False,
        reward_clip_range=None,
        normalize_advantages=False,
        multi_objective_aggregation="sum_then_normalize",
        num_iterations=1,
        _pending_extra_logs={},
        _pending_metrics={},
        **settings,
    )
    self.args.gradient_accumulation_steps = self.args.steps_per_generation = 1
    self._tokenizer.pad_token_id = 0
    prompts, completions = [[1]] * answers, [[2, 3]] * answers
    generated: tuple[Any, ...] = (prompts, completions, [""] * answers)
    if trainer == "GRPOTrainer":
        generated = (prompts, completions, None, [""] * answers, None, {}, None, [])
    self._generate.return_value = generated
    self._calculate_rewards.return_value = REWARDS.reshape(-1, 1)
    self._get_per_token_logps_and_entropies.return_value = (torch.zeros(answers, 2), None, None)
    output = getattr(trl, trainer)._generate_and_score_completions(self, [{"prompt": "p"}] * answers)
    advantages: Tensor = output["advantages"]
    return advantages.view_as(REWARDS)


def test_advantages_are_trls() -> None:
    """Unscored answers, a group of one and a group without spread included."""
    assert torch.allclose(rloo(REWARDS), trl_advantages("RLOOTrainer"), atol=1e-6)
    assert torch.allclose(grpo(REWARDS), trl_advantages("GRPOTrainer", scale_rewards="group"), atol=1e-6)
    assert torch.allclose(grpo(REWARDS, std=False), trl_advantages("GRPOTrainer", scale_rewards="none"), atol=1e-6)


# --- losses ---


def test_weights_by_hand() -> None:
    """Lengths 3, 1, 5, 2 of four answers, 11 tokens, limit 5."""
    weights = {name: completion_weights(LENGTHS, name) for name in ("grpo", "dapo", "rloo")}
    assert weights["grpo"].tolist() == pytest.approx([1 / 12, 1 / 4, 1 / 20, 1 / 8])
    assert weights["dapo"].tolist() == pytest.approx([1 / 11] * 4)
    assert weights["rloo"].tolist() == [0.25] * 4
    assert completion_weights(LENGTHS, "dr-grpo", max_length=5).tolist() == pytest.approx([1 / 20] * 4)
    masked = completion_weights(torch.tensor([0, 2]), "grpo")
    assert masked.tolist() == [0.5, 0.25]  # a masked answer has no tokens, and still counts among the two
    with pytest.raises(ValueError, match="max_length"):
        completion_weights(LENGTHS, "dr-grpo")
    with pytest.raises(ValueError, match="max_length"):
        completion_weights(LENGTHS, "dapo", max_length=5)


def test_token_loss_by_hand() -> None:
    """Ratios 1.5 and 0.5 with A = 1, limits 0.2: −min(1.5, 1.2) − min(0.5, 0.8) = −1.7; with A = −1: 1.5 + 0.8.

    k3 where the reference is twice as likely: 2 − ln 2 − 1 = 0.306853, weighed 0.5, on each of two tokens.
    """
    logps, old = torch.tensor([1.5, 0.5]).log(), torch.zeros(2)
    arguments: dict[str, Any] = {"owner_T": torch.tensor([0, 0]), "clip_low": 0.2, "clip_high": 0.2}
    up, metrics = policy_gradient_loss(logps, old, None, torch.tensor([1.0]), **arguments)
    assert up.item() == pytest.approx(-1.7)
    assert [values.item() for values in metrics.values()] == [0.0, 1.0, 1.0]
    down, metrics = policy_gradient_loss(logps, old, None, torch.tensor([-1.0]), **arguments)
    assert down.item() == pytest.approx(2.3)
    assert [values.item() for values in metrics.values()] == [1.0, 0.0, 1.0]
    reference = logps + math.log(2)
    with_kl, metrics = policy_gradient_loss(logps, old, reference, torch.tensor([1.0]), **arguments, kl_weight=0.5)
    assert with_kl.item() == pytest.approx(-1.7 + 0.5 * 2 * 0.306853, abs=1e-6)
    assert metrics["kl"].item() == pytest.approx(2 * 0.306853, abs=1e-6)


def test_on_policy_the_gradient_is_reinforces() -> None:
    """At ρ = 1 the loss is −A per token and its gradient that of −A log π; k3 has neither value nor gradient."""
    logps = sampled()[0].requires_grad_()
    losses, metrics = policy_gradient_loss(
        logps, logps.detach(), logps.detach(), ADVANTAGES, OWNER, **CLIP, kl_weight=0.1
    )
    assert losses.tolist() == pytest.approx((-ADVANTAGES * LENGTHS).tolist())
    assert all(values.abs().max() < 1e-6 for values in metrics.values())
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert gradient.tolist() == pytest.approx((-ADVANTAGES[OWNER]).tolist(), abs=1e-6)


def test_clipped_tokens_have_no_gradient_and_the_way_back_has() -> None:
    """Too likely already and A > 0: no pull. Too unlikely and A > 0: pulled up, unclipped."""
    logps = torch.tensor([1.5, 0.5, 1.5, 0.5]).log().requires_grad_()
    owner, advantages = torch.tensor([0, 0, 1, 1]), torch.tensor([1.0, -1.0])
    losses, _ = policy_gradient_loss(logps, torch.zeros(4), None, advantages, owner, clip_low=0.2, clip_high=0.2)
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert gradient.tolist() == pytest.approx([0.0, -0.5, 1.5, 0.0])


def test_k3_is_never_negative_and_pulls_to_the_reference() -> None:
    logps, old, reference = sampled()
    logps.requires_grad_()
    losses, metrics = policy_gradient_loss(logps, old, reference, torch.zeros(4), OWNER, **CLIP, kl_weight=1.0)
    assert metrics["kl"].min().item() >= 0
    assert not metrics["kl"].requires_grad
    (gradient,) = torch.autograd.grad(losses.sum(), logps)
    assert torch.equal(gradient.sign(), (logps.detach() - reference).sign())


def test_a_kl_term_without_a_reference_is_refused() -> None:
    logps, old, _ = sampled()
    with pytest.raises(ValueError, match="reference"):
        policy_gradient_loss(logps, old, None, ADVANTAGES, OWNER, **CLIP, kl_weight=0.1)


def test_gradcheck() -> None:
    logps, old, reference = (tensor.double() for tensor in sampled())
    logps.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: policy_gradient_loss(x, old, reference, ADVANTAGES, OWNER, **CLIP, kl_weight=0.3)[0], logps
    )
    assert torch.autograd.gradcheck(
        lambda x: sequence_policy_gradient_loss(x, old[:4], ADVANTAGES.double(), **CLIP)[0],
        logps.detach()[:4].requires_grad_(),
    )


def weighted(name: Normalisation, part: slice, logps: Tensor, kl_weight: float = 0.3) -> Tensor:
    """Loss of the answers of `part`, their weights taken over the whole step."""
    _, old, reference = sampled()
    weights = completion_weights(LENGTHS, name, 5 if name == "dr-grpo" else None)[part]
    inside = torch.isin(OWNER, torch.arange(4)[part])
    owner = OWNER[inside] - (part.start or 0)
    tokens = logps[inside], old[inside]
    if name == "rloo":
        sums = [torch.zeros(len(weights)).index_add(0, owner, values) for values in tokens]
        losses, _ = sequence_policy_gradient_loss(sums[0], sums[1], ADVANTAGES[part], **CLIP)
    else:
        losses, _ = policy_gradient_loss(
            *tokens, reference[inside], ADVANTAGES[part], owner, **CLIP, kl_weight=kl_weight
        )
    return (losses * weights).sum()


@pytest.mark.parametrize("name", get_args(Normalisation))
def test_a_step_cut_in_parts_sums_to_the_whole(name: Normalisation) -> None:
    """Loss and gradient, for cuts with very different numbers of tokens."""
    logps = sampled()[0].requires_grad_()
    whole = weighted(name, slice(None), logps)
    (gradient,) = torch.autograd.grad(whole, logps)
    for cut in (1, 2, 3):
        parts = weighted(name, slice(0, cut), logps) + weighted(name, slice(cut, 4), logps)
        assert parts.item() == pytest.approx(whole.item(), abs=1e-6)
        assert torch.allclose(torch.autograd.grad(parts, logps)[0], gradient, atol=1e-7)


# --- TRL's losses ---


def padded(values: Tensor) -> Tensor:
    rows = values.split(LENGTHS.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-1.0)


def trl_trainer(cls: Any, logps: Tensor, **settings: Any) -> Any:
    """A trainer without a model: its forward pass gives `logps`, padding included, which its mask must drop."""
    trainer = object.__new__(cls)
    trainer.__dict__.update(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x),
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        epsilon_low=CLIP["clip_low"],
        epsilon_high=CLIP["clip_high"],
        aux_loss_enabled=False,
        _metrics={"eval": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logps, torch.zeros_like(logps), None),
        **settings,
    )
    return trainer


def trl_inputs(**more: Any) -> dict[str, Any]:
    mask = (torch.arange(5) < LENGTHS[:, None]).long()
    prompt = torch.ones(4, 2, dtype=torch.long)
    ids = {"prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": mask, "completion_mask": mask}
    return {**ids, "advantages": ADVANTAGES, "num_items_in_batch": LENGTHS.sum(), **more}


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize(("name", "theirs"), [("grpo", "grpo"), ("dapo", "dapo"), ("dr-grpo", "dr_grpo")])
def test_token_losses_are_trls(name: Normalisation, theirs: str, beta: float) -> None:
    """`GRPOTrainer._compute_loss` itself: loss, gradient, clip shares and KL."""
    trl = pytest.importorskip("trl", reason=TRL)
    logps, old, reference = sampled()
    logps.requires_grad_()
    trainer = trl_trainer(
        trl.GRPOTrainer,
        padded(logps),
        loss_type=theirs,
        beta=beta,
        max_completion_length=5,
        importance_sampling_level="token",
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    inputs = trl_inputs(old_per_token_logps=padded(old), ref_per_token_logps=padded(reference))
    loss = trainer._compute_loss(None, inputs)
    ours = weighted(name, slice(None), logps, beta)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    expected = torch.autograd.grad(loss, logps)[0]
    assert torch.allclose(torch.autograd.grad(ours, logps)[0], expected, atol=1e-6)
    _, metrics = policy_gradient_loss(logps, old, reference, ADVANTAGES, OWNER, **CLIP)
    logged = trainer._metrics["eval"]
    for figure, values in metrics.items():
        if figure in logged:  # TRL computes no KL at beta 0
            assert values.sum().item() / 11 == pytest.approx(logged[figure][0], rel=1e-5), figure
    assert logged["clip_ratio/region_mean"][0] > 0  # the case has clipped tokens


def test_sequence_loss_is_trls_rloo() -> None:
    """`RLOOTrainer._compute_loss` itself."""
    trl = pytest.importorskip("trl", reason=TRL)
    logps, old, _ = sampled(seed=3)
    sums, old_sums = (torch.zeros(4).index_add(0, OWNER, values) for values in (logps, old))
    trainer = trl_trainer(trl.RLOOTrainer, padded(logps))
    loss = trainer._compute_loss(None, trl_inputs(old_logps=old_sums))
    losses, metrics = sequence_policy_gradient_loss(sums, old_sums, ADVANTAGES, **CLIP)
    ours = (losses * completion_weights(LENGTHS, "rloo")).sum()
    assert ours.item() == pytest.approx(loss.item(), rel=1e-5)
    for figure, values in metrics.items():
        assert values.mean().item() == trainer._metrics["eval"][figure][0], figure
    assert metrics["clip_ratio/region_mean"].sum().item() > 0

"""Policy gradients from groups of answers: advantages (RLOO, GRPO) and the clipped losses that use them.

Suffixes: ``_G`` prompts, ``_K`` answers sampled per prompt, ``_N`` answers of a batch (G·K in a step), ``_T`` their
scored tokens; ``owner_T`` is the answer of each token, 0..N−1. Losses are minimised, advantages are constants.

A loss is the sum of `policy_gradient_loss` (or `sequence_policy_gradient_loss`) over answers, each times its weight
from `completion_weights`. The weights are taken once over all answers of a step; the losses may be computed in any
micro-batches, whose weighted sums add up to the loss of the whole step.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from prefloop.maths.objectives import Metrics
from prefloop.maths.tensors import group_sums, same_shape

Normalisation = Literal["grpo", "dapo", "dr-grpo", "rloo"]


def rloo(rewards_GK: Tensor) -> Tensor:
    """REINFORCE leave-one-out (Ahmadian et al. 2024, 2402.14740): the baseline is the mean of the others, [G, K].

    .. math:: A_i = r_i − 1/(K−1) Σ_{j≠i} r_j = K/(K−1) · (r_i − mean_j r_j)

    The paper's reward carries the KL: r − β Σ_t (log π_old(y_t) − log π_ref(y_t)), subtracted by the caller. A NaN
    reward was not scored: its advantage is 0 and K counts the others. Groups of no spread give 0.

    >>> rloo(torch.tensor([[1.0, 0.0, 0.0]]))  # 1 − 0, 0 − ½, 0 − ½
    tensor([[ 1.0000, -0.5000, -0.5000]])
    """
    scored_G1 = (~rewards_GK.isnan()).sum(1, keepdim=True)
    advantages_GK = _centred(rewards_GK) * scored_G1 / (scored_G1 - 1).clamp(min=1)
    return _without_idle(advantages_GK, rewards_GK)


def grpo(rewards_GK: Tensor, std: bool = True, epsilon: float = 1e-4) -> Tensor:
    """Group-relative advantages (GRPO: Shao et al. 2024, 2402.03300, section 4.1), [G, K].

    .. math:: A_i = (r_i − mean_j r_j) / (std_j r_j + ε)

    The standard deviation has K − 1 in its denominator, as in TRL. A NaN reward was not scored: its advantage is 0
    and the others' mean and deviation leave it out. Groups of no spread give 0.

    Args:
        std: False leaves the division out (Dr. GRPO: Liu et al. 2025, 2503.20783), which stops almost equal
            rewards from weighing as much as far apart ones.
        epsilon: ε, in units of the reward.

    >>> grpo(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), epsilon=0.0)  # deviation √(4 · ¼ / 3) = 0.5774
    tensor([[ 0.8660, -0.8660, -0.8660,  0.8660]])
    """
    advantages_GK = _centred(rewards_GK)
    if std:
        freedom_G1 = ((~rewards_GK.isnan()).sum(1, keepdim=True) - 1).clamp(min=1)
        variance_G1 = (advantages_GK**2).nansum(1, keepdim=True) / freedom_G1
        advantages_GK = advantages_GK / (variance_G1.sqrt() + epsilon)
    return _without_idle(advantages_GK, rewards_GK)


def whitened(rewards_GK: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Rewards of all answers of an iteration in deviations from their mean, [G, K]; before `rloo` or `grpo`.

    .. math:: (r − mean r) / (std r + ε)

    Mean and deviation (N − 1 in its denominator) go over all scored answers of all prompts, so that a learning rate
    and a KL price found with one scorer serve another's scale (Ziegler et al. 2019, 1909.08593, normalise theirs
    likewise). A NaN stays NaN. Rewards that are all alike become 0.

    Args:
        epsilon: ε, in units of the reward.

    >>> whitened(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), epsilon=0.0)  # deviation √(4 · ¼ / 3) = 0.5774
    tensor([[ 0.8660, -0.8660],
            [-0.8660,  0.8660]])
    """
    flat_1N = rewards_GK.reshape(1, -1)
    return grpo(flat_1N, epsilon=epsilon).view_as(rewards_GK).masked_fill(rewards_GK.isnan(), torch.nan)


def zero_spread(rewards_GK: Tensor) -> Tensor:
    """Prompts that teach nothing, [G] bool: all scored answers have one reward, or fewer than two were scored.

    Their sum is to be reported: a step of such groups has no gradient (TRL's frac_reward_zero_std is their share).

    >>> zero_spread(torch.tensor([[1.0, 1.0, float("nan")], [1.0, 0.0, float("nan")]]))
    tensor([ True, False])
    """
    highest_G = rewards_GK.nan_to_num(nan=-torch.inf).amax(1)
    lowest_G = rewards_GK.nan_to_num(nan=torch.inf).amin(1)
    return ~(highest_G > lowest_G)


def completion_weights(lengths_N: Tensor, normalisation: Normalisation, max_length: int | None = None) -> Tensor:
    """What the loss of each answer, a sum over its tokens, is multiplied by, [N], over all answers of a step.

    * ``grpo``: 1/(N |y|), the mean over answers of their token means (2402.03300, eq. 3): a token of a long answer
      counts less.
    * ``dapo``: 1/Σ_n |y_n|, the mean over all tokens (2503.14476, eq. 8).
    * ``dr-grpo``: 1/(N · max_length), which no length of an answer enters (2503.20783).
    * ``rloo``: 1/N, the mean over answers; for `sequence_policy_gradient_loss`.

    Args:
        lengths_N: [N] scored tokens of every answer of the step, 0 where an answer is masked: it still counts in N.
        max_length: completion limit of the sampling, for dr-grpo alone.

    >>> completion_weights(torch.tensor([1, 3]), "grpo"), completion_weights(torch.tensor([1, 3]), "dapo")
    (tensor([0.5000, 0.1667]), tensor([0.2500, 0.2500]))
    """
    if (max_length is not None) != (normalisation == "dr-grpo"):
        raise ValueError(f"max_length is for dr-grpo, which needs it: got {max_length} with {normalisation}")
    answers = len(lengths_N)
    if normalisation == "grpo":
        return 1 / (answers * lengths_N.clamp(min=1))
    if normalisation == "dapo":
        return (1 / lengths_N.sum().clamp(min=1)).expand(answers)
    return torch.full(lengths_N.shape, 1 / (answers * (max_length or 1)), device=lengths_N.device)


def policy_gradient_loss(
    logps_T: Tensor,
    old_logps_T: Tensor,
    reference_logps_T: Tensor | None,
    advantages_N: Tensor,
    owner_T: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_weight: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """The token-level clipped objective of GRPO (2402.03300, eq. 3) as a loss, summed over each answer's tokens, [N].

    .. math::
        L_n = Σ_t [− min(ρ_t A, clip(ρ_t, 1 − ε_low, 1 + ε_high) A) + β k3_t],
        ρ_t = π(y_t) / π_old(y_t),  k3_t = π_ref(y_t)/π(y_t) − ln(π_ref(y_t)/π(y_t)) − 1

    k3 (Schulman 2020, "Approximating KL divergence"; 2402.03300, eq. 4) is never negative and on average, over tokens
    of the policy, the KL to the reference. Clipping ends the pull on a token that moved as far as it may in the
    direction of its advantage; the way back stays open. On-policy, π = π_old, the loss is −A per token and the
    gradient that of −A log π, REINFORCE's.

    Args:
        logps_T: [T] log π of each token, with gradient; old_logps_T: [T] under the policy that sampled it.
        reference_logps_T: [T] log π_ref, or None without a KL term.
        advantages_N: [N] A of each answer; owner_T: [T] the answer of each token.
        clip_low, clip_high: ε_low and ε_high (0.2 both in GRPO; 0.28 upwards in DAPO, 2503.14476, "clip higher").
        kl_weight: β.

    Returns:
        Losses [N], not yet weighted (`completion_weights`), and per answer, detached, sums over its tokens:
        clip_ratio/low_mean (clipped below), clip_ratio/high_mean, clip_ratio/region_mean (either), and kl (k3) where
        there is a reference. Summed over a step and divided by its tokens they are TRL's figures of those names.

    Two tokens 1.5 times as likely as when sampled, A = 1: each is clipped at 1.2.

    >>> tokens = torch.tensor([0.6, 0.3]).log(), torch.tensor([0.4, 0.2]).log()
    >>> losses, metrics = policy_gradient_loss(
    ...     *tokens, None, torch.tensor([1.0]), torch.tensor([0, 0]), clip_low=0.2, clip_high=0.2
    ... )
    >>> losses, metrics["clip_ratio/high_mean"]
    (tensor([-2.4000]), tensor([2.]))
    """
    same_shape(logps_T, old_logps_T, owner_T)
    if reference_logps_T is None and kl_weight:
        raise ValueError("kl_weight needs the reference's log-probabilities")
    answers = len(advantages_N)
    losses_T, metrics_T = _clipped(logps_T - old_logps_T, advantages_N[owner_T], clip_low, clip_high)
    if reference_logps_T is not None:
        same_shape(logps_T, reference_logps_T)
        towards_T = reference_logps_T - logps_T
        kl_T = torch.exp(towards_T) - towards_T - 1
        losses_T = losses_T + kl_weight * kl_T
        metrics_T["kl"] = kl_T.detach()
    metrics = {name: group_sums(values_T, owner_T, answers) for name, values_T in metrics_T.items()}
    return group_sums(losses_T, owner_T, answers), metrics


def sequence_policy_gradient_loss(
    logps_N: Tensor, old_logps_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Metrics]:
    """The clipped objective with one ratio per answer, [N]: RLOO as TRL trains it.

    .. math:: L = − min(ρ A, clip(ρ, 1 − ε_low, 1 + ε_high) A),  ρ = π(y|x) / π_old(y|x)

    RLOO (2402.14740) is the on-policy gradient of −A log π(y|x), to which this reduces at ρ = 1, where the loss is −A;
    the ratio, and its clip, matter from the second update on the same answers. The KL is in the reward (`rloo`).

    Args:
        logps_N: [N] log π(y|x), summed over tokens, with gradient; old_logps_N: under the policy that sampled y.
        advantages_N: [N] A.
        clip_low, clip_high: ε_low and ε_high (0.2 in TRL).

    Returns:
        Losses [N], and per answer, detached: clip_ratio/low_mean, clip_ratio/high_mean, clip_ratio/region_mean, 1
        where clipped.

    >>> losses, _ = sequence_policy_gradient_loss(  # ρ = ½: not clipped upwards of A > 0, clipped at 0.8 for A < 0
    ...     torch.tensor([0.2, 0.2]).log(),
    ...     torch.tensor([0.4, 0.4]).log(),
    ...     torch.tensor([1.0, -1.0]),
    ...     clip_low=0.2,
    ...     clip_high=0.2,
    ... )
    >>> losses
    tensor([-0.5000,  0.8000])
    """
    same_shape(logps_N, old_logps_N, advantages_N)
    return _clipped(logps_N - old_logps_N, advantages_N, clip_low, clip_high)


def _clipped(logratios: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Metrics]:
    """−min(ρA, clip(ρ)A) of each entry, and 1 where the clip took the gradient away."""
    ratios = logratios.exp()
    losses = -torch.minimum(ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages)
    below, above = (ratios < 1 - low) & (advantages < 0), (ratios > 1 + high) & (advantages > 0)
    shares = {"low": below, "high": above, "region": below | above}
    return losses, {f"clip_ratio/{name}_mean": clipped.to(losses.dtype) for name, clipped in shares.items()}


def _centred(rewards_GK: Tensor) -> Tensor:
    return rewards_GK - rewards_GK.nanmean(1, keepdim=True)


def _without_idle(advantages_GK: Tensor, rewards_GK: Tensor) -> Tensor:
    """0 where nothing was scored or a group has no spread: the rounding of its mean must not become a signal."""
    idle_GK = rewards_GK.isnan() | zero_spread(rewards_GK)[:, None]
    return advantages_GK.masked_fill(idle_GK, 0.0)

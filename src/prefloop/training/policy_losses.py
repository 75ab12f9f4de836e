"""From an iteration's rollouts to the loss of an update: rewards, advantages, and which answers carry a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop.config.loop import PolicyGradientConfig
from prefloop.maths.advantages import (
    completion_weights,
    grpo,
    policy_gradient_loss,
    rloo,
    sequence_policy_gradient_loss,
    whitened,
    zero_spread,
)
from prefloop.maths.objectives import Metrics
from prefloop.maths.tensors import group_sums
from prefloop.models.group import GroupLogps
from prefloop.training.rollouts import Rollouts
from prefloop.training.update import Figures

FREE_LENGTH = 1.25
"""Times the first iteration's mean length that an answer may have before the length penalty."""

ROUNDING = 1e-5
"""Nats per token by which equal policies differ: where all scores are alike, Adam would make a full step of them."""


@dataclass(frozen=True)
class Iteration:
    """Rollouts and what was made of them."""

    number: int
    rollouts: Rollouts
    takes_part_N: Tensor
    """Whether an answer has a reward."""
    advantages_N: Tensor
    figures: Figures

    @classmethod
    def of(cls, number: int, rollouts: Rollouts, config: PolicyGradientConfig, first_length: float) -> Iteration:
        """Rewards, advantages and figures.

        Args:
            first_length: mean tokens of an answer in the first iteration.
        """
        scores, rewards = treated_rewards(rollouts, config, first_length)
        std = config.algorithm != "dr-grpo"
        advantages = rloo(rewards) if config.algorithm == "rloo" else grpo(rewards, std)
        unscored, taking = rollouts.scores_GK.isnan(), ~rewards.isnan()
        raw, lengths = rollouts.scores_GK[~unscored], rollouts.lengths_GK.float()
        figures = {
            "iteration": number,
            "reward/mean": raw.mean().item(),
            "reward/std": raw.std(correction=0).item(),
            "reward/advantage_std": advantages[taking].square().mean().sqrt().item(),  # their mean is 0
            "kl": rollouts.kl_GK.mean().item(),
            "kl/token": (rollouts.kl_GK.sum() / lengths.sum()).item(),
            "entropy": -torch.cat(rollouts.old).mean().item(),
            "length/mean": lengths.mean().item(),
            "length/ratio": lengths.mean().item() / first_length,
            "truncated": int(rollouts.truncated_GK.sum()),
            "masked": int((~taking & ~unscored).sum()),
            "unscored": int(unscored.sum()),
            "zero_spread": int(zero_spread(scores).sum()),
        }
        return cls(number, rollouts, taking.flatten(), advantages.flatten(), figures)


def treated_rewards(rollouts: Rollouts, config: PolicyGradientConfig, first_length: float) -> tuple[Tensor, Tensor]:
    """Rewards [G, K] after the rule for truncated answers, and after all that follows it; NaN takes no part.

    In this order: truncation, whitening over the iteration, length penalty, and for rloo the price of the KL.
    """
    scores, cut = rollouts.scores_GK, rollouts.truncated_GK
    if config.truncated == "mask":
        scores = scores.masked_fill(cut, torch.nan)
    else:
        lowest_G1 = scores.nan_to_num(nan=torch.inf).amin(1, keepdim=True)
        scores = torch.where(cut & ~scores.isnan(), lowest_G1, scores)
    rewards = whitened(scores) if config.whiten else scores
    if config.length_penalty:
        rewards = rewards - config.length_penalty * (rollouts.lengths_GK / first_length - FREE_LENGTH).clamp(min=0)
    if config.algorithm == "rloo" and config.kl_weight:
        kl_GK = rollouts.kl_GK
        rewards = rewards - config.kl_weight * kl_GK.where(kl_GK.abs() > ROUNDING * rollouts.lengths_GK, 0.0)
    return scores, rewards


def kl_in_loss(config: PolicyGradientConfig) -> bool:
    """Whether the loss itself has a KL term (rloo has it in the reward)."""
    return config.algorithm != "rloo" and config.kl_weight > 0


@dataclass(frozen=True)
class Update:
    """What one optimizer step learns from."""

    kept: dict[int, list[int]]
    """Answers, by number in the iteration, that each unit's gradient comes from."""
    weights_N: Tensor
    """Of every answer of the iteration, 0 outside this update."""
    counted: int
    """Tokens (for rloo: answers) of the update that take part."""
    learned: int
    """The same of `kept`."""

    @classmethod
    def of(cls, units: Sequence[int], given: Iteration, config: PolicyGradientConfig, max_new_tokens: int) -> Update:
        """Of these units: answers with an advantage, or with a KL term in the loss all that take part.

        An answer without either adds exactly nothing to the gradient and is not computed; in the weights it counts.
        Without any advantage in the update there is nothing to learn: what is left of the KL term's gradient would be
        blown up by Adam.
        """
        numbers = {unit: answers_of(unit, config) for unit in units}
        members = [n for unit in units for n in numbers[unit]]
        lengths_N = given.rollouts.lengths_GK.flatten() * given.takes_part_N
        limit = max_new_tokens if config.algorithm == "dr-grpo" else None
        weights_N = torch.zeros(len(lengths_N))
        weights_N[members] = completion_weights(lengths_N[members], config.algorithm, limit)
        learns_N = given.advantages_N != 0
        if kl_in_loss(config) and learns_N[members].any():
            learns_N = given.takes_part_N
        kept = {unit: [n for n in found if learns_N[n]] for unit, found in numbers.items()}
        sizes_N = given.takes_part_N.long() if config.algorithm == "rloo" else lengths_N
        learned = [n for found in kept.values() for n in found]
        return cls(kept, weights_N, int(sizes_N[members].sum()), int(sizes_N[learned].sum()))


def answers_of(unit: int, config: PolicyGradientConfig) -> range:
    """Numbers, within the iteration, of the answers to a unit's prompt."""
    place = unit % config.prompts
    return range(config.k * place, config.k * (place + 1))


def update_loss(
    logps: GroupLogps, given: Iteration, numbers: Sequence[int], update: Update, config: PolicyGradientConfig
) -> tuple[Tensor, Metrics]:
    """This pass's share of the update's loss, and of its figures, which are means over the update.

    Args:
        numbers: the answers that `logps` are of.
    """
    device, rollouts = logps.tokens.device, given.rollouts
    advantages_N = given.advantages_N[list(numbers)].to(device)
    old_T = torch.cat([rollouts.old[n] for n in numbers]).to(device)
    clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    if config.algorithm == "rloo":
        old_N = group_sums(old_T, logps.owner, len(numbers))
        losses_N, metrics = sequence_policy_gradient_loss(logps.sums, old_N, advantages_N, **clip)
    else:
        reference_T = torch.cat([rollouts.reference[n] for n in numbers]).to(device) if kl_in_loss(config) else None
        losses_N, metrics = policy_gradient_loss(
            logps.tokens, old_T, reference_T, advantages_N, logps.owner, kl_weight=config.kl_weight, **clip
        )
    found = {("kl/k3" if name == "kl" else name): values.sum() / update.counted for name, values in metrics.items()}
    ratios_R = ratios(logps.tokens.detach() - old_T, logps.lengths, config)
    found["ratio/mean"] = ratios_R.sum() / update.learned
    found["ratio/deviation"] = (ratios_R - 1).abs().sum() / update.learned
    return (losses_N * update.weights_N[list(numbers)].to(device)).sum(), found


def repeated(logps: GroupLogps, places_N: Sequence[int]) -> GroupLogps:
    """Log-probabilities of distinct answers as those of all answers, some of which are equal.

    Args:
        places_N: which of the distinct ones every answer is.
    """
    tokens, places = logps.split(), list(places_N)
    lengths_N = logps.lengths[places]
    owner_T = torch.repeat_interleave(torch.arange(len(places), device=lengths_N.device), lengths_N)
    return GroupLogps(torch.cat([tokens[i] for i in places]), logps.sums[places], lengths_N, owner_T)


def ratios(shift_T: Tensor, lengths_N: Tensor, config: PolicyGradientConfig) -> Tensor:
    """π/π_old as the algorithm takes it, of every token, or for rloo of every answer.

    Args:
        shift_T: log π − log π_old.
    """
    if config.algorithm != "rloo":
        return shift_T.exp()
    owner_T = torch.repeat_interleave(torch.arange(len(lengths_N), device=shift_T.device), lengths_N.to(shift_T.device))
    return group_sums(shift_T, owner_T, len(lengths_N)).exp()

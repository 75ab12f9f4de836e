"""Objectives on scores: pairs and whole rankings. The scores are a reward model's, or a policy's implicit rewards.

Suffixes: ``_B`` pairs, ``_N`` answers of a batch, ``_G`` prompts, ``_P`` pairs found. ``group_N`` is the prompt of each
answer, 0..G−1. A ranking is given as tiers: ``tier_N`` is 0 for the best answers of a prompt, and equal tiers are
ties. Only the order of the tiers within a prompt matters. Losses are minimised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.maths.tensors import group_sums, same_shape


def bradley_terry(
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    margins: Tensor | None = None,
    centring: float = 0.0,
    target: float | Tensor = 1.0,
) -> Tensor:
    """Reward-model loss on pairs (Bradley & Terry 1952), [B]: cross-entropy of the preference to its target.

    .. math::
        L = − p ln σ(d) − (1 − p) ln σ(−d) + c (s_w + s_l)²,  d = s_w − s_l − m

    m asks for more distance where the preference is strong (Llama 2, 2307.09288, eq. 2); c keeps scores near 0,
    which d alone leaves free (2312.09244, eq. 2). Equal scores without m: ln 2 for every p, plus the centring.

    Args:
        chosen_B, rejected_B: [B] scores s_w and s_l, with gradient.
        margins: [B] m, or none.
        centring: c (0.01 in the paper).
        target: p, the probability that the chosen answer is better, one for all or [B]: 1 for a plain preference,
            ½ for a tie, σ(γ · strength) for a graded one (`adjustments.soft_label`).

    >>> bradley_terry(torch.tensor([3.0]), torch.tensor([1.0]), centring=0.01)  # ln(1 + e⁻²) + 0.01 · 4²
    tensor([0.2869])
    """
    same_shape(chosen_B, rejected_B)
    differences_B = chosen_B - rejected_B
    if margins is not None:
        same_shape(chosen_B, margins)
        differences_B = differences_B - margins
    preference_B = -target * F.logsigmoid(differences_B) - (1 - target) * F.logsigmoid(-differences_B)
    return preference_B + centring * (chosen_B + rejected_B) ** 2


def plackett_luce(scores_N: Tensor, tier_N: Tensor, group_N: Tensor, groups: int) -> Tensor:
    """Negative log-likelihood of each prompt's ranking (Plackett 1975, Luce 1959), [G].

    .. math::
        L = Σ_k [ln Σ_{j not yet drawn} exp(s_j) − s_k]

    Answers are drawn best first, each with probability proportional to exp(s) among those left. With
    s = β (log π − log π_ref) this is DPO on rankings (2305.18290, appendix A.3, eq. 20), and with two answers DPO.

    Ties follow Efron (1977, JASA 72:557, his approximation for tied failure times): the k-th of m tied answers
    (k from 0) is drawn from all lower tiers plus (1 − k/m) of its own, which is what is left of it on average over
    the orders a tie may have. Where the tied answers have equal scores this is every order's likelihood exactly;
    otherwise it bounds their mean from above. Equal scores minimise the loss of a tie; two tied answers alone have
    twice the loss of a Bradley-Terry target of ½, less ln 2.

    ln K! for K answers of equal score, whatever the ties, as at the start of training.

    Args:
        scores_N: [N] s of each answer, with gradient.
        tier_N: [N] long, its tier.
        group_N: [N] long, its prompt.
        groups: G; a prompt with fewer than two answers has loss 0.

    Scores ln 3, ln 2, 0 in that order: 3/6 · 2/3 · 1/1 = 1/3.

    >>> plackett_luce(torch.tensor([3.0, 2.0, 1.0]).log(), torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]), 1)
    tensor([1.0986])
    """
    same_shape(scores_N, tier_N, group_N)
    together_NN = group_N[:, None] == group_N
    tied_NN = together_NN & (tier_N[:, None] == tier_N)
    below_NN = together_NN & (tier_N[:, None] < tier_N)
    drawn_NN = tied_NN.tril(-1)  # tied answers that come before this one in the batch
    share_N1 = 1 - drawn_NN.to(scores_N).sum(1, keepdim=True) / tied_NN.sum(1, keepdim=True)
    left_NN = below_NN + share_N1 * tied_NN  # the share is never 0, so every row has a finite logarithm
    losses_N = torch.logsumexp(scores_N + left_NN.log(), dim=1) - scores_N
    return group_sums(losses_N, group_N, groups)


def all_pairs(tier_N: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of answers of one prompt in different tiers: (better_P, worse_P, weights_P).

    The weight is 1 / (number of pairs of the prompt), so that a prompt weighs 1 however many answers it has
    (InstructGPT, 2203.02155, eq. 1, divides by C(K, 2): the same without ties). Ties give no pair, and a prompt
    whose answers are all tied none at all.

    Args:
        tier_N: [N] long, the tier of each answer; group_N: [N] long, its prompt.

    Returns:
        Positions among the N, [P] long each, and weights [P], ordered by the better answer.

    >>> all_pairs(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 0]))
    (tensor([0, 0]), tensor([1, 2]), tensor([0.5000, 0.5000]))
    """
    same_shape(tier_N, group_N)
    together_NN = group_N[:, None] == group_N
    better_P, worse_P = torch.nonzero(together_NN & (tier_N[:, None] < tier_N), as_tuple=True)
    pairs_G = torch.bincount(group_N[better_P])
    return better_P, worse_P, 1 / pairs_G[group_N[better_P]]

"""What goes into the pairwise objectives in place of plain sums, equal weights and hard labels.

Suffixes: ``_T`` scored tokens of a batch, ``_N`` completions, ``_B`` pairs; ``owner_T`` is the completion of each
token, 0..N−1. See `maths.objectives`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.maths.tensors import group_sums, same_shape


def ld_logps(logps_T: Tensor, owner_T: Tensor, positions_T: Tensor, public_lengths_N: Tensor, alpha: float) -> Tensor:
    """Length-desensitised log-probabilities (LD-DPO: Liu et al. 2024, 2409.06411), [N], in place of plain sums.

    .. math:: ℓ(y) = Σ_{t ≤ m} log π(y_t) + α Σ_{t > m} log π(y_t)

    m is the length both answers of a pair have, min(|y_w|, |y_l|), so the longer one's extra tokens count α each.
    The policy's and the reference's are taken the same way. α = 1 is the plain sum, α = 0 cuts at m.

    Args:
        logps_T: [T] log-probability of each token.
        owner_T: [T] its completion.
        positions_T: [T] its place in that completion, from 0.
        public_lengths_N: [N] m. An answer in two pairs has an m in each, so it is given twice.
        alpha: α in [0, 1].

    >>> tokens, owner, positions = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0, 0, 0]), torch.tensor([0, 1, 2])
    >>> ld_logps(tokens, owner, positions, torch.tensor([2]), alpha=0.5)  # −1 − 2 − 0.5 · 4
    tensor([-5.])
    """
    same_shape(logps_T, owner_T, positions_T)
    public_T = positions_T < public_lengths_N[owner_T]
    return group_sums(torch.where(public_T, logps_T, alpha * logps_T), owner_T, len(public_lengths_N))


def wpo_weights(logps_T: Tensor, log_squares_T: Tensor, owner_T: Tensor, lengths_N: Tensor) -> Tensor:
    """Weighted preference optimization (Zhou et al. 2024, 2406.11827, eq. 2): how likely the policy says an answer.

    .. math:: w(y) = exp(1/|y| · Σ_t [log π(y_t) − log Σ_v π(v)²]),  detached

    A pair's loss is multiplied by w(y_w) w(y_l), so that pairs the policy would say itself count most. Σ_v π(v)² is
    the probability a sampled token has on average: measured by it, a policy of high entropy does not lose all
    weight. 1 under a uniform distribution; above 1 for tokens likelier than sampled ones are.

    Args:
        logps_T: [T] log-probability of each token under the policy.
        log_squares_T: [T] log Σ_v π(v)² at the same places.
        owner_T: [T] the completion of each token.
        lengths_N: [N] tokens per completion.

    Tokens of probability ½ and ¼ where Σ_v π(v)² is ½: mean of (0, −ln 2), so 1/√2.

    >>> wpo_weights(*torch.tensor([[0.5, 0.25], [0.5, 0.5]]).log(), torch.tensor([0, 0]), torch.tensor([2]))
    tensor([0.7071])
    """
    same_shape(logps_T, log_squares_T, owner_T)
    return torch.exp(group_sums((logps_T - log_squares_T).detach(), owner_T, len(lengths_N)) / lengths_N)


def soft_label(margins_B: Tensor, gamma: float) -> Tensor:
    """Probability that the chosen answer is better, from how much better it was judged: ``p = σ(γ · margin)``, [B].

    MMPO (Kim et al. 2024, 2410.03145): cross-entropy to p in place of a hard label. For `dpo` the smoothing is
    1 − p, for `rankings.bradley_terry` the target is p. A margin of 0 gives the tie ½; γ → ∞ the hard label.

    >>> soft_label(torch.tensor([0.0, 2.0]), gamma=0.5)  # σ(0), σ(1)
    tensor([0.5000, 0.7311])
    """
    return torch.sigmoid(gamma * margins_B)

"""The objective on single answers marked good or bad: KTO. Suffix ``_N`` names answers; see `maths.objectives`."""

from __future__ import annotations

import torch
from torch import Tensor

from prefloop.maths.tensors import same_shape


def kto(
    logratios_N: Tensor,
    good_N: Tensor,
    kl: Tensor,
    beta: float,
    lambda_good: float = 1.0,
    lambda_bad: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimization (Ethayarajh et al. 2024, 2402.01306, eq. 7): losses [N].

    .. math::
        L = λ_D (1 − σ(β (r − z)))  for a good answer,   λ_U (1 − σ(β (z − r)))  for a bad one

    r is the answer's log-ratio to the reference and z the reference point, what answers to other prompts get
    (`kto_kl`). λ/2 at the start, where z = 0.

    Args:
        logratios_N: [N] r = log π(y|x) − log π_ref(y|x), with gradient.
        good_N: [N] bool.
        kl: z, a scalar, the same for the whole step. No gradient is taken through it.
        lambda_good, lambda_bad: λ_D and λ_U. The paper keeps λ_D n_D / (λ_U n_U) between 1 and 4/3 (eq. 8) for
            n_D good and n_U bad answers.

    >>> kto(torch.tensor([10.0, 10.0]), torch.tensor([True, False]), torch.tensor(0.0), beta=0.1)  # 1 − σ(1), 1 − σ(−1)
    tensor([0.2689, 0.7311])
    """
    same_shape(logratios_N, good_N)
    signed_N = torch.where(good_N, logratios_N - kl.detach(), kl.detach() - logratios_N)
    values_N = torch.sigmoid(-beta * signed_N)
    return torch.where(good_N, lambda_good * values_N, lambda_bad * values_N)


def kto_kl(mismatched_logratios_N: Tensor) -> Tensor:
    """KTO's reference point, a scalar without gradient: ``z = max(0, mean_i(log π(y'_i|x_i) − log π_ref(y'_i|x_i)))``.

    y'_i is an answer to another prompt than x_i, so that z stands for the KL of policy and reference (2402.01306)
    without sampling from the policy. The mean is over the whole step, however it is cut. 0 at the start.

    >>> kto_kl(torch.tensor([3.0, -1.0])), kto_kl(torch.tensor([1.0, -3.0]))
    (tensor(1.), tensor(0.))
    """
    return mismatched_logratios_N.detach().mean().clamp(min=0)

"""Training objectives: pure functions of log-probabilities. Every loss is minimised; metrics are detached.

Suffixes name dimensions: ``_B`` pairs (or sequences), ``_T`` scored tokens of a batch. Log-probabilities are
sums over the tokens of a completion, end token included, prompt excluded, at temperature 1.

From here upwards: `prefloop.training.preference` and `prefloop.training.sft` compute the log-probabilities,
weight the losses of a step and take the gradient.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

Metrics = dict[str, Tensor]
"""Figures per pair, detached, under TRL's names."""


def cross_entropy(logps_T: Tensor, weights_T: Tensor) -> Tensor:
    """SFT on tokens: ``L = − Σ_t w_t · log π(y_t | x, y_<t) / Σ_t w_t``, a scalar.

    The mean over the tokens of the whole step, so a long answer weighs as many tokens as it has.

    Args:
        logps_T: [T] log-probability of each scored token.
        weights_T: [T] weight of each: 1 for an answer token, 0 leaves a token out.

    >>> cross_entropy(torch.tensor([0.5, 0.25]).log(), torch.tensor([1.0, 1.0]))  # (ln 2 + ln 4) / 2
    tensor(1.0397)
    """
    _same_shape(logps_T, weights_T)
    return -(weights_T * logps_T).sum() / weights_T.sum()


def nll(logps_B: Tensor, lengths_B: Tensor) -> Tensor:
    """Negative log-likelihood per token of each sequence: ``L_i = − log π(y_i | x_i) / |y_i|``, [B].

    The SFT term of iterative RPO (Pang et al. 2024, 2404.19733, eq. 1) before its weight α, and the objective
    of the SFT baseline on chosen answers. Here a short answer weighs as much as a long one.

    Args:
        logps_B: [B] log-probability of each sequence, summed over its tokens.
        lengths_B: [B] its number of tokens.

    >>> nll(torch.tensor([-6.0, -1.0]), torch.tensor([3, 2]))
    tensor([2.0000, 0.5000])
    """
    _same_shape(logps_B, lengths_B)
    return -logps_B / lengths_B


def dpo(
    policy_chosen_B: Tensor,
    policy_rejected_B: Tensor,
    reference_chosen_B: Tensor,
    reference_rejected_B: Tensor,
    beta: float,
    label_smoothing: float | Tensor = 0.0,
) -> tuple[Tensor, Metrics]:
    """Direct preference optimization (Rafailov et al. 2023, 2305.18290, eq. 7), with conservative smoothing.

    .. math::
        r_w = β (log π(y_w|x) − log π_ref(y_w|x)),  r_l likewise
        L = − (1 − ε) log σ(r_w − r_l) − ε log σ(r_l − r_w)

    ε is the probability that the label is flipped (cDPO: E. Mitchell, "A note on DPO with noisy preferences",
    2023, eq. 3; the original loss has ε = 0). With ε > 0 the loss is least at the margin ln((1−ε)/ε), not at
    infinity; at ε = ½ it is symmetric in the two answers. At the start, where π = π_ref, it is ln 2 for every
    ε. The implicit rewards r are reported detached; they carry β.

    Args:
        policy_chosen_B, policy_rejected_B: [B] log-probabilities under the policy, with gradient.
        reference_chosen_B, reference_rejected_B: [B] under the reference, constants.
        beta: strength of the pull to the reference.
        label_smoothing: ε in [0, ½], one for all or [B].

    Returns:
        Losses [B], and per pair: rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies
        (1 where the margin is positive; a tie counts 0), logps/chosen, logps/rejected.

    With β = 0.1, the chosen answer 10 nats likelier than under the reference and the rejected 10 nats less:
    margin 0.1 · (10 − (−10)) = 2 and loss −ln σ(2) = ln(1 + e⁻²) = 0.1269.

    >>> losses, metrics = dpo(*torch.tensor([[-20.0], [-50.0], [-30.0], [-40.0]]), beta=0.1)
    >>> losses, metrics["rewards/margins"]
    (tensor([0.1269]), tensor([2.]))
    """
    _same_shape(policy_chosen_B, policy_rejected_B, reference_chosen_B, reference_rejected_B)
    reward_chosen_B = beta * (policy_chosen_B - reference_chosen_B)
    reward_rejected_B = beta * (policy_rejected_B - reference_rejected_B)
    margin_B = reward_chosen_B - reward_rejected_B
    losses_B = -(1 - label_smoothing) * F.logsigmoid(margin_B) - label_smoothing * F.logsigmoid(-margin_B)
    metrics = {
        "rewards/chosen": reward_chosen_B,
        "rewards/rejected": reward_rejected_B,
        "rewards/margins": margin_B,
        "rewards/accuracies": (margin_B > 0).float(),
        "logps/chosen": policy_chosen_B,
        "logps/rejected": policy_rejected_B,
    }
    return losses_B, {name: values.detach() for name, values in metrics.items()}


def _same_shape(*tensors: Tensor) -> None:
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1 or tensors[0].ndim != 1:
        raise ValueError(f"expected tensors of one equal dimension, got shapes {sorted(shapes)}")

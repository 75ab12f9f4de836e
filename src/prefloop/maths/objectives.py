"""Training objectives: pure functions of log-probabilities. Every loss is minimised; metrics are detached.

Suffixes name dimensions: ``_B`` pairs (or sequences), ``_T`` scored tokens of a batch. Log-probabilities are
sums over the tokens of a completion, end token included, prompt excluded, at temperature 1.

Notation of the pairwise objectives, for a pair of a chosen answer y_w and a rejected one y_l:

.. math::
    ℓ_w = log π(y_w|x),  r_w = ℓ_w − log π_ref(y_w|x),  likewise ℓ_l, r_l,  Δ = r_w − r_l

with a bar for the same per token: ``r̄_w = r_w / |y_w|``. β scales them; ln σ is the log of the logistic function.
"The start" is where policy and reference are the same model, so that all r = 0.

In the examples ``pairs`` is one pair: chosen, 4 tokens, ℓ_w = −20 and −30 under the reference; rejected, 5 tokens,
ℓ_l = −50 and −40. So r_w = 10, r_l = −10, Δ = 20; per token ℓ̄ = −5 and −10, r̄ = 2.5 and −2, Δ̄ = 4.5.

Beside this file: `maths.unpaired` (KTO), `maths.adjustments` (what goes into a pair: LD-DPO, WPO, soft labels),
`maths.rankings` (reward models, whole rankings), `maths.advantages` (RLOO, GRPO). From here upwards:
`prefloop.training.preference` and `prefloop.training.sft` compute the log-probabilities, weight the losses of a
step and take the gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prefloop.maths.tensors import same_shape

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
    same_shape(logps_T, weights_T)
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
    same_shape(logps_B, lengths_B)
    return -logps_B / lengths_B


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of B pairs, summed over the tokens of each answer: all that a pairwise objective sees."""

    chosen_B: Tensor
    """[B] log π(y_w|x) under the policy, with gradient."""
    rejected_B: Tensor
    """[B] log π(y_l|x) under the policy, with gradient."""
    reference_chosen_B: Tensor
    """[B] log π_ref(y_w|x), constant; zeros where there is no reference."""
    reference_rejected_B: Tensor
    """[B] log π_ref(y_l|x), likewise."""
    chosen_lengths_B: Tensor
    """[B] |y_w|, the tokens summed over."""
    rejected_lengths_B: Tensor
    """[B] |y_l|."""

    def __post_init__(self) -> None:
        same_shape(self.chosen_B, self.rejected_B, self.reference_chosen_B, self.reference_rejected_B)
        same_shape(self.chosen_B, self.chosen_lengths_B, self.rejected_lengths_B)

    @property
    def chosen_logratios_B(self) -> Tensor:
        """[B] r_w, the implicit reward of the chosen answer before β."""
        return self.chosen_B - self.reference_chosen_B

    @property
    def rejected_logratios_B(self) -> Tensor:
        """[B] r_l."""
        return self.rejected_B - self.reference_rejected_B

    @property
    def margins_B(self) -> Tensor:
        """[B] Δ = r_w − r_l."""
        return self.chosen_logratios_B - self.rejected_logratios_B

    def per_token(self) -> PairLogps:
        """The same pairs with every log-probability divided by its number of tokens; all lengths become 1."""
        return PairLogps(
            self.chosen_B / self.chosen_lengths_B,
            self.rejected_B / self.rejected_lengths_B,
            self.reference_chosen_B / self.chosen_lengths_B,
            self.reference_rejected_B / self.rejected_lengths_B,
            torch.ones_like(self.chosen_lengths_B),
            torch.ones_like(self.rejected_lengths_B),
        )


def preference_metrics(pairs: PairLogps, beta: float) -> Metrics:
    """Implicit rewards β·r and log-probabilities per pair, [B] each: the figures beside any pairwise loss.

    rewards/accuracies is 1 where the margin is positive; a tie, as everywhere at the start, counts 0. Pass
    ``pairs.per_token()`` for the figures of an objective that divides by length.

    >>> preference_metrics(pairs, beta=0.1)["rewards/margins"]  # 0.1 · (10 − (−10))
    tensor([2.])
    """
    margins_B = beta * pairs.margins_B
    metrics = {
        "rewards/chosen": beta * pairs.chosen_logratios_B,
        "rewards/rejected": beta * pairs.rejected_logratios_B,
        "rewards/margins": margins_B,
        "rewards/accuracies": (margins_B > 0).float(),
        "logps/chosen": pairs.chosen_B,
        "logps/rejected": pairs.rejected_B,
    }
    return {name: values.detach() for name, values in metrics.items()}


def dpo(pairs: PairLogps, beta: float, label_smoothing: float | Tensor = 0.0) -> Tensor:
    """Direct preference optimization (Rafailov et al. 2023, 2305.18290, eq. 7), with conservative smoothing.

    .. math:: L = − (1 − ε) ln σ(βΔ) − ε ln σ(−βΔ)

    ε is the probability that the label is flipped (cDPO: E. Mitchell, "A note on DPO with noisy preferences",
    2023, eq. 3; the original loss has ε = 0). With ε > 0 the loss is least at the margin ln((1−ε)/ε), not at
    infinity; at ε = ½, a tie, it is symmetric in the two answers. A soft label p is ε = 1 − p. ln 2 at the start,
    for every ε.

    Args:
        beta: strength of the pull to the reference.
        label_smoothing: ε in [0, 1], one for all or [B].

    >>> dpo(pairs, beta=0.1)  # ln(1 + e⁻²)
    tensor([0.1269])
    """
    logits_B = beta * pairs.margins_B
    return -(1 - label_smoothing) * F.logsigmoid(logits_B) - label_smoothing * F.logsigmoid(-logits_B)


def robust(pairs: PairLogps, beta: float, label_smoothing: float) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, 2403.00409): DPO's loss on clean labels, estimated from noisy ones.

    .. math:: L = [− (1 − ε) ln σ(βΔ) + ε ln σ(−βΔ)] / (1 − 2ε)

    The mean over labels flipped with probability ε is DPO's loss, so single losses may be negative and grow
    without bound downwards. ln 2 at the start; DPO at ε = 0.

    Args:
        label_smoothing: ε in [0, ½), the share of flipped labels.

    >>> robust(pairs, beta=0.1, label_smoothing=0.2)  # (0.8 · 0.1269 − 0.2 · 2.1269) / 0.6
    tensor([-0.5397])
    """
    if not 0 <= label_smoothing < 0.5:  # at ½ labels say nothing and the estimate has no finite scale
        raise ValueError(f"label_smoothing must be in [0, 0.5), got {label_smoothing}")
    logits_B = beta * pairs.margins_B
    clean_B, flipped_B = -F.logsigmoid(logits_B), -F.logsigmoid(-logits_B)
    return ((1 - label_smoothing) * clean_B - label_smoothing * flipped_B) / (1 - 2 * label_smoothing)


def ipo(pairs: PairLogps, beta: float, average: bool = True) -> Tensor:
    """Identity preference optimization (Azar et al. 2023, 2310.12036, eq. 17): regression of the margin.

    .. math:: L = (Δ̄ − 1 / (2τ))²,  τ = β

    Least, 0, at the margin 1/(2τ), beyond which the pair is pulled together again. 1/(4τ²) at the start.

    Args:
        beta: the paper's τ.
        average: Δ̄ per token, as TRL does with the authors' word for it (their paper writes Δ, which
            ``average=False`` gives and which grows with length).

    >>> ipo(pairs, beta=0.1), ipo(pairs, beta=0.1, average=False)  # (4.5 − 5)², (20 − 5)²
    (tensor([0.2500]), tensor([225.]))
    """
    margins_B = pairs.per_token().margins_B if average else pairs.margins_B
    return (margins_B - 1 / (2 * beta)) ** 2


def hinge(pairs: PairLogps, beta: float) -> Tensor:
    """Hinge on the margin: SLiC (Zhao et al. 2023, 2305.10425) over log-ratios, as RSO has it (2309.06657).

    .. math:: L = max(0, 1 − βΔ)

    1 at the start; no gradient once the margin exceeds 1/β.

    >>> hinge(pairs, beta=0.02)  # 1 − 0.02 · 20
    tensor([0.6000])
    """
    return F.relu(1 - beta * pairs.margins_B)


def dpo_norm(pairs: PairLogps, beta: float) -> Tensor:
    """Length-normalised DPO (Tülu 3: Lambert et al. 2024, 2411.15124): ``L = − ln σ(β Δ̄)``. ln 2 at the start.

    Args:
        beta: on log-ratios per token, so larger than DPO's (Tülu 3 takes 5).

    >>> dpo_norm(pairs, beta=0.4)  # ln(1 + e^−1.8)
    tensor([0.1530])
    """
    return dpo(pairs.per_token(), beta)


def simpo(pairs: PairLogps, beta: float, gamma_beta_ratio: float) -> Tensor:
    """Simple preference optimization, without a reference (Meng et al. 2024, 2405.14734, eq. 6).

    .. math:: L = − ln σ(β (ℓ̄_w − ℓ̄_l) − γ),  γ = β · gamma_beta_ratio

    At the start whatever the model's own margin gives; the reference of `pairs` is not looked at.

    Args:
        beta: on log-probabilities per token (2 to 10 in the paper).
        gamma_beta_ratio: the margin asked for, in nats per token: the ratio keeps its meaning when β changes.

    >>> simpo(pairs, beta=0.4, gamma_beta_ratio=2.5)  # 0.4 · (−5 + 10 − 2.5) = 1, ln(1 + e⁻¹)
    tensor([0.3133])
    """
    mean = pairs.per_token()
    return -F.logsigmoid(beta * (mean.chosen_B - mean.rejected_B - gamma_beta_ratio))


def cpo(pairs: PairLogps, beta: float) -> Tensor:
    """Contrastive preference optimization, without a reference (Xu et al. 2024, 2401.08417, eq. 3).

    .. math:: L = − ln σ(β (ℓ_w − ℓ_l))

    The caller adds the paper's NLL of the chosen answer, `nll`. The reference of `pairs` is not looked at.

    >>> cpo(pairs, beta=0.1)  # ln(1 + e⁻³)
    tensor([0.0486])
    """
    return -F.logsigmoid(beta * (pairs.chosen_B - pairs.rejected_B))


def orpo(pairs: PairLogps, beta: float) -> Tensor:
    """Odds ratio preference optimization, without a reference (Hong et al. 2024, 2403.07691, eqs. 6 and 7).

    .. math:: L = − ℓ̄_w − λ ln σ(o_w − o_l),  o = ln(p / (1 − p)),  p = exp(ℓ̄)

    The NLL is over the chosen answer's tokens, per sequence; TRL takes prompt and answer together.

    Args:
        beta: λ, the weight of the odds-ratio term (TRL's name for it).

    With p = ½ and ⅓ the odds are 1 and ½: L = ln 2 − ln σ(ln 2) = ln 2 + ln 1.5 = ln 3.

    >>> orpo(PairLogps(*torch.tensor([[1 / 2], [1 / 3], [1.0], [1.0]]).log(), *torch.ones(2, 1)), beta=1.0)
    tensor([1.0986])
    """
    mean = pairs.per_token()
    log_odds_ratio_B = _log_odds(mean.chosen_B) - _log_odds(mean.rejected_B)
    return -mean.chosen_B - beta * F.logsigmoid(log_odds_ratio_B)


def dpop(pairs: PairLogps, beta: float, penalty: float) -> Tensor:
    """DPO-positive (Smaug: Pal et al. 2024, 2402.13228): DPO that is fined when the chosen answer falls.

    .. math:: L = − ln σ(β (Δ − λ max(0, −r_w)))

    ln 2 at the start; DPO wherever the chosen answer is likelier than under the reference. Where it is not, and
    λ > 0, raising it counts 1 + λ times.

    Args:
        penalty: λ, at least 0.

    A pair whose answers both fell by 10 nats: Δ = 0, and −β λ · 10 = −0.2 is left.

    >>> dpop(PairLogps(*torch.tensor([[-30.0], [-50.0], [-20.0], [-40.0], [4.0], [5.0]])), beta=0.1, penalty=0.2)
    tensor([0.7981])
    """
    return -F.logsigmoid(beta * (pairs.margins_B - penalty * F.relu(-pairs.chosen_logratios_B)))


def apo_zero(pairs: PairLogps, beta: float) -> Tensor:
    """Anchored preference optimization, zero (D'Oosterlinck et al. 2024, 2408.06266, eq. 7).

    .. math:: L = 1 − σ(β r_w) + σ(β r_l)

    Chosen up and rejected down, each on its own: for chosen answers better than the model's. 1 at the start.

    >>> apo_zero(pairs, beta=0.1)  # 1 − σ(1) + σ(−1)
    tensor([0.5379])
    """
    return torch.sigmoid(-beta * pairs.chosen_logratios_B) + torch.sigmoid(beta * pairs.rejected_logratios_B)


def apo_down(pairs: PairLogps, beta: float) -> Tensor:
    """Anchored preference optimization, down (D'Oosterlinck et al. 2024, 2408.06266, eq. 8).

    .. math:: L = σ(β r_w) + 1 − σ(βΔ)

    Both down, the rejected further: for chosen answers worse than the model's. 1 at the start, where the two
    terms' pulls on the chosen answer cancel; once Δ > r_w > 0 the loss falls when the chosen answer falls.

    >>> apo_down(pairs, beta=0.1)  # σ(1) + 1 − σ(2)
    tensor([0.8503])
    """
    return torch.sigmoid(beta * pairs.chosen_logratios_B) + torch.sigmoid(-beta * pairs.margins_B)


def nca(pairs: PairLogps, beta: float) -> Tensor:
    """Noise contrastive alignment of a pair (Chen et al. 2024, 2402.05369).

    .. math:: L = − ln σ(β r_w) − ½ ln σ(−β r_w) − ½ ln σ(−β r_l)

    The pull on the chosen answer ends at σ(β r_w) = ⅔, so it stays likely rather than only likelier than the
    rejected one. 2 ln 2 at the start.

    >>> nca(pairs, beta=0.1)  # 0.3133 + ½ · 1.3133 + ½ · 0.3133
    tensor([1.1265])
    """
    chosen_B, rejected_B = beta * pairs.chosen_logratios_B, beta * pairs.rejected_logratios_B
    return -F.logsigmoid(chosen_B) - 0.5 * F.logsigmoid(-chosen_B) - 0.5 * F.logsigmoid(-rejected_B)


def sppo(
    pairs: PairLogps, beta: float, chosen_wins: float | Tensor = 1.0, rejected_wins: float | Tensor = 0.0
) -> Tensor:
    """Self-play preference optimization (Wu et al. 2024, 2405.00675, eq. 4.7): log-ratios regressed on win rates.

    .. math:: L = (r_w − η (P_w − ½))² + (r_l − η (P_l − ½))²,  η = 1/β

    P is the probability that an answer beats one of the policy's own; an answer as good as those keeps r = 0.
    The defaults are the hard labels of TRL's ``sppo_hard``. (η/2)² · 2 = 1/(2β²) at the start with them.

    Args:
        beta: 1/η (0.001 in the paper).
        chosen_wins: P_w, one for all or [B].
        rejected_wins: P_l, likewise.

    >>> sppo(pairs, beta=0.1), sppo(pairs, beta=0.1, chosen_wins=0.9)  # 5² + 5², (10 − 4)² + 5²
    (tensor([50.]), tensor([61.]))
    """
    chosen_B = pairs.chosen_logratios_B - (chosen_wins - 0.5) / beta
    rejected_B = pairs.rejected_logratios_B - (rejected_wins - 0.5) / beta
    return chosen_B**2 + rejected_B**2


def _log_odds(logps_B: Tensor) -> Tensor:
    """ln(p / (1 − p)) of log p, with ln(1 − eˣ) computed where it is exact (Mächler 2012, eq. 7).

    ``log1p(−eˣ)`` loses all digits near x = 0 and ``ln(−expm1(x))`` far from it; they meet at −ln 2. Each branch
    gets an input inside its own range, since the gradient of the one not taken would be 0 · ∞. p = 1 exactly
    (a float32 sum of certain tokens) is read as the next number below, without gradient.
    """
    logps_B = logps_B.clamp(max=-torch.finfo(logps_B.dtype).tiny)
    near_B = logps_B > -math.log(2)
    near_zero_B = torch.log(-torch.expm1(torch.where(near_B, logps_B, -1.0)))
    far_B = torch.log1p(-torch.exp(torch.where(near_B, -1.0, logps_B)))
    return logps_B - torch.where(near_B, near_zero_B, far_B)

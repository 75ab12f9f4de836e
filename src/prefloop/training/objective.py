"""From the log-probabilities of a batch to one loss per example: which formula, on which numbers.

The formulas are in `prefloop.maths`; here stands only what each of them is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prefloop.config.training import TrainingConfig
from prefloop.maths import objectives as loss
from prefloop.maths.adjustments import ld_logps, soft_label, wpo_weights
from prefloop.maths.objectives import Metrics, PairLogps, preference_metrics
from prefloop.maths.rankings import plackett_luce
from prefloop.maths.tensors import group_sums
from prefloop.maths.unpaired import kto
from prefloop.models.group import GroupLogps
from prefloop.training.pairs import PairIndex

PER_TOKEN = {"ipo", "dpo-norm", "simpo", "orpo"}
"""Objectives whose implicit rewards are shown per token."""


def example_losses(
    logps: GroupLogps,
    pairs: PairIndex,
    reference: Sequence[Tensor],
    config: TrainingConfig,
    kl: Tensor | None = None,
) -> tuple[Tensor, Tensor, Metrics]:
    """Losses [E], weights [E] and metrics ([B], by pair) of the examples of a batch.

    An example is a pair; for ``kto`` an answer, for ``plackett-luce`` a prompt's ranking.

    Args:
        reference: [tokens] log-probabilities under the reference, one tensor per completion; empty without one.
        kl: the reference point of ``kto``, one for the whole step.
    """
    chosen_B = logps.sums[pairs.chosen_B]
    if config.objective == "sft":
        return loss.nll(chosen_B, logps.lengths[pairs.chosen_B]), pairs.weights_B, {"logps/chosen": chosen_B.detach()}
    reference_T = torch.cat(list(reference)).to(logps.tokens.device) if reference else torch.zeros_like(logps.tokens)
    reference_N = group_sums(reference_T, logps.owner, len(logps.sums))
    plain = _pair_logps(logps.sums, reference_N, logps.lengths, pairs)
    shown = plain.per_token() if config.objective in PER_TOKEN else plain
    metrics = {
        **preference_metrics(shown, config.strength),
        "logps/chosen": plain.chosen_B.detach(),
        "logps/rejected": plain.rejected_B.detach(),
        "shift/chosen": plain.chosen_logratios_B.detach(),
        "shift/rejected": plain.rejected_logratios_B.detach(),
        "length/chosen": plain.chosen_lengths_B.float(),
        "length/rejected": plain.rejected_lengths_B.float(),
    }
    if reference:
        shift_T = (logps.tokens - reference_T).detach().clamp(max=20.0)  # exp stays a number
        k3_N = group_sums(shift_T.expm1() - shift_T, logps.owner, len(logps.sums)) / logps.lengths
        metrics["kl/token"] = (k3_N[pairs.chosen_B] + k3_N[pairs.rejected_B]) / 2
    if config.objective == "kto":
        return *_kto(logps.sums - reference_N, pairs, config, kl), metrics
    if config.objective == "plackett-luce":
        scores_N = config.strength * (logps.sums - reference_N)
        return plackett_luce(scores_N, pairs.tier_N, pairs.group_N, len(pairs.weights_G)), pairs.weights_G, metrics
    adjusted = plain if config.ld_alpha == 1.0 else _length_desensitised(logps, reference_T, pairs, config.ld_alpha)
    losses_B = pair_losses(adjusted, pairs, config)
    if config.weighting == "wpo":
        assert logps.log_squares is not None
        weights_N = wpo_weights(logps.tokens, logps.log_squares, logps.owner, logps.lengths)
        losses_B = losses_B * weights_N[pairs.chosen_B] * weights_N[pairs.rejected_B]
    if config.nll_weight:
        losses_B = losses_B + config.nll_weight * loss.nll(plain.chosen_B, plain.chosen_lengths_B)
    return losses_B, pairs.weights_B, metrics


def pair_losses(given: PairLogps, pairs: PairIndex, config: TrainingConfig) -> Tensor:
    """[B] the pairwise loss that the recipe names."""
    beta = config.strength
    match config.objective:
        case "dpo":
            return loss.dpo(given, beta, _flipped(pairs, config))
        case "robust":
            return loss.robust(given, beta, config.label_smoothing)
        case "ipo":
            return loss.ipo(given, beta, config.ipo_average)
        case "hinge":
            return loss.hinge(given, beta)
        case "dpo-norm":
            return loss.dpo_norm(given, beta)
        case "simpo":
            return loss.simpo(given, beta, config.gamma_beta_ratio)
        case "orpo":
            return loss.orpo(given, beta)
        case "cpo":
            return loss.cpo(given, beta)
        case "dpop":
            return loss.dpop(given, beta, config.penalty)
        case "apo-zero":
            return loss.apo_zero(given, beta)
        case "apo-down":
            return loss.apo_down(given, beta)
        case "nca":
            return loss.nca(given, beta)
        case "sppo":
            return loss.sppo(given, beta, pairs.soft_labels_B, 1 - pairs.soft_labels_B)
        case _:
            raise AssertionError(config.objective)


def _flipped(pairs: PairIndex, config: TrainingConfig) -> Tensor:
    if config.label_scale is not None:
        return 1 - soft_label(pairs.margins_B, config.label_scale)
    return pairs.flipped(config.label_smoothing)


def _kto(logratios_N: Tensor, pairs: PairIndex, config: TrainingConfig, kl: Tensor | None) -> tuple[Tensor, Tensor]:
    """Losses and weights of answers: a prompt's answers share the weight of its pairs."""
    assert kl is not None
    good_N = torch.zeros_like(pairs.group_N, dtype=torch.bool)
    good_N[pairs.chosen_B] = True
    losses_N = kto(logratios_N, good_N, kl, config.strength, config.lambda_good, config.lambda_bad)
    sizes_G = group_sums(torch.ones_like(losses_N), pairs.group_N, len(pairs.weights_G))
    return losses_N, (pairs.weights_G / sizes_G)[pairs.group_N]


def _pair_logps(sums_N: Tensor, reference_N: Tensor, lengths_N: Tensor, pairs: PairIndex) -> PairLogps:
    chosen, rejected = pairs.chosen_B, pairs.rejected_B
    return PairLogps(*(values[places] for values in (sums_N, reference_N, lengths_N) for places in (chosen, rejected)))


def _length_desensitised(logps: GroupLogps, reference_T: Tensor, pairs: PairIndex, alpha: float) -> PairLogps:
    """Both answers of each pair up to their common length, and `alpha` of the rest; an answer in two pairs twice."""
    lengths_N = logps.lengths
    common_B = torch.minimum(lengths_N[pairs.chosen_B], lengths_N[pairs.rejected_B])
    starts_N = lengths_N.cumsum(0) - lengths_N
    positions_T = torch.arange(len(logps.tokens), device=common_B.device) - starts_N[logps.owner]
    found = []
    for tokens_T in (logps.tokens, reference_T):
        for answers_B in (pairs.chosen_B, pairs.rejected_B):
            token = _tokens_of(answers_B, starts_N, lengths_N)
            owner = torch.repeat_interleave(torch.arange(len(answers_B), device=token.device), lengths_N[answers_B])
            found.append(ld_logps(tokens_T[token], owner, positions_T[token], common_B, alpha))
    return PairLogps(*found, lengths_N[pairs.chosen_B], lengths_N[pairs.rejected_B])


def _tokens_of(answers_B: Tensor, starts_N: Tensor, lengths_N: Tensor) -> Tensor:
    """Places of all tokens of these answers, one answer after the other."""
    lengths_B = lengths_N[answers_B]
    offsets_B = starts_N[answers_B] - (lengths_B.cumsum(0) - lengths_B)
    return torch.arange(int(lengths_B.sum()), device=answers_B.device) + torch.repeat_interleave(offsets_B, lengths_B)

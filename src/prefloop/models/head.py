"""The LM head on scored positions alone: log π of given tokens, without keeping the logits.

With W the head's weight [V, d], h a hidden state and y the token that it has to predict,

    log π(y|h) = z_y − log Σ_v exp z_v,     z = W h + b
    ∂ log π(y|h) / ∂h = W_y − Σ_v p_v W_v,  p = softmax(z)

so the gradient of a token's log-probability is one number (what the loss asks of this token) times a vector that
the forward pass can compute while the logits of its chunk are still at hand. With a frozen head (LoRA) nothing of
size [tokens, V] outlives its chunk and the backward pass has no matrix product left; the work is that of keeping
all logits: two products. Where W is trained, p is kept as long as it fits and computed again beyond that.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 32 * 2**20
"""Size of the logits of one chunk in float32: large enough for the product, small enough for a cache."""

DEVICE_CHUNKS = 16
"""Chunks of an accelerator in those of a CPU: it wants larger products, and has no cache to fit."""

KEPT_BYTES = 2 * 2**30
"""Probabilities kept for the gradient of a trained head; a batch with more computes them again."""


def token_logps(
    hidden_M: Tensor, weight: Tensor, bias: Tensor | None, targets_M: Tensor, squares: bool = False
) -> tuple[Tensor, Tensor | None]:
    """[M] log-probability of each target token at temperature 1, in float32; with `squares` also log Σ_v p_v²,
    without gradient.

    Products run in the type of the weights (under autocast in its type), softmax and sums in float32.

    Args:
        hidden_M: [M, d] the hidden state that predicts each token.
        weight: [V, d] of the head; its gradient is computed only if it is trained.
        bias: [V], or None.
        targets_M: [M] long.
    """
    kind = hidden_M.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    logps, log_squares = _TokenLogps.apply(
        hidden_M.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype), targets_M, squares
    )
    return logps, log_squares if squares else None


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, squares: bool
    ) -> tuple[Tensor, Tensor]:
        trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        unit = torch.empty_like(hidden) if ctx.needs_input_grad[0] and not trained else None
        keep = trained and len(targets) * len(weight) * hidden.element_size() <= KEPT_BYTES
        logps, kept, log_squares = [], [], [hidden.new_empty(0, dtype=torch.float32)]
        for rows in _chunks(hidden, weight):
            logits = _logits(hidden[rows], weight, bias)
            normaliser = logits.logsumexp(-1, keepdim=True)
            logps.append(logits.gather(1, targets[rows, None]) - normaliser)
            if squares:
                log_squares.append((2 * logits).logsumexp(-1) - 2 * normaliser.squeeze(1))
            if unit is not None or keep:
                p = logits.sub_(normaliser).exp_().to(hidden.dtype)
                kept.append(p) if keep else torch.sub(weight[targets[rows]], p @ weight, out=unit[rows])
        ctx.kept = kept
        ctx.save_for_backward(*((hidden, weight, bias, targets) if trained else (unit,)))
        found = torch.cat(log_squares)
        ctx.mark_non_differentiable(found)
        return torch.cat(logps).squeeze(1), found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if len(ctx.saved_tensors) == 1:
            (unit,) = ctx.saved_tensors
            return grad.to(unit.dtype)[:, None] * unit, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for i, rows in enumerate(_chunks(hidden, weight)):
            p = ctx.kept[i] if ctx.kept else _logits(hidden[rows], weight, bias).softmax(-1).to(hidden.dtype)
            share = grad[rows, None].to(hidden.dtype)
            d_logits = (p * -share).scatter_add_(1, targets[rows, None], share)
            torch.mm(d_logits, weight, out=grad_hidden[rows])
            grad_weight.addmm_(d_logits.T, hidden[rows])
            if grad_bias is not None:
                grad_bias += d_logits.sum(0)
        ctx.kept = []  # the loss, and with it this graph, may outlive the backward pass
        return grad_hidden, grad_weight, grad_bias, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = hidden @ weight.T
    return (logits if bias is None else logits.add_(bias)).float()


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    size = CHUNK_BYTES if hidden.device.type == "cpu" else DEVICE_CHUNKS * CHUNK_BYTES
    step = max(1, size // (4 * len(weight)))
    return (slice(start, min(start + step, len(hidden))) for start in range(0, len(hidden), step))

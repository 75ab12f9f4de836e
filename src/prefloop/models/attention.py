"""Attention for short training sequences in bfloat16 on a CPU: two batched matrix products.

PyTorch's fused CPU kernel computes the backward pass of many short sequences slowly (60 ms against 12 ms for
64 sequences of 130 tokens on two cores with AMX), because each head of each sequence becomes small products
of its own. Here all heads go through one batched product, at the price of keeping the attention weights in
memory, which is why it is used up to `LONGEST` tokens only. Everything else is handed to transformers' SDPA
function unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "prefloop_matmul"
LONGEST = 256
"""Tokens per row up to which the two products beat the fused kernel (measured; equal at about 350)."""


@contextmanager
def training_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use `matmul_attention` inside the block where the model is on a CPU and uses SDPA; restore after it.

    Restoring matters: the same model also generates, and its numbers must not depend on whether it was
    trained in this process.
    """
    config = model.config
    if config._attn_implementation != "sdpa" or model.device.type != "cpu":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def matmul_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q kᵀ · scaling + mask) v for queries [B, H, S, D] and keys, values [B, N, S, D]; out [B, S, H,
    D].

    The H/N query heads that share a key head are stacked into one product, so keys are never repeated.
    """
    if not _applies(module, query, key, attention_mask, dropout, extra):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extra
        )
    b, h, s, d = query.shape
    n = key.shape[1]
    scale = d**-0.5 if scaling is None else scaling
    stacked = (query * scale).reshape(b * n, (h // n) * s, d)
    scores = torch.bmm(stacked, key.reshape(b * n, s, d).transpose(1, 2)).view(b, h, s, s)
    mask = _causal(s, scores) if attention_mask is None else attention_mask.to(scores.dtype)
    weights = (scores + mask).softmax(-1, dtype=scores.dtype)
    mixed = torch.bmm(weights.view(b * n, (h // n) * s, s), value.reshape(b * n, s, d))
    return mixed.view(b, h, s, d).transpose(1, 2).contiguous(), None


def _applies(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
    extra: dict[str, Any],
) -> bool:
    half = query.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )
    square = query.shape[2] == key.shape[2] and 1 < query.shape[2] <= LONGEST
    additive = mask is None or (mask.is_floating_point() and mask.shape[1] == 1)
    causal = extra.get("is_causal") is not False and getattr(module, "is_causal", True)
    plain = all(extra.get(name) is None for name in ("softcap", "s_aux", "position_bias", "cache"))
    return half and square and additive and causal and plain and dropout == 0.0


def _causal(length: int, like: torch.Tensor) -> torch.Tensor:
    floor = torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return floor.triu(1)


AttentionInterface.register(NAME, matmul_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

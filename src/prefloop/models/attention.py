"""Attention over packed groups: the prompt once, its completions beside each other, none seeing another.

transformers' models hand queries, keys and values of the whole row to a registered function, with what the caller
of the model passed along; here that is `Segments`, so nothing of a model is patched. Three ways to the same
numbers, none with a mask over the row:

* ``short`` rows (CPU, up to `SHORT` tokens): completions are gathered into padded rows [prompt | completion] and
  attended to in two batched products. PyTorch's fused CPU kernel computes the backward pass of many short
  sequences slowly (60 ms against 12 ms for 64 sequences of 130 tokens on two cores with AMX).
* ``split``: per group one causal call over [prompt | y1] and, for every further completion, its queries alone on
  [prompt | yk], aligned at the lower right. Any device, any type.
* ``varlen`` (CUDA, half precision): the same segments in one call of the variable-length flash kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "prefloop_groups"
SHORT = 256
"""Tokens of prompt and completion up to which the two products beat the fused CPU kernel (docs/lab-notes.md)."""

FLASH_CAPABILITY = (8, 0)
"""CUDA compute capability from which the variable-length kernel runs."""

Shape = tuple[int, tuple[int, ...]]
"""Tokens of a prompt, and of each of its completions."""


@dataclass(frozen=True, slots=True)
class Segments:
    """What stands where in a packed row of T tokens."""

    groups: tuple[Shape, ...]
    """In the order of the row: prompt, completions, next prompt …"""
    rows_NL: Tensor | None
    """[N, L] token at each place of the padded rows [prompt | completion]; padding names token 0. None: long."""
    place_T: Tensor | None
    """[T] place of each token's output in those rows, counted flat."""
    keys: Tensor | None
    """Tokens that the N query segments look at, one segment's after the other (for ``varlen``)."""
    starts: tuple[Tensor, Tensor] | None
    """[N + 1] int32 where each segment of queries, and of keys, starts (for ``varlen``)."""
    longest: tuple[int, int]
    """Longest segment of queries and of keys."""

    @classmethod
    def of(cls, groups: Sequence[Shape], device: torch.device) -> Segments:
        """The segments of groups that are packed in this order."""
        pieces = [piece for place, shape in _placed(groups) for piece in _pieces(place, shape)]
        queries = tuple(end - start for start, end, _ in pieces)
        longest = (max(queries), max(len(keys) for *_, keys in pieces))
        if device.type == "cpu" and longest[1] <= SHORT:
            return cls(tuple(groups), *_short(groups), None, None, longest)
        if device.type != "cuda":
            return cls(tuple(groups), None, None, None, None, longest)
        keys = torch.tensor([token for *_, seen in pieces for token in seen], device=device)
        starts = tuple(
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
            for lengths in (queries, [len(seen) for *_, seen in pieces])
        )
        return cls(tuple(groups), None, None, keys, (starts[0], starts[1]), longest)


def _placed(groups: Sequence[Shape]) -> Iterator[tuple[int, Shape]]:
    place = 0
    for prompt, completions in groups:
        yield place, (prompt, completions)
        place += prompt + sum(completions)


def _pieces(place: int, shape: Shape) -> Iterator[tuple[int, int, list[int]]]:
    """Segments of queries as (start, end), and the tokens each looks at: the first has the prompt's queries too."""
    prompt, completions = shape
    seen = list(range(place, place + prompt))
    start = place + prompt
    for i, length in enumerate(completions):
        yield start if i else place, start + length, [*seen, *range(start, start + length)]
        start += length


def _short(groups: Sequence[Shape]) -> tuple[Tensor, Tensor]:
    """`rows_NL` and `place_T`; a prompt's output is taken from the row of its first completion."""
    rows, places = [], []
    width = max(prompt + max(completions) for prompt, completions in groups)
    for place, (prompt, completions) in _placed(groups):
        start = place + prompt
        for i, length in enumerate(completions):
            row = [*range(place, place + prompt), *range(start, start + length)]
            places += [len(rows) * width + j for j in range(prompt if i else 0, prompt + length)]
            rows.append(row + [0] * (width - len(row)))
            start += length
    return torch.tensor(rows), torch.tensor(places)


@contextmanager
def training_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use `group_attention` inside the block where the model uses SDPA; restore after it.

    Restoring matters: the same model also generates, and its numbers must not depend on whether it was trained in
    this process.
    """
    if model.config._attn_implementation != "sdpa":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def group_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    segments: Segments | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row: queries [1, H, T, D], keys and values [1, N, T, D]; out [1, T, H, D].

    Without `segments` this is transformers' SDPA function.
    """
    if segments is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **extra
        )
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings may have made queries float32 again
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if segments.rows_NL is not None:
        return _attend_short(query, key, value, segments, scale), None
    if segments.keys is not None and query.dtype != torch.float32 and _has_flash(query.device):
        return _attend_varlen(query, key, value, segments, scale), None
    return _attend_split(query, key, value, segments, scale), None


def _attend_short(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
    assert segments.rows_NL is not None
    assert segments.place_T is not None
    n, length = segments.rows_NL.shape
    heads, d = query.shape[1], query.shape[3]
    rows = segments.rows_NL.view(-1)

    def batched(states: Tensor) -> Tensor:
        """[1, H, T, D] -> [N, H, L, D]"""
        by_token = states[0].transpose(0, 1).reshape(states.shape[2], -1)
        return by_token.index_select(0, rows).view(n, length, states.shape[1], d).transpose(1, 2)

    if query.dtype == torch.float32:
        mixed = F.scaled_dot_product_attention(
            batched(query), batched(key), batched(value), is_causal=True, scale=scale, enable_gqa=heads != key.shape[1]
        )
    else:
        mixed = _two_products(batched(query * scale), batched(key), batched(value))
    by_place = mixed.transpose(1, 2).reshape(n * length, -1)
    return by_place.index_select(0, segments.place_T).view(1, -1, heads, d)


def _two_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(q kᵀ + causal) v; query heads that share a key head are stacked, so keys are never repeated."""
    b, h, s, d = query.shape
    n = key.shape[1]
    scores = torch.bmm(query.reshape(b * n, h // n * s, d), key.reshape(b * n, s, d).transpose(1, 2))
    floor = torch.full((s, s), torch.finfo(scores.dtype).min, dtype=scores.dtype).triu(1)
    weights = (scores.view(b * n, h // n, s, s) + floor).softmax(-1, dtype=scores.dtype)
    return torch.bmm(weights.view(b * n, h // n * s, s), value.reshape(b * n, s, d)).view(b, h, s, d)


def _attend_split(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
    """Splits of the row rather than slices: their backward pass is one concatenation, not a full row per slice."""
    key_sizes = [size for prompt, completions in segments.groups for size in (prompt, *completions)]
    query_sizes = [size for prompt, (first, *others) in segments.groups for size in (prompt + first, *others)]
    keys, values = key.split(key_sizes, 2), value.split(key_sizes, 2)
    queries = iter(query.split(query_sizes, 2))
    grouped = query.shape[1] != key.shape[1]
    if (
        grouped and query.is_cuda
    ):  # of CUDA's kernels none but flash shares keys and takes no mask; without flash repeat
        keys, values = (
            [states.repeat_interleave(query.shape[1] // key.shape[1], 1) for states in found]
            for found in (keys, values)
        )
        grouped = False
    out, place = [], 0
    for prompt, completions in segments.groups:
        for i, length in enumerate(completions):
            seen = [torch.cat([states[place], states[place + 1 + i]], 2) for states in (keys, values)]
            mask = _lower_right(length, prompt + length, query.device) if i else None
            out.append(
                F.scaled_dot_product_attention(
                    next(queries), *seen, attn_mask=mask, is_causal=not i, scale=scale, enable_gqa=grouped
                )
            )
        place += 1 + len(completions)
    return torch.cat(out, 2).transpose(1, 2)


def _lower_right(queries: int, keys: int, device: torch.device) -> Tensor:
    """[queries, keys] the last query sees all keys, each earlier one a key less."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    assert segments.keys is not None
    assert segments.starts is not None
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    out: Tensor = varlen_attn(
        q.contiguous(),
        k.index_select(0, segments.keys),
        v.index_select(0, segments.keys),
        *segments.starts,
        *segments.longest,
        scale=scale,
        window_size=(-1, 0),  # causal; with fewer queries than keys aligned at the lower right
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[None]


def _has_flash(device: torch.device) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


AttentionInterface.register(NAME, group_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

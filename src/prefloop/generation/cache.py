"""A key-value cache that grows, repeats rows and drops rows without copying the past at every step."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

BLOCK = 64
"""Positions by which a full buffer grows."""


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` that writes new positions behind the old ones and fills holes in place.

    Keys and values are views ``[rows, heads, length, head_dim]`` of two buffers with room for more positions.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states ``[rows, heads, new, head_dim]``; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [key_states.new_empty(0, 0, 0, 0)] * 2
        rows, past = len(key_states), self.get_seq_length()
        total = past + key_states.shape[-2]
        if total > self._room[0].shape[-2]:
            self._enlarge(key_states.shape, value_states.shape, past, total)
        self.keys, self.values = (room[:rows, :, :total] for room in self._room)
        self.keys[:, :, past:] = key_states
        self.values[:, :, past:] = value_states
        return self.keys, self.values

    def _enlarge(self, keys: torch.Size, values: torch.Size, past: int, total: int) -> None:
        grown = [
            torch.empty(*shape[:2], total + BLOCK, shape[-1], dtype=self.dtype, device=self.device)
            for shape in (keys, values)
        ]
        if past:
            grown[0][:, :, :past], grown[1][:, :, :past] = self.keys, self.values
        self._room = grown

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, the copies of a row side by side."""
        if repeats == 1:
            return
        rows, _, length, _ = self.keys.shape
        copies = [room.new_empty(rows * repeats, *room.shape[1:]) for room in self._room]
        for copy, old in zip(copies, (self.keys, self.values), strict=True):
            copy.unflatten(0, (rows, repeats))[..., :length, :] = old[:, None]
        self._room = copies
        self.keys, self.values = (copy[:, :, :length] for copy in copies)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows, in this order; a row that keeps its place costs nothing."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero()[:, 0]
        for states in (self.keys, self.values):
            if len(moved):
                states[moved] = states[indices[moved]]  # the right side is copied first: rows may swap
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """The library's cache for this model, with every plain full-attention layer replaced by a growing one."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def rows_can_move(cache: DynamicCache) -> bool:
    """Whether rows can be repeated and dropped: keys and values can, recurrent states (Mamba) cannot."""
    return all(type(layer) in (GrowingLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def cache_bytes(config: PreTrainedConfig, itemsize: int) -> int:
    """Bytes that one position of one row takes in the cache, as if every layer kept the whole past."""
    config = config.get_text_config(decoder=True)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width * itemsize

"""A key-value cache that grows in place: no copy of the past at every step."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

BLOCK = 64
"""Positions by which a full buffer grows."""


class GrowingLayer(DynamicLayer):
    """`DynamicLayer` with spare room: new positions are written behind the old ones.

    Keys and values are views ``[rows, heads, length, head_dim]`` of buffers with up to `BLOCK` spare positions.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append `key_states` and `value_states`; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = [key_states.new_empty(0), value_states.new_empty(0)]
        length, new = self.get_seq_length(), key_states.shape[-2]
        self.keys, self.values = (
            self._write(slot, states, length, new) for slot, states in enumerate((key_states, value_states))
        )
        return self.keys, self.values

    def _write(self, slot: int, states: torch.Tensor, length: int, new: int) -> torch.Tensor:
        if length == 0 or length + new > self._buffers[slot].shape[-2]:
            grown = states.new_empty(*states.shape[:2], length + new + BLOCK, states.shape[-1])
            if length:
                grown[:, :, :length] = self._buffers[slot][:, :, :length]
            self._buffers[slot] = grown
        self._buffers[slot][:, :, length : length + new] = states
        return self._buffers[slot][:, :, : length + new]

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, rows of one prompt side by side."""
        self._replace([buffer.repeat_interleave(repeats, dim=0) for buffer in self._buffers])

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        self._replace([buffer.index_select(0, indices) for buffer in self._buffers])

    def _replace(self, buffers: list[torch.Tensor]) -> None:
        length = self.get_seq_length()
        self._buffers = buffers
        self.keys, self.values = (buffer[:, :, :length] for buffer in buffers)


def growing_cache(config: Any) -> DynamicCache:
    """The library's cache for this model, with every plain full-attention layer replaced by a growing one."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache

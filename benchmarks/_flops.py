"""Floating-point operations of a LoRA step on either side: what a ratio can be where kernels do not count.

N parameters of the blocks, h of the head, a = 4 · layers · heads · head size per (query, key) pair. Frozen weights
need no gradient of their own, so a block costs two products forward and two backward per token (4 N), attention one
part forward and two backward (3 a). The adapters themselves are left out on both sides.

The head: ours takes two products on scored positions, forward alone (`prefloop.models.head`). TRL 1.16's fused head
takes one forward and, as it keeps nothing, two backward, on scored positions where Triton runs, elsewhere on *every*
position but each row's last (`trl.trainer.utils.add_fused_lm_head`: ``compact``). A reward model's head is nothing.
Attention of a padded row is counted as if its kernel skipped what lies above the diagonal, in TRL's favour.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from _sizes import Size

from prefloop.models.group import Group


@dataclass
class Pass:
    """Shape of one padded forward pass."""

    rows: int
    width: int
    real: int
    """Tokens that are not padding."""


class Flops:
    """Counts for one model."""

    def __init__(self, size: Size, kind: str) -> None:
        shape: dict[str, Any] = size.shape
        d, layers, heads = shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"]
        keys = shape["num_key_value_heads"] / heads
        self.blocks = layers * (2 * d * d + 2 * d * d * keys + 3 * d * shape["intermediate_size"])
        self.head = 0 if kind == "reward" else shape["vocab_size"] * d
        self.attention = 4 * layers * d
        self.compact = size.device == "cuda"

    def ours(self, groups: Iterable[Group]) -> float:
        """Forward and backward of groups whose prompts are computed once."""
        total = 0.0
        for group in groups:
            prompt, lengths = len(group.prompt_ids), [len(ids) for ids in group.completions]
            pairs = _triangle(prompt) + sum(prompt * length + _triangle(length) for length in lengths)
            total += 4 * self.blocks * group.tokens + 3 * self.attention * pairs + 4 * self.head * sum(lengths)
        return total

    def trl(self, passes: Iterable[Pass], scored: int, defaults: bool, reference: bool) -> float:
        """Forward and backward of padded rows.

        Args:
            scored: tokens of all completions of all rows.
            defaults: activation checkpointing, which computes the blocks' forward pass twice.
            reference: another forward pass for the reference.
        """
        passes = list(passes)
        tokens = sum(p.rows * p.width for p in passes)
        pairs = sum(p.rows * _triangle(p.width) for p in passes)
        heads = scored if self.compact else tokens - sum(p.rows for p in passes)
        forward = 2 * self.blocks * tokens + self.attention * pairs
        step = 2 * forward + self.attention * pairs + 6 * self.head * heads
        return step + forward * defaults + (forward + 2 * self.head * heads) * reference


def _triangle(n: int) -> int:
    return n * (n + 1) // 2

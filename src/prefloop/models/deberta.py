"""DeBERTa-v3's encoder (2006.03654, 2111.09543) for inference: transformers' weights, attention without gathers.

With heads' queries q, keys k and projections k^r, q^r of the table of relative positions, position i reads j by

    A[i, j] = (q_i·k_j + q_i·k^r_δ(i−j) + k_j·q^r_δ(i−j)) / √(3d),    δ: distance to row of the table

transformers multiplies with all rows of the table and gathers [N, N] numbers from each product. δ depends on i − j
alone, so with the rows put in the order of i − j the products hold A's diagonals side by side, and a strided view is
the matrix wanted. The projections of the table are the same for every input and are made once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NEEDED = {
    "relative_attention": True,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
"""What sets version 3 apart in a DebertaV2Config."""


def is_version_3(config: Any) -> bool:
    """Whether the encoder below computes what this configuration means."""
    same = all(getattr(config, key, None) == value for key, value in NEEDED.items())
    terms = sorted(config.pos_att_type or ()) == ["c2p", "p2c"]
    return same and terms and getattr(config, "position_buckets", -1) > 0 and not getattr(config, "conv_kernel_size", 0)


class DebertaV3:
    """Last hidden states of sequences with padding at their end, at some positions.

    Args:
        model: transformers' DebertaV2Model of a configuration that `is_version_3`, on its device.
    """

    @torch.inference_mode()
    def __init__(self, model: Any) -> None:
        self._model = model.eval()
        self.device: torch.device = model.device
        self._heads = model.config.num_attention_heads
        self._scale = (3 * model.config.hidden_size / self._heads) ** 0.5
        table_RD = model.encoder.get_rel_embedding()[: 2 * model.config.position_buckets]
        parts = [layer.attention.self for layer in model.encoder.layer]
        self._rows = [
            (self._split(p.key_proj(table_RD)), self._split(p.query_proj(table_RD)) / self._scale) for p in parts
        ]

    @torch.inference_mode()
    def __call__(self, ids_BN: Tensor, real_BN: Tensor, at_BP: Tensor) -> Tensor:
        """[B, P, D] last hidden states at the positions `at_BP`, in the model's number type, on its device.

        The last layer is computed at those positions alone.

        Args:
            ids_BN: token ids, on the CPU.
            real_BN: False where a sequence has ended, on the CPU.
            at_BP: positions, on the CPU.
        """
        padding = None if real_BN.all() else ~real_BN[:, None, None, :].to(self.device)
        x_BND = self._model.embeddings(input_ids=ids_BN.to(self.device), mask=real_BN.to(self.device))
        forth_T = self._rows_by_distance(ids_BN.shape[1])
        back_T = forth_T.flip(0)
        *layers, last = self._model.encoder.layer
        for layer, (keys_HRd, queries_HRd) in zip(layers, self._rows, strict=False):
            q, k, v = self._projected(layer, x_BND, x_BND)
            bias_BHNN = _diagonals(q @ keys_HRd[:, back_T].mT) + _diagonals(k @ queries_HRd[:, forth_T].mT).mT
            x_BND = _finished(layer, x_BND, _read(q, k, v, bias_BHNN, padding))
        wanted_BPD = x_BND.take_along_dim(at_BP[..., None].to(self.device), 1)
        q, k, v = self._projected(last, wanted_BPD, x_BND)
        bias_BHPN = self._bias_at(at_BP.to(self.device), forth_T, q, k)
        return _finished(last, wanted_BPD, _read(q, k, v, bias_BHPN, padding))

    def _projected(self, layer: Any, reading: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        own = layer.attention.self
        q = self._split(own.query_proj(reading)) / self._scale
        return q, self._split(own.key_proj(read)), self._split(own.value_proj(read))

    def _bias_at(self, at_BP: Tensor, forth_T: Tensor, q_BHPd: Tensor, k_BHNd: Tensor) -> Tensor:
        """[B, H, P, N] the two terms of position in the last layer."""
        length = k_BHNd.shape[-2]
        rows_BPN = forth_T[at_BP[..., None] - torch.arange(length, device=self.device) + length - 1]
        keys_HRd, queries_HRd = self._rows[-1]
        to_keys = torch.einsum("bhpd,hbpnd->bhpn", q_BHPd, keys_HRd[:, rows_BPN])
        return to_keys + torch.einsum("bhnd,hbpnd->bhpn", k_BHNd, queries_HRd[:, rows_BPN])

    def _split(self, x: Tensor) -> Tensor:
        """[..., N, D] to [..., H, N, d]."""
        return x.unflatten(-1, (self._heads, -1)).transpose(-2, -3)

    def _rows_by_distance(self, length: int) -> Tensor:
        """[2N - 1] row of the table for each distance i − j from 1 − N to N − 1."""
        from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

        config = self._model.config
        buckets = config.position_buckets
        longest = config.max_relative_positions
        longest = config.max_position_embeddings if longest < 1 else longest
        distances_T = torch.arange(1 - length, length)
        found_T = make_log_bucket_position(distances_T, buckets, longest).long() + buckets
        return found_T.clamp(0, 2 * buckets - 1).to(self.device)


def _read(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, padding: Tensor | None) -> Tensor:
    """[B, P, D] what P positions read of N."""
    if padding is not None:
        bias.masked_fill_(padding, -torch.inf)
    return scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).transpose(1, 2).flatten(2)


def _finished(layer: Any, x: Tensor, read: Tensor) -> Tensor:
    x = layer.attention.output(read, x)
    return layer.output(layer.intermediate(x), x)


def _diagonals(x_BHNT: Tensor) -> Tensor:
    """[B, H, N, N] view of [B, H, N, 2N - 1]: entry (i, j) is x[i, j − i + N − 1]."""
    *lead, length, width = x_BHNT.shape
    x_BHNT = x_BHNT.contiguous()
    strides = (*x_BHNT.stride()[:-2], width - 1, 1)
    return x_BHNT.as_strided((*lead, length, length), strides, x_BHNT.storage_offset() + length - 1)

"""The peer of PairRM judging, llm-blender 0.0.2, under transformers 5; and random weights in PairRM's two layouts."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

WORDS = (
    "the a of and to in is are what who how many points did they score games season team best worst first last "
    "hello love hate thanks good bad guy fine bye out get you I am answer because list second third maybe sorry cannot"
).split()
"""What the random tokenizer is trained on, and what made-up prompts are drawn from."""

_SPECIAL = {"pad": "[PAD]", "bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]"}
"""SentencePiece's names for the pieces that DeBERTa puts first."""

TINY = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}

DEBERTA_V3 = {
    "model_type": "deberta-v2",
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "norm_rel_ebd": "layer_norm",
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "share_att_key": True,
    "type_vocab_size": 0,
}
"""Configuration of microsoft/deberta-v3-large but for its sizes."""


def write_sentencepiece(path: Path, lines: Iterable[str]) -> None:
    """A small SentencePiece file with DeBERTa's special pieces and the normaliser nmt_nfkc."""
    import sentencepiece

    content = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=content,
        model_type="unigram",
        vocab_size=400,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
        **{f"{name}_id": i for i, name in enumerate(_SPECIAL)},
        **{f"{name}_piece": piece for name, piece in _SPECIAL.items()},
    )
    path.write_bytes(content.getvalue())


def write_ranker(folder: Path, sizes: dict[str, int], seed: int = 0, spread: float = 2.0, **limits: int) -> Path:
    """Random weights in the layout of ``llm-blender/PairRM``; the model it was built on lies in ``base`` within.

    Every tensor is drawn wide enough that hidden states depend on all tokens and logits are of order 1.

    Args:
        spread: standard deviation of weights times √width. With 24 layers at 2 all tokens end in one state; 1 is right.
        limits: source_maxlength and candidate_maxlength other than PairRM's.
    """
    from transformers import DebertaV2Config, DebertaV2Model

    from prefloop.models.unigram import read_tokenizer

    base = folder / "base"
    base.mkdir(parents=True)
    shuffled = random.Random(0)
    write_sentencepiece(base / "spm.model", [" ".join(shuffled.choices(WORDS, k=12)) for _ in range(400)])
    tokens = read_tokenizer(base)
    assert tokens is not None
    config = DebertaV2Config(**{**DEBERTA_V3, **sizes, "vocab_size": tokens.get_vocab_size() + 4})
    torch.manual_seed(seed)
    encoder, d = DebertaV2Model(config), config.hidden_size
    with torch.no_grad():
        for tensor in encoder.parameters():
            if tensor.dim() == 2:
                tensor.normal_(std=spread / tensor.shape[1] ** 0.5)
    encoder.save_pretrained(base)
    head = {"1.weight": (d, 2 * d), "1.bias": (d,), "4.weight": (1, d), "4.bias": (1,)}
    tensors = {f"head_layer.{name}": torch.randn(size) / d**0.5 for name, size in head.items()}
    tensors |= {f"pretrained_model.{name}": tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    ranker: dict[str, Any] = {"ranker_type": "pairranker", "model_type": "deberta", "model_name": str(base)}
    ranker |= {"source_maxlength": 1224, "candidate_maxlength": 412, "n_tasks": 1, "drop_out": 0.05, "fp16": False}
    (folder / "config.json").write_text(json.dumps(ranker | limits))
    return folder


def open_llm_blender(folder: Path, device: str) -> Any:
    """llm-blender's Blender on a ranker's folder, with two shims: names that transformers 5 dropped."""
    import transformers.utils.hub
    from transformers import PreTrainedTokenizerBase

    transformers.utils.hub.__dict__.setdefault("TRANSFORMERS_CACHE", os.devnull)
    if not hasattr(PreTrainedTokenizerBase, "batch_encode_plus"):
        PreTrainedTokenizerBase.batch_encode_plus = PreTrainedTokenizerBase.__call__
    from llm_blender import Blender
    from llm_blender.blender.config import BlenderConfig

    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="dataclasses_json")
        blender = Blender(blender_config=BlenderConfig(device=device, use_tqdm=False))
        blender.loadranker(str(folder), device=device)
    return blender

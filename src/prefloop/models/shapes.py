"""Shapes of well-known models, from their published configurations: enough to count weights and plan memory offline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.training import Tuning
from prefloop.errors import ConfigError
from prefloop.models.load import EMBEDDED, is_hub_id

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class PublicShape:
    """A decoder with rotary positions and a gated MLP."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    """Whether embedding and head are one matrix."""
    ids: tuple[str, ...]
    """Of the Hub, that have this shape."""
    bias: bool = False
    """Of queries, keys and values (Qwen2)."""

    def config(self) -> PreTrainedConfig:
        """As transformers builds the model."""
        from transformers import LlamaConfig, Qwen2Config

        given: dict[str, Any] = {
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied,
            "max_position_embeddings": 32_768,
        }
        return Qwen2Config(**given, use_sliding_window=False) if self.bias else LlamaConfig(**given)


SHAPES = {
    "smollm2-135m": PublicShape(
        576, 1536, 30, 9, 3, 49_152, True, ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M-Instruct")
    ),
    "qwen2.5-0.5b": PublicShape(
        896, 4864, 24, 14, 2, 151_936, True, ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B-Instruct"), bias=True
    ),
    "mistral-7b": PublicShape(
        4096,
        14_336,
        32,
        32,
        8,
        32_000,
        False,
        ("mistralai/Mistral-7B-v0.1", "mistralai/Mistral-7B-Instruct-v0.1", "mistralai/Mistral-7B-Instruct-v0.2"),
    ),
    "llama-3-8b": PublicShape(
        4096,
        14_336,
        32,
        32,
        8,
        128_256,
        False,
        ("meta-llama/Meta-Llama-3-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
    ),
    "qwen2.5-32b": PublicShape(
        5120, 27_648, 64, 40, 8, 152_064, False, ("Qwen/Qwen2.5-32B", "Qwen/Qwen2.5-32B-Instruct"), bias=True
    ),
    "llama-3-70b": PublicShape(
        8192,
        28_672,
        80,
        64,
        8,
        128_256,
        False,
        ("meta-llama/Meta-Llama-3-70B-Instruct", "meta-llama/Llama-3.3-70B-Instruct"),
    ),
}


def shape_config(name: str) -> PreTrainedConfig:
    """The configuration of a shape by its name.

    Raises:
        ConfigError: there is no such shape.
    """
    if name not in SHAPES:
        raise ConfigError(f"--shape {name} is unknown: give one of {', '.join(SHAPES)}")
    return SHAPES[name].config()


def known_config(model: str) -> PreTrainedConfig | None:
    """The configuration of a model of the Hub whose shape is here; None: it is not."""
    return next((shape.config() for shape in SHAPES.values() if model in shape.ids), None)


def policy_config(model: str, shape: str | None = None) -> tuple[PreTrainedConfig, str]:
    """The configuration of a policy without its weights, and where it is from.

    Raises:
        ConfigError: it is not on this machine, and its shape is not known.
    """
    if shape is not None:
        return shape_config(shape), f"shape {shape}"
    folder = Path(EMBEDDED) if model == "embedded" else Path(model).expanduser()
    if is_hub_id(model):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json")
        if not isinstance(cached, str):
            known = known_config(model)
            if known is None:
                raise ConfigError(
                    f"the configuration of {model} is not on this machine: fetch it (hf download {model} config.json) "
                    "or give a --shape like it"
                )
            return known, "its published shape"
        folder = Path(cached).parent
    if not (folder / "config.json").is_file():
        raise ConfigError(f"no model {model}: give a folder with a config.json, a hub id, or a --shape")
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False), "its configuration"


def count_parameters(config: PreTrainedConfig) -> int:
    """Weights of the model."""
    from prefloop.models.footprint import on_meta

    model = on_meta(config, Tuning(method="full"), 2, config.get_text_config().num_hidden_layers)
    return sum(p.numel() for p in model.parameters())

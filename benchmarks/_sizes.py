"""Models, data shapes and goals of `benchmarks/training.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers

SEED = 7
RATE = 2e-3
"""Learning rate of every case, high enough that the loss curves leave their start within a few updates."""


@dataclass(frozen=True)
class Case:
    """What is trained, on groups of which shape. Lengths are means; they vary evenly by half of it either way."""

    name: str
    kind: str
    """``dpo``, ``reward`` or ``grpo``."""
    prompt: int
    completion: int
    answers: int
    """Completions per prompt."""
    prompts: int
    """Prompts per optimizer step."""
    goals: tuple[float, float]
    """Times as fast as tuned TRL: on two CPU cores, on one large GPU."""

    @property
    def examples(self) -> int:
        """What TRL counts of one optimizer step: pairs, all pairs of every ranking, or answers."""
        per_prompt = {"dpo": 1, "reward": self.answers * (self.answers - 1) // 2, "grpo": self.answers}
        return self.prompts * per_prompt[self.kind]


CASES = {
    case.name: case
    for case in (
        Case("dpo-long", "dpo", 512, 128, 2, 16, (5.0, 1.8)),
        Case("dpo-lima", "dpo", 100, 300, 2, 16, (3.0, 1.4)),
        Case("reward", "reward", 256, 128, 4, 8, (3.0, 2.0)),
        Case("grpo", "grpo", 512, 128, 8, 4, (3.0, 2.5)),
    )
}
"""Cases beside TRL; the others (`limit`, `memory`) take the data of ``dpo-long``, or their own (`flat`)."""


@dataclass(frozen=True)
class Size:
    """A model, and how much of each case is run on it."""

    name: str
    shape: dict[str, Any]
    """Arguments of the model's configuration."""
    config: type[Any]
    budgets: tuple[int, ...]
    """Our token budgets of one forward pass, of which a pilot takes the fastest."""
    device: str = "cpu"
    dtype: str = "float32"
    shorter: int = 1
    """Divides the lengths of the cases."""
    flat: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Pairs of the runs of `flat`."""
    tolerance: float = 1e-4
    """Largest difference between two loss curves, relative to the loss (at least 1), that is rounding."""
    micro_batches: tuple[int, ...] = (1, 2, 4, 8)

    @property
    def half(self) -> bool:
        """Whether forward passes run in bfloat16."""
        return self.dtype == "bfloat16"

    def scaled(self, length: int) -> int:
        """A mean length of a case at this size."""
        return max(4, length // self.shorter)

    def model(self, kind: str) -> Any:
        """A random model of this shape, the same weights at every call; for ``reward`` with a head of one number."""
        auto = "AutoModelForSequenceClassification" if kind == "reward" else "AutoModelForCausalLM"
        config = self.config(**self.shape, bos_token_id=None, eos_token_id=1, pad_token_id=0, num_labels=1)
        torch.manual_seed(SEED)
        with torch.device(self.device):
            made = getattr(transformers, auto).from_config(config, dtype=getattr(torch, self.dtype))
        return made.eval()


def _shape(hidden: int, layers: int, heads: int, keys: int, inner: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "max_position_embeddings": 4_096,
    }


LLAMA, QWEN, MISTRAL = transformers.LlamaConfig, transformers.Qwen2Config, transformers.MistralConfig
ON_GPU: dict[str, Any] = {
    "budgets": (4_096, 8_192, 16_384),
    "device": "cuda",
    "dtype": "bfloat16",
    "tolerance": 0.02,
}

SIZES = {
    size.name: size
    for size in (
        Size("cpu", _shape(384, 8, 6, 6, 1_024, 32_000, True), LLAMA, (1_024, 2_048, 4_096, 8_192)),
        Size(
            "tiny",
            _shape(64, 2, 2, 2, 128, 512, True),
            LLAMA,
            (128, 512),
            shorter=16,
            flat=(50, 200),
            micro_batches=(2, 8),
        ),
        Size("gpu-0.5b", _shape(896, 24, 14, 2, 4_864, 151_936, True), QWEN, **ON_GPU),
        Size("gpu-7b", {**_shape(4_096, 32, 32, 8, 14_336, 32_000, False), "sliding_window": None}, MISTRAL, **ON_GPU),
    )
}

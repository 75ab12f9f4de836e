"""Memory and time of a policy that is not the embedded one, computed from its size; nothing of it was measured.

Sampling reads every weight once per token step: bytes / bandwidth. Training computes 2 FLOPs per weight and token
forward and 2 backward through frozen weights (4 where they are trained, too), and a reference pass of 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.models.load import is_hub_id

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "nf4": 0.6}
"""Per weight; nf4's block scales, embeddings and head included (7.2B parameters: 4.3 GB)."""

COMPUTE_SHARE = 0.3
BANDWIDTH_SHARE = {"float32": 0.5, "bfloat16": 0.5, "float16": 0.5, "nf4": 0.15}
"""Of a GPU's peak that such work reaches; assumed. 4-bit weights are unpacked again at every step."""

JUDGE_GB = {"pairrm": 1.8, "armorm": 15.0}
"""Weights of the judges whose size is known, in the recipe's default number types."""

PROMPT_TOKENS = 150
ROWS = 32
"""Answers sampled side by side; assumed."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates from the maker's data sheet: dense half precision, and memory."""

    name: str
    memory_gb: float
    tflops: float
    gb_s: float


GPUS = (
    Gpu("T4", 15, 65, 320),
    Gpu("L4", 22, 121, 300),
    Gpu("A100 80 GB", 79, 312, 2_039),
    Gpu("H100 80 GB", 79, 989, 3_350),
)


@dataclass(frozen=True)
class ModelPlan:
    """What a policy needs."""

    name: str
    parameters: int | None
    source: str
    """Where the number of parameters comes from."""
    download_gb: float | None
    memory_gb: float | None
    """While training or while judging, whichever is more."""
    minutes: dict[str, float | None]
    """By GPU; None where it does not fit."""

    def text(self) -> str:
        """For the terminal."""
        if self.parameters is None or self.download_gb is None or self.memory_gb is None:
            return f"{'memory and time':<30} not known for {self.name}: its size is not in its name or on this machine"
        rows = [
            ("policy", f"{self.name}, {self.parameters / 1e9:.2f}B parameters ({self.source})"),
            ("to fetch, unless cached", f"about {self.download_gb:.1f} GB"),
            ("memory, the largest stage", f"about {self.memory_gb:.1f} GB, computed"),
        ]
        for gpu, minutes in self.minutes.items():
            told = "does not fit" if minutes is None else f"about {max(minutes, 1):.0f} min, computed"
            rows.append((f"time on one {gpu}", told))
        rows.append(("", "(sampling and training; without download and judging)"))
        return "\n".join(f"{name:<30} {value}" for name, value in rows)


def plan_model(recipe: Recipe, answers: int, pairs: int) -> ModelPlan:
    """Size, memory and time for so many sampled answers and at most so many training pairs."""
    name = recipe.policy.model
    parameters, source = _parameters(name)
    if parameters is None:
        return ModelPlan(name, None, source, None, None, {})
    memory = _memory_gb(recipe, parameters)
    minutes = {
        gpu.name: _seconds(recipe, gpu, parameters, answers, pairs) / 60 if memory <= gpu.memory_gb else None
        for gpu in GPUS
    }
    return ModelPlan(name, parameters, source, 2 * parameters / 1e9 if is_hub_id(name) else 0.0, memory, minutes)


def _parameters(name: str) -> tuple[int | None, str]:
    """From the configuration where it is on this machine, else from the name (``…-7B-…``)."""
    config = _config(name)
    if config is not None:
        from prefloop.config.training import Tuning
        from prefloop.models.footprint import on_meta

        model = on_meta(config, Tuning(method="full"), 2, config.get_text_config().num_hidden_layers)
        return sum(p.numel() for p in model.parameters()), "from its configuration"
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", name.split("/")[-1].replace("-", " "), re.IGNORECASE)
    if not found:
        return None, "not known"
    return int(float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()]), "from its name"


def _config(name: str) -> Any:
    from huggingface_hub import try_to_load_from_cache

    folder = Path(name).expanduser()
    if is_hub_id(name):
        cached = try_to_load_from_cache(name, "config.json")
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _memory_gb(recipe: Recipe, parameters: int) -> float:
    """Policies and judges are in memory one after the other; training is more than sampling."""
    return max(_training_gb(recipe, parameters), JUDGE_GB.get(recipe.judge.name, 0.0) + 1)


def _training_gb(recipe: Recipe, parameters: int) -> float:
    """Weights as loaded, what training adds, and activations of one pass (about 100 kB per token and √(billion))."""
    own = parameters * BYTES[recipe.policy.dtype]
    training = recipe.training
    added = {"full": parameters * 16.0, "lora": 0.0, "qlora": parameters * BYTES["nf4"]}[training.method]
    if recipe.policy.dtype == "nf4":
        added = 0.0
    adapters = 0.0 if training.method == "full" else 16.0 * 0.006 * parameters * training.lora_rank / 16
    kept = 0.03e6 if training.checkpointing else 0.4e6
    activations = kept * training.tokens_per_batch * (parameters / 1e9) ** 0.5
    return (own + added + adapters + activations + 1e9) / 1e9


def _seconds(recipe: Recipe, gpu: Gpu, parameters: int, answers: int, pairs: int) -> float:
    written = recipe.generation.max_new_tokens / 2
    steps = -(-answers // ROWS) * recipe.generation.max_new_tokens
    sampling = steps * parameters * BYTES[recipe.policy.dtype] / (gpu.gb_s * 1e9 * BANDWIDTH_SHARE[recipe.policy.dtype])
    tokens = pairs * (PROMPT_TOKENS + 2 * written)
    backward = 4 if recipe.training.method == "full" else 2
    again = 2 if recipe.training.checkpointing else 0
    flops = parameters * tokens * (2 + recipe.training.epochs * (2 + backward + again))
    return sampling + flops / (gpu.tflops * 1e12 * COMPUTE_SHARE)

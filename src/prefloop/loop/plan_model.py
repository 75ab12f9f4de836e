"""Memory and time of a run's policy on one GPU of each common kind, for ``--dry-run``; `prefloop plan` says more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefloop.config.recipe import Recipe
from prefloop.errors import ConfigError
from prefloop.loop.hardware import GPUS
from prefloop.loop.plan_stages import Cluster, generation_stage, judging_stage, training_stage
from prefloop.loop.plan_ways import training_memory
from prefloop.models.load import is_hub_id
from prefloop.models.shapes import SHAPES, count_parameters, policy_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHOWN = ("t4", "l4", "a100-80gb", "h100-80gb")
LIKE = 1.5
"""A model is planned like a known shape if the larger of both, by their names, is at most so many times the other."""


@dataclass(frozen=True)
class ModelPlan:
    """What a policy needs."""

    name: str
    parameters: int | None
    source: str
    """Where its shape is from."""
    download_gb: float | None
    memory_gb: float | None
    """While writing answers, training or judging, whichever is most."""
    minutes: dict[str, float | None]
    """By GPU; None where it does not fit."""

    def text(self) -> str:
        """For the terminal."""
        if self.parameters is None or self.download_gb is None or self.memory_gb is None:
            return f"{'memory and time':<30} not known for {self.name}: {self.source}"
        rows = [
            ("policy", f"{self.name}, {self.parameters / 1e9:.2f}B parameters ({self.source})"),
            ("to fetch, unless cached", f"about {self.download_gb:.1f} GB"),
            ("memory, the largest stage", f"about {self.memory_gb:.1f} GB, computed"),
        ]
        for gpu, minutes in self.minutes.items():
            told = "does not fit" if minutes is None else f"about {max(minutes, 1):.0f} min, computed"
            rows.append((f"time on one {gpu}", told))
        rows.append(("", "(without download; more, and other hardware: prefloop plan)"))
        return "\n".join(f"{name:<30} {value}" for name, value in rows)


def plan_model(recipe: Recipe, answers: int, pairs: int) -> ModelPlan:
    """Size, memory and time for so many sampled answers and at most so many training pairs."""
    name = recipe.policy.model
    try:
        config, source = _config(name)
    except ConfigError as error:
        return ModelPlan(name, None, str(error), None, None, {})
    parameters = count_parameters(config)
    (memory,) = training_memory(recipe, recipe.training, config, [("ddp", 1)])
    minutes: dict[str, float | None] = {}
    most = 0
    for gpu in (GPUS[shown] for shown in SHOWN):
        cluster = Cluster(gpu, 1)
        stages = [
            generation_stage(recipe, config, parameters, answers, cluster),
            judging_stage(recipe, answers, cluster),
            training_stage(recipe, parameters, pairs, cluster, "ddp", memory.parts),
        ]
        most = max(stage.bytes for stage in stages)
        fits = all(stage.fits(gpu) for stage in stages)
        minutes[gpu.name] = 60 * sum(stage.hours or 0.0 for stage in stages) if fits else None
    return ModelPlan(name, parameters, source, 2 * parameters / 1e9 if is_hub_id(name) else 0.0, most / 1e9, minutes)


def _config(name: str) -> tuple[PreTrainedConfig, str]:
    """As `policy_config`, else like the shape that is nearest in size, by the names of both."""
    try:
        return policy_config(name)
    except ConfigError:
        size = _size(name)
        if size is None:
            raise
    ratios = {shape: max(size, known) / min(size, known) for shape in SHAPES if (known := _size(shape)) is not None}
    nearest = min(ratios, key=lambda shape: ratios[shape])
    if ratios[nearest] > LIKE:
        raise ConfigError(
            f"no known shape is near the size in its name; 'prefloop plan --shape' takes {', '.join(SHAPES)}"
        )
    return SHAPES[nearest].config(), f"planned like {nearest}, by its name"


def _size(name: str) -> float | None:
    """Parameters by a name such as ``…-7B-…``."""
    found = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", name.split("/")[-1].replace("-", " "), re.IGNORECASE)
    return float(found[1]) * {"b": 1e9, "m": 1e6}[found[2].lower()] if found else None

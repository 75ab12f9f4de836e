"""`prefloop plan`: memory, tokens per second and hours of a recipe on given hardware; computed, and measured apart.

Memory of training is `prefloop.models.memory`'s, the rest `prefloop.loop.plan_stages`'. Nothing is loaded or fetched:
the model's shape comes from its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.errors import ConfigError
from prefloop.loop.amounts import amounts
from prefloop.loop.launch import STRATEGIES
from prefloop.loop.plan_stages import (
    PROMPT_TOKENS,
    ROWS,
    Cluster,
    Stage,
    generation_stage,
    judging_stage,
    training_stage,
    written,
)
from prefloop.loop.plan_ways import gib, training_memory, ways_to_fit
from prefloop.models.shapes import count_parameters, policy_config


@dataclass(frozen=True)
class Measured:
    """Two steps of this recipe's training on this machine."""

    where: str
    bytes: int
    tokens_per_second: float


@dataclass(frozen=True)
class ClusterPlan:
    """What the recipe needs on these GPUs."""

    recipe: str
    model: str
    parameters: int
    source: str
    """Where its shape is from."""
    cluster: Cluster
    strategy: str
    stages: list[Stage]
    ways: list[str]
    """What would fit, where training does not."""
    measured: Measured | None = None
    assumed: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Of all stages whose hours are known."""
        return sum(stage.hours or 0.0 for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        stages = [
            {
                "name": stage.name,
                "gpus": stage.gpus,
                "fits": stage.fits(self.cluster.gpu),
                "computed": {
                    "memory": dict(stage.memory),
                    "bytes": stage.bytes,
                    "tokens": stage.tokens,
                    "tokens_per_second": stage.tokens_per_second,
                    "hours": stage.hours,
                },
                "notes": list(stage.notes),
            }
            for stage in self.stages
        ]
        measured = asdict(self.measured) if self.measured else None
        found = {"recipe": self.recipe, "model": self.model, "parameters": self.parameters, "source": self.source}
        found |= {"hardware": asdict(self.cluster), "strategy": self.strategy, "assumed": self.assumed}
        return {**found, "stages": stages, "hours": self.hours, "ways": self.ways, "measured": measured}

    def text(self) -> str:
        """For the terminal."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        cluster = self.cluster
        machines = f"{cluster.machines} machines with " if cluster.machines > 1 else ""
        yield f"{self.recipe}: {self.model}, {self.parameters / 1e9:.2f}B parameters ({self.source})"
        split = f", training by {self.strategy}" if cluster.gpus > 1 else ""
        yield f"on {machines}{cluster.per_machine} × {cluster.gpu.name} ({cluster.gpu.gib:g} GiB){split}"
        yield ""
        yield f"{'stage, memory per GPU':<44}{'computed':>14}{'measured':>14}"
        for stage in self.stages:
            if not stage.gpus:
                yield f"{stage.name + ', ' + '; '.join(stage.notes):<44}"
                continue
            yield f"{stage.name}, {stage.gpus} GPU{'s' if stage.gpus > 1 else ''}"
            for name, size in stage.memory:
                if size >= 2**20:
                    yield f"  {name:<42}{gib(size):>14}"
            seen = self.measured if stage.name == "train" else None
            total = "in all" if stage.fits(cluster.gpu) else "in all: DOES NOT FIT"
            yield f"  {total:<42}{gib(stage.bytes):>14}{gib(seen.bytes) if seen else '-':>14}"
            rate = "-" if stage.tokens_per_second is None else f"{stage.tokens_per_second:,.0f}"
            yield f"  {'tokens per second':<42}{rate:>14}{f'{seen.tokens_per_second:,.0f}' if seen else '-':>14}"
            yield f"  {f'hours for {_count(stage.tokens)} tokens':<42}{_hours(stage.hours):>14}{'-':>14}"
            for note in stage.notes:
                yield f"  note: {note}"
        yield f"{'hours in all, of what is known':<44}{_hours(self.hours):>14}{'-':>14}"
        yield ""
        if self.ways:
            yield "training would fit with:"
            yield from (f"  {way}" for way in self.ways)
            yield ""
        if self.measured:
            yield f"measured: two steps of this training on {self.measured.where}"
        else:
            yield "measured: nothing; --measure takes two steps of this training on this machine"
        yield f"assumed: {'; '.join(self.assumed)}"


def plan_cluster(
    recipe: Recipe, cluster: Cluster, strategy: str | None = None, shape: str | None = None, measure: bool = False
) -> ClusterPlan:
    """What a recipe needs on these GPUs.

    Args:
        strategy: of training (`prefloop.loop.launch`); None: fsdp2 on several GPUs.
        shape: of the policy, in place of its own (`prefloop.models.shapes.SHAPES`).
        measure: take two steps on this machine, with the policy's weights.

    Raises:
        ConfigError: an unknown strategy or shape, a model whose configuration is not here, or settings that exclude
            each other.
    """
    if strategy and cluster.gpus == 1:
        raise ConfigError("--strategy has no effect on one GPU: leave it out, or give --gpus")
    strategy = strategy or ("fsdp2" if cluster.gpus > 1 else "ddp")
    if strategy not in STRATEGIES:
        raise ConfigError(f"--strategy {strategy} is unknown: give one of {', '.join(STRATEGIES)}")
    if measure and shape:
        raise ConfigError("--measure trains the recipe's policy, which --shape replaces: give one of them")
    four_bits = recipe.policy.dtype == "nf4" or recipe.training.method == "qlora"
    if strategy == "fsdp2" and four_bits:
        raise ConfigError(
            "4-bit weights cannot be split by fsdp2: give --strategy ddp, or --set training.method=lora "
            "--set policy.dtype=bfloat16"
        )
    config, source = policy_config(recipe.policy.model, shape)
    parameters = count_parameters(config)
    counted = amounts(recipe)
    answers, pairs = counted.sampled + counted.tested, counted.pairs
    longest = PROMPT_TOKENS + recipe.generation.max_new_tokens
    (training,) = training_memory(recipe, recipe.training, config, [(strategy, cluster.gpus)])
    stages = [
        generation_stage(recipe, config, parameters, answers, cluster),
        judging_stage(recipe, answers, cluster),
        training_stage(recipe, parameters, pairs, cluster, strategy, training.parts),
    ]
    fits = stages[-1].fits(cluster.gpu)
    return ClusterPlan(
        recipe.name,
        shape or recipe.policy.model,
        parameters,
        source,
        cluster,
        strategy,
        stages,
        [] if fits else ways_to_fit(recipe, config, cluster, strategy),
        _measured(recipe, longest) if measure else None,
        [
            f"prompts of {PROMPT_TOKENS} tokens, answers of {written(recipe):.0f}, {ROWS} written side by side",
            "30% of the GPU's peak compute and 50% of its bandwidth (15% with 4-bit weights)",
            f"{cluster.link / 1e9:.0f} GB/s between GPUs" if cluster.gpus > 1 else "one GPU",
        ],
    )


def _measured(recipe: Recipe, longest: int) -> Measured:
    """Two steps on this machine, with one process."""
    from prefloop.loop.trial import run_trial
    from prefloop.models.load import device_of

    share = 2 * written(recipe) / (PROMPT_TOKENS + 2 * written(recipe))
    settings = recipe.policy
    device = device_of(settings.device)
    how = {"dtype": settings.dtype, "device": device.type, "threads": recipe.threads}
    found = run_trial(settings.model, recipe.training, share, longest, **how)
    return Measured(f"one process of this machine ({device.type})", found.peak, found.tokens_per_second)


def _hours(hours: float | None) -> str:
    return "-" if hours is None else f"{hours:,.2f}"


def _count(tokens: float) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if tokens >= size:
            return f"{tokens / size:.1f} {name}"
    return f"{tokens:,.0f}"

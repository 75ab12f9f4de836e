"""The policies of a run by name, one in memory at a time: two of 7B, or one and a judge, fill a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from prefloop.config.engine import EngineSection
from prefloop.config.recipe import Recipe
from prefloop.generation.generate import Writer
from prefloop.models.export import export_model
from prefloop.models.lineage import Lineage
from prefloop.models.load import NF4, Policy, base_lineage
from prefloop.models.source import PolicySource


class Policies:
    """Loads a policy when it is asked for, and lets go of the one before; loading again gives the same numbers."""

    def __init__(
        self,
        loaders: Mapping[str, Callable[[], Policy]],
        writers: Mapping[str, Callable[[], Policy | Writer]] | None = None,
    ) -> None:
        """`writers` write the answers in a policy's place, where others than this process do."""
        self._loaders, self._writers = loaders, writers or {}
        self._held: tuple[str, Policy] | None = None

    def __getitem__(self, name: str) -> Policy:
        """The policy; not to be kept, or its memory is not free when another is loaded."""
        if self._held is None or self._held[0] != name:
            self.release()
            self._held = name, self._loaders[name]()
        return self._held[1]

    def writer(self, name: str) -> Policy | Writer:
        """Who writes the policy's answers; where others do, what is held here is let go of: they may share its GPU."""
        if name not in self._writers:
            return self[name]
        self.release()
        return self._writers[name]()

    def release(self) -> None:
        """Free the memory of the policy that is loaded, for a judge or another policy."""
        self._held = None
        free_memory()


def free_memory() -> None:
    """Give back what policies that nobody names any more held."""
    gc.collect()  # models hold themselves in cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_policies(recipe: Recipe, checkpoint: Path) -> Policies:
    """A run's policies: ``before``, ``tuned`` from its checkpoint, and ``after``, the same with its adapter merged."""
    return policies_of(
        recipe,
        {
            "before": partial(initial_source, recipe),
            "tuned": partial(checkpoint_source, recipe, checkpoint),
            "after": partial(checkpoint_source, recipe, checkpoint, merge=True),
        },
    )


def policies_of(recipe: Recipe, sources: Mapping[str, Callable[[], PolicySource]]) -> Policies:
    """Policies by where they are, which is asked when one is wanted; their answers come by the recipe's engine."""

    def load(name: str) -> Policy:
        return sources[name]().load()

    def spread(name: str) -> Policy | Writer:
        return writer_of(recipe, sources[name]())

    on_ray = recipe.engine.name == "ray"
    return Policies(
        {name: partial(load, name) for name in sources},
        {name: partial(spread, name) for name in sources if on_ray},
    )


def writer_of(recipe: Recipe, source: PolicySource) -> Policy | Writer:
    """Who writes a policy's answers: the policy in this process, or Ray's workers where the recipe's engine says so."""
    return written_by(source, recipe.engine, recipe.threads)


def written_by(source: PolicySource, engine: EngineSection, threads: int) -> Policy | Writer:
    """The same by an engine's own settings; `threads` are those of each of Ray's workers."""
    if engine.name != "ray":
        return source.load()
    from prefloop.generation.ray_policies import RayPolicy

    return RayPolicy(source, engine, threads)


def initial_source(recipe: Recipe) -> PolicySource:
    """Where the policy is that a recipe starts from."""
    return PolicySource(recipe.policy.model, dtype=recipe.policy.dtype, device=recipe.policy.device)


def initial_policy(recipe: Recipe) -> Policy:
    """The policy that a recipe starts from."""
    return initial_source(recipe).load()


def initial_lineage(recipe: Recipe) -> Lineage:
    """Its lineage, without loading it."""
    return Lineage(base_lineage(recipe.policy.model).base, four_bit=recipe.policy.dtype == NF4)


def checkpoint_source(recipe: Recipe, out: Path, merge: bool = False) -> PolicySource:
    """The trained policy of a run: base and adapter, or a whole folder; from QLoRA on the weights it learned on."""
    settings = recipe.policy
    if recipe.training.method == "qlora" and settings.dtype != NF4:
        whole = out.with_name(f"{out.name}-merged")
        if not whole.exists():
            export_model(settings.model, out, whole, settings.dtype, device=settings.device)
        return PolicySource(str(whole), None, settings.dtype, settings.device)
    if recipe.training.method == "full":
        return PolicySource(str(out), None, settings.dtype, settings.device)
    return PolicySource(settings.model, out, settings.dtype, settings.device, merge)


def load_checkpoint(recipe: Recipe, out: Path) -> Policy:
    """The trained policy itself."""
    return checkpoint_source(recipe, out).load()

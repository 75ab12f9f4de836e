"""The policies of a run by name, one in memory at a time: two of 7B, or one and a judge, fill a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from prefloop.config.recipe import Recipe
from prefloop.models.export import export_model
from prefloop.models.lineage import Lineage
from prefloop.models.load import NF4, Policy, base_lineage, load_policy, merged


class Policies:
    """Loads a policy when it is asked for, and lets go of the one before; loading again gives the same numbers."""

    def __init__(self, loaders: Mapping[str, Callable[[], Policy]]) -> None:
        self._loaders = loaders
        self._held: tuple[str, Policy] | None = None

    def __getitem__(self, name: str) -> Policy:
        """The policy; not to be kept, or its memory is not free when another is loaded."""
        if self._held is None or self._held[0] != name:
            self.release()
            self._held = name, self._loaders[name]()
        return self._held[1]

    def release(self) -> None:
        """Free the memory of the policy that is loaded, for a judge or another policy."""
        self._held = None
        gc.collect()  # models hold themselves in cycles
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def run_policies(recipe: Recipe, checkpoint: Path) -> Policies:
    """A run's policies: ``before``, ``tuned`` from its checkpoint, and ``after``, the same with its adapter merged."""
    return Policies(
        {
            "before": partial(initial_policy, recipe),
            "tuned": partial(load_checkpoint, recipe, checkpoint),
            "after": lambda: merged(load_checkpoint(recipe, checkpoint)),
        }
    )


def initial_policy(recipe: Recipe) -> Policy:
    """The policy that a recipe starts from."""
    return load_policy(recipe.policy.model, dtype=recipe.policy.dtype, device=recipe.policy.device)


def initial_lineage(recipe: Recipe) -> Lineage:
    """Its lineage, without loading it."""
    return Lineage(base_lineage(recipe.policy.model).base, four_bit=recipe.policy.dtype == NF4)


def load_checkpoint(recipe: Recipe, out: Path) -> Policy:
    """The trained policy of a run: base and adapter, or a whole folder; from QLoRA on the weights it learned on."""
    settings = recipe.policy
    if recipe.training.method == "qlora" and settings.dtype != NF4:
        whole = out.with_name(f"{out.name}-merged")
        if not whole.exists():
            export_model(settings.model, out, whole, settings.dtype, device=settings.device)
        return load_policy(whole, dtype=settings.dtype, device=settings.device)
    if recipe.training.method == "full":
        return load_policy(out, dtype=settings.dtype, device=settings.device)
    return load_policy(settings.model, adapter=out, dtype=settings.dtype, device=settings.device)

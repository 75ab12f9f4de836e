"""What the rounds of a loop share, and where each leaves the policy."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.config.recipe import Recipe
from prefloop.judging.groups import Judge
from prefloop.loop.examined import Examined
from prefloop.loop.heads import Head
from prefloop.loop.launch import Launch
from prefloop.loop.rlhf import Collect
from prefloop.records import Prompt
from prefloop.store.run_folder import RunFolder

START = "start"
"""Folder of round 0: the policy before the loop."""


@dataclass(frozen=True)
class Loop:
    """What the rounds of a loop share."""

    recipe: Recipe
    folder: RunFolder
    execution: Judge | None
    train: list[list[Prompt]]
    """Fresh prompts of every round."""
    test: list[Prompt]
    watched: list[Prompt]
    """Test prompts that guards look at; reported figures leave them out."""
    collect: Collect | None
    launch: Launch | None = None
    """Processes that train; None: this one."""

    @property
    def reported(self) -> set[str]:
        """Ids of the test prompts that reported figures are made of."""
        return {prompt.id for prompt in self.test} - {prompt.id for prompt in self.watched}

    def round_folder(self, number: int) -> RunFolder:
        """Where a round keeps its stages; round 0 is the start."""
        return self.folder.inner(f"rounds/{number}" if number else START)


@dataclass(frozen=True)
class Standing:
    """The policy of a round that is done."""

    head: Head
    examined: Examined

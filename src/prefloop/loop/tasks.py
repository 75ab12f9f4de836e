"""What a recipe asks: prompts for training and unseen ones, audited or counted, with where they come from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from prefloop.config.plugins import load_function
from prefloop.config.recipe import Recipe
from prefloop.config.tasks import CustomTaskConfig, InstructionsConfig, NbaTaskConfig
from prefloop.errors import ConfigError, DataError
from prefloop.records import Prompt

GROUP = "prefloop.tasks"
"""Entry points that name a task."""


@dataclass(frozen=True)
class Asked:
    """The prompts of both splits, how they were chosen, and what a card says of them."""

    prompts: list[Prompt]
    audit: dict[str, Any]
    origin: str


def ask(recipe: Recipe) -> Asked:
    """Prompts of the recipe's task; no training prompt is a test prompt.

    Raises:
        DataError: a source that cannot be read, or has too few prompts.
    """
    match recipe.task:
        case NbaTaskConfig():
            return _nba(recipe, recipe.task)
        case InstructionsConfig():
            return _instructions(recipe, recipe.task)
        case CustomTaskConfig():
            return _custom(recipe, recipe.task)


def origin(recipe: Recipe) -> str:
    """What a card says of the task's prompts, without reading them."""
    from prefloop.tasks.nba.task import ORIGIN

    return ORIGIN if isinstance(recipe.task, NbaTaskConfig) else "The prompts' own licence and terms hold."


def _nba(recipe: Recipe, task: NbaTaskConfig) -> Asked:
    """Test questions first: no training question may share a text with them."""
    from prefloop.tasks.nba.task import ORIGIN, judge_databases, test_prompts, train_prompts
    from prefloop.tasks.nba.text import normalised

    workers = getattr(recipe.judge, "workers", 0)
    test = test_prompts(task, judge_databases(), workers)
    forbidden = {normalised(prompt.meta["question"]) for prompt in test.prompts}
    train = train_prompts(task, judge_databases(), workers, recipe.seed, forbidden)
    return Asked([*train.prompts, *test.prompts], {"test": test.audit, "train": train.audit}, ORIGIN)


def _instructions(recipe: Recipe, task: InstructionsConfig) -> Asked:
    from prefloop.tasks.instructions.sample import instruction_prompts

    found = instruction_prompts(
        task.source, train=task.train_prompts, test=task.test_prompts, seed=recipe.seed, turns=task.turns
    )
    audit = {**found.counts, "files": found.hashes}
    return Asked([with_system(prompt, task.system) for prompt in found.prompts], audit, found.origin)


def with_system(prompt: Prompt, system: str | None) -> Prompt:
    """The prompt with a system message in front, unless it has one or none is given."""
    if not system or prompt.messages[0]["role"] == "system":
        return prompt
    messages = ({"role": "system", "content": system}, *prompt.messages)
    return Prompt.create(messages, prompt.task, prompt.split, prompt.meta)


def _custom(recipe: Recipe, task: CustomTaskConfig) -> Asked:
    """The function returns prompts, each with split ``train`` or ``test``."""
    function = load_function(task.function, GROUP)
    prompts = list(function(seed=recipe.seed, **task.options))
    wrong = next((prompt for prompt in prompts if not isinstance(prompt, Prompt)), None)
    if wrong is not None:
        raise ConfigError(
            f"{task.function} returned a {type(wrong).__name__}: it must return prefloop's Prompt records"
        )
    twice = sorted(i for i, count in Counter(prompt.id for prompt in prompts).items() if count > 1)
    if twice:
        raise DataError(f"{task.function} gave prompt {twice[0]} twice: a prompt has one place in one split")
    counts = {split: sum(prompt.split == split for prompt in prompts) for split in ("train", "test")}
    if not all(counts.values()):
        raise DataError(
            f"{task.function} gave {counts['train']} train and {counts['test']} test prompts: both are needed"
        )
    return Asked(
        prompts, {split: {"accepted": count} for split, count in counts.items()}, "The prompts are the user's own."
    )

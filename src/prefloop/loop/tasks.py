"""What a recipe asks: prompts for training and unseen ones, audited or counted, with where they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.plugins import load_function
from prefloop.config.recipe import Recipe
from prefloop.config.tasks import CustomTaskConfig, DatabaseTaskConfig, InstructionsConfig, NbaTaskConfig
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
        case DatabaseTaskConfig():
            from prefloop.tasks.database.task import database_prompts

            return Asked(*database_prompts(recipe.task, recipe.seed))
        case InstructionsConfig():
            return _instructions(recipe, recipe.task)
        case CustomTaskConfig():
            return _custom(recipe, recipe.task)


def origin(recipe: Recipe) -> str:
    """What a card says of the task's prompts, without reading them."""
    if not isinstance(recipe.task, NbaTaskConfig):
        return "The prompts' own licence and terms hold."
    from prefloop.tasks.nba import real
    from prefloop.tasks.nba.task import ORIGIN

    return real.origin(Path(recipe.task.database)) if recipe.task.database else ORIGIN


def made_from(recipe: Recipe) -> dict[str, Any]:
    """What a run is made from, as its folder keeps it: settings, and the content of a database or task of one's own.

    A run does not go on with a changed one.
    """
    own: dict[str, Any] = {}
    if isinstance(recipe.task, DatabaseTaskConfig):
        from prefloop.sql.databases import identity
        from prefloop.tasks.database.folder import read_task
        from prefloop.tasks.database.task import folder_hash

        servers = [url for entry in read_task(recipe.task.folder).file.databases for url in entry.urls]
        own = {"task": folder_hash(recipe.task.folder)}
        own |= {"servers": [identity(url) for url in servers]} if servers else {}
    elif isinstance(recipe.task, NbaTaskConfig) and recipe.task.database:
        from prefloop.tasks.nba.task import judge_databases as leagues

        own = {"database": leagues(recipe.task.database)[0].stem}
    return {"recipe": recipe.settings, **own}


def judge_databases(recipe: Recipe) -> Sequence[Path] | dict[str, list[Path | str]]:
    """What the execution judge runs answers to the recipe's prompts on; none where those are no SQL."""
    if isinstance(recipe.task, DatabaseTaskConfig):
        from prefloop.tasks.database.task import judge_sets

        return judge_sets(recipe.task.folder)
    if not isinstance(recipe.task, NbaTaskConfig):
        return ()
    from prefloop.tasks.nba.task import judge_databases as leagues

    return leagues(recipe.task.database)


def _nba(recipe: Recipe, task: NbaTaskConfig) -> Asked:
    """Test questions first: no training question may share a text with them."""
    from prefloop.tasks.nba.task import judge_databases, test_prompts, train_prompts
    from prefloop.tasks.nba.text import normalised

    workers = getattr(recipe.judge, "workers", 0)
    databases = judge_databases(task.database)
    test = test_prompts(task, databases, workers)
    forbidden = {normalised(prompt.meta["question"]) for prompt in test.prompts}
    train = train_prompts(task, databases, workers, recipe.seed, forbidden)
    return Asked([*train.prompts, *test.prompts], {"test": test.audit, "train": train.audit}, origin(recipe))


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

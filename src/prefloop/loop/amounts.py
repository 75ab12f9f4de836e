"""How many prompts, answers and pairs a recipe asks for."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.config.recipe import Recipe
from prefloop.config.tasks import CustomTaskConfig, DatabaseTaskConfig, NbaTaskConfig


@dataclass(frozen=True)
class Amounts:
    """Of one seed."""

    train: int
    test: int
    """Prompts; none where a task of one's own decides."""
    sampled: int
    """Answers for training."""
    tested: int
    """Answers for the evaluation."""
    pairs: int
    """At most."""


def amounts(recipe: Recipe, baselines: bool = False) -> Amounts:
    """Count what the recipe asks for.

    Args:
        baselines: count the answers of ``--baselines``, too.
    """
    train, test = _prompts(recipe)
    k, settings = recipe.generation.k, recipe.evaluation
    tested = 2 * test
    if recipe.task.executed:
        tested += 2 * min(settings.sampled_questions, test) * settings.samples
    if baselines:
        tested += test * (1 + k)
    every = recipe.preferences.strategy == "all-pairs"
    per_prompt = k * (k - 1) // 2 if every else recipe.preferences.pairs_per_prompt
    return Amounts(train, test, train * k * (1 + len(recipe.generation.others)), tested, train * per_prompt)


def _prompts(recipe: Recipe) -> tuple[int, int]:
    task = recipe.task
    if isinstance(task, NbaTaskConfig):
        return task.train_questions, task.test_questions
    if isinstance(task, DatabaseTaskConfig):
        from prefloop.tasks.database.task import question_counts

        return question_counts(task)
    return (0, 0) if isinstance(task, CustomTaskConfig) else (task.train_prompts, task.test_prompts)

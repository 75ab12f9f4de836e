"""Two checkpoints on the same questions: what `prefloop evaluate` and Python users call.

What computes is imported inside, once the inputs are read: it takes seconds, a mistake should not.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.config.tasks import DatabaseTaskConfig, NbaTaskConfig
from prefloop.errors import ConfigError, DataError
from prefloop.loop.prompt_files import each_prompt, require_league
from prefloop.loop.software import versions
from prefloop.loop.tasks import ask, made_from
from prefloop.records import Prompt, content_id
from prefloop.store.run_folder import RunFolder
from prefloop.tasks.database.task import NAME as DATABASE
from prefloop.tasks.nba.task import judge_databases, test_prompts

NEEDED = {"gold_sql", "template", "seen"}
"""What a test prompt's meta has to say: its answer, and what the figures are grouped by."""


def evaluate_models(
    recipe: Recipe,
    out: Path,
    *,
    before: str,
    after: str,
    adapter: Path | None = None,
    prompts: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Compare two checkpoints on the same questions; answers, judgements and ``evaluation.json`` go to `out`."""
    test = _given(prompts, recipe) if prompts else _drawn(recipe)
    from prefloop.evaluation.compare import evaluate
    from prefloop.loop.policies import policies_of
    from prefloop.loop.run import compared_answers, execution_judge
    from prefloop.models.source import PolicySource

    settings = recipe.policy
    policies = policies_of(
        recipe,
        {
            "before": lambda: PolicySource(before, None, settings.dtype, settings.device),
            "after": lambda: PolicySource(after, adapter, settings.dtype, settings.device),
        },
    )
    identity = {  # both are loaded once: what is wrong with one is said before anything is computed
        **made_from(recipe),
        "after": policies["after"].lineage.id,
        "before": policies["before"].lineage.id,
        "prompts": content_id([asdict(prompt) for prompt in test]),
    }
    with RunFolder.open(out, identity, resume) as folder, execution_judge(recipe) as judge:
        answers = compared_answers(recipe, folder, judge, policies, test)
        found = folder.document(
            "evaluation.json",
            lambda: evaluate(
                test,
                answers["before"],
                answers["after"],
                [],
                seed=recipe.seed,
                draws=recipe.evaluation.bootstrap,
                beta=recipe.training.strength,
            ),
        )
        folder.finish({"schema": 1, **identity, "versions": versions()})
        return found


def _given(path: Path, recipe: Recipe) -> list[Prompt]:
    """The test prompts of a file, which has to be one that the recipe's databases can answer."""
    test = [prompt for prompt in each_prompt(path) if prompt.split == "test"]
    if any(p.task == DATABASE for p in test) and not isinstance(recipe.task, DatabaseTaskConfig):
        raise ConfigError(
            f"{path} asks a database of its own: --set task.name=database --set task.folder=FOLDER, its task"
        )
    if not test:
        raise DataError(f"{path} has no prompt of split 'test': give prompts.parquet of a run")
    if lacking := NEEDED - set.intersection(*(set(prompt.meta) for prompt in test)):
        raise DataError(f"{path} lacks meta.{min(lacking)} in some: give prompts.parquet of a run")
    require_league(test, getattr(recipe.task, "database", None))
    return test


def _drawn(recipe: Recipe) -> list[Prompt]:
    """The test prompts of the recipe's task."""
    if not recipe.task.executed:
        raise ConfigError(f"evaluation by execution: task {recipe.task.name} asks for no SQL; use prefloop compare")
    if isinstance(recipe.task, NbaTaskConfig):  # without the training questions, which take their time
        return list(test_prompts(recipe.task, judge_databases(recipe.task.database), 0).prompts)
    return [prompt for prompt in ask(recipe).prompts if prompt.split == "test"]

"""One question, answered: plan, SQL, and the rows it returns, by the policy and by what a run or a loop made of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe, as_written, parse_recipe
from prefloop.config.tasks import DatabaseTaskConfig
from prefloop.errors import ConfigError
from prefloop.generation.generate import generate_completions
from prefloop.loop.policies import Policies, initial_policy, load_checkpoint
from prefloop.loop.tasks import judge_databases
from prefloop.models.load import load_policy, merged
from prefloop.progress import note
from prefloop.records import Message, Prompt
from prefloop.sql.databases import frozen
from prefloop.sql.extract import extract_sql
from prefloop.sql.pool import QueryResult, SandboxPool
from prefloop.sql.postgres import is_postgres
from prefloop.store.files import cache_folder, read_json
from prefloop.store.run_folder import read_manifest
from prefloop.tasks.database.folder import read_task
from prefloop.tasks.database.prompting import system_message as database_message
from prefloop.tasks.nba.answers import plan_of
from prefloop.tasks.nba.imports.synthetic_marks import synthetic_games
from prefloop.tasks.nba.prompting import system_message
from prefloop.tasks.nba.task import judge_databases as leagues

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Reply:
    """What one policy answered."""

    policy: str
    """``before`` or ``after`` tuning."""
    text: str
    plan: str
    sql: str | None
    """None: it declined, or wrote no query."""
    result: QueryResult | None
    """What the query returned in the sandbox."""
    synthetic_games: int | None = 0
    """Games of the file that was asked which are simulated, or whose players are invented; None: it was a server."""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        found = self.result
        shown = {"columns": found.columns, "rows": found.rows, "status": found.status, "message": found.message}
        return {
            "policy": self.policy,
            "plan": self.plan,
            "sql": self.sql,
            "result": shown if found else None,
            "synthetic_games": self.synthetic_games,
        }


def ask_question(question: str, run: Path | None = None, database: Path | str | None = None) -> list[Reply]:
    """Greedy answers to a question, their queries run on a copy of a SQLite file, or read-only on a server.

    Args:
        run: a finished run or loop (its best round); None: the embedded policy alone.
        database: SQLite file, or PostgreSQL URL; default the run's, or the simulated league.

    Raises:
        ConfigError: an empty question.
        DataError: the database is missing, no SQLite file or without a table, or its role may do more than read.
        StoreError: the run is not finished, or no run.
    """
    if not question.strip():
        raise ConfigError("ask a question, as in prefloop ask 'top 5 scorers last season'")
    recipe, policies = _policies(run)
    (opened,) = frozen([database], cache_folder() / "databases") if database else [_own_database(recipe)]
    system = _system(recipe)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    prompt = Prompt.create((*messages, {"role": "user", "content": question.strip()}), "ask", "test")
    texts = dict(_texts(policies, [BEFORE, AFTER] if run else [BEFORE], prompt, recipe))
    queries = {name: extract_sql(text) for name, text in texts.items()}
    asked = [(0, sql) for sql in queries.values() if sql]
    with SandboxPool([opened], 1) as sandbox:
        results = dict(zip(asked, sandbox.run(asked), strict=True))
    invented = None if is_postgres(opened) else sum(synthetic_games(Path(opened)))
    return [
        Reply(name, text, plan_of(text), queries[name], results.get((0, queries[name] or "")), invented)
        for name, text in texts.items()
    ]


def _own_database(recipe: Recipe) -> Path | str:
    """The first database of the run's own task, or the simulated league, which is said, where it has none."""
    if not isinstance(recipe.task, DatabaseTaskConfig) and not getattr(recipe.task, "database", None):
        note("Asked of the simulated league, whose players and results are invented; --database FILE asks your own.")
    databases = judge_databases(recipe) or leagues()
    return (next(iter(databases.values())) if isinstance(databases, dict) else databases)[0]


def _system(recipe: Recipe) -> str:
    """What the policy was told in front of the run's questions."""
    if isinstance(recipe.task, DatabaseTaskConfig):
        folder, schema = recipe.task.folder, recipe.task.schema_in_prompt
        file = read_task(folder).file
        return database_message(folder, file, file.databases[0], schema)
    return system_message(getattr(recipe.task, "schema_in_prompt", "none"))


def _texts(policies: Policies, names: list[str], prompt: Prompt, recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name in names:
        (answer,) = generate_completions(
            policies[name], [prompt], recipe.generation.greedy, seed=recipe.seed, label=name
        )
        yield name, answer.text


def _policies(run: Path | None) -> tuple[Recipe, Policies]:
    if run is None:
        recipe = parse_recipe({})
        return recipe, Policies({BEFORE: partial(load_policy, "embedded")})
    recipe = parse_recipe(as_written(read_manifest(run)["recipe"]))
    if recipe.loop is None:
        checkpoint = run / "checkpoint"
    else:
        best = read_json(run / "rounds.json")["best"]
        if not best:
            raise ConfigError(f"no round of {run} is better than its start: ask without --run")
        checkpoint = run / f"rounds/{best}/checkpoint"
        if hasattr(recipe.loop, "rl"):
            recipe = recipe.model_copy(
                update={"training": recipe.training.model_copy(update={"method": recipe.loop.rl.method})}
            )
    return recipe, Policies(
        {BEFORE: partial(initial_policy, recipe), AFTER: lambda: merged(load_checkpoint(recipe, checkpoint))}
    )

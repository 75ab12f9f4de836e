"""`prefloop evaluate`: two models on the same questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Database, Json, Set, overrides, print_json, with_database


def evaluate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for answers, judgements and evaluation.json.")],
    before: Annotated[str, typer.Option(help="Model before: 'embedded', a folder or a hub id.")] = "embedded",
    after: Annotated[str | None, typer.Option(help="Model after; default: the same as before.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="LoRA adapter on top of the model after.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="prompts.parquet; default: the nba-sql test set.")] = None,
    settings: Set = None,
    database: Database = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted evaluation.")] = False,
    json_: Json = False,
) -> None:
    """Compare two checkpoints on the same unseen questions, paired, clustered by template.

    Example: prefloop evaluate --adapter runs/nba-sql/checkpoint --out runs/check
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.evaluate_stage import evaluate_models
    from prefloop.loop.show import print_figures

    read = [
        "evaluation.",
        "judge.",
        "task.",
        "policy.dtype",
        "policy.device",
        "generation.max_new_tokens",
        "seed",
        "engine",
    ]
    recipe = load_recipe("nba-sql", with_database(overrides(settings), database), read)
    evaluation = evaluate_models(
        recipe, out, before=before, after=after or before, adapter=adapter, prompts=prompts, resume=resume
    )
    print_json(evaluation) if json_ else print_figures(evaluation)

"""`prefloop judge`: completions to judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def judge(
    prompts: Annotated[Path, typer.Argument(help="prompts.parquet, or .jsonl with meta.gold_sql in each line.")],
    completions: Annotated[Path, typer.Argument(help="completions.parquet")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the judgements (.parquet).")],
    database: Annotated[
        list[Path] | None,
        typer.Option("--database", "-d", help="Your own SQLite file in place of the two leagues; may be repeated."),
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with interrupted judging.")] = False,
    json_: Json = False,
) -> None:
    """Score answers by running their SQL and comparing results with the gold query's, on every database.

    Weights and limits come from the recipe's judge section: --set judge.verbosity=0. Your own database may be in
    use: a copy is taken first, and only the copy is opened.

    Example: prefloop judge runs/nba-sql/prompts.parquet completions.parquet --out judgements.parquet
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.stages import judge_file

    config = load_recipe("nba-sql", overrides(settings), ["judge."]).judge
    summary = judge_file(prompts, completions, out, config, databases=database or (), resume=resume)
    if json_:
        print_json(summary)
        return
    typer.echo(
        f"{summary['judgements']:,} judgements in {out}: {summary['correct']:.1%} correct, "
        f"{summary['valid']:.1%} valid, {summary['unscored']} unscored"
    )
    for status, count in summary["statuses"].items():
        typer.echo(f"  {status:<18} {count:>7,}")

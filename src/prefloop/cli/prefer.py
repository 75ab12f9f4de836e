"""`prefloop prefer`: judgements to preference data, or the import of somebody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def prefer(
    prompts: Annotated[Path, typer.Argument(help="prompts.parquet; or, with --import, a TRL-style file.")],
    completions: Annotated[Path | None, typer.Argument(help="completions.parquet")] = None,
    judgements: Annotated[Path | None, typer.Argument(help="judgements.parquet")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the preference set.")] = Path("preferences"),
    import_: Annotated[
        bool,
        typer.Option("--import", help="Read a TRL, UltraFeedback or Argilla-style .jsonl, .json or .parquet."),
    ] = False,
    settings: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of random choices.")] = 1,
    json_: Json = False,
) -> None:
    """Build pairs from judged answers and export them in TRL's format, with a dataset card.

    Examples:

      prefloop prefer prompts.parquet completions.parquet judgements.parquet --out preferences

      prefloop prefer ultrafeedback.jsonl --import --out preferences
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.import_stage import import_file
    from prefloop.loop.prefer_stage import prefer_files

    if import_:
        if settings or completions:
            raise typer.BadParameter("an import takes one file and no --set: its pairs are taken as they are")
        summary = import_file(prompts, out)
    elif completions is None or judgements is None:
        raise typer.BadParameter("give prompts, completions and judgements, or one file with --import")
    else:
        config = load_recipe("nba-sql", overrides(settings), ["preferences."]).preferences
        summary = prefer_files(prompts, completions, judgements, out, config, seed)
    if json_:
        print_json(summary)
        return
    typer.echo(f"{summary['pairs']:,} pairs in {out}/ (TRL JSON lines and Parquet, records, card)")
    for reason, count in summary["drops"].items():
        typer.echo(f"  {reason:<42} {count:>7,}")
    for row in summary.get("bad", []):
        typer.echo(f"  line {row['line']}: {row['reason']}", err=True)

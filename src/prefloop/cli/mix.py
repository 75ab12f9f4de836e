"""`prefloop mix`: sources mixed by weight."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


def mix(
    sources: Annotated[list[Path], typer.Argument(help="Preference sets (folders), or files of prompts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the mix.")],
    weight: Annotated[
        list[float] | None, typer.Option("--weight", "-w", help="Of each source, in their order. Default: equal.")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of the mix. Default: as many as keep the weights.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    json_: Json = False,
) -> None:
    """Mix preference sets, or files of prompts, by weight: rows drawn by seed, without replacement, none twice.

    A row whose prompt and answers an earlier one has is not taken again. A source that runs dry gives all it has;
    the share that each reached is printed, and sources.parquet names where each row came from.

    Examples:

      prefloop mix ours theirs --weight 0.7 --weight 0.3 --out mixed

      prefloop mix lima.jsonl prompts.parquet --rows 5000 --out prompts
    """
    from prefloop.loop.mixing import mix_sources

    found = mix_sources(sources, out, weight or (), rows=rows, seed=seed)
    if json_:
        print_json(found)
        return
    typer.echo(f"{found['rows']:,} rows in {out}/")
    typer.echo(f"  {'taken':>9} {'of':>9} {'repeated':>9} {'share':>7} {'asked':>7}  source")
    for row in found["sources"]:
        typer.echo(
            f"  {row['taken']:>9,} {row['rows']:>9,} {row['repeated']:>9,} {row['share']:>7.1%} {row['weight']:>7.1%}"
            f"  {row['source']}"
        )

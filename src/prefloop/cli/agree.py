"""`prefloop agree`: judges against people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


def agree(
    people: Annotated[
        Path,
        typer.Argument(
            metavar="PEOPLE_FILE", help="Labels: .csv or .jsonl with prompt, first, second, rater, choice; or PandaLM."
        ),
    ],
    judge: Annotated[
        list[Path] | None,
        typer.Option(
            "--judge", "-j", metavar="FILE", help="judgements.parquet of judges on these answers. Repeatable."
        ),
    ] = None,
    records: Annotated[
        Path | None, typer.Option("--records", help="New folder for the labels as records, to run judges on.")
    ] = None,
    json_: Json = False,
) -> None:
    """Agreement of judges with people: accuracy, kappa, alpha, lean to length, calibration.

    People among themselves and a judge that takes the longer answer are always shown beside them. A choice is first,
    second or tie.

    Examples:

      prefloop agree labels.csv --records labelled

      prefloop judge labelled/prompts.parquet labelled/completions.parquet --judge pairrm --out pairrm.parquet

      prefloop agree labels.csv --judge pairrm.parquet
    """
    from prefloop.loop.agree import agree_files

    found = agree_files(people, judge or (), records)
    if json_:
        print_json(found)
        return
    from prefloop.evaluation.agreement_text import agreement_text

    typer.echo(agreement_text(found))
    if found["bad_rows"]:
        typer.echo(f"{found['bad_rows']:,} labels or rows left out:", err=True)
    for row in found["bad"]:
        typer.echo(f"  line {row['line']}: {row['reason']}", err=True)

"""`prefloop decontaminate`: training rows that a test set holds, too, taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


def decontaminate(
    source: Annotated[Path, typer.Argument(help="A preference set (folder), or a file of prompts.")],
    against: Annotated[
        list[Path], typer.Option("--against", help="Test set: .parquet, .jsonl, .json or .csv. Repeatable.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for what is left.")],
    words: Annotated[int, typer.Option(min=1, help="So many words in a row in common count as leaked.")] = 13,
    mask_literals: Annotated[
        bool,
        typer.Option("--mask-literals", help="Also drop rows whose query is a test's but for numbers and strings."),
    ] = False,
    json_: Json = False,
) -> None:
    """Take out the rows whose prompt or answers a test set holds: 13 words in a row, a whole short prompt, or a query.

    Queries are compared in canonical form, so that names of aliases and the order of conditions do not hide one.
    dropped.jsonl names every row that went, and the test item that it hit.

    Examples:

      prefloop decontaminate preferences --against test.parquet --out clean

      prefloop decontaminate prompts.parquet --against spider.json --against bird.json --mask-literals --out clean
    """
    from prefloop.loop.cleaning import decontaminate

    found = decontaminate(source, against, out, words=words, mask=mask_literals)
    if json_:
        print_json(found)
        return
    typer.echo(f"{found['kept']:,} of {found['rows']:,} rows are left in {out}/ ({found['test_items']:,} test items)")
    for reason, count in found["dropped"].items():
        typer.echo(f"  {reason:<42} {count:>9,}")
    if found["masked"] and not mask_literals:
        typer.echo(f"  kept: query of a test but for its literals {found['masked']:>9,}")
    for item, count in found["most_hit"].items():
        typer.echo(f"  {count:>9,} rows hit {item[:100]}")

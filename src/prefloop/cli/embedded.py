"""`prefloop embedded`: the policy that ships with the package, and its corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json

app = typer.Typer(help="Build the embedded policy and its instruction corpus.", no_args_is_help=True)


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="Folder of the finished policy.")],
    examples: Annotated[int, typer.Option(min=100, help="Examples in the corpus.")] = 130_000,
    seed: Annotated[int, typer.Option(help="Seed of corpus and weights.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    json_: Json = False,
) -> None:
    """Train the embedded policy from scratch (about half an hour on two cores).

    Example: prefloop embedded build policy
    """
    from prefloop.loop.embedded import EmbeddedBuild, build_folder

    figures = build_folder(EmbeddedBuild(examples=examples, seed=seed), out, resume=resume)
    print_json(figures) if json_ else typer.echo(
        f"{out}: {figures['parameters']:,} parameters, {figures['tokens']:,} tokens, "
        f"final loss {figures['final_loss']:.4f}"
    )


@app.command()
def corpus(
    out: Annotated[Path, typer.Argument(help="Folder for the corpus.")],
    examples: Annotated[int, typer.Option(min=1, help="Pairs from the grammar.")] = 5_000,
    generated: Annotated[int, typer.Option(min=0, help="Questions the policy answers; right answers are kept.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1,
    json_: Json = False,
) -> None:
    """Write the instruction data set for NBA analysis: Alpaca and messages formats, filtered, de-duplicated.

    Example: prefloop embedded corpus nba-instructions --examples 5000 --generated 300
    """
    from prefloop.loop.instructions import write_instructions

    counts = write_instructions(out, examples, generated, seed)
    if json_:
        print_json(counts)
        return
    for name, count in counts.items():
        typer.echo(f"{name:<44} {count:>9,}")

"""`prefloop compare`: two sides before a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def compare(
    a: Annotated[str, typer.Argument(help="Run, model folder, hub id, adapter folder, or file of answers.")],
    b: Annotated[str, typer.Argument(help="The other one: its win rate over A is reported.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for answers, verdicts, figures and the page.")],
    prompts: Annotated[
        Path | None, typer.Option("--prompts", "-p", help="What is asked; default what a run or a .jsonl side knows.")
    ] = None,
    judge: Annotated[
        str,
        typer.Option("--judge", "-j", help="pairrm, armorm, reward-model, llm, ensemble, or your own module:function."),
    ] = "pairrm",
    settings: Set = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer that a model writes.")] = 512,
    dtype: Annotated[str, typer.Option(help="Number type of models: float32, bfloat16, float16 or nf4.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of the intervals.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted comparison.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier comparison in the folder.")] = False,
    json_: Json = False,
) -> None:
    """Compare the answers of two models, runs or files on the same prompts: win rate, length, scores, a page to read.

    Judges that compare show each pair in both orders; where the orders disagree the pair is a tie. The judge's
    settings are keys of the judge section: --set judge.model=FOLDER. The page out/report.html shows both answers
    to every prompt, filtered by verdict, with the names hidden if you like.

    Examples:

      prefloop compare runs/lima-pairrm-dpo-a runs/lima-pairrm-dpo-b --out compared

      prefloop compare embedded checkpoint --prompts prompts.jsonl --judge my_judges:shortest --out compared
    """
    from prefloop.config.recipe import judge_section
    from prefloop.loop.versus import Writing, compare_sides

    config = judge_section(judge, overrides(settings))
    writing = Writing(max_new_tokens, dtype, device)
    figures = compare_sides(
        a, b, out, config, prompts=prompts, writing=writing, seed=seed, resume=resume, overwrite=overwrite
    )
    if json_:
        print_json(figures)
        return
    from prefloop.loop.judged import summary

    for label, value in summary(figures, (a, b)):
        typer.echo(f"{label:<28} {value}")
    if figures["power"]["warning"]:
        typer.echo(f"Note: {figures['power']['warning']}")
    typer.echo(f"Read the answers side by side: {out / 'report.html'}")

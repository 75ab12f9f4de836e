"""`prefloop train`: preferences to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def train(
    preferences: Annotated[Path, typer.Argument(help="Folder written by 'prefloop prefer' or by a run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the checkpoint.")],
    model: Annotated[str, typer.Option(help="'embedded', a from_pretrained folder, or a hub id.")] = "embedded",
    settings: Set = None,
    seed: Annotated[int, typer.Option(help="Seed of order and initialisation.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    json_: Json = False,
) -> None:
    """Tune a policy on preference pairs: DPO (or SFT on the chosen answers), LoRA or all weights.

    Options come from the recipe's training section: --set training.beta=0.2 --set training.method=full.

    Example: prefloop train preferences --out checkpoint --set training.epochs=1
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.stages import train_folder

    config = load_recipe("nba-sql", overrides(settings), ["training."]).training
    summary = train_folder(preferences, out, config, model=model, seed=seed, device=device, resume=resume)
    print_json(summary) if json_ else typer.echo(
        f"{summary['steps']} steps on {summary['pairs']:,} pairs, final loss {summary['final_loss']:.4f}; "
        f"checkpoint in {out}"
    )

"""`prefloop features`: answers as vectors, to choose what people are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, RunPath, print_json


def features(
    run: RunPath,
    out: Annotated[Path, typer.Option(help="New .npz file.")],
    model: Annotated[str, typer.Option(help="Reward model: folder or hub id, or the base of --adapter.")],
    adapter: Annotated[Path | None, typer.Option(help="Adapter with the head ('prefloop train reward').")] = None,
    device: Annotated[str, typer.Option(help="Where it runs: auto, cpu, cuda.")] = "auto",
    json_: Json = False,
) -> None:
    """Feature vectors of a run's answers, from a reward model: its last hidden state at each answer's end.

    With them people are asked about the pairs that teach the reward model most.

    Examples:

      prefloop features runs/nba-sql --model embedded --adapter reward --out features.npz

      prefloop annotate runs/nba-sql --features features.npz --set selection.strategy=d-optimal
    """
    from prefloop.config.judges import RewardModelConfig
    from prefloop.loop.features import features_file

    found = features_file(run, out, RewardModelConfig(model=model, adapter=adapter, device=device))
    print_json(found) if json_ else typer.echo(
        f"{found['read']:,} of {found['answers']:,} answers as vectors of {found['dimensions']:,} numbers in {out}"
    )

"""`prefloop plan`: what a recipe needs on given hardware."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def plan(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or the path of a YAML file.")],
    gpu: Annotated[
        str, typer.Option(help="Kind of GPU: t4, l4, a100-40gb, a100-80gb, h100-80gb or h200-141gb.")
    ] = "h100-80gb",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of each machine.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 1,
    strategy: Annotated[
        str | None, typer.Option(help="How processes share training: ddp, fsdp2 (default), zero1 or zero2.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option(help="Another policy's shape in place of the recipe's, e.g. llama-3-70b.")
    ] = None,
    settings: Set = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Take two training steps here, and show what they held and how fast.")
    ] = False,
    json_: Json = False,
) -> None:
    """Print memory, tokens per second and hours of every stage of a recipe on hardware you may not have.

    No weights are loaded: the shape comes from the policy's configuration. What was computed and what was measured
    stand in separate columns; where training does not fit, what would is said.

    Examples:

      prefloop plan lima-pairrm-dpo --gpu t4

      prefloop plan lima-pairrm-dpo --gpus 8 --set policy.dtype=bfloat16 --set training.method=full

      prefloop plan nba-sql --measure
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.hardware import gpu_named
    from prefloop.loop.plan_cluster import plan_cluster
    from prefloop.loop.plan_stages import Cluster

    loaded = load_recipe(recipe, overrides(settings))
    planned = plan_cluster(loaded, Cluster(gpu_named(gpu), gpus, nodes), strategy, shape, measure)
    print_json(planned.as_dict()) if json_ else typer.echo(planned.text())

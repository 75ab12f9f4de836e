"""`prefloop loop`: rounds of collecting, judging and training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import (
    Database,
    Json,
    Machines,
    Processes,
    Set,
    Strategy,
    launch_of,
    overrides,
    print_json,
    with_database,
)


def loop(
    recipe: Annotated[
        str, typer.Argument(help="A shipped recipe with a loop (iterative-dpo, rlhf-nba, self-rewarding), or a file.")
    ],
    out: Annotated[Path | None, typer.Option(help="Run folder, or s3://…; default runs/NAME.")] = None,
    settings: Set = None,
    database: Database = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the same as --set seed=N.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run this many seeds (seed, seed+1, …) and report each.")] = 1,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also SFT on each round's chosen answers, best-of-K and one long run.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a loop that was interrupted or waits.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the folder first.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print how the processes of its trainings are started, and stop.")
    ] = False,
    processes: Processes = 1,
    machines: Machines = 1,
    strategy: Strategy = None,
    json_: Json = False,
) -> None:
    """Run rounds: fresh prompts, answers, judgements, training, evaluation, and again from the new policy.

    Guards watch length, regression, KL, judge health and diversity; a round that fails is not promoted, the best one
    is kept, and the loop ends with the reason. Every round stays in RUN/rounds/N: any of them can be exported.

    Examples:

      prefloop loop iterative-dpo

      prefloop loop rlhf-nba --seeds 3 --baselines

      prefloop loop rlhf-nba --set loop.raters.who=people     waits for people, goes on with --resume

      prefloop loop iterative-dpo --processes 8 --strategy fsdp2     trains on 8 GPUs (docs/beyond-one-machine.md)
    """
    from prefloop.config.recipe import load_recipe

    given = with_database(overrides(settings), database)
    if seed is not None and "seed" in given:
        raise typer.BadParameter("--seed and --set seed say the same: give one")
    loaded = load_recipe(recipe, given | ({} if seed is None else {"seed": seed}))
    folder = out or Path("runs") / loaded.name
    launch = launch_of(processes, machines, strategy, loaded.policy.device)
    if dry_run:
        from prefloop.loop.run_training import prepared_loop
        from prefloop.store.remote import working_folder

        ready = prepared_loop(loaded, working_folder(folder), launch)
        print_json(ready.as_dict()) if json_ else typer.echo(f"its first training, the others like it:\n{ready.text()}")
        return
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.annotation.simulated_round import collect_simulated
    from prefloop.loop.rounds import run_loop
    from prefloop.loop.show_rounds import show_rounds
    from prefloop.store.remote import working_folder

    found = run_loop(
        loaded,
        folder,
        seeds=seeds,
        collect=collect_simulated,
        baselines=baselines,
        resume=resume,
        overwrite=overwrite,
        launch=launch,
    )
    print_json(found) if json_ else show_rounds(working_folder(folder))

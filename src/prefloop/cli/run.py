"""`prefloop run`: a whole recipe."""

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


def run(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe (nba-sql) or the path of a YAML file.")] = "nba-sql",
    out: Annotated[Path | None, typer.Option(help="Run folder, or s3://…; default runs/NAME.")] = None,
    settings: Set = None,
    database: Database = None,
    seed: Annotated[int | None, typer.Option(help="Seed; the same as --set seed=N.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Run this many seeds (seed, seed+1, …) and report each.")] = 1,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also SFT on the chosen answers, best-of-K and majority vote.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an earlier run in the folder first.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan (counts, memory, time) and stop.")] = False,
    processes: Processes = 1,
    machines: Machines = 1,
    strategy: Strategy = None,
    json_: Json = False,
) -> None:
    """Run a whole recipe: prompts, answers, judgements, preferences, training, evaluation, report.

    Prints the figures before and after with 95% intervals and ten unseen questions side by side, and leaves
    everything in the run folder. An interrupted run goes on with [bold]--resume[/bold].

    Examples:

      prefloop run nba-sql

      prefloop run nba-sql --seeds 3 --baselines

      prefloop run nba-sql --set training.beta=0.2 --out runs/beta-02

      prefloop run nba-sql --database real.sqlite --out runs/real      games of 'prefloop league import'

      prefloop run lima-pairrm-dpo --processes 8 --strategy fsdp2      trains on 8 GPUs (docs/beyond-one-machine.md)
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.errors import ConfigError

    given = with_database(overrides(settings), database)
    if seed is not None and "seed" in given:
        raise typer.BadParameter("--seed and --set seed say the same: give one")
    given |= {} if seed is None else {"seed": seed}
    loaded = load_recipe(recipe, given)
    if loaded.loop is not None:
        raise ConfigError(f"recipe {loaded.name} is a loop of rounds: start it with 'prefloop loop {recipe}'")
    folder = out or Path("runs") / loaded.name
    launch = launch_of(processes, machines, strategy, loaded.policy.device)
    if dry_run:
        from prefloop.loop.plan import plan
        from prefloop.loop.run_training import prepared_in
        from prefloop.store.remote import working_folder

        planned = plan(loaded, seeds, baselines)
        ready = prepared_in(working_folder(folder), launch) if launch else None
        if json_:
            print_json(planned.as_dict() | ({"training": ready.as_dict()} if ready else {}))
        else:
            typer.echo(planned.text() + (f"\n\nits training:\n{ready.text()}" if ready else ""))
        return
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.loop.main import run_recipe
    from prefloop.loop.show import show_run
    from prefloop.store.remote import working_folder

    evaluation = run_recipe(
        loaded, folder, seeds=seeds, baselines=baselines, resume=resume, overwrite=overwrite, launch=launch
    )
    print_json(evaluation) if json_ else show_run(working_folder(folder))

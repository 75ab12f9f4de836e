"""`prefloop train`: from data to a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefloop.cli.options import (
    Json,
    Machines,
    Processes,
    Set,
    Strategy,
    launch_of,
    local_copy,
    overrides,
    print_json,
    words_of_processes,
)

if TYPE_CHECKING:
    from prefloop.loop.launch import Launch

app = typer.Typer(
    no_args_is_help=True,
    help="Train a policy or a reward model, or compare ways to.\n\n"
    "All settings are keys of the training section: --set training.learning_rate=1e-5. They are explained in "
    "docs/objectives.md. Several processes, on one machine or more: --processes (docs/beyond-one-machine.md).",
)

Preferences = Annotated[
    Path, typer.Argument(help="Folder written by 'prefloop prefer' or by a run.", callback=local_copy)
]
Data = Annotated[
    Path,
    typer.Argument(help="Instructions: .jsonl, .json or .parquet (messages, TRL, Alpaca).", callback=local_copy),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the checkpoint.")]
Model = Annotated[str, typer.Option(help="'embedded', a from_pretrained folder, or a hub id.")]
Adapter = Annotated[Path | None, typer.Option(help="Adapter on the model, trained on from where it is.")]
Seed = Annotated[int, typer.Option(help="Seed of order and initialisation.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="Number type the model is loaded in: float32, bfloat16 or float16.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Steps between rows of figures.")]
Track = Annotated[
    list[str] | None, typer.Option(help="Tracker that follows: tensorboard, wandb, mlflow, trackio … Repeatable.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Write Accelerate's configuration, print it and the line to start, and stop.")
]


@app.command()
def preference(
    preferences: Preferences,
    out: Out,
    model: Model = "embedded",
    adapter: Adapter = None,
    initial: Annotated[str | None, typer.Option(help="Another model as the reference.")] = None,
    settings: Set = None,
    seed: Seed = 1,
    device: Device = "auto",
    dtype: Dtype = "float32",
    resume: Resume = False,
    log_every: LogEvery = 10,
    track: Track = None,
    processes: Processes = 1,
    machines: Machines = 1,
    strategy: Strategy = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Tune a policy on preference pairs: DPO and its family, or SFT on the chosen answers.

    Settings start from those of the recipe nba-sql. With --adapter an earlier round goes on;
    training.reference says whether to stay close to the model without it (initial) or with it (previous).

    Examples:

      prefloop train preference preferences --out checkpoint --set training.epochs=1

      prefloop train preference preferences --out simpo --set training.objective=simpo

      prefloop train preference preferences --out checkpoint --processes 8 --strategy fsdp2 --dry-run
    """
    from prefloop.config.recipe import load_recipe
    from prefloop.loop.training import Start, preference_folder

    config = load_recipe("nba-sql", overrides(settings), ["training."]).training
    start = Start(model, adapter, seed, device, dtype, resume, log_every, track or ())
    if _launched(launch_of(processes, machines, strategy, device), out, dry_run, json_):
        return
    summary = preference_folder(preferences, out, config, start, initial=initial)
    _finished(summary, "pairs", out, json_)


@app.command()
def sft(
    data: Data,
    out: Out,
    model: Model = "embedded",
    adapter: Adapter = None,
    settings: Set = None,
    seed: Seed = 1,
    device: Device = "auto",
    dtype: Dtype = "float32",
    resume: Resume = False,
    log_every: LogEvery = 10,
    track: Track = None,
    processes: Processes = 1,
    machines: Machines = 1,
    strategy: Strategy = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Fine-tune a policy on instructions and their answers.

    Example: prefloop train sft instructions.jsonl --out tuned --set training.method=qlora
    """
    from prefloop.config.recipe import training_section
    from prefloop.config.training import SftTrainingConfig
    from prefloop.loop.training import Start, instruction_file

    config = training_section(SftTrainingConfig, overrides(settings))
    start = Start(model, adapter, seed, device, dtype, resume, log_every, track or ())
    if _launched(launch_of(processes, machines, strategy, device), out, dry_run, json_):
        return
    summary = instruction_file(data, out, config, start)
    _finished(summary, "examples", out, json_)


@app.command()
def reward(
    preferences: Preferences,
    out: Out,
    model: Model = "embedded",
    settings: Set = None,
    seed: Seed = 1,
    device: Device = "auto",
    resume: Resume = False,
    log_every: LogEvery = 10,
    track: Track = None,
    processes: Processes = 1,
    machines: Machines = 1,
    strategy: Strategy = None,
    dry_run: DryRun = False,
    json_: Json = False,
) -> None:
    """Train a reward model on preferences: a scorer of answers, saved with its head and read back.

    Example: prefloop train reward preferences --out reward --set training.objective=plackett-luce
    """
    from prefloop.config.recipe import training_section
    from prefloop.config.training import RewardTrainingConfig
    from prefloop.loop.training import Start, reward_folder

    config = training_section(RewardTrainingConfig, overrides(settings))
    start = Start(model, None, seed, device, resume=resume, log_every=log_every, track=track or ())
    if _launched(launch_of(processes, machines, strategy, device), out, dry_run, json_):
        return
    summary = reward_folder(preferences, out, config, start)
    _finished(summary, "pairs", out, json_)


@app.command()
def run(
    run: Annotated[Path, typer.Argument(help="Folder of the run, or of the round of a loop.")],
    json_: Json = False,
) -> None:
    """Do the training that waits in a run's or a round's folder: what each of several processes is started with.

    A run or loop that was started with --processes starts this itself, unless there are several machines: then the
    training is started on each, and the run goes on with --resume.

    Example: accelerate launch --config_file runs/nba-sql-accelerate.yaml -m prefloop train run runs/nba-sql
    """
    from prefloop.loop.run_training import train_waiting

    summary = train_waiting(run)
    _finished(summary, summary["unit"], Path(summary["out"]), json_)


def _launched(launch: Launch | None, out: Path, dry_run: bool, json_: bool) -> bool:
    """Whether several processes were started, or only printed, in this one's place."""
    from prefloop.errors import ConfigError
    from prefloop.loop.launch import beside, prepared, start

    if dry_run and launch is None:
        raise ConfigError("--dry-run shows how several processes are started: give --processes")
    if launch is None:
        return False
    if dry_run:
        ready = prepared(launch, beside(out), words_of_processes())
        print_json(ready.as_dict()) if json_ else typer.echo(ready.text())
    else:
        start(launch, beside(out), words_of_processes())
    return True


def _finished(summary: dict[str, Any], unit: str, out: Path, json_: bool) -> None:
    from prefloop.progress import main_process

    if not main_process():
        return
    if json_:
        print_json(summary)
        return
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in summary["dropped"].items())
    best = f", best at step {summary['best_step']}" if summary["best_step"] else ""
    typer.echo(
        f"{summary['steps']:,} steps on {summary['pairs']:,} {unit}, final loss {summary['final_loss']:.4f}{best}"
        + (f"; dropped: {dropped}" if dropped else "")
        + f"; checkpoint in {out}"
    )


@app.command()
def compare(
    data: Data,
    out: Out,
    model: Model = "embedded",
    settings: Set = None,
    questions: Annotated[int, typer.Option(min=0, help="Unseen NBA questions to ask each tuned policy.")] = 0,
    seed: Seed = 1,
    device: Device = "auto",
    resume: Resume = False,
    json_: Json = False,
) -> None:
    """Fine-tune one policy with LoRA, QLoRA and all weights on the same data, and compare what each costs and gives.

    A tenth of the examples is held out. Each method trains in a process of its own, so its peak memory is its own.

    Example: prefloop train compare instructions.jsonl --out compared --questions 200 --set training.epochs=1
    """
    from prefloop.loop.compare import compare_methods, comparison_text

    found = compare_methods(
        data, out, overrides(settings), model=model, questions=questions, seed=seed, device=device, resume=resume
    )
    print_json(found) if json_ else typer.echo(comparison_text(found))


@app.command()
def sweep(
    preferences: Preferences,
    out: Out,
    objective: Annotated[list[str] | None, typer.Option(help="Objective to try. Repeatable.")] = None,
    beta: Annotated[list[float] | None, typer.Option(help="Beta to try. Repeatable.")] = None,
    learning_rate: Annotated[list[float] | None, typer.Option(help="Learning rate to try. Repeatable.")] = None,
    model: Model = "embedded",
    settings: Set = None,
    seed: Seed = 1,
    device: Device = "auto",
    resume: Resume = False,
    json_: Json = False,
) -> None:
    """Try objectives, betas and learning rates at equal budgets; a table with intervals on held-out pairs.

    Example: prefloop train sweep preferences --out swept --beta 0.05 --beta 0.2 --objective dpo --objective ipo
    """
    from prefloop.loop.sweep import sweep as run_sweep
    from prefloop.loop.sweep import sweep_text

    found = run_sweep(
        preferences,
        out,
        overrides(settings),
        objectives=objective or ("dpo",),
        betas=beta or (),
        rates=learning_rate or (),
        model=model,
        seed=seed,
        device=device,
        resume=resume,
    )
    print_json(found) if json_ else typer.echo(sweep_text(found))

"""The `prefloop` command: sub-commands, the way errors are shown, and what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

import typer

from prefloop.cli import (
    agree,
    annotate,
    ask,
    benchmark,
    compare,
    decontaminate,
    doctor,
    embedded,
    evaluate,
    export,
    features,
    generate,
    judge,
    league,
    loop,
    mix,
    plan,
    prefer,
    pull,
    push,
    report,
    run,
    show,
    task,
    train,
)
from prefloop.errors import PrefloopError

INTERRUPTED, UNEXPECTED = 130, 70
DEBUG = "PREFLOOP_DEBUG"
RESUMABLE = {"run", "loop", "generate", "judge", "train", "evaluate", "compare", "benchmark", "embedded"}
"""Commands with --resume."""

app = typer.Typer(
    name="prefloop",
    help="Close the preference loop for language models: generate, judge, prefer, train, evaluate, go round.\n\n"
    "Start with: [bold]prefloop run nba-sql[/bold]",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(rich_help_panel="The whole way")(run.run)
app.command(rich_help_panel="The whole way")(loop.loop)
app.command(rich_help_panel="The whole way")(plan.plan)
for command in (
    generate.generate,
    judge.judge,
    prefer.prefer,
    mix.mix,
    decontaminate.decontaminate,
    evaluate.evaluate,
    compare.compare,
    benchmark.benchmark,
    report.report,
):
    app.command(rich_help_panel="One stage")(command)
app.command(rich_help_panel="People")(annotate.annotate)
app.command(rich_help_panel="People")(annotate.collect)
app.command(rich_help_panel="People")(features.features)
app.add_typer(train.app, name="train", rich_help_panel="One stage")
app.command(rich_help_panel="One stage")(export.export)
app.command(rich_help_panel="The Hub")(push.push)
app.command(rich_help_panel="The Hub")(pull.pull)
app.command(rich_help_panel="Look and check")(ask.ask)
app.command(rich_help_panel="Look and check")(show.show)
app.command(rich_help_panel="Look and check")(agree.agree)
app.command(rich_help_panel="Look and check")(doctor.doctor)
app.add_typer(task.app, name="task", rich_help_panel="Your own data")
app.add_typer(embedded.app, name="embedded", rich_help_panel="What ships with the package")
app.add_typer(league.app, name="league", rich_help_panel="What ships with the package")


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress output."),
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"prefloop {installed('prefloop')}")
        raise typer.Exit
    if quiet:
        from prefloop.progress import set_quiet

        set_quiet(True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _one_of_several(context.invoked_subcommand)


def _one_of_several(command: str | None) -> None:
    """What only matters to processes that train together."""
    from prefloop.errors import ConfigError
    from prefloop.loop.together import end_with_starter

    if command != "train":
        raise ConfigError(
            f"'prefloop {command}' does its work once: start it without accelerate launch. Several processes share a "
            "training alone: 'prefloop train …', or 'prefloop run … --processes N', which starts them"
        )
    end_with_starter()


class _Interrupted(BaseException):
    """Ctrl-C. Not a KeyboardInterrupt, which the command-line library would turn into a silent exit."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise, and again a second later if that was swallowed, as some packages do while they are imported."""
    signal.setitimer(signal.ITIMER_REAL, 1)
    handled = sys.exception()
    while handled is not None:
        if isinstance(handled, _Interrupted):  # on its way out: what cleans up is not disturbed
            return
        handled = handled.__context__
    raise _Interrupted


def _end_ray() -> None:
    """Where Ray is in use, end it and this process: its C++ side takes up to half a minute over an ordinary exit."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def main() -> None:
    """Entry point: errors on one line and a non-zero exit; Ctrl-C keeps finished work and says how to go on."""
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _interrupt)
    from prefloop.progress import main_process, set_quiet

    name = "prefloop"
    if not main_process():
        set_quiet(True)
        name = f"prefloop (process {os.environ['RANK']})"
    try:
        app()
    except PrefloopError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except _Interrupted:
        signal.setitimer(signal.ITIMER_REAL, 0)
        command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
        again = "; finished work is kept, go on with --resume" if command in RESUMABLE else ""
        print(f"prefloop: interrupted{again}", file=sys.stderr)
        _end_ray()
        sys.exit(INTERRUPTED)
    except Exception as error:
        if DEBUG in os.environ:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:300]
        print(
            f"{name}: unexpected {type(error).__name__}: {text} ({where.name}, line {where.lineno}); "
            f"{DEBUG}=1 shows the whole traceback. Please report it",
            file=sys.stderr,
        )
        sys.exit(UNEXPECTED)

"""`prefloop report`: the report page of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import StoredRun


def report(
    run: StoredRun,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default RUN/report.html.")] = None,
    beside: Annotated[
        list[Path] | None, typer.Option(help="Another loop, whose reward and accuracy are drawn beside. Repeatable.")
    ] = None,
) -> None:
    """Write the report page of a finished run or loop again: one self-contained HTML file.

    Examples:

      prefloop report runs/nba-sql --out /tmp/report.html

      prefloop report runs/rlhf-nba --beside runs/unguarded
    """
    from prefloop.store.run_folder import read_manifest

    place = out or run / "report.html"
    if "best" in read_manifest(run):
        from prefloop.loop.report_rounds import report_loop

        typer.echo(report_loop(run, place, beside or ()))
        return
    if beside:
        raise typer.BadParameter("only the charts of loops have room for another one", param_hint="--beside")
    from prefloop.loop.reporting import report_run

    typer.echo(report_run(run, place))

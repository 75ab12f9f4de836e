"""`prefloop report`: the report page of a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import RunPath


def report(
    run: RunPath,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="HTML file; default RUN/report.html.")] = None,
) -> None:
    """Write the report page of a finished run again: one self-contained HTML file.

    Example: prefloop report runs/nba-sql --out /tmp/report.html
    """
    from prefloop.loop.reporting import report_run
    from prefloop.store.run_folder import read_manifest

    read_manifest(run)
    typer.echo(report_run(run, out or run / "report.html"))

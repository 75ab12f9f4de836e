"""`prefloop doctor`: is this installation fit, and if not, what to do."""

from __future__ import annotations

import typer

from prefloop.cli.options import Json, print_json


def doctor(json_: Json = False) -> None:
    """Check the installation: Python, packages, embedded policy, devices, disk, cache, SQL sandbox.

    Exits with 1 if something must be mended.
    """
    from prefloop.loop.doctor import examine

    findings = examine()
    if json_:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name:<18} {finding.found}")
            if finding.advice:
                typer.echo(f"     {'':<18} -> {finding.advice}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)

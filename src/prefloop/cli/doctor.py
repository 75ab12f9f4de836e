"""`prefloop doctor`: is this installation fit, and if not, what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json


def doctor(
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="postgresql://…: may its role only read? Prints the SQL that makes one."),
    ] = None,
    json_: Json = False,
) -> None:
    """Check the installation: Python, packages, embedded policy, devices, disk, cache, SQL sandbox; or a database.

    Exits with 1 if something must be mended.

    Example: prefloop doctor --database postgresql://admin@host/shop
    """
    from prefloop.loop.doctor import examine, examine_database

    findings = examine_database(database) if database else examine()
    if json_:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name:<18} {finding.found}")
            if finding.advice:
                typer.echo(f"     {'':<18} -> {finding.advice}")
            if finding.sql:
                typer.echo(finding.sql)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)

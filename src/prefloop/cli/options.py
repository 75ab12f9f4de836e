"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. --set training.beta=0.2. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, e.g. runs/nba-sql.")]


def overrides(pairs: list[str] | None) -> dict[str, Any]:
    """``["training.beta=0.2"]`` to ``{"training.beta": 0.2}``; values are read as YAML.

    Raises:
        typer.BadParameter: a pair without '=', or a value that is no YAML.
    """
    import yaml

    found = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"'{pair}' is not KEY=VALUE", param_hint="--set")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"'{value}' is not a YAML value", param_hint=f"--set {key}") from error
    return found


def print_json(value: Any) -> None:
    """Indented JSON with sorted keys on stdout."""
    import json

    typer.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))

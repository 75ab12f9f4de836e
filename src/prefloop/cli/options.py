"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from prefloop.loop.launch import Launch

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. --set training.beta=0.2. Repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]
Database = Annotated[
    Path | None,
    typer.Option(help="SQLite file of real games ('prefloop league import'); the same as --set task.database=FILE."),
]


def local_copy(path: Path) -> Path:
    """What stands at an address in object storage, fetched; a local path as it is."""
    from prefloop.store.objects import fetched

    return fetched(path)


def local_run(path: Path) -> Path:
    """The same of a run, without weights."""
    from prefloop.store.objects import fetched

    return fetched(path, weights=False)


StoredRun = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, e.g. runs/nba-sql, or its address.", callback=local_run)
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, e.g. runs/nba-sql.")]

Processes = Annotated[
    int, typer.Option(min=1, help="Train in so many processes, one per GPU, on all machines together.")
]
Machines = Annotated[int, typer.Option(min=1, help="Machines that these processes are on.")]
Strategy = Annotated[str | None, typer.Option(help="How they share the work: ddp (default), fsdp2, zero1 or zero2.")]
LAUNCHING = ("--processes", "--machines", "--strategy", "--dry-run")
"""Options that say how processes are started, and are none of theirs."""


def launch_of(processes: int, machines: int, strategy: str | None, device: str = "auto") -> Launch | None:
    """What these options ask for; None: one process."""
    from prefloop.errors import ConfigError
    from prefloop.loop.launch import Launch

    if processes > 1:
        return Launch(processes, machines, strategy or "ddp", device == "cpu")
    if machines > 1 or strategy:
        raise ConfigError("--machines and --strategy have no effect in one process: give --processes")
    return None


def words_of_processes() -> list[str]:
    """The words of this command that each of its processes is started with."""
    import sys

    words = iter(sys.argv[1:])
    found = []
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in LAUNCHING:
            found.append(word)
        elif not equals and name != "--dry-run":
            next(words, None)
    return found


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


def with_database(given: dict[str, Any], database: Path | None) -> dict[str, Any]:
    """Overrides with a league of one's own among them.

    Raises:
        typer.BadParameter: it is given twice.
    """
    if database is None:
        return given
    if "task.database" in given:
        raise typer.BadParameter("--database and --set task.database say the same: give one")
    return given | {"task.database": str(database)}


def print_json(value: Any) -> None:
    """Indented JSON with sorted keys on stdout."""
    import json

    typer.echo(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False))

"""`prefloop task`: text-to-SQL tasks of your own database, and of published question sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prefloop.cli.options import Json, print_json

app = typer.Typer(help="Text-to-SQL tasks: of your own database, or of a question set.", no_args_is_help=True)

Workers = Annotated[int, typer.Option(min=0, help="SQL processes; 0: one per core.")]
Variant = Annotated[
    str | None,
    typer.Option(help="Of a PostgreSQL database: URL of an empty one, by a role that owns it, to become its variant."),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Task folder to write.")]


@app.command(name="from-database")
def from_database(
    database: Annotated[str, typer.Argument(help="SQLite file, or postgresql://USER@HOST/NAME.")],
    out: Out,
    train: Annotated[int, typer.Option(min=1, help="Training questions to draw.")] = 400,
    test: Annotated[int, typer.Option(min=1, help="Test questions to draw.")] = 200,
    variant: Variant = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the questions and of the variant database.")] = 1,
    workers: Workers = 0,
    json_: Json = False,
) -> None:
    """Make a text-to-SQL task of a database: its schema, policies to edit, questions, and an audit of their golds.

    Questions are drawn from what the columns hold, and let in only if their query runs, says something, and differs
    from others' on the database and on a variant of it. The database is copied, never written.

    Example: prefloop task from-database shop.sqlite --out shop-task
    """
    from prefloop.tasks.database.make import task_from_database

    found = task_from_database(
        _place(database), out, train=train, test=test, variant=variant, seed=seed, workers=workers
    )
    _show(found, out, json_)


@app.command(name="import")
def import_(
    questions: Annotated[Path, typer.Argument(help="File of questions: .json, .jsonl or .csv.")],
    database: Annotated[str, typer.Option(help="SQLite file, a folder of them by name, or a postgresql:// URL.")],
    out: Out,
    layout: Annotated[
        str | None, typer.Option(help="spider, bird, defog, geoquery or jsonl; default by the first entry.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="File of the test questions; the others are for training.")] = None,
    variant: Variant = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, where the set has none, and of the variants.")
    ] = 1,
    workers: Workers = 0,
    json_: Json = False,
) -> None:
    """Make a text-to-SQL task of a published question set, each question with what counts as equal, and audit it.

    Examples:

      prefloop task import train_spider.json --test dev.json --database spider/database --out spider-task

      prefloop task import gold-test-set.jsonl --database nba_roster.db --out roster-task
    """
    from prefloop.errors import ConfigError
    from prefloop.tasks.database.imports.layouts import LAYOUTS
    from prefloop.tasks.database.imports.questions import task_from_questions

    if layout is not None and layout not in LAYOUTS:
        raise ConfigError(f"--layout {layout}: there are {', '.join(LAYOUTS)}")
    found = task_from_questions(
        questions, _place(database), out, layout=layout, test=test, variant=variant, seed=seed, workers=workers
    )
    _show(found, out, json_)


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="Task folder.")], workers: Workers = 0, json_: Json = False
) -> None:
    """Audit a task folder again after you edited it; a run of files that were changed since is refused.

    Example: prefloop task audit shop-task
    """
    from prefloop.tasks.database.audit.audit import audit_task

    _show(audit_task(folder, workers=workers), folder, json_)


def _place(database: str) -> Path | str:
    return database if "://" in database else Path(database)


def _show(found: dict[str, Any], folder: Path, json_: bool) -> None:
    from prefloop.tasks.database.audit.report import summary

    print_json(found) if json_ else typer.echo(summary(found, folder))

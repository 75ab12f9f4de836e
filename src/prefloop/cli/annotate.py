"""`prefloop annotate` and `prefloop collect`: people rank in the browser; what they said becomes records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from prefloop.cli.options import Json, overrides, print_json

DATABASE = typer.Option(
    "--database", metavar="FILE_OR_URL", help="SQLite file, or postgresql+psycopg://…; default RUN/annotation.db."
)
NAMED = 5
"""Corrected answers that are held back, told one by one."""


def annotate(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Run folder, preference set, .jsonl, .csv or .parquet of answers, Argilla or Label Studio export, or "
            "a Hub data set. Not needed for a --database that has its items.",
        ),
    ] = None,
    database: Annotated[str | None, DATABASE] = None,
    gold: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Items with 'best', hidden in the stream. Repeatable.")
    ] = None,
    calibration: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Items with 'best', explained first. Repeatable.")
    ] = None,
    gold_of_run: Annotated[
        int, typer.Option(metavar="N", help="Also hide N pairs of the run that execution decided.")
    ] = 0,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COLUMN", help="A file's own column, e.g. prompt=question. Repeatable."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Vectors of completions, for --set selection.strategy=d-optimal.")
    ] = None,
    split: Annotated[str, typer.Option(help="Prompts of a run to ask about: train or test.")] = "train",
    sql: Annotated[
        Path | None, typer.Option(help="SQLite file on which SQL answers, and corrections, are run.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of a new project, e.g. overlap=3. Repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default lets only this machine in.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port. Default 8642, or a free one.")] = None,
    public_url: Annotated[
        str | None, typer.Option(help="How browsers reach it: https://… of a proxy in front, or of this host.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM), to speak HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).")] = None,
    insecure_http: Annotated[bool, typer.Option("--insecure-http", help="Plain HTTP on a network you trust.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
    admin_link: Annotated[
        bool, typer.Option("--admin-link", help="Print a link by which the first admin chooses a new password.")
    ] = False,
) -> None:
    """People rank generated answers in the browser, blind and in random order.

    Settings of the project are given with --set, such as overlap=3, kind=ranking, guidelines="…"; see
    docs/annotation.md. On this machine alone, an item is judged once unless overlap says otherwise. In bulk,
    overlap=1 with overlap_sample=0.2 asks overlap_target=3 people about a fifth of the items, to see how well they
    agree.

    Examples:

      prefloop annotate runs/nba-sql

      prefloop annotate answers.jsonl --database team.db --set overlap=3 --public-url https://rate.example.org
    """
    from prefloop.annotation.open import open_project
    from prefloop.annotation.serve import Serving

    serving = Serving(host, port, public_url, tls_cert, tls_key, insecure_http, browser, admin_link)
    open_project(
        source,
        database,
        serving,
        settings=overrides(settings),
        gold=gold or (),
        calibration=calibration or (),
        gold_of_run=gold_of_run,
        columns={name: str(value) for name, value in overrides(column).items()},
        features=features,
        split=split,
        sql=sql,
    )


def collect(
    source: Annotated[str, typer.Argument(metavar="RUN_OR_DATABASE", help="Run folder, SQLite file or database URL.")],
    out: Annotated[Path | None, typer.Option(help="New folder; default RUN/people.")] = None,
    surplus: Annotated[bool, typer.Option("--surplus", help="Also count verdicts beyond an item's target.")] = False,
    sql: Annotated[
        Path | None, typer.Option(help="SQLite file on which corrected SQL is run; default the project's own.")
    ] = None,
    json_: Json = False,
) -> None:
    """Write what people judged: the log, records, and a preference set in TRL's format.

    Works beside a running server. Raters appear under pseudonyms. A corrected answer whose SQL fails or is wrong is
    kept and not trained on. Questions that most people find ambiguous go to ambiguous.jsonl.

    Examples:

      prefloop collect runs/nba-sql

      prefloop run nba-sql --out runs/nba-sql --set judge=people --resume
    """
    from prefloop.annotation.open import collect_project

    found: dict[str, Any] = collect_project(source, out, include_surplus=surplus, sql=sql)
    print_json(found) if json_ else typer.echo("\n".join(_collected(found)))


def _collected(found: dict[str, Any]) -> Iterator[str]:
    """What came out in a line, and what of it is not trained on."""
    yield f"{found['judgements']:,} verdicts of {found['raters']:,} people, {found['pairs']:,} pairs in {found['out']}"
    if ambiguous := found["counts"]["ambiguous"]:
        yield f"ambiguous questions, not trained on: {ambiguous:,}, in ambiguous.jsonl"
    outcomes, held = found["corrections"]["outcomes"], found["corrections"]["held_back"]
    if outcomes:
        yield f"corrected answers, executed: {', '.join(f'{what} {count:,}' for what, count in outcomes.items())}"
    for row in held[:NAMED]:
        why = f" ({row['error']})" if row["error"] else ""
        said = f"  not trained on: item {row['item_id']}, by {row['rater']}: {row['reason']}{why}"
        yield "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said)
    if len(held) > NAMED:
        yield f"  and {len(held) - NAMED:,} more, in project.json"

"""`prefloop judge`: completions to judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, Set, overrides, print_json


def judge(
    prompts: Annotated[Path, typer.Argument(help="prompts.parquet, or .jsonl with a 'prompt' in each line.")],
    completions: Annotated[Path, typer.Argument(help="completions.parquet")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write the judgements (.parquet).")],
    judge: Annotated[
        str,
        typer.Option(
            "--judge", "-j", help="execution, pairrm, armorm, reward-model, llm, ensemble, or your own module:function."
        ),
    ] = "execution",
    database: Annotated[
        list[str] | None,
        typer.Option(
            "--database",
            "-d",
            metavar="FILE_OR_URL",
            help="execution: your own SQLite file, or postgresql://…, in place of the leagues. Repeatable.",
        ),
    ] = None,
    settings: Set = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with interrupted judging.")] = False,
    json_: Json = False,
) -> None:
    """Score answers: by running their SQL, with a reward model, with a language model, or with your own function.

    Each judge's settings are keys of the judge section (docs/judges.md): --set judge.model=FOLDER. --set engine=ray
    judges by Ray's workers (docs/ray.md). What cannot be judged stays unscored and is counted. Your own database may be
    in use: of a SQLite file only a copy is opened, on a PostgreSQL server queries run by a role that can only read
    (docs/postgresql.md).

    Examples:

      prefloop judge runs/nba-sql/prompts.parquet completions.parquet --out judgements.parquet

      prefloop judge prompts.jsonl completions.parquet --database postgresql://reader@host/shop --out judgements.parquet

      prefloop judge prompts.jsonl completions.parquet --judge pairrm --out judgements.parquet

      prefloop judge prompts.jsonl completions.parquet --judge my_judges:shortest --out judgements.parquet

      prefloop judge prompts.jsonl completions.parquet --judge pairrm --set engine=ray --out judgements.parquet
    """
    from prefloop.config.recipe import engine_section, judge_section
    from prefloop.loop.judge_stage import judge_file

    engine, threads, others = engine_section(overrides(settings))
    config = judge_section(judge, others)
    summary = judge_file(
        prompts,
        completions,
        out,
        config,
        databases=database or (),
        resume=resume,
        engine=engine,
        threads=threads,
    )
    if json_:
        print_json(summary)
        return
    unscored = f", {summary['unscored']} unscored" if summary["unscored"] else ""
    typer.echo(f"{summary['judgements']:,} judgements of {summary['judge']} in {out}{unscored}")
    for name, value in summary["objectives"].items():
        typer.echo(f"  mean {name:<28} {value:8.4f}")
    for reason, count in {**summary["statuses"], **summary["altered"], **summary["why"]}.items():
        typer.echo(f"  {reason[:90]:<33} {count:>8,}")

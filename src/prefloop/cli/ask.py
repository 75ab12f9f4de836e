"""`prefloop ask`: one question, answered by plan, SQL and rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefloop.cli.options import Json, print_json

if TYPE_CHECKING:
    from rich.console import Group

    from prefloop.loop.ask import Reply

ROWS = 20
"""Rows shown."""
WIDE = 110
"""Columns of a terminal that holds two answers beside each other."""


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know of the league.")],
    run: Annotated[Path | None, typer.Option(help="A finished run or loop: its policy before and after.")] = None,
    database: Annotated[
        str | None,
        typer.Option(metavar="FILE_OR_URL", help="SQLite file, or postgresql://…; default the run's, or simulated."),
    ] = None,
    json_: Json = False,
) -> None:
    """Answer one question: the plan, the SQL, and the rows it returns.

    The query runs in the sandbox: on a copy of a file, or read-only on a PostgreSQL server (docs/postgresql.md). With
    --run, the policy before and after tuning stand side by side.

    Examples:

      prefloop ask "top 5 scorers last season"

      prefloop ask "lakers record at home" --run runs/nba-sql --database real.sqlite
    """
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.loop.ask import ask_question
    from prefloop.tasks.nba.imports.synthetic_marks import tell_synthetic

    tell_synthetic(database)  # a run's own league says so itself
    replies = ask_question(question, run, database)
    print_json([reply.row() for reply in replies]) if json_ else _show(replies)


def _show(replies: list[Reply]) -> None:
    """Side by side where there is room, else one below the other."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    console = Console()
    if len(replies) == 1:
        console.print(_told(replies[0]))
        return
    panels = [Panel(_told(reply), title=reply.policy) for reply in replies]
    if console.width < WIDE:
        console.print(*panels, sep="\n")
        return
    beside = Table.grid(expand=True)
    for _ in panels:
        beside.add_column(ratio=1)
    beside.add_row(*panels)
    console.print(beside)


def _told(reply: Reply) -> Group:
    """Plan, query and rows."""
    from rich.console import Group
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    if reply.sql is None:
        return Group(Text(reply.plan))
    query = Syntax(reply.sql, "sql", background_color="default", word_wrap=True)
    result = reply.result
    if result is None or result.status != "ok":
        return Group(
            Text(reply.plan), query, Text(f"{result.status}: {result.message}" if result else "not run", "red")
        )
    table = Table()
    for name in result.columns:
        table.add_column(Text(name))
    for row in result.rows[:ROWS]:
        table.add_row(*(Text("NULL", "dim") if cell is None else Text(str(cell)) for cell in row))
    count = f"{len(result.rows):,} row{'s' * (len(result.rows) != 1)}"
    count += f", the first {ROWS} shown" if len(result.rows) > ROWS else ""
    return Group(Text(reply.plan), query, table, count)

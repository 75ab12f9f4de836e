"""`prefloop ask`: one question, answered by plan, SQL and rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prefloop.cli.options import Json, print_json

if TYPE_CHECKING:
    from prefloop.loop.ask import Reply

ROWS = 20
"""Rows shown."""


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know of the league.")],
    run: Annotated[Path | None, typer.Option(help="A finished run or loop: its policy before and after.")] = None,
    database: Annotated[Path | None, typer.Option(help="SQLite file; default the simulated league.")] = None,
    json_: Json = False,
) -> None:
    """Answer one question: the plan, the SQL, and the rows it returns.

    The query runs in the sandbox, on a copy of the database.

    Examples:

      prefloop ask "top 5 scorers last season"

      prefloop ask "lakers record at home" --run runs/nba-sql --database real.sqlite
    """
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.loop.ask import ask_question

    replies = ask_question(question, run, database)
    if json_:
        print_json([reply.row() for reply in replies])
        return
    for reply in replies:
        _show(reply, alone=len(replies) == 1)


def _show(reply: Reply, alone: bool) -> None:
    from rich.console import Console
    from rich.syntax import Syntax
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not alone:
        console.rule(reply.policy)
    console.print(Text(reply.plan))
    if reply.sql is None:
        return
    console.print(Syntax(reply.sql, "sql", background_color="default", word_wrap=True))
    result = reply.result
    if result is None or result.status != "ok":
        console.print(Text(f"{result.status}: {result.message}" if result else "not run", "red"))
        return
    table = Table()
    for name in result.columns:
        table.add_column(Text(name))
    for row in result.rows[:ROWS]:
        table.add_row(*(Text("NULL", "dim") if cell is None else Text(str(cell)) for cell in row))
    console.print(table)
    console.print(f"{len(result.rows):,} rows{f', the first {ROWS} shown' if len(result.rows) > ROWS else ''}")

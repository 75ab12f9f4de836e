"""`prefloop league`: simulated NBA databases, and real seasons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prefloop.cli.options import Json, print_json

app = typer.Typer(help="NBA databases: simulated ones, and real seasons from files.", no_args_is_help=True)


@app.callback()
def _league() -> None:
    """NBA databases: simulated ones, and real seasons from files."""


@app.command()
def build(
    out: Annotated[Path, typer.Argument(help="SQLite file to write.")],
    games: Annotated[int, typer.Option(min=300, max=3_690, help="Games in all, playoffs included.")] = 900,
    seed: Annotated[int, typer.Option(help="Seed of results and statistics.")] = 1,
    universe: Annotated[int, typer.Option(help="Seed of names, rosters, trades and schedule.")] = 7,
) -> None:
    """Simulate a league and write it as one SQLite file in the Basketball-Reference-style schema.

    Example: prefloop league build league.sqlite --games 3690
    """
    from prefloop.errors import StoreError
    from prefloop.tasks.nba.league import LeagueConfig, build_league

    if out.exists():
        raise StoreError(f"{out} exists already: choose another file or remove it first")
    build_league(LeagueConfig(universe_seed=universe, play_seed=seed, games=games), out)
    typer.echo(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


@app.command(name="import")
def import_(
    sources: Annotated[list[Path], typer.Argument(help="Files of real games.")],
    into: Annotated[Path, typer.Option(help="SQLite file to make or to add to.")] = Path("league.sqlite"),
    season: Annotated[int | None, typer.Option(help="End year, where a schedule's name does not say it.")] = None,
    json_: Json = False,
) -> None:
    """Put real games into a league: game logs of pbpstats or nba_api, Basketball-Reference-style schedules.

    Rows that are there already are not doubled, values that contradict them are told and left out, and rows that cannot
    be read are named. A file is imported whole or not at all; the same command again changes nothing.

    Example: prefloop league import 2018_season_schedule.csv game_log.json --into real.sqlite
    """
    from prefloop.tasks.nba.imports.merge import SHOWN, merge_rows
    from prefloop.tasks.nba.imports.sources import read_source

    told = {}
    for source in sources:
        found = merge_rows(read_source(source, season), into)
        bad = [f"{row.file}, row {row.line}: {row.reason}" for row in found.bad]
        told[str(source)] = {
            "added": dict(found.added),
            "known": dict(found.known),
            "filled": dict(found.filled),
            "contradictions": found.contradictions,
            "bad": bad,
        }
        if json_:
            continue
        for title, counts in (("added", found.added), ("there already", found.known), ("filled in", found.filled)):
            if counts:
                typer.echo(f"{source}: {title}: {', '.join(f'{n:,} {table}' for table, n in counts.items())}")
        for title, rows in (("contradicts", found.contradictions), ("not read", bad)):
            for row in rows[:SHOWN]:
                typer.echo(f"  {title}: {row}", err=True)
            if len(rows) > SHOWN:
                typer.echo(f"  {title}: and {len(rows) - SHOWN:,} more", err=True)
    print_json(told) if json_ else typer.echo(f"{into} ({into.stat().st_size / 1e6:.1f} MB)")

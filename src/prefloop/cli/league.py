"""`prefloop league`: the simulated NBA database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build simulated NBA databases.", no_args_is_help=True)


@app.callback()
def _league() -> None:
    """Build simulated NBA databases."""


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

"""`prefloop league`: simulated NBA databases, and real seasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prefloop.cli.options import Json, print_json

if TYPE_CHECKING:
    from prefloop.tasks.nba.imports.check import Audit

app = typer.Typer(help="NBA databases: simulated ones, and real seasons from files.", no_args_is_help=True)
League = Annotated[Path, typer.Argument(metavar="LEAGUE", help="SQLite file of a league.")]
SHOWN = 20
"""Findings of a kind that are told one by one."""


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
    sources: Annotated[list[str], typer.Argument(help="Files of real games, folders of them, or postgresql://…")],
    into: Annotated[Path, typer.Option(help="SQLite file to make or to add to.")] = Path("league.sqlite"),
    season: Annotated[
        int | None, typer.Option(help="End year, where a schedule's name does not say it; of a server, the only one.")
    ] = None,
    date: Annotated[str | None, typer.Option(help="Day (2019-03-01), where a file of one day does not say it.")] = None,
    player: Annotated[str | None, typer.Option(help="Whose games a player's game log holds.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Of CSV files that are not UTF-8, e.g. cp1252.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML file that says what a table's columns are.")] = None,
    json_: Json = False,
) -> None:
    """Put real games into a league: files of pbpstats, nba_api, Basketball-Reference or hoopR, any CSV, a database.

    Rows that are there already are not doubled, values that contradict them are told and left out, and rows that cannot
    be read, or whose game is not in the league, are named. Of a folder all files that hold games are taken, and the
    others named. A file is imported whole or not at all; the same command
    again goes on where an earlier one was stopped, and changes nothing once all files are in.

    Examples:

      prefloop league import 2018_season_schedule.csv 2018_01_01_team_box_scores.csv --into real.sqlite

      prefloop league import postgresql://reader@host/nba_simulator --season 2019 --into real.sqlite

      prefloop league import my_boxes.csv --mapping my_boxes.yaml --into real.sqlite
    """
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.errors import DataError
    from prefloop.tasks.nba.imports.files import import_files
    from prefloop.tasks.nba.imports.sources import Options

    found = import_files(sources, into, Options(season, date, player, encoding, mapping))
    failed = [one.failed for one in found if one.failed]
    if json_:
        print_json({str(one.path): {**one.report, "imported_before": one.before} for one in found})
    else:
        for one in found:
            if not one.failed and not one.left_out:
                _told(one.path, one.report, one.before)
        _list("left out", [one.left_out for one in found if one.left_out])
        if into.exists():
            typer.echo(f"{into} ({into.stat().st_size / 1e6:.1f} MB)")
    if failed:
        tried = sum(not one.left_out for one in found)
        raise DataError("\n".join([f"{len(failed)} of {tried} files could not be imported:", *failed]))


def _told(path: object, report: dict[str, Any], before: bool) -> None:
    if before:
        typer.echo(f"{path}: imported before, not read again")
    else:
        for title, key in (("added", "added"), ("there already", "known"), ("filled in", "filled")):
            if counts := report[key]:
                typer.echo(f"{path}: {title}: {', '.join(f'{n:,} {table}' for table, n in counts.items())}")
        if report["replaced"]:
            typer.echo(f"{path}: synthetic player rows of {len(report['replaced']):,} games gave way to real ones")
    for remark in report["remarks"]:
        typer.echo(f"  {remark}", err=True)
    for title, key in (("contradicts", "contradictions"), ("not read", "bad"), ("waits for its game", "waiting")):
        _list(title, report[key])


def _list(title: str, rows: list[str]) -> None:
    for row in rows[:SHOWN]:
        typer.echo(f"  {title}: {row}", err=True)
    if len(rows) > SHOWN:
        typer.echo(f"  {title}: and {len(rows) - SHOWN:,} more", err=True)


@app.command()
def players(
    league: League,
    seed: Annotated[int, typer.Option(help="Seed of the players and of what they did.")] = 1,
    json_: Json = False,
) -> None:
    """Invent player rows, marked synthetic, for real games that have only the teams' rows.

    Sums over players equal the team's row in every column. A second run adds nothing, and real rows that are imported
    later take their place.

    Example: prefloop league players real.sqlite --seed 1
    """
    if json_:
        from prefloop.progress import set_quiet

        set_quiet(True)
    from prefloop.tasks.nba.imports.synthetic import add_players

    found = add_players(league, seed)
    if json_:
        print_json(vars(found))
        return
    typer.echo(f"{league}: {found.rows:,} synthetic player rows in {found.games:,} games")
    _list("left out", found.left_out)


@app.command()
def check(league: League, json_: Json = False) -> None:
    """Say what a league holds, what is missing, and what does not add up.

    Example: prefloop league check real.sqlite
    """
    from prefloop.tasks.nba.imports.check import check_league

    found = check_league(league)
    print_json(found.row()) if json_ else _audit(found)


def _audit(found: Audit) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("season", "phase", "games", "teams", "players", "events", "synthetic")
    for one in found.phases:
        counts = (one.games, one.with_team_rows, one.with_player_rows, one.with_play_by_play, one.synthetic)
        table.add_row(str(one.season), one.phase or "unknown", *(f"{count:,}" for count in counts))
    console.print(table)
    typer.echo(", ".join(f"{count:,} {name}" for name, count in found.rows.items()))
    if found.synthetic_players:
        typer.echo(f"{found.synthetic_players:,} player rows are synthetic: their players and figures are invented")
    for kind, rows in found.findings.items():
        typer.echo(f"{kind}: {len(rows):,}")
        for row in rows[:SHOWN]:
            typer.echo(f"  {row}")
        if len(rows) > SHOWN:
            typer.echo(f"  and {len(rows) - SHOWN:,} more (--json shows all)")
    if found.namesakes:
        typer.echo(f"one name, several players: {'; '.join(found.namesakes[:SHOWN])}")
    if not found.findings:
        typer.echo("everything adds up")

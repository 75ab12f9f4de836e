"""Tables of anybody's with a mapping file, and databases in the league's own schema."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from command_line import prefloop
from test_league_hoopr import table
from test_league_import import GAME as GAME_ROWS
from test_league_import import log
from test_league_sources import asked, clean, game, league_of

from prefloop.errors import ConfigError, DataError
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports.files import import_files
from prefloop.tasks.nba.imports.mapping import load_mapping, read_mapped
from prefloop.tasks.nba.imports.merge import merge_rows
from prefloop.tasks.nba.imports.pbpstats import read_game_log
from prefloop.tasks.nba.imports.sqlite import read_league

DOCS = Path(__file__).parent.parent / "docs" / "task-nba.md"
GAME = game("2019-03-01", "ATL", "CHI", (8, 10), 2019, 0)


# Mapped tables


def documented(path: Path) -> Path:
    """The mapping file that the documentation shows."""
    path.write_text(re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    return path


def test_the_documented_mapping(tmp_path: Path) -> None:
    league, mapping = league_of(tmp_path, GAME), documented(tmp_path / "mapping.yaml")
    row = {
        "Date": "01/03/2019",
        "Club": "Bulls",
        "Player": "Zach LaVine",
        "Time": "36:42",
        "FG": 3,
        "FGA": 9,
        "3P": 1,
        "3PA": 4,
        "FT": 3,
        "FTA": 3,
        "AST": 7,
        "Mood": "good",
    }
    path = table(tmp_path / "boxes.csv", row, {**row, "Club": "ATL", "Player": "Trae Young", "Date": "1 March"})
    found = merge_rows(read_mapped(path, load_mapping(mapping)), league)
    assert found.added == {"player_box_scores": 1}
    assert [(bad.line, bad.reason) for bad in found.bad] == [(3, "game_date is not written as %d/%m/%Y ('1 March')")]
    shown = "SELECT game_id, team, player_name, minutes_decimal, points, three_point_pct, assists, steals, is_starter FROM player_box_scores"
    assert asked(league, shown) == [("201903010ATL", "CHI", "Zach LaVine", 36.7, 10, 0.25, 7, None, 0)]
    done = prefloop("league", "import", path, "--mapping", mapping, "--into", league, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)[str(path)]["known"] == {"player_box_scores": 1}


GAMES = """
table: games
season: {column: Season, form: FORM}
columns: {game_date: Day, home_team: Home, away_team: Away, home_score: H, away_score: A}
constants: {game_type: Regular Season, num_overtime_periods: 0}
"""
PLAYED = {"Day": "2019-03-01", "Season": "2018-19", "Home": "Atlanta Hawks", "Away": "CHI", "H": 161, "A": 168}


@pytest.mark.parametrize(
    ("form", "label"), [("span", "2018-19"), ("end_year", "2019"), ("start_year", "2018"), ("nba", "22018")]
)
def test_each_form_of_a_season(tmp_path: Path, form: str, label: str) -> None:
    (tmp_path / "m.yaml").write_text(GAMES.replace("FORM", form))
    path = table(tmp_path / "g.csv", {**PLAYED, "Season": label})
    clean(merge_rows(read_mapped(path, load_mapping(tmp_path / "m.yaml")), tmp_path / "l.sqlite"))
    shown = "SELECT game_id, season, home_team, away_team, game_type, num_overtime_periods FROM games"
    assert asked(tmp_path / "l.sqlite", shown) == [("201903010ATL", 2019, "ATL", "CHI", "Regular Season", 0)]


def test_mixed_seasons_of_a_mapped_table(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(GAMES.replace("FORM", "span"))
    path = table(
        tmp_path / "g.csv", PLAYED, {**PLAYED, "Day": "2018-11-01", "Season": 2018}, {**PLAYED, "Season": 2019}
    )
    with pytest.raises(DataError, match=r"span in row 2; start year in row 3; end year in row 4"):
        list(read_mapped(path, load_mapping(tmp_path / "m.yaml")))


def test_all_findings_of_a_mapping_at_once(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(
        "table: player_box_scores\ndate_format: day first\nteams: {Bulls: Chicago}\n"
        "season: {column: S, form: span}\ncolumns: {points: PTS, field_goal_pct: FG%, player: Name}\nconstants: {points: 0}\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_mapping(path)
    assert str(raised.value).splitlines()[1:] == [
        "  field_goal_pct follows from the other columns: leave it out",
        "  player is no column of player_box_scores",
        "  points is both a column and a constant",
        "  season belongs to games: player_box_scores finds its season by its game",
        "  team is missing: player_box_scores cannot be without it",
        "  player_name is missing: player_box_scores cannot be without it",
        "  nothing says the game: give game_id, or game_date and team",
        "  date_format is none like %d/%m/%Y ('day first')",
        "  teams: Bulls is no code of three capitals ('Chicago')",
    ]
    for text, reason in (
        ("table: matches\ncolumns: {}\nwhat: 1\n", r"(?s)table: .*columns: .*what: "),
        ("[1, 2", "is no YAML"),
        ("", "is no mapping file"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            load_mapping(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_mapping(tmp_path / "gone.yaml")


def test_a_mapped_table_without_its_columns(tmp_path: Path) -> None:
    mapping = load_mapping(documented(tmp_path / "m.yaml"))
    with pytest.raises(DataError, match="columns Time, 3P, 3PA are missing"):
        list(
            read_mapped(
                table(
                    tmp_path / "b.csv",
                    {"Date": 1, "Club": 1, "Player": 1, "FG": 1, "FGA": 1, "FT": 1, "FTA": 1, "AST": 1},
                ),
                mapping,
            )
        )


# Somebody else's database


def test_a_database_of_the_same_schema(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.sqlite"
    with closing(sqlite3.connect(theirs)) as connection, connection:
        connection.executescript(schema.TABLES.replace("assists INTEGER,", "assists INTEGER, mood TEXT,"))
        connection.executescript("DROP TABLE game_play_by_play; ALTER TABLE games DROP COLUMN duration;")
        game = "INSERT INTO games (game_id, game_date, season, home_team, away_team, home_score, away_score) VALUES "
        connection.execute(f"{game} ('194611010TRH', '1946-11-01', 1947, 'TRH', 'NYK', 66, 68)")
        connection.execute(f"{game} ('1', '1946-11-02', 1947, 'CHS', 'NYK', 63, 47)")
        connection.execute(f"{game} ('194611070BOS', '1946-11-07', 1947, 'BOS', 'NYK', 'many', 47)")
        player = "INSERT INTO player_box_scores (game_id, team, player_name, points, assists, player_slug) VALUES "
        connection.execute(f"{player} ('194611010TRH', 'NYK', 'Ossie Schectman', 11, NULL, 'schecos01')")
        connection.execute(f"{player} ('194611010TRH', 'NYK', CAST(x'ff41' AS TEXT), 8, 1, NULL)")
        connection.execute(f"{player} ('194611010TRH', 'TRH', 'Invented', 8, 1, 'synthetic-trh-0-1')")
        shots = "INSERT INTO team_box_scores (game_id, team, is_home, points, field_goals_made, three_pointers_made, free_throws_made) VALUES "
        connection.execute(f"{shots} ('194611010TRH', 'NYK', 0, 68, 24, 0, 19)")
    before, names = theirs.read_bytes(), sorted(path.name for path in tmp_path.iterdir())
    found = merge_rows(read_league(theirs), tmp_path / "l.sqlite")
    assert theirs.read_bytes() == before
    assert names == ["theirs.sqlite"]
    assert found.added == {"games": 1, "player_box_scores": 1}
    assert [f"{bad.line}: {bad.reason}" for bad in found.bad] == [
        "2: games: game_id '1' is not its date, 0 and its home team",
        "3: games: home_score is no whole number of 0 or more ('many')",
        "1: team_box_scores: points are 68, and the shots give 67",
        "2: player_box_scores: player_name is not UTF-8 (byte 1)",
    ]
    assert found.remarks == [
        "theirs.sqlite: games lacks duration: they stay empty",
        "theirs.sqlite: team_box_scores has further columns, which are ignored: mood",
        "theirs.sqlite: player_box_scores has further columns, which are ignored: mood",
        "theirs.sqlite: it has no table game_play_by_play",
        "theirs.sqlite: left out 1 synthetic player rows",
    ]
    assert merge_rows(read_league(theirs), tmp_path / "l.sqlite").added == {}


def test_a_database_that_is_still_being_written_is_another_file(tmp_path: Path) -> None:
    theirs, league = tmp_path / "theirs.db", tmp_path / "l.sqlite"
    with closing(sqlite3.connect(theirs)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(schema.TABLES)
        for number, day in enumerate(("2019-03-01", "2019-03-02"), 1):
            values = f"('{day.replace('-', '')}0ATL', '{day}', 2019, 'ATL', 'CHI', 1, 2, 'theirs', 0)"
            names = "game_id, game_date, season, home_team, away_team, home_score, away_score, notes, has_basic_stats"
            with connection:
                connection.execute(f"INSERT INTO games ({names}) VALUES {values}")
            (found,) = import_files([theirs], league)
            assert (found.before, found.report["added"], found.report["contradictions"]) == (False, {"games": 1}, [])
            assert asked(league, "SELECT COUNT(*) FROM games") == [(number,)]
        assert import_files([theirs], league)[0].before


def test_a_league_imported_into_another_is_the_same(tmp_path: Path) -> None:
    one, two = tmp_path / "one.sqlite", tmp_path / "two.sqlite"
    merge_rows(read_game_log(log(tmp_path / "log.json", *GAME_ROWS)), one)
    clean(merge_rows(read_league(one), two))
    for name in ("games", "team_box_scores", "player_box_scores"):
        assert asked(one, f"SELECT * FROM {name}") == asked(two, f"SELECT * FROM {name}")


def test_databases_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    for sql, reason in (
        ("CREATE TABLE t (a)", "has no table games"),
        (
            "CREATE TABLE games (game_id TEXT, season INTEGER)",
            "lacks columns that no row can be without: games.game_date, games.home_team",
        ),
        (
            f"{schema.TABLES}; INSERT INTO games (game_id, game_date, season, home_team, away_team, home_score, away_score) VALUES ('1', '2018-11-01', 2018, 'A', 'B', 1, 2), ('2', '2019-03-01', 2019, 'A', 'B', 1, 2)",
            "start year in row 1; end year in row 2",
        ),
    ):
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.executescript(sql)
        with pytest.raises(DataError, match=reason):
            list(read_league(path))
    path.write_bytes(b"precious")
    with pytest.raises(DataError, match="cannot be read as a SQLite database"):
        list(read_league(path))

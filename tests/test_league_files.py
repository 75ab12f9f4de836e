"""Files into a league as people have them: in any encoding, many at once, killed in the middle."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop
from test_league_hoopr import scheduled, table
from test_league_import import GAME as GAME_ROWS
from test_league_import import log, side
from test_league_merge import GAME, box, line
from test_league_sources import asked, league_of
from test_league_tables import documented

from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.tasks.nba import schema
from prefloop.tasks.nba.imports import files
from prefloop.tasks.nba.imports.files import import_files
from prefloop.tasks.nba.imports.sources import Options, row_count

# Encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp1252", "utf-16"])
def test_an_encoding_is_told_and_then_read(tmp_path: Path, encoding: str) -> None:
    league_of(tmp_path, GAME)
    path = box(tmp_path / "2019-03-01.csv", line("Zé Ninguém"))
    path.write_bytes(path.read_text().encode(encoding))
    words = "league", "import", path.name, "--into", "l.sqlite"
    done = prefloop(*words, cwd=tmp_path)
    if encoding != "utf-8-sig":
        said = {
            "cp1252": "2019-03-01.csv is not UTF-8 (line 2, byte 6: 0xe9, in Windows-1252 (cp1252) 'x01,Zé Ningué'): name its encoding with --encoding",
            "utf-16": "it begins as UTF-16",
        }[encoding]
        assert (done.returncode, said in done.stderr) == (3, True), done.stderr
        done = prefloop(*words, "--encoding", encoding, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert asked(tmp_path / "l.sqlite", "SELECT player_name FROM player_box_scores") == [("Zé Ninguém",)]


# Many files


def test_files_are_read_in_the_order_they_need_each_other(tmp_path: Path) -> None:
    player, games = box(tmp_path / "2019_03_01_a.csv", line("C D")), log(tmp_path / "b.json", *GAME_ROWS)
    found = import_files([player, games], tmp_path / "l.sqlite")
    assert [one.path.name for one in found] == ["b.json", "2019_03_01_a.csv"]
    assert asked(tmp_path / "l.sqlite", "SELECT COUNT(*) FROM player_box_scores") == [(1,)]


def test_a_wrong_file_or_option_stops_before_the_first(tmp_path: Path) -> None:
    games = log(tmp_path / "b.json", *GAME_ROWS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for paths, options, reason in (
        ([games, tmp_path / "other.csv"], Options(), "has columns a, b"),
        ([games, tmp_path / "gone.csv"], Options(), "does not exist"),
        ([games], Options(player="A B", season=2019), "--season, --player has no effect"),
        ([games], Options(mapping=documented(tmp_path / "m.yaml")), "--mapping has no effect"),
        ([games, box(tmp_path / "c.csv", line("C D"))], Options(encoding="klingon"), "--encoding klingon is unknown"),
    ):
        with pytest.raises((DataError, ConfigError), match=reason):
            import_files(paths, tmp_path / "l.sqlite", options)
        assert not (tmp_path / "l.sqlite").exists()


def test_a_file_that_waits_for_its_game_is_read_again(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    other = side("BOS", "BOS @ MIA", GAME_ID="2"), side("MIA", "MIA vs. BOS", 96, GAME_ID="2")
    import_files([log(tmp_path / "a.json", *other)], league)
    player = box(
        tmp_path / "2019_03_01.csv",
        line("C D"),
        line("E F", team="MIAMI HEAT", opponent="BOSTON CELTICS", location="HOME"),
    )
    (found,) = import_files([player], league)
    assert (found.report["added"], len(found.report["waiting"])) == ({"player_box_scores": 1}, 1)
    games = log(tmp_path / "b.json", *GAME_ROWS)
    found = import_files([player, games], league)
    assert [(one.path.name, one.before, one.report["waiting"]) for one in found] == [
        ("b.json", False, []), ("2019_03_01.csv", False, [])
    ]  # fmt: skip
    assert [one.before for one in import_files([player, games], league)] == [True, True]
    assert asked(league, "SELECT COUNT(*) FROM player_box_scores") == [(2,)]


def test_a_file_of_nothing_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = log(tmp_path / "a.json", side("CHI", "CHI @ ATL", AST="x")), log(tmp_path / "b.json", *GAME_ROWS)
    done = prefloop("league", "import", bad, good, "--into", "l.sqlite", cwd=tmp_path)
    assert done.returncode == 3
    assert "1 of 2 files could not be imported" in done.stderr
    assert "AST is no whole number" in done.stderr
    assert asked(tmp_path / "l.sqlite", "SELECT COUNT(*) FROM games") == [(1,)]


def test_a_folder_gives_what_it_has_and_names_the_rest(tmp_path: Path) -> None:
    """The league itself may lie in it, and no name is that of all players' logs."""
    folder = tmp_path / "season"
    (folder / "boxes").mkdir(parents=True)
    log(folder / "z.json", *GAME_ROWS)
    box(folder / "boxes" / "2019_03_01.csv", line("C D"))
    (folder / "totals.csv").write_text("slug,games_played\na,1\n")
    (folder / "log.csv").write_text("active,seconds_played,points_scored\nTrue,1,1\n")
    (folder / "notes.txt").write_text("mine")
    for before in (False, True):
        done = prefloop("league", "import", "season", "--into", "season/l.sqlite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "left out: season/totals.csv holds sums of whole seasons" in done.stderr
        assert "left out: season/log.csv is a player's log: import it alone, with --player" in done.stderr
        assert done.stdout.count("imported before") == 2 * before
    assert asked(folder / "l.sqlite", "SELECT COUNT(*) FROM player_box_scores") == [(1,)]
    (folder / "boxes" / "none").mkdir()
    with pytest.raises(DataError, match="boxes/none is a folder without a file that can be read: give game logs"):
        import_files([folder / "boxes" / "none"], tmp_path / "l.sqlite")


def other_database(path: Path, sql: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(sql)
    return path


ONE_GAME = (
    f"{schema.TABLES}; INSERT INTO games (game_id, game_date, season, home_team, away_team, home_score, away_score, "
    "notes) VALUES ('203003010ATL', '2030-03-01', 2030, 'ATL', 'CHI', 1, 2, 'synthetic')"
)


def test_simulated_games_and_foreign_files_in_a_folder_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "season"
    folder.mkdir()
    log(folder / "b.json", *GAME_ROWS)
    other_database(folder / "simulated.sqlite", ONE_GAME)
    other_database(folder / "photos.db", "CREATE TABLE photos (a)")
    (folder / "thumbs.db").write_bytes(b"pictures")
    log(folder / "leaders.json", ["1"], headers=["RANK"])
    found = import_files([folder], tmp_path / "l.sqlite")
    assert [one.path.name for one in found if one.failed] == []
    left = {one.path.name: one.left_out for one in found if one.left_out}
    for name, reason in (
        ("simulated.sqlite", "holds simulated games alone, and a league is made of real ones"),
        ("photos.db", "has no table games"),
        ("thumbs.db", "cannot be read as a SQLite database"),
        ("leaders.json", "is no game log of teams: columns SEASON_ID"),
    ):
        assert left.pop(name).startswith(f"{folder / name} {reason}")
    assert left == {}
    assert asked(tmp_path / "l.sqlite", "SELECT MAX(season) FROM games") == [(2019,)]
    with pytest.raises(DataError, match="holds simulated games alone"):
        import_files([folder / "simulated.sqlite"], tmp_path / "other.sqlite")
    assert not (tmp_path / "other.sqlite").exists()


def test_of_a_mixed_database_the_simulated_games_are_left_out_with_all_their_rows(tmp_path: Path) -> None:
    theirs = other_database(
        tmp_path / "mixed.sqlite",
        f"{ONE_GAME}, ('201903010ATL', '2019-03-01', 2019, 'ATL', 'CHI', 3, 4, 'synthetic overview'); "
        "INSERT INTO player_box_scores (game_id, team, player_name, points, did_not_play) VALUES "
        "('203003010ATL', 'ATL', 'A B', 1, 0), ('201903010ATL', 'ATL', 'C D', 3, 0)",
    )
    (found,) = import_files([theirs], tmp_path / "l.sqlite")
    assert found.report["added"] == {"games": 1, "player_box_scores": 1}
    assert "mixed.sqlite: left out 1 simulated games and all their rows" in found.report["remarks"]
    assert asked(tmp_path / "l.sqlite", "SELECT game_id, player_name FROM player_box_scores") == [
        ("201903010ATL", "C D")
    ]


def test_a_day_that_contradicts_one_file_of_a_folder_stops_before_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "season"
    folder.mkdir()
    log(folder / "b.json", *GAME_ROWS)
    box(folder / "day.csv", line("C D"))
    box(folder / "2019_02_30.csv", line("E F"))  # no day, so the given one holds
    box(folder / "2019_03_02.csv", line("C D"))
    with pytest.raises(ConfigError, match=r"2019_03_02\.csv is of 2019-03-02 by its name, and of 2019-03-01 by --date"):
        import_files([folder], tmp_path / "l.sqlite", Options(date="2019-03-01"))
    with pytest.raises(ConfigError, match="--date is no date"):
        import_files([folder], tmp_path / "l.sqlite", Options(date="March"))
    assert not (tmp_path / "l.sqlite").exists()
    (folder / "2019_03_02.csv").unlink()
    found = import_files([folder], tmp_path / "l.sqlite", Options(date="2019-03-01"))
    assert [(one.path.name, bool(one.failed)) for one in found] == [
        ("b.json", False), ("2019_02_30.csv", False), ("day.csv", False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "rows"), [("", 0), ("a", 0), ("a\n", 0), ("a\rb\rc\r", 2), ("a\r\nb\r\n", 1), ("a\nb", 1)]
)
def test_rows_of_a_table_are_counted_whatever_ends_its_lines(tmp_path: Path, content: str, rows: int) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert row_count(tmp_path / "a.csv") == rows
    (tmp_path / "a.csv").write_bytes(content.encode("utf-16"))
    assert row_count(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "", "holds no row below a line of column names"),
        ("a.csv", "start_time,away_team\n", "holds no row below a line of column names"),
        ("a.csv", "start_time;away_team\nx;y\n", "parts its cells by ';': save it as CSV with commas"),
        ("a.csv", "start_time\taway_team\nx\ty\n", r"parts its cells by '\\t'"),
        ("a.csv.gz", "", "is compressed: unpack it first"),
        ("a.xlsx", "", "is a spreadsheet: save its table as CSV"),
        ("a.json", '{"resultSets": [', r"is no JSON, or cut off \(.*\): fetch it again"),
    ],
)
def test_a_file_that_people_have_in_place_of_the_right_one(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} {reason}|{name} is no file of the NBA's statistics: it {reason}"):
        import_files([tmp_path / name], tmp_path / "l.sqlite")


def test_a_line_of_names_in_the_middle_and_a_cut_end_are_named(tmp_path: Path) -> None:
    league_of(tmp_path, GAME)
    path = box(tmp_path / "2019_03_01.csv", line("C D"))
    text = path.read_text()
    path.write_text(text + text.partition("\n")[0] + "\nA B,x\n")
    (found,) = import_files([path], tmp_path / "l.sqlite")
    assert found.report["added"] == {"player_box_scores": 1}
    assert found.report["bad"] == [
        "2019_03_01.csv, row 3: it is the line of column names once more",
        "2019_03_01.csv, row 4: the row has fewer cells than there are columns: is the file cut off?",
    ]


def test_a_full_disk_leaves_the_league_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    league = league_of(tmp_path, GAME)
    before = league.read_bytes()
    connect = sqlite3.connect

    def small(*arguments: Any, **more: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **more)
        if ".partial" in str(arguments[0]):
            connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    many = [line(f"Player {i}", slug=f"p{i}") for i in range(2_000)]
    with pytest.raises(StoreError, match=r"disk full while writing .*l\.sqlite, which is as before: free some space"):
        import_files([box(tmp_path / "2019_03_01.csv", *many)], league)
    monkeypatch.undo()
    assert league.read_bytes() == before


def test_progress_counts_rows_of_all_files_and_not_those_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Any, ...]] = []

    @contextmanager
    def recorded(*work: Any) -> Iterator[Any]:
        counts: list[int] = []
        yield counts.append
        shown.append((*work, sum(counts)))

    monkeypatch.setattr(files, "progress", recorded)
    games = log(tmp_path / "b.json", *GAME_ROWS)
    boxes = box(tmp_path / "2019_03_01.csv", line("C D"), line("E F"), line("G H", made_field_goals="x"))
    import_files([games], tmp_path / "l.sqlite")
    import_files([games, boxes], tmp_path / "l.sqlite")
    assert shown == [("import", 2, "rows", 0, 2), ("import", 5, "rows", 2, 3)]


def contents(league: Path) -> dict[str, list[Any]]:
    names = ("games", "team_box_scores", "player_box_scores", "game_play_by_play", "imported_files", "imported_games")
    return {name: asked(league, f"SELECT * FROM {name} ORDER BY 1, 2") for name in names}


def start(folder: Path, league: str, files: list[Path]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefloop", "--quiet", "league", "import", *map(str, files), "--into", league]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_import_goes_on_with_the_next_file_and_ends_the_same(tmp_path: Path) -> None:
    files, number = [], 0
    for month in (1, 2, 3, 4, 5, 10, 11, 12):  # a season begins in September
        rows = []
        for day in range(1, 25):
            number += 1
            rows += [
                scheduled(game_id=number, season=2020 if month > 9 else 2019, game_date=f"2019-{month:02}-{day:02}")
            ]
        files.append(table(tmp_path / f"{month:02}.csv", *rows))
    undisturbed = start(tmp_path, "a.sqlite", files)
    assert undisturbed.wait() == 0, undisturbed.stderr.read().decode()
    rng, partly = random.Random(1), 0
    for _ in range(40):
        done = number_of_files(tmp_path / "b.sqlite")
        if done == len(files):
            break
        process = start(tmp_path, "b.sqlite", files)
        wanted = done + rng.randint(2, 4)
        while process.poll() is None and number_of_files(tmp_path / "b.sqlite") < wanted:
            time.sleep(0.002)  # between looks at how far it is; the kill waits for a count of files, not for a time
        process.send_signal(signal.SIGKILL)
        process.wait()
        partly += number_of_files(tmp_path / "b.sqlite") < len(files)
    assert partly >= 2  # it was stopped between files
    finished = number_of_files(tmp_path / "b.sqlite")
    last = start(tmp_path, "b.sqlite", files)
    out = last.communicate()[0].decode()
    assert last.returncode == 0
    assert out.count("imported before, not read again") == finished
    assert contents(tmp_path / "b.sqlite") == contents(tmp_path / "a.sqlite")
    assert not list(tmp_path.glob(".*.partial*"))


def number_of_files(league: Path) -> int:
    return asked(league, "SELECT COUNT(*) FROM imported_files")[0][0] if league.exists() else 0


def test_two_imports_at_once_lose_nothing(tmp_path: Path) -> None:
    files = [
        [
            table(
                tmp_path / f"{half}{i}.csv",
                scheduled(game_id=10 * half + i, season=2020, game_date=f"2019-1{half}-{i + 1:02}"),
            )
            for i in range(4)
        ]
        for half in (0, 1)
    ]
    both = [start(tmp_path, "l.sqlite", half) for half in files]
    assert [process.wait() for process in both] == [0, 0]
    assert asked(tmp_path / "l.sqlite", "SELECT COUNT(*) FROM games") == [(8,)]

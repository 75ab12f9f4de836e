"""Every published kind of file into a league: box scores, logs and play-by-play add up to the games they belong to."""

from __future__ import annotations

import csv
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import ConfigError, DataError
from prefloop.tasks.nba.imports.basketball_reference import read_schedule
from prefloop.tasks.nba.imports.basketball_reference_boxes import read_player_boxes, read_player_log, read_team_boxes
from prefloop.tasks.nba.imports.basketball_reference_events import described
from prefloop.tasks.nba.imports.basketball_reference_events import read_events as read_lines
from prefloop.tasks.nba.imports.events import clock
from prefloop.tasks.nba.imports.franchises import code_from, code_of
from prefloop.tasks.nba.imports.lines import played
from prefloop.tasks.nba.imports.merge import Merged, merge_rows
from prefloop.tasks.nba.imports.pbpstats import read_game_log
from prefloop.tasks.nba.imports.pbpstats_events import read_events
from prefloop.tasks.nba.imports.pbpstats_games import read_box_score, read_summary
from prefloop.tasks.nba.imports.rows import Row
from prefloop.tasks.nba.imports.sources import EVENTS, GAMES, PLAYERS, TEAMS, Options, kind_of, read_source
from prefloop.tasks.nba.teams import teams

DATA = Path(__file__).parents[2] / "shared" / "data" / "nba"
PUBLISHED, STATISTICS = DATA / "bbref-web-scraper", DATA / "pbpstats"
LOG = STATISTICS / "stats_leaguegamelog_nba_2018_19_Regular_Season.json"


def real(test: Any) -> Any:
    """A test of published files."""
    skip = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not beside the checkout")
    return pytest.mark.shared_data(skip(test))


def asked(league: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(league)) as connection:
        return connection.execute(sql).fetchall()


def game(day: str, home: str, away: str, scores: tuple[int, int], season: int, overtimes: int | None = None) -> Row:
    values = {
        "game_id": f"{day.replace('-', '')}0{home}", "game_date": day, "season": season, "home_team": home,
        "away_team": away, "home_score": scores[0], "away_score": scores[1], "num_overtime_periods": overtimes,
    }  # fmt: skip
    return Row("games", values, "hand", 1)


def league_of(tmp_path: Path, *games: Row) -> Path:
    merge_rows(games, tmp_path / "l.sqlite")
    return tmp_path / "l.sqlite"


def clean(found: Merged) -> Merged:
    assert (found.bad, found.waiting, found.contradictions) == ([], [], [])
    return found


MADE_SUM = """
SELECT SUM((shot_type = '2PT') * 2 + (shot_type = '3PT') * 3 + (shot_type = 'FT')) FROM game_play_by_play
WHERE shot_made AND game_id = '{}' GROUP BY offensive_team ORDER BY offensive_team"""
"""Points of both teams by the kinds of the shots they made."""


# Basketball-Reference


@real
def test_a_day_of_player_boxes_adds_up_to_its_games(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    merge_rows(read_schedule(PUBLISHED / "2001_season_schedule.csv"), league)
    found = clean(merge_rows(read_player_boxes(PUBLISHED / "2001_01_01_player_box_scores.csv"), league))
    assert found.added == {"player_box_scores": 39}
    sums = "SELECT game_id, team, SUM(points), SUM(minutes_decimal) FROM player_box_scores GROUP BY 1, 2 ORDER BY 1, 2"
    assert [(name, team, points) for name, team, points, _ in asked(league, sums)] == [
        ("200101010MIN", "HOU", 96), ("200101010MIN", "MIN", 106),
        ("200101010POR", "CHH", 67), ("200101010POR", "POR", 89),
    ]  # fmt: skip
    assert all(abs(minutes - 240) < 1 for *_, minutes in asked(league, sums))
    line = "SELECT player_slug, minutes_played, minutes_decimal, points, total_rebounds, game_score, double_double, is_starter FROM player_box_scores"
    assert asked(league, f"{line} WHERE player_name = 'Kevin Garnett'") == [
        ("garneke01", "36:37", 36.6, 21, 9, 18.3, 0, None)  # 2197 s; 2 · 7 + 7; 2 + 7
    ]


@real
def test_a_day_of_team_boxes_finds_its_games_and_their_overtimes(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    merge_rows(read_schedule(PUBLISHED / "2018_season_schedule.csv"), league)
    found = clean(merge_rows(read_team_boxes(PUBLISHED / "2018_01_01_team_box_scores.csv"), league))
    assert (found.added, found.known, found.filled) == ({"team_box_scores": 8}, {}, {"games": 4})
    assert asked(
        league,
        "SELECT t.game_id, t.team, is_home, points, num_overtime_periods, total_rebounds, has_basic_stats FROM team_box_scores t "
        "JOIN games USING (game_id) WHERE t.game_id = '201801010TOR' ORDER BY t.team",
    ) == [("201801010TOR", "MIL", 0, 127, 1, 43, 1), ("201801010TOR", "TOR", 1, 131, 1, 40, 1)]
    assert asked(league, "SELECT COUNT(*) FROM games WHERE num_overtime_periods IS NOT NULL") == [(4,)]


@real
def test_a_players_log_with_games_he_missed(tmp_path: Path) -> None:
    league = tmp_path / "l.sqlite"
    merge_rows(read_game_log(LOG), league)
    short, whole = (PUBLISHED / f"test-avery-2019{part}.csv" for part in ("", "-include-inactive"))
    assert clean(merge_rows(read_player_log(short, "Avery Bradley"), league)).added == {"player_box_scores": 63}
    found = clean(merge_rows(read_player_log(whole, "Avery Bradley"), league))
    assert (found.added, found.known) == ({"player_box_scores": 18}, {"player_box_scores": 63})
    assert asked(league, "SELECT COUNT(*), SUM(did_not_play), AVG(did_not_play = 0) FROM player_box_scores") == [
        (81, 18, 63 / 81)
    ]
    missed = "SELECT DISTINCT points, minutes_decimal, assists, dnp_reason FROM player_box_scores WHERE did_not_play"
    assert asked(league, missed) == [(0, 0.0, None, "Inactive")]
    teams = "SELECT team, COUNT(*) FROM player_box_scores GROUP BY team ORDER BY team"
    assert asked(league, teams) == [("LAC", 55), ("MEM", 26)]
    with pytest.raises(DataError, match="--player"):
        list(read_player_log(short, None))
    with pytest.raises(DataError, match="its game 201904130TOR is not in the league: import the schedule"):
        merge_rows(read_player_log(PUBLISHED / "test-kawhi-playoffs-2019.csv", "Kawhi Leonard"), league)


@real
def test_a_log_of_the_playoffs_that_ended_in_october(tmp_path: Path) -> None:
    league = league_of(tmp_path, game("2020-09-12", "LAL", "HOU", (119, 96), 2020))
    log = PUBLISHED / "test-westbrook-playoffs-2020-include-inactive.csv"
    found = merge_rows(read_player_log(log, "Russell Westbrook"), league)
    assert (found.added, len(found.waiting), found.bad) == ({"player_box_scores": 1}, 11, [])
    assert asked(league, "SELECT team, points, plus_minus FROM player_box_scores") == [("HOU", 10, -23)]


@real
@pytest.mark.parametrize(
    ("name", "row", "events", "last"),
    [
        ("2003_10_29_TOR_pbp.csv", game("2003-10-29", "TOR", "NJN", (90, 87), 2004), 447, 4),
        ("2018_10_16_BOS_pbp.csv", game("2018-10-16", "BOS", "PHI", (105, 87), 2019), 480, 4),
        ("2018_10_22_POR_pbp.csv", game("2018-10-22", "POR", "WAS", (124, 125), 2019), 561, 5),
    ],
)
def test_play_by_play_reaches_the_score(tmp_path: Path, name: str, row: Row, events: int, last: int) -> None:
    league = league_of(tmp_path, row)
    found = clean(merge_rows(read_lines(PUBLISHED / name), league))
    assert found.added == {"game_play_by_play": events}
    assert asked(league, "SELECT COUNT(*) FROM game_play_by_play WHERE event_type = 'other'") == [(0,)]
    ends = "SELECT home_score, away_score, quarter FROM game_play_by_play ORDER BY event_number DESC LIMIT 1"
    assert asked(league, ends) == [(row.values["home_score"], row.values["away_score"], last)]
    sums = [(row.values["home_score"]), (row.values["away_score"])]
    codes = [row.values["home_team"], row.values["away_team"]]
    wanted = [(points,) for _, points in sorted(zip(codes, sums, strict=True))]
    assert asked(league, MADE_SUM.format(row.values["game_id"])) == wanted
    order = [n for (n,) in asked(league, "SELECT time_elapsed_seconds FROM game_play_by_play ORDER BY event_number")]
    assert order == sorted(order)
    assert clean(merge_rows(read_lines(PUBLISHED / name), league)).known == {"game_play_by_play": events}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("V. Carter misses 2-pt jump shot from 8 ft", ("shot", "V. Carter", None, 0, "2PT", 8)),
        ("J. Layman makes 2-pt dunk at rim (assist by D. Lillard)", ("shot", "J. Layman", "D. Lillard", 1, "2PT", 0)),
        (
            "D. Lillard misses 3-pt layup from 3 ft (block by O. Porter)",
            ("shot", "D. Lillard", "O. Porter", 0, "3PT", 3),
        ),
        ("D. Šarić makes free throw 2 of 2", ("free throw", "D. Šarić", None, 1, "FT", None)),
        ("J. Kidd misses technical free throw", ("free throw", "J. Kidd", None, 0, "FT", None)),
        ("Offensive rebound by Team", ("rebound", None, None, None, None, None)),
        (
            "Turnover by A. Horford (bad pass; steal by M. Fultz)",
            ("turnover", "A. Horford", "M. Fultz", None, None, None),
        ),
        ("Shooting foul by A. Baynes (drawn by J. Embiid)", ("foul", "A. Baynes", "J. Embiid", None, None, None)),
        ("Def 3 sec tech foul by Team", ("foul", None, None, None, None, None)),
        ("Defensive three seconds by D. Šarić", ("foul", "D. Šarić", None, None, None, None)),
        ("M. Smart enters the game for J. Brown", ("substitution", "M. Smart", "J. Brown", None, None, None)),
        ("New Jersey 20 second timeout", ("timeout", None, None, None, None, None)),
        ("The lights went out", ("other", None, None, None, None, None)),
    ],
)
def test_lines_of_play(text: str, wanted: tuple[Any, ...]) -> None:
    found = described(text)
    names = ("event_type", "primary_player", "secondary_player", "shot_made", "shot_type", "shot_distance")
    assert tuple(found.get(name) for name in names) == wanted


def test_the_clock() -> None:
    assert clock(1, 720) == {"quarter": 1, "time_remaining": "12:00", "time_elapsed_seconds": 0}
    assert clock(4, 0.1) == {"quarter": 4, "time_remaining": "0:00", "time_elapsed_seconds": 2880}
    assert clock(6, 0) == {"quarter": 6, "time_remaining": "0:00", "time_elapsed_seconds": 3480}


# The NBA's statistics


@real
def test_a_game_by_summary_box_score_and_play_by_play(tmp_path: Path) -> None:
    league, box = tmp_path / "l.sqlite", STATISTICS / "stats_boxscore_0021600270.json"
    with pytest.raises(DataError, match="no game of the league is called 0021600270 by nba"):
        merge_rows(read_box_score(box), league)
    clean(merge_rows(read_summary(STATISTICS / "stats_summary_0021600270.json"), league))
    shown = "SELECT game_id, season, game_type, home_score, away_score, num_overtime_periods, attendance, duration, officials FROM games"
    assert asked(league, shown) == [
        ("201611300OKC", 2017, "Regular Season", 126, 115, 1, 18203, "2:38", "Tony Brown, Brian Forte, Curtis Blair")
    ]
    found = clean(merge_rows(read_box_score(box), league))
    assert found.added == {"team_box_scores": 2, "player_box_scores": 19}
    sums = "SELECT team, SUM(points), SUM(total_rebounds), SUM(turnovers), ROUND(SUM(minutes_decimal)), SUM(is_starter) FROM player_box_scores WHERE NOT did_not_play GROUP BY team"
    assert asked(league, sums) == [("OKC", 126, 47, 13, 265, 5), ("WAS", 115, 48, 11, 265, 5)]
    assert asked(league, "SELECT COUNT(*) FROM player_box_scores WHERE dnp_reason = 'Inactive'") == [(4,)]
    westbrook = "SELECT minutes_played, points, plus_minus, triple_double, position FROM player_box_scores WHERE player_slug = 'nba201566'"
    assert asked(league, westbrook) == [("41:07", 35, 4, 1, "G")]
    events = clean(merge_rows(read_events(STATISTICS / "pbp_stats_0021600270.json"), league))
    assert events.added == {"game_play_by_play": 540}
    assert asked(league, MADE_SUM.format("201611300OKC")) == [(126,), (115,)]
    by_player = """
        SELECT COUNT(*) FROM player_box_scores p WHERE NOT did_not_play AND points <> (
        SELECT COALESCE(SUM((shot_type = '2PT') * 2 + (shot_type = '3PT') * 3 + (shot_type = 'FT')), 0)
        FROM game_play_by_play e WHERE shot_made AND primary_player = player_name)"""
    assert asked(league, by_player) == [(0,)]
    again = merge_rows(read_box_score(box, date="2016-11-30"), league)
    assert (clean(again).added, again.known) == ({}, {"team_box_scores": 2, "player_box_scores": 19})


@real
def test_box_scores_of_a_day_that_is_given(tmp_path: Path) -> None:
    league = league_of(tmp_path, game("2022-01-26", "POR", "DAL", (112, 132), 2022, 0))
    found = clean(merge_rows(read_box_score(STATISTICS / "stats_boxscore_0022100732.json", date="2022-01-26"), league))
    assert found.added == {"team_box_scores": 2, "player_box_scores": 22}
    for read in (read_box_score, read_events):
        with pytest.raises(ConfigError, match="--date is no date like 2019-03-01"):
            list(
                read(
                    STATISTICS / f"{'stats_boxscore' if read is read_box_score else 'pbp_stats'}_0021600270.json",
                    "1 March",
                )
            )
    opening = league_of(tmp_path, game("2019-10-22", "TOR", "NOP", (130, 122), 2020, 1))
    events = STATISTICS / "pbp_stats_0021900001.json"
    assert clean(merge_rows(read_events(events, date="2019-10-22"), opening)).added == {"game_play_by_play": 573}
    assert asked(league, MADE_SUM.format("201910220TOR")) == [(122,), (130,)]


def player(name: str, team: str, points: int, slug: str | None = None) -> Row:
    line = played({"points": points}, 600, None, None)
    return Row("player_box_scores", {"game_id": "201810160BOS", "team": team, "player_name": name,
                                     "player_slug": slug, **line}, "box", 1)  # fmt: skip


def events(*named: tuple[str, str | None]) -> list[Row]:
    """Of a game by hand: who did it, and who took part."""
    when = clock(1, 600)
    return [
        Row("game_play_by_play", {"game_id": "201810160BOS", "event_number": i, **when, "description": f"by {who}",
                                  "primary_player": who, "secondary_player": other}, "pbp", i)
        for i, (who, other) in enumerate(named, 1)
    ]  # fmt: skip


@pytest.mark.parametrize("first", ["box scores", "events"])
def test_short_names_are_those_of_the_games_own_box_scores(tmp_path: Path, first: str) -> None:
    """Whichever comes first. Two players J. Green were there, nobody A. Nobody; the text stays as it was."""
    league = league_of(tmp_path, game("2018-10-16", "BOS", "PHI", (50, 40), 2019, 0))
    boxes = [
        player("Jayson Tatum", "BOS", 30), player("Otto Porter Jr.", "BOS", 12), player("JaMychal Green", "BOS", 8),
        player("Luka Dončić", "PHI", 25), player("Jeff Green", "PHI", 15),
    ]  # fmt: skip
    plays = events(("J. Tatum", "O. Porter"), ("J. Green", "J. Tatum"), ("L. Doncic", None), ("A. Nobody", "Team"))
    sources = [boxes, plays] if first == "box scores" else [plays, boxes]
    one = clean(merge_rows(sources[0], league))
    assert one.remarks == (
        []
        if first == "box scores"
        else ["pbp: events of 1 games have players' initials: import both teams' box scores for full names"]
    )
    two = clean(merge_rows(sources[1], league))
    file = sources[1][0].file
    assert two.remarks == [
        f"{file}: 3 players' short names in events are full now, by their games' box scores",
        f"{file}: 2 stay short: none or several of the game's players have them",
    ]
    found = "SELECT primary_player, secondary_player, description FROM game_play_by_play ORDER BY event_number"
    named = [
        ("Jayson Tatum", "Otto Porter Jr.", "by J. Tatum"), ("J. Green", "Jayson Tatum", "by J. Green"),
        ("Luka Dončić", None, "by L. Doncic"), ("A. Nobody", "Team", "by A. Nobody"),
    ]  # fmt: skip
    assert asked(league, found) == named
    again = clean(merge_rows(plays, league))  # nothing contradicts, nothing changes
    assert (again.known, again.added, again.remarks) == ({"game_play_by_play": 4}, {}, [])
    assert asked(league, found) == named


@pytest.mark.parametrize(
    "boxes",
    [
        [player("Jayson Tatum", "BOS", 50)],
        [player("Jayson Tatum", "BOS", 49), player("Jeff Green", "PHI", 40)],
        [player("Jayson Tatum", "BOS", 50, "synthetic-bos-1"), player("Jeff Green", "PHI", 40, "synthetic-phi-1")],
    ],
    ids=["one team", "not all points", "invented"],
)
def test_names_stay_short_where_not_all_players_are_known(tmp_path: Path, boxes: list[Row]) -> None:
    league = league_of(tmp_path, game("2018-10-16", "BOS", "PHI", (50, 40), 2019, 0))
    with closing(sqlite3.connect(league)) as connection, connection:  # a real row would drive invented ones out
        for row in boxes:
            names = ", ".join(row.values)
            marks = ", ".join("?" * len(row.values))
            connection.execute(f"INSERT INTO player_box_scores ({names}) VALUES ({marks})", list(row.values.values()))
    merge_rows(events(("J. Tatum", None)), league)
    assert asked(league, "SELECT primary_player FROM game_play_by_play") == [("J. Tatum",)]


@real
def test_every_player_of_a_published_play_by_play_gets_the_name_of_a_box_score_that_adds_up(tmp_path: Path) -> None:
    """The box score is made of the play-by-play itself: points by initial and surname, given names put in front."""
    league = league_of(tmp_path, game("2018-10-16", "BOS", "PHI", (105, 87), 2019, 0))
    clean(merge_rows(read_lines(PUBLISHED / "2018_10_16_BOS_pbp.csv"), league))
    worth = "CASE shot_type WHEN '3PT' THEN 3 WHEN '2PT' THEN 2 ELSE 1 END * COALESCE(shot_made, 0)"
    points = asked(
        league,
        f"SELECT primary_player, MAX(offensive_team), SUM({worth}) FROM game_play_by_play "
        "WHERE event_type IN ('shot', 'free throw') GROUP BY 1",
    )
    assert {team: sum(n for _, of, n in points if of == team) for team in ("BOS", "PHI")} == {"BOS": 105, "PHI": 87}
    full = {name: f"{name[0]}given{name[2:]}" for name, _, _ in points}
    boxes = [player(full[name], team, n) for name, team, n in points]
    clean(merge_rows(boxes, league))
    by_name = "SELECT primary_player, COUNT(*) FROM game_play_by_play WHERE event_type = 'shot' GROUP BY 1"
    assert {name for name, _ in asked(league, by_name)} <= set(full.values())


def test_season_totals_and_unknown_tables_are_named(tmp_path: Path) -> None:
    for columns in ("slug,games_played", "team,wins,losses"):
        (tmp_path / "totals.csv").write_text(f"{columns}\n{columns}\n")
        with pytest.raises(DataError, match="holds sums of whole seasons"):
            read_source(tmp_path / "totals.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"has columns a, b: give .* --mapping FILE says what they mean"):
        read_source(tmp_path / "other.csv", Options())


@real
def test_every_published_file_is_read_or_refused_with_its_reason() -> None:
    kinds: dict[str, list[str]] = {}
    for path in sorted(DATA.rglob("*.*")):
        if path.suffix in (".csv", ".json"):
            try:
                found = kind_of(path, Options(player="x")).rank
                kinds.setdefault(str(found), []).append(path.name)
            except DataError as error:
                kinds.setdefault(re.search(r"sums of whole seasons|has columns", str(error))[0], []).append(path.name)
    assert {reason: len(names) for reason, names in kinds.items()} == {
        str(GAMES): 4, str(TEAMS): 1, str(PLAYERS): 7, str(EVENTS): 5, "sums of whole seasons": 24, "has columns": 3,
    }  # fmt: skip
    with pytest.raises(DataError, match="has no table games"):
        list(read_source(DATA / "llama-cookbook" / "nba_roster.db"))


@real
def test_published_teams_have_one_code_by_name_and_by_abbreviation() -> None:
    with (DATA / "nba_api-static" / "teams.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 30
    assert {code_from(row["abbreviation"], 2019) for row in rows} == {team.code for team in teams()}
    assert all(code_from(row["abbreviation"], 2019) == code_of(row["full_name"], 2019) for row in rows)
    assert code_of("LA Clippers", 2019) == "LAC"


def test_a_line_by_hand() -> None:
    counts = {
        "field_goals_made": 8, "field_goals_attempted": 18, "three_pointers_made": 2, "three_pointers_attempted": 5,
        "free_throws_made": 4, "free_throws_attempted": 4, "offensive_rebounds": 1, "defensive_rebounds": 9,
        "assists": 10, "steals": 2, "blocks": 0, "turnovers": 3, "personal_fouls": 2,
    }  # fmt: skip
    found = played(counts, 2202, 5, True)
    # 22 + 0.4·8 − 0.7·18 − 0.4·0 + 0.7·1 + 0.3·9 + 2 + 0.7·10 + 0 − 0.4·2 − 3 = 21.2
    shown = (
        "points",
        "total_rebounds",
        "minutes_played",
        "minutes_decimal",
        "game_score",
        "triple_double",
        "is_starter",
    )
    assert [found[name] for name in shown] == [22, 10, "36:42", 36.7, 21.2, 1, 1]

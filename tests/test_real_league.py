"""Questions and runs on a league of one's own: what it holds is asked, what it lacks is not, and nothing is right twice."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command_line import prefloop

from prefloop.annotation import open as annotation_open
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import DataError
from prefloop.progress import set_quiet
from prefloop.store.files import read_json
from prefloop.tasks.nba import task
from prefloop.tasks.nba.league import LeagueConfig, build_league
from prefloop.tasks.nba.questions.grammar import INTENTS, SHARES, Question, askable, draw_family, draw_question
from prefloop.tasks.nba.questions.scope import Calendar, draw_scope
from prefloop.tasks.nba.questions.worlds import LeagueWorld
from prefloop.tasks.nba.real import origin, real_databases, variant_of
from prefloop.tasks.nba.task import team_words

SMALL = (
    "--set task.train_questions=12 --set task.test_questions=10 --set generation.k=4 --set training.epochs=1"
    " --set evaluation.sampled_questions=4 --set evaluation.samples=2 --set evaluation.bootstrap=200 --set threads=1"
).split()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other people, other results than the task's own leagues; two seasons, one name with an accent and an apostrophe."""
    path = tmp_path_factory.mktemp("real") / "real.sqlite"
    build_league(LeagueConfig(universe_seed=11, play_seed=3, seasons=(2018, 2019), games=300), path)
    with closing(sqlite3.connect(path)) as connection, connection:
        (name,) = connection.execute(
            "SELECT player_name FROM player_box_scores GROUP BY 1 ORDER BY SUM(points) DESC"
        ).fetchone()
        changed = ("Zoë O'Năl", "onaz01", name)
        connection.execute(
            "UPDATE player_box_scores SET player_name = ?, player_slug = ? WHERE player_name = ?", changed
        )
        connection.execute("UPDATE games SET notes = NULL")
    return path


@pytest.fixture
def league(built: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copy(built, tmp_path / "own.sqlite"))


def change(league: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(league)) as connection, connection:
        for statement in statements:
            connection.execute(statement)
    return league


def rows(league: Path, sql: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(league)) as connection:
        return connection.execute(sql).fetchall()


def drawn(world: LeagueWorld, count: int = 400, seed: int = 1) -> list[Question]:
    rng, shares = np.random.default_rng(seed), askable(world)
    return [draw_question(rng, draw_family(rng, shares), world, team_words(world.names)) for _ in range(count)]


def test_the_questions_are_about_this_league(built: Path) -> None:
    prompts = task.train_prompts(
        NbaTaskConfig(database=str(built), train_questions=80), task.judge_databases(str(built)), 2, 1, ()
    ).prompts
    assert len(prompts) == 80
    players = {name for (name,) in rows(built, "SELECT DISTINCT player_name FROM player_box_scores")}
    simulated = {
        name for (name,) in rows(task.judge_databases()[0], "SELECT DISTINCT player_name FROM player_box_scores")
    }
    asked = {name for name in players for prompt in prompts if name in prompt.meta["question"]}
    assert len(asked) > 20
    assert not any(name in prompt.meta["question"] for name in simulated - players for prompt in prompts)
    golds = [prompt.meta["gold_sql"] for prompt in prompts if prompt.meta["gold_sql"]]
    years = {year for gold in golds for year in range(1990, 2031) if f"season = {year}" in gold}
    assert years == {2018, 2019}
    with closing(sqlite3.connect(built)) as connection:
        for gold in golds:
            (first, *_) = connection.execute(gold).fetchall()
            assert any(cell is not None for cell in first), gold


def test_a_league_without_players_or_plays_is_asked_about_its_teams(league: Path) -> None:
    change(
        league,
        "DELETE FROM player_box_scores",
        "DELETE FROM game_play_by_play",
        "UPDATE games SET has_play_by_play = 0",
    )
    world = LeagueWorld(league, measured=True)
    assert set(askable(world)) == {"A", "B", "C", "H", "J", "N"}
    for question in drawn(world):
        sql = question.query.sql() if question.query else ""
        assert "player" not in sql
        assert "game_play_by_play" not in sql
        assert question.intent != "record_without"
    assert {q.family for q in drawn(world)} == set(askable(world))
    found = task.test_prompts(
        NbaTaskConfig(database=str(league), test_questions=60), task.judge_databases(str(league)), 2
    )
    assert len(found.prompts) == 60


def test_what_is_not_known_is_not_asked(league: Path) -> None:
    """Overtimes of one game unknown: no count of them is right. A season without players' rows has no leaders."""
    change(
        league,
        "UPDATE games SET num_overtime_periods = NULL WHERE game_id = (SELECT MIN(game_id) FROM games)",
        "DELETE FROM player_box_scores WHERE game_id IN (SELECT game_id FROM games WHERE season = 2018)",
    )
    world = LeagueWorld(league, measured=True)
    for question in drawn(world, 800):
        sql = question.query.sql() if question.query else ""
        assert "num_overtime_periods" not in sql
        if "player_box_scores" in sql and "NOT EXISTS" not in sql:
            assert "season = 2018" not in sql
            assert "MAX(season) FROM games) - 1" not in sql
    assert world.calendar("players").years == (2019,)
    assert world.calendar("").years == (2018, 2019)


def test_a_calendar_says_only_what_there_is() -> None:
    """By hand: one season has no last one and no career, and months come from the games."""
    alone = Calendar((2019,), (11, 12), playoffs=False)
    assert set(alone.forms) == {"", "label", "end", "this"}
    assert set(Calendar((2001, 2018)).forms) == {"", "label", "end", "this", "career"}  # 2017 is not there
    rng = np.random.default_rng(1)
    scopes = [draw_scope(rng, "scpovmrw", alone, "BOS", ["BOS", "NYK"]) for _ in range(500)]
    assert {scope.year for scope in scopes} == {0, 2019}
    assert {scope.month for scope in scopes} == {0, 11, 12}
    assert {scope.phase for scope in scopes} == {"", "regular"}
    assert {scope.opponent for scope in scopes} == {"", "NYK"}


def test_thresholds_are_the_leagues_own(league: Path) -> None:
    """By hand: points 0 to 99 once each, so quantiles 0.5, 0.7, 0.85, 0.94, 0.98 are 49.5, 69.3, 84.15, 93.06, 97.02."""
    change(
        league,
        "UPDATE player_box_scores SET did_not_play = 1",
        "UPDATE player_box_scores SET did_not_play = 0, total_rebounds = 7, assists = 0, points = ("
        "SELECT COUNT(*) FROM player_box_scores b WHERE b.id < player_box_scores.id AND b.id IN ("
        "SELECT id FROM player_box_scores ORDER BY id LIMIT 100)) "
        "WHERE id IN (SELECT id FROM player_box_scores ORDER BY id LIMIT 100)",
    )
    change(league, "UPDATE player_box_scores SET player_name = 'A B', player_slug = 'ab' WHERE did_not_play = 0")
    found = LeagueWorld(league, measured=True).thresholds
    assert found.single["points"] == (50, 70, 85, 95)  # 93.06 and 97.02 are both nearest to 95
    assert found.league == (85, 95, 100)  # 98.5 rounds to 100
    assert found.points == (50, 70, 85)
    assert found.single["total_rebounds"] == (7,)
    assert found.single["assists"] == (1,)  # at least 0 would ask for every game
    assert found.beside == (("total_rebounds", 7), ("assists", 1))


def test_the_simulated_leagues_keep_their_questions(leagues: list[Path]) -> None:
    """Everything is known there, and thresholds are the fixed ones: shipped figures rest on these questions."""
    world = LeagueWorld(leagues[0])
    assert askable(world) == SHARES
    assert all(world.knows(intent.needs) for intent in INTENTS)
    assert world.calendar("players") == world.calendar("") == Calendar((2022, 2023, 2024))


def test_a_variant_keeps_rows_whole_and_changes_the_answers(built: Path) -> None:
    copy = real_databases(built)[0]
    other = variant_of(copy)
    games = "SELECT game_id, game_date, season, home_team, away_team, game_type FROM games"
    assert set(rows(other, games)) < set(rows(copy, games))
    before, after = (rows(path, "SELECT COUNT(*) FROM games")[0][0] for path in (copy, other))
    assert after == before - before // 10
    for side, flag in (("home", 1), ("away", 0)):  # score and team row are still of one game
        wrong = f"SELECT COUNT(*) FROM games g JOIN team_box_scores t USING (game_id) WHERE t.is_home = {flag} AND t.points <> g.{side}_score"
        assert rows(copy, wrong) == rows(other, wrong) == [(0,)]
    shots = "SELECT COUNT(*) FROM player_box_scores WHERE points <> 2 * field_goals_made + three_pointers_made + free_throws_made"
    assert rows(other, shots) == [(0,)]
    who = "SELECT game_id, player_name, player_slug, team, did_not_play FROM player_box_scores"
    assert set(rows(other, who)) < set(rows(copy, who))
    orphans = "SELECT COUNT(*) FROM {} WHERE game_id NOT IN (SELECT game_id FROM games)"
    for table in ("team_box_scores", "player_box_scores", "game_play_by_play"):
        assert rows(other, orphans.format(table)) == [(0,)]
    golds = [q.query.sql() for q in drawn(LeagueWorld(copy, measured=True), 300) if q.query and q.family in "CDEFJ"]
    same = sum(rows(copy, gold) == rows(other, gold) for gold in golds)
    assert same / len(golds) < 0.35  # what is left are small counts
    assert variant_of(copy) == other
    assert other.read_bytes() == _again(copy)


def _again(copy: Path) -> bytes:
    """The variant, made once more."""
    moved = Path(shutil.copy(copy, copy.with_name("again.sqlite")))
    return variant_of(moved).read_bytes()


def test_teams_that_are_no_more_have_words() -> None:
    words = team_words({"SEA": "Seattle Supersonics", "LAL": "Los Angeles Lakers", "XYZ": "Nameless"})
    assert words["SEA"] == ("SEA", "Supersonics", "Seattle")
    assert words["LAL"] == ("LAL", "Lakers", "Lakers")  # two teams in town
    assert words["XYZ"] == ("XYZ", "XYZ", "XYZ")
    assert words["POR"] == ("POR", "Trail Blazers", "Portland")


def test_its_origin_is_said(league: Path) -> None:
    (games,) = rows(league, "SELECT COUNT(*) FROM games")[0]
    assert (
        origin(league)
        == f"Questions about {games} games of own.sqlite (seasons 2018, 2019, end years); its own terms hold."
    )
    change(league, "UPDATE games SET notes = 'synthetic' WHERE rowid <= 7")
    assert origin(league).endswith(" its own terms hold. 7 of the games are simulated.")


def test_invented_players_are_said_wherever_they_are_asked_about(
    league: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the team's questions say so; a league is opened, and said, once in a process."""
    change(
        league,
        "UPDATE games SET notes = 'synthetic player rows'",
        "UPDATE player_box_scores SET player_slug = 'synthetic-' || player_slug",
    )
    said = f"In {rows(league, 'SELECT COUNT(*) FROM games')[0][0]:,} games"
    set_quiet(False)
    databases = task.judge_databases(str(league))
    assert f"{said} of {league} the players and their figures are synthetic." in capsys.readouterr().err
    set_quiet(True)
    assert f"{said} the players and their figures are synthetic; scores and teams' figures are not." in origin(league)
    asked = task.train_prompts(NbaTaskConfig(database=str(league), train_questions=60), databases, 2, 1, ()).prompts
    marked = {"synthetic" in prompt.meta: prompt for prompt in asked}
    assert set(marked) == {True, False}
    for prompt in asked:
        about_players = "player_box_scores" in (prompt.meta["gold_sql"] or "")
        assert (prompt.meta.get("synthetic") == "players") is about_players


def test_a_season_of_which_little_is_known_is_no_season(league: Path) -> None:
    """One game in nine without players' rows is one in nine too many; one in eleven is not."""
    seasons = [year for (year,) in rows(league, "SELECT DISTINCT season FROM games ORDER BY 1")]
    for share, known in ((11, tuple(seasons)), (9, (2019,))):
        change(
            league,
            "DELETE FROM player_box_scores WHERE game_id IN (SELECT game_id FROM (SELECT game_id, "
            "ROW_NUMBER() OVER (ORDER BY game_id) AS n FROM games WHERE season = 2018 AND game_type = 'Regular Season') "
            f"WHERE n % {share} = 0)",
        )
        assert LeagueWorld(league, measured=True).calendar("players").years == known


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (
            "DELETE FROM team_box_scores WHERE game_id IN "
            "(SELECT game_id FROM games WHERE season = 2019 ORDER BY game_id LIMIT 40)",
            "season 2019, its latest, and team box scores of less than 90%",
        ),
        ("UPDATE games SET game_type = 'Playoffs'", "no regular-season game to ask about"),
        (
            "UPDATE games SET game_type = NULL WHERE season = 2019",
            "no regular-season game of season 2019, its latest, whose games are of unknown phase: .*import its game log",
        ),
        (
            "UPDATE games SET game_type = 'Playoffs' WHERE season = 2019",
            "no regular-season game of season 2019, its latest, whose games are Playoffs: ",
        ),
    ],
)
def test_a_league_that_cannot_be_asked_about_is_refused(league: Path, statement: str, says: str) -> None:
    change(league, statement)
    with pytest.raises(DataError, match=says):
        LeagueWorld(league, measured=True)
    with pytest.raises(DataError, match=f"{league} has .*{says}"):  # the file, not the cache's copy of it
        task.train_prompts(NbaTaskConfig(database=str(league)), task.judge_databases(str(league)), 1, 1, ())


def test_mistakes_are_named(league: Path, tmp_path: Path) -> None:
    done = prefloop("run", "nba-sql", "--database", tmp_path / "gone.sqlite", "--out", tmp_path / "r", *SMALL)
    assert done.returncode == 3
    assert "gone.sqlite does not exist" in done.stderr
    change(league, "ALTER TABLE games DROP COLUMN attendance")
    done = prefloop("run", "nba-sql", "--database", league, "--out", tmp_path / "r", *SMALL)
    assert "its table games has no column attendance" in done.stderr
    assert not (tmp_path / "r" / "recipe.json").exists()
    done = prefloop("run", "nba-sql", "--database", league, "--set", "task.database=x", "--out", tmp_path / "r")
    assert "give one" in done.stderr


def test_a_whole_run_on_it_and_its_database_may_not_change(league: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    done = prefloop("run", "nba-sql", "--database", league, "--out", run, "--json", *SMALL)
    assert done.returncode == 0, done.stderr
    assert read_json(run / "recipe.json")["recipe"]["task"]["database"] == str(league)
    origin_said = read_json(run / "stages" / "origin.json")
    assert "own.sqlite" in origin_said
    assert origin_said in (run / "report.html").read_text()
    assert annotation_open._asked(str(run)) == {"sql": str(league)}
    asked = prefloop("ask", "lakers record in 2018", "--run", run, "--json")  # of the run's own league
    assert asked.returncode == 0, asked.stderr
    assert {reply["policy"] for reply in json.loads(asked.stdout)} == {"before", "after"}
    assert any(sum(reply["result"]["rows"][0]) > 5 for reply in json.loads(asked.stdout) if reply["result"]["rows"])
    files = (run / "prompts.parquet", run / "completions.parquet")
    judged = prefloop("judge", *files, "--out", tmp_path / "j.parquet")
    assert judged.returncode == 2
    assert "the questions are about own.sqlite" in judged.stderr
    assert prefloop("judge", *files, "--database", league, "--out", tmp_path / "j.parquet").returncode == 0
    evaluated = prefloop("evaluate", "--prompts", files[0], "--out", tmp_path / "e")
    assert "give it by --database" in evaluated.stderr
    page = (run / "report.html").read_bytes()
    assert prefloop("report", run, "--out", tmp_path / "again.html").returncode == 0
    assert (tmp_path / "again.html").read_bytes() == page

    change(league, "UPDATE games SET attendance = 1")
    again = prefloop("run", "nba-sql", "--database", league, "--out", run, "--resume", *SMALL)
    assert again.returncode == 5
    assert "differs in database" in again.stderr
    again = prefloop("report", run, "--out", tmp_path / "later.html")
    assert "has changed since the run" in again.stderr

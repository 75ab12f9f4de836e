"""The grammar: gold SQL that runs, faults that change it, plans that agree with it, templates held out by hash."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from prefloop.config.tasks import NbaTaskConfig
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.tasks.nba import task
from prefloop.tasks.nba.answers import is_refusal, plan_of, render_answer
from prefloop.tasks.nba.claims import plan_agreement, plan_claims, query_claims
from prefloop.tasks.nba.corpus import draw_examples, fault_counts
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.grammar import INTENTS, SHARES, Question, draw_family, draw_question
from prefloop.tasks.nba.questions.query import FAULTS, Clause, Query, applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import LeagueWorld, OpenWorld
from prefloop.tasks.nba.seed_pairs import SEED_PAIRS
from prefloop.tasks.nba.task import team_words, train_prompts
from prefloop.tasks.nba.teams import teams
from prefloop.tasks.nba.text import normalised

SMALL = NbaTaskConfig(train_questions=60, test_questions=60)
CODES = sorted(team.code for team in teams())


def draw(world: LeagueWorld | OpenWorld, count: int, seed: int) -> list[Question]:
    rng = np.random.default_rng(seed)
    return [draw_question(rng, draw_family(rng, SHARES), world, team_words()) for _ in range(count)]


@pytest.fixture(scope="module")
def questions(leagues: list[Path]) -> list[Question]:
    return draw(LeagueWorld(leagues[0]), 1_500, 1)


@pytest.fixture(scope="module")
def database(leagues: list[Path]) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{leagues[0]}?mode=ro", uri=True)


def test_every_intent_is_drawn_and_families_keep_their_shares(questions: list[Question]) -> None:
    assert {q.intent for q in questions} >= {intent.name for intent in INTENTS}
    counts = Counter(q.family for q in questions)
    for family, share in SHARES.items():
        assert counts[family] / len(questions) == pytest.approx(share / 100, abs=0.03), family


def test_every_gold_and_every_fault_of_it_runs(questions: list[Question], database: sqlite3.Connection) -> None:
    """One question of each structure's intent and faults, on a real league."""
    tried: set[tuple[str, tuple[str, ...]]] = set()
    for question in questions:
        if question.query is None or (key := (question.intent, applicable(question.query))) in tried:
            continue
        tried.add(key)
        for query in (question.query, *(commit_fault(question.query, f) for f in applicable(question.query))):
            database.execute(query.sql()).fetchall()
    assert len(tried) > 100


def test_a_gold_equals_itself_under_its_own_comparison(questions: list[Question], database: sqlite3.Connection) -> None:
    for question in questions[:300]:
        if question.query is None:
            continue
        full = database.execute(question.query.sql(limited=False)).fetchall()
        answer = database.execute(question.query.sql()).fetchall()
        if full and any(cell is not None for cell in full[0]):
            assert compare(full, answer, ComparisonSpec.from_dict(question.comparison)).equal, question.text


def test_faults_by_hand() -> None:
    query = Query(
        "field goal percentage, made over attempted",
        "t",
        "1.0 * SUM(m) / SUM(a)",
        "t",
        (
            Clause("season", "season = 2023", "season 2023", "season = 2022", "season 2022"),
            Clause("phase", "game_type = 'R'", "regular season"),
            Clause("filter", "home = 1", "home games"),
            Clause("played", "dnp = 0", "games played only"),
        ),
        ratio_wrong="AVG(pct)",
        phase_default=True,
    )
    where = "season = 2023 AND game_type = 'R' AND home = 1 AND dnp = 0"
    assert query.sql() == f"SELECT 1.0 * SUM(m) / SUM(a) FROM t WHERE {where}"
    assert applicable(query) == ("S1", "F1", "R1", "D1", "P1")
    wrong = {fault: commit_fault(query, fault).sql() for fault in applicable(query)}
    assert wrong["S1"] == query.sql().replace("2023", "2022")
    assert wrong["F1"] == query.sql().replace(" AND home = 1", "")
    assert wrong["R1"] == query.sql().replace("1.0 * SUM(m) / SUM(a)", "AVG(pct)")
    assert wrong["D1"] == query.sql().replace(" AND dnp = 0", "")
    assert wrong["P1"] == query.sql().replace(" AND game_type = 'R'", "")
    assert commit_fault(query, "R1").plan().startswith("field goal percentage, average from t; season 2023")
    with pytest.raises(ValueError, match="A1 does not apply"):
        commit_fault(query, "A1")


def test_plans_agree_with_their_query_and_not_with_a_faulty_one(questions: list[Question]) -> None:
    right, wrong = [], []
    for question in questions[:400]:
        if question.query is None:
            continue
        right.append(plan_agreement(question.plan(), question.query.sql()))
        wrong += [
            plan_agreement(question.plan(), commit_fault(question.query, f).sql()) for f in applicable(question.query)
        ]
    assert np.mean([score == 1 for score in right]) > 0.98
    assert np.mean([score < 1 for score in wrong]) > 0.98


def test_claims_by_hand() -> None:
    plan = "average points per game from player_box_scores and games; player Ana Li; season 2023; against BOS; top 3."
    sql = (
        "SELECT AVG(p.points) FROM player_box_scores p JOIN games g USING (game_id) WHERE p.player_name = 'Ana Li'"
        " AND g.season = 2022 AND 'BOS' IN (g.home_team, g.away_team) LIMIT 3"
    )
    said, done = plan_claims(plan), query_claims(sql)
    shared = {"table:player_box_scores", "average", "name:Ana Li", "code:BOS", "limit:3"}
    assert said == shared | {"season:2023"}
    assert done == shared | {"season:2022"}
    assert plan_agreement(plan, sql) == pytest.approx(2 * 5 / 12)
    assert plan_agreement(plan, "SELEC nonsense (") is None


def test_corpus_rates_are_the_documented_ones_and_texts_are_distinct() -> None:
    forbidden = frozenset({"how many games are in the database"})
    examples = list(draw_examples(OpenWorld(CODES, person_name), team_words(), 4_000, 3, forbidden))
    texts = [normalised(example.question) for example in examples]
    assert len(set(texts)) == 4_000
    assert not forbidden & set(texts)
    counts = fault_counts(examples)
    assert set(counts) == {"", *FAULTS}
    assert 0.40 < 1 - counts[""] / 4_000 < 0.52
    faulty = [example for example in examples if example.fault]
    assert np.mean([example.plan_wrong for example in faulty]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([example.rambles for example in examples]) == pytest.approx(0.15, abs=0.02)
    assert not any(
        q.held_out for q in draw(OpenWorld(CODES, person_name), 300, 4) if q.template in {e.template for e in examples}
    )


def test_the_corpus_depends_on_its_seed_alone() -> None:
    world = OpenWorld(CODES, person_name)
    first, again, other = (list(draw_examples(world, team_words(), 50, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_seed_pairs_run_on_both_leagues(leagues: list[Path]) -> None:
    for league in leagues:
        connection = sqlite3.connect(f"file:{league}?mode=ro", uri=True)
        for _, text, answer, sql in SEED_PAIRS:
            if sql is None:
                assert is_refusal(answer), text
            else:
                rows = connection.execute(sql).fetchall()
                assert rows, text
                assert rows[0][0] is not None, text
                assert plan_agreement(plan_of(answer), sql) >= 0.8, text


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        (render_answer("cannot be answered: the database holds no data on salaries.", None), True),
        ("I cannot answer this from the tables.", True),
        (render_answer("cannot be answered", "SELECT 1"), False),
        ("It is 42.", False),
    ],
)
def test_a_refusal_states_itself_and_has_no_sql(text: str, refuses: bool) -> None:
    assert is_refusal(text) is refuses


def test_test_and_training_questions_share_no_text_and_keep_their_parts(leagues: list[Path]) -> None:
    test = task.test_prompts(SMALL, leagues, 2)
    forbidden = {normalised(prompt.meta["question"]) for prompt in test.prompts}
    train = train_prompts(SMALL, leagues, 2, 1, forbidden)
    assert len(test.prompts) == len(train.prompts) == 60
    assert sum(not prompt.meta["seen"] for prompt in test.prompts) == 36
    assert all(prompt.meta["seen"] for prompt in train.prompts)
    assert not forbidden & {normalised(prompt.meta["question"]) for prompt in train.prompts}
    assert max(Counter(prompt.meta["template"] for prompt in test.prompts).values()) <= 4
    assert test.audit["accepted"] == 60
    again = task.test_prompts(SMALL, leagues, 1)
    assert again.prompts == test.prompts

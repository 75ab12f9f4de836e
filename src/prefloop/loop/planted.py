"""Preference pairs that are right by construction: the right answer to a drawn question beside a common mistake."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from prefloop.records import Completion, Preference, Prompt
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.grammar import SHARES, Question, draw_family, draw_question
from prefloop.tasks.nba.questions.query import applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import OpenWorld
from prefloop.tasks.nba.task import NAME, team_words
from prefloop.tasks.nba.teams import teams

SOURCE = "planted"
SOUND_PLANS = 0.5
"""Share of mistaken answers whose plan is right all the same, as in the embedded policy's own corpus."""


def planted_pairs(count: int, seed: int) -> tuple[dict[str, Prompt], dict[str, Completion], list[Preference]]:
    """`count` pairs on as many questions of templates that no test question has; nothing is run to label them.

    Players' names come from the open world, so no question is a test question.
    """
    rng = np.random.default_rng([seed, 47])
    prompts: dict[str, Prompt] = {}
    completions: dict[str, Completion] = {}
    preferences: list[Preference] = []
    for question in _prone(rng):
        prompt = Prompt.create(({"role": "user", "content": question.text},), NAME, "train", {})
        if prompt.id in prompts:
            continue
        texts = _right_and_wrong(rng, question)
        right, wrong = (_written(prompt, index, text, seed) for index, text in enumerate(texts))
        prompts[prompt.id] = prompt
        completions |= {right.id: right, wrong.id: wrong}
        preferences.append(Preference.pair(prompt.id, right.id, wrong.id, 1.0, 0.0, SOURCE))
        if len(preferences) == count:
            break
    return prompts, completions, preferences


def _prone(rng: np.random.Generator) -> Iterator[Question]:
    """Questions of seen templates on which at least one common mistake can be made."""
    world, words = OpenWorld(sorted(team.code for team in teams()), person_name), team_words()
    while True:
        question = draw_question(rng, draw_family(rng, SHARES), world, words)
        if not question.held_out and question.primary_fault:
            yield question


def _right_and_wrong(rng: np.random.Generator, question: Question) -> tuple[str, str]:
    query = question.query
    assert query is not None, "only an answerable question has a fault"
    wrong = commit_fault(query, applicable(query)[0])
    plan = question.plan() if rng.random() < SOUND_PLANS else wrong.plan()
    return render_answer(question.plan(), query.sql()), render_answer(plan, wrong.sql())


def _written(prompt: Prompt, index: int, text: str, seed: int) -> Completion:
    identity = Completion.make_id(prompt.id, SOURCE, {}, seed, 0, index)
    return Completion(identity, prompt.id, index, 0, text, (), (), "stop", SOURCE, {}, seed)

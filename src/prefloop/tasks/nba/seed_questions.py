"""Questions with answers for the seed of self-rewarding, from the grammar over the open world.

Answers are right, or as the embedded policy's own corpus has them: mistakes and rambling included, as in a query log.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.corpus import draw_examples
from prefloop.tasks.nba.names import person_name
from prefloop.tasks.nba.questions.grammar import SHARES, Question, draw_family, draw_question
from prefloop.tasks.nba.questions.worlds import OpenWorld
from prefloop.tasks.nba.task import team_words
from prefloop.tasks.nba.teams import teams
from prefloop.tasks.nba.text import normalised

STREAM = 31_415
"""Added to the seed, so that these are not the first questions of a corpus with the same one."""


def seed_examples(count: int, seed: int, forbidden: frozenset[str], *, right: bool) -> list[tuple[str, str]]:
    """Distinct questions of seen templates with an answer each.

    Args:
        forbidden: normalised texts of evaluation questions.
        right: gold answers; else the log's.
    """
    world = OpenWorld(sorted(team.code for team in teams()), person_name)
    if not right:
        drawn = draw_examples(world, team_words(), count, seed + STREAM, forbidden)
        return [(example.question, example.answer) for example in drawn]
    return [
        (question.text, render_answer(question.plan(), question.query.sql() if question.query else None))
        for question in islice(_distinct(world, seed + STREAM, forbidden), count)
    ]


def _distinct(world: OpenWorld, seed: int, forbidden: frozenset[str]) -> Iterator[Question]:
    rng, words, texts = np.random.default_rng(seed), team_words(), set(forbidden)
    while True:
        question = draw_question(rng, draw_family(rng, SHARES), world, words)
        if not question.held_out and normalised(question.text) not in texts:
            texts.add(normalised(question.text))
            yield question

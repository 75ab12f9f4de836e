"""The instruction corpus of the embedded policy: honest about being imperfect, like a real query log.

Most rows of certain kinds carry one of the common mistakes (`prefloop.tasks.nba.questions.query`), some answers
ramble. In half of the mistaken rows the plan is right and the SQL wrong, in half both are wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.questions.grammar import SHARES, Question, TeamWords, draw_family, draw_question
from prefloop.tasks.nba.questions.intent import World
from prefloop.tasks.nba.questions.query import applicable, commit_fault
from prefloop.tasks.nba.text import normalised

PRIMARY_RATE = {"S1": 0.75, "F1": 0.75, "R1": 0.75, "D1": 0.75, "A1": 0.75, "P1": 0.08}
"""Share of rows with this mistake, where it is the question's primary one.

Above two thirds: in half of these rows the plan is right, so a greedy answer that starts with a right plan still
goes wrong only if p/2 > (1 − p/2)/2."""

SECONDARY_RATE = 0.03
"""Share of rows with a mistake that applies but is not the primary one."""

RAMBLING_RATE = 0.15

FILLERS = (
    "Let me think about this step by step before writing the query.",
    "This is an interesting question, so first I look at what is asked.",
    "To be sure, I go over the tables again and check each column that could matter here.",
    "There may be other ways to do this, but this one is easy to follow.",
    "After that I write the query down and read it once more.",
    "It is important to take care with the details of the data.",
)


@dataclass(frozen=True)
class Example:
    """One instruction pair of the corpus."""

    question: str
    answer: str
    fault: str
    """Mistake in the SQL, or empty."""
    plan_wrong: bool
    rambles: bool
    template: str
    family: str


def draw_examples(
    world: World, vocabulary: TeamWords, count: int, seed: int, forbidden: frozenset[str] = frozenset()
) -> Iterator[Example]:
    """Distinct examples of seen templates, none of whose normalised questions is in `forbidden`.

    Args:
        count: how many to give.
        forbidden: normalised texts of evaluation questions.
    """
    rng = np.random.default_rng(seed)
    texts: set[str] = set(forbidden)
    given = 0
    while given < count:
        question = draw_question(rng, draw_family(rng, SHARES), world, vocabulary)
        if question.held_out or normalised(question.text) in texts:
            continue
        texts.add(normalised(question.text))
        given += 1
        yield _imperfect(rng, question)


def fault_counts(examples: list[Example]) -> dict[str, int]:
    """Rows per mistake; ``""`` counts the right ones."""
    return dict(sorted(Counter(example.fault for example in examples).items()))


def _imperfect(rng: np.random.Generator, question: Question) -> Example:
    fault = _draw_fault(rng, question)
    query = commit_fault(question.query, fault) if fault and question.query else question.query
    plan_wrong = bool(fault) and rng.random() < 0.5
    plan = query.plan() if plan_wrong and query else question.plan()
    rambles = bool(rng.random() < RAMBLING_RATE)
    if rambles:
        chosen = rng.permutation(len(FILLERS))[: int(rng.integers(2, 5))]
        plan = " ".join([*(FILLERS[i] for i in chosen), plan])
    answer = render_answer(plan, query.sql() if query else None)
    return Example(question.text, answer, fault, plan_wrong, rambles, question.template, question.family)


def _draw_fault(rng: np.random.Generator, question: Question) -> str:
    faults = applicable(question.query) if question.query else ()
    for position, fault in enumerate(faults):
        if rng.random() < (SECONDARY_RATE if position else PRIMARY_RATE[fault]):
            return fault
    return ""

"""Judging examples of the nba-sql task: an answer, what is wrong with it, and its score of 0 to 5.

They stand in for the judgements of people from which a model learns to judge (EFT data of 2401.10020). The truth is
execution's; what it cannot say (which part of a wrong query is wrong) is read from both queries' syntax trees.

One point each: the query runs; tables and columns are the right ones; filters and names are the right ones; its
result equals the gold's; the plan says what the query does, and no more. A right result earns the second and third
point too: another way to it is no fault.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import TypeVar

import sqlglot
from sqlglot import exp

from prefloop.records import Prompt
from prefloop.sql.extract import extract_sql
from prefloop.tasks.nba.claims import query_claims

CHECKS = ("run", "columns", "filters", "result", "plan")
"""What a point is given for."""

COMPUTED = ("table:", "average", "sum", "ratio")
"""Starts of the claims about what is computed; the others narrow it down."""

Item = TypeVar("Item")


def failed_checks(prompt: Prompt, answer: str, objectives: Mapping[str, float]) -> tuple[str, ...]:
    """The checks an answer fails, in the order of `CHECKS`.

    Args:
        prompt: with the gold in its meta.
        objectives: execution's of this answer (`prefloop.judging.execution`).

    An answer that does not run fails all of them, and so does a refusal where there is a gold.
    """
    if not objectives["valid"]:
        return CHECKS
    failed = []
    if not objectives["correct"]:
        wanted, done = _parts(prompt.meta["gold_sql"]), _parts(extract_sql(answer) or "")
        failed = [check for check, a, b in zip(("columns", "filters"), wanted, done, strict=True) if a != b]
        failed.append("result")
    if min(objectives["reasoning"], objectives.get("verbosity", 1.0)) < 1:
        failed.append("plan")
    return tuple(failed)


def judging_answer(prompt: Prompt, failed: Sequence[str]) -> str:
    """What a good judge replies: what is asked for, what is wrong, and the score.

    The gold's plan comes first, since a small model tells a wrong query by what a right one would do.

    >>> prompt = Prompt.create((), "nba-sql", "train", {"gold_plan": "number of games from games."})
    >>> print(judging_answer(prompt, ["result", "plan"]))
    number of games from games. wrong: result, plan.
    Score: 3
    """
    wrong = ", ".join(failed) or "nothing"
    return f"{prompt.meta['gold_plan']} wrong: {wrong}.\nScore: {score(failed)}"


def score(failed: Sequence[str]) -> int:
    """A point for each check passed."""
    return len(CHECKS) - len(failed)


def balanced(scored: Sequence[tuple[int, Item]], count: int, seed: int) -> list[Item]:
    """`count` items (all, where there are fewer) of as evenly many of each score as there are, in random order.

    Answers of one score are drawn without repetition; what a rare score leaves goes to the others.
    """
    rng = Random(seed)
    by_score: dict[int, list[Item]] = {}
    for value, item in scored:
        by_score.setdefault(value, []).append(item)
    taken: list[Item] = []
    rarest_first = sorted(by_score, key=lambda value: (len(by_score[value]), value))
    for i, value in enumerate(rarest_first):
        members = by_score[value]
        share = (count - len(taken)) // (len(rarest_first) - i)
        taken += rng.sample(members, min(share, len(members)))
    rng.shuffle(taken)
    return taken


@lru_cache(maxsize=16_384)
def _parts(sql: str) -> tuple[frozenset[str], frozenset[str]]:
    """What a query computes (tables, columns outside its conditions, aggregates), and what narrows it down."""
    claims = query_claims(sql) if sql else None
    if claims is None:
        return frozenset(), frozenset()
    tree = sqlglot.parse_one(sql, dialect="sqlite")
    columns = {f"column:{c.name}" for c in tree.find_all(exp.Column) if c.find_ancestor(exp.Where) is None}
    computed = {claim for claim in claims if claim.startswith(COMPUTED)}
    return frozenset(computed | columns), claims - computed

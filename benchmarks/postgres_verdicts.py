"""The same verdicts on PostgreSQL as on SQLite: golds and corrupted answers on one league in both, differences listed.

    python benchmarks/postgres_verdicts.py [--questions 600]

Starts a PostgreSQL server of its own in a temporary folder, copies a simulated league into it, and asks as the role
that can only read. Every gold and every common mistake in it is written for both. An answer's verdict is the same where
three agree: gold and answer on SQLite, gold and answer on PostgreSQL, and the gold of SQLite with the answer of
PostgreSQL.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from prefloop.progress import set_quiet
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.sql.pool import Limits, QueryResult, SandboxPool
from prefloop.tasks.nba.questions.grammar import SHARES, draw_family, draw_question
from prefloop.tasks.nba.questions.query import applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import LeagueWorld
from prefloop.tasks.nba.task import judge_databases, team_words

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from postgres import running_postgres
from postgres_copy import copy_tables, in_postgres, make_reader, new_database

LIMITS = Limits(rows=20_000, result_bytes=10**7)
Results = dict[str, QueryResult]


@dataclass(frozen=True)
class Case:
    """One answer to one question."""

    gold: str
    """Without its limit: a ranking is compared as a whole."""
    answer: str
    unlimited: str
    """The answer without its limit."""
    spec: ComparisonSpec


def cases(league: Path, questions: int) -> list[Case]:
    """Of distinct golds: the gold itself, and each mistake that applies to it."""
    rng, world, names = np.random.default_rng(11), LeagueWorld(league), team_words()
    found: dict[tuple[str, str], Case] = {}
    golds: set[str] = set()
    while len(golds) < questions:
        question = draw_question(rng, draw_family(rng, SHARES), world, names)
        if (query := question.query) is None or query.sql() in golds:
            continue
        golds.add(query.sql())
        spec = ComparisonSpec.from_dict(question.comparison)
        for answer in (query, *(commit_fault(query, fault) for fault in applicable(query))):
            gold = query.sql(limited=False)
            found.setdefault((gold, answer.sql()), Case(gold, answer.sql(), answer.sql(limited=False), spec))
    return list(found.values())


def verdicts(case: Case, here: Results, there: Results) -> list[bool]:
    """Of SQLite, of PostgreSQL, and of SQLite's gold with PostgreSQL's answer."""
    sides = [(here, here), (there, there), (here, there)]
    return [compare(golds[case.gold].rows, answers[case.answer].rows, case.spec).equal for golds, answers in sides]


def reason(case: Case, here: Results, there: Results) -> str:
    """Why the verdicts differ, as far as the results say it."""
    whole = compare(here[case.unlimited].rows, there[case.unlimited].rows, ComparisonSpec()).equal
    if case.answer != case.unlimited and whole:
        return "its LIMIT cuts through a tie: the whole rankings are equal"
    return f"SQLite {list(here[case.answer].rows[:3])}, PostgreSQL {list(there[case.answer].rows[:3])}"


def run(league: Path, server: str, found: Sequence[Case]) -> tuple[Results, Results]:
    """Every query on both."""
    texts = sorted({text for case in found for text in (case.gold, case.answer, case.unlimited)})
    with SandboxPool([league, server], 2, LIMITS) as pool:
        here = pool.run([(0, text) for text in texts])
        there = pool.run([(1, in_postgres(text)) for text in texts])
    return dict(zip(texts, here, strict=True)), dict(zip(texts, there, strict=True))


def main() -> None:
    """Print the counts, what PostgreSQL does not take, and every difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=600, help="distinct golds")
    options = parser.parse_args()
    set_quiet(True)
    league = judge_databases()[0]
    found = cases(league, options.questions)
    try:
        with running_postgres() as server:
            admin = new_database(server)
            copy_tables(league, admin)
            here, there = run(league, make_reader(admin), found)
    except pytest.skip.Exception as missing:
        sys.exit(str(missing))
    refused = [case for case in found if {there[case.gold].status, there[case.answer].status} != {"ok"}]
    judged = [case for case in found if case not in refused]
    outcomes = [(case, verdicts(case, here, there)) for case in judged]
    different = [(case, said) for case, said in outcomes if len(set(said)) > 1]
    right = sum(said[0] for _, said in outcomes)
    print(f"{options.questions:,} questions, {len(found):,} answers: {len(judged):,} run on both\n")
    print("| | answers |\n|---|---|")
    print(f"| the same verdict | {len(judged) - len(different):,} |\n| another verdict | {len(different):,} |")
    print(f"| right on SQLite | {right:,} |\n| wrong on SQLite | {len(judged) - right:,} |")
    for case, said in different:
        print(f"\n- `{case.answer}`\n  SQLite {said[0]}, PostgreSQL {said[1]}, across {said[2]}: ", end="")
        print(reason(case, here, there))
    messages = Counter(
        f"{there[text].status}: {there[text].message.partition(' LINE')[0]}"
        for text in dict.fromkeys(text for case in refused for text in (case.gold, case.answer))
        if there[text].status != "ok"
    )
    if messages:
        print(f"\nNot run on PostgreSQL ({sum(messages.values()):,} queries):\n")
        print("\n".join(f"- {count:,}: {message}" for message, count in messages.most_common()))


if __name__ == "__main__":
    main()

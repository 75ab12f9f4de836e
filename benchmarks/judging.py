"""Judging 10,000 candidate queries: the sandbox pool against a plain sqlite3 loop, in one run, alternated.

    python benchmarks/judging.py [--queries 10000] [--rounds 3]

Candidates are what a sampler gives: golds and their common mistakes with many repeats. The plain loop runs every
one on one connection without limits; the pool runs each distinct one once, in workers, under its limits.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import statistics
import time

import numpy as np

from prefloop.progress import set_quiet
from prefloop.sql.pool import SandboxPool
from prefloop.tasks.nba.questions.grammar import SHARES, draw_family, draw_question
from prefloop.tasks.nba.questions.query import applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import LeagueWorld
from prefloop.tasks.nba.task import judge_databases, team_words


def candidates(count: int) -> list[str]:
    """Eight candidates per question, drawn from its gold and mistakes, as a group of samples looks."""
    rng, world, found = np.random.default_rng(1), LeagueWorld(judge_databases()[0]), []
    while len(found) < count:
        query = draw_question(rng, draw_family(rng, SHARES), world, team_words()).query
        if query is not None:
            versions = [query.sql(), *(commit_fault(query, fault).sql() for fault in applicable(query))]
            found += [versions[int(i)] for i in rng.integers(len(versions), size=8)]
    return found[:count]


def plain(queries: list[str]) -> float:
    """Seconds of a loop over one ordinary connection per database."""
    started = time.perf_counter()
    for database in judge_databases():
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        for sql in queries:
            connection.execute(sql).fetchall()
        connection.close()
    return time.perf_counter() - started


def pooled(queries: list[str], workers: int) -> float:
    """Seconds of the pool, its start included."""
    started = time.perf_counter()
    databases = judge_databases()
    with SandboxPool(databases, workers) as pool:
        pool.run([(i, sql) for sql in queries for i in range(len(databases))])
    return time.perf_counter() - started


def main() -> None:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    set_quiet(True)
    queries, workers = candidates(options.queries), os.cpu_count() or 1
    rows = [(plain(queries), pooled(queries, workers)) for _ in range(options.rounds)]
    ratios = [a / b for a, b in rows]
    print(f"{len(queries):,} candidates ({len(set(queries)):,} distinct), two leagues, {workers} workers\n")
    print("| | plain sqlite3 loop, s | sandbox pool, s | ratio |\n|---|---|---|---|")
    for i, (a, b) in enumerate(rows, 1):
        print(f"| round {i} | {a:.1f} | {b:.1f} | {a / b:.2f} |")
    print(f"\nmedian ratio {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

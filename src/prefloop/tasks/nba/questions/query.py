"""A query as labelled parts, so that a plan can be told from it and a common mistake planted in it.

A *fault* is one of the traps by which executable, plausible SQL goes wrong (names as in the field guide of
`docs/task-nba.md`): S1 season label read as the start year, F1 a filter dropped, D1 did-not-play rows
averaged, R1 average of percentages, A1 sum for average, P1 regular season mixed with playoffs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FAULTS = ("S1", "F1", "R1", "D1", "A1", "P1")
"""In order of priority: the first that applies to a question is its *primary* fault."""


@dataclass(frozen=True)
class Clause:
    """One narrowing: its SQL condition and how the plan says it."""

    tag: str
    """``season``, ``phase``, ``filter``, ``played`` or ``subject``."""
    sql: str
    words: str = ""
    wrong_sql: str = ""
    """For seasons given by label: the condition with the start year."""
    wrong_words: str = ""


@dataclass(frozen=True)
class Query:
    """``SELECT select FROM source WHERE clauses tail``, put into `wrap`."""

    measure: str
    """The plan's words for what is computed, e.g. ``average points``."""
    table: str
    """The plan's words for where it comes from: the table names."""
    select: str
    source: str
    clauses: tuple[Clause, ...] = ()
    tail: str = ""
    wrap: str = "{}"
    limit: int | None = None
    ratio_wrong: str = ""
    """`select` under R1."""
    sum_wrong: str = ""
    """`select` (or `wrap`, where that holds the aggregate) under A1."""
    phase_default: bool = False
    """The phase is the policy's, not the question's: P1 can happen."""

    def sql(self, limited: bool = True) -> str:
        """SQL text; without `limited` a top-k query returns the full ranking."""
        where = " WHERE " + " AND ".join(clause.sql for clause in self.clauses) if self.clauses else ""
        inner = f"SELECT {self.select} FROM {self.source}{where}{self.tail}"
        if limited and self.limit is not None:
            inner += f" LIMIT {self.limit}"
        return self.wrap.format(inner)

    def plan(self) -> str:
        """One line in plain words that names table, measure and every narrowing."""
        words = [clause.words for clause in self.clauses if clause.words]
        top = [f"top {self.limit}"] if self.limit is not None else []
        return "; ".join([f"{self.measure} from {self.table}", *words, *top]) + "."


def applicable(query: Query) -> tuple[str, ...]:
    """The faults that change this query, in order of priority."""
    tags = {clause.tag for clause in query.clauses}
    possible = {
        "S1": any(clause.wrong_sql for clause in query.clauses),
        "F1": "filter" in tags,
        "R1": bool(query.ratio_wrong),
        "D1": "played" in tags,
        "A1": bool(query.sum_wrong),
        "P1": query.phase_default and "phase" in tags,
    }
    return tuple(fault for fault in FAULTS if possible[fault])


def commit_fault(query: Query, fault: str) -> Query:
    """The query with one mistake in it.

    Raises:
        ValueError: the fault does not apply to this query.
    """
    if fault not in applicable(query):
        raise ValueError(f"fault {fault} does not apply to: {query.sql()}")
    if fault == "S1":
        return replace(query, clauses=tuple(_start_year(clause) for clause in query.clauses))
    if fault == "R1":
        return replace(query, select=query.ratio_wrong, measure=query.measure.replace("made over attempted", "average"))
    if fault == "A1":
        return replace(query, measure=query.measure.replace("average", "total"), **_summed(query))
    tag = {"F1": "filter", "D1": "played", "P1": "phase"}[fault]
    position = max(i for i, clause in enumerate(query.clauses) if clause.tag == tag)
    return replace(query, clauses=query.clauses[:position] + query.clauses[position + 1 :])


def _start_year(clause: Clause) -> Clause:
    return replace(clause, sql=clause.wrong_sql, words=clause.wrong_words) if clause.wrong_sql else clause


def _summed(query: Query) -> dict[str, str]:
    return {"wrap": query.sum_wrong} if "{}" in query.sum_wrong else {"select": query.sum_wrong}

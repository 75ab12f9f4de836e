"""What the audit asks of every question: its gold runs, says something, has no tie that decides it, equals itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from prefloop.records import content_id
from prefloop.sql.compare import ComparisonSpec, Row, compare_everywhere
from prefloop.sql.pool import QueryResult, SandboxPool
from prefloop.tasks.database.audit.answers import AGREES, CONTRADICTS, agreement
from prefloop.tasks.database.model import Question
from prefloop.tasks.database.specs import RANKING_ROWS, parsed, with_keys

SMALL = range(11)


@dataclass
class Checked:
    """What was found of one question."""

    reason: str = ""
    """Why it is not asked; empty: it is."""
    detail: str = ""
    doubts: list[str] = field(default_factory=list)
    """What a person should look at, though it is asked."""
    everywhere: bool = True
    """Its gold says something on every database of its set, not on the first alone."""
    digest: str = ""
    """Names the gold's result on the databases it is compared on."""
    compared_twice: bool = False
    """Answers are compared on the variant, too."""
    constant: bool = False
    """Its result is the same on all of them: the result itself, written as a query, would pass."""
    rows: int = 0
    """Of the gold's result."""
    small: bool = False
    """The gold gives a single integer from 0 to 10: many wrong queries do, too."""


def check_questions(
    questions: Sequence[Question],
    places: Mapping[str, Sequence[int]],
    dialects: Mapping[str, str],
    pool: SandboxPool,
) -> list[Checked]:
    """What the sandbox says of the golds.

    Args:
        places: positions in the pool of the databases that a question's ``database`` stands for; the first is the
            database itself.
        dialects: of each, by sqlglot's name.
    """
    probes = [_Probe(question, dialects[question.database]) for question in questions]
    wanted = [
        (place, sql)
        for question, probe in zip(questions, probes, strict=True)
        for sql in probe.queries
        for place in places[question.database]
    ]
    wanted = list(dict.fromkeys(wanted))
    found = dict(zip(wanted, pool.run(wanted), strict=True))
    return [
        _checked(question, probe, {sql: [found[p, sql] for p in places[question.database]] for sql in probe.queries})
        for question, probe in zip(questions, probes, strict=True)
    ]


class _Probe:
    """The queries that have to be run for a question, and what its gold's text says of its limit."""

    def __init__(self, question: Question, dialect: str) -> None:
        self.gold = question.sql
        self.compared = question.compare_sql or question.sql
        self.alternatives = [other.sql for other in question.alternatives]
        self.alternatives += [other.compare_sql for other in question.alternatives if other.compare_sql]
        self.limit_without_order = False
        self.unchecked_tie = False
        self.boundary: str | None = None
        self.keys: list[int] = []
        self.k = 0
        tree = parsed(question.sql, dialect) if question.sql else None
        if tree is not None and tree.args.get("limit") and "top_k" not in question.comparison:
            self._limit(tree, dialect)

    def _limit(self, tree: exp.Query, dialect: str) -> None:
        """A limit that is not compared as a top k: does a tie decide which rows it lets through?"""
        if not tree.args.get("order"):
            # one row whatever the limit: an aggregate without groups
            single = isinstance(tree, exp.Select) and not tree.args.get("group")
            self.limit_without_order = not (single and all(c.find(exp.AggFunc) for c in tree.selects))
            return
        keyed, limit = with_keys(tree), tree.args["limit"]
        if keyed and set(keyed[1]) >= set(range(len(tree.selects))):
            return  # rows that tie are the same
        if keyed is None or tree.args.get("offset") or not isinstance(limit.expression, exp.Literal):
            self.unchecked_tie = True
            return
        self.k, self.keys = int(limit.expression.this), keyed[1]
        self.boundary = keyed[0].limit(self.k + 1).sql(dialect=dialect)

    @property
    def queries(self) -> list[str]:
        found = [self.gold, self.compared, self.boundary, *self.alternatives]
        return list(dict.fromkeys(sql for sql in found if sql))


def _checked(question: Question, probe: _Probe, results: Mapping[str, list[QueryResult]]) -> Checked:
    if probe.gold is None or probe.compared is None:
        return Checked(digest="unanswerable")
    found = Checked()
    spec = ComparisonSpec.from_dict(question.comparison)
    golds, compared = results[probe.gold], results[probe.compared]
    found.reason, found.detail = _objection(probe, spec, results, 0)
    if found.reason:
        return found
    found.everywhere = len(golds) == 1 or all(not _objection(probe, spec, results, i)[0] for i in range(1, len(golds)))
    used = len(golds) if found.everywhere else 1
    verdicts = compare_everywhere([r.rows for r in compared[:used]], [r.rows for r in golds[:used]], spec)
    wrong = next((verdict for verdict in verdicts if not verdict.equal), None)
    if wrong is not None:
        found.reason, found.detail = "gold is not right by its own comparison", f"{wrong.kind}: {wrong.reason}"
        return found
    rows = golds[0].rows
    if question.answer and (said := agreement(question.answer, rows)) != AGREES:
        text = f"stored answer {_short(question.answer)}, query gives {_short(_shown(rows))}"
        if said == CONTRADICTS:
            found.reason, found.detail = "stored answer contradicts the query", text
            return found
        found.doubts.append(text)
    if probe.unchecked_tie:
        found.doubts.append("whether a tie decides its limit cannot be told")
    for sql in probe.alternatives:
        if results[sql][0].status != "ok":
            found.doubts.append(f"an alternative does not run: {results[sql][0].message}")
    found.digest = content_id([sorted(repr(row) for row in result.rows) for result in golds[:used]])
    found.compared_twice = used > 1
    found.constant = used > 1 and all(
        verdict.equal for verdict in compare_everywhere([r.rows for r in compared], [rows] * used, spec)
    )
    found.rows = len(rows)
    found.small = len(rows) == 1 and len(rows[0]) == 1 and type(rows[0][0]) is int and rows[0][0] in SMALL
    return found


def _objection(
    probe: _Probe, spec: ComparisonSpec, results: Mapping[str, list[QueryResult]], place: int
) -> tuple[str, str]:
    """What speaks against the gold on one database: reason and detail."""
    gold, compared = results[probe.gold or ""][place], results[probe.compared or ""][place]
    for result in (gold, compared):
        if result.status != "ok":
            return "gold does not run", f"{result.status}: {result.message}"
    if not gold.rows and not spec.may_be_empty:
        return "gold is empty", ""
    if gold.rows and all(cell is None for row in gold.rows for cell in row):
        return "gold is NULL", ""
    if probe.limit_without_order:
        return "limit without an order", "which rows it lets through is chance"
    if spec.top_k is not None and _endless(compared.rows, spec):
        return "tie at the limit", f"more than {len(compared.rows)} rows share the last place's value"
    if probe.boundary:
        bound = results[probe.boundary][place]
        if bound.status != "ok":
            return "gold does not run", f"with its sort keys shown: {bound.status}: {bound.message}"
        last, beyond = bound.rows[probe.k - 1 : probe.k], bound.rows[probe.k : probe.k + 1]
        if last and beyond and all(last[0][key] == beyond[0][key] for key in probe.keys):
            return "tie at the limit", f"rows {probe.k} and {probe.k + 1} have the same sort key"
    return "", ""


def _endless(rows: Sequence[Row], spec: ComparisonSpec) -> bool:
    """The rows that tie for the last place go on where the ranking was cut."""
    assert spec.top_k is not None
    if len(rows) < RANKING_ROWS or len(rows) <= spec.top_k:
        return False
    return all(rows[spec.top_k - 1][key] == rows[-1][key] for key in spec.order_keys)


def _shown(rows: Sequence[Row]) -> str:
    return "; ".join(", ".join(str(cell) for cell in row) for row in rows[:3]) or "no row"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]}…"

"""The execution judge: runs the SQL of an answer and compares its result with the gold's, on every league.

Objectives of one answer, each in 0..1:

* ``correct``: the result equals the gold's on all databases (an unanswerable question: a refusal without SQL);
* ``valid``: the SQL runs on all databases (an unanswerable question: the same as correct);
* ``reasoning``: agreement of the plan's claims with the query (`prefloop.tasks.nba.claims`);
* ``verbosity``: min(1, 1.2 · characters of the gold answer / characters of the answer), so 1 = not too long
  (left out where only the gold query is known).

score = Σ weight_i · objective_i / Σ weight_i over the objectives an answer has. An answer that the harness failed
to run (error class ``internal``), or whose gold does not run (``gold_error``), stays unscored.

A prompt's meta needs ``gold_sql`` alone, None where no query can answer; the rest is optional: ``compare_sql``
(the gold without its limit), ``comparison`` (`prefloop.sql.compare.ComparisonSpec`), ``gold_length``,
``alternatives`` (other right queries, each ``{"sql", "comparison"}``), ``database`` (of several sets, which one), and
``tables`` with ``dialect``, by which plans over the user's own database are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.errors import ConfigError, DataError
from prefloop.judging.groups import Answered, ChunkedJudge, answered
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.sql.compare import ComparisonSpec, compare_everywhere
from prefloop.sql.databases import Database, identity
from prefloop.sql.extract import extract_sql
from prefloop.sql.pool import Limits, QueryResult, SandboxPool
from prefloop.store.journal import Journal
from prefloop.tasks.nba.answers import is_refusal, plan_of
from prefloop.tasks.nba.claims import plan_agreement

NAME = "execution"
PROMPTS_PER_CHUNK = 64
LENGTH_ALLOWANCE = 1.2
ROWS_KEPT = 5
LONGEST_CELL = 200
GOLD_ROWS, GOLD_BYTES = 20_000, 10_000_000
"""A gold may be a full ranking of which an answer gives the first rows."""
GOLDS_KEPT = 1_024
"""Results of golds that are kept between chunks: those of a test set, which is judged several times."""
UNSCORED = {"internal", "gold_error"}


@dataclass(frozen=True)
class _Verdict:
    """What the databases say of one query."""

    correct: bool
    status: str
    kind: str
    rows: list[list[Any]]
    columns: tuple[str, ...] = ()
    """Names of the result's columns on the first database."""
    digest: str = ""
    """Hash of the whole result on every database: equal digests, equal denotation."""


class ExecutionJudge(ChunkedJudge):
    """Keeps the sandbox open and the gold results cached over several calls.

    Use as a context manager; the worker processes end with it.
    """

    name = NAME
    per_chunk = PROMPTS_PER_CHUNK

    def __init__(
        self, databases: Sequence[Database] | Mapping[str, Sequence[Database]], config: ExecutionConfig
    ) -> None:
        """Args:
        databases: SQLite files that nobody writes, and ``postgresql://`` URLs (docs/postgresql.md), on all of which
            an answer has to be right; or several such sets, by the name that a prompt's ``meta.database`` gives them.

        Raises:
            DataError: a database is missing, or its role may do more than read.
        """
        limits = Limits(opcodes=config.opcodes)
        gold_limits = Limits(opcodes=config.opcodes, rows=GOLD_ROWS, result_bytes=GOLD_BYTES)
        workers = config.workers or _cores()
        sets = databases if isinstance(databases, Mapping) else {"": databases}
        every = list(dict.fromkeys(database for members in sets.values() for database in members))
        self._several = isinstance(databases, Mapping)
        self._places = {name: [every.index(database) for database in members] for name, members in sets.items()}
        named: Any = {name: [identity(member) for member in members] for name, members in sets.items()}
        decides = config.model_dump(exclude={"workers"})
        self.identity = content_id(NAME, named if self._several else named[""], decides)
        self._weights = {name: getattr(config, name) for name in ("correct", "valid", "reasoning", "verbosity")}
        self._answers = SandboxPool(every, workers, limits)
        self._golds = SandboxPool(every, workers, gold_limits)  # a prediction never shares a connection with a gold
        self._gold_results: dict[_Query, list[QueryResult]] = {}

    def __enter__(self) -> ExecutionJudge:
        self._answers.__enter__()
        self._golds.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._answers.__exit__(*exception)
        self._golds.__exit__(*exception)

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """One ``score`` judgement per completion, in the order of `completions`.

        Args:
            prompts: every prompt that a completion names, with the task's gold in its meta; others do not matter.
            journal: finished chunks are kept there and not judged again.

        Raises:
            DataError: a prompt with answers and without a gold.
        """
        asked = [prompt for prompt, _ in answered(prompts, completions)]
        refuse_without_gold([prompt.id for prompt in asked if "gold_sql" not in prompt.meta])
        unknown = sorted({self._set(prompt) for prompt in asked} - self._places.keys())
        if unknown:
            raise DataError(f"no database called '{unknown[0]}' is at hand, which a prompt's meta.database names")
        judged = super().judge(prompts, completions, journal=journal, label=label)
        found = {judgement.completion_ids[0]: judgement for judgement in judged}
        return [found[completion.id] for completion in completions]

    def _set(self, prompt: Prompt) -> str:
        """Name of the databases that a prompt is about."""
        return str(prompt.meta.get("database") or "") if self._several else ""

    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """Runs each distinct query of the chunk once."""
        self._run_golds([prompt for prompt, _ in chunk])
        queries = sorted(
            {(self._set(prompt), sql) for prompt, group in chunk for c in group if (sql := extract_sql(c.text))}
        )
        results = self._run(self._answers, queries)
        return [self._judgement(prompt, completion, results) for prompt, group in chunk for completion in group]

    def _run(self, pool: SandboxPool, queries: list[_Query]) -> dict[_Query, list[QueryResult]]:
        found = iter(pool.run([(place, sql) for name, sql in queries for place in self._places[name]]))
        return {(name, sql): [next(found) for _ in self._places[name]] for name, sql in queries}

    def _run_golds(self, prompts: Sequence[Prompt]) -> None:
        wanted = {(self._set(prompt), sql) for prompt in prompts for sql, _ in _golds(prompt)}
        if len(self._gold_results) > GOLDS_KEPT:
            self._gold_results = {gold: found for gold, found in self._gold_results.items() if gold in wanted}
        missing = sorted(wanted - self._gold_results.keys())
        self._gold_results |= self._run(self._golds, missing)

    def _judgement(
        self, prompt: Prompt, completion: Completion, results: Mapping[_Query, list[QueryResult]]
    ) -> Judgement:
        sql = extract_sql(completion.text)
        if golds := _golds(prompt):
            verdicts = [self._verdict(prompt, *gold, results[self._set(prompt), sql]) for gold in golds] if sql else []
            first = verdicts[0] if verdicts else _Verdict(False, "no_sql", "no_sql", [])
            verdict = next((each for each in verdicts if each.correct), first)
        else:
            refused = is_refusal(completion.text)
            status = "refused" if refused else "not_refused"
            verdict = _Verdict(refused, status, status, [])
        objectives = _objectives(prompt, completion.text, sql, verdict)
        total = sum(self._weights[name] for name in objectives)
        if not total:
            raise ConfigError(f"judge: the weights of {', '.join(objectives)} are all 0, and this prompt has no other")
        score = sum(self._weights[name] * value for name, value in objectives.items()) / total
        raw = {
            "sql": sql,
            "status": verdict.status,
            "kind": verdict.kind,
            "columns": list(verdict.columns),
            "rows": verdict.rows,
            "digest": verdict.digest,
        }
        value = None if verdict.status in UNSCORED else score
        return Judgement.create(
            prompt.id, (completion.id,), NAME, "score", value, {} if value is None else objectives, raw=raw
        )

    def _verdict(self, prompt: Prompt, gold: str, comparison: dict[str, Any], results: list[QueryResult]) -> _Verdict:
        golds = self._gold_results[self._set(prompt), gold]
        broken = next((found for found in golds if found.status != "ok"), None)
        if broken:
            return _Verdict(False, "gold_error", f"error:{broken.status}", [[broken.message]])
        failed = next((result for result in results if result.status != "ok"), None)
        if failed:
            return _Verdict(False, failed.status, f"error:{failed.status}", [[failed.message]])
        spec = ComparisonSpec.from_dict(comparison)
        verdicts = compare_everywhere([found.rows for found in golds], [result.rows for result in results], spec)
        worst = next((verdict for verdict in verdicts if not verdict.equal), verdicts[0])
        rows = [[_plain(cell) for cell in row] for row in results[0].rows[:ROWS_KEPT]]
        whole = [sorted(repr(row) for row in result.rows) for result in results]
        right = all(verdict.equal for verdict in verdicts)
        return _Verdict(right, "ok", worst.kind, rows, results[0].columns, content_id(whole))


def refuse_without_gold(without: Sequence[str]) -> None:
    """Refuse to judge answers to prompts, given by id, that have nothing to compare with.

    Raises:
        DataError: there is one.
    """
    if without:
        raise DataError(
            f"{len(without):,} prompts have no meta.gold_sql, {without[0]} first: the execution judge compares "
            "answers with that query's result"
        )


_Query = tuple[str, str]
"""Name of a set of databases, and SQL."""


def _golds(prompt: Prompt) -> list[tuple[str, dict[str, Any]]]:
    """The queries to compare with, each with its comparison; none where none can answer."""
    first = prompt.meta.get("compare_sql") or prompt.meta["gold_sql"]
    others = [(other["sql"], other.get("comparison") or {}) for other in prompt.meta.get("alternatives") or ()]
    return [(first, prompt.meta.get("comparison") or {}), *others] if first else []


def _objectives(prompt: Prompt, text: str, sql: str | None, verdict: _Verdict) -> dict[str, float]:
    valid = verdict.status in {"ok", "refused"}
    agreement = _agreement(prompt, plan_of(text), sql) if sql else float(verdict.status == "refused")
    objectives = {"correct": float(verdict.correct), "valid": float(valid), "reasoning": round(agreement or 0.0, 6)}
    if "gold_length" in prompt.meta:
        allowed = LENGTH_ALLOWANCE * prompt.meta["gold_length"]
        objectives["verbosity"] = round(min(1.0, allowed / max(len(text), 1)), 6)
    return objectives


def _agreement(prompt: Prompt, plan: str, sql: str) -> float | None:
    """How far the plan says what the query does, by the words of the prompt's own database."""
    if "tables" not in prompt.meta:
        return plan_agreement(plan, sql)
    from prefloop.tasks.database.claims import plan_agreement as agreement

    return agreement(plan, sql, tuple(prompt.meta["tables"]), prompt.meta.get("dialect") or "sqlite")


def _plain(cell: Any) -> Any:
    """A result cell as a JSON value of bounded length."""
    if cell is None or isinstance(cell, int | float):
        return cell
    text = cell if isinstance(cell, str) else repr(cell)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"


def _cores() -> int:
    import os

    return os.cpu_count() or 1

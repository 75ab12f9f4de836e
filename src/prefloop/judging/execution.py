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
(the gold without its limit), ``comparison`` (`prefloop.sql.compare.ComparisonSpec`) and ``gold_length``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.errors import ConfigError, DataError
from prefloop.judging.groups import Answered, judge_chunks
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.sql.compare import ComparisonSpec, compare_everywhere
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


class ExecutionJudge:
    """Keeps the sandbox open and the gold results cached over several calls.

    Use as a context manager; the worker processes end with it.
    """

    name = NAME

    def __init__(self, databases: Sequence[Path], config: ExecutionConfig) -> None:
        limits = Limits(opcodes=config.opcodes)
        gold_limits = Limits(opcodes=config.opcodes, rows=GOLD_ROWS, result_bytes=GOLD_BYTES)
        workers = config.workers or _cores()
        self._count = len(databases)
        self._identity = content_id(NAME, [database.stem for database in databases], config.model_dump())
        self._weights = {name: getattr(config, name) for name in ("correct", "valid", "reasoning", "verbosity")}
        self._answers = SandboxPool(databases, workers, limits)
        self._golds = SandboxPool(databases, workers, gold_limits)  # a prediction never shares a connection with a gold
        self._gold_results: dict[str, list[QueryResult]] = {}

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
            prompts: every prompt that a completion names, with the task's gold in its meta.
            journal: finished chunks are kept there and not judged again.

        Raises:
            DataError: a prompt without a gold.
        """
        without = [prompt.id for prompt in prompts if "gold_sql" not in prompt.meta]
        if without:
            raise DataError(
                f"{len(without):,} prompts have no meta.gold_sql, {without[0]} first: the execution judge compares "
                "answers with that query's result"
            )
        judged = judge_chunks(
            self._identity,
            self._judge_chunk,
            prompts,
            completions,
            per_chunk=PROMPTS_PER_CHUNK,
            journal=journal,
            label=label,
        )
        found = {judgement.completion_ids[0]: judgement for judgement in judged}
        return [found[completion.id] for completion in completions]

    def _judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        self._run_golds([prompt for prompt, _ in chunk])
        queries = sorted({sql for _, group in chunk for c in group if (sql := extract_sql(c.text))})
        results = self._run(self._answers, queries)
        return [self._judgement(prompt, completion, results) for prompt, group in chunk for completion in group]

    def _run(self, pool: SandboxPool, queries: list[str]) -> dict[str, list[QueryResult]]:
        flat = pool.run([(database, sql) for sql in queries for database in range(self._count)])
        return {sql: flat[i * self._count : (i + 1) * self._count] for i, sql in enumerate(queries)}

    def _run_golds(self, prompts: Sequence[Prompt]) -> None:
        wanted = {gold for prompt in prompts if (gold := _gold(prompt))}
        missing = sorted(wanted - self._gold_results.keys())
        self._gold_results |= self._run(self._golds, missing)

    def _judgement(self, prompt: Prompt, completion: Completion, results: Mapping[str, list[QueryResult]]) -> Judgement:
        sql = extract_sql(completion.text)
        if _gold(prompt):
            verdict = self._verdict(prompt, results[sql]) if sql else _Verdict(False, "no_sql", "no_sql", [])
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

    def _verdict(self, prompt: Prompt, results: list[QueryResult]) -> _Verdict:
        golds = self._gold_results[_gold(prompt)]
        broken = next((gold for gold in golds if gold.status != "ok"), None)
        if broken:
            return _Verdict(False, "gold_error", f"error:{broken.status}", [[broken.message]])
        failed = next((result for result in results if result.status != "ok"), None)
        if failed:
            return _Verdict(False, failed.status, f"error:{failed.status}", [[failed.message]])
        spec = ComparisonSpec.from_dict(prompt.meta.get("comparison", {}))
        verdicts = compare_everywhere([gold.rows for gold in golds], [result.rows for result in results], spec)
        worst = next((verdict for verdict in verdicts if not verdict.equal), verdicts[0])
        rows = [[_plain(cell) for cell in row] for row in results[0].rows[:ROWS_KEPT]]
        whole = [sorted(repr(row) for row in result.rows) for result in results]
        right = all(verdict.equal for verdict in verdicts)
        return _Verdict(right, "ok", worst.kind, rows, results[0].columns, content_id(whole))


def _gold(prompt: Prompt) -> str:
    """The query to compare with; empty where none can answer."""
    return str(prompt.meta.get("compare_sql") or prompt.meta["gold_sql"] or "")


def _objectives(prompt: Prompt, text: str, sql: str | None, verdict: _Verdict) -> dict[str, float]:
    valid = verdict.status in {"ok", "refused"}
    agreement = plan_agreement(plan_of(text), sql) if sql else float(verdict.status == "refused")
    objectives = {"correct": float(verdict.correct), "valid": float(valid), "reasoning": round(agreement or 0.0, 6)}
    if "gold_length" in prompt.meta:
        allowed = LENGTH_ALLOWANCE * prompt.meta["gold_length"]
        objectives["verbosity"] = round(min(1.0, allowed / max(len(text), 1)), 6)
    return objectives


def _plain(cell: Any) -> Any:
    """A result cell as a JSON value of bounded length."""
    if cell is None or isinstance(cell, int | float):
        return cell
    text = cell if isinstance(cell, str) else repr(cell)
    return text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…"


def _cores() -> int:
    import os

    return os.cpu_count() or 1

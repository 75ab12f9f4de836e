"""The instruction data set for NBA analysis, in Alpaca and messages formats, every row right and run on both leagues.

Sources: hand-written seed pairs, pairs of the question grammar, and answers of the embedded policy to new questions
that the execution judge found right. Then rules, and de-duplication by normalised text and by meaning (equal
canonical SQL, or equal results on both leagues). Counts by reason are returned and written beside the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.config.sampling import Sampling
from prefloop.config.tasks import NbaTaskConfig
from prefloop.generation.generate import generate_completions
from prefloop.judging.execution import ExecutionJudge
from prefloop.models.load import load_policy
from prefloop.records import Prompt
from prefloop.sql.canonical import canonical_sql
from prefloop.sql.extract import extract_sql
from prefloop.sql.pool import SandboxPool
from prefloop.store.files import write_json, write_jsonl
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.seed_pairs import SEED_PAIRS
from prefloop.tasks.nba.task import judge_databases, test_prompts, train_prompts
from prefloop.tasks.nba.text import normalised

INSTRUCTION = "Answer the question about the NBA database with a plan and one SQLite query."
LONGEST_ANSWER, LONGEST_QUESTION = 1_500, 200
PER_MEANING = 3
"""Wordings kept of one meaning: paraphrases teach, endless ones do not."""


@dataclass(frozen=True)
class InstructionPair:
    """A question with its right answer."""

    question: str
    answer: str
    source: str


def write_instructions(out: Path, examples: int, generated: int, seed: int) -> dict[str, int]:
    """Write ``alpaca.jsonl``, ``messages.jsonl`` and ``counts.json`` into `out`; returns the counts."""
    counts: Counter[str] = Counter()
    pairs = [InstructionPair(question, answer, "seed") for _, question, answer, _ in SEED_PAIRS]
    forbidden = _test_texts()
    pairs += _grammar_pairs(_asked(examples, seed, forbidden))
    pairs += _generated_pairs(_asked(generated, seed + 1, forbidden), seed + 1, counts) if generated else []
    for pair in pairs:
        counts[f"drawn: {pair.source}"] += 1
    kept = _by_meaning(_by_text(_by_rules(pairs, counts), counts), counts)
    for pair in kept:
        counts[f"kept: {pair.source}"] += 1
    write_jsonl(out / "alpaca.jsonl", [_alpaca(pair) for pair in kept])
    write_jsonl(out / "messages.jsonl", [_messages(pair) for pair in kept])
    found = dict(sorted(counts.items()))
    write_json(out / "counts.json", found)
    return found


def _test_texts() -> set[str]:
    """Texts of the evaluation's questions: instruction data must not hold them."""
    prompts = test_prompts(NbaTaskConfig(), judge_databases(), 0).prompts
    return {normalised(prompt.meta["question"]) for prompt in prompts}


def _asked(count: int, seed: int, forbidden: Iterable[str]) -> tuple[Prompt, ...]:
    return train_prompts(NbaTaskConfig(train_questions=count), judge_databases(), 0, seed, forbidden).prompts


def _grammar_pairs(prompts: Iterable[Prompt]) -> list[InstructionPair]:
    return [
        InstructionPair(p.meta["question"], render_answer(p.meta["gold_plan"], p.meta["gold_sql"]), "grammar")
        for p in prompts
    ]


def _generated_pairs(prompts: Sequence[Prompt], seed: int, counts: Counter[str]) -> list[InstructionPair]:
    """Answers of the embedded policy; only right ones whose plan says what the SQL does."""
    answers = generate_completions(load_policy("embedded"), prompts, Sampling(k=4), seed=seed, label="model pairs")
    with ExecutionJudge(judge_databases(), ExecutionConfig()) as judge:
        judged = judge.judge(prompts, answers, label="check model pairs")
    questions = {prompt.id: prompt.meta["question"] for prompt in prompts}
    found: dict[str, InstructionPair] = {}
    for answer, judgement in zip(answers, judged, strict=True):
        objectives = judgement.objectives
        if objectives and objectives["correct"] == objectives["reasoning"] == objectives["verbosity"] == 1:
            found.setdefault(answer.prompt_id, InstructionPair(questions[answer.prompt_id], answer.text, "model"))
        else:
            counts["dropped: model answer wrong, unsound or long"] += 1
    return list(found.values())


def _by_rules(pairs: Iterable[InstructionPair], counts: Counter[str]) -> list[InstructionPair]:
    kept = []
    for pair in pairs:
        if len(pair.question) > LONGEST_QUESTION or len(pair.answer) > LONGEST_ANSWER:
            counts["dropped: too long"] += 1
        elif len(normalised(pair.question).split()) < 2:
            counts["dropped: question of one word"] += 1
        else:
            kept.append(pair)
    return kept


def _by_text(pairs: Iterable[InstructionPair], counts: Counter[str]) -> list[InstructionPair]:
    kept: dict[str, InstructionPair] = {}
    for pair in pairs:
        if normalised(pair.question) in kept:
            counts["dropped: same text"] += 1
        else:
            kept[normalised(pair.question)] = pair
    return list(kept.values())


def _by_meaning(pairs: list[InstructionPair], counts: Counter[str]) -> list[InstructionPair]:
    """At most `PER_MEANING` pairs with one canonical SQL or with the same results on both leagues."""
    databases = judge_databases()
    queries = {pair: sql for pair in pairs if (sql := extract_sql(pair.answer))}
    with SandboxPool(databases, 0) as pool:
        flat = pool.run([(i, sql) for sql in queries.values() for i in range(len(databases))])
    results = iter(flat)
    seen: Counter[str] = Counter()
    kept = []
    for pair in pairs:
        if pair not in queries:
            kept.append(pair)
            continue
        rows = [next(results) for _ in databases]
        if any(result.status != "ok" for result in rows):
            counts["dropped: does not run"] += 1
            continue
        keys = (f"sql {canonical_sql(queries[pair])}", f"rows {[result.rows for result in rows]!r}")
        if max(seen[key] for key in keys) >= PER_MEANING:
            counts["dropped: same meaning"] += 1
            continue
        seen.update(keys)
        kept.append(pair)
    return kept


def _alpaca(pair: InstructionPair) -> dict[str, Any]:
    return {"instruction": INSTRUCTION, "input": pair.question, "output": pair.answer, "source": pair.source}


def _messages(pair: InstructionPair) -> dict[str, Any]:
    turns = (("user", pair.question), ("assistant", pair.answer))
    return {"messages": [{"role": role, "content": text} for role, text in turns], "source": pair.source}

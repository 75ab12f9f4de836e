"""What the drop-in of the NBA simulator calls for instruction data (rec_035): one method for each step.

Results are as in `prefloop.loop.dropins`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe, load_recipe
from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import ConfigError
from prefloop.generation.generate import generate_completions
from prefloop.loop.dropins import Step, offline_recipe, step
from prefloop.loop.policies import initial_policy
from prefloop.loop.run import execution_judge
from prefloop.loop.tasks import ask
from prefloop.preferences.instructions import read_instructions
from prefloop.records import Prompt
from prefloop.sql.canonical import canonical_sql
from prefloop.sql.extract import extract_sql
from prefloop.sql.pool import SandboxPool
from prefloop.store.files import write_json, write_jsonl
from prefloop.tasks.nba.answers import is_refusal
from prefloop.tasks.nba.seed_pairs import SEED_PAIRS
from prefloop.tasks.nba.task import judge_databases
from prefloop.tasks.nba.text import normalised

WORDINGS = 2
"""Most questions kept that ask for one and the same query."""
WORDS = (2, 40)
DROPPED = frozenset("the a an did do does was were is are has have".split())
OPENERS = frozenset("What Which Who When Where How In For Over Did Show List Give Name".split())
"""Words that a question opens with and that are no names: those keep their case."""


@dataclass(frozen=True)
class Row:
    """One instruction pair, and where it came from: manual, generated or augmented."""

    question: str
    answer: str
    source: str


def nba_recipe(recipe: str | None, **offline: Any) -> Recipe:
    """The named recipe, or the offline default with these overrides.

    Raises:
        ConfigError: the recipe's task is not nba-sql.
    """
    found = load_recipe(recipe) if recipe else offline_recipe(**offline)
    if not isinstance(found.task, NbaTaskConfig):
        raise ConfigError(f"recipe {recipe} asks {found.task.name}: this drop-in needs a recipe of the task nba-sql")
    return found


def splits(recipe: Recipe) -> tuple[list[Prompt], list[Prompt]]:
    """Training and unseen test questions of the recipe."""
    prompts = ask(recipe).prompts
    return [p for p in prompts if p.split == "train"], [p for p in prompts if p.split == "test"]


class InstructionSet:
    """rec_035: pairs by hand, by model and by rewording; filtered, freed of repetitions, written in Alpaca's format."""

    def __init__(self, folder: Path, recipe: str | None = None) -> None:
        self.folder = Path(folder)
        self.recipe = nba_recipe(recipe, generation__k=4)

    @cached_property
    def _prompts(self) -> tuple[list[Prompt], list[Prompt]]:
        return splits(self.recipe)

    @cached_property
    def _manual(self) -> list[Row]:
        return [Row(question, answer, "manual") for _, question, answer, _ in SEED_PAIRS]

    def dataset_format(self) -> Step:
        """Step 1: Alpaca's fields, with a pair written so and read back by what trains on it."""
        out = self.folder / "format-example.jsonl"
        write_jsonl(out, [_alpaca(self._manual[0])])
        fields = {name: len(text) for name, text in _alpaca(self._manual[0]).items()}
        return step({"characters_by_field": fields, "read_back": len(read_instructions(out).examples)}, out)

    def manual_pairs(self) -> Step:
        """Step 2: the pairs written by hand."""
        return step({"pairs": len(self._manual), "refusals": sum(is_refusal(row.answer) for row in self._manual)})

    @cached_property
    def _generated(self) -> tuple[dict[str, Any], list[Row]]:
        train = self._prompts[0]
        policy, sampling = initial_policy(self.recipe), self.recipe.generation.sampling
        answers = generate_completions(policy, train, sampling, seed=self.recipe.seed)
        with execution_judge(self.recipe) as judge:
            judged = {j.completion_ids[0]: j for j in judge.judge(train, answers)}
        right = [a for a in answers if judged[a.id].objectives.get("correct") == 1]
        best: dict[str, Row] = {}
        for answer in sorted(right, key=lambda a: -(judged[a.id].value or 0.0)):
            question = next(p.meta["question"] for p in train if p.id == answer.prompt_id)
            best.setdefault(answer.prompt_id, Row(question, answer.text, "generated"))
        figures = {"questions": len(train), "answers": len(answers), "answers_right": len(right) / len(answers)}
        return {**figures, "pairs": len(best)}, list(best.values())

    def generated_pairs(self) -> Step:
        """Step 3: the policy answers every question; of its answers that execution finds right, the best is kept."""
        return step(self._generated[0])

    @cached_property
    def _augmented(self) -> list[Row]:
        rows = [*self._manual, *self._generated[1]]
        return [Row(as_typed(row.question), row.answer, "augmented") for row in rows]

    def augmented_pairs(self) -> Step:
        """Step 4: the same questions as people type them."""
        rows = [*self._manual, *self._generated[1]]
        changed = sum(a.question != b.question for a, b in zip(self._augmented, rows, strict=True))
        return step({"pairs": len(self._augmented), "reworded": changed})

    @cached_property
    def _filtered(self) -> tuple[list[Row], dict[str, int]]:
        rows = [*self._manual, *self._generated[1], *self._augmented]
        test = {normalised(prompt.meta["question"]) for prompt in self._prompts[1]}
        empty = _empty_queries(rows)
        reasons: Counter[str] = Counter()
        kept = []
        for row in rows:
            reason = _objection(row, test, empty)
            reasons[reason] += bool(reason)
            kept += [] if reason else [row]
        return kept, dict(sorted((+reasons).items()))

    def filtered_pairs(self) -> Step:
        """Step 5: rules on length, form, result and leakage; every removal is counted."""
        kept, removed = self._filtered
        return step({"pairs": len(kept), "removed": removed})

    def deduplicated_set(self) -> Step:
        """Step 6: no question twice as text, no query under more than `WORDINGS` questions; written and read back."""
        texts: set[str] = set()
        meanings: Counter[str] = Counter()
        removed: Counter[str] = Counter()
        rows = []
        for row in self._filtered[0]:
            text, meaning = normalised(row.question), _meaning(row)
            if text in texts or meanings[meaning] == WORDINGS:
                removed["the same text" if text in texts else "the same query"] += 1
                continue
            texts.add(text)
            meanings[meaning] += 1
            rows.append(row)
        data, audit = self.folder / "instructions.jsonl", self.folder / "audit.json"
        write_jsonl(data, [_alpaca(row) for row in rows])
        figures = {
            "pairs": len(rows),
            "removed": dict(sorted(removed.items())),
            "by_source": dict(sorted(Counter(row.source for row in rows).items())),
            "queries": len(meanings),
            "read_back": len(read_instructions(data).examples),
        }
        write_json(audit, {"filtered": self._filtered[1], "generated": self._generated[0], **figures})
        return step(figures, data, audit)


def _alpaca(row: Row) -> dict[str, str]:
    return {"instruction": row.question, "input": "", "output": row.answer}


def as_typed(question: str) -> str:
    """The question as somebody types it: without small words or a mark at the end; names keep their case.

    >>> as_typed("What is the league's average pace this season?")
    "what league's average pace this season"
    """
    first, *rest = question.rstrip("?. ").split() or [""]
    opener = first.lower() if first in OPENERS else first
    return " ".join(word for word in (opener, *rest) if word not in DROPPED)


def _empty_queries(rows: list[Row]) -> set[str]:
    """Queries that fail or find nothing on one of the leagues."""
    queries = sorted({sql for row in rows if (sql := extract_sql(row.answer))})
    databases = judge_databases()
    with SandboxPool(databases, 2) as pool:
        results = pool.run([(i, sql) for sql in queries for i in range(len(databases))])
    found = zip([sql for sql in queries for _ in databases], results, strict=True)
    return {sql for sql, result in found if result.status != "ok" or not result.rows or result.rows[0][0] is None}


def _objection(row: Row, test: set[str], empty: set[str]) -> str:
    sql = extract_sql(row.answer)
    if not WORDS[0] <= len(row.question.split()) <= WORDS[1]:
        return "question too short or too long"
    if not row.answer.startswith("Plan:") or (sql is None and not is_refusal(row.answer)):
        return "not in the answer format"
    if sql in empty:
        return "query fails or finds nothing"
    return "test question" if normalised(row.question) in test else ""


def _meaning(row: Row) -> str:
    sql = extract_sql(row.answer)
    return (canonical_sql(sql) or sql) if sql else row.answer

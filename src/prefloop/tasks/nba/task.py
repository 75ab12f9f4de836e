"""The nba-sql task: audited questions as prompts, with everything the execution judge needs in their meta.

A question enters only if its gold runs on both leagues, gives something there, and differs on one of them from
each common mistake (so that no mistake is right by accident). What the audit turned away is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from prefloop.config.tasks import NbaTaskConfig
from prefloop.errors import DataError
from prefloop.progress import progress
from prefloop.records import Message, Prompt
from prefloop.sql.compare import ComparisonSpec, compare
from prefloop.sql.pool import Limits, QueryResult, SandboxPool
from prefloop.tasks.nba.answers import render_answer
from prefloop.tasks.nba.imports.synthetic_marks import synthetic_games
from prefloop.tasks.nba.league import JUDGE_LEAGUES, cached_league
from prefloop.tasks.nba.prompting import system_message
from prefloop.tasks.nba.questions.grammar import Question, TeamWords, askable, draw_family, draw_question
from prefloop.tasks.nba.questions.query import Query, applicable, commit_fault
from prefloop.tasks.nba.questions.worlds import LeagueWorld
from prefloop.tasks.nba.real import real_databases
from prefloop.tasks.nba.teams import teams
from prefloop.tasks.nba.text import normalised

ORIGIN = "The league is simulated and all player names are generated: any likeness to a person is chance."
"""What a card says of prompts of the nba-sql task."""

NAME = "nba-sql"
TEST_SEED = 90_210
"""The test set is the same for every seed of a run."""

UNSEEN_SHARE = 0.6
PER_TEMPLATE = 4
"""Most test questions a template may have."""

BATCH = 256
AUDITED_AT_ONCE = 32
"""Questions of a batch whose queries are run together: the next ones are asked only for places still free."""

LARGEST_GOLD = 60
"""Rows; a longer answer is a listing, not an answer."""

DRAWS_PER_PLACE = 12
"""Draws per place of a batch: a kind whose templates are used up must not be drawn for ever."""

STALLED_BATCHES = 3

PATIENCE = 60
"""Batches without enough accepted questions before the task gives up."""


@dataclass
class Audit:
    """How many drawn questions were accepted, and why the others were not."""

    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    def summary(self) -> dict[str, int]:
        """Counts by reason, sorted."""
        return {"accepted": self.accepted, **dict(sorted(self.rejected.items()))}


@dataclass(frozen=True)
class QuestionSet:
    """Prompts of one split and the audit that let them in."""

    prompts: tuple[Prompt, ...]
    audit: dict[str, int]


def judge_databases(database: str | None = None) -> list[Path]:
    """The two leagues a gold and an answer must agree on: simulated, or a real one and its variant.

    Args:
        database: SQLite file of a league (``task.database``).
    """
    return real_databases(Path(database)) if database else [cached_league(config) for config in JUDGE_LEAGUES]


def team_words(names: Mapping[str, str] | None = None) -> TeamWords:
    """Team code to code, nickname, and city (the nickname again where two teams share a city).

    Args:
        names: full names by code, of a league with teams that are no more; default the thirty of today.
    """
    today = {team.code: (team.city, team.nickname) for team in teams()}
    former = {code: tuple(name.rsplit(" ", 1)) for code, name in (names or {}).items() if " " in name}
    known = {**{code: (code, code) for code in names or {}}, **former, **today}
    cities = Counter(city for city, _ in known.values())
    return {code: (code, nickname, city if cities[city] == 1 else nickname) for code, (city, nickname) in known.items()}


def test_prompts(config: NbaTaskConfig, databases: Sequence[Path], workers: int) -> QuestionSet:
    """The test set: 40% new fillings of seen templates, 60% templates no training question has.

    It is drawn once in a process: everything that keeps away from its questions asks for it.
    """
    return _test_set(config, tuple(databases), workers)


@lru_cache(maxsize=2)
def _test_set(config: NbaTaskConfig, databases: tuple[Path, ...], workers: int) -> QuestionSet:
    unseen = round(UNSEEN_SHARE * config.test_questions)
    totals = {True: unseen, False: config.test_questions - unseen}
    return _collect(config, databases, workers, "test", totals, TEST_SEED, frozenset(), PER_TEMPLATE)


def train_prompts(
    config: NbaTaskConfig, databases: Sequence[Path], workers: int, seed: int, forbidden: Iterable[str]
) -> QuestionSet:
    """Training questions of seen templates, none of whose normalised texts is in `forbidden`."""
    totals = {False: config.train_questions}
    return _collect(config, databases, workers, "train", totals, seed, frozenset(forbidden), config.train_questions)


Kind = tuple[bool, str]
"""Held out or not, and the family."""


def _quotas(totals: dict[bool, int], shares: dict[str, float]) -> dict[Kind, int]:
    """Questions of each kind, by the families' shares; what rounding leaves goes to the largest remainders."""
    quotas: dict[Kind, int] = {}
    for held_out, total in totals.items():
        exact = {family: total * share / sum(shares.values()) for family, share in shares.items()}
        counts = {family: int(value) for family, value in exact.items()}
        for family in sorted(exact, key=lambda f: counts[f] - exact[f])[: total - sum(counts.values())]:
            counts[family] += 1
        quotas |= {(held_out, family): count for family, count in counts.items()}
    return quotas


def _collect(
    config: NbaTaskConfig,
    databases: Sequence[Path],
    workers: int,
    split: str,
    totals: dict[bool, int],
    seed: int,
    forbidden: frozenset[str],
    per_template: int,
) -> QuestionSet:
    """Draw in batches, audit each, and take the accepted until every quota is full."""
    rng = np.random.default_rng([seed, {"train": 1, "test": 2}[split]])
    world = LeagueWorld(databases[0], measured=config.database is not None, shown=config.database)
    words = team_words(world.names if config.database else None)
    shares = askable(world)
    quotas, largest = _quotas(totals, shares), max(shares, key=lambda family: shares[family])
    audit, taken, texts = Audit(), list[Question](), set(forbidden)
    left, per = dict(quotas), Counter[str]()
    stalled: Counter[Kind] = Counter()
    total = sum(quotas.values())
    with (
        SandboxPool(databases, workers, Limits(rows=20_000)) as pool,
        progress(f"{split} questions", total, "questions") as advance,
    ):
        for _ in range(PATIENCE):
            before = dict(left)
            batch = _drawn(rng, world, words, left, per, per_template, texts, audit)
            for start in range(0, BATCH, AUDITED_AT_ONCE):
                wanted = [q for q in batch[start : start + AUDITED_AT_ONCE] if _has_place(q, left, per, per_template)]
                for question in _audited(wanted, pool, len(databases), audit):
                    if _has_place(question, left, per, per_template):
                        left[question.held_out, question.family] -= 1
                        per[question.template] += 1
                        taken.append(question)
                        advance(1)
            _release_stalled(left, before, stalled, largest, audit)
            if not any(left.values()):
                audit.accepted = len(taken)
                invented = config.database is not None and any(synthetic_games(databases[0]))
                return QuestionSet(tuple(_prompt(q, config, split, invented) for q in taken), audit.summary())
    raise DataError(
        f"only {len(taken)} of {total} {split} questions could be drawn: ask for fewer (task.{split}_questions)"
    )


def _has_place(question: Question, left: dict[Kind, int], per: Counter[str], per_template: int) -> bool:
    return left.get((question.held_out, question.family), 0) > 0 and per[question.template] < per_template


def _release_stalled(
    left: dict[Kind, int], before: dict[Kind, int], stalled: Counter[Kind], largest: str, audit: Audit
) -> None:
    """A kind whose templates are used up gives its places to the largest family."""
    for kind, count in left.items():
        held_out, family = kind
        stalled[kind] = stalled[kind] + 1 if count and count == before[kind] else 0
        if stalled[kind] == STALLED_BATCHES and family != largest:
            left[held_out, largest] += count
            left[kind] = 0
            audit.rejected[f"places of family {family} given to {largest}"] += count


def _drawn(
    rng: np.random.Generator,
    world: LeagueWorld,
    words: TeamWords,
    left: dict[Kind, int],
    per: Counter[str],
    per_template: int,
    texts: set[str],
    audit: Audit,
) -> list[Question]:
    batch: list[Question] = []
    families: Counter[str] = Counter()
    for (_, family), count in left.items():
        families[family] += count
    for _ in range(BATCH * DRAWS_PER_PLACE):
        if len(batch) == BATCH:
            break
        question = draw_question(rng, draw_family(rng, families), world, words)
        text = normalised(question.text)
        if not _has_place(question, left, per, per_template):
            continue
        if text in texts:
            audit.rejected["duplicate text"] += 1
            continue
        texts.add(text)
        batch.append(question)
    return batch


def _audited(batch: list[Question], pool: SandboxPool, databases: int, audit: Audit) -> Iterable[Question]:
    asked = {i: question.query for i, question in enumerate(batch) if question.query is not None}
    results = iter(pool.run([(n, query.sql(limited=False)) for query in asked.values() for n in range(databases)]))
    golds = {i: [next(results) for _ in range(databases)] for i in asked}
    objections = {i: _objection(batch[i], golds[i]) for i in asked}
    sound = {i: query for i, query in asked.items() if not objections[i]}
    objections |= dict.fromkeys(_mistaken(batch, sound, golds, pool), "a common mistake gives the same result")
    for i, question in enumerate(batch):
        if reason := objections.get(i):
            audit.rejected[reason] += 1
        else:
            yield question


def _objection(question: Question, golds: list[QueryResult]) -> str:
    if any(gold.status != "ok" for gold in golds):
        return "gold does not run"
    if any(not gold.rows or all(cell is None for cell in gold.rows[0]) for gold in golds):
        return "gold is empty"
    if any(len(gold.rows) > LARGEST_GOLD for gold in golds) and "top_k" not in question.comparison:
        return "gold is too long"
    return ""


def _mistaken(
    batch: list[Question], queries: dict[int, Query], golds: dict[int, list[QueryResult]], pool: SandboxPool
) -> set[int]:
    """Places of the questions of which a common mistake gives the gold's result on every database.

    A mistake that shows on one database is not run on the next: most show on the first.
    """
    specs = {i: ComparisonSpec.from_dict(batch[i].comparison) for i in queries}
    left = [(i, commit_fault(query, fault).sql()) for i, query in queries.items() for fault in applicable(query)]
    for database in range(max(map(len, golds.values()), default=0)):
        results = pool.run([(database, sql) for _, sql in left])
        left = [
            (i, sql)
            for (i, sql), found in zip(left, results, strict=True)
            if found.status == "ok" and compare(golds[i][database].rows, found.rows, specs[i]).equal
        ]
    return {i for i, _ in left}


def _prompt(question: Question, config: NbaTaskConfig, split: str, invented: bool) -> Prompt:
    """A question as a prompt; one about players says so where the league's players are invented."""
    query = question.query
    gold = query.sql() if query else None
    system = system_message(config.schema_in_prompt)
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    meta = {
        "question": question.text,
        "family": question.family,
        "intent": question.intent,
        "template": question.template,
        "register": question.register,
        "seen": not question.held_out,
        "answerable": query is not None,
        "trap": question.primary_fault,
        "gold_sql": gold,
        **({"league": Path(config.database).name} if config.database else {}),
        **({"synthetic": "players"} if invented and "player_box_scores" in (gold or "") else {}),
        "gold_plan": question.plan(),
        "gold_length": len(render_answer(question.plan(), gold)),
        "compare_sql": query.sql(limited=False) if query else None,
        "comparison": question.comparison,
    }
    return Prompt.create((*messages, {"role": "user", "content": question.text}), NAME, split, meta)

"""Answers in files judged: what `prefloop judge` and Python users call; slice by slice, counted as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefloop.config.engine import LOCAL, EngineSection
from prefloop.config.judges import EnsembleConfig, ExecutionConfig, JudgeConfig, LLMConfig, PeopleConfig, with_members
from prefloop.errors import ConfigError, DataError, JudgeError
from prefloop.judging.groups import Asked, Judge, SpreadJudge, altered
from prefloop.judging.open import open_judge
from prefloop.loop.prompt_files import each_prompt, prompt_ids, require_gold, require_league
from prefloop.loop.software import set_threads
from prefloop.progress import progress
from prefloop.records import Completion, Judgement, Prompt
from prefloop.sql.databases import frozen
from prefloop.sql.databases import identity as identity_of
from prefloop.sql.postgres import is_postgres
from prefloop.store.files import cache_folder, file_hash, unused
from prefloop.store.grouped import Grouping, Table
from prefloop.store.journal import Journal, journal_beside
from prefloop.store.objects import fetched
from prefloop.store.tables import records_file

ANSWERS = 8_192
"""Answers that are held and judged at once: files below that are judged in one go."""
SPREAD = 8
"""Slices that Ray's workers, which each load the judge, are started for at once."""


def judge_file(
    prompts: Path,
    completions: Path,
    out: Path,
    config: JudgeConfig,
    *,
    databases: Sequence[Path | str] = (),
    resume: bool = False,
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> dict[str, Any]:
    """Judgements of the completions of a file, written to `out`; returns counts and mean objectives.

    Args:
        databases: SQLite files on which gold and answer must agree, copied first, or PostgreSQL URLs, which stay as
            they are; default the task's two leagues. For the execution judge alone.
        engine: this process, or Ray's workers; interrupted work of one is taken up by the other.
        threads: of this process or of each worker; 0: torch's choice, or the cluster's cores shared out.

    Raises:
        ConfigError: databases, an engine or threads without effect.
        JudgeError: a PostgreSQL database changed meanwhile; no judgement is kept.
        DataError: no answer, one to a prompt that is not given, or for execution one to a prompt without a gold.
    """
    _check_engine(config, engine, threads)
    prompts, completions, out = fetched(Path(prompts)), fetched(Path(completions)), Path(out)
    _check_databases(prompts, config, databases)
    groups = answer_groups(prompt_ids(prompts), completions, config)
    if unknown := groups.unknown[0]:
        raise DataError(f"{completions} answers prompt {unknown[0]}, which {prompts} does not hold")
    if not groups.rows[0]:
        raise DataError(f"{completions} has no answer to judge: give a file with answers, as generate writes it")
    if any(isinstance(member, ExecutionConfig) for member in with_members(config)):
        require_gold(each_prompt(prompts), completions)
    unused(out)
    opened = frozen(databases, cache_folder() / "databases")
    names = [identity_of(database) for database in opened]
    inputs = [file_hash(prompts), file_hash(completions), names]
    if threads:
        set_threads(threads)
    tally, work = JudgementTally(), out.with_name(f".{out.name}.parts")
    with (
        journal_beside(out, resume, [inputs, config.model_dump(mode="json")]) as journal,
        open_judge(config, opened, engine=engine, threads=threads) as judge,
        records_file(out, Judgement) as write,
    ):
        for some in judged_slices(judge, config, groups, each_prompt(prompts), journal, work, tally):
            write(some)
        name = judge.name
        if names != [identity_of(database) for database in opened]:
            journal.remove()
            raise JudgeError(
                "a database changed while it was judged: judge again when nobody writes to it, or a copy of it"
            )
    return {"judge": name, **tally.summary()}


def _check_engine(config: JudgeConfig, engine: EngineSection, threads: int) -> None:
    """Refuse what says where to compute, where nothing is computed: the judge is only asked."""
    judges = [member for member in with_members(config) if not isinstance(member, EnsembleConfig)]
    if (engine.name, threads) != ("local", 0) and all(
        isinstance(judge, PeopleConfig) or getattr(judge, "endpoint", None) for judge in judges
    ):
        who = "people" if isinstance(config, PeopleConfig) else "an endpoint"
        raise ConfigError(f"engine and threads have no effect with a judge that is {who}: it is only asked")


def _check_databases(prompts: Path, config: JudgeConfig, databases: Sequence[Path | str]) -> None:
    """Refuse databases that would have no effect, and questions that need others."""
    if isinstance(config, ExecutionConfig):
        require_league(each_prompt(prompts), databases)
    elif databases:
        raise ConfigError(f"--database has no effect with judge.name={config.name}: only execution runs SQL")
    if databases and all(map(is_postgres, databases)) and "opcodes" in config.model_fields_set:
        raise ConfigError(
            "judge.opcodes has no effect on PostgreSQL: the role's statement_timeout limits a query there"
        )


def answer_groups(prompts: pa.Array, completions: Path, config: JudgeConfig) -> Grouping:
    """Prompts, by their ids, with the answers in a file, as slices that a judge takes one after the other.

    One slice for people, who say of all prompts whether they are done. The engine has no part in it: chunks are cut
    inside a slice, and a journal begun by one engine is taken up by the other.
    """
    whole = any(isinstance(member, PeopleConfig) for member in with_members(config))
    answers = Table(completions, Completion, without=("token_ids", "logprobs"))  # judges read text
    return Grouping(prompts, [answers], None if whole else ANSWERS)


def judged_slices(
    judge: Judge,
    config: JudgeConfig,
    groups: Grouping,
    prompts: Iterable[Prompt],
    journal: Journal,
    work: Path,
    tally: JudgementTally,
    label: str = "judge",
) -> Iterator[list[Judgement]]:
    """Judgements of each slice; one progress over all of them.

    Args:
        config: the judge's.
        work: folder for parted files.
        tally: counts them.

    Raises:
        JudgeError: the judge could judge nothing at all.
    """
    members = with_members(config)
    judges = sum(not isinstance(member, EnsembleConfig) for member in members)  # each sees every answer
    counted = len(groups) > 1 and not any(isinstance(member, LLMConfig) for member in members)  # which counts requests
    with progress(label, judges * groups.rows[0], "answers", parts=True) if counted else nullcontext():
        parts = ((part.prompts, part.rows[0]) for part in groups.slices(prompts, work) if part.rows[0])
        for found in _judged(judge, parts, journal, label):
            tally.add(found)
            yield found
    tally.require_scored(judge.name)


def _judged(judge: Judge, slices: Iterator[Asked], journal: Journal, label: str) -> Iterator[list[Judgement]]:
    if isinstance(judge, SpreadJudge):
        while some := list(islice(slices, SPREAD)):
            yield judge.judge_slices(some, journal=journal, label=label)
    else:
        for prompts, answers in slices:
            yield judge.judge(prompts, answers, journal=journal, label=label)


class JudgementTally:
    """Counts and means of judgements that come some at a time."""

    def __init__(self) -> None:
        self._count = self._scored = 0
        self._total = 0.0
        self._objectives: dict[str, tuple[int, float]] = {}
        self._why: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._altered: Counter[str] = Counter()

    def add(self, judgements: Sequence[Judgement]) -> None:
        """Count some more."""
        self._count += len(judgements)
        self._altered.update(altered(judgements))
        for judgement in judgements:
            if "status" in judgement.raw:
                self._statuses[judgement.raw["status"]] += 1
            if judgement.value is None:
                self._why[str(judgement.raw.get("error") or judgement.raw.get("status") or "no score")] += 1
            elif judgement.kind == "score":
                self._scored += 1
                self._total += judgement.value
                for name, value in judgement.objectives.items():
                    count, total = self._objectives.get(name, (0, 0.0))
                    self._objectives[name] = count + 1, total + value

    def require_scored(self, judge: str) -> None:
        """Stop where the judge could judge nothing at all.

        Raises:
            JudgeError: carries the commonest reason.
        """
        if self._count and sum(self._why.values()) == self._count:
            ((reason, count),) = self._why.most_common(1)
            raise JudgeError(f"{judge} scored none of {self._count:,} answers; {count:,} times: {reason}")

    def summary(self) -> dict[str, Any]:
        """Counts, mean score and mean of each objective, over what was scored."""
        return {
            "judgements": self._count,
            "unscored": sum(self._why.values()),
            "altered": dict(self._altered),
            "why": dict(self._why.most_common()),
            "mean_score": self._total / self._scored if self._scored else None,
            "objectives": {name: total / count for name, (count, total) in sorted(self._objectives.items())},
            "statuses": dict(self._statuses.most_common()),
        }

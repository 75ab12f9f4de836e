"""Judging a file of answers of any size: slice by slice, counted as it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefloop.config.judges import EnsembleConfig, JudgeConfig, LLMConfig
from prefloop.errors import JudgeError
from prefloop.judging.groups import Judge, altered
from prefloop.progress import progress
from prefloop.records import Judgement, Prompt
from prefloop.store.grouped import Grouping
from prefloop.store.journal import Journal

ANSWERS = 8_192
"""Answers that are held and judged at once: files below that are judged in one go."""


def judged_slices(
    judge: Judge,
    members: Sequence[JudgeConfig],
    groups: Grouping,
    prompts: Iterable[Prompt],
    journal: Journal,
    work: Path,
) -> Iterator[list[Judgement]]:
    """Judgements of each slice; one progress over all of them.

    Args:
        members: the judge's settings, and those of an ensemble's members, each of which sees every answer.
        work: folder for parted files.
    """
    judges = sum(not isinstance(member, EnsembleConfig) for member in members)
    counted = len(groups) > 1 and not any(isinstance(member, LLMConfig) for member in members)  # which counts requests
    with progress("judge", judges * groups.rows[0], "answers", parts=True) if counted else nullcontext():
        for part in groups.slices(prompts, work):
            if part.rows[0]:
                yield judge.judge(part.prompts, part.rows[0], journal=journal)


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

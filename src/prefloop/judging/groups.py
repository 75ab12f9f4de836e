"""What a judge is, and how judges go through prompts with their answers: in chunks that a journal keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from prefloop.errors import JudgeError
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.store.journal import Journal, work_through

Databases = Sequence[Path | str] | Mapping[str, Sequence[Path | str]]
"""SQLite files or PostgreSQL URLs on all of which an answer has to be right; or several such sets by name."""

Asked = tuple[Sequence[Prompt], Sequence[Completion]]
"""Prompts, and answers to them in any order: a slice of a file."""

Answered = tuple[Prompt, list[Completion]]
"""A prompt with its answers, in the order given."""


class Judge(Protocol):
    """Scores or compares the answers of prompts. A context manager: what it holds open ends with it.

    A single answer that cannot be judged gets a judgement whose value is None and whose ``raw["error"]`` says why.
    """

    @property
    def name(self) -> str:
        """What its judgements are signed with."""
        ...

    def __enter__(self) -> Judge: ...

    def __exit__(self, *exception: object) -> None: ...

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """Judgements by prompt, in the order of `prompts`; scores of one prompt in the order of `completions`.

        Args:
            journal: finished chunks are kept there and not judged again.

        Raises:
            JudgeError: the judge failed as a whole.
        """
        ...


@runtime_checkable
class SpreadJudge(Judge, Protocol):
    """A judge that starts anew for what it is given, which takes a while: several slices at once, therefore."""

    def judge_slices(
        self, slices: Sequence[Asked], *, journal: Journal | None = None, label: str = "judge"
    ) -> list[Judgement]:
        """The judgements of each slice, one after the other, as `judge` gives them."""
        ...


class ChunkedJudge(ABC):
    """A judge that takes prompts in chunks, each on its own; what it makes of one is all that such judges differ in."""

    name: str
    identity: str
    """Of all that decides a verdict; known before the judge is entered."""
    per_chunk: int
    """Prompts of a chunk."""

    @abstractmethod
    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """Judgements of some prompts' answers, in their order."""

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """As in `Judge`: what `judge_chunk` says of every prompt with answers."""
        return judge_chunks(
            self.identity,
            self.judge_chunk,
            prompts,
            completions,
            per_chunk=self.per_chunk,
            journal=journal,
            label=label,
        )


def judge_chunks(
    judge: str,
    judge_chunk: Callable[[list[Answered]], list[Judgement]],
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    *,
    per_chunk: int,
    journal: Journal | None,
    label: str,
) -> list[Judgement]:
    """Judgements of all prompts that have answers, `per_chunk` prompts at a time.

    Args:
        judge: identity of all that decides a verdict; a journal's work of another judge is not taken up.
        judge_chunk: judgements of some prompts' answers, in their order.
        journal: keeps chunks by content. Those of which nothing could be judged are tried again.
    """

    def work(chunks: dict[str, list[Answered]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        for key, chunk in chunks.items():
            yield key, [asdict(judgement) for judgement in judge_chunk(chunk)]

    return judge_through(judge, work, [(prompts, completions)], per_chunk=per_chunk, journal=journal, label=label)


def judge_through(
    judge: str,
    work: Callable[[dict[str, list[Answered]]], Iterable[tuple[str, list[dict[str, Any]]]]],
    slices: Sequence[Asked],
    *,
    per_chunk: int,
    journal: Journal | None,
    label: str,
) -> list[Judgement]:
    """`judge_chunks` by whatever works chunks off: `work` yields each key with its judgements (as JSON values).

    Args:
        slices: prompts with their answers; no chunk reaches over the end of one.
    """
    cut = [chunk for asked in slices for chunk in batched(answered(*asked), per_chunk)]
    chunks = [(_key(judge, chunk), chunk) for chunk in cut]
    found = dict(
        work_through(
            dict(chunks),
            work,
            journal,
            label=label,
            unit="answers",
            size=lambda chunk: sum(len(answers) for _, answers in chunk),
            worth=lambda rows: any(row["value"] is not None for row in rows),
        )
    )
    return [_from_json(row) for key, _ in chunks for row in found[key]]


def answered(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> list[Answered]:
    """The prompts that have answers, with them."""
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion)
    return [(prompt, groups[prompt.id]) for prompt in prompts if prompt.id in groups]


def require_scored(judgements: Sequence[Judgement]) -> None:
    """Stop where a judge could judge nothing at all.

    Raises:
        JudgeError: carries the commonest reason.
    """
    if judgements and all(judgement.value is None for judgement in judgements):
        reasons = Counter(str(j.raw.get("error") or j.raw.get("status") or "no score") for j in judgements)
        (reason, count), *_ = reasons.most_common(1)
        raise JudgeError(f"{judgements[0].judge} scored none of {len(judgements):,} answers; {count:,} times: {reason}")


def altered(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many answers a judge did not see as they are: cut at its limit, or with its own marker texts taken out."""
    cut = sum(bool((j.raw.get("cut") or {}).get("answer")) for j in judgements)
    marked = sum(
        bool(j.raw.get("markers_replaced") or (j.raw.get("sanitised") or {}).get("answer")) for j in judgements
    )
    return {name: count for name, count in (("answers cut", cut), ("answers with markers taken out", marked)) if count}


def batched(asked: Sequence[Answered], size: int) -> list[list[Answered]]:
    """Consecutive chunks."""
    return [list(asked[start : start + size]) for start in range(0, len(asked), size)]


def _key(judge: str, chunk: Sequence[Answered]) -> str:
    content = [[asdict(prompt), [[a.id, a.text] for a in answers]] for prompt, answers in chunk]
    return content_id(judge, repr(content))  # as Python writes it: texts may hold what UTF-8 cannot


def _from_json(row: dict[str, Any]) -> Judgement:
    row["completion_ids"] = tuple(row["completion_ids"])
    row["ranking"] = tuple(tuple(tier) for tier in row["ranking"])
    return Judgement(**row)

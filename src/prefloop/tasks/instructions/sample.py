"""Prompts drawn from a source: the same ones for the same seed, whatever the order of its rows."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, DataError
from prefloop.progress import note
from prefloop.records import Message, Prompt, canonical_json, content_id
from prefloop.store.files import file_hash
from prefloop.store.rows import BadRow, BadRowError, read_rows
from prefloop.tasks.instructions.layouts import Question, Turns, read_question
from prefloop.tasks.instructions.sources import Source, open_source

TASK = "instructions"
TEST_SEED = 90_210
"""The test prompts are the same for every seed."""
LONG = 32_000
"""Characters from which a prompt is counted as long: about 8,000 tokens. It is kept."""


@dataclass(frozen=True)
class InstructionSet:
    """Prompts of both splits, and what became of every row."""

    prompts: tuple[Prompt, ...]
    """Those for training first. No text of one split is in the other, ignoring case and spacing."""
    counts: dict[str, dict[str, int]]
    """By split: rows read, accepted, not drawn, and turned away by reason."""
    bad: tuple[BadRow, ...]
    """Every row that gave no prompt, with its line and the reason; repeated prompts among them."""
    origin: str
    """Where the prompts are from and under which terms, for cards."""
    hashes: dict[str, str]
    """SHA-256 of each file by name."""


@dataclass
class _Pool:
    """The different prompts of one split by normalised text."""

    questions: dict[str, Prompt] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    bad: list[BadRow] = field(default_factory=list)


def instruction_prompts(source: str, *, train: int, test: int, seed: int, turns: Turns = "first") -> InstructionSet:
    """Draw prompts: the test split first, from the source's own where it has one, then others for training.

    The test split is the same for every seed.
    A prompt's place in the draw is a hash of seed and content: rows in another order give the same prompts, and a
    larger number gives the same ones and more.

    Args:
        source: as in `sources.open_source`.
        train, test: numbers of prompts.
        turns: of a conversation: its first user turn, or all up to the last one that is answered.

    Raises:
        ConfigError: an unknown source, numbers below 0, or turns that are neither.
        DataError: the source cannot be read, or has too few prompts.
    """
    if train < 0 or test < 0 or turns not in ("first", "all"):
        raise ConfigError(f"train={train}, test={test}, turns={turns!r}: give numbers from 0, and turns first or all")
    found = open_source(source)
    pools = {split: _read(found, split, turns) for split in found.files}
    held = pools.get("test", pools["train"])
    chosen = {"test": _drawn(held, test, TEST_SEED, f"{source} for testing")}
    _exclude(pools["train"], pools["test"].questions if "test" in pools else chosen["test"], own_split="test" in pools)
    chosen["train"] = _drawn(pools["train"], train, seed, f"{source} for training")
    prompts = tuple(_in_split(prompt, split) for split in ("train", "test") for prompt in chosen[split].values())
    bad = tuple(each for pool in pools.values() for each in pool.bad)
    _say(found.name, bad)
    return InstructionSet(
        prompts,
        {split: _summary(pools.get(split), len(chosen[split])) for split in ("train", "test")},
        bad,
        found.origin,
        {path.name: file_hash(path) for paths in found.files.values() for path in paths},
    )


def normalised(messages: tuple[Message, ...]) -> str:
    """What is said in a prompt as it is compared: lower case, single spaces, no system message.

    Punctuation stays: "3 + 4" is not "3 - 4".
    """
    said = "\n".join(message["content"] for message in messages if message["role"] != "system")
    return " ".join(unicodedata.normalize("NFC", said).casefold().split())


def _read(source: Source, split: str, turns: Turns) -> _Pool:
    pool = _Pool()
    alike: dict[str, list[tuple[Prompt, BadRow]]] = {}
    for path, line, row in _rows(source.files[split]):
        pool.counts["rows read"] += 1
        try:
            question = read_question(row, turns)
        except BadRowError as error:
            pool.bad.append(BadRow(path.name, line, str(error)))
            continue
        if question.note:
            pool.counts[question.note] += 1
        place = BadRow(path.name, line, "says the same as another row")
        alike.setdefault(normalised(question.messages), []).append((_prompt(source, question), place))
    for key, members in alike.items():
        _keep_one(pool, key, members)
    pool.bad.sort(key=lambda each: (each.file, each.line))
    for each in pool.bad:
        pool.counts[f"not used: {each.reason_kind}"] += 1
    pool.counts[f"longer than {LONG:,} characters"] += sum(map(_is_long, pool.questions.values()))
    _check_rows(source, split, pool.counts["rows read"])
    return pool


def _rows(paths: tuple[Path, ...]) -> Iterator[tuple[Path, int, Any]]:
    for path in paths:
        for line, row in read_rows(path):
            yield path, line, row


def _keep_one(pool: _Pool, key: str, members: list[tuple[Prompt, BadRow]]) -> None:
    """Of rows that ask the same, the one kept does not depend on their order."""
    kept = min(members, key=lambda member: (member[0].id, canonical_json(member[0].meta)))
    pool.questions[key] = kept[0]
    for _, place in members:
        if place is not kept[1]:
            where = f"line {kept[1].line}" + (f" of {kept[1].file}" if kept[1].file != place.file else "")
            pool.bad.append(BadRow(place.file, place.line, f"{place.reason} ({where})"))


def _prompt(source: Source, question: Question) -> Prompt:
    meta = {
        "source": question.source or source.name,
        "category": question.category,
        "reference": question.reference,
        "license": source.license,
    }
    return Prompt.create(question.messages, TASK, "train", {key: value for key, value in meta.items() if value})


def _is_long(prompt: Prompt) -> bool:
    return sum(len(message["content"]) for message in prompt.messages) > LONG


def _check_rows(source: Source, split: str, rows: int) -> None:
    expected = source.rows.get(split, rows)
    if rows != expected:
        note(f"{source.name}: {rows:,} rows in the {split} split where {expected:,} are known: its files have changed")


def _exclude(pool: _Pool, taken: Mapping[str, Prompt], own_split: bool) -> None:
    shared = [key for key in pool.questions if key in taken]
    for key in shared:
        del pool.questions[key]
    if own_split:
        pool.counts["not used: in the test split, too"] += len(shared)


def _drawn(pool: _Pool, count: int, seed: int, what: str) -> dict[str, Prompt]:
    if len(pool.questions) < count:
        why = "; ".join(f"{each.file}, line {each.line}: {each.reason}" for each in pool.bad[:3])
        raise DataError(
            f"{what} has {len(pool.questions):,} different prompts left, but {count:,} are asked for: ask for fewer"
            + (f" ({len(pool.bad):,} rows gave none: {why})" if why else "")
        )
    ranked = sorted(pool.questions.items(), key=lambda item: content_id("draw", seed, item[1].id))
    return dict(ranked[:count])


def _in_split(prompt: Prompt, split: str) -> Prompt:
    return Prompt(prompt.id, prompt.messages, prompt.task, split, prompt.meta)


def _summary(pool: _Pool | None, accepted: int) -> dict[str, int]:
    """Counts of a split; of one without rows of its own, the prompts taken from the other."""
    if pool is None:
        return {"accepted": accepted}
    rest = {"not drawn": len(pool.questions) - accepted, **pool.counts}
    return {"accepted": accepted, **{key: count for key, count in sorted(rest.items()) if count}}


def _say(name: str, bad: tuple[BadRow, ...]) -> None:
    if bad:
        first = "; ".join(f"{each.file}, line {each.line}: {each.reason}" for each in bad[:3])
        note(f"{name}: {len(bad):,} rows give no prompt of their own: {first}{'; …' if len(bad) > 3 else ''}")

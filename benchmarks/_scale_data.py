"""Data for `benchmarks/scale.py`: prompts with eight answers each, of any number, made a few thousand at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path

from prefloop.records import Completion, Prompt
from prefloop.store.tables import records_file, write_records

ANSWERS = 8
"""To each prompt."""
TESTS = 1_000
"""Prompts of the test set, of which every tenth is also asked in training."""
AT_ONCE = 1_024
SYLLABLES = ("bdfgklmnprst", "aeiou", ("l", "nd", "r", "st", "x"))
WORDS = ["".join(parts) for parts in product(*SYLLABLES)]
POLICY, SAMPLING = "made", {"temperature": 1.0}


def judge(prompt: Prompt, answers: list[str]) -> list[float]:
    """A cheap judge: the answer nearest to 300 characters is best."""
    return [-abs(len(answer) - 300) for answer in answers]


def make(folder: Path, completions: int) -> None:
    """Write ``prompts.parquet``, ``completions.parquet`` and ``test.parquet``."""
    prompts = _prompts(random.Random(1), -(-completions // ANSWERS))
    with (
        records_file(folder / "prompts.parquet", Prompt) as to_prompts,
        records_file(folder / "completions.parquet", Completion) as to_completions,
    ):
        while some := list(islice(prompts, AT_ONCE)):
            to_prompts(some)
            to_completions(answer for prompt in some for answer in _answers(prompt))
    asked = islice(_prompts(random.Random(1), TESTS), 0, None, 10)  # the first of the training prompts, again
    fresh = islice(_prompts(random.Random(2), TESTS), TESTS - TESTS // 10)
    tests = [Prompt.create(prompt.messages, "test", "test") for prompt in (*asked, *fresh)]
    write_records(folder / "test.parquet", tests, Prompt)


def _prompts(rng: random.Random, count: int) -> Iterator[Prompt]:
    for _ in range(count):
        text = " ".join(rng.choices(WORDS, k=rng.randint(10, 30)))
        yield Prompt.create(({"role": "user", "content": text},), "made", "train")


def _answers(prompt: Prompt) -> Iterator[Completion]:
    rng = random.Random(prompt.id)
    for index in range(ANSWERS):
        words = rng.choices(WORDS, k=rng.randint(20, 100))
        tokens = tuple(rng.choices(range(32_000), k=len(words)))
        logprobs = tuple(-rng.random() for _ in tokens)
        identity = Completion.make_id(prompt.id, POLICY, SAMPLING, 1, 0, index)
        yield Completion(identity, prompt.id, index, 0, " ".join(words), tokens, logprobs, "stop", POLICY, SAMPLING, 1)

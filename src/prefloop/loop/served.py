"""Answers of a model behind an endpoint to any number of prompts; what asks it needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from prefloop.config.sampling import Sampling
from prefloop.generation.endpoint import EndpointClient
from prefloop.generation.remote import generate_from_endpoint, note_drops, require_distinct
from prefloop.progress import progress
from prefloop.records import Completion, Prompt
from prefloop.store.journal import Journal

ANSWERS = 8_192
"""Asked for before they are handed over."""


def served_answers(
    client: EndpointClient, prompts: Sequence[Prompt], sampling: Sampling, seed: int, journal: Journal, round_: int = 0
) -> Iterator[list[Completion]]:
    """Answers in the order of the prompts, some at a time; raises as `generate_from_endpoint`."""
    require_distinct(prompts)
    each = len(sampling.indices)
    size = max(1, ANSWERS // each)
    drops: Counter[str] = Counter()
    with progress("generate", len(prompts) * each, "requests", parts=True):
        for start in range(0, len(prompts), size):
            some = prompts[start : start + size]
            yield generate_from_endpoint(client, some, sampling, seed=seed, round_=round_, journal=journal, drops=drops)
    note_drops(drops, "generate")

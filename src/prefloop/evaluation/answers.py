"""What is compared: the answers of one checkpoint. Apart from the statistics, whose import takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.records import Completion, Judgement


@dataclass(frozen=True)
class Answers:
    """What one checkpoint answered: greedy on every question, samples on some, and the judgements."""

    greedy: Sequence[Completion]
    greedy_judgements: Sequence[Judgement]
    sampled: Sequence[Completion]
    sampled_judgements: Sequence[Judgement]

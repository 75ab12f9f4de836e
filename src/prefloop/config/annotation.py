"""Settings of an annotation project: how many people judge an item, what they are asked, and which items come first."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from prefloop.config.section import Section

Kind = Literal["pairwise", "ranking"]


class SelectionConfig(Section):
    """Which items are asked first, and how the answers of a prompt become items."""

    strategy: Literal["mix", "random", "in-order", "d-optimal"] = Field(
        "mix", description="mix: random, moderate gaps and disagreement of judges; d-optimal: by --features"
    )
    random_share: float = Field(0.5, ge=0, le=1, description="of the mix, drawn at random")
    gap_share: float = Field(0.3, ge=0, le=1, description="of the mix, pairs with a moderate predicted gap")
    pairs_per_prompt: int = Field(1, ge=1, description="pairwise items made of one prompt's answers")
    ranked: int = Field(4, ge=3, le=9, description="answers in one ranking")
    items: int | None = Field(
        None, ge=1, description="items in all; fewer than the prompts give: those that the strategy prefers come first"
    )
    identical: float = Field(
        0.05, ge=0, le=1, description="share kept of pairs with the same result and nearly the same text"
    )

    @model_validator(mode="after")
    def _a_mix(self) -> SelectionConfig:
        if self.random_share + self.gap_share > 1 + 1e-9:
            raise ValueError("random_share and gap_share are at most 1 together: the rest goes to disagreement")
        return self


class StopConfig(Section):
    """When enough has been judged; the queue also ends when every item has its target."""

    judgements: int | None = Field(None, ge=1, description="stop after so many judgements")
    agreement_width: float | None = Field(None, gt=0, description="stop when the 95% interval of alpha is so narrow")
    preference_width: float | None = Field(
        None, gt=0, description="stop when the 95% interval of each policy's strength is so narrow (logits)"
    )


class AnnotationConfig(Section):
    """One project: its protocol (docs/annotation.md)."""

    name: str = Field("annotation", min_length=1, max_length=80, description="shown to raters")
    kind: Kind = Field("pairwise", description="two answers, or a ranking of several")
    overlap: int = Field(3, ge=1, le=50, description="people who judge an item")
    overlap_sample: float = Field(0.0, ge=0, le=1, description="share of the items that more people judge")
    overlap_target: int = Field(3, ge=2, le=50, description="people who judge an item of that share")
    extra_raters: int = Field(2, ge=0, le=10, description="more where they disagree, or a judge disagrees with them")
    lease_minutes: float = Field(15, gt=0, description="an item is held for one rater so long, renewed by activity")
    gold_share: float = Field(0.05, ge=0, le=0.5, description="of the stream: items with a known answer, hidden")
    repeat_share: float = Field(0.05, ge=0, le=0.5, description="of the stream: own items again, sides swapped")
    objectives: tuple[str, ...] = Field((), max_length=8, description="each is rated apart: first, second or equal")
    edits: bool = Field(True, description="raters may correct an answer")
    guidelines: str = Field("", description="Markdown, shown before the first item")
    consent: str = Field("", description="what raters agree to; kept with its hash")
    qualification: float = Field(0.0, ge=0, le=1, description="share of calibration items to get right; 0: none needed")
    break_minutes: int = Field(45, ge=0, description="suggest a break after so much work; 0: never")
    reveals: tuple[str, ...] = Field((), description="regular expressions: an answer that matches names its model")
    skips: int = Field(3, ge=1, description="an item skipped so often is set aside")
    sql: Path | None = Field(None, description="SQLite file on which answers and corrections are run")
    selection: SelectionConfig = SelectionConfig()
    stop: StopConfig = StopConfig()
    seed: int = Field(1, description="of the choice of items; sides are drawn from a secret of the project")

    @field_validator("reveals")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
        return patterns

    @model_validator(mode="after")
    def _a_larger_sample(self) -> AnnotationConfig:
        if self.overlap_sample and self.overlap_target <= self.overlap:
            raise ValueError(
                f"overlap_target is {self.overlap_target}, no more than overlap ({self.overlap}): a share of the items "
                "is judged by more people only where it is larger; leave overlap_sample at 0, or lower overlap"
            )
        return self

    def overlap_of(self, item_id: str) -> int:
        """People who judge an item at first. The sample is drawn by a hash of seed and item, so it needs no record."""
        digest = hashlib.sha256(f"overlap:{self.seed}:{item_id}".encode()).digest()
        drawn = (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # uniform in [0, 1)
        return self.overlap_target if drawn < self.overlap_sample else self.overlap

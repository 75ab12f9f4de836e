"""What a rater says of an item, as it comes over the wire and as it is read back.

A choice is said of the order shown: 1 the left answer is much better, 2 better, 3 about equal, 4 the right one is
better, 5 much better, 0 both are bad. A ranking gives tiers of answer indices, best first; answers in one tier tie, and
those left out are below all ranked ones, in no order (top-k).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import PrefloopError

BOTH_BAD, EQUAL = 0, 3
SCORED = ("choice", "ranking")
"""Kinds that say which answer is better."""
AMBIGUOUS = "ambiguous"
"""Reason of a skip whose comment is the reading that the person would choose."""
SKIPS = ("cannot-judge", AMBIGUOUS, "broken")
"""Reasons of a skip."""
TEXT = 20_000
"""Most characters of a comment, or of a corrected answer."""


def without_nul(text: str) -> str:
    """PostgreSQL keeps any character in a text but this one."""
    return text.replace("\0", "")


Text = Annotated[str, Field(max_length=TEXT), AfterValidator(without_nul)]


class RefusedError(PrefloopError):
    """A request that cannot be done; ``kind`` is ``missing``, ``conflict``, ``invalid`` or ``forbidden``."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Verdict(BaseModel):
    """What the browser or a client submits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    """A UUID of the sender's making: the same again is a retry."""
    item_id: Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
    """Of a rater's verdict the handle under which the item was shown, of an adjudication the item itself."""
    kind: Literal["choice", "ranking", "skip", "withdrawn"]
    strength: Annotated[int, Field(ge=0, le=5)] | None = None
    ranking: tuple[tuple[int, ...], ...] | None = None
    objectives: dict[str, Literal["left", "right", "equal"]] = {}
    reason: Literal["cannot-judge", "ambiguous", "broken", ""] = ""
    comment: Text = ""
    edits: dict[int, Text] = {}
    revises: int | None = None
    """``seq`` of the verdict that this one replaces."""

    def check(self, config: AnnotationConfig, answers: int) -> None:
        """Does it fit the item and the project?

        Raises:
            RefusedError: it does not; says where.
        """
        wanted = {"choice": config.kind == "pairwise", "ranking": config.kind == "ranking"}
        if not wanted.get(self.kind, True):
            raise RefusedError("invalid", f"this project asks for {config.kind} verdicts, not for a {self.kind}")
        if (self.kind == "choice") != (self.strength is not None):
            raise RefusedError("invalid", "strength belongs to a choice, and a choice needs one")
        if (self.kind == "ranking") != (self.ranking is not None):
            raise RefusedError("invalid", "tiers belong to a ranking, and a ranking needs them")
        if (self.kind == "skip") != bool(self.reason):
            raise RefusedError("invalid", f"a skip needs a reason, one of {', '.join(SKIPS)}; other verdicts have none")
        if self.kind == "withdrawn" and self.revises is None:
            raise RefusedError("invalid", "only a verdict that was given can be withdrawn")
        if self.ranking is not None:
            ranked = [index for tier in self.ranking for index in tier]
            if not ranked or len(set(ranked)) < len(ranked) or not all(self.ranking):
                raise RefusedError("invalid", "each ranked answer stands in one tier, and no tier is empty")
            _known(ranked, answers)
        _known(self.edits, answers)
        if self.edits and not config.edits:
            raise RefusedError("invalid", "this project does not ask for corrected answers")
        if unknown := sorted(set(self.objectives) - set(config.objectives)):
            raise RefusedError("invalid", f"the project has no objective {unknown[0]!r}")

    def row(self) -> dict[str, Any]:
        """The columns of the judgement table that the sender decides."""
        row = self.model_dump(mode="json", exclude={"revises"})
        row["edits"] = {str(index): text for index, text in sorted(self.edits.items())}
        return row


def _known(indices: Any, answers: int) -> None:
    if any(not 0 <= index < answers for index in indices):
        raise RefusedError("invalid", f"the item has answers 0 to {answers - 1} only")


def preference(strength: int, order: Any) -> tuple[int | None, int]:
    """A choice as (answer index preferred, or None; how much: 0, 1 or 2), whatever the order shown.

    >>> preference(1, [1, 0]), preference(4, [1, 0]), preference(3, [1, 0])
    ((1, 2), (0, 1), (None, 0))
    """
    if strength in (BOTH_BAD, EQUAL):
        return None, 0
    return (order[0], EQUAL - strength) if strength < EQUAL else (order[1], strength - EQUAL)


def winner(row: Any) -> int | str:
    """The answer index that a judgement puts first, or ``tie`` or ``both bad``."""
    if row.ranking is not None:
        return row.ranking[0][0] if len(row.ranking[0]) == 1 else "tie"
    best, _ = preference(row.strength, row.order)
    return best if best is not None else ("both bad" if row.strength == BOTH_BAD else "tie")

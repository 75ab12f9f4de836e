"""What goes over the wire of the API for raters, apart from `prefloop.annotation.protocol.Verdict`; and what all share.

Times are milliseconds, UTC. Requests refuse fields that they do not know; answers may gain fields, so clients read past
those they do not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from prefloop.annotation import protocol

Key = Annotated[int, Field(ge=1, le=2**53)]
"""Keys of rows: what a database's integer and every JSON reader can hold."""
ItemId = Annotated[str, Field(pattern=r"^[0-9a-f]{20}$")]
Role = Literal["admin", "reviewer", "rater"]
Scope = Literal["annotate", "read", "manage"]
State = Literal["running", "paused", "stopped"]
LONGEST = 200_000
"""Characters of one text."""


def storable(text: str) -> str:
    """PostgreSQL holds no NUL in a text."""
    if "\0" in text:
        raise ValueError("a text holds no NUL character")
    return text


Text = Annotated[str, Field(max_length=LONGEST), AfterValidator(storable)]
Line = Annotated[str, Field(max_length=200), AfterValidator(storable)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Asked(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(BaseModel):
    """Why a request was not done."""

    kind: str = Field(description="missing, conflict, invalid, forbidden, unauthorized, unavailable or failed")
    reason: str = Field(description="in words, for a person")


class Failure(BaseModel):
    """Every answer that is no success."""

    error: Problem


# The rater


class Message(BaseModel):
    """A turn of the conversation."""

    role: str
    content: str


class Result(BaseModel):
    """What the query of an answer returns."""

    columns: list[str] = []
    rows: list[list[str | int | Finite | None]] = Field([], description="the first 20")
    count: Annotated[int, Field(ge=0, le=2**53)] = Field(0, description="rows of the whole result")
    error: str | None = None


class Tried(BaseModel):
    """A corrected answer, to see what its query returns."""

    model_config = ConfigDict(extra="forbid")

    text: protocol.Text


class Answer(BaseModel):
    """One answer; nothing tells who wrote it."""

    index: int = Field(description="what a ranking and a correction call this answer by")
    text: str
    result: Result | None = None


class Before(BaseModel):
    """One's own verdict so far."""

    seq: int
    kind: str
    strength: int | None
    ranking: list[list[int]] | None
    objectives: dict[str, str]
    reason: str
    comment: str
    edits: dict[str, str]
    submitted: int


class Item(BaseModel):
    """An item as this person was shown it."""

    id: str = Field(description="what a verdict names as item_id; this person's alone, for this one look at it")
    messages: list[Message]
    context: dict[str, str] = Field(description="shown beside the prompt, by title")
    answers: list[Answer] = Field(description="from left to right")
    same_results: bool = Field(description="every answer's query returns the same rows")
    calibration: bool = Field(description="practice: explained after the verdict")
    expires: int = Field(description="end of the lease; renewed by POST /items/{id}/renew")
    before: Before | None = Field(description="this person's verdict on it so far")


class Nothing(BaseModel):
    """There is no item for this person now."""

    nothing: Literal["paused", "stopped", "done", "held", "unqualified"]


class Renewed(BaseModel):
    """The lease's new end."""

    expires: int


class Feedback(BaseModel):
    """After a calibration item."""

    right: bool
    best: list[int | str] = Field(description="answer indices, or tie, or both bad")
    explanation: str


class Saved(BaseModel):
    """What became of a verdict; durable once this is received."""

    seq: int
    state: Literal["taken", "kept", "edited", "skipped", "withdrawn", "known"] = Field(
        description="kept: practice; known: this very submission came before. Whether it fills a place is not told"
    )
    feedback: Feedback | None = None


class OwnJudgement(BaseModel):
    """One revision of one's own verdict."""

    seq: int
    client_id: str
    item_id: str = Field(description="`id` of the item as it was shown")
    revision: int
    current: bool = Field(description="no later revision replaces it")
    kind: str
    strength: int | None
    ranking: list[list[int]] | None
    objectives: dict[str, str]
    reason: str
    comment: str
    edits: dict[str, str]
    opened: int
    submitted: int


class OwnJudgements(BaseModel):
    """A page of them."""

    judgements: list[OwnJudgement]
    next: int | None = Field(description="`after` of the next page; null at the end")


class Project(BaseModel):
    """What a rater is asked."""

    name: str
    kind: Literal["pairwise", "ranking"]
    state: State
    reason: str = Field(description="why it is paused or stopped")
    guidelines: str
    consent: str
    objectives: list[str]
    edits: bool
    skips: list[str] = Field(description="reasons of a skip")
    lease_minutes: float
    break_minutes: int
    settings: dict[str, JsonValue] | None = Field(None, description="all of them; needs the scope manage")
    source: str | None = Field(None, description="what the items were made of; needs the scope manage")


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's answers other than success, all of one shape."""
    said = {
        400: "The request cannot be read.",
        401: "No valid token or session.",
        403: "Not allowed with this role or scope.",
        404: "There is no such thing, or not for you.",
        409: "It does not fit what is there; nothing was changed.",
        413: "The request's body is too large.",
        422: "It does not fit the project or the schema.",
        503: "The server is stopping, or could not save: try again.",
    }
    return {status: {"model": Failure, "description": said[status]} for status in statuses}

"""What goes over the wire of the API for those who run a project. Times: milliseconds, UTC."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, JsonValue, model_validator

from prefloop.annotation.api_models import Asked, Key, Line, Result, Role, Scope, State, Text, storable
from prefloop.records import canonical_json

MOST_ITEMS = 500
Event = Literal[
    "judgement.created",
    "item.open",
    "item.closed",
    "item.aside",
    "item.settled",
    "project.running",
    "project.paused",
    "project.stopped",
    "rater.removed",
]
"""What webhooks are told; ``item.…`` is a change of the item's status."""


def _plain(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    canonical_json(value).encode()  # NaN and halves of characters cannot be stored or sent
    return value


class NewAnswer(Asked):
    """One answer to be compared."""

    text: Text
    policy: Line = Field("unknown", description="who wrote it; raters never see it")
    result: Result | None = Field(None, description="rows of its query, shown under it")


class Known(Asked):
    """The right verdict of a gold or calibration item."""

    best: Annotated[list[int | Literal["tie", "both bad"]], Field(min_length=1, max_length=9)]
    explanation: Text = ""


class Expected(Asked):
    """What a judge said before."""

    best: Annotated[int, Field(ge=0, le=8)]
    judge: Line


class PostedItem(Asked):
    """A prompt with two answers, or several for a ranking. Answers are called by their place in this list."""

    prompt: Text | Annotated[list[dict[Literal["role", "content"], Text]], Field(min_length=1, max_length=100)]
    answers: Annotated[list[NewAnswer], Field(min_length=2, max_length=9)]
    context: dict[Line, Text] = Field({}, description="shown beside the prompt, by title")
    role: Literal["item", "gold", "training"] = "item"
    known: Known | None = None
    expected: Expected | None = None
    task: Line = "annotation"
    split: Literal["train", "test"] = "train"
    meta: Annotated[dict[str, JsonValue], AfterValidator(_plain)] = Field(
        {}, description="kept for the way back; raters never see it"
    )

    @model_validator(mode="after")
    def _fits(self) -> PostedItem:
        if not isinstance(self.prompt, str) and any(set(turn) != {"role", "content"} for turn in self.prompt):
            raise ValueError("each message of the prompt has a role and a content")
        if (self.role == "item") != (self.known is None):
            raise ValueError("gold and training items have a known answer, others have none")
        indices = [best for best in (self.known.best if self.known else []) if isinstance(best, int)]
        indices += [self.expected.best] if self.expected else []
        if not all(0 <= index < len(self.answers) for index in indices):
            raise ValueError(f"the answers are 0 to {len(self.answers) - 1}")
        if len({answer.text.strip() for answer in self.answers}) < len(self.answers):
            raise ValueError("two of the answers have the same text")
        return self


class PostedItems(Asked):
    """Items to append to the queue."""

    items: Annotated[list[PostedItem], Field(min_length=1, max_length=MOST_ITEMS)]


class AddedItems(BaseModel):
    """The items' ids in the order posted; those that were there already are left alone."""

    added: int
    ids: list[str]


class NewState(Asked):
    """Pause, stop or go on."""

    state: State
    reason: Line = ""


class Done(BaseModel):
    """What it was done to."""

    id: int | str


class Removal(Asked):
    """How to remove a rater."""

    discard: bool = Field(False, description="their verdicts no longer count, and the items ask somebody else")


class Removed(BaseModel):
    """What it changed."""

    discarded: int = Field(description="verdicts that stopped counting")


class Rater(BaseModel):
    """Somebody with an account."""

    id: int
    pseudonym: str
    name: str | None = Field(description="null once removed")
    role: Role
    status: Literal["active", "removed"]
    qualified: bool
    created: int


class NewInvite(Asked):
    """Whom to invite."""

    role: Role = "rater"
    hours: Annotated[int, Field(ge=1, le=24 * 30)] = 72
    rater_id: Key | None = Field(None, description="an account that gets a new password")


class Invite(BaseModel):
    """A link that works once."""

    token: str
    url: str
    expires: int


class NewToken(Asked):
    """A token for programs."""

    name: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(storable)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=3)]


class Token(BaseModel):
    """A token of one's own; the secret is not stored."""

    id: int
    name: str
    scopes: list[Scope]
    created: int
    used: int | None
    revoked: int | None


class IssuedToken(BaseModel):
    """The secret, shown this once."""

    id: int
    token: str
    name: str
    scopes: list[Scope]


class NewWebhook(Asked):
    """Where to send which events."""

    url: Annotated[str, Field(max_length=2000), AfterValidator(storable)]
    events: Annotated[list[Event], Field(min_length=1, max_length=20)]


class Webhook(BaseModel):
    """A receiver."""

    id: int
    url: str
    events: list[str]
    created: int


class IssuedWebhook(Webhook):
    """With the secret that signs, shown this once."""

    secret: str


class Delivery(BaseModel):
    """One event on its way to one receiver."""

    id: int
    event: str
    event_id: str = Field(description="the same in every try: `X-Prefloop-Id`")
    created: int
    due: int | None = Field(description="next try; null once delivered or given up")
    tries: int
    status: str


class Deliveries(BaseModel):
    """Newest first."""

    deliveries: list[Delivery]
    next: int | None = Field(description="`before` of the next page; null at the end")

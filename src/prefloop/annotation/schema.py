"""The tables of an annotation project, one project to a database. Times are milliseconds since 1970, UTC.

Judgements are append-only: an edit or a withdrawal is a new revision, and what counts is the fold of the log, kept in
``judgement.current`` and in the counters of ``item`` by the transaction that appends.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Time = sa.BigInteger
Optional = sa.JSON(none_as_null=True)
Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""Autoincremented keys: SQLite counts up only plain INTEGER."""


def _rater(**options: Any) -> sa.Column[int]:
    return sa.Column("rater_id", Key, sa.ForeignKey("rater.id"), nullable=False, **options)


def _item(**options: Any) -> sa.Column[str]:
    return sa.Column("item_id", sa.String(20), sa.ForeignKey("item.id"), nullable=False, **options)


project = sa.Table(
    "project",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # always 1
    sa.Column("settings", sa.JSON, nullable=False),  # AnnotationConfig
    sa.Column("state", sa.String(10), nullable=False),  # running | paused | stopped
    sa.Column("reason", sa.Text, nullable=False),  # why it is paused or stopped
    sa.Column("secret", sa.String(64), nullable=False),  # draws sides and hidden items
    sa.Column("source", sa.Text, nullable=False),  # what the items were made of
    sa.Column("created", Time, nullable=False),
)

item = sa.Table(
    "item",
    metadata,
    sa.Column("id", sa.String(20), primary_key=True),  # content hash of prompt and completion ids
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("role", sa.String(8), nullable=False),  # item | gold | training
    sa.Column("status", sa.String(8), nullable=False),  # open | closed | aside | settled
    sa.Column("prompt_id", sa.Text, nullable=False),
    sa.Column("messages", sa.JSON, nullable=False),
    sa.Column("context", sa.JSON, nullable=False),  # shown beside the prompt: {"title": "text", …}
    sa.Column("meta", sa.JSON, nullable=False),  # never shown: gold SQL, split, template
    sa.Column("task", sa.Text, nullable=False),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("known", Optional, nullable=True),  # gold and training: {"best": [index, …], "explanation": text}
    sa.Column("expected", Optional, nullable=True),  # what judges said before: {"best": index, "judge": name}
    sa.Column("stratum", sa.String(16), nullable=False),  # why it was chosen: random | gap | disagreement | …
    sa.Column("probability", sa.Float, nullable=True),  # of being chosen, for inverse-propensity weights
    sa.Column("target", sa.Integer, nullable=False),
    sa.Column("extra", sa.Integer, nullable=False, server_default="0"),  # of the target: asked for because of a split
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("leased", sa.Integer, nullable=False),
    sa.Column("skipped", sa.Integer, nullable=False),
    sa.CheckConstraint("done >= 0 AND leased >= 0 AND skipped >= 0", name="counters"),
    sa.CheckConstraint("role <> 'item' OR done + leased <= target", name="quota"),
    sa.Index("ix_item_next", "role", "status", "position"),
)

answer = sa.Table(
    "answer",
    metadata,
    _item(primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),  # what verdicts refer to
    sa.Column("completion_id", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),  # the completion's other fields, for the way back
    sa.Column("result", Optional, nullable=True),  # rows of its query
)

rater = sa.Table(
    "rater",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("pseudonym", sa.String(20), nullable=False, unique=True),  # what exports say
    sa.Column("name", sa.String(80), nullable=True, unique=True),  # None once removed
    sa.Column("password", sa.Text, nullable=True),  # argon2; None: comes in by a link only
    sa.Column("role", sa.String(8), nullable=False),  # admin | reviewer | rater
    sa.Column("status", sa.String(8), nullable=False),  # active | removed
    sa.Column("discarded", sa.Boolean, nullable=False, server_default=sa.false()),  # removed with their verdicts
    sa.Column("consent", sa.String(64), nullable=True),  # hash of the text agreed to
    sa.Column("guidelines", sa.String(64), nullable=True),  # hash of the guidelines read
    sa.Column("qualified", sa.Boolean, nullable=False),
    sa.Column("created", Time, nullable=False),
)

showing = sa.Table(
    "showing",
    metadata,
    _item(primary_key=True),
    _rater(primary_key=True, autoincrement=False),
    sa.Column("turn", sa.Integer, primary_key=True, autoincrement=False),  # 0 first time, 1 repeat, sides swapped
    sa.Column("handle", sa.String(20), nullable=False),  # what its rater calls it, in place of item and turn
    sa.Column("state", sa.String(8), nullable=False),  # leased | expired | answered | skipped | released
    sa.Column("order", sa.JSON, nullable=False),  # answer indices from left to right
    sa.Column("opened", Time, nullable=False),
    sa.Column("expires", Time, nullable=False),
    sa.Index("uq_showing_handle", "handle", unique=True),
    sa.Index("ix_showing_expiry", "state", "expires"),
    sa.Index("ix_showing_rater", "rater_id", "state"),
)
_held = showing.c.state == "leased"
sa.Index("uq_showing_held", showing.c.rater_id, unique=True, sqlite_where=_held, postgresql_where=_held)
"""A rater holds one item at a time."""

judgement = sa.Table(
    "judgement",
    metadata,
    sa.Column("seq", Key, primary_key=True, autoincrement=True),
    sa.Column("client_id", sa.String(36), nullable=False, unique=True),  # made by the browser: a retry is one vote
    _item(),
    _rater(),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),  # 0, then 1 for the first edit, …
    sa.Column("current", sa.Boolean, nullable=False),
    sa.Column("counted", sa.Boolean, nullable=False),  # fills a slot of the item's target
    sa.Column("kind", sa.String(12), nullable=False),  # choice | ranking | skip | withdrawn | adjudication
    sa.Column("strength", sa.Integer, nullable=True),  # choice: 1 left much better … 5 right much better, 0 both bad
    sa.Column("ranking", Optional, nullable=True),  # tiers of answer indices, best first; unranked ones are left out
    sa.Column("order", sa.JSON, nullable=False),  # answer indices as they were shown
    sa.Column("objectives", sa.JSON, nullable=False),  # {name: "left" | "right" | "equal"}
    sa.Column("reason", sa.String(24), nullable=False),  # of a skip
    sa.Column("comment", sa.Text, nullable=False),
    sa.Column("edits", sa.JSON, nullable=False),  # {answer index: corrected text}
    sa.Column("opened", Time, nullable=False),
    sa.Column("submitted", Time, nullable=False),
    sa.UniqueConstraint("item_id", "rater_id", "turn", "revision"),
    sa.Index("ix_judgement_rater", "rater_id", "seq"),
)
_latest = judgement.c.current
sa.Index(
    "uq_judgement_current",
    *(judgement.c.item_id, judgement.c.rater_id, judgement.c.turn),
    unique=True,
    sqlite_where=_latest,
    postgresql_where=_latest,
)
"""One revision is the current one."""

session = sa.Table(
    "session",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # SHA-256 of what the cookie holds
    _rater(index=True),
    sa.Column("created", Time, nullable=False),
    sa.Column("seen", Time, nullable=False),
    sa.Column("expires", Time, nullable=False),
)

invite = sa.Table(
    "invite",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),  # hashed
    sa.Column("role", sa.String(8), nullable=False),
    sa.Column("rater_id", Key, sa.ForeignKey("rater.id"), nullable=True),  # a new password for this account
    sa.Column("created", Time, nullable=False),
    sa.Column("expires", Time, nullable=False),
    sa.Column("used", Time, nullable=True),
)

token = sa.Table(
    "token",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("token", sa.String(64), nullable=False, unique=True),  # hashed
    sa.Column("name", sa.String(80), nullable=False),
    _rater(index=True),
    sa.Column("scopes", sa.JSON, nullable=False),  # some of annotate, read, manage
    sa.Column("created", Time, nullable=False),
    sa.Column("used", Time, nullable=True),
    sa.Column("revoked", Time, nullable=True),
)

throttle = sa.Table(
    "throttle",
    metadata,
    sa.Column("key", sa.String(64), primary_key=True),  # hash of account and address
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("until", Time, nullable=False),
)

webhook = sa.Table(
    "webhook",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret", sa.String(64), nullable=False),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("disabled", Time, nullable=True),
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("webhook_id", Key, sa.ForeignKey("webhook.id"), nullable=False, index=True),
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("created", Time, nullable=False),
    sa.Column("due", Time, nullable=True, index=True),  # None once delivered or given up
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("status", sa.Text, nullable=False),  # of the last try
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("id", Key, primary_key=True),
    sa.Column("at", Time, nullable=False),
    sa.Column("rater_id", Key, nullable=True),  # who did it; no foreign key: identities go, events stay
    sa.Column("what", sa.String(32), nullable=False),
    sa.Column("about", sa.Text, nullable=False),
)

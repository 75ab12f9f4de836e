"""The nouns: prompts, completions, judgements, preferences. Immutable, with ids that are content hashes.

Every stage reads and writes these; `prefloop.store` keeps them in Parquet. A row names its parents by id.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 1
"""Version of the row layouts below, written into every file's metadata."""


def canonical_json(value: Any) -> str:
    """The one serialisation used for hashes and files: sorted keys, no spaces, UTF-8, no NaN.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(*parts: Any) -> str:
    """First 80 bits of SHA-256 over the canonical JSON of `parts`, as 20 hex digits.

    >>> content_id("a", 1) == content_id("a", 1) != content_id("a", 2)
    True
    """
    return hashlib.sha256(canonical_json(list(parts)).encode()).hexdigest()[:20]


Message = dict[str, str]
"""A chat message: ``{"role": "system" | "user" | "assistant", "content": text}``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: chat messages that end with the user's turn."""

    id: str
    messages: tuple[Message, ...]
    task: str
    split: str
    """``train`` or ``test``."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What the task's judge needs (gold SQL, comparison spec) and what reports group by (family, template)."""

    @classmethod
    def create(cls, messages: tuple[Message, ...], task: str, split: str, meta: dict[str, Any] | None = None) -> Prompt:
        """A prompt whose id hashes task and messages, so the same question has the same id anywhere."""
        return cls(content_id("prompt", task, list(messages)), messages, task, split, meta or {})


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of one policy to one prompt."""

    id: str
    prompt_id: str
    index: int
    """0..K-1 for samples; -1 for the greedy answer."""
    round: int
    text: str
    """Decoded text without special tokens."""
    token_ids: tuple[int, ...]
    """Generated ids, the end token included when the answer finished."""
    logprobs: tuple[float, ...]
    """log π(token) at temperature 1, one per token id (whatever temperature sampled it)."""
    finish_reason: str
    """``stop`` (end token) or ``length`` (cut at the limit)."""
    policy: str
    """Lineage id of the policy that wrote it."""
    sampling: dict[str, Any]
    seed: int

    @staticmethod
    def make_id(prompt_id: str, policy: str, sampling: dict[str, Any], seed: int, round_: int, index: int) -> str:
        """Id of the completion these settings produce; it does not depend on the text."""
        return content_id("completion", prompt_id, policy, sampling, seed, round_, index)


LEFT_OUT = "left_out"
"""Key of ``raw``: why a judgement is not trained on (gold, repeats, wrong corrections, …); absent where it is."""
CORRECTED = "corrected"
"""``raw["status"]`` of a judgement that puts a rater's corrected answer above those shown."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge or rater said about the completions of one prompt."""

    id: str
    prompt_id: str
    completion_ids: tuple[str, ...]
    """In the order shown."""
    judge: str
    kind: str
    """``score`` (one completion), ``choice`` (two), or ``ranking``."""
    value: float | None
    """Score, or for a choice the probability that the first is better; None = unscored (and counted)."""
    objectives: dict[str, float] = field(default_factory=dict)
    """Named parts of the value, each kept."""
    ranking: tuple[tuple[str, ...], ...] = ()
    """For rankings: tiers of completion ids, best first; ids in one tier tie."""
    raw: dict[str, Any] = field(default_factory=dict)
    """What the judge returned before it was read: error class, rows, text."""

    @classmethod
    def create(
        cls,
        prompt_id: str,
        completion_ids: tuple[str, ...],
        judge: str,
        kind: str,
        value: float | None,
        objectives: dict[str, float] | None = None,
        ranking: tuple[tuple[str, ...], ...] = (),
        raw: dict[str, Any] | None = None,
    ) -> Judgement:
        """A judgement whose id hashes who judged what; the same judge asked twice has one id."""
        identity = content_id("judgement", judge, kind, prompt_id, list(completion_ids))
        return cls(identity, prompt_id, completion_ids, judge, kind, value, objectives or {}, ranking, raw or {})


@dataclass(frozen=True, slots=True)
class Preference:
    """A view of a group that an objective can train on: a ranking, of which a pair is the shortest."""

    id: str
    prompt_id: str
    ranking: tuple[tuple[str, ...], ...]
    """Tiers of completion ids, best first. A pair is ``((chosen,), (rejected,))``."""
    scores: tuple[float, ...]
    """One score per tier."""
    margin: float
    """Score of the first tier minus score of the last."""
    soft_label: float
    """Probability that the first tier is better; 1.0 for a hard label."""
    weight: float
    source: str
    """Strategy and judge, e.g. ``best-worst/execution``."""

    @classmethod
    def pair(
        cls,
        prompt_id: str,
        chosen: str,
        rejected: str,
        score_chosen: float,
        score_rejected: float,
        source: str,
        soft_label: float = 1.0,
        weight: float = 1.0,
    ) -> Preference:
        """One chosen against one rejected completion."""
        identity = content_id("preference", prompt_id, [[chosen], [rejected]], source)
        scores = (score_chosen, score_rejected)
        margin = score_chosen - score_rejected
        return cls(identity, prompt_id, ((chosen,), (rejected,)), scores, margin, soft_label, weight, source)

    @property
    def chosen(self) -> str:
        """Completion id of the first tier's first member."""
        return self.ranking[0][0]

    @property
    def rejected(self) -> str:
        """Completion id of the last tier's first member."""
        return self.ranking[-1][0]

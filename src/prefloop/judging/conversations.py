"""Conversations as the token ids that a reward model reads, and how many of them become judgements.

A reward model is a function of ids, so what can silently change a score is decided here, once: the chat template
renders the whole conversation, it is encoded once, BOS stands at most once at its start, its last token is the one
that closes the assistant's turn, and nothing is ever cut. Strings that the tokenizer would read as special tokens
(`<|im_end|>` in an answer ends the turn for the model) get a space inside, as in training, and are counted.

The answers to one prompt go through the model as one group, the prompt once and without padding
(`prefloop.models.group`); where a layer cannot keep them apart, each is a row of its own, padded on the right, where
no earlier token sees it. Either way the model is read at known places, never by looking for a padding token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from prefloop.errors import JudgeError, ModelError
from prefloop.judging.groups import Answered
from prefloop.models.group import ROWS, Group, GroupBatch, GroupStates
from prefloop.models.template import defused
from prefloop.records import Judgement, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE: Message = {"role": "user", "content": "prefloop"}
_PROBE_ANSWER = "answered"


class UnscoredError(JudgeError):
    """Why one answer cannot be scored."""

    def __init__(self, reason: str, **raw: Any) -> None:
        super().__init__(reason)
        self.raw: dict[str, Any] = {"error": reason, **raw}


@dataclass(frozen=True, slots=True)
class Conversation:
    """One conversation, closed by an answer, as a model reads it."""

    ids: tuple[int, ...]
    replaced: int
    """Special-token strings of its texts that got a space inside."""


@dataclass(frozen=True, slots=True)
class Score:
    """What a model says of one conversation."""

    value: float
    objectives: dict[str, float] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)


Read = TypeVar("Read", bound=Conversation)


class ConversationEncoder:
    """Renders and encodes conversations for one tokenizer.

    Two habits are in use, and a model scores right only by the one it was trained with:

    * published models read what their chat template renders, to its last token, with the BOS that template or
      tokenizer puts;
    * models trained here (`trained_here`) read prompt and answer up to the end token, which some templates follow by
      a line break, with the BOS of the template alone, as `prefloop.models.template` encodes them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, system: bool = True, trained_here: bool = False) -> None:
        """Tries the chat template on one conversation.

        Args:
            system: whether the prompt's system message is shown.

        Raises:
            ModelError: there is no chat template, or what it renders is not closed after the answer.
        """
        self._tokenizer, self._system, self._trained_here = tokenizer, system, trained_here
        self._adds_bos = not trained_here and _adds_bos(tokenizer)
        self._end = tokenizer.eos_token_id if trained_here else self._closing()

    def encode(self, messages: Sequence[Message], answer: str) -> Conversation:
        """The conversation up to the end of the answer's turn.

        Raises:
            UnscoredError: the chat template refuses the messages, or a text is not valid Unicode.
        """
        turns, replaced = [], 0
        for message in [*messages, {"role": "assistant", "content": answer}]:
            if self._system or message["role"] != "system":
                content, found = defused(self._tokenizer, message["content"])
                turns.append({"role": message["role"], "content": content})
                replaced += found
        ids = self._ids(self._rendered(turns))
        if len(ids) < 2 or ids[-1] != self._end:
            raise UnscoredError("the conversation does not end with the token that closes the assistant's turn")
        return Conversation(tuple(ids), replaced)

    def _rendered(self, turns: list[Message]) -> str:
        from jinja2 import TemplateError

        if self._tokenizer.chat_template is None:
            raise ModelError(f"{self._name} has no chat template: add chat_template.jinja to its folder")
        try:
            text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
        except TemplateError as error:
            raise UnscoredError(f"the chat template refuses the messages: {error}") from error
        return str(text)

    def _ids(self, text: str) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UnscoredError(f"not valid Unicode: {error.reason} at character {error.start:,}") from error
        # `verbose` warns of texts beyond the tokenizer's own limit, which is the model's to know.
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        bos = self._tokenizer.bos_token_id
        if bos is not None:
            while ids[:2] == [bos, bos]:
                ids = ids[1:]
            if self._adds_bos and ids[:1] != [bos]:
                ids = [bos, *ids]
        return ids[: _last(ids, self._tokenizer.eos_token_id) + 1] if self._trained_here else ids

    def _closing(self) -> int:
        """The last token of a closed conversation."""
        try:
            text = self._rendered([_PROBE, {"role": "assistant", "content": _PROBE_ANSWER}])
        except UnscoredError as error:
            raise ModelError(f"{self._name}: {error}") from error
        if text.rpartition(_PROBE_ANSWER)[1:] in {("", text), (_PROBE_ANSWER, "")}:
            raise ModelError(
                f"the chat template of {self._name} puts nothing after the assistant's answer (or leaves it out): "
                "it must close the turn where the reward model reads its score"
            )
        return self._ids(text)[-1]

    @property
    def _name(self) -> str:
        return f"the tokenizer {self._tokenizer.name_or_path or '(unnamed)'}"


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    with_, without = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
    return tokenizer.bos_token_id is not None and [tokenizer.bos_token_id, *without] == with_[: len(without) + 1]


def _last(ids: Sequence[int], wanted: int | None) -> int:
    """Place of the last `wanted`; the last of all where there is none."""
    return next((i for i in range(len(ids) - 1, -1, -1) if ids[i] == wanted), len(ids) - 1)


def within(conversation: Read, limit: int) -> Read:
    """The conversation, if it has at most `limit` tokens.

    Raises:
        UnscoredError: it is longer; it is never cut, since a score of half an answer is a score of another answer.
    """
    count = len(conversation.ids)
    if count > limit:
        raise UnscoredError(f"{count:,} tokens, more than the {limit:,} that the judge reads", tokens=count)
    return conversation


@dataclass(frozen=True, slots=True)
class Shared(Generic[Read]):
    """Distinct conversations of one prompt: what they start with alike is computed once."""

    conversations: tuple[Read, ...]
    group: Group


def shared(conversations: Sequence[Read], budget: int) -> list[Shared[Read]]:
    """Conversations of one prompt in groups of at most `budget` tokens (one conversation has as many as it has).

    The start that is computed once is found in the ids, so no chat template has to render prompts alone.
    """
    distinct = list(dict.fromkeys(conversations))
    common = _common_start([found.ids for found in distinct])
    if not common:
        return [alone for found in distinct if len(distinct) > 1 for alone in shared([found], budget)]
    parts: list[list[Read]] = []
    room = 0
    for found in distinct:
        rest = len(found.ids) - common
        if rest > room:
            parts.append([])
            room = budget - common
        parts[-1].append(found)
        room -= rest
    prompt = distinct[0].ids[:common]
    return [Shared(tuple(part), Group(prompt, tuple(found.ids[common:] for found in part))) for part in parts]


def _common_start(rows: Sequence[tuple[int, ...]]) -> int:
    """Tokens that all rows start with, less than any has."""
    if not rows:
        return 0
    first, last = min(rows), max(rows)  # in this order, what these two share, all share
    shortest = min(map(len, rows)) - 1
    return next((i for i in range(shortest) if first[i] != last[i]), shortest)


def batches(groups: Sequence[Shared[Read]], budget: int, rows: bool) -> Iterator[list[Shared[Read]]]:
    """Groups by length, in batches of at most `budget` tokens with their padding; one alone may have more.

    Args:
        rows: every conversation is a padded row of its own, for models that cannot share what is alike.
    """
    batch: list[Shared[Read]] = []
    for found in sorted(groups, key=lambda found: (found.group.longest, found.group.prompt_ids)):
        if batch and _tokens([*batch, found], rows) > budget:
            yield batch
            batch = []
        batch.append(found)
    if batch:
        yield batch


def _tokens(batch: Sequence[Shared[Read]], rows: bool) -> int:
    if not rows:
        return sum(found.group.tokens for found in batch)
    return sum(len(found.conversations) for found in batch) * max(found.group.longest for found in batch)


@dataclass(frozen=True)
class Scorer(Generic[Read]):
    """A model, and what it says of a batch."""

    states: GroupStates
    score: Callable[[GroupBatch, list[Shared[Read]]], list[Score]]
    """One score per conversation, in the order of the groups."""
    tokens_per_batch: int


def judge_conversations(
    chunk: Sequence[Answered],
    name: str,
    encode: Callable[[Sequence[Message], str], Read],
    scorer: Scorer[Read],
) -> list[Judgement]:
    """One ``score`` judgement per answer, in order; equal answers to a prompt are scored once.

    Args:
        name: of the judge.
        encode: may raise `UnscoredError`.

    Raises:
        JudgeError: a batch does not fit into the device's memory.
    """
    judged, groups = [], []
    read: dict[str, list[Read | UnscoredError]] = {}
    for prompt, answers in chunk:
        read[prompt.id] = [_tried(encode, prompt.messages, answer.text) for answer in answers]
        readable = [found for found in read[prompt.id] if not isinstance(found, UnscoredError)]
        groups += shared(readable, scorer.tokens_per_batch)
    scores: dict[Read, Score] = {}
    for batch in batches(groups, scorer.tokens_per_batch, scorer.states.layout == ROWS):
        conversations = [found for member in batch for found in member.conversations]
        scores |= zip(conversations, _scored(scorer, batch, name), strict=True)
    for prompt, answers in chunk:
        for answer, found in zip(answers, read[prompt.id], strict=True):
            value, objectives, raw = _reading(found, scores)
            judged.append(Judgement.create(prompt.id, (answer.id,), name, "score", value, objectives, raw=raw))
    return judged


def _tried(
    encode: Callable[[Sequence[Message], str], Read], messages: Sequence[Message], answer: str
) -> Read | UnscoredError:
    try:
        return encode(messages, answer)
    except UnscoredError as error:
        return error


def _scored(scorer: Scorer[Read], batch: list[Shared[Read]], name: str) -> list[Score]:
    try:
        with torch.no_grad():
            return scorer.score(scorer.states.pack([found.group for found in batch]), batch)
    except torch.OutOfMemoryError as error:
        raise JudgeError(
            f"{name}: a batch with conversations of {batch[-1].group.longest:,} tokens does not fit into memory: "
            f"lower judge.tokens_per_batch, now {scorer.tokens_per_batch:,}"
        ) from error


def _reading(
    found: Read | UnscoredError, scores: Mapping[Read, Score]
) -> tuple[float | None, dict[str, float], dict[str, Any]]:
    """Value, objectives and raw of one answer's judgement."""
    if isinstance(found, UnscoredError):
        return None, {}, found.raw
    score = scores[found]
    raw: dict[str, Any] = {"tokens": len(found.ids)}
    if found.replaced:
        raw["markers_replaced"] = found.replaced
    if not all(map(math.isfinite, (score.value, *score.objectives.values()))):
        return None, {}, {**raw, "error": f"the model's score is not a finite number ({score.value})"}
    return score.value, score.objectives, {**raw, **score.raw}

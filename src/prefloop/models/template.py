"""From messages to token ids: one BOS where the template has one, an end token on every answer."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from prefloop.errors import ModelError
from prefloop.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


THINKING_END = "</think>"
"""Ends the thinking section of an answer, in the templates of Qwen, DeepSeek and others."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the assistant's answer starts.

    Rendered as text first and encoded without special tokens, so the template alone decides on BOS.

    Raises:
        ModelError: the tokenizer has no chat template, or the template repeats BOS or refuses the messages.
    """
    ids = _rendered(tokenizer, messages, answered=False)
    if not ids:
        raise ModelError("the chat template renders nothing for this prompt")
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an answer, with the end token.

    For text from elsewhere. What a policy generated is kept as ids: encoding its text may give other ones.

    Raises:
        ModelError: the tokenizer has no end token.
    """
    ids: list[int] = tokenizer(defused(tokenizer, text)[0], add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{_name(tokenizer)} has no end token: set eos_token in its tokenizer_config.json")
    return [*ids, tokenizer.eos_token_id]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id that ends an answer: the tokenizer's and those of the generation configuration."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id}
    ids |= set(configured) if isinstance(configured, list) else {configured}
    return {int(i) for i in ids if i is not None}


def encode_answer(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], text: str) -> tuple[list[int], int]:
    """Token ids of an answer from elsewhere as the chat template renders it after these messages, and how many of
    its first tokens the template put there itself (empty thinking tags): those are no answer to learn.

    Encoded apart, an answer may differ: where a token spans the border, where the tokenizer puts a space before
    every text, or where the template ends answers with another token than `eos_token`. A model trained on ids that
    its template never renders learns to answer in another format.

    Raises:
        ModelError: prompt and answer do not join; shows the tokens of both from where they part.
    """
    prompt, answer = encode_prompt(tokenizer, messages), encode_completion(tokenizer, text)
    together = _rendered(tokenizer, [*messages, {"role": "assistant", "content": text}], answered=True)
    if together[: len(prompt)] == prompt:
        rest = together[len(prompt) :]
        for added in range(len(rest) - len(answer) + 1):
            if rest[added : added + len(answer)] == answer:
                return rest[: added + len(answer)], added
    apart = prompt + answer
    parting = next(
        (i for i, pair in enumerate(zip(apart, together, strict=False)) if pair[0] != pair[1]), len(together)
    )
    shown = ["|".join(tokenizer.decode([i]) for i in ids[parting : parting + 8]) for ids in (together, apart)]
    raise ModelError(
        f"prompt and answer do not join as the chat template of {_name(tokenizer)} renders them: "
        f"{shown[0]!r} in the template, {shown[1]!r} when encoded apart"
    )


def defused(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[str, int]:
    """The text with a space inside what the tokenizer would read as a control token, and how many there were.

    Text must not end a turn; the template's own control tokens are put around it afterwards.
    """
    return _control_tokens(tokenizer).subn(lambda found: f"{found[0][0]} {found[0][1:]}", text)


@lru_cache(maxsize=16)
def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> re.Pattern[str]:
    """Matches texts that the tokenizer turns into one token of its own wherever they stand, the longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = {token for token in added | set(tokenizer.all_special_tokens) if token.strip()}
    ordered = sorted(texts, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, ordered)) or r"(?!)")


def thinking_length(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Tokens of an answer up to the end of its thinking section; 0 without one."""

    def ended(count: int) -> bool:
        return THINKING_END in tokenizer.decode(list(ids[:count]))

    return bisect_left(range(len(ids) + 1), True, key=ended) if ended(len(ids)) else 0


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answered: bool) -> list[int]:
    from jinja2 import TemplateError

    if tokenizer.chat_template is None:
        raise ModelError(
            f"{_name(tokenizer)} has no chat template: "
            "use an instruction-tuned model, or add chat_template.jinja to its folder"
        )
    said = [{**message, "content": defused(tokenizer, message["content"])[0]} for message in messages]
    try:
        text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=not answered)
    except TemplateError as error:
        raise ModelError(f"the chat template of {_name(tokenizer)} refuses the messages: {error}") from error
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        raise ModelError(f"the chat template of {_name(tokenizer)} renders BOS twice: remove one from the template")
    return ids


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer {tokenizer.name_or_path or '(unnamed)'}"

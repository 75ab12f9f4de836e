"""From messages to token ids, assembled once: one BOS where the template has one, an end token on every answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefloop.errors import ModelError
from prefloop.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation up to where the assistant's answer starts.

    Rendered as text first and encoded without special tokens, so the template alone decides on BOS.

    Raises:
        ModelError: the tokenizer has no chat template, or the template repeats BOS.
    """
    if tokenizer.chat_template is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template: "
            "use an instruction-tuned model, or add chat_template.jinja to its folder"
        )
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
        raise ModelError("the chat template renders two BOS tokens: remove one from the template")
    if not ids:
        raise ModelError("the chat template renders nothing for this prompt")
    return ids


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str, end: bool = True) -> list[int]:
    """Token ids of an answer, with the end token unless `end` is false (a cut answer)."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id] if end else ids


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every id that ends an answer: the tokenizer's and those of the generation configuration."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = {tokenizer.eos_token_id}
    ids |= set(configured) if isinstance(configured, list) else {configured}
    return {int(i) for i in ids if i is not None}

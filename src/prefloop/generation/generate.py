"""Sampled and greedy answers of any causal language model, in fixed chunks that a killed run takes up again.

Chunks depend on the prompts and the settings alone and every answer draws from a generator of its own, so a
resumed run repeats the arithmetic bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch

from prefloop.config.sampling import Sampling
from prefloop.errors import DataError
from prefloop.generation.cache import cache_bytes
from prefloop.generation.decode import Answer, decode
from prefloop.generation.sampler import uniforms
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt, end_token_ids
from prefloop.records import Completion, Prompt, content_id
from prefloop.store.grouped import ordered
from prefloop.store.journal import Journal, work_through

MOST_ROWS = 512
"""Answers computed side by side; more buy no speed on a CPU, and a killed run loses one chunk."""

CPU_CACHE_BYTES = 2**30
GPU_CACHE_SHARE = 0.25
"""What the key-value cache of a chunk may take: bytes, or a share of the GPU's memory."""

Encoded = list[tuple[str, list[int]]]
"""Prompt ids with their token ids."""


class Writer(Protocol):
    """Who writes answers: a policy in this process, or one that workers hold (`prefloop.generation.ray_policies`)."""

    tokenizer: Any
    lineage: Lineage
    dtype: str

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt with its answer."""
        ...

    def most_rows(self, width: int) -> int:
        """Answers of `width` tokens, prompt included, whose cache fits what a chunk may take."""
        ...

    def written(
        self, chunks: dict[str, Encoded], sampling: Sampling, seed: int, round_: int
    ) -> Iterable[tuple[str, list[dict[str, Any]]]]:
        """Every chunk's key with its answers (`Answer`), prompt by prompt, each chunk as soon as it is done."""
        ...


@dataclass(frozen=True)
class Here:
    """The writer that holds the weights itself."""

    policy: Policy

    @property
    def tokenizer(self) -> Any:
        """The policy's."""
        return self.policy.tokenizer

    @property
    def lineage(self) -> Lineage:
        """The policy's."""
        return self.policy.lineage

    @property
    def dtype(self) -> str:
        """Of the policy's weights."""
        return str(self.policy.model.dtype)

    @property
    def context(self) -> int | None:
        """As in `Writer`."""
        return self.policy.context

    def most_rows(self, width: int) -> int:
        """As in `Writer`."""
        model = self.policy.model
        return fitting_rows(model.config, model.dtype.itemsize, width, cache_allowance(self.policy.device))

    def written(
        self, chunks: dict[str, Encoded], sampling: Sampling, seed: int, round_: int
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """As in `Writer`, in the order given."""
        for key, chunk in chunks.items():
            yield key, [asdict(answer) for answer in decoded(self.policy, chunk, sampling, seed, round_)]


def generate_completions(
    policy: Policy | Writer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    rows: int | None = None,
    journal: Journal | None = None,
    label: str = "generate",
) -> list[Completion]:
    """K answers to every prompt (one with ``sampling.greedy``), in the order of `prompts`, then of index.

    Args and errors are those of `generate_chunks`.
    """
    chunks = generate_chunks(
        policy, prompts, sampling, seed=seed, round_=round_, rows=rows, journal=journal, label=label
    )
    return ordered(chunks, prompts)


def generate_chunks(
    policy: Policy | Writer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    rows: int | None = None,
    journal: Journal | None = None,
    label: str = "generate",
) -> Iterator[list[Completion]]:
    """The answers of some prompts as soon as they are written, prompts in any order; of one prompt in that of index.

    Memory holds the tokens of all prompts, and the answers of one chunk.

    Args:
        rows: most answers computed side by side; None = as many as fit the cache's allowance.
        journal: finished chunks are kept there and not computed again.

    Raises:
        DataError: a prompt that is there twice, or leaves no room for an answer in the model's context.
        ModelError: the tokenizer has no chat template, or the model's output is not a number.
    """
    writer = Here(policy) if isinstance(policy, Policy) else policy
    encoded = [(prompt.id, encode_prompt(writer.tokenizer, prompt.messages)) for prompt in prompts]
    _check(writer, encoded, sampling)
    chunks = dict(_chunks(writer, encoded, sampling, seed, round_, rows))
    for key, answers in work_through(
        chunks,
        lambda left: writer.written(left, sampling, seed, round_),
        journal,
        label=label,
        unit="prompts",
        size=len,
    ):
        yield [
            _completion(writer, prompt_id, index, Answer(**answer), sampling, seed, round_)
            for (prompt_id, index), answer in zip(_identities(chunks[key], sampling), answers, strict=True)
        ]


def _check(writer: Writer, encoded: Encoded, sampling: Sampling) -> None:
    context = writer.context
    seen = set()
    for prompt_id, ids in encoded:
        if prompt_id in seen:
            raise DataError(f"prompt {prompt_id} is there twice: ids hash the messages, so remove one of the two")
        seen.add(prompt_id)
        if context and len(ids) + sampling.max_new_tokens > context:
            raise DataError(
                f"prompt {prompt_id} has {len(ids)} tokens; with max_new_tokens={sampling.max_new_tokens} it "
                f"exceeds the model's context of {context}: shorten it or lower generation.max_new_tokens"
            )


def _chunks(
    writer: Writer, encoded: Encoded, sampling: Sampling, seed: int, round_: int, rows: int | None
) -> Iterator[tuple[str, Encoded]]:
    """Chunks with their journal keys, longest prompts first, so that memory fails early if at all.

    A key hashes all that decides the chunk's answers, so a journal of another policy or seed is not taken up.
    """
    ordered = sorted(encoded, key=lambda item: (-len(item[1]), item[0]))
    width = len(ordered[0][1]) + sampling.max_new_tokens if ordered else 1
    size = max(1, (rows or (writer.most_rows(width) if ordered else 1)) // len(sampling.indices))
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        settings = [writer.lineage.id, writer.dtype, sampling.settings, sampling.indices, seed, round_]
        yield content_id("chunk", *settings, chunk), chunk


def cache_allowance(device: torch.device) -> int:
    """Bytes that the key-value cache of a chunk may take on a device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * GPU_CACHE_SHARE)
    return CPU_CACHE_BYTES


def fitting_rows(config: Any, itemsize: int, width: int, allowance: int) -> int:
    """Answers of `width` tokens computed side by side whose cache fits the allowance."""
    return min(MOST_ROWS, allowance // (width * cache_bytes(config, itemsize)))


def _identities(chunk: Encoded, sampling: Sampling) -> list[tuple[str, int]]:
    return [(prompt_id, index) for prompt_id, _ in chunk for index in sampling.indices]


def decoded(policy: Policy, chunk: Encoded, sampling: Sampling, seed: int, round_: int) -> list[Answer]:
    """The answers to one chunk, prompt by prompt."""
    draws = [
        uniforms(seed, round_, prompt_id, index, sampling.max_new_tokens)
        for prompt_id, index in _identities(chunk, sampling)
    ]
    ends = end_token_ids(policy.model, policy.tokenizer)
    stopped = _stop_check(policy, sampling.stop) if sampling.stop else None
    return decode(policy.model, [ids for _, ids in chunk], torch.stack(draws), sampling, ends, stopped)


def _stop_check(policy: Policy, stop: tuple[str, ...]) -> Callable[[list[int]], bool]:
    """Whether the newest token completed a stop text.

    Only the tail is decoded: a token holds at least one byte, and a few more allow for the space that some
    tokenizers drop at the start.
    """
    tail = max(len(text.encode()) for text in stop) + 4

    def stopped(ids: list[int]) -> bool:
        written = _text(policy, ids[-tail:])
        return any(text in written for text in stop)

    return stopped


def _text(policy: Policy | Writer, ids: list[int]) -> str:
    # Cleaning up would move spaces before punctuation, and with them the meaning of SQL literals.
    return str(policy.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _completion(
    writer: Writer, prompt_id: str, index: int, answer: Answer, sampling: Sampling, seed: int, round_: int
) -> Completion:
    settings, lineage, text = sampling.settings, writer.lineage.id, _text(writer, answer.ids)
    cuts = [text.find(stop) for stop in sampling.stop if stop in text]
    return Completion(
        id=Completion.make_id(prompt_id, lineage, settings, seed, round_, index),
        prompt_id=prompt_id,
        index=index,
        round=round_,
        text=text[: min(cuts, default=None)],
        token_ids=tuple(answer.ids),
        logprobs=tuple(answer.logprobs),
        finish_reason=answer.finish_reason,
        policy=lineage,
        sampling=settings,
        seed=seed,
    )

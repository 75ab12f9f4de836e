"""Sampled and greedy answers of any causal language model, in fixed chunks that a killed run can take up again.

Within a chunk each prompt is computed once; its cache rows are then repeated for its K answers, rows that
finished leave the batch, and every row draws from a generator of its own. Chunks depend on the prompt list alone,
so a resumed run repeats the arithmetic bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from prefloop.errors import DataError
from prefloop.generation.cache import growing_cache
from prefloop.generation.sampler import Sampling, choose, log_probability, uniforms
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt, end_token_ids
from prefloop.progress import progress
from prefloop.records import Completion, Prompt
from prefloop.store.journal import Journal

ROWS_PER_CHUNK = 512
"""Answers computed side by side; more buy little speed on a CPU and cost cache memory."""

COMPACT_BELOW = 0.85
"""Finished rows are taken out of the cache once fewer than this share of its rows are still running."""

__all__ = ["Sampling", "generate_completions"]


@dataclass
class _Row:
    """One answer being written."""

    prompt_id: str
    index: int
    draws: torch.Tensor
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str = "length"


def generate_completions(
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    seed: int,
    round_: int = 0,
    journal: Journal | None = None,
    label: str = "generate",
) -> list[Completion]:
    """K answers to every prompt (one with ``sampling.greedy``), in the order of `prompts`, then of index.

    Args:
        journal: finished chunks are kept there and not computed again.

    Raises:
        DataError: a prompt that leaves no room for an answer in the model's context.
    """
    encoded = [(prompt.id, encode_prompt(policy.tokenizer, prompt.messages)) for prompt in prompts]
    _check_lengths(policy, encoded, sampling)
    done = journal.entries() if journal else {}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    chunks = list(_chunks(encoded, len(sampling.indices)))
    finished = sum(len(chunk) for key, chunk in chunks if key in done)
    with progress(label, len(prompts), "prompts", done=finished) as advance:
        for key, chunk in chunks:
            if key not in done:
                done[key] = _generate_chunk(policy, chunk, sampling, seed, round_)
                if journal:
                    journal.append(key, done[key])
                advance(len(chunk))
            found |= {(row["prompt_id"], row["index"]): row for row in done[key]}
    return [
        _completion(policy, found[prompt.id, index], sampling, seed, round_)
        for prompt in prompts
        for index in sampling.indices
    ]


def _check_lengths(policy: Policy, encoded: list[tuple[str, list[int]]], sampling: Sampling) -> None:
    context = getattr(policy.model.config, "max_position_embeddings", None)
    for prompt_id, ids in encoded:
        if context and len(ids) + sampling.max_new_tokens > context:
            raise DataError(
                f"prompt {prompt_id} has {len(ids)} tokens; with max_new_tokens={sampling.max_new_tokens} it exceeds "
                f"the model's context of {context}: shorten it or lower generation.max_new_tokens"
            )


def _chunks(
    encoded: list[tuple[str, list[int]]], per_prompt: int
) -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
    """Prompts sorted by length, a fixed number at a time; the longest first, so that memory fails early if at all."""
    size = max(1, ROWS_PER_CHUNK // per_prompt)
    ordered = sorted(encoded, key=lambda item: (-len(item[1]), item[0]))
    for start in range(0, len(ordered), size):
        yield f"{start:08}", ordered[start : start + size]


@torch.inference_mode()
def _generate_chunk(
    policy: Policy, chunk: list[tuple[str, list[int]]], sampling: Sampling, seed: int, round_: int
) -> list[dict[str, Any]]:
    model, ends = policy.model, end_token_ids(policy.model, policy.tokenizer)
    rows = [
        _Row(prompt_id, index, uniforms(seed, round_, prompt_id, index, sampling.max_new_tokens))
        for prompt_id, _ in chunk
        for index in sampling.indices
    ]
    draws = torch.stack([row.draws for row in rows])
    ids, mask, positions = _left_padded([ids for _, ids in chunk], policy)
    cache = growing_cache(model.config)
    logits = _forward(model, ids, mask, positions, cache)
    logits = logits.repeat_interleave(len(sampling.indices), dim=0)
    cache.batch_repeat_interleave(len(sampling.indices))
    mask = None if mask is None else mask.repeat_interleave(len(sampling.indices), dim=0)
    positions = positions[:, -1:].repeat_interleave(len(sampling.indices), dim=0)
    live = list(
        range(len(rows))
    )  # rows in the cache, by their number; finished ones stay until the next compaction
    for step in range(sampling.max_new_tokens):
        tokens = choose(logits, draws[live, step], sampling)
        scores = log_probability(logits, tokens)
        for number, token, score in zip(live, tokens.tolist(), scores.tolist(), strict=True):
            _take(rows[number], token, score, ends, step)
        running = [place for place, number in enumerate(live) if not _ended(rows[number])]
        if not running or step + 1 == sampling.max_new_tokens:
            break
        if len(running) < COMPACT_BELOW * len(live):
            kept = torch.tensor(running, device=policy.device)
            cache.batch_select_indices(kept)
            tokens, positions = tokens[kept], positions[kept]
            mask = None if mask is None else mask[kept]
            live = [live[place] for place in running]
        positions = positions + 1
        mask = None if mask is None else torch.nn.functional.pad(mask, (0, 1), value=1)
        logits = _forward(model, tokens[:, None], mask, positions, cache)
    return [
        {
            "prompt_id": row.prompt_id,
            "index": row.index,
            "ids": row.ids,
            "logprobs": row.logprobs,
            "finish_reason": row.finish_reason,
        }
        for row in rows
    ]


def _forward(
    model: Any, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, cache: Any
) -> torch.Tensor:
    """Logits [R, V] of the last position, float32."""
    output = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def _left_padded(
    prompts: list[list[int]], policy: Policy
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Ids [G, P], mask [G, P] (None when nothing is padded) and positions [G, P]."""
    width = max(map(len, prompts))
    pad = policy.tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=policy.device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    return ids, None if bool(mask.all()) else mask, positions


def _take(row: _Row, token: int, score: float, ends: set[int], step: int) -> None:
    if _ended(row):
        return
    row.ids.append(token)
    row.logprobs.append(score)
    if token in ends:
        row.finish_reason = "stop"


def _ended(row: _Row) -> bool:
    return row.finish_reason == "stop"


def _completion(
    policy: Policy, row: dict[str, Any], sampling: Sampling, seed: int, round_: int
) -> Completion:
    settings, lineage = sampling.settings, policy.lineage.id
    identity = Completion.make_id(row["prompt_id"], lineage, settings, seed, round_, row["index"])
    return Completion(
        id=identity,
        prompt_id=row["prompt_id"],
        index=row["index"],
        round=round_,
        text=policy.tokenizer.decode(row["ids"], skip_special_tokens=True),
        token_ids=tuple(row["ids"]),
        logprobs=tuple(row["logprobs"]),
        finish_reason=row["finish_reason"],
        policy=lineage,
        sampling=settings,
        seed=seed,
    )

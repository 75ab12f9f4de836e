"""Token ids to token ids: one chunk of prompts decoded side by side.

Each prompt is computed once; its cache rows are then repeated for its answers. A row that ends leaves the
batch at once: the last rows move into the holes, so that a step costs what the running answers cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prefloop.config.sampling import Sampling
from prefloop.errors import ModelError
from prefloop.generation.cache import growing_cache, rows_can_move
from prefloop.generation.sampler import choose, log_probability


@dataclass(frozen=True)
class Answer:
    """One decoded row."""

    ids: list[int]
    """The end token included, where there is one."""
    logprobs: list[float]
    """log π(token) at temperature 1, one per id."""
    finish_reason: str
    """``stop`` or ``length``."""


@dataclass
class _Batch:
    """The R running rows; `numbers` [R] says which answer each one is."""

    numbers: Tensor
    tokens: Tensor
    """[R, 1], or [G, P] at the start: what the model reads next."""
    positions: Tensor
    mask: Tensor | None
    """[R, past and new] of 0 and 1; None where no row is padded."""
    cache: Any

    def repeat(self, times: int) -> None:
        """Each row `times` times; the copies of a row side by side."""
        self.cache.batch_repeat_interleave(times)
        self._each_row(lambda rows: rows.repeat_interleave(times, dim=0))
        self.numbers = torch.arange(len(self.tokens), device=self.tokens.device)

    def keep(self, running: Tensor) -> Tensor:
        """Drop the rows that are not `running` [R] bool; returns the indices [R'] of the rows kept."""
        size = int(running.sum())
        places = torch.arange(size, device=running.device)
        places[~running[:size]] = running[size:].nonzero()[:, 0] + size
        self.cache.batch_select_indices(places)
        self._each_row(lambda rows: rows[places])
        self.numbers = self.numbers[places]
        return places

    def _each_row(self, change: Callable[[Tensor], Tensor]) -> None:
        self.tokens, self.positions = change(self.tokens), change(self.positions)
        self.mask = None if self.mask is None else change(self.mask)

    def advance(self, tokens: Tensor) -> None:
        """Let every row read its new token [R] next."""
        self.tokens, self.positions = tokens[:, None], self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)


@torch.inference_mode()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    draws: Tensor,
    sampling: Sampling,
    ends: Set[int],
    stopped: Callable[[list[int]], bool] | None = None,
) -> list[Answer]:
    """Answers to G prompts, `N/G` to each, the answers of a prompt side by side.

    Args:
        draws: [N, sampling.max_new_tokens] uniform numbers, one per answer and step.
        ends: token ids that end an answer.
        stopped: whether these ids contain a stop text; asked after every token.

    Raises:
        ModelError: the model's logits are not numbers.
    """
    steps = sampling.max_new_tokens
    draws = draws.to(model.device, torch.float32 if model.device.type == "mps" else torch.float64)
    ids = torch.zeros(draws.shape, dtype=torch.long, device=model.device)
    logprobs = torch.zeros(draws.shape, device=model.device)
    lengths = torch.full((len(draws),), steps, device=model.device)
    end_ids = torch.tensor(sorted(ends), dtype=torch.long, device=model.device)
    batch, logits = _prefill(model, prompts, len(draws) // len(prompts))
    movable = rows_can_move(batch.cache)
    ended = torch.zeros(len(draws), dtype=torch.bool, device=model.device)
    for step in range(steps):
        tokens = choose(logits, draws[batch.numbers, step], sampling)
        ids[batch.numbers, step] = tokens
        logprobs[batch.numbers, step] = log_probability(logits, tokens)
        now = torch.isin(tokens, end_ids)
        if stopped:
            written = ids[batch.numbers, : step + 1].tolist()
            now |= torch.tensor([stopped(row) for row in written], device=model.device)
        if now.any():
            fresh = batch.numbers[now & ~ended[batch.numbers]]
            lengths[fresh], ended[fresh] = step + 1, True
        if step + 1 == steps or ended.all():
            break
        if movable and now.any():
            tokens = tokens[batch.keep(~now)]
        batch.advance(tokens)
        logits = _forward(model, batch)
    return _answers(ids, logprobs, lengths, ended)


def _prefill(model: Any, prompts: Sequence[Sequence[int]], per_prompt: int) -> tuple[_Batch, Tensor]:
    """The prompts read, and the logits [N, V] of the first token of every answer."""
    cache = growing_cache(model.config)
    if not rows_can_move(cache):
        batch = _left_padded(model, [prompt for prompt in prompts for _ in range(per_prompt)], cache)
        return batch, _forward(model, batch)
    batch = _left_padded(model, prompts, cache)
    logits = _forward(model, batch)
    batch.repeat(per_prompt)
    return batch, logits.repeat_interleave(per_prompt, dim=0)


def _left_padded(model: Any, prompts: Sequence[Sequence[int]], cache: Any) -> _Batch:
    width = max(map(len, prompts))
    short = [width - len(prompt) for prompt in prompts]
    # Padding is masked, so any id will do; the row's own first one is certain to be in the vocabulary.
    ids = [[prompt[0]] * gap + list(prompt) for prompt, gap in zip(prompts, short, strict=True)]
    real = (torch.arange(width) >= torch.tensor(short)[:, None]).long().to(model.device)
    return _Batch(
        numbers=torch.arange(len(prompts), device=model.device),
        tokens=torch.tensor(ids, device=model.device),
        positions=(real.cumsum(-1) - 1).clamp(min=0),
        mask=real if any(short) else None,
        cache=cache,
    )


def _forward(model: Any, batch: _Batch) -> Tensor:
    """Logits [R, V] of the last position, float32."""
    output = model(
        input_ids=batch.tokens,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        past_key_values=batch.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1].float()


def _answers(ids: Tensor, logprobs: Tensor, lengths: Tensor, ended: Tensor) -> list[Answer]:
    answers = []
    rows = zip(ids.tolist(), logprobs.tolist(), lengths.tolist(), ended.tolist(), strict=True)
    for tokens, scores, length, done in rows:
        if not all(score > -float("inf") for score in scores[:length]):  # false for NaN as well
            raise ModelError("the model's output is not a number: its weights are damaged, or its dtype is too narrow")
        answers.append(Answer(tokens[:length], scores[:length], "stop" if done else "length"))
    return answers

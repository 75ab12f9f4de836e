"""One forward pass per group: the prompt once, its completions beside each other, none seeing another.

Row layout of a group with prompt P and completions y1..yK (``shared``):

    tokens     [ P          | y1          | ... | yK          | padding ]
    positions  [ 0 .. P-1   | P .. P+|y1| | ... | P .. P+|yK| |         ]
    query in P sees P; query in yk sees P and yk; both only what lies before (and at) the query.

Everything between attention layers is computed once per unique token, and gradients into the prompt add up
from all completions, so log-probabilities and gradients equal those of K separate rows ``[P | yk]``; that is
the ``rows`` layout, for models whose layers cannot keep the completions apart. With one completion per group
both are the same plain causal row without any mask.

What scores which token: the last prompt position predicts the first token of *every* completion; position t
of a completion predicts its token t+1; the last token of a completion predicts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.errors import DataError
from prefloop.models.attention import NAME as MATMUL

SHARED, ROWS = "shared", "rows"


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with its K completions, as token ids (each completion includes its end token)."""

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completions or not all(self.completions):
            raise DataError("a group needs a prompt and completions of at least one token each")

    @property
    def tokens(self) -> int:
        """Unique tokens: the length of the group's shared row."""
        return len(self.prompt_ids) + sum(map(len, self.completions))

    @property
    def longest(self) -> int:
        """Positions the model needs: the prompt and its longest completion."""
        return len(self.prompt_ids) + max(map(len, self.completions))


@dataclass(frozen=True, slots=True)
class GroupBatch:
    """Groups as tensors: B rows of S tokens; N completions, M scored tokens, in the order of the groups."""

    input_ids: Tensor
    """[B, S] long, padded on the right."""
    position_ids: Tensor | None
    """[B, S] long; None where every row is one plain sequence."""
    mask: Tensor | None
    """[B, S, S] bool, query by key: may attend; None = causal."""
    scored: Tensor
    """[B, S] bool, H of them true: positions that predict a completion token."""
    head_row: Tensor
    """[M] long: which of the H scored positions, counted row by row, predicts this token."""
    targets: Tensor
    """[M] long: the token predicted."""
    owner: Tensor
    """[M] long: its completion, 0..N-1."""
    lengths: Tensor
    """[N] long: tokens per completion."""
    padding: int
    """Padding tokens among the B·S."""

    def to(self, device: torch.device) -> GroupBatch:
        """The batch on `device`."""
        tensors = (self.input_ids, self.position_ids, self.mask, self.scored, self.head_row)
        tensors += (self.targets, self.owner, self.lengths)
        moved = [None if tensor is None else tensor.to(device, non_blocking=True) for tensor in tensors]
        return GroupBatch(*moved, self.padding)  # type: ignore[arg-type] # None stays where None was


@dataclass(frozen=True, slots=True)
class GroupLogps:
    """Log-probabilities of the completions of a batch, at temperature 1, in float32."""

    tokens: Tensor
    """[M] log π(token | prompt, earlier tokens of the same completion)."""
    sums: Tensor
    """[N] log π(completion | prompt)."""
    lengths: Tensor
    """[N] tokens per completion."""

    def split(self) -> list[Tensor]:
        """Per-token log-probabilities, one tensor per completion."""
        return list(self.tokens.split(self.lengths.tolist()))


def pack(groups: Sequence[Group], pad_id: int = 0, layout: str = SHARED) -> GroupBatch:
    """One row per group (``shared``) or per completion (``rows``), padded to the longest.

    The completions come out in the same order in both layouts.
    """
    if layout == ROWS:
        groups = [Group(group.prompt_ids, (completion,)) for group in groups for completion in group.completions]
    rows = [_Row.of(group) for group in groups]
    width = max(len(row.tokens) for row in rows)
    plain = all(len(group.completions) == 1 for group in groups)
    flat = torch.tensor([width * i + position for i, row in enumerate(rows) for position in row.predictors])
    scored = torch.zeros(len(rows) * width, dtype=torch.bool)
    scored[flat] = True
    completions = [completion for group in groups for completion in group.completions]
    lengths = torch.tensor([len(completion) for completion in completions])
    return GroupBatch(
        input_ids=_padded([row.tokens for row in rows], pad_id),
        position_ids=None if plain else _padded([row.positions for row in rows], 0),
        mask=None if plain else _visible(_padded([row.segments for row in rows], -1)),
        scored=scored.view(len(rows), width),
        head_row=(scored.cumsum(0) - 1)[flat],
        targets=torch.tensor([token for completion in completions for token in completion]),
        owner=torch.repeat_interleave(torch.arange(len(completions)), lengths),
        lengths=lengths,
        padding=width * len(rows) - sum(len(row.tokens) for row in rows),
    )


@dataclass(slots=True)
class _Row:
    """A group laid out: one entry per token, except `predictors`, one per scored token."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    predictors: list[int]

    @classmethod
    def of(cls, group: Group) -> _Row:
        prompt = len(group.prompt_ids)
        row = cls(list(group.prompt_ids), list(range(prompt)), [0] * prompt, [])
        for k, completion in enumerate(group.completions, 1):
            start, length = len(row.tokens), len(completion)
            row.predictors += [prompt - 1, *range(start, start + length - 1)]
            row.tokens += completion
            row.positions += range(prompt, prompt + length)
            row.segments += [k] * length
        return row


def _padded(rows: list[list[int]], value: int) -> Tensor:
    tensors = [torch.tensor(row) for row in rows]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)


def _visible(segments: Tensor) -> Tensor:
    """[B, S] segment per token (0 the prompt, k a completion, -1 padding) -> [B, S, S] who may see whom.

    Padding sees itself, so that no softmax is over nothing; nobody sees padding, since it comes last.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool).tril()
    return causal & ((key == query) | (key == 0))


class GroupForward(nn.Module):
    """Wraps a causal language model; one call gives the log-probabilities of all completions of a batch.

    Attributes:
        layout: ``shared`` or ``rows``; `pack` with it.
        why: what decided it, in words.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        obstacle = sharing_obstacle(model.config) or self._disagreement()
        self.layout = ROWS if obstacle else SHARED
        self.why = obstacle or "every layer is full attention, checked against separate rows"

    def pack(self, groups: Sequence[Group]) -> GroupBatch:
        """The groups in this model's layout, on its device."""
        return pack(groups, layout=self.layout).to(self.model.device)

    def forward(self, batch: GroupBatch) -> GroupLogps:
        """Log-probabilities of the completions; the LM head runs on scored positions alone.

        The model's own forward applies the head and what its architecture does after it (soft caps, scales).
        ``use_cache=False`` is not for speed: with a cache, transformers ignores restarted positions.
        """
        logits = self.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=None if batch.mask is None else self._additive(batch.mask),
            logits_to_keep=batch.scored,
            use_cache=False,
        ).logits.float()  # [H, V]
        vocabulary = logits.shape[-1]
        # One flat index per token: its backward is a serial sum, the same bits every time, where indexing
        # with (row, token) adds atomically when completions of a group share their first token.
        picked = logits.view(-1).index_select(0, batch.head_row * vocabulary + batch.targets)
        tokens = picked - logits.logsumexp(-1).index_select(0, batch.head_row)
        sums = tokens.new_zeros(len(batch.lengths)).index_add_(0, batch.owner, tokens)
        return GroupLogps(tokens, sums, batch.lengths)

    def _additive(self, mask: Tensor) -> Tensor:
        """[B, S, S] bool -> [B, 1, S, S] to add to scores: eager attention would add a bool as 0 or 1."""
        kind = self.model.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.model.dtype
        floor = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return floor.masked_fill_(~mask, torch.finfo(dtype).min)[:, None]

    @torch.no_grad()
    def _disagreement(self) -> str | None:
        """One short group in both layouts; what differs, or None."""
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = [(7 * i + 3) % vocabulary for i in range(12)]
        group = Group(tuple(ids[:4]), (tuple(ids[4:9]), tuple(ids[9:11]), tuple(ids[11:])))
        tolerance = 1e-4 if self.model.dtype == torch.float32 else 0.1
        training = self.model.training
        self.model.eval()
        try:
            shared, rows = (
                self(pack([group], layout=layout).to(self.model.device)).tokens for layout in (SHARED, ROWS)
            )
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            return f"the model takes no 4-D mask with positions ({type(error).__name__})"
        finally:
            self.model.train(training)
        difference = (shared - rows).abs().max().item()
        return None if difference < tolerance else f"shared and separate rows differ by {difference:.1e}"


def sharing_obstacle(config: Any) -> str | None:
    """Why models of this configuration cannot share a prompt between completions, or None if they may.

    Windows and chunks are measured along the row, where completions lie behind each other; state-space and
    linear layers carry one completion's state into the next; flash kernels take no mask.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"layer types {', '.join(sorted(kinds - {'full_attention'}))}"
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        return f"sliding window of {config.sliding_window} tokens"
    if "local" in getattr(config, "attention_layers", ()):
        return "local attention layers"
    if getattr(config, "attention_chunk_size", None):
        return f"attention in chunks of {config.attention_chunk_size} tokens"
    if config._attn_implementation not in {"sdpa", "eager", MATMUL}:
        return f"attention implementation {config._attn_implementation} takes no dense mask"
    return None

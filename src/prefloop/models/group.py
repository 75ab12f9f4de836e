"""One forward pass per group: the prompt once, its completions beside each other, none seeing another.

Groups are packed into one row without padding (``packed``). A group with prompt P and completions y1..yK:

    tokens     [ P          | y1          | ... | yK          ][ next group ...
    positions  [ 0 .. P-1   | P .. P+|y1| | ... | P .. P+|yK| ][ 0 ...
    query in P sees P; query in yk sees P and yk; both only what lies before (and at) the query.

Everything between attention layers is computed once per unique token, and gradients into the prompt add up from
all completions, so log-probabilities and gradients equal those of K separate rows ``[P | yk]``; that is the
``rows`` layout, for models whose layers cannot keep completions apart. How attention keeps them apart:
`prefloop.models.attention`; how the LM head runs on scored positions alone: `prefloop.models.head`.

What scores which token: the last prompt position predicts the first token of *every* completion; position t of a
completion predicts its token t+1; the last token of a completion predicts nothing, and is where a reward model
reads its score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.errors import DataError
from prefloop.models.attention import NAME as GROUP_ATTENTION
from prefloop.models.attention import Segments
from prefloop.models.head import token_logps

PACKED, ROWS = "packed", "rows"
TOLERANCE, HALF_TOLERANCE = 1e-4, 0.1
"""Largest difference that is taken for rounding, in float32 and in half precision."""


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with its K completions, as token ids (each completion includes its end token)."""

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    unscored: tuple[int, ...] = ()
    """How many of the first tokens of each completion are read but not scored; empty: none."""

    def __post_init__(self) -> None:
        if not self.prompt_ids or not self.completions or min(self.scored) < 1:
            raise DataError("a group needs a prompt and completions of at least one scored token each")

    @property
    def scored(self) -> list[int]:
        """Scored tokens of each completion."""
        unscored = self.unscored or (0,) * len(self.completions)
        return [len(ids) - left for ids, left in zip(self.completions, unscored, strict=True)]

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
    """[B, S] long; B = 1 without padding if packed, else padded on the right."""
    position_ids: Tensor | None
    """[B, S] long; None where every row is one plain sequence."""
    segments: Segments | None
    """What may see what in a packed row."""
    sources: Tensor
    """[M] long: place among the B·S that predicts this token."""
    targets: Tensor
    """[M] long: the token predicted."""
    owner: Tensor
    """[M] long: its completion, 0..N-1."""
    lengths: Tensor
    """[N] long: scored tokens per completion."""
    ends: Tensor
    """[N] long: place among the B·S of each completion's last token."""
    padding: int
    """Padding tokens among the B·S."""

    def to(self, device: torch.device) -> GroupBatch:
        """The batch on `device` (its segments are made there)."""
        moved = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in moved.items()})


@dataclass(frozen=True, slots=True)
class GroupLogps:
    """Log-probabilities of the completions of a batch, at temperature 1, in float32."""

    tokens: Tensor
    """[M] log π(token | prompt, earlier tokens of the same completion)."""
    sums: Tensor
    """[N] log π(completion | prompt)."""
    lengths: Tensor
    """[N] scored tokens per completion."""
    owner: Tensor
    """[M] completion of each token."""
    log_squares: Tensor | None = None
    """[M] log Σ_v π(v)² where each token was scored, without gradient, if asked for."""

    def split(self) -> list[Tensor]:
        """Per-token log-probabilities, one tensor per completion."""
        return list(self.tokens.split(self.lengths.tolist()))


def pack(groups: Sequence[Group], layout: str = PACKED, device: torch.device | None = None) -> GroupBatch:
    """All groups in one row (``packed``), or a padded row for each completion (``rows``).

    The completions come out in the same order in both layouts.
    """
    device = device or torch.device("cpu")
    if layout == ROWS:
        groups = [
            Group(group.prompt_ids, (ids,), (len(ids) - scored,))
            for group in groups
            for ids, scored in zip(group.completions, group.scored, strict=True)
        ]
    rows = [_Row.of(group) for group in groups]
    width = max(len(row.tokens) for row in rows)
    starts = [width * i for i in range(len(rows))]
    if layout == PACKED:
        starts = [0]
        for row in rows[:-1]:
            starts.append(starts[-1] + len(row.tokens))
    lengths = torch.tensor([scored for group in groups for scored in group.scored])
    tokens = [row.tokens for row in rows]
    batch = GroupBatch(
        input_ids=_flat(tokens) if layout == PACKED else _padded(tokens),
        position_ids=_flat([row.positions for row in rows]) if layout == PACKED else None,
        segments=None,
        sources=torch.tensor([start + p for start, row in zip(starts, rows, strict=True) for p in row.predictors]),
        targets=torch.tensor([token for row in rows for token in row.targets]),
        owner=torch.repeat_interleave(torch.arange(len(lengths)), lengths),
        lengths=lengths,
        ends=torch.tensor([start + p for start, row in zip(starts, rows, strict=True) for p in row.ends]),
        padding=0 if layout == PACKED else width * len(rows) - sum(map(len, tokens)),
    ).to(device)
    if layout == ROWS:
        return batch
    shapes = [(len(group.prompt_ids), tuple(map(len, group.completions))) for group in groups]
    return replace(batch, segments=Segments.of(shapes, device))


@dataclass(slots=True)
class _Row:
    """A group laid out: an entry per token; per scored token of `predictors` and `targets`; per completion of
    `ends`."""

    tokens: list[int]
    positions: list[int]
    predictors: list[int]
    targets: list[int]
    ends: list[int]

    @classmethod
    def of(cls, group: Group) -> _Row:
        prompt = len(group.prompt_ids)
        row = cls(list(group.prompt_ids), list(range(prompt)), [], [], [])
        for completion, scored in zip(group.completions, group.scored, strict=True):
            start, length = len(row.tokens), len(completion)
            row.predictors += [prompt - 1, *range(start, start + length - 1)][-scored:]
            row.targets += completion[-scored:]
            row.tokens += completion
            row.positions += range(prompt, prompt + length)
            row.ends.append(start + length - 1)
        return row


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([[value for row in rows for value in row]])


def _padded(rows: list[list[int]]) -> Tensor:
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


class GroupStates(nn.Module):
    """The hidden states of packed groups; what is computed from them is the subclasses' one line.

    The only module whose forward training calls, so that what wraps it (DDP, FSDP) sees every parameter.

    Attributes:
        layout: ``packed`` or ``rows``; `pack` uses it.
        why: what decided it, in words.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._window = _window(model.config)
        obstacle = sharing_obstacle(model.config) or self._disagreement()
        self.layout = ROWS if obstacle else PACKED
        self.why = obstacle or "every layer keeps completions apart, checked against separate rows"
        self._no_split_modules = getattr(self.base, "_no_split_modules", None)  # what FSDP wraps

    @property
    def base(self) -> Any:
        """The model inside an adapter's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def tie_weights(self) -> None:
        """Tie embedding and head again after they were moved; FSDP2 asks for it."""
        self.base.tie_weights()

    def tokens(self, group: Group) -> int:
        """Tokens that the group takes in this layout, padding not counted."""
        repeated = 0 if self.layout == PACKED else len(group.completions) - 1
        return group.tokens + repeated * len(group.prompt_ids)

    def pack(self, groups: Sequence[Group]) -> GroupBatch:
        """The groups in this model's layout, on its device; separate rows where one is longer than a window."""
        fits = self._window is None or max(group.longest for group in groups) <= self._window
        return pack(groups, self.layout if fits else ROWS, self.model.device)

    def hidden(self, batch: GroupBatch) -> Tensor:
        """[B·S, d] last hidden states, after the final norm."""
        states: Tensor = self.base.get_decoder()(**_inputs(batch))[0]
        return states.flatten(0, 1)

    def _disagreement(self) -> str | None:
        """What keeps the packed layout from the hidden states of separate rows, or None; on two short groups."""
        with _evaluating(self.model):
            try:
                ends = [self.hidden(batch)[batch.ends].float() for batch in self._probes(PACKED, ROWS)]
            except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
                return f"the model does not take packed rows ({type(error).__name__})"
        difference = ((ends[0] - ends[1]).abs().max() / ends[1].abs().max()).item()
        return None if difference < self.tolerance else f"packed and separate rows differ by {difference:.1e}"

    @property
    def tolerance(self) -> float:
        """Relative difference that rounding explains."""
        return TOLERANCE if self.model.dtype == torch.float32 else HALF_TOLERANCE

    def _probes(self, *layouts: str) -> list[GroupBatch]:
        vocabulary = self.model.config.get_text_config().vocab_size
        ids = [(7 * i + 3) % vocabulary for i in range(16)]
        groups = [Group(tuple(ids[:4]), (tuple(ids[4:9]), tuple(ids[9:11]), tuple(ids[11:12])))]
        groups.append(Group(tuple(ids[12:14]), (tuple(ids[14:]),)))
        return [pack(groups, layout, self.model.device) for layout in layouts]


class GroupForward(GroupStates):
    """Wraps a causal language model; one call gives the log-probabilities of all completions of a batch."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self._plain_head = type(self.base.get_output_embeddings()) is nn.Linear and self._head_agrees()

    def forward(self, batch: GroupBatch, squares: bool = False) -> GroupLogps:
        """Log-probabilities of the completions; the LM head runs on scored positions alone.

        Args:
            squares: also `GroupLogps.log_squares`.
        """
        find = self._by_our_head if self._plain_head else self._by_its_logits
        tokens, log_squares = find(batch, squares)
        sums = tokens.new_zeros(len(batch.lengths)).index_add_(0, batch.owner, tokens)
        return GroupLogps(tokens, sums, batch.lengths, batch.owner, log_squares)

    def _by_our_head(self, batch: GroupBatch, squares: bool) -> tuple[Tensor, Tensor | None]:
        head = self.base.get_output_embeddings()
        hidden_M = self.hidden(batch).index_select(0, batch.sources)
        return token_logps(hidden_M, head.weight, head.bias, batch.targets, squares)

    def _by_its_logits(self, batch: GroupBatch, squares: bool) -> tuple[Tensor, Tensor | None]:
        """By the model's own forward, where its head is adapted or its logits are changed after the head."""
        scored = torch.zeros(batch.input_ids.numel(), dtype=torch.bool, device=batch.sources.device)
        scored[batch.sources] = True
        logits = self.model(**_inputs(batch), logits_to_keep=scored.view_as(batch.input_ids)).logits.float()  # [H, V]
        row_M = (scored.cumsum(0) - 1)[batch.sources]
        # One flat index per token: its backward is a serial sum, the same bits every time, where indexing
        # with (row, token) adds atomically when completions of a group share their first token.
        picked = logits.view(-1).index_select(0, row_M * logits.shape[-1] + batch.targets)
        normaliser_H = logits.logsumexp(-1)
        log_squares_H = (2 * logits.detach()).logsumexp(-1) - 2 * normaliser_H.detach() if squares else None
        log_squares = None if log_squares_H is None else log_squares_H[row_M]
        return picked - normaliser_H.index_select(0, row_M), log_squares

    def _head_agrees(self) -> bool:
        """Whether the model does nothing to its logits after the head (a soft cap, a scale)."""
        (batch,) = self._probes(ROWS)
        with _evaluating(self.model):
            ours, theirs = (find(batch, False)[0] for find in (self._by_our_head, self._by_its_logits))
        return (ours - theirs).abs().max().item() < self.tolerance


class GroupScores(GroupStates):
    """Wraps a sequence classifier with one label, a reward model; one call scores all completions of a batch."""

    def forward(self, batch: GroupBatch) -> Tensor:
        """[N] score of each completion in float32, read at its last token."""
        scores: Tensor = self.base.score(self.hidden(batch).index_select(0, batch.ends))
        return scores.float().squeeze(-1)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Without gradients and dropout; the mode of every module is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _inputs(batch: GroupBatch) -> dict[str, Any]:
    """Arguments of the model's forward. Without a cache, whose code would ignore restarted positions; with a
    4-D mask, which mask builders pass on unread, where `segments` say everything."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.segments is None:
        return inputs
    unread = torch.zeros(1, 1, 1, 1, device=batch.input_ids.device)
    return {**inputs, "position_ids": batch.position_ids, "attention_mask": unread, "segments": batch.segments}


def sharing_obstacle(config: Any) -> str | None:
    """Why models of this configuration cannot share a prompt between completions, or None if they may.

    State-space and linear layers carry one completion's state into the next; chunks are measured along the row;
    only transformers' SDPA attention is replaced. A sliding window is no obstacle up to its length.
    """
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        return f"layer types {', '.join(others)}"
    if "local" in getattr(config, "attention_layers", ()):
        return "local attention layers"
    if getattr(config, "attention_chunk_size", None):
        return f"attention in chunks of {config.attention_chunk_size} tokens"
    if getattr(config, "attn_logit_softcapping", None):
        return "soft-capped attention scores"
    if config._attn_implementation != GROUP_ATTENTION:
        return f"attention implementation {config._attn_implementation} cannot be told what may see what"
    return None


def _window(config: Any) -> int | None:
    """Tokens within which sliding attention sees everything; None without a window."""
    config = config.get_text_config()
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)

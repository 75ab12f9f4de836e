"""Log-probabilities under the reference, computed once from the weights in memory and kept by content."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch

from prefloop.errors import ModelError
from prefloop.models.group import Group, GroupForward
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.journal import Journal

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest difference per token between policy and reference at step 0, by the type of the forward pass. Both
run the same arithmetic on the same pack, so only devices that reorder sums come near it."""


def reference_logps(
    forward: GroupForward,
    packs: Sequence[Sequence[Group]],
    lineage: str,
    dtype: str,
    autocast: AbstractContextManager[object],
    journal: Journal,
) -> list[list[list[torch.Tensor]]]:
    """Per-token log-probabilities of every completion: by pack, group and completion, [tokens] float32 on the
    CPU.

    A pack is one forward pass and one journal entry under the hash of {reference lineage, dtype, layout,
    token ids}. The whole pack is the key, not each group: batched arithmetic differs in its last bits with
    what else is in the batch, and a resumed run has to repeat them.

    Args:
        forward: the reference; call this before the first update of the policy that starts from it.
        lineage: lineage id of the reference.
        autocast: entered around each forward pass (reusable).
        journal: what an interrupted pass finished is taken from it.
    """
    known = journal.entries()
    keys = [_key(pack, lineage, dtype, forward.layout) for pack in packs]
    done = sum(len(pack) for pack, key in zip(packs, keys, strict=True) if key in known)
    with progress("reference", sum(map(len, packs)), "prompts", done=done) as advance:
        for pack, key in zip(packs, keys, strict=True):
            if key not in known:
                known[key] = [_encoded(logps) for logps in _logps(forward, pack, autocast)]
                journal.append(key, known[key])
                advance(len(pack))
    return [_by_group(pack, known[key]) for pack, key in zip(packs, keys, strict=True)]


def check_start(
    forward: GroupForward,
    pack: Sequence[Group],
    stored: Sequence[Sequence[torch.Tensor]],
    lineage: str,
    dtype: str,
    autocast: AbstractContextManager[object],
) -> None:
    """Assert that the policy, before its first update, is the reference: every implicit reward is about 0.

    Raises:
        ModelError: it is another model (an adapter chain, a stale store, different weights under one name).
    """
    now = torch.cat(_logps(forward, pack, autocast))
    then = torch.cat([logps for group in stored for logps in group])
    difference = (now - then).abs().max().item()
    if not difference <= TOLERANCE[dtype]:
        raise ModelError(
            f"wrong reference: at step 0 the policy's log-probabilities differ from reference {lineage} "
            f"by up to {difference:.3g} per token: delete the reference store, or start from that model"
        )


@torch.no_grad()
def _logps(
    forward: GroupForward, pack: Sequence[Group], autocast: AbstractContextManager[object]
) -> list[torch.Tensor]:
    with autocast:
        return [logps.cpu() for logps in forward(forward.pack(pack)).split()]


def _key(pack: Sequence[Group], lineage: str, dtype: str, layout: str) -> str:
    tokens = [[list(group.prompt_ids), [list(ids) for ids in group.completions]] for group in pack]
    return content_id("reference", lineage, dtype, layout, tokens)


def _encoded(logps: torch.Tensor) -> str:
    """Little-endian float32 as base64: exact, and a third of the size of decimal digits."""
    return base64.b64encode(logps.numpy().astype("<f4").tobytes()).decode("ascii")


def _decoded(text: str) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32))


def _by_group(pack: Sequence[Group], encoded: Sequence[str]) -> list[list[torch.Tensor]]:
    texts = iter(encoded)
    return [[_decoded(next(texts)) for _ in group.completions] for group in pack]

"""Log-probabilities under the reference, computed once before training and kept by content."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from prefloop.models.group import Group, GroupForward, pack
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.journal import Journal


def reference_logps(
    forward: GroupForward,
    groups: Sequence[Group],
    batches: Sequence[Sequence[int]],
    lineage: str,
    *,
    pad_id: int,
    dtype: str,
    autocast: Callable[[], torch.autocast],
    journal: Journal,
) -> list[list[float]]:
    """Summed log-probability of every completion of every group, under the model as it is now.

    Args:
        batches: positions of `groups` that go through the model together.
        lineage: id of the reference policy; with the token ids and `dtype` it is the key of an entry, so another
            reference, template or truncation never meets a stale value.
        journal: entries survive a kill; what is there is not computed again.
    """
    known = journal.entries()
    keys = [content_id("reference", lineage, dtype, group.prompt, group.completions) for group in groups]
    missing = [[i for i in batch if keys[i] not in known] for batch in batches]
    total = sum(map(len, batches))
    with (
        progress("reference", total, "groups", done=total - sum(map(len, missing))) as advance,
        torch.no_grad(),
    ):
        for batch in filter(None, missing):
            packed = pack([groups[i] for i in batch], pad_id, forward.layout).to(
                next(forward.parameters()).device
            )
            with autocast():
                sums = forward(packed).sum(-1).tolist()
            for i in batch:
                known[keys[i]] = [sums.pop(0) for _ in groups[i].completions]
                journal.append(keys[i], known[keys[i]])
            advance(len(batch))
    return [known[key] for key in keys]

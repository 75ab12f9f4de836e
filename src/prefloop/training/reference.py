"""Log-probabilities under the reference: taken from generation where the same weights wrote the answer, else computed
once from the weights in memory and kept by content."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prefloop.config.training import TrainingConfig
from prefloop.errors import ModelError
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.journal import FileJournal
from prefloop.training.batches import sorted_passes
from prefloop.training.ranks import Ranks
from prefloop.training.trainable import autocast, without_adapter

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.01}
"""Largest difference per token between policy and reference at step 0, by the type of the forward pass. Both
run the same arithmetic on the same pack, so only devices that reorder sums come near it."""

SAMPLE = 8
"""Groups of which recorded log-probabilities are compared with computed ones."""

Recorded = Sequence[tuple[str, Sequence[float]]]
"""Of each completion of a group: the lineage id of the policy that wrote it, and its log-probabilities then."""


@dataclass
class ReferenceStore:
    """What the reference says of answers; an interrupted pass goes on where it stopped.

    Attributes:
        forward: the policy to be trained, before its first update.
        module: the same, wrapped for the processes there are.
        policy: what training starts from.
        initial: another model that is the reference, or None: then it is the policy, with
            ``reference: initial`` without its adapter.
        path: journal of what is computed.
    """

    forward: GroupForward
    module: Any
    ranks: Ranks
    policy: Policy
    initial: Policy | None
    config: TrainingConfig
    path: Path

    @property
    def lineage(self) -> Lineage:
        """Which weights the reference is."""
        if self.initial is not None:
            return self.initial.lineage
        return replace(self.policy.lineage, adapters=()) if self._bare else self.policy.lineage

    @property
    def _bare(self) -> bool:
        return self.config.reference == "initial" and bool(self.policy.lineage.adapters)

    def logps(self, groups: Sequence[Group], recorded: Sequence[Recorded] = ()) -> list[list[Tensor]]:
        """[scored tokens] of every completion of every group, float32 on the CPU.

        A pack is one forward pass and one journal entry under the hash of {reference lineage, dtype, layout, token
        ids}. The whole pack is the key, not each group: batched arithmetic differs in its last bits with what else
        is in the batch, and a resumed run has to repeat them.

        Raises:
            ModelError: the policy before its first update is not its reference although both are the same weights.
        """
        found = self._recorded(groups, recorded)
        missing = [i for i in range(len(groups)) if i not in found]
        passes = sorted_passes([self.forward.tokens(groups[i]) for i in missing], self.config.tokens_per_batch)
        for part, logps in zip(
            passes, self._computed([[groups[missing[i]] for i in part] for part in passes]), strict=True
        ):
            found |= {missing[i]: group for i, group in zip(part, logps, strict=True)}
        if self.initial is None and not self._bare:
            first = [missing[i] for i in passes[0]] if passes else list(range(min(SAMPLE, len(groups))))
            self._check_start([groups[i] for i in first], [found[i] for i in first])
        return [found[i] for i in range(len(groups))]

    def _recorded(self, groups: Sequence[Group], recorded: Sequence[Recorded]) -> dict[int, list[Tensor]]:
        """What generation recorded, by group; nothing if a sample of it is not what the reference says now.

        So it is where answers were generated in half precision: the same weights, another arithmetic.
        """
        found = {}
        for i, known in enumerate(recorded):
            if self._usable(known):
                tokens = (torch.tensor(logps) for _, logps in known)
                found[i] = [logps[-scored:] for logps, scored in zip(tokens, groups[i].scored, strict=True)]
        sample = list(found)[:: max(1, len(found) // SAMPLE)][:SAMPLE]
        if not sample:
            return {}
        with self._model() as module:
            now = torch.cat(self._logps(module, [groups[i] for i in sample]))
        then = torch.cat([logps for i in sample for logps in found[i]])
        return found if (now - then).abs().max().item() <= TOLERANCE["float32"] else {}

    def _usable(self, known: Recorded) -> bool:
        """Whether these were written by the reference's weights, in the arithmetic of this training."""
        exact = self.config.dtype == "float32" and self.policy.model.dtype == torch.float32
        exact = exact and self.config.method != "qlora"
        return exact and all(writer == self.lineage.id and logps for writer, logps in known)

    def _computed(self, packs: Sequence[Sequence[Group]]) -> list[list[list[Tensor]]]:
        """By pack, group and completion; each process computes its share and all know the whole."""
        journal = FileJournal(self.path) if self.ranks.main else None
        known = self.ranks.gathered(dict(journal.entries()) if journal else None)[
            0
        ]  # one reads: all must know the same
        keys = [self._key(pack) for pack in packs]
        left = [(pack, key) for pack, key in zip(packs, keys, strict=True) if key not in known]
        done = sum(map(len, packs)) - sum(len(pack) for pack, _ in left)
        with progress("reference", sum(map(len, packs)), "prompts", done=done) as advance, self._model() as module:
            for start in range(0, len(left), self.ranks.world):
                now = left[start : start + self.ranks.world]
                mine, _ = now[min(self.ranks.rank, len(now) - 1)]
                found = self.ranks.gathered([_encoded(logps) for logps in self._logps(module, mine)])
                for (pack, key), logps in zip(now, found, strict=False):
                    known[key] = logps
                    if journal:
                        journal.append(key, logps)
                    advance(len(pack))
        return [_by_group(pack, known[key]) for pack, key in zip(packs, keys, strict=True)]

    def _model(self) -> AbstractContextManager[Any]:
        """The reference as a module, inside the block."""
        if self.initial is not None:
            return _frozen(self.initial.model)
        return without_adapter(self.forward.model, self.module) if self._bare else nullcontext(self.module)

    @torch.no_grad()
    def _logps(self, module: Any, pack: Sequence[Group]) -> list[Tensor]:
        batch = (module if isinstance(module, GroupForward) else self.forward).pack(pack)
        with autocast(batch.input_ids.device, self.config.dtype):
            return [logps.cpu() for logps in module(batch).split()]

    def _check_start(self, pack: Sequence[Group], stored: Sequence[Sequence[Tensor]]) -> None:
        """Assert that the policy, before its first update, is the reference: every implicit reward is about 0.

        It is another model after a mistake in an adapter chain, with a stale store, or with different weights
        under one name.
        """
        now = torch.cat(self._logps(self.module, pack))
        then = torch.cat([logps for group in stored for logps in group])
        difference = (now - then).abs().max().item()
        if not difference <= TOLERANCE[self.config.dtype]:
            raise ModelError(
                f"wrong reference: at step 0 the policy's log-probabilities differ from reference {self.lineage.id} "
                f"by up to {difference:.3g} per token: delete the reference store, or start from that model"
            )

    def _key(self, pack: Sequence[Group]) -> str:
        tokens = [[list(g.prompt_ids), [list(ids) for ids in g.completions], list(g.unscored)] for g in pack]
        quantised = self.config.method == "qlora" and self.initial is None
        kinds = [self.config.dtype, str(self.policy.model.dtype), quantised, self.forward.layout]
        return content_id("reference", self.lineage.id, kinds, tokens)


@contextmanager
def _frozen(model: Any) -> Iterator[GroupForward]:
    """Another model as the reference."""
    with training_attention(model):
        yield GroupForward(model)


def _encoded(logps: Tensor) -> str:
    """Little-endian float32 as base64: exact, and a third of the size of decimal digits."""
    return base64.b64encode(logps.numpy().astype("<f4").tobytes()).decode("ascii")


def _decoded(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32))


def _by_group(pack: Sequence[Group], encoded: Sequence[str]) -> list[list[Tensor]]:
    texts = iter(encoded)
    return [[_decoded(next(texts)) for _ in group.completions] for group in pack]

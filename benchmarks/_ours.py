"""Our side of `benchmarks/training.py`: optimizer steps of the product's parts on given groups, with a clock.

What stands here is the order of a step, as in `prefloop.training.loop`, so that single steps can be taken in turn
with the other side; everything computed is the product's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from _groups import Data, stale
from _sizes import RATE, SEED, Size
from _trl import now
from torch import Tensor

from prefloop.config.training import TrainingConfig
from prefloop.maths.advantages import completion_weights, policy_gradient_loss
from prefloop.maths.rankings import bradley_terry
from prefloop.models.group import GroupBatch, GroupForward, GroupScores
from prefloop.models.reward import HEAD
from prefloop.training.batches import cut, sorted_passes
from prefloop.training.objective import example_losses
from prefloop.training.pairs import PairIndex
from prefloop.training.trainable import autocast, tuned
from prefloop.training.update import adamw, update

BETAS = (0.9, 0.999)
CLIP = 0.2

Loss = Callable[[GroupBatch, Sequence[int]], Tensor]
"""Of a packed batch and its units: their share of the loss of the step, a scalar."""


class Ours:
    """Takes optimizer steps on the groups of a case, one after the other.

    Attributes:
        start: what is trained, by name, before the first step.
        seconds: of each call of `run`.
        losses: of each step.
        tokens, padding: computed in all steps.
    """

    def __init__(self, size: Size, forward: Any, data: Data, budget: int, loss: Loss) -> None:
        self.size, self.forward, self.data, self.budget, self.loss = size, forward, data, budget, loss
        self.parameters = {name: p for name, p in forward.model.named_parameters() if p.requires_grad}
        self.start = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = adamw(self.parameters.values(), 0.0, BETAS)
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.tokens = self.padding = 0

    def run(self, steps: int) -> None:
        """The next `steps` optimizer steps."""
        started = now()
        for _ in range(steps):
            self.losses.append(self._gradients(self.data.step(len(self.losses))))
            update(self.optimizer, self.parameters, RATE, 1.0)
        self.seconds.append(now() - started)

    def _gradients(self, units: Sequence[int]) -> float:
        groups = [self.data.units[i].group for i in units]
        found = []
        for part in cut([group.tokens for group in groups], self.budget):
            batch = self.forward.pack([groups[i] for i in part])
            with half(self.size):
                loss = self.loss(batch, [units[i] for i in part])
            loss.backward()
            found.append(loss.item())
            self.tokens += batch.input_ids.numel() - batch.padding
            self.padding += batch.padding
        return sum(found)


@contextmanager
def our_side(size: Size, model: Any, data: Data, known: Sequence[list[Tensor]], budget: int) -> Iterator[Ours]:
    """Our side at the start; `model` carries its adapter inside the block and is as before after it.

    Args:
        known: of every answer's tokens, the log-probabilities under the reference (DPO) or when sampled (GRPO).
        budget: tokens of one forward pass.
    """
    losses = {"dpo": _dpo, "reward": _bradley_terry, "grpo": _clipped}
    with adapted(model, data.case.kind) as forward:
        yield Ours(size, forward, data, budget, losses[data.case.kind](forward, data, known))


@torch.no_grad()
def known_logps(size: Size, model: Any, data: Data) -> list[list[Tensor]]:
    """[tokens] log-probabilities of every answer of every group at the start; for GRPO as a stale sampler had them.

    A new adapter changes nothing, so the model that carries it is the reference.
    """
    if data.case.kind == "reward":
        return []
    groups = [unit.group for unit in data.units]
    found: dict[int, list[Tensor]] = {}
    with adapted(model, data.case.kind) as forward, half(size):
        for part in sorted_passes([group.tokens for group in groups], max(size.budgets)):
            answers = iter(forward(forward.pack([groups[i] for i in part])).split())
            found |= {i: [next(answers).cpu() for _ in groups[i].completions] for i in part}
    logps = [found[i] for i in range(len(groups))]
    return stale(logps) if data.case.kind == "grpo" else logps


@contextmanager
def adapted(model: Any, kind: str) -> Iterator[Any]:
    """`model` with its adapter, in the module whose forward pass training calls."""
    if kind != "reward":
        with tuned(model, TrainingConfig(), SEED) as found:
            yield GroupForward(found)
        return
    head = getattr(model, HEAD).weight.detach().clone()
    with tuned(model, TrainingConfig(), SEED, "SEQ_CLS", [HEAD]) as found:
        yield GroupScores(found)
    with torch.no_grad():  # PEFT leaves the trained head in the model
        getattr(model, HEAD).weight.copy_(head)


def half(size: Size) -> torch.autocast:
    """Context of a forward pass."""
    return autocast(torch.device(size.device), size.dtype)


def _dpo(forward: GroupForward, data: Data, reference: Sequence[list[Tensor]]) -> Loss:
    config = TrainingConfig(objective="dpo", beta=0.1)

    def loss(batch: GroupBatch, units: Sequence[int]) -> Tensor:
        pairs = PairIndex.of([data.units[i] for i in units], batch.input_ids.device)
        known = [logps_T for i in units for logps_T in reference[i]]
        losses_B, weights_B, _ = example_losses(forward(batch), pairs, known, config)
        return (losses_B * weights_B).sum() / data.case.examples

    return loss


def _bradley_terry(forward: GroupScores, data: Data, _: Sequence[list[Tensor]]) -> Loss:
    def loss(batch: GroupBatch, units: Sequence[int]) -> Tensor:
        pairs = PairIndex.of([data.units[i] for i in units], batch.input_ids.device)
        score_N = forward(batch)
        return bradley_terry(score_N[pairs.chosen_B], score_N[pairs.rejected_B]).sum() / data.case.examples

    return loss


def _clipped(forward: GroupForward, data: Data, old: Sequence[list[Tensor]]) -> Loss:
    """GRPO with the normalisation of DAPO, which is TRL's default: by the tokens of the whole step."""
    lengths = torch.tensor([[len(ids) for ids in unit.group.completions] for unit in data.units])
    steps = lengths.view(data.steps, -1)
    weights_GK = torch.stack([completion_weights(step, "dapo") for step in steps]).view(lengths.shape)

    def loss(batch: GroupBatch, units: Sequence[int]) -> Tensor:
        device = batch.input_ids.device
        logps = forward(batch)
        old_T = torch.cat([logps_T for i in units for logps_T in old[i]]).to(device)
        advantages_N, weights_N = (values[list(units)].flatten().to(device) for values in (data.advantages, weights_GK))
        losses_N, _ = policy_gradient_loss(
            logps.tokens, old_T, None, advantages_N, logps.owner, clip_low=CLIP, clip_high=CLIP
        )
        return (losses_N * weights_N).sum()

    return loss

"""The processes that train together: one, or as many as `accelerate launch` (or torchrun) started.

What every process computes of a step is decided by all of them alike, from the same plan, so nothing but gradients
and figures travels between them. DDP, FSDP2 and DeepSpeed are chosen by Accelerate's own settings, which `--dry-run`
of the training commands writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from prefloop.errors import ConfigError
from prefloop.models.load import sharded
from prefloop.training.batches import cut
from prefloop.training.zero import Zero, zero_asked

Part = tuple[list[int], float]
"""Members of a forward pass, and 1; or 0 if the pass only keeps this process in step with the others."""


class Ranks:
    """This process among those that train together.

    Attributes:
        rank: 0..world-1; 0 is the one that writes files.
        world: how many there are.
        zero: DeepSpeed's engine, where that splits the states; it is asked for what it keeps.
    """

    def __init__(self, device: torch.device) -> None:
        self._accelerator: Any = None
        self.zero: Zero | None = None
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            self._accelerator = _accelerator(device)
        self.rank: int = self._accelerator.process_index if self._accelerator else 0
        self.world: int = self._accelerator.num_processes if self._accelerator else 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def prepare(self, module: Any, optimizer: torch.optim.Optimizer, dtype: str, max_norm: float) -> tuple[Any, Any]:
        """Wrap the module and the optimizer as Accelerate is configured.

        Args:
            dtype: of the forward pass.
            max_norm: that gradients are clipped to.
        """
        if self._accelerator is None:
            return module, optimizer
        if zero_asked():
            self.zero = Zero(module, optimizer, dtype, max_norm)
            return self.zero, self.zero.optimizer
        module, wrapped = self._accelerator.prepare(module, optimizer)
        return module, wrapped.optimizer

    def parts(self, lengths: Sequence[int], budget: int) -> list[Part]:
        """This process's forward passes of a step, as many as every other's: collective calls must meet.

        Longest first, each member goes to the process with the fewest tokens so far.

        Args:
            lengths: tokens of each member of the step.
        """
        if self.world == 1:
            return [(part, 1.0) for part in cut(lengths, budget)]
        shares: list[list[int]] = [[] for _ in range(self.world)]
        load = [0] * self.world
        for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
            lightest = load.index(min(load))
            shares[lightest].append(i)
            load[lightest] += lengths[i]
        cuts = [[[share[i] for i in part] for part in cut([lengths[i] for i in share], budget)] for share in shares]
        mine: list[Part] = [(part, 1.0) for part in cuts[self.rank]]
        return mine + [([0], 0.0)] * (max(map(len, cuts)) - len(mine))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this process's part of the loss.

        Accelerate averages over processes, the parts here are of one whole: hence the factor.
        """
        if self._accelerator is None:
            loss.backward()
        elif self.zero is not None:
            self.zero.backward(loss * self.world)
        else:
            self._accelerator.backward(loss * self.world)

    def accumulating(self, module: Any, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a part: gradients travel with the last part alone."""
        if self.zero is not None:
            return self.zero.passing(last)
        if self._accelerator is None or last:
            return nullcontext()
        context: AbstractContextManager[Any] = self._accelerator.no_sync(module)
        return context

    def settle(self, module: Any) -> None:
        """Let go of whole weights that a pass without a backward pass has left (FSDP2): they would hide loaded ones."""
        for part in module.modules() if self._accelerator is not None and self.zero is None else ():
            if isinstance(part, FSDPModule):
                part.reshard()

    def summed(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures, of the same names everywhere, summed over processes."""
        if self._accelerator is None:
            return dict(figures)
        names = sorted(figures)
        values = torch.tensor([figures[name] for name in names], dtype=torch.float64)
        total = self._accelerator.reduce(values.to(self._accelerator.device), "sum").tolist()
        return dict(zip(names, total, strict=True))

    def gathered(self, value: Any) -> list[Any]:
        """What each process has, by rank."""
        if self._accelerator is None:
            return [value]
        found: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(found, value)
        return found

    def wait(self) -> None:
        """Go on when all are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()


def _accelerator(device: torch.device) -> Any:
    """Accelerate for several processes; number types and accumulation are the training section's, not its own.

    Raises:
        ConfigError: FSDP in its first version.
    """
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin, GradientAccumulationPlugin

    once = GradientAccumulationPlugin(num_steps=1)
    plugin = FullyShardedDataParallelPlugin() if sharded() else None
    if plugin is not None and plugin.fsdp_version != 2:
        raise ConfigError("FSDP version 1 is not supported: set fsdp_version: 2 in Accelerate's configuration")
    # A model to be split was read on the CPU; its shards go to the GPU.
    cpu = device.type == "cpu" and not (sharded() and torch.cuda.is_available())
    accelerator = Accelerator(cpu=cpu, mixed_precision="no", gradient_accumulation_plugin=once)
    if cpu and plugin is not None:  # which Accelerate gives to accelerators alone, and torch to every device
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedType

        AcceleratorState._shared_state |= {"distributed_type": DistributedType.FSDP, "fsdp_plugin": plugin}
    return accelerator


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this process may hold a shard (FSDP2); every process has to ask."""
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()

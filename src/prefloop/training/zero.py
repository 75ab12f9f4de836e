"""ZeRO (1910.02054) by DeepSpeed: optimizer states, and gradients (stage 2), split over the processes.

DeepSpeed takes the optimizer's step itself, on shards of its own making. So what the loop does with gradients and
moments elsewhere is asked of its engine here: the pass after which gradients travel, clipping, the step, and the
whole tensors of a state that is saved or taken up. Accelerate launches and says the stage; every other setting is
decided by the training section, or here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from prefloop.errors import ConfigError, ModelError
from prefloop.models.group import GroupLogps

SWITCH, STAGE = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_ZERO_STAGE"
FILE = "ACCELERATE_DEEPSPEED_CONFIG_FILE"
OFFLOADS = ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE")

BUCKET = 50_000_000
"""Gradients that travel together, as numbers; DeepSpeed's own 500 million take 2 GB."""


def zero_asked() -> bool:
    """Whether Accelerate was told to use DeepSpeed."""
    return os.environ.get(SWITCH, "false").lower() == "true"


def refuse(stage: int, dtype: str) -> None:
    """Stop where DeepSpeed is asked for what this training does otherwise, or not at all.

    Raises:
        ConfigError: says why, and what to do instead.
    """
    if stage not in (1, 2):
        raise ConfigError(
            f"stage {stage} of ZeRO is not supported: FSDP2 (--strategy fsdp2) splits weights, gradients and moments "
            "as stage 3 does"
        )
    if any(os.environ.get(name, "none") != "none" for name in OFFLOADS):
        raise ConfigError(
            "offloading by DeepSpeed is not supported: states are saved and taken up where the weights "
            "are. Give FSDP2 (--strategy fsdp2) more processes, or train adapters: training.method=lora or qlora"
        )
    if os.environ.get(FILE, "none") != "none":
        raise ConfigError(
            f"{FILE}: a DeepSpeed file of your own is not read, since the training section decides what it would "
            "say; leave it out"
        )
    if dtype == "float16":
        raise ConfigError(
            "training.dtype=float16 is not supported with DeepSpeed, which would scale the loss by rules of its own: "
            "set bfloat16, or take --strategy ddp"
        )


class Zero:
    """A module and its optimizer in DeepSpeed's engine; called like the module.

    Attributes:
        optimizer: DeepSpeed's, which keeps shards.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, dtype: str, max_norm: float) -> None:
        """Split the states of `optimizer`.

        Args:
            dtype: of the forward pass, under autocast.
            max_norm: that gradients are clipped to.

        Raises:
            ConfigError: float16, stage 3, or a setting of DeepSpeed that this training does not read.
            ModelError: DeepSpeed is not installed.
        """
        stage = int(os.environ.get(STAGE, "2"))
        refuse(stage, dtype)
        os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
        try:
            import deepspeed
        except ImportError as error:
            raise ModelError("DeepSpeed is not installed: pip install 'prefloop[deepspeed]'") from error
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # the loop says which pass is a step's last
            "gradient_clipping": max_norm,
            "steps_per_print": 2**62,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": stage,
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
            },
        }
        if dtype != "float32":  # no layer's gradients travel in half precision
            settings["torch_autocast"] = {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
        with redirect_stdout(sys.stderr):  # it reports what it compiles
            self._engine, self.optimizer, *_ = deepspeed.initialize(
                model=_Tuples(module), optimizer=optimizer, config=settings, dist_init_required=False
            )
        self._begin()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """As the module itself."""
        found = self._engine(*arguments, **options)
        return GroupLogps(*found) if isinstance(found, tuple) else found

    @contextmanager
    def passing(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a pass: gradients are reduced with the step's last one."""
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor) -> None:
        """Add a pass's gradients."""
        self._engine.backward(loss)

    def update(self, rate: float) -> float:
        """Clip, take a step at learning rate `rate`, clear; returns the norm before clipping."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def moment(self, parameter: nn.Parameter, name: str) -> Tensor:
        """An AdamW moment of a whole parameter, on the CPU; all processes ask."""
        from deepspeed.utils import safe_get_full_optimizer_state

        found: Tensor = safe_get_full_optimizer_state(parameter, name)
        return found.cpu()

    @property
    def updates(self) -> float:
        """Updates that AdamW has taken."""
        return max(float(state["step"]) for state in self._states.values())

    def restore(self, parameter: nn.Parameter, weight: Tensor, moments: Mapping[str, Tensor], updates: float) -> None:
        """Put a whole parameter and its moments back into the shards; all processes call."""
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        with torch.no_grad():
            parameter.copy_(weight)
        safe_set_full_fp32_param(parameter, weight)
        for name, moment in moments.items():
            safe_set_full_optimizer_state(parameter, moment, name)
        for state in self._states.values():
            state["step"].fill_(updates)

    @property
    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """AdamW's state of each shard."""
        states: dict[Tensor, dict[str, Tensor]] = self.optimizer.optimizer.state
        return states

    def _begin(self) -> None:
        """Make the moments, which the first step would make, and let parameters find theirs.

        DeepSpeed 0.19 links moments to parameters after the step of its first group, when the others have none.
        """
        for group in self.optimizer.optimizer.param_groups:
            for shard in group["params"]:
                moments = {name: torch.zeros_like(shard) for name in ("exp_avg", "exp_avg_sq")}
                self._states[shard] = {"step": torch.tensor(0.0, device=shard.device), **moments}
        self.optimizer._lazy_init_hp_params_optimizer_state()


class _Tuples(nn.Module):
    """Gives DeepSpeed, which looks for tensors in tuples, the log-probabilities as one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any, **options: Any) -> Any:
        found = self.module(*arguments, **options)
        return tuple(getattr(found, f.name) for f in fields(found)) if isinstance(found, GroupLogps) else found

"""Processes that train together: Accelerate's configuration for them, the lines that start them, and starting them.

One process per GPU (or per share of the CPU's cores), on one machine or several. What a strategy splits:

| strategy | optimizer moments | gradients | weights | by |
|---|---|---|---|---|
| ddp | whole | whole | whole | PyTorch |
| fsdp2 | split | split | split | PyTorch |
| zero1 | split | whole | whole | DeepSpeed |
| zero2 | split | split | whole | DeepSpeed |
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prefloop.errors import ConfigError, ModelError
from prefloop.loop.together import Output, run_together
from prefloop.progress import note
from prefloop.store.files import atomic_path

STRATEGIES = ("ddp", "fsdp2", "zero1", "zero2")
PORT = 29_500
"""Where the machines meet."""
MAIN_ADDRESS = "ADDRESS_OF_MACHINE_0"
"""Stands in a printed line for what the user knows."""


@dataclass(frozen=True)
class Launch:
    """So many processes, on so many machines, sharing a training.

    Raises:
        ConfigError: an unknown strategy, or processes that do not divide among the machines.
    """

    processes: int
    """In all."""
    machines: int = 1
    strategy: str = "ddp"
    cpu: bool = False
    """On the CPU, even where there are GPUs."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            like = "; fsdp2 splits what it does" if self.strategy == "zero3" else ""
            raise ConfigError(f"--strategy {self.strategy} is unknown: give one of {', '.join(STRATEGIES)}{like}")
        if self.processes < 2 or self.processes % self.machines:
            raise ConfigError(
                f"--processes {self.processes} on --machines {self.machines}: give the processes of all machines "
                "together, two or more, as many on each"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """Accelerate's configuration, as `accelerate config` would write it."""
        found: dict[str, Any] = {
            "compute_environment": "LOCAL_MACHINE",
            # So it starts processes on a CPU, too; MULTI_CPU would leave that to MPI.
            "distributed_type": {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(self.strategy, "DEEPSPEED"),
            "num_machines": self.machines,
            "num_processes": self.processes,
            "machine_rank": 0,
            "main_process_port": PORT if self.machines > 1 else 0,
            "same_network": True,
            "rdzv_backend": "static",
            "mixed_precision": "no",
            "use_cpu": self.cpu,
        }
        if self.strategy == "fsdp2":
            found["fsdp_config"] = {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_reshard_after_forward": True,
                "fsdp_cpu_ram_efficient_loading": False,
                "fsdp_offload_params": False,
                "fsdp_activation_checkpointing": False,
            }
        elif self.strategy != "ddp":
            found["deepspeed_config"] = {
                "zero_stage": int(self.strategy[-1]),
                "deepspeed_multinode_launcher": "standard",
                "offload_optimizer_device": "none",
                "offload_param_device": "none",
                "zero3_init_flag": False,
            }
        return found

    @property
    def each(self) -> int:
        """Processes of one machine."""
        return self.processes // self.machines

    def write(self, path: Path) -> Path:
        """Write the configuration."""
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(self.settings, sort_keys=False), encoding="utf-8")
        return path

    def lines(self, config: Path, words: Sequence[str]) -> list[str]:
        """What to type, one line for each machine.

        Args:
            config: where the configuration is.
            words: of the `prefloop` command.
        """
        started = ["-m", "prefloop", *words]
        if self.machines == 1:
            return [shlex.join(["accelerate", "launch", "--config_file", str(config), *started])]
        met = ["--main_process_ip", MAIN_ADDRESS]
        return [
            shlex.join(
                ["accelerate", "launch", "--config_file", str(config), "--machine_rank", str(rank), *met, *started]
            )
            for rank in range(self.machines)
        ]


@dataclass(frozen=True)
class Launched:
    """A configuration that was written, and the lines that start what it describes."""

    config: Path
    settings: dict[str, Any]
    lines: list[str]

    def text(self) -> str:
        """For the terminal: the file, and what to type on each machine."""
        where = "" if len(self.lines) == 1 else ", one line on each machine; the folders have to be shared"
        written = yaml.safe_dump(self.settings, sort_keys=False)
        return f"# written to {self.config}\n{written}\n# start{where}\n" + "\n".join(self.lines)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"config": str(self.config), "settings": self.settings, "lines": self.lines}


def beside(out: Path) -> Path:
    """Where the configuration of the processes that make `out` is kept."""
    return out.with_name(f"{out.name}-accelerate.yaml")


def prepared(launch: Launch, config: Path, words: Sequence[str]) -> Launched:
    """Write the configuration into the file `config`, and say how to start."""
    config = launch.write(config)
    return Launched(config, launch.settings, launch.lines(config, words))


def start(launch: Launch, config: Path, words: Sequence[str], *, stdout: Output = None, after: str = "") -> None:
    """Start the processes of one machine, and wait for them.

    Args:
        stdout: where they say what came out; None: where this process does.
        after: what is to be done once those of several machines have ended.

    Raises:
        ConfigError: there are several machines: each has to be started there.
        ModelError: a process failed; it said why itself.
    """
    ready = prepared(launch, config, words)
    if launch.machines > 1:
        raise ConfigError(f"start the training on each machine{after}:\n{chr(10).join(ready.lines)}")
    note(ready.lines[0])
    if code := run_together(ready.config, launch.each, ["prefloop", *words], stdout):
        raise ModelError(
            f"a training process ended with code {code}; what it said stands above. "
            "Finished steps are kept: go on with --resume"
        )

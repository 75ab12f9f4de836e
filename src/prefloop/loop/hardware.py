"""What GPUs can do by their makers' data sheets, and how much of it such work is assumed to reach."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.errors import ConfigError

COMPUTE_SHARE = 0.3
"""Of a GPU's peak that training and reading prompts reach; assumed."""
BANDWIDTH_SHARE = {"float32": 0.5, "bfloat16": 0.5, "float16": 0.5, "nf4": 0.15}
"""Of its memory's peak that writing answers reaches; assumed. 4-bit weights are unpacked again at every step."""
LINK_GB_S = {"machine": 100.0, "network": 25.0}
"""Per GPU, what it reads of others' shards: within a machine (NVLink), and from other machines (400 Gbit/s per GPU,
half of it reached); assumed."""


@dataclass(frozen=True)
class Gpu:
    """Peak rates from the maker's data sheet: dense half precision, and memory."""

    name: str
    gib: float
    """Of its memory, what a process can have."""
    tflops: float
    gb_s: float


GPUS = {
    "t4": Gpu("T4", 14.5, 65, 320),
    "l4": Gpu("L4", 22, 121, 300),
    "a100-40gb": Gpu("A100 40 GB", 39, 312, 1_555),
    "a100-80gb": Gpu("A100 80 GB", 79, 312, 2_039),
    "h100-80gb": Gpu("H100 80 GB", 79, 989, 3_350),
    "h200-141gb": Gpu("H200 141 GB", 139, 989, 4_800),
}


def gpu_named(name: str) -> Gpu:
    """A GPU by its name on the command line.

    Raises:
        ConfigError: it is not known here.
    """
    if name.lower() not in GPUS:
        raise ConfigError(f"--gpu {name} is unknown: give one of {', '.join(GPUS)}")
    return GPUS[name.lower()]

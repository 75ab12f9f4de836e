"""The state of a training run in one file that appears whole or not at all: safetensors, no pickles.

It holds what the next step depends on: trainable weights, both AdamW moments, and the number of finished
steps. Order and schedule follow from the seed and that number, and dropout is off, so no random state is left
to keep.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from prefloop.errors import StoreError
from prefloop.records import canonical_json
from prefloop.store.files import atomic_path

STATE = "state.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Cursor:
    """How far a run is: finished steps, and the figures of each."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def save_state(
    path: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    cursor: Cursor,
    identity: str,
) -> None:
    """Write the state after ``cursor.step`` steps.

    Args:
        parameters: the trainable weights by name.
        identity: hash of everything that decides the run; `load_state` refuses another's.

    Raises:
        StoreError: the disk is full or the folder read-only; the former state stays.
    """
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{moment}/{name}": optimizer.state[parameter][moment] for moment in MOMENTS}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    position = {"identity": identity, "step": cursor.step, "history": cursor.history}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata={"cursor": canonical_json(position)})


def load_state(
    path: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    identity: str,
) -> Cursor:
    """Put a saved state back into `parameters` and `optimizer`; without a file a run starts at step 0.

    Raises:
        StoreError: the file is damaged or belongs to another run.
    """
    if not path.exists():
        return Cursor()
    try:
        with safe_open(path, "pt") as stored:
            position: dict[str, Any] = json.loads((stored.metadata() or {})["cursor"])
            if position["identity"] != identity:
                raise StoreError(
                    f"{path} belongs to another training run (other data, settings or model): "
                    "run without --resume to start afresh, or choose another folder"
                )
            for name, parameter in parameters.items():
                _restore(stored, name, parameter, optimizer, position["step"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}): delete it to train from the start") from error
    return Cursor(position["step"], position["history"])


def _restore(
    stored: Any, name: str, parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, step: int
) -> None:
    with torch.no_grad():
        parameter.copy_(stored.get_tensor(f"weight/{name}"))
    moments = {moment: stored.get_tensor(f"{moment}/{name}").to(parameter.device) for moment in MOMENTS}
    # Fused AdamW counts steps in a float tensor beside the parameter.
    optimizer.state[parameter] = {"step": torch.tensor(float(step), device=parameter.device), **moments}

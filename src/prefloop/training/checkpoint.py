"""The state of a training run in one file that appears whole or not at all: safetensors, no pickles.

Figures of finished steps stand in a file of lines beside it, which only grows: writing all of them with every state
would cost a long run more than its training. Lines beyond the state's last step are not read.

The state holds what the next step depends on: trainable weights, both AdamW moments, and the number of finished
steps. Order and schedule follow from the seed and that number, and dropout is off, so no random state is left
to keep.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from prefloop.errors import StoreError
from prefloop.records import canonical_json
from prefloop.store.files import atomic_path, writing
from prefloop.training.ranks import Ranks, whole
from prefloop.training.zero import Zero

STATE = "state.safetensors"
HISTORY = "history.jsonl"
BEST = "best.safetensors"
"""Trainable weights of the step with the lowest held-out loss."""
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Cursor:
    """How far a run is: finished steps, the figures of each, and the tokens that one forward pass may hold."""

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    budget: int = 0
    written: int = 0
    """Rows of the history that are on disk."""


def save_state(
    path: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    cursor: Cursor,
    identity: str,
    ranks: Ranks,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write the state after ``cursor.step`` steps; all processes call, the main one writes.

    Args:
        parameters: the trainable weights by name.
        identity: hash of everything that decides the run; `load_state` refuses another's.

    Raises:
        StoreError: the disk is full or the folder read-only; the former state stays.
    """
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        tensors |= {f"{moment}/{name}": _moment(optimizer, parameter, moment, ranks.zero) for moment in MOMENTS}
    if ranks.zero is not None:
        updates = ranks.zero.updates
    else:
        updates = max((float(found["step"]) for found in optimizer.state.values()), default=0.0)
    position = {"step": cursor.step, "budget": cursor.budget, "identity": identity, "updates": updates}
    if ranks.main:
        _append(path.with_name(HISTORY), cursor)
    cursor.written = len(cursor.history)
    _write(path, tensors, ranks, {**position, "scaler": scaler.state_dict() if scaler else None})


def save_weights(path: Path, parameters: Mapping[str, torch.nn.Parameter], ranks: Ranks) -> None:
    """Write the trainable weights alone."""
    _write(path, {f"weight/{name}": parameter.detach() for name, parameter in parameters.items()}, ranks, {})


def _moment(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, name: str, zero: Zero | None) -> Tensor:
    if zero is not None:
        return zero.moment(parameter, name)
    # Without moments a parameter has had no update yet: loss scaling skipped every step so far.
    return optimizer.state.get(parameter, {}).get(name, torch.zeros_like(parameter))


def _append(path: Path, cursor: Cursor) -> None:
    """Rows that are not on disk yet; a run's first ones take the place of what lies there."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cursor.written:  # another run's state must not meet this one's rows
            path.with_name(STATE).unlink(missing_ok=True)
        with path.open("a" if cursor.written else "w", encoding="utf-8") as handle:
            handle.writelines(canonical_json(row) + "\n" for row in cursor.history[cursor.written :])
            handle.flush()
            os.fsync(handle.fileno())


def _read(path: Path, rows: int) -> list[dict[str, float]]:
    """The first `rows` rows; what a killed run wrote beyond them is cut off."""
    lines = path.read_bytes().splitlines(keepends=True)[:rows]
    if len(lines) < rows or not all(line.endswith(b"\n") for line in lines):
        raise ValueError(f"{path.name} has {len(lines)} of {rows} rows")
    with path.open("rb+") as handle:
        handle.truncate(sum(map(len, lines)))
    return [json.loads(line) for line in lines]


def _write(path: Path, tensors: Mapping[str, Tensor], ranks: Ranks, position: dict[str, Any]) -> None:
    contiguous = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor)
        if ranks.main:  # one tensor at a time: all of them may be more than a GPU holds
            contiguous[name] = gathered.cpu().contiguous()
    if ranks.main:
        with atomic_path(path) as temporary:
            save_file(contiguous, temporary, metadata={"cursor": canonical_json(position)})
    ranks.wait()


def load_state(
    path: Path,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    identity: str,
    scaler: torch.amp.GradScaler | None = None,
    zero: Zero | None = None,
) -> Cursor:
    """Put a saved state back into `parameters` and `optimizer`.

    Raises:
        StoreError: the file is damaged or belongs to another run.
    """
    try:
        with safe_open(path, "pt") as stored:
            position: dict[str, Any] = json.loads((stored.metadata() or {})["cursor"])
            if position["identity"] != identity:
                raise StoreError(
                    f"{path} belongs to another training run (other data, settings or model): "
                    "run without --resume to start afresh, or choose another folder"
                )
            for name, parameter in parameters.items():
                _restore(stored, name, parameter, optimizer, position["updates"], zero)
            if scaler is not None:
                scaler.load_state_dict(position["scaler"])
        history = _read(path.with_name(HISTORY), position["step"])
    except (SafetensorError, KeyError, ValueError, FileNotFoundError) as error:
        raise StoreError(f"{path} is damaged ({error}): delete it to train from the start") from error
    return Cursor(position["step"], history, position["budget"], len(history))


def load_weights(path: Path, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Put weights that `save_weights` wrote back.

    Raises:
        StoreError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as stored, torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_placed(stored.get_tensor(f"weight/{name}"), parameter))
    except SafetensorError as error:
        raise StoreError(f"{path} is damaged ({error}): delete the folder to train from the start") from error


def _restore(
    stored: Any,
    name: str,
    parameter: torch.nn.Parameter,
    optimizer: torch.optim.Optimizer,
    updates: float,
    zero: Zero | None,
) -> None:
    if zero is not None:
        weight, *moments = (stored.get_tensor(f"{kind}/{name}").to(parameter.device) for kind in ("weight", *MOMENTS))
        zero.restore(parameter, weight, dict(zip(MOMENTS, moments, strict=True)), updates)
        return
    with torch.no_grad():
        parameter.copy_(_placed(stored.get_tensor(f"weight/{name}"), parameter))
    placed = {moment: _placed(stored.get_tensor(f"{moment}/{name}"), parameter) for moment in MOMENTS}
    # Fused AdamW counts steps in a float tensor beside the parameter.
    optimizer.state[parameter] = {"step": torch.tensor(updates, device=parameter.device), **placed}


def _placed(tensor: Tensor, parameter: torch.nn.Parameter) -> Tensor:
    """The tensor where the parameter is; as its shard where that is one (FSDP2)."""
    moved = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return moved
    return distribute_tensor(moved, parameter.device_mesh, parameter.placements)

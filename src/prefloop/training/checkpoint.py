"""Where training stands, so that a killed run goes on and ends with the same bytes: safetensors and JSON only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from prefloop.store.files import atomic_path, write_json

STATE = "state.json"


def save_state(
    folder: Path,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> None:
    """Keep trainable weights and optimizer moments after `step`; the state file is written last and names them."""
    tensors = {f"weight/{name}": parameter.detach() for name, parameter in _trainable(model)}
    for name, parameter in _trainable(model):
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value
    path = folder / f"step-{step:08}.safetensors"
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)
    write_json(folder / STATE, {"step": step, "file": path.name, "history": history})
    for old in folder.glob("step-*.safetensors"):
        if old != path:
            old.unlink()


def load_state(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Put an earlier state back; returns its step and history, (0, []) where there is none to go on from."""
    state = _read(folder)
    if state is None:
        return 0, []
    try:
        tensors = load_file(folder / state["file"])
    except (OSError, SafetensorError):
        return 0, []  # the weights were lost with a crash: start over rather than from something else
    with torch.no_grad():
        for name, parameter in _trainable(model):
            parameter.copy_(tensors[f"weight/{name}"])
            keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}/{name}" in tensors]
            optimizer.state[parameter] = {
                key: tensors[f"{key}/{name}"].to(_place(key, parameter)) for key in keys
            }
    return state["step"], state["history"]


def _place(key: str, parameter: torch.Tensor) -> torch.device:
    return torch.device("cpu") if key == "step" and parameter.device.type == "cpu" else parameter.device


def _trainable(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

"""Reward models: a causal model's layers with a head of one number, read at an answer's last token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import ModelError
from prefloop.models.lineage import Lineage, hash_folder
from prefloop.models.load import Policy, device_of, model_folder, quantised, read_model, read_tokenizer, with_adapter
from prefloop.store.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

    from prefloop.models.group import GroupBatch, GroupStates

KIND = "AutoModelForSequenceClassification"
HEAD = "score"
"""Name of the head in transformers' sequence classifiers."""


def load_reward_model(
    source: str | Path, adapter: str | Path | None = None, dtype: str = "float32", device: str = "auto"
) -> Policy:
    """A trained reward model: a whole folder, or a base with the adapter that holds its head.

    The layers are in `dtype`, the head in float32 as it was stored.

    Raises:
        ModelError: the folder has no head, or one of several numbers, or as in `prefloop.models.load.load_policy`.
    """
    folder = model_folder(str(source))
    if adapter is None:
        _check_head(folder)
    model = read_model(folder, dtype, KIND, new=f"{HEAD}." if adapter else "", num_labels=1)
    _head_in_float32(model, folder)
    found = _reward_model(model, folder, str(source), device)
    if adapter is None:
        return found
    config = Path(adapter) / "adapter_config.json"
    if config.is_file() and read_json(config).get("task_type") != "SEQ_CLS":
        raise ModelError(f"the adapter {adapter} holds no head: it is not a reward model's")
    return with_adapter(found, Path(adapter))


def last_token_scores(states: GroupStates, batch: GroupBatch) -> Tensor:
    """[N] score of each completion of a batch in float32, read at its last token, whose place is known.

    transformers' own classifiers read at the last token that is not the padding token: one token too early wherever
    the padding token also ends the turn.

    Args:
        states: of a model as `load_reward_model` gives it.
    """
    scores: Tensor = getattr(states.base, HEAD)(states.hidden(batch).index_select(0, batch.ends).float())
    return scores.squeeze(1)


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor in a folder of safetensors, from the files' headers.

    Raises:
        ModelError: a file cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _weight_files(folder):
        with _opened(path) as stored:
            names = stored.keys()
            shapes |= {name: tuple(stored.get_slice(name).get_shape()) for name in names}
    return shapes


def stored_tensors(folder: Path, wanted: set[str]) -> dict[str, Tensor]:
    """These tensors of a folder of safetensors, in the type they have there; names that it lacks are left out.

    Raises:
        ModelError: a file cannot be read.
    """
    found: dict[str, Tensor] = {}
    for path in _weight_files(folder):
        with _opened(path) as stored:
            found |= {name: stored.get_tensor(name) for name in sorted(wanted & set(stored.keys()))}
    return found


def architecture(folder: Path) -> str:
    """What the model in a folder says it is: its class, or else its type."""
    config = read_json(folder / "config.json")
    named = (config.get("architectures") or [config.get("model_type")])[0]
    return str(named or "model of unknown type")


def new_reward_model(policy: Policy, method: str, dtype: str, seed: int) -> Policy:
    """A reward model to be trained: the policy's layers and a new head, small and seeded.

    The head is drawn with standard deviation 1/√(d + 1), as in summarisation from feedback (2009.01325).
    """
    import torch

    if policy.lineage.adapters:
        raise ModelError(f"{policy.name} carries an adapter: export it first (prefloop export)")
    folder = model_folder(policy.name)
    if method == "qlora":
        model = quantised(policy, dtype, KIND, new=f"{HEAD}.", num_labels=1)
    else:
        model = read_model(folder, "float32", KIND, new=f"{HEAD}.", num_labels=1)
    head = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(f"{policy.name}: its architecture has no sequence classifier with a linear '{HEAD}' head")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(head.weight.shape, generator=generator) / (head.in_features + 1) ** 0.5
    with torch.no_grad():
        head.weight.copy_(drawn)
    return _reward_model(model, folder, policy.name, str(policy.model.device))


def _reward_model(model: Any, folder: Path, name: str, device: str) -> Policy:
    tokenizer = read_tokenizer(folder, model)
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    placed = model if getattr(model, "is_quantized", False) else model.to(device_of(device))
    return Policy(placed.eval(), tokenizer, Lineage(hash_folder(folder)), name)


def _check_head(folder: Path) -> None:
    """Whether the folder holds a head of one number; says what the model is instead."""
    shapes = stored_shapes(folder)
    head = next((shapes[name] for name in sorted(shapes) if f".{name}".endswith(f".{HEAD}.weight")), None)
    if head is None:
        raise ModelError(
            f"the weights in {folder} lack 1 tensors, {HEAD}.weight: this is a {architecture(folder)}, no reward model "
            f"with a linear {HEAD!r} head; give one, or beside this base the adapter that holds its head"
        )
    if head[0] != 1:
        raise ModelError(
            f"{folder} gives {head[0]} numbers for an answer (num_labels), a reward model gives 1: "
            f"this {architecture(folder)} is a classifier of another kind"
        )


def _head_in_float32(model: Any, folder: Path) -> None:
    import torch

    head = getattr(model, HEAD, None)
    if not isinstance(head, torch.nn.Linear):
        raise ModelError(f"{folder}: a {type(model).__name__} has no linear {HEAD!r} head at the last token")
    head.float()
    stored = stored_tensors(folder, {f"{HEAD}.weight"}).get(f"{HEAD}.weight")
    if stored is not None and stored.shape == head.weight.shape:
        with torch.no_grad():
            head.weight.copy_(stored)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise ModelError(f"cannot read {path} ({error}): copy the model again") from error

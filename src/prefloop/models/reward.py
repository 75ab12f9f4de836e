"""Reward models: a causal model's layers with a head of one number, read at an answer's last token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.errors import ModelError
from prefloop.models.lineage import Lineage, hash_folder
from prefloop.models.load import Policy, device_of, model_folder, quantised, read_model, read_tokenizer, with_adapter
from prefloop.store.files import read_json

KIND = "AutoModelForSequenceClassification"
HEAD = "score"
"""Name of the head in transformers' sequence classifiers."""


def load_reward_model(
    source: str | Path, adapter: str | Path | None = None, dtype: str = "float32", device: str = "auto"
) -> Policy:
    """A trained reward model: a whole folder, or a base with the adapter that holds its head.

    Raises:
        ModelError: the folder has no head, or as in `prefloop.models.load.load_policy`.
    """
    folder = model_folder(str(source))
    model = read_model(folder, dtype, KIND, new=f"{HEAD}." if adapter else "", num_labels=1)
    found = _reward_model(model, folder, str(source), device)
    if adapter is None:
        return found
    config = Path(adapter) / "adapter_config.json"
    if config.is_file() and read_json(config).get("task_type") != "SEQ_CLS":
        raise ModelError(f"the adapter {adapter} holds no head: it is not a reward model's")
    return with_adapter(found, Path(adapter))


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

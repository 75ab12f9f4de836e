"""What is trained, and how it is saved: a LoRA adapter on the policy's model, or a copy of all weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.config.training import Tuning
from prefloop.errors import ModelError
from prefloop.models.attention import training_attention
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.models.load import Policy, quantised, quiet_transformers
from prefloop.store.files import atomic_path, write_json, writing
from prefloop.training.ranks import Ranks, whole


@contextmanager
def trainable(policy: Policy, config: Tuning, seed: int) -> Iterator[Any]:
    """The model to train, inside the block; the policy's own model is the same after it as before.

    LoRA's adapter layers are put into the policy's model and taken out again at the end. QLoRA puts them into a copy
    with 4-bit weights, which is then also the reference. An adapter that the policy carries is trained on, in a
    copy. Full training works on a float32 copy.

    Raises:
        ModelError: the policy carries an adapter that these settings cannot go on with.
    """
    carried = policy.model if isinstance(policy.model, PeftModel) else None
    if policy.lineage.four_bit and (config.method != "qlora" or carried):
        what = "carries an adapter on" if carried else "has"
        raise ModelError(f"{policy.name} {what} 4-bit weights: train with qlora, from a policy without an adapter")
    if config.method == "full":
        if carried:
            raise ModelError(f"{policy.name} carries an adapter: export it first, or train with lora or qlora")
        model: Any = copy.deepcopy(policy.model).float()
    elif config.method == "qlora":
        model = policy.model if policy.lineage.four_bit else quantised(policy, config.dtype)
    else:
        model = copy.deepcopy(carried).unload() if carried else policy.model
    with tuned(model, config, seed) as tunable:
        if carried:
            _go_on(tunable, carried, policy)
        yield tunable


@contextmanager
def tuned(model: Any, config: Tuning, seed: int, task: str = "CAUSAL_LM", trained: Sequence[str] = ()) -> Iterator[Any]:
    """`model` with all weights trainable, or with adapter layers in every linear layer but the head.

    With LoRA (2106.09685) B starts at zero, so the adapted model starts as the model itself. rslora (2312.03732)
    scales by α/√r in place of α/r; dora (2402.09353) learns each output's magnitude apart.
    The model is in evaluation mode: dropout off, since one shared prompt would draw one dropout mask where
    separate rows draw several; gradients flow all the same.

    Args:
        task: PEFT's name of what the model is.
        trained: names of modules that are trained whole and saved with an adapter (a reward model's head).
    """
    full = config.method == "full"
    layers = nullcontext(model.requires_grad_(True)) if full else _lora_layers(model, config, seed, task, trained)
    with training_attention(model), layers as tunable, _evaluated(tunable, config.checkpointing):
        yield tunable


def _go_on(adapted: PeftModel, carried: PeftModel, policy: Policy) -> None:
    """Start from the adapter that the policy carries."""
    new, old = adapted.peft_config["default"], carried.active_peft_config
    for name in ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora"):
        if getattr(new, name, None) != getattr(old, name, None):
            raise ModelError(
                f"the adapter of {policy.name} has {name}={getattr(old, name, None)}, not {getattr(new, name, None)}: "
                "set training.lora_rank, lora_alpha and lora_variant as it was trained, or export it first"
            )
    weights = get_peft_model_state_dict(carried, adapter_name=carried.active_adapter)
    found = set_peft_model_state_dict(adapted, weights)
    if found.unexpected_keys:
        raise ModelError(f"the adapter of {policy.name} adapts other layers than all linear ones: export it first")


@contextmanager
def _evaluated(model: Any, checkpointing: bool) -> Iterator[None]:
    """In evaluation mode, with activation checkpointing if asked for, which transformers ties to training mode.

    So the layers that checkpoint are told that they train, but not the modules inside them.
    """
    model.eval()
    if not checkpointing:
        yield
        return
    with warnings.catch_warnings():  # transformers 5.23 renames it
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    dropouts = {layer: layer.dropout for layer in layers if isinstance(getattr(layer, "dropout", None), float)}
    for layer in layers:
        layer.training = True
    for layer in dropouts:
        layer.dropout = 0.0
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_disable()
        model.eval()
        for layer, dropout in dropouts.items():
            layer.dropout = dropout


@contextmanager
def _lora_layers(
    model: PreTrainedModel, config: Tuning, seed: int, task: str, trained: Sequence[str]
) -> Iterator[PeftModel]:
    frozen = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=list(trained) or None,
        use_rslora=config.lora_variant == "rslora",
        use_dora=config.lora_variant == "dora",
        task_type=task,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # PEFT 0.21 asks transformers 5.23 for a property by its old name.
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
        torch.manual_seed(seed)
        adapted = get_peft_model(model, lora)
    try:
        yield adapted
    finally:
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])


@contextmanager
def without_adapter(model: PeftModel, module: Any) -> Iterator[Any]:
    """Inside it `module`, which wraps `model`, computes what the base does."""
    with model.disable_adapter():
        yield module


def autocast(device: torch.device, dtype: str) -> torch.autocast:
    """Context in which products run in `dtype`."""
    return torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32")


def save_checkpoint(model: Any, policy: Policy, out: Path, ranks: Ranks) -> None:
    """Write what was trained as a folder that the usual loaders read, with its lineage; all processes call."""
    if isinstance(model, PeftModel):
        weights = {name: whole(tensor).contiguous() for name, tensor in get_peft_model_state_dict(model).items()}
    else:
        shared: dict[int, torch.Tensor] = {}  # tied weights stay tied
        tensors = model.to(policy.model.dtype).state_dict(keep_vars=True)
        for tensor in tensors.values():
            shared.setdefault(id(tensor), whole(tensor.detach()).cpu())
        weights = {name: shared[id(tensor)] for name, tensor in tensors.items()}
    if ranks.main:
        _write(model, weights, policy, out)
    ranks.wait()


def _write(model: Any, weights: dict[str, torch.Tensor], policy: Policy, out: Path) -> None:
    if isinstance(model, PeftModel):
        _save_adapter(model, weights, policy, out)
        after = replace(policy.lineage, adapters=(hash_folder(out),))
    else:
        with writing(out), quiet_transformers():
            out.mkdir(parents=True, exist_ok=True)
            model.save_pretrained(out, state_dict=weights)
            policy.tokenizer.save_pretrained(out)
        after = Lineage(hash_folder(out))
    # An adapter that learned on 4-bit weights is merged onto them: `prefloop.models.export`.
    method = {"method": "qlora"} if isinstance(model, PeftModel) and getattr(model, "is_quantized", False) else {}
    write_json(out / LINEAGE_FILE, {"base": policy.lineage.base, "policy": after.id, **method})


def _save_adapter(adapted: PeftModel, weights: dict[str, torch.Tensor], policy: Policy, out: Path) -> None:
    """An adapter folder that plain ``PeftModel.from_pretrained(base, out)`` loads; same weights, same bytes.

    PEFT's own `save_pretrained` writes the target modules in the order of a set, which changes with every
    process.
    """
    with atomic_path(out / "adapter_model.safetensors") as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})
    base = policy.model.config.name_or_path or policy.name
    saved = replace(adapted.peft_config["default"], inference_mode=True, base_model_name_or_path=base)
    write_json(out / "adapter_config.json", _plain(saved.to_dict()))


def _plain(value: Any) -> Any:
    """Sets sorted and enumerations by their value, so that the JSON is the same in every process."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set):
        return sorted(value)
    return getattr(value, "value", value)

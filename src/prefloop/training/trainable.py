"""What is trained, and how it is saved: a LoRA adapter on the policy's model, or a copy of all weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import PreTrainedModel

from prefloop.config.training import Tuning
from prefloop.errors import ModelError
from prefloop.models.attention import training_attention
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder
from prefloop.models.load import Policy, quantised, quiet_transformers
from prefloop.store.files import atomic_path, write_json, writing


@contextmanager
def trainable(policy: Policy, config: Tuning, seed: int) -> Iterator[Any]:
    """The model to train, inside the block; the policy's own model is the same after it as before.

    With LoRA (2106.09685) adapter layers are put into every linear layer but the head, and taken out again at
    the end; B starts at zero, so the adapted model starts as the model itself. QLoRA puts them into a copy with
    4-bit weights, which is then also the reference. Full training works on a float32 copy.
    The model is in evaluation mode: dropout off, since one shared prompt would draw one dropout mask where
    separate rows draw several; gradients flow all the same.

    Raises:
        ModelError: the policy still carries an adapter.
    """
    if policy.lineage.adapters:
        raise ModelError(f"{policy.name} carries an adapter: merge it first (prefloop.models.load.merged)")
    if config.method == "full":
        model = copy.deepcopy(policy.model).float().eval().requires_grad_(True)
        with training_attention(model):
            yield model
    else:
        model = quantised(policy, config.dtype) if config.method == "qlora" else policy.model
        with training_attention(model), lora_layers(model, config, seed) as adapted:
            yield adapted


@contextmanager
def lora_layers(
    model: PreTrainedModel, config: Tuning, seed: int, task: str = "CAUSAL_LM", trained: Sequence[str] = ()
) -> Iterator[PeftModel]:
    """Adapter layers in every linear layer but the head, inside the block.

    rslora (2312.03732) scales by α/√r in place of α/r; dora (2402.09353) learns each output's magnitude apart.

    Args:
        task: PEFT's name of what the model is.
        trained: names of modules that are trained whole and saved with the adapter (a reward model's head).
    """
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
        yield adapted.eval()
    finally:
        adapted.unload()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(frozen[name])


def reference_mode(model: Any) -> AbstractContextManager[Any]:
    """Inside it `model` is what training started from: always under LoRA, before the first update in full."""
    return model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()


def save_checkpoint(model: Any, policy: Policy, out: Path) -> None:
    """Write what was trained as a folder that the usual loaders read, with its lineage."""
    if isinstance(model, PeftModel):
        _save_adapter(model, policy, out)
        after = replace(policy.lineage, adapters=(hash_folder(out),))
    else:
        with writing(out), quiet_transformers():
            out.mkdir(parents=True, exist_ok=True)
            model.to(policy.model.dtype).save_pretrained(out)
            policy.tokenizer.save_pretrained(out)
        after = Lineage(hash_folder(out))
    # An adapter that learned on 4-bit weights is merged onto them: `prefloop.models.export`.
    method = {"method": "qlora"} if isinstance(model, PeftModel) and getattr(model, "is_quantized", False) else {}
    write_json(out / LINEAGE_FILE, {"base": policy.lineage.base, "policy": after.id, **method})


def _save_adapter(adapted: PeftModel, policy: Policy, out: Path) -> None:
    """An adapter folder that plain ``PeftModel.from_pretrained(base, out)`` loads; same weights, same bytes.

    PEFT's own `save_pretrained` writes the target modules in the order of a set, which changes with every
    process.
    """
    weights = {name: tensor.contiguous() for name, tensor in get_peft_model_state_dict(adapted).items()}
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

"""What one training pass holds in memory, found by running it on shapes.

The model itself, with adapters, autocast, our attention and our head, runs forward and backward on tensors that have
a shape and no storage (PyTorch's `FakeTensorMode`), and every storage is counted from its birth to its death. So no
formula per architecture is needed, and what autograd keeps is known for every model that transformers builds.
"""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop.models.attention import Shape, training_attention
from prefloop.models.group import PACKED, ROWS, Group, GroupBatch, pack, sharing_obstacle
from prefloop.models.head import token_logps

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from prefloop.config.training import Tuning

HEAD_CHANGES = {"final_logit_softcapping": None, "logit_scale": 1, "logits_scaling": 1, "lm_head_multiplier": 1}
"""Settings by which a model changes its logits after the head, and their value without effect; with one of them
`GroupForward` keeps all logits."""


@dataclass(frozen=True, slots=True)
class PassBytes:
    """Bytes that a forward and backward pass holds beside weights and gradients."""

    activations: int
    """Kept by autograd for all layers, between forward and backward pass."""
    head: int
    """Kept for the gradient of the LM head, that of the pass before included where it is still there."""
    workspace: int
    """What comes and goes, above what is kept, at the worst moment."""


def on_meta(config: PreTrainedConfig, tuning: Tuning, weight_bytes: int, layers: int) -> Any:
    """The model with this many layers and with what `training.trainable` adds to it, without weights.

    Half precision stands for both of its types.
    """
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    dtype = torch.float32 if tuning.method == "full" or weight_bytes == 4 else torch.bfloat16
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's of names that transformers renamed
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        if tuning.method == "full":
            return model
        lora = LoraConfig(
            r=tuning.lora_rank,
            target_modules="all-linear",
            use_dora=tuning.lora_variant == "dora",
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, lora).eval()


def quantised_layers(base: Any) -> list[nn.Linear]:
    """bitsandbytes takes every linear layer but the head."""
    head = base.get_output_embeddings()
    return [
        layer
        for name, layer in base.named_modules()
        if isinstance(layer, nn.Linear) and layer is not head and "lora_" not in name
    ]


def pass_bytes(model: Any, tuning: Tuning, shapes: Sequence[Shape]) -> PassBytes:
    """What a pass over groups of these shapes holds; `model` comes from `on_meta` and is used up.

    Two passes are run: the second one finds what the first has left, the gradients among it.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    dequantised = _as_quantised(base, tuning) if tuning.method == "qlora" else 0
    with training_attention(base):
        layout = ROWS if sharing_obstacle(base.config) else PACKED
        batch = pack([_group(shape) for shape in shapes], layout)
        with FakeTensorMode(allow_non_fake_inputs=True):
            _place(model)
            if tuning.checkpointing:
                _checkpoint(base)
            with _Live(model) as live:
                for _ in range(2):
                    start = live.peak = live.now
                    with torch.autocast("cpu", torch.bfloat16, enabled=tuning.dtype != "float32"):
                        hidden = _hidden(base, batch)
                        layers = live.now
                        logps = _logps(base, hidden, batch)
                    del hidden
                    kept = live.now
                    logps.sum().backward()
    left = start - sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
    head = max(0, kept - layers + left)
    return PassBytes(kept - start + left - head, head, live.peak - kept + dequantised)


def _as_quantised(base: Any, tuning: Tuning) -> int:
    """Give 4-bit layers weights of the type that they compute in, since autocast copies none; returns the size of
    the largest, which stands as a whole while it is multiplied."""
    dtype = getattr(torch, tuning.dtype)
    layers = quantised_layers(base)
    for layer in layers:
        layer.weight = nn.Parameter(layer.weight.to(dtype), requires_grad=False)
    return max(layer.weight.numel() for layer in layers) * dtype.itemsize


def _checkpoint(base: Any) -> None:
    """As `training.trainable`: transformers checkpoints in training mode alone."""
    with warnings.catch_warnings():  # transformers 5.23 renames it
        warnings.simplefilter("ignore", FutureWarning)
        base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    for module in base.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def _place(model: nn.Module) -> None:
    """Move all parameters and buffers from ``meta`` to the CPU of shapes; what was shared stays shared."""
    placed: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in placed:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    placed[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                tensors[name] = placed[id(old)]


def _group(shape: Shape) -> Group:
    prompt, completions = shape
    return Group((0,) * prompt, tuple((0,) * length for length in completions))


def _hidden(base: Any, batch: GroupBatch) -> Tensor:
    """As `GroupStates.hidden`, which checks numbers first; here are none."""
    packed = {"position_ids": batch.position_ids, "attention_mask": torch.zeros(1, 1, 1, 1), "segments": batch.segments}
    states = base.get_decoder()(input_ids=batch.input_ids, use_cache=False, **(packed if batch.segments else {}))[0]
    return states.flatten(0, 1)


def _logps(base: Any, hidden: Tensor, batch: GroupBatch) -> Tensor:
    head, text = base.get_output_embeddings(), base.config.get_text_config()
    changed = any(getattr(text, name, None) not in (None, idle) for name, idle in HEAD_CHANGES.items())
    scored = hidden.index_select(0, batch.sources)
    if not changed and type(head) is nn.Linear:
        return token_logps(scored, head.weight, head.bias, batch.targets)[0]
    logits = head(scored).mul(1.0).tanh().mul(1.0).float()  # as a soft cap: divided, tanh, multiplied
    return logits.view(-1).index_select(0, batch.targets) - logits.logsumexp(-1)


class _Live(TorchDispatchMode):
    """Counts the bytes of storages that came to life inside the block and are still alive."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes = {t.untyped_storage()._cdata: 0 for t in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # asked twice per operation: all that it is, without a way through both modes
        out = operation(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

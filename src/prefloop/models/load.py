"""Policies from folders or the hub: safetensors only, no remote code, adapters only on their own base."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import ConfigError, ModelError
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parent.parent / "embedded" / "policy"
"""The policy that ships with the package."""

DTYPES = ("float32", "bfloat16", "float16")
NF4 = "nf4"
"""Linear layers in 4-bit NormalFloat: a 7B policy in 5 GB, to sample from and to train with qlora."""

HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""What is fetched of a hub model: no pickled weights, no code."""


@dataclass(frozen=True)
class Policy:
    """A model with its tokenizer, and where both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    lineage: Lineage
    name: str

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self.model.device

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt with its answer, where the model knows a limit."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)


def load_policy(
    source: str | Path, adapter: Path | None = None, dtype: str = "float32", device: str = "auto"
) -> Policy:
    """Load a causal language model, and an adapter on top if given.

    Args:
        source: ``embedded``, a `from_pretrained` folder (the hub is not asked), or a hub id ``owner/name``.
        adapter: PEFT adapter folder; where it records the hash of its base, another base is refused.
        dtype: ``float32``, ``bfloat16``, ``float16`` or ``nf4``.
        device: ``auto`` (cuda, then mps, then cpu) or a torch device.

    Raises:
        ConfigError: a dtype or device that is not there.
        ModelError: missing or damaged files, an unknown model, or the wrong base for the adapter.
    """
    if dtype not in (*DTYPES, NF4):
        raise ConfigError(f"dtype {dtype!r} is unknown: give one of {', '.join((*DTYPES, NF4))}")
    place = device_of(device)
    folder = model_folder(str(source))
    if dtype == NF4:
        model = _four_bit(folder, place, half_precision(place))
    else:
        model = read_model(folder, dtype, **_straight_to(place)).to(place).eval()
    lineage = Lineage(hash_folder(folder), four_bit=dtype == NF4)
    policy = Policy(model, read_tokenizer(folder, model), lineage, str(source))
    return with_adapter(policy, Path(adapter)) if adapter else policy


def base_lineage(source: str | Path) -> Lineage:
    """Identity of a model's weights, without loading them.

    Raises:
        ModelError: there is no such model.
    """
    return Lineage(hash_folder(model_folder(str(source))))


def quantised(policy: Policy, dtype: str, kind: str = "AutoModelForCausalLM", **options: Any) -> Any:
    """The policy's model with the weights of its linear layers, but the head, in 4-bit NormalFloat (QLoRA, 2305.14314).

    Products run in `dtype`. The model is read again from its folder.

    Raises:
        ModelError: bitsandbytes is not installed, or the model cannot be quantised.
    """
    return _four_bit(model_folder(policy.name), policy.model.device, dtype, kind, **options)


def half_precision(device: torch.device) -> str:
    """The number type for products beside 4-bit weights: bfloat16 where the device has it, float16 on older GPUs."""
    import torch

    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "float32"


def _straight_to(device: torch.device) -> dict[str, Any]:
    """Weights go to a GPU as they are read: a machine may have less memory than its GPU."""
    return {"device_map": {"": device}} if device.type == "cuda" else {}


def _four_bit(
    folder: Path, device: torch.device, dtype: str, kind: str = "AutoModelForCausalLM", **options: Any
) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if sharded():
        raise ConfigError(
            "4-bit weights cannot be split over processes: launch with DDP (--strategy ddp), or train with lora"
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise ModelError("QLoRA needs bitsandbytes: pip install 'prefloop[qlora]'") from error
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    placed = {"quantization_config": nf4, "device_map": {"": device}, **options}
    model = read_model(folder, "float32", kind, **placed).eval()
    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            # On processors with bfloat16 units it repacks its weights in the first pass without gradient, and
            # from then on takes a product that autograd does not see: later gradients would be wrong.
            module.support_avx512bf16_for_cpu = False
    return model


def merged(policy: Policy) -> Policy:
    """The policy with its adapter folded into its weights, for speed; as it is without one, or in 4 bits.

    The policy given is used up: a copy would need its memory once more.
    """
    if not policy.lineage.adapters or policy.lineage.four_bit:
        return policy
    model: Any = policy.model
    return replace(policy, model=model.merge_and_unload().eval())


def read_model(folder: Path, dtype: str, kind: str = "AutoModelForCausalLM", new: str = "", **options: Any) -> Any:
    """A model of transformers' class `kind` from a folder of safetensors; nothing of it is executed.

    Args:
        new: start of the names of weights that the folder need not have (a reward model's head).

    Raises:
        ModelError: the folder cannot be read, or lacks weights.
    """
    import torch
    import transformers

    try:
        with quiet_transformers():
            model, report = getattr(transformers, kind).from_pretrained(
                folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises many kinds for damaged files; all mean this to a user
        raise ModelError(f"cannot load the model {folder}: {_first_line(error)}") from error
    missing = sorted(name for name in report["missing_keys"] if not (new and name.startswith(new)))
    if missing:  # transformers fills them with random numbers and only warns
        raise ModelError(f"the weights in {folder} lack {len(missing)} tensors, {missing[0]} first: copy it again")
    return model


def read_tokenizer(folder: Path, model: Any = None) -> Any:
    """The tokenizer beside a model.

    Args:
        model: what is to embed its tokens, if it is loaded.

    Raises:
        ModelError: it cannot be read, would be read otherwise than it was trained, or has more tokens than the model.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as in `read_model`
        raise ModelError(f"cannot load the tokenizer in {folder}: {_first_line(error)}") from error
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file() and _merges(tokenizer):
        raise ModelError(
            f"{folder} has tokenizer.model but no tokenizer.json: transformers 5 orders its merges by id instead of by "
            "score, so some texts would get other tokens than the model knows; fetch tokenizer.json beside it"
        )
    if model is not None and len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise ModelError(
            f"the tokenizer in {folder} has {len(tokenizer)} tokens but the model embeds only "
            f"{model.get_input_embeddings().num_embeddings}: they belong to different models"
        )
    return tokenizer


def _merges(tokenizer: Any) -> bool:
    from tokenizers.models import BPE

    return isinstance(getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None), BPE)


def with_adapter(policy: Policy, adapter: Path) -> Policy:
    """The policy with a LoRA adapter that was trained on it.

    Raises:
        ModelError: the folder is no adapter's, is damaged, or belongs to another base.
    """
    from peft import PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise ModelError(f"{adapter} is not an adapter folder: it has no {name}")
    _check_base(policy, adapter)
    try:
        with warnings.catch_warnings():
            # PEFT leaves tensors that the file lacks at their start values and only warns.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            # PEFT 0.21 asks transformers 5.23 for a property by its old name.
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing")
            model: Any = PeftModel.from_pretrained(policy.model, str(adapter)).eval()
    except Exception as error:  # as in `_read`
        raise ModelError(f"cannot load the adapter {adapter}: {_first_line(error)}") from error
    if model.active_peft_config.is_prompt_learning:
        raise ModelError(f"the adapter {adapter} puts virtual tokens before the prompt: use LoRA or its relatives")
    return replace(policy, model=model, lineage=replace(policy.lineage, adapters=(hash_folder(adapter),)))


def _check_base(policy: Policy, adapter: Path) -> None:
    recorded = adapter / LINEAGE_FILE
    if not recorded.is_file():
        return
    try:
        base = json.loads(recorded.read_text(encoding="utf-8"))["base"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{recorded} does not name a base: train the adapter again or delete the file") from error
    if base != policy.lineage.base:
        raise ModelError(
            f"wrong base for the adapter {adapter}: it was trained on {base}, "
            f"but {policy.name} is {policy.lineage.base}; load it on the model it was trained on"
        )


def model_folder(source: str) -> Path:
    """The local folder meant; a hub model is fetched into the hub's cache first.

    Raises:
        ModelError: nothing there, or no model; says what is missing.
    """
    local = EMBEDDED if source == "embedded" else Path(source).expanduser()
    folder = _fetched(source) if is_hub_id(source) else local
    if not folder.is_dir():
        raise ModelError(
            f"no model folder {folder}: give a from_pretrained folder, a hub id (owner/name), or 'embedded'"
        )
    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += [] if list(folder.glob("*.safetensors")) else ["*.safetensors (pickled weights are not loaded)"]
    if missing:
        raise ModelError(f"{folder} is not a model folder: it has no {' and no '.join(missing)}")
    return folder


def is_hub_id(source: str) -> bool:
    """Whether `source` names a model of the hub: ``owner/name`` that is no path."""
    path = Path(source).expanduser().exists() or source.startswith((".", "/", "~"))
    return not path and source.count("/") == 1


def _fetched(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except Exception as error:  # no network, no such model, no permission: many kinds, one meaning
        raise ModelError(
            f"no folder {hub_id} here, and the hub does not give a model {hub_id}: {_first_line(error)}"
        ) from error


def sharded() -> bool:
    """Whether Accelerate was told to split the weights over processes (FSDP).

    Such a model may be larger than a GPU: it is read on the CPU, and each GPU gets its shard.
    """
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def device_of(wanted: str) -> torch.device:
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes: each has its own
        wanted = "cpu" if sharded() else f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {wanted!r} is not there ({_first_line(error)}): use 'auto' or 'cpu'") from error


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' own bar and reports, which our errors replace; the settings are restored."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]

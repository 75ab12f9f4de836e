"""Policies from folders or the hub: safetensors only, no remote code, adapters only on the base they were made for."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.errors import ModelError
from prefloop.models.lineage import LINEAGE_FILE, Lineage, hash_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = Path(__file__).parent.parent / "embedded" / "policy"
"""The policy that ships with the package."""


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


def load_policy(
    source: str | Path, adapter: Path | None = None, dtype: str = "float32", device: str = "auto"
) -> Policy:
    """Load a causal language model, and an adapter on top if given.

    Args:
        source: ``embedded``, a `from_pretrained` folder, or a hub id.
        adapter: PEFT adapter folder; where it records the hash of its base, another base is refused.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``auto`` (cuda, then mps, then cpu) or a torch device.

    Raises:
        ModelError: missing or damaged files, an unknown model, or the wrong base for the adapter.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _folder(str(source))
    place: Any = folder or str(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            place, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False
        )
    except (
        Exception
    ) as error:  # transformers raises many kinds for damaged files; each means the same to a user
        raise ModelError(f"cannot load the model {place}: {_first_line(error)}") from error
    model.to(_device(device)).eval()
    base = hash_folder(folder) if folder else _hub_hash(model)
    policy = Policy(model, tokenizer, Lineage(base), str(source))
    return _with_adapter(policy, Path(adapter)) if adapter else policy


def merged(policy: Policy) -> Policy:
    """A copy whose adapter is folded into the weights, for speed; without an adapter the policy itself."""
    if not policy.lineage.adapters:
        return policy
    model: Any = copy.deepcopy(policy.model)
    return replace(policy, model=model.merge_and_unload().eval())


def _with_adapter(policy: Policy, adapter: Path) -> Policy:
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise ModelError(f"{adapter} is no adapter folder: it has no adapter_config.json")
    recorded = adapter / LINEAGE_FILE
    if recorded.is_file():
        base = json.loads(recorded.read_text(encoding="utf-8"))["base"]
        if base != policy.lineage.base:
            raise ModelError(
                f"wrong base for the adapter {adapter}: it was trained on {base}, {policy.name} is {policy.lineage.base}"
            )
    try:
        model: Any = PeftModel.from_pretrained(policy.model, str(adapter)).eval()
    except Exception as error:  # as above
        raise ModelError(f"cannot load the adapter {adapter}: {_first_line(error)}") from error
    lineage = Lineage(policy.lineage.base, (hash_folder(adapter),))
    return replace(policy, model=model, lineage=lineage)


def _folder(source: str) -> Path | None:
    """The local folder meant, or None for a hub id.

    Raises:
        ModelError: a path that is no model folder; says what is missing.
    """
    if source == "embedded":
        folder = EMBEDDED
    elif Path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") != 1:
        folder = Path(source).expanduser()
    else:
        return None
    if not folder.is_dir():
        raise ModelError(
            f"no model folder {folder}: give a from_pretrained folder, a hub id (owner/name), or 'embedded'"
        )
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    missing += (
        [] if list(folder.glob("*.safetensors")) else ["*.safetensors (pickled weights are not loaded)"]
    )
    if missing:
        raise ModelError(f"{folder} is not a model folder: it has no {' and no '.join(missing)}")
    return folder


def _device(wanted: str) -> str:
    import torch

    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _hub_hash(model: PreTrainedModel) -> str:
    """The hub's own commit id of the loaded snapshot."""
    return str(getattr(model.config, "_commit_hash", None) or model.config.name_or_path)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]

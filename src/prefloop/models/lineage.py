"""Which weights a result came from: a policy is a base and its adapters, each known by content hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from prefloop.errors import ModelError
from prefloop.records import canonical_json, content_id

LINEAGE_FILE = "prefloop_lineage.json"
"""Beside an adapter or a trained model: ``{"base": hash_folder of what it was trained on}``."""

VOLATILE = frozenset(
    {
        "_name_or_path",
        "base_model_name_or_path",
        "dtype",
        "name_or_path",
        "peft_version",
        "torch_dtype",
        "transformers_version",
    }
)
"""Configuration keys that change without the model changing."""

HASHED = (
    "*.safetensors",
    "adapter_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
"""Files that decide what a model writes: weights, tokenizer, template, end tokens."""


@dataclass(frozen=True)
class Lineage:
    """Base and adapters by hash."""

    base: str
    adapters: tuple[str, ...] = ()
    four_bit: bool = False
    """Whether the base's weights are rounded to 4 bits: it then answers otherwise."""

    @property
    def id(self) -> str:
        """One id for the policy as a whole."""
        return content_id("policy", self.base, list(self.adapters), *(["nf4"] if self.four_bit else []))


def hash_folder(folder: Path) -> str:
    """Content id of a model or adapter folder: weights byte for byte, configuration without volatile keys.

    Each file is read once per process as long as it does not change.

    Raises:
        ModelError: a configuration file that is not JSON.
    """
    files = sorted({path for pattern in HASHED for path in folder.glob(pattern)})
    stats = [path.stat() for path in files]
    return content_id(
        [
            [path.name, _digest(path.resolve(), path.name, stat.st_mtime_ns, stat.st_size)]
            for path, stat in zip(files, stats, strict=True)
        ]
    )


@lru_cache(maxsize=256)
def _digest(path: Path, name: str, modified: int, size: int) -> str:
    """SHA-256 of a file; `name` apart from `path`, since the hub's cache links names to nameless files."""
    if name.endswith("config.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{path} is not JSON ({error}): copy the model folder again") from error
        return hashlib.sha256(canonical_json(_stable(content, name)).encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _stable(content: dict[str, Any], name: str) -> dict[str, Any]:
    kept = {key: value for key, value in content.items() if key not in VOLATILE}
    if name == "adapter_config.json":
        # PEFT writes sets of module names as lists in whatever order the process had them.
        kept = {key: sorted(value, key=str) if isinstance(value, list) else value for key, value in kept.items()}
    return kept

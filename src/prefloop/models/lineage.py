"""Which weights a result came from: a policy is a base and its adapters, each known by content hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from prefloop.records import canonical_json, content_id

LINEAGE_FILE = "prefloop_lineage.json"
"""Beside an adapter or a trained model: what it was trained from."""

VOLATILE = frozenset(
    {"transformers_version", "_name_or_path", "torch_dtype", "dtype", "base_model_name_or_path"}
)
"""Configuration keys that change without the model changing."""

HASHED = ("*.safetensors", "config.json", "adapter_config.json", "tokenizer.json", "chat_template.jinja")


@dataclass(frozen=True)
class Lineage:
    """Base and adapters by hash."""

    base: str
    adapters: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """One id for the policy as a whole."""
        return content_id("policy", self.base, list(self.adapters))


def hash_folder(folder: Path) -> str:
    """Content id of a model or adapter folder: weights byte for byte, configuration without volatile keys."""
    files = sorted({path for pattern in HASHED for path in folder.glob(pattern)})
    return content_id(
        [[path.name, _digest(path, path.stat().st_mtime_ns, path.stat().st_size)] for path in files]
    )


@lru_cache(maxsize=256)
def _digest(path: Path, modified: int, size: int) -> str:
    if path.suffix == ".json" and "config" in path.name:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if key not in VOLATILE}
        return hashlib.sha256(canonical_json(kept).encode()).hexdigest()
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

"""How a policy is made, without making it: enough for another process to load the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefloop.models.lineage import Lineage, hash_folder
from prefloop.models.load import NF4, Policy, base_lineage, load_policy, merged


@dataclass(frozen=True)
class PolicySource:
    """Where a policy is, and how it is read; fields as in `load_policy`."""

    model: str
    adapter: Path | None = None
    dtype: str = "float32"
    device: str = "auto"
    merge: bool = False
    """With the adapter folded into the weights."""

    @property
    def lineage(self) -> Lineage:
        """Which weights it is, without loading them."""
        adapters = (hash_folder(self.adapter),) if self.adapter else ()
        return Lineage(base_lineage(self.model).base, adapters, self.dtype == NF4)

    def load(self) -> Policy:
        """The policy; raises as `load_policy`."""
        policy = load_policy(self.model, self.adapter, self.dtype, self.device)
        return merged(policy) if self.merge else policy

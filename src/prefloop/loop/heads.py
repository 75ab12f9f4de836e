"""The policy that a round of a loop starts from or ends with: a model, and maybe an adapter, on disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from prefloop.config.recipe import PolicyConfig
from prefloop.config.training import Optimizer
from prefloop.models.export import export_model
from prefloop.models.lineage import Lineage
from prefloop.models.load import NF4, Policy
from prefloop.models.source import PolicySource


@dataclass(frozen=True)
class Head:
    """Where a policy is, and how it is read."""

    settings: PolicyConfig
    model: str
    adapter: Path | None = None

    @property
    def lineage(self) -> Lineage:
        """Which weights it is, without loading them."""
        return self.source.lineage

    @property
    def source(self) -> PolicySource:
        """How it is read to write answers: the adapter folded in."""
        return PolicySource(self.model, self.adapter, self.settings.dtype, self.settings.device, merge=True)

    @property
    def apart(self) -> PolicySource:
        """How it is read to train on, and as a reference: the adapter beside the weights."""
        return replace(self.source, merge=False)

    def load(self) -> Policy:
        """To train on, and as a reference."""
        return self.apart.load()

    def load_merged(self) -> Policy:
        """To write answers in this process."""
        return self.source.load()

    def whole(self, out: Path) -> str:
        """A folder (or name) of the model alone, for engines that read no adapter of ours; written once."""
        if self.adapter is None:
            return self.model
        if not out.exists():
            export_model(self.model, self.adapter, out, self.settings.dtype, device=self.settings.device)
        return str(out)

    def trained(self, checkpoint: Path, config: Optimizer) -> Head:
        """What a training from here wrote into `checkpoint`; from QLoRA the weights that it learned on."""
        if config.method == "full":
            return Head(self.settings, str(checkpoint))
        after = Head(self.settings, self.model, checkpoint)
        if config.method == "qlora" and self.settings.dtype != NF4:
            return Head(self.settings, after.whole(checkpoint.with_name(f"{checkpoint.name}-merged")))
        return after

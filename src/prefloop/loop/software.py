"""What software a result was computed with."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = ("numpy", "peft", "pyarrow", "sqlglot", "torch", "transformers")


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    return {
        "prefloop": version("prefloop"),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def set_threads(wanted: int) -> int:
    """Set torch's threads if asked; the number in use."""
    import torch

    if wanted:
        torch.set_num_threads(wanted)
    return torch.get_num_threads()

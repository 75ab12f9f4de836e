"""What tests of imports share: a whole file read at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prefloop.preferences.importers import Imported, imported
from prefloop.preferences.rows import BadRow


def read_whole(path: Path) -> Any:
    """``prompts``, ``completions``, ``preferences`` and ``bad`` rows of a file."""
    rows = list(imported(path))
    good = [row for row in rows if isinstance(row, Imported)]
    return SimpleNamespace(
        prompts=[row.prompt for row in good],
        completions=[completion for row in good for completion in row.completions],
        preferences=[row.preference for row in good],
        bad=[row for row in rows if isinstance(row, BadRow)],
    )

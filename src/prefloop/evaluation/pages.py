"""What the pages share: templates that escape every value, files put into them, and the policy that lets these in."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any


def templates() -> Any:
    """Jinja's environment for the templates here; a name that is not known is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("prefloop", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """The text of a file beside the templates."""
    return files("prefloop.evaluation").joinpath(name).read_text(encoding="utf-8")


def policy_source(content: str) -> str:
    """The content's hash as a source of the Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

"""What all sections of a recipe share, and how a section is chosen by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every recipe section: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def short_form(value: Any) -> Any:
    """``judge: pairrm`` and ``judge: module:function`` as the sections they stand for."""
    if not isinstance(value, str):
        return value
    return {"name": "custom", "function": value} if ":" in value else {"name": value}


def kind_of(default: str) -> Callable[[Any], str]:
    """What tells the members of a union of sections apart: their name."""

    def name(value: Any) -> str:
        return str(value.get("name", default) if isinstance(value, dict) else getattr(value, "name", ""))

    return name

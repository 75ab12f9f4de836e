"""What all sections of a recipe share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every recipe section: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

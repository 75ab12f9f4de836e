"""Where answers and judgements are computed: in this process, or by Ray's workers on any number of machines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from prefloop.config.section import Section, short_form


class EngineSection(Section):
    """Decides where work is done and not what comes out: a run begun here may go on there, and is the same run."""

    name: Literal["local", "ray"] = Field("local", description="local: this process; ray: Ray's workers")
    workers: int = Field(0, ge=0, description="worker processes; 0: one per GPU, without GPUs one per machine")
    gpus: float | None = Field(
        None, ge=0, description="GPUs of each worker; none: one where the cluster has any that the device allows"
    )


LOCAL = EngineSection()

EngineConfig = Annotated[EngineSection, BeforeValidator(short_form)]
"""``engine: ray``, or with options a section of its own."""

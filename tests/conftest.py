"""What tests share: quiet progress, one thread, and the two judge leagues."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prefloop.progress import set_quiet


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    set_quiet(True)
    yield
    set_quiet(False)


@pytest.fixture(scope="session")
def leagues() -> list[Path]:
    """The two leagues the judge runs answers on (built once, then cached)."""
    from prefloop.tasks.nba.task import judge_databases

    return judge_databases()

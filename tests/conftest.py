"""What tests share: quiet progress, one thread, and the two judge leagues."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import READER, TOKEN, HubServer
from hypothesis import HealthCheck, settings
from postgres import Postgres, running_postgres

from prefloop.progress import set_quiet
from prefloop.store.files import cache_folder

# The first example of a test may wait for imports, and a busy machine for everything: that is no fault of the code.
settings.register_profile("prefloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prefloop")

# Nothing here is compiled by torch, but importing bitsandbytes prepares for it: 2 s of every process that is started.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


LONG = (
    "test_ray.py",
    "test_annotation_browser.py",
    "test_loop.py",
    "test_kill.py",
    "test_launch.py",
    "test_plan.py",
    "test_cli.py",
    "test_database_run.py",
    "test_object_storage.py",
    "test_real_league.py",
    "test_training.py",
    "test_hub.py",
    "test_postgres_sandbox.py",
    "test_instruction_run.py",
    "test_ranks.py",
    "test_policy_gradient_training.py",
    "test_annotation_pages.py",
    "test_annotation_load.py",
    "test_train_commands.py",
    "test_wheel.py",
    "test_dropins.py",
    "test_annotation_api.py",
    "test_training_kinds.py",
    "test_memory.py",
    "test_instructions.py",
    "test_embedded.py",
    "test_people_judge.py",
    "test_sql_sandbox.py",
)
"""Files of long tests come first, so that no process waits for another's last one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def _new_cache(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes folders by counting: pytest's own looks through those of all tests before."""
    root, number = tmp_path_factory.mktemp("caches"), count()
    return lambda: root / str(next(number))


@pytest.fixture(autouse=True)
def _own_cache(_new_cache: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test alone, but for the leagues, which take seconds to build."""
    leagues, own = cache_folder() / "leagues", _new_cache()
    own.mkdir()
    leagues.mkdir(parents=True, exist_ok=True)
    (own / "leagues").symlink_to(leagues.resolve())
    monkeypatch.setenv("PREFLOOP_CACHE", str(own))


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for all tests of a process; each takes a database of its own."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The Hub as a local server, with a token that may write and one that may not; no real cache, no waiting."""
    import huggingface_hub.constants as constants

    from prefloop.store import hub as client

    with HubServer() as server:
        server.tokens = {TOKEN: ("me", True), READER: ("me", False)}
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("HF_OIDC_RESOURCE", raising=False)
        home = tmp_path / "hub-home"
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
            monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda _: None, time=lambda: 0.0))
        monkeypatch.setattr(client.time, "sleep", lambda _: None)
        yield server

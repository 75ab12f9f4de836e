"""Processes that work together end together, and with the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from prefloop.loop.launch import Launch
from prefloop.loop.together import THREADS, run_together, threads_of

STARTER = """
import signal, sys
from pathlib import Path
from prefloop.loop.together import run_together
class Interrupted(BaseException):
    pass
def interrupt(*_):
    raise Interrupted
signal.signal(signal.SIGINT, interrupt)
run_together(Path(sys.argv[1]), 2, ["together", sys.argv[2], "waits"])
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return Launch(2, cpu=True).write(tmp_path / "accelerate.yaml")


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.delenv(THREADS, raising=False)


@contextmanager
def working(config: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
    """A starter whose two processes are at work, and everything below it."""
    command = [sys.executable, "-c", STARTER, str(config), str(folder)]
    starter = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while not all((folder / rank).exists() for rank in "01"):
            assert starter.poll() is None, starter.stderr.read().decode()
            time.sleep(0.05)  # between looks at who is at work
        below = psutil.Process(starter.pid).children(recursive=True)
        assert {int((folder / rank).read_text().split()[0]) for rank in "01"} < {process.pid for process in below}
        yield starter, below
    finally:
        starter.kill()
        starter.wait()


def at_work(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have not ended, whether or not somebody has taken note of their end."""

    def works(process: psutil.Process) -> bool:
        with suppress(psutil.NoSuchProcess):
            return process.status() != psutil.STATUS_ZOMBIE
        return False

    return list(filter(works, processes))


def test_one_that_fails_ends_all_and_its_code_is_told_without_a_traceback_and_each_has_its_share_of_the_cores(
    config: Path, tmp_path: Path
) -> None:
    with (tmp_path / "out").open("w") as out, (tmp_path / "said").open("w") as said:
        assert run_together(config, 2, ["together", str(tmp_path), "fails"], out, said) == 3
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert "1 came out\n" in (tmp_path / "out").read_text()
    each = max(1, (os.cpu_count() or 1) // 2)
    for rank in "01":
        pid, given, used = map(int, (tmp_path / rank).read_text().split())
        assert (given, used) == (each, each)
        assert not psutil.pid_exists(pid) or not at_work([psutil.Process(pid)])


def test_a_starter_that_is_interrupted_has_ended_all_before_it_ends(config: Path, tmp_path: Path) -> None:
    with working(config, tmp_path) as (starter, below):
        starter.send_signal(signal.SIGINT)
        starter.wait(timeout=60)
        assert not at_work(below)


def test_a_starter_that_is_killed_leaves_nobody_at_work(config: Path, tmp_path: Path) -> None:
    with working(config, tmp_path) as (starter, below):
        starter.kill()
        until = time.monotonic() + 60
        while at_work(below):
            assert time.monotonic() < until
            time.sleep(0.05)  # between looks at who is at work


@pytest.mark.parametrize(("each", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_the_cores_are_shared_out(each: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_of(each) == threads

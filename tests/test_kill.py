"""A run killed at random moments and resumed ends with the same bytes as one never killed."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import prefloop

from prefloop.loop import judge_stage, prefer_stage
from prefloop.store import grouped
from prefloop.training.checkpoint import STATE

SMALL = (
    "--set task.train_questions=24 --set task.test_questions=8 --set generation.k=4 --set training.epochs=1"
    " --set training.batch_pairs=4 --set training.checkpoint_every=2 --set evaluation.sampled_questions=4"
    " --set evaluation.samples=2 --set evaluation.bootstrap=200 --set threads=1"
).split()


def start(out: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefloop", "--quiet", "run", "nba-sql", "--out", str(out), *SMALL, *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def contents(out: Path) -> dict[str, bytes]:
    """Every file's bytes but the log, which holds times."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.name not in {"log.jsonl", ".lock"}}


def check_kills(folder: Path, kills: int, seed: int) -> None:
    started = time.monotonic()
    undisturbed = start(folder / "a")
    assert undisturbed.wait() == 0, undisturbed.stderr.read().decode()
    took = time.monotonic() - started
    rng = random.Random(seed)
    killed = 0
    while killed < kills:
        process = start(folder / "b", "--resume")
        try:
            process.wait(timeout=rng.uniform(0.1, 0.6) * took)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            continue
        assert process.returncode == 0, process.stderr.read().decode()
        assert contents(folder / "b") == contents(folder / "a")
        (folder / "b").rename(folder / f"done-{killed}")  # finished before the kill: compare, and begin another
    final = start(folder / "b", "--resume")
    assert final.wait() == 0, final.stderr.read().decode()
    assert contents(folder / "b") == contents(folder / "a")


@pytest.mark.soak
def test_a_hundred_kills_change_no_byte(tmp_path: Path) -> None:
    check_kills(tmp_path, 100, seed=2)


def when_there(process: subprocess.Popen[bytes], path: Path, how: signal.Signals) -> int:
    """End a run as soon as it has made a file; its exit code."""
    while not path.exists():
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.05)  # between looks for the file
    process.send_signal(how)
    return process.wait(timeout=300)


def test_neither_ctrl_c_nor_a_kill_changes_a_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C once there are questions, a kill while it trains; the rest, and the undisturbed run, in this process.

    That is here and in slices of a few questions, of which none is to be seen, either.
    """
    out = tmp_path / "b"
    interrupted = start(out)
    assert when_there(interrupted, out / "prompts.parquet", signal.SIGINT) == 130
    assert "go on with --resume" in interrupted.stderr.read().decode()
    killed = start(out, "--resume")
    assert when_there(killed, out / "work" / "training" / STATE, signal.SIGKILL) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    for module, name, value in ((grouped, "BLOCK", 2), (judge_stage, "ANSWERS", 12), (prefer_stage, "ROWS", 12)):
        monkeypatch.setattr(module, name, value)
    for name, options in {"a": (), "b": ("--resume",)}.items():
        done = prefloop("run", "nba-sql", "--out", tmp_path / name, *SMALL, *options)
        assert done.returncode == 0, done.stderr
    assert contents(out) == contents(tmp_path / "a")


SWALLOWED = """
import os, signal, time
from prefloop.cli import app
def busy():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(300)  # work that the interrupt ends at once
    except BaseException:
        pass
    try:
        time.sleep(300)  # until the second interrupt
    finally:
        time.sleep(1.5)  # longer than the second after which it is raised again
        print("tidied")
app.app = busy
app.main()
"""


def test_ctrl_c_that_another_package_swallowed_still_counts_and_lets_what_tidies_up_end() -> None:
    done = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stdout) == (130, "tidied\n")
    assert done.stderr.startswith("prefloop: interrupted")

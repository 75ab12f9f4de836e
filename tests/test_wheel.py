"""The built wheel, installed elsewhere, runs the main job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SMALL = (
    "--set task.train_questions=8 --set task.test_questions=10 --set generation.k=4 --set training.epochs=1"
    " --set evaluation.sampled_questions=2 --set evaluation.samples=2 --set evaluation.bootstrap=100 --set threads=1"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_policy_recipes_and_page(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    for name in ("embedded/policy/model.safetensors", "recipes/nba-sql.yaml", "evaluation/report.html.j2"):
        assert f"prefloop/{name}" in sizes
    policy = sum(size for name, size in sizes.items() if name.startswith("prefloop/embedded/"))
    assert policy <= 10_000_000


def test_the_wheel_installed_elsewhere_runs_the_main_job(wheel: Path, tmp_path: Path) -> None:
    """Unpacked into a folder of its own, which comes before the checkout on the path."""
    site = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "prefloop", "-q", "run", "nba-sql", "--out", "run", *SMALL.split()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["execution_accuracy"]["n"] == 10
    where = [sys.executable, "-P", "-c", "import prefloop; print(prefloop.__file__)"]
    assert str(site) in subprocess.run(where, env=environment, capture_output=True, text=True, check=True).stdout

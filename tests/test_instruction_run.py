"""The recipe of record on stand-ins: instructions, answers, PairRM, QLoRA DPO, unseen instructions; and its notebook."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pandas as pd
import pytest
from command_line import prefloop
from hub_server import HubServer

from prefloop.config.recipe import Recipe, load_recipe
from prefloop.loop.main import run_recipe
from prefloop.loop.publish import pull, push_dataset, push_model
from prefloop.loop.show import answers_frame, show_run
from prefloop.models.load import load_policy
from prefloop.records import Completion, Judgement, Preference
from prefloop.store.files import read_json
from prefloop.store.tables import read_records

pytest.importorskip("sentencepiece")
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "lima_pairrm_dpo.ipynb"
TOPICS = "points rebounds assists steals blocks minutes games wins losses seasons teams players".split()


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Overrides: a file in LIMA's format, a tiny PairRM, and the embedded policy in 4 bits."""
    folder = tmp_path_factory.mktemp("stand-ins")
    rows = [{"conversations": [f"Tell me about {topic}.", f"About {topic}."], "source": "test"} for topic in TOPICS]
    (folder / "lima.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        from _llm_blender import TINY, write_ranker

        judge = write_ranker(folder / "PairRM", TINY)
        yield {
            "task.source": str(folder / "lima.jsonl"),
            "task.train_prompts": 8,
            "task.test_prompts": 3,
            "policy.model": "embedded",
            "policy.device": "cpu",
            "generation.k": 3,
            "generation.max_new_tokens": 24,
            "judge.model": str(judge),
            "judge.device": "cpu",
            "preferences.min_margin_quantile": 0.0,
            "training.dtype": "float32",
            "training.epochs": 1,
            "evaluation.bootstrap": 200,
        }
    sys.modules.pop("_llm_blender", None)


@pytest.fixture(scope="module")
def recipe(stand_ins: dict[str, Any]) -> Recipe:
    return load_recipe("lima-pairrm-dpo", stand_ins)


@pytest.fixture(scope="module")
def executed(stand_ins: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run that the notebook makes, all its cells in a kernel of its own as a user would, and what they print."""
    folder = tmp_path_factory.mktemp("notebook")
    book = nbformat.read(NOTEBOOK, as_version=4)
    assert not [cell for cell in book.cells if cell.get("outputs")], "the notebook is kept without outputs"
    environment = {
        "PREFLOOP_OVERRIDES": json.dumps(stand_ins),
        "PREFLOOP_RUN": str(folder / "run"),
        "HF_HUB_OFFLINE": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return folder / "run", "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def run(executed: tuple[Path, str]) -> Path:
    return executed[0]


def test_the_whole_way(run: Path) -> None:
    """Every stage's file; pairs by PairRM's scores; an adapter in 4 bits; both answers to each unseen instruction."""
    judgements = read_records(run / "judgements.parquet", Judgement)
    assert len(judgements) == 8 * 3
    by_prompt: dict[str, list[float]] = {}
    for judgement in judgements:
        assert judgement.value is not None
        by_prompt.setdefault(judgement.prompt_id, []).append(judgement.value)
    assert all(sum(scores) == pytest.approx(0, abs=1e-4) for scores in by_prompt.values())
    for pair in read_records(run / "preferences.parquet", Preference):
        scores = by_prompt[pair.prompt_id]
        assert pair.margin > 0
        assert pair.scores[-1] == min(scores)
    lineage = read_json(run / "checkpoint" / "prefloop_lineage.json")
    assert lineage["method"] == "qlora"
    assert (
        load_policy("embedded", run / "checkpoint", "nf4", "cpu").lineage.id
        == read_json(run / "stages" / "lineage.json")["tuned"]
    )
    evaluation = read_json(run / "evaluation.json")
    assert evaluation["kind"] == "judged"
    assert evaluation["prompts"] == 3
    wins = evaluation["win_rate"]
    texts = [
        {
            c.prompt_id: c.text.strip()
            for c in read_records(run / "evaluation" / f"{side}-greedy-completions.parquet", Completion)
        }
        for side in ("before", "after")
    ]
    same = sum(texts[0][i] == texts[1][i] for i in texts[0])
    assert len(read_records(run / "evaluation" / "judgements.parquet", Judgement)) == 2 * (3 - same)
    assert wins["ties"] >= same
    assert wins["n"] == 3
    assert (
        "LIMA" in (run / "preferences" / "README.md").read_text()
        or "lima.jsonl" in (run / "preferences" / "README.md").read_text()
    )
    assert (run / "manifest.json").is_file()


def test_the_frame_of_unseen_instructions(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = answers_frame(run)
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["instruction", "original completion", "tuned completion", "better"]
    assert len(frame) == 3
    trained = pd.read_parquet(run / "preferences" / "preferences.parquet")["prompt"].map(lambda m: m[-1]["content"])
    assert not set(frame["instruction"]) & set(trained)
    show_run(run)
    printed = capsys.readouterr().out
    assert "unseen prompts, original and tuned answer" in printed
    assert "Note: " in printed  # three prompts claim nothing


def test_a_run_that_is_finished_is_not_run_again(recipe: Recipe, run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run_recipe(recipe, run, resume=True) == read_json(run / "evaluation.json")
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert {p for p in after if after[p] != before.get(p)} <= {run / "log.jsonl"}


def test_what_would_go_to_the_hub(run: Path) -> None:
    data = push_dataset(run / "preferences", "someone/lima", dry_run=True)
    assert any(name.endswith(".parquet") for name in data.files)
    model = push_model(run / "checkpoint", "someone/adapter", dry_run=True, base="mistralai/Mistral-7B-Instruct-v0.2")
    assert model.kind == "adapter"


def test_a_finished_run_pushes_what_its_recipe_names(
    stand_ins: dict[str, Any], run: Path, tmp_path: Path, hub: HubServer
) -> None:
    """The same run, asked again with repositories: nothing is computed, both are pushed, private, and come back."""
    named = {**stand_ins, "hub.dataset": "me/lima-pairrm", "hub.model": "me/lima-dpo"}
    before = (run / "manifest.json").read_bytes()
    run_recipe(load_recipe("lima-pairrm-dpo", named), run, resume=True)
    assert (run / "manifest.json").read_bytes() == before
    assert pull("me/lima-pairrm", tmp_path / "pairs").kind == "data set"
    pulled = pd.read_parquet(tmp_path / "pairs" / "preferences.parquet")
    assert pulled.equals(pd.read_parquet(run / "preferences" / "preferences.parquet"))
    pull("me/lima-dpo", tmp_path / "adapter")
    assert load_policy("embedded", tmp_path / "adapter", "nf4", "cpu").lineage.adapters


def test_the_notebook_shows_the_answers_and_sends_nothing(executed: tuple[Path, str]) -> None:
    _, text = executed
    assert "would push dataset" in text or "would push data set" in text
    assert "original completion" in text


def test_the_command_says_the_plan_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = prefloop("run", "lima-pairrm-dpo", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "answers sampled for training   250" in done.stdout
    assert "7.24B parameters (its published shape)" in done.stdout
    assert "one T4" in done.stdout
    assert list(tmp_path.iterdir()) == []

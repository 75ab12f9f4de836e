"""The command line with mistakes: one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from command_line import prefloop

from prefloop.records import Judgement
from prefloop.store.tables import read_records

SMALL = (
    "--set task.train_questions=12 --set task.test_questions=10 --set generation.k=4 --set training.epochs=1"
    " --set evaluation.sampled_questions=4 --set evaluation.samples=2 --set evaluation.bootstrap=200 --set threads=1"
).split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small finished run."""
    out = tmp_path_factory.mktemp("runs") / "small"
    done = prefloop("run", "nba-sql", "--out", out, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "execution accuracy" in done.stdout
    assert "original answer" in done.stdout
    assert "report.html" in done.stdout
    return out


def test_a_run_leaves_everything_behind(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    expected = """recipe.json prompts.parquet completions.parquet judgements.parquet preferences.parquet evaluation.json
        report.html checkpoint/adapter_model.safetensors checkpoint/adapter_config.json checkpoint/training.json
        preferences/preferences.jsonl preferences/preferences.parquet preferences/README.md""".split()
    assert set(expected) <= set(manifest["files"])
    evaluation = json.loads((finished / "evaluation.json").read_text())
    keys = """execution_accuracy execution_accuracy_unseen valid_sql sampled_accuracy pass_at_k reasoning verbosity
        preference_accuracy by_family seeds""".split()
    assert set(keys) <= set(evaluation)
    assert set(evaluation["execution_accuracy"]) >= {"before", "after", "gain", "ci_low", "ci_high", "n"}
    assert not list(finished.rglob("*.partial"))
    assert not (finished / "work").exists()


def test_plain_peft_loads_the_adapter(finished: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from prefloop.models.load import EMBEDDED

    base = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    before = base(ids).logits
    tuned = PeftModel.from_pretrained(base, finished / "checkpoint")
    assert not torch.equal(before, tuned(ids).logits)


def test_show_report_and_resume_of_a_finished_run(finished: Path, tmp_path: Path) -> None:
    assert "execution accuracy" in prefloop("show", finished).stdout
    assert json.loads(prefloop("show", finished, "--json").stdout)["schema"] == 1
    page = tmp_path / "r.html"
    assert prefloop("report", finished, "--out", page).returncode == 0
    assert page.read_bytes() == (finished / "report.html").read_bytes()
    before = (finished / "manifest.json").read_bytes()
    assert prefloop("run", "nba-sql", "--out", finished, "--resume", *SMALL).returncode == 0
    assert (finished / "manifest.json").read_bytes() == before


def test_the_stages_one_by_one(finished: Path, tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"prompt": "most points in a game last season"}\n{"prompt": "lakers record"}\n')
    made = prefloop("generate", questions, "--out", tmp_path / "c.parquet", "--k", 2, "--json")
    assert json.loads(made.stdout)["completions"] == 4
    again = prefloop("generate", questions, "--out", tmp_path / "c.parquet")
    assert (again.returncode, "exists already" in again.stderr) == (5, True)
    asked, answers = finished / "prompts.parquet", finished / "completions.parquet"
    judged = prefloop("judge", asked, answers, "--out", tmp_path / "j.parquet", "--json")
    assert json.loads(judged.stdout)["unscored"] == 0
    assert (tmp_path / "j.parquet").read_bytes() == (finished / "judgements.parquet").read_bytes()
    inwards = ("--set", "preferences.pairs_per_prompt=2")
    pairs = prefloop("prefer", asked, answers, tmp_path / "j.parquet", "--out", tmp_path / "p", *inwards)
    assert "pairs in" in pairs.stdout
    trained = prefloop(
        "train", "preference", tmp_path / "p", "--out", tmp_path / "ck", "--set", "training.epochs=1", "--json"
    )
    assert json.loads(trained.stdout)["steps"] >= 1
    few = ("--set", "evaluation.sampled_questions=4", "--set", "evaluation.samples=2", "--json")
    compared = prefloop("evaluate", "--adapter", tmp_path / "ck", "--prompts", asked, "--out", tmp_path / "e", *few)
    assert json.loads(compared.stdout)["execution_accuracy"]["n"] == 10
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [asdict(judgement) for judgement in read_records(path, Judgement)]


def correct(row: dict[str, Any]) -> float:
    return row["objectives"]["correct"]


def test_whoever_labels_execution_examines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs by a function of one's own: the gain is by execution, and beside it how far the labels agree with it."""
    monkeypatch.setattr(sys, "path", [*sys.path])  # the working folder joins it
    (tmp_path / "own_judges.py").write_text("def shortest(prompt, answers):\n    return [-len(a) for a in answers]\n")
    done = prefloop("run", "nba-sql", "--out", "r", *SMALL, "--set", "judge=own_judges:shortest", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "execution accuracy" in done.stdout
    gap = json.loads((tmp_path / "r" / "stages" / "label-gap.json").read_text())
    assert gap["prompts"] == 12
    labels = {r["completion_ids"][0]: r["value"] for r in rows_of(tmp_path / "r" / "judgements.parquet")}
    right = {r["completion_ids"][0]: r for r in rows_of(tmp_path / "r" / "stages" / "execution-judgements.parquet")}
    pairs = [(a, b) for a in right.values() for b in right.values() if a["prompt_id"] == b["prompt_id"]]
    pairs = [(a["completion_ids"][0], b["completion_ids"][0]) for a, b in pairs if correct(a) > correct(b)]
    wins = [(labels[a] > labels[b]) + 0.5 * (labels[a] == labels[b]) for a, b in pairs]
    assert gap["n"] == len(pairs) > 0
    assert gap["pairwise_accuracy"] == pytest.approx(sum(wins) / len(wins))
    rows = [
        json.loads(line) for line in (tmp_path / "r" / "preferences" / "preferences.jsonl").read_text().splitlines()
    ]
    assert all(len(row["chosen"][0]["content"]) < len(row["rejected"][0]["content"]) for row in rows)
    assert "own_judges:shortest" in (tmp_path / "r" / "preferences" / "README.md").read_text()


MISTAKES = [
    ("run nowhere", 2, "no recipe called 'nowhere'"),
    ("run nba-sql --set training.bta=1", 2, "did you mean 'beta'"),
    ("run nba-sql --set training.objective=sft --set training.beta=0.2", 2, "has no effect"),
    ("run nba-sql --set nonsense", 2, "is not KEY=VALUE"),
    ("run nba-sql --out occupied", 5, "not a run folder"),
    ("run nba-sql --out occupied --overwrite", 5, "will not empty it"),
    ("run nba-sql --out cook --overwrite", 5, "will not empty it"),
    ("run nba-sql --out torn --resume", 5, "recipe.json is damaged"),
    ("run nba-sql --set policy.model=./gone --out cook --overwrite", 4, "no model folder"),
    ("run nba-sql --out empty.jsonl --overwrite", 5, "cannot write"),
    ("run nba-sql --out new --overwrite --resume", 2, "choose one"),
    ("run nba-sql --seed 2 --set seed=3", 2, "give one"),
    ("run nba-sql --set name=[1", 2, "is not a YAML value"),
    ("run twice.yaml --dry-run", 2, "'beta' stands twice"),
    ("judge good.jsonl good.jsonl --out x.parquet --set training.beta=0.9", 2, "has no effect here"),
    ("generate good.jsonl --out x.parquet --greedy --k 7", 2, "have no effect with --greedy"),
    ("generate repeated.jsonl --out x.parquet", 3, "line 2: the same prompt as in line 1"),
    ("generate meta.jsonl --out x.parquet", 3, "meta.comparison must be dict"),
    ("prefer good.jsonl --import --out occupied", 5, "exists already"),
    ("prefer good.jsonl --import --out x --set preferences.strategy=all-pairs", 2, "no --set"),
    ("evaluate --prompts good.jsonl --out x", 3, "no prompt of split 'test'"),
    ("generate gone.jsonl --out x.parquet", 3, "does not exist"),
    ("generate empty.jsonl --out x.parquet", 3, "is empty"),
    ("generate bad.jsonl --out x.parquet", 3, "line 2"),
    ("generate good.jsonl --out x.parquet --model ./gone", 4, "no model folder"),
    ("generate good.jsonl --out x.parquet --model ./corrupt", 4, "cannot load the model"),
    ("prefer bad.jsonl --import --out p", 3, "no usable preference"),
    ("show occupied", 5, "is not a run folder"),
    ("report gone", 5, "is not a run folder"),
    ("train preference gone --out x", 3, "is no preference set"),
    ("judge good.jsonl good.jsonl --out x.parquet", 3, "not a readable Parquet"),
    ("judge good.jsonl good.jsonl --judge pairm --out x.parquet", 2, "--judge: judge: no judge is called 'pairm'"),
    ("judge good.jsonl good.jsonl --judge pairrm --set judge.modl=x --out x.parquet", 2, "did you mean 'model'"),
    ("compare answered.jsonl answered.jsonl --judge gone:judge --out x", 2, "gone:judge cannot be imported"),
    ("compare answered.jsonl answered.jsonl --judge execution --out x", 3, "have no meta.gold_sql"),
    ("compare answered.jsonl answered.jsonl --set judge.model=./gone --out x", 4, "no model folder"),
    ("compare good.jsonl answered.jsonl --out x", 3, "line 1: give 'prompt' (text or messages) and 'answer'"),
    ("compare embedded embedded --out x", 2, "give --prompts"),
    (
        "run lima-pairrm-dpo --set task.source=gone.jsonl --set policy.model=embedded --set judge=builtins:len --out y",
        3,
        "gone.jsonl",
    ),
    ("run lima-pairrm-dpo --set judge=execution --dry-run", 2, "does not ask for"),
    ("agree gone.csv", 3, "gone.csv"),
    ("push occupied someone/name", 3, "occupied"),
]


@pytest.fixture(scope="module")
def mess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mess")
    (folder / "occupied").mkdir()
    (folder / "occupied" / "thesis.tex").write_text("precious")
    for name, recipe in {"cook": '{"cake": 1}', "torn": '{"recipe": '}.items():
        (folder / name).mkdir()
        (folder / name / "recipe.json").write_text(recipe)
        (folder / name / "notes.txt").write_text("precious")
    (folder / "twice.yaml").write_text("training:\n  beta: 0.3\n  beta: 0.5\n")
    (folder / "repeated.jsonl").write_text('{"prompt": "hi"}\n' * 2)
    (folder / "meta.jsonl").write_text('{"prompt": "hi", "meta": {"comparison": "x"}}\n')
    (folder / "corrupt").mkdir()
    (folder / "corrupt" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "corrupt" / "model.safetensors").write_bytes(b"\x00" * 10)
    (folder / "empty.jsonl").write_text("")
    (folder / "good.jsonl").write_text('{"prompt": "hi"}\n')
    (folder / "answered.jsonl").write_text('{"prompt": "hi", "answer": "hello"}\n')
    (folder / "bad.jsonl").write_text('{"prompt": "hi"}\n{"prompt": 3}\n')
    return folder


@pytest.mark.parametrize(("line", "code", "message"), MISTAKES, ids=[line for line, *_ in MISTAKES])
def test_a_mistake_is_one_clear_line(mess: Path, line: str, code: int, message: str) -> None:
    done = prefloop(*line.split(), cwd=mess)
    assert done.returncode == code, (done.returncode, done.stderr)
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert message in flat
    assert "Traceback" not in done.stderr
    for place in ("occupied/thesis.tex", "cook/notes.txt", "torn/notes.txt"):
        assert (mess / place).read_text() == "precious"


def test_dry_run_touches_nothing(tmp_path: Path) -> None:
    done = prefloop("run", "nba-sql", "--dry-run", "--json", cwd=tmp_path)
    planned = json.loads(done.stdout)
    assert (planned["questions"], planned["training_answers"], planned["training_steps"]) == (1440, 5120, 160)
    assert list(tmp_path.iterdir()) == []


def test_doctor_finds_a_fit_installation() -> None:
    done = prefloop("doctor", "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == 0, findings
    assert {finding["name"] for finding in findings} >= {"python", "embedded policy", "disk", "SQL sandbox"}


def test_a_league_is_built_once(tmp_path: Path) -> None:
    assert prefloop("league", "build", tmp_path / "l.sqlite", "--games", 300).returncode == 0
    done = prefloop("league", "build", tmp_path / "l.sqlite")
    assert (done.returncode, "exists already" in done.stderr) == (5, True)

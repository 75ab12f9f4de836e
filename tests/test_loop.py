"""Loops: rounds follow each other, guards hold and end them, and a resumed loop ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import prefloop
from test_training import build_model_folder

from prefloop.annotation.open import settings_of
from prefloop.config.annotation import AnnotationConfig, SelectionConfig
from prefloop.config.recipe import Recipe, load_recipe, parse_recipe
from prefloop.errors import AwaitingJudgementsError, ConfigError
from prefloop.loop import run_training
from prefloop.loop.launch import Launch
from prefloop.loop.reference_answers import own_against_reference
from prefloop.loop.rounds import run_loop
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import read_json
from prefloop.store.tables import read_records


@pytest.fixture(autouse=True)
def _on_one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_folder(tmp_path_factory.mktemp("model"))


def questions(seed: int) -> list[Prompt]:
    """A task of its own: 20 questions to learn from and 24 to be examined on, with an answer each."""
    return [
        Prompt.create(
            ({"role": "user", "content": f"how many {n}{'?' * (n % 3)}"},),
            "toy",
            "train" if n < 20 else "test",
            {"reference": f"there are {n}"},
        )
        for n in range(44)
    ]


def likes_length(prompt: Prompt, answers: Sequence[str]) -> list[float]:
    return [float(len(answer)) for answer in answers]


def recipe(model: Path, **changes: Any) -> Recipe:
    """Two rounds on a model of a few thousand weights; `changes` by dotted key, dots written as two underscores."""
    content: dict[str, Any] = {
        "name": "toy",
        "task": {"name": "custom", "function": "test_loop:questions"},
        "judge": {"name": "custom", "function": "test_loop:likes_length"},
        "policy": {"model": str(model), "device": "cpu"},
        "generation": {"k": 16, "max_new_tokens": 40},
        "training": {"method": "full", "epochs": 1, "batch_pairs": 4, "reference": "previous", "learning_rate": 1e-3},
        "evaluation": {"bootstrap": 200},
        "loop": {"name": "iterative-dpo", "rounds": 2},
        "guards": {"watched": 20},
    }
    for dotted, value in changes.items():
        *parents, leaf = dotted.split("__")
        here = content
        for parent in parents:
            here = here.setdefault(parent, {})
        here[leaf] = value
    return parse_recipe(content)


def contents(out: Path) -> dict[str, bytes]:
    """Every file's bytes but the logs, which hold times."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file())
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.name not in {"log.jsonl", ".lock"}}


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loop") / "run"
    torch.set_num_threads(1)
    run_loop(recipe(model, guards__enabled=False), out, baselines=True)
    return out


def test_each_round_starts_where_the_last_one_ended(done: Path) -> None:
    start, first, second = read_json(done / "rounds.json")["rounds"]
    assert first["lineage"]["start"] == start["lineage"]["policy"]
    assert second["lineage"]["start"] == second["lineage"]["reference"] == first["lineage"]["policy"]
    assert len({row["lineage"]["policy"] for row in (start, first, second)}) == 3
    for number, row in ((1, first), (2, second)):
        written = read_records(done / f"rounds/{number}/completions.parquet", Completion)
        assert {completion.policy for completion in written} == {row["lineage"]["start"]}
        assert {completion.round for completion in written} == {number}


def test_rounds_ask_fresh_prompts_and_none_of_the_test(done: Path) -> None:
    asked = [
        {prompt.id for prompt in read_records(done / f"rounds/{number}/prompts.parquet", Prompt)} for number in (1, 2)
    ]
    test = {prompt.id for prompt in read_records(done / "prompts.parquet", Prompt) if prompt.split == "test"}
    assert [len(ids) for ids in asked] == [10, 10]
    assert not asked[0] & asked[1]
    assert not (asked[0] | asked[1]) & test


def test_figures_of_a_judge_are_its_preferences_over_the_start(done: Path) -> None:
    found = read_json(done / "rounds.json")
    assert found["rounds"][0]["accuracy"]["estimate"] == 0.5
    for row in found["rounds"][1:]:
        assert row["accuracy"]["estimate"] - 0.5 == pytest.approx(row["gain_start"]["estimate"])
        assert row["training"]["kl"] >= -0.5  # an estimate from samples
        assert row["data"]["overlap"] == {"rounds": 0, "evaluation": 0}
    assert set(found["baselines"]) == {"sft_round_1", "sft_round_2", "one_long_run"}
    assert "toy" in (done / "report.html").read_text()
    assert read_json(done / "manifest.json")["best"] == found["best"]


def test_a_loop_that_lost_half_its_work_ends_with_the_same_bytes(done: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    shutil.copytree(done, out)
    for name in ("manifest.json", "rounds.json", "report.html", "baselines.json", "rounds/1/round.json"):
        (out / name).unlink()
    shutil.rmtree(out / "rounds" / "2")
    shutil.rmtree(out / "rounds" / "1" / "checkpoint")
    shutil.rmtree(out / "baselines")
    run_loop(recipe(model, guards__enabled=False), out, baselines=True, resume=True)
    assert contents(out) == contents(done)


def test_what_a_loop_hands_to_processes_is_what_it_would_have_trained_here(
    done: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process in their place reads what they would read: rounds and baselines have the same bytes."""
    words: list[Sequence[str]] = []

    def alone(launch: Launch, config: Path, given: Sequence[str], **_: object) -> None:
        words.append(given)
        assert prefloop(*given).returncode == 0

    monkeypatch.setattr(run_training, "start", alone)
    run_loop(recipe(model, guards__enabled=False), tmp_path / "run", baselines=True, launch=Launch(2))
    places = ["rounds/1", "rounds/2", "baselines/sft-1", "baselines/sft-2", "baselines/long"]
    assert words == [["--quiet", "train", "run", str(tmp_path / "run" / place)] for place in places]
    assert contents(tmp_path / "run") == contents(done)


@pytest.mark.soak
def test_two_processes_train_a_round_as_one_does(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_round = recipe(model, loop__rounds=1, guards__enabled=False, training__method="lora", threads=1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    for name, launch in (("one", None), ("two", Launch(2, cpu=True))):
        run_loop(one_round, tmp_path / name, launch=launch)
    rounds = [tmp_path / name / "rounds" / "1" for name in ("one", "two")]
    assert (rounds[0] / "preferences.parquet").read_bytes() == (rounds[1] / "preferences.parquet").read_bytes()
    ours, theirs = (read_json(place / "checkpoint" / "training.json")["history"] for place in rounds)
    assert [row["loss"] for row in theirs] == pytest.approx([row["loss"] for row in ours], rel=1e-5)
    figures = [read_json(tmp_path / name / "rounds.json")["rounds"][1]["training"] for name in ("one", "two")]
    assert figures[1]["final_loss"] == pytest.approx(figures[0]["final_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "place"), [("iterative-dpo", "/rounds/1"), ("rlhf-nba", "/rounds/1"), ("self-rewarding", "")]
)
def test_the_launch_of_a_loop_is_printed(tmp_path: Path, name: str, place: str) -> None:
    given = ["loop", name, "--out", "run", "--dry-run"]
    shown = prefloop(*given, "--processes", 4, "--machines", 2, "--strategy", "fsdp2", cwd=tmp_path)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("accelerate launch")]
    assert [line.split("--machine_rank ")[1][0] for line in lines] == ["0", "1"]
    assert all(line.endswith(f" -m prefloop train run run{place}") for line in lines)
    assert [path.name for path in tmp_path.iterdir()] == ["run-accelerate.yaml"]
    alone = prefloop(*given, cwd=tmp_path)
    assert (alone.returncode, "give --processes" in alone.stderr) == (2, True)


def test_a_round_that_is_held_leaves_the_head_where_it_was(model: Path, tmp_path: Path) -> None:
    limits = {"guards__regression": 0.0, "guards__length_growth": 1e-9, "training__learning_rate": 1e-2}
    found = run_loop(recipe(model, **limits), tmp_path / "run")
    held = [row for row in found["rounds"][1:] if not row["promoted"]]
    assert held, "a judge of length alone makes answers grow, or shrink by chance: no round was held"
    for row, after in zip(found["rounds"], found["rounds"][1:], strict=False):
        expected = row["lineage"]["policy"] if row["promoted"] else row["lineage"]["start"]
        assert after["lineage"]["start"] == expected
    assert found["rounds"][found["best"]]["promoted"]


def test_spin_pairs_the_tasks_answer_with_the_policys_own(model: Path, tmp_path: Path) -> None:
    options = {"loop__rejected": "own", "loop__earlier": 1.0, "training__method": "lora"}
    found = run_loop(recipe(model, **options, guards__enabled=False), tmp_path / "run")
    for number in (1, 2):
        root = tmp_path / "run" / "rounds" / str(number)
        answers = {c.id: c.text for c in read_records(root / "reference-answers.parquet", Completion)}
        prompts = {p.id: p for p in read_records(root / "prompts.parquet", Prompt)}
        for pair in read_records(root / "preferences.parquet", Preference):
            assert answers[pair.chosen] == prompts[pair.prompt_id].meta["reference"]
    steps = [row["training"]["steps"] for row in found["rounds"][1:]]
    assert steps[1] > steps[0]  # the first round's pairs are trained on again


def test_spin_leaves_out_what_the_policy_says_already() -> None:
    asked, other = questions(1)[:2]
    said = [
        Completion(name, prompt.id, 0, 0, text, (1,), (-1.0,), "stop", "p", {}, 1)
        for name, prompt, text in (("a", asked, "there are 0"), ("b", other, "no idea"))
    ]
    answers, built = own_against_reference([asked, other], said)
    assert [answer.text for answer in answers] == ["there are 1"]
    assert [(p.chosen, p.rejected) for p in built.preferences] == [(answers[0].id, "b")]
    assert built.drops == {"prompts": 2, "kept pairs": 1, "the policy's answer is the task's": 1}


def test_the_initial_reference_of_a_model_trained_whole(model: Path, tmp_path: Path) -> None:
    found = run_loop(recipe(model, training__reference="initial", guards__enabled=False), tmp_path / "run")
    start, _, second = found["rounds"]
    assert second["lineage"]["reference"] == start["lineage"]["policy"] != second["lineage"]["start"]


def test_a_loop_waits_for_people_and_says_how_to_ask_them(model: Path, tmp_path: Path) -> None:
    loop = {"name": "rlhf", "rounds": 1, "raters": {"who": "people"}}
    with pytest.raises(AwaitingJudgementsError, match=r"prefloop annotate .*rounds/1"):
        run_loop(recipe(model, loop=loop, evaluation__judge="test_loop:likes_length"), tmp_path / "run")


def test_simulated_raters_need_answers_that_can_be_executed(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"loop\.raters\.who=people"):
        run_loop(recipe(model, loop={"name": "rlhf", "rounds": 1}), tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "iterative-dpo"], "prefloop loop iterative-dpo"),
        (["loop", "nba-sql"], "prefloop run"),
        (["loop", "iterative-dpo", "--set", "guards.wached=3"], "did you mean 'watched'"),
        (["loop", "iterative-dpo", "--set", "guards.watched=900"], "guards.watched"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str, tmp_path: Path) -> None:
    found = prefloop(*words, "--out", tmp_path / "run")
    assert found.returncode not in (0, 70)
    assert said in " ".join(found.stderr.split())


SMALL = {
    "task.train_questions": 16,
    "task.test_questions": 24,
    "guards.watched": 20,
    "generation.k": 4,
    "evaluation.samples": 2,
    "evaluation.bootstrap": 200,
    "threads": 1,
    "loop.rounds": 1,
    "loop.held_out_prompts": 0.5,
    "loop.raters.overlap": 2,
    "loop.rl.iterations": 2,
    "loop.rl.prompts": 8,
    "loop.rl.k": 4,
    "loop.reward.epochs": 1,
}


def test_rlhf_goes_round_on_the_embedded_policy(tmp_path: Path) -> None:
    """Rankings through the annotation app's queue, reward model, policy gradient: all for real, at small size."""
    from prefloop.annotation.simulated_round import collect_simulated

    found = run_loop(load_recipe("rlhf-nba", SMALL), tmp_path / "run", collect=collect_simulated)
    (row,) = found["rounds"][1:]
    root = tmp_path / "run" / "rounds" / "1"
    assert row["judge"]["name"] == "simulated raters"
    assert row["reward_model"]["pairs"] > 0
    assert 0 <= row["reward_model"]["against_truth"]["estimate"] <= 1  # half of 16 questions are held out
    assert [point["iteration"] for point in row["curve"]][:1] == [0]
    assert json.loads((root / "checkpoint" / "training.json").read_text())["steps"] == row["training"]["steps"]
    assert (root / "people" / "judgements.parquet").exists()


def test_a_finished_loop_goes_on_with_more_seeds_and_baselines(model: Path, tmp_path: Path) -> None:
    asked = recipe(model, loop__rounds=1, guards__enabled=False)
    first = run_loop(asked, tmp_path / "run")
    assert (first["seeds"], first["baselines"]) == ([], {})
    more = run_loop(asked, tmp_path / "run", seeds=2, baselines=True, resume=True)
    assert more["rounds"] == first["rounds"]
    assert [row["seed"] for row in more["seeds"]] == [1, 2]
    for baseline in more["baselines"].values():
        assert baseline["lead"]["ci_low"] <= baseline["lead"]["estimate"] <= baseline["lead"]["ci_high"]
    manifest = (tmp_path / "run" / "manifest.json").read_bytes()
    assert run_loop(asked, tmp_path / "run", resume=True) == more  # nothing is taken away again
    assert (tmp_path / "run" / "manifest.json").read_bytes() == manifest


def test_people_are_asked_what_the_recipe_says(model: Path, tmp_path: Path) -> None:
    raters = {"who": "people", "overlap": 4, "ranked": 3}
    loop = {"name": "rlhf", "rounds": 1, "raters": raters}
    with pytest.raises(AwaitingJudgementsError):
        run_loop(recipe(model, loop=loop, evaluation__judge="test_loop:likes_length"), tmp_path / "run")
    settings = read_json(tmp_path / "run" / "rounds" / "1" / "annotation.json")
    assert settings_of(settings, alone=True) == AnnotationConfig(
        kind="ranking", overlap=4, selection=SelectionConfig(ranked=3)
    )

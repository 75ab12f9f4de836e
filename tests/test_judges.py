"""Judges as a recipe names them: sections and short forms, functions of one's own, ensembles, labels and execution."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefloop.config.judges import CustomConfig, EnsembleConfig, ExecutionConfig, LLMConfig, PairRMConfig
from prefloop.config.recipe import Recipe, load_recipe, parse_recipe
from prefloop.config.tasks import CustomTaskConfig, InstructionsConfig, NbaTaskConfig
from prefloop.errors import ConfigError, DataError, JudgeError
from prefloop.evaluation.labels import label_gap
from prefloop.judging.custom import CustomJudge
from prefloop.judging.groups import altered, judge_chunks, require_scored
from prefloop.judging.open import open_judge
from prefloop.loop.tasks import ask
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.journal import FileJournal


def prompt(number: int) -> Prompt:
    return Prompt.create(({"role": "user", "content": f"question {number}"},), "custom", "train")


def answer(asked: Prompt, index: int, text: str) -> Completion:
    return Completion(f"{asked.id}-{index}", asked.id, index, 0, text, (), (), "stop", "policy", {}, 1)


PROMPTS = [prompt(number) for number in range(3)]
ANSWERS = [answer(p, i, text) for p in PROMPTS for i, text in enumerate(("a", "bbb", "cc"))]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with judges and a task, in the working folder."""
    (tmp_path / "my_judges.py").write_text(
        """
from prefloop.records import Prompt

def shortest(prompt, answers, limit=0):
    return [-max(0, len(answer) - limit) for answer in answers]

def longest(prompt, answers):
    return [len(answer) for answer in answers]

def odd(prompt, answers):
    if prompt.messages[0]["content"].endswith("1"):
        raise RuntimeError("no idea")
    if prompt.messages[0]["content"].endswith("2"):
        return [1.0]
    return [1.0, None, float("nan")]

def silent(prompt, answers):
    return [None for _ in answers]

def task(seed, count=2):
    asked = [({"role": "user", "content": f"{seed} {i}"},) for i in range(count + 1)]
    return [Prompt.create(m, "mine", "test" if i == count else "train") for i, m in enumerate(asked)]

def rubbish(seed):
    return ["prompt"]

number = 3
"""
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_judges", raising=False)
    return tmp_path


# --- sections ---


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, ExecutionConfig),
        ({"name": "pairrm"}, PairRMConfig),
        ("pairrm", PairRMConfig),
        ("my.module:function", CustomConfig),
        ({"name": "llm", "mode": "pairwise"}, LLMConfig),
        ({"name": "ensemble", "members": ["pairrm", {"name": "llm"}]}, EnsembleConfig),
    ],
)
def test_a_judge_is_chosen_by_its_name(given: Any, kind: type) -> None:
    # nba-sql accepts any judge as the one who labels
    assert isinstance(parse_recipe({"judge": given}).judge, kind)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"judge": "pairm"},
            "judge: no judge is called 'pairm'; there are execution, pairrm, .*; or give module:function",
        ),
        ({"judge": {"name": "pairrm", "modl": "x"}}, "judge.modl: unknown key; did you mean 'model'"),
        ({"judge": {"name": "llm", "samples": 0}}, "judge.samples: input should be greater than or equal to 1, not 0"),
        (
            {"judge": {"name": "ensemble", "members": ["pairrm", {"name": "llm", "mod": 1}, "armorm"]}},
            "judge.members.1.mod: unknown key; did you mean 'mode'",
        ),
        ({"judge": {"corect": 1}}, "judge.corect: unknown key; did you mean 'correct'"),
        (
            {"task": {"name": "lima"}},
            "task: no task is called 'lima'; there are nba-sql, database, instructions, custom",
        ),
        ({"task": {"name": "instructions"}}, "judge.name: execution runs SQL, which task.name=instructions"),
        (
            {"task": "instructions", "judge": "pairrm", "evaluation": {"samples": 3}},
            "evaluation.samples: has no effect with task.name=instructions",
        ),
        ({"evaluation": {"judge": "pairrm"}}, "evaluation.judge: has no effect with task.name=nba-sql"),
        ({"trainin": {}}, "trainin: unknown key; did you mean 'training'"),
    ],
)
def test_what_is_wrong_with_a_section_is_named_where_it_stands(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(content)


def test_an_override_that_names_another_judge_drops_the_files_settings() -> None:
    assert load_recipe("nba-sql", {"judge.name": "pairrm", "judge.model": "folder"}).judge == PairRMConfig(
        model="folder"
    )
    assert load_recipe("nba-sql", {"judge": "pairrm", "judge.dtype": "float16"}).judge == PairRMConfig(dtype="float16")
    assert load_recipe("nba-sql", {"judge": "m:f"}).judge == CustomConfig(function="m:f")
    kept = load_recipe("nba-sql", {"judge.verbosity": 0}).judge
    assert isinstance(kept, ExecutionConfig)
    assert (kept.correct, kept.verbosity) == (1.0, 0.0)
    assert load_recipe("nba-sql", {"judge": "execution"}).judge == load_recipe("nba-sql").judge


# --- functions of one's own ---


def test_a_function_judges(mine: Path) -> None:
    with open_judge(CustomConfig(function="my_judges:shortest", options={"limit": 1})) as judge:
        found = judge.judge(PROMPTS, ANSWERS)
    assert [judgement.value for judgement in found] == [0, -2, -1] * 3
    assert [judgement.completion_ids for judgement in found] == [(a.id,) for a in ANSWERS]
    assert found[0].judge.startswith("my_judges:shortest@")


def test_two_versions_of_a_function_sign_differently(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = CustomJudge(CustomConfig(function="my_judges:shortest")).name
    assert CustomJudge(CustomConfig(function="my_judges:shortest")).name == first
    monkeypatch.setattr(sys.modules["my_judges"], "shortest", sys.modules["my_judges"].longest)
    assert CustomJudge(CustomConfig(function="my_judges:shortest")).name != first
    assert CustomJudge(CustomConfig(function="my_judges:longest", options={"limit": 1})).name != first


def test_what_a_function_cannot_judge_stays_unscored(mine: Path) -> None:
    found = CustomJudge(CustomConfig(function="my_judges:odd")).judge(PROMPTS, ANSWERS)
    assert [judgement.value for judgement in found] == [1.0] + [None] * 8
    why = [judgement.raw.get("error") for judgement in found]
    assert why[1] == why[2] == "not a finite number"
    assert why[3:6] == ["RuntimeError: no idea"] * 3
    assert why[6:] == ["ValueError: 1 scores for 3 answers"] * 3
    with pytest.raises(JudgeError, match="scored none of 9 answers; 9 times: not a finite number"):
        require_scored(CustomJudge(CustomConfig(function="my_judges:silent")).judge(PROMPTS, ANSWERS))
    require_scored(found)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("my_judges:missing", "my_judges has no function 'missing'"),
        ("no_such_module:f", "no_such_module:f cannot be imported: ModuleNotFoundError"),
        ("my_judges:number", "is a int, not a function"),
        ("unregistered", r"no entry point 'unregistered' in prefloop.judges"),
    ],
)
def test_a_function_that_cannot_be_found_is_named(mine: Path, function: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_judge(CustomConfig(function=function))


def test_a_task_of_ones_own(mine: Path) -> None:
    recipe = Recipe(
        task=CustomTaskConfig(function="my_judges:task", options={"count": 3}), judge=PairRMConfig(), seed=5
    )
    asked = ask(recipe)
    assert [p.messages[0]["content"] for p in asked.prompts] == ["5 0", "5 1", "5 2", "5 3"]
    assert asked.audit == {"train": {"accepted": 3}, "test": {"accepted": 1}}
    with pytest.raises(ConfigError, match="returned a str: it must return prefloop's Prompt records"):
        ask(Recipe(task=CustomTaskConfig(function="my_judges:rubbish"), judge=PairRMConfig()))
    with pytest.raises(DataError, match="gave 0 train and 1 test prompts"):
        ask(Recipe(task=CustomTaskConfig(function="my_judges:task", options={"count": 0}), judge=PairRMConfig()))


def test_tasks_are_chosen_by_name() -> None:
    assert isinstance(parse_recipe({"task": "instructions", "judge": "pairrm"}).task, InstructionsConfig)
    assert isinstance(parse_recipe({}).task, NbaTaskConfig)


# --- ensembles ---


def ensemble(*functions: str, weights: tuple[float, ...] = ()) -> EnsembleConfig:
    return EnsembleConfig(members=tuple(CustomConfig(function=f"my_judges:{f}") for f in functions), weights=weights)


def test_members_count_by_rank_and_weight(mine: Path) -> None:
    """Lengths 1, 3, 2: longest ranks them 0, 1, ½; shortest 1, 0, ½; weights 3 to 1."""
    with open_judge(ensemble("longest", "shortest", weights=(3.0, 1.0))) as judge:
        found = judge.judge(PROMPTS[:1], ANSWERS[:3])
    assert [judgement.value for judgement in found] == [0.25, 0.75, 0.5]
    (first, second) = sorted(found[1].objectives)
    assert first.startswith("my_judges:longest@")
    assert found[1].objectives == {first: 1.0, second: 0.0}
    assert found[1].raw["scores"] == {first: 3.0, second: -3.0}


def test_a_member_that_fails_does_not_count(mine: Path) -> None:
    with open_judge(ensemble("longest", "odd")) as judge:
        found = judge.judge(PROMPTS, ANSWERS)
    assert [judgement.value for judgement in found[3:6]] == [0.0, 1.0, 0.5]
    assert found[0].value == 0.0  # odd scored it alone of three: that says nothing of its rank


def test_weights_must_fit_the_members(mine: Path) -> None:
    with pytest.raises(ConfigError, match="3 for 2 members"):
        open_judge(ensemble("longest", "shortest", weights=(1.0, 1.0, 1.0)))
    with pytest.raises(ConfigError, match="not all 0"):
        open_judge(ensemble("longest", "shortest", weights=(0.0, 0.0)))


def test_an_ensemble_goes_on_where_it_was_interrupted(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ensemble("longest", "shortest")
    journal = FileJournal(tmp_path / "journal")
    whole = open_judge(config).judge(PROMPTS, ANSWERS, journal=journal)
    assert sorted(key[:2] for key in journal.entries()) == ["0/", "1/"]
    before = (tmp_path / "journal").read_bytes()
    assert open_judge(config).judge(PROMPTS, ANSWERS, journal=FileJournal(tmp_path / "journal")) == whole
    assert (tmp_path / "journal").read_bytes() == before

    def reversed_length(prompt: Prompt, answers: list[str]) -> list[float]:
        return [-len(answer) for answer in answers]

    monkeypatch.setattr(sys.modules["my_judges"], "longest", reversed_length)  # another function: nothing of it stands
    again = open_judge(config).judge(PROMPTS, ANSWERS, journal=FileJournal(tmp_path / "journal"))
    assert [judgement.value for judgement in again[:3]] == [1.0, 0.0, 0.5]


# --- chunks ---


def test_finished_chunks_are_not_judged_again(tmp_path: Path) -> None:
    calls: list[int] = []

    def judge_chunk(chunk: list[Any]) -> list[Judgement]:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(chunk))
        return [Judgement.create(p.id, (a.id,), "test", "score", float(a.index)) for p, group in chunk for a in group]

    def judge(journal: FileJournal | None) -> list[Judgement]:
        return judge_chunks("judge", judge_chunk, PROMPTS, ANSWERS, per_chunk=1, journal=journal, label="judge")

    journal = FileJournal(tmp_path / "journal")
    with pytest.raises(KeyboardInterrupt):
        judge(journal)
    calls.clear()
    found = judge(FileJournal(tmp_path / "journal"))
    assert calls == [1]
    assert [j.completion_ids[0] for j in found] == [a.id for a in ANSWERS]


# --- labels and execution ---


def verdicts(name: str, values: list[float | None], right: bool = False) -> list[Judgement]:
    return [
        Judgement.create(a.prompt_id, (a.id,), name, "score", v, {"correct": v} if right and v is not None else {})
        for a, v in zip(ANSWERS, values, strict=True)
    ]


def test_labels_against_execution() -> None:
    """Prompt 0: one right answer, ranked first (2 pairs won). Prompt 1: two right, one wrong, which ties with one
    right and beats the other (½ + 0 of 2). Prompt 2: none right."""
    execution = verdicts("execution", [1, 0, 0, 1, 1, 0, 0, 0, 0], right=True)
    labels = verdicts("judge", [0.9, 0.1, None, 0.5, 0.2, 0.5, 1, 2, 3])
    found = label_gap(labels, execution, {})
    assert found["n"] == 3  # the unscored answer takes part in no pair
    assert found["pairwise_accuracy"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["best_correct"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert found["best_possible"] == pytest.approx(2 / 3)
    assert found["unscored"] == 1
    assert math.isfinite(found["ci_low"])


def test_labels_that_say_nothing_of_execution() -> None:
    wrong = verdicts("execution", [0] * 9, right=True)
    assert label_gap(verdicts("judge", [1.0] * 9), wrong, {})["pairwise_accuracy"] is None


def test_the_documented_judge_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python and YAML of docs/judges.md, as they stand there."""
    page = (Path(__file__).parent.parent / "docs" / "judges.md").read_text()
    python, section = re.search(r"```python\n(.*?)```.*?```yaml\n(.*?)```", page, re.DOTALL).groups()
    assert len(python.strip().splitlines()) <= 10
    (tmp_path / "my_judges.py").write_text(python)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_judges", raising=False)
    config = parse_recipe(yaml.safe_load(section)).judge
    long = answer(PROMPTS[0], 9, "x" * 250)
    with open_judge(config) as judge:
        assert [j.value for j in judge.judge(PROMPTS[:1], [*ANSWERS[:1], long])] == [0, -50]
    (ensemble_section,) = re.findall(r"```yaml\n(judge:\n  name: ensemble.*?)```", page, re.DOTALL)
    assert isinstance(parse_recipe(yaml.safe_load(ensemble_section)).judge, EnsembleConfig)


def test_answers_that_a_judge_saw_changed_are_counted() -> None:
    raws = [
        {"cut": {"source": 9, "answer": 0}},
        {"cut": {"answer": 3}, "sanitised": {"answer": 1}},
        {"markers_replaced": 2},
        {},
    ]
    found = [Judgement.create(str(i), ("a",), "j", "score", 1.0, raw=raw) for i, raw in enumerate(raws)]
    assert altered(found) == {"answers cut": 1, "answers with markers taken out": 2}

"""The drop-ins of the NBA simulator, each in a copy of its folder elsewhere: contract, documents, runner, real figures.

The jobs themselves run once for each drop-in, by the drop-in's own tests under the simulator's pytest settings; the
quick starts, the plain test runs, and all test runs but one, which run every job again, are soak tests. Documents are executed here over a job
that costs nothing.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.config.recipe import load_recipe
from prefloop.loop.dropins_instructions import Row, _meaning, _objection, as_typed
from prefloop.loop.planted import planted_pairs
from prefloop.preferences.instructions import read_instructions
from prefloop.sql.extract import extract_sql

ROOT = Path(__file__).parents[1] / "integrations" / "nba_simulator"
NAMES = {
    "rec_047": ("CreateAndFinetuneWithPreferenceDatasets", "ImplementCreateAndFinetuneWithPreferenceDatasets"),
    "rec_176": (
        "FinetuneGenerativeModelsWithHumanPreferences",
        "ImplementFinetuneGenerativeModelsWithHumanPreferences",
    ),
    "rec_035": (
        "CreateAnInstructionDatasetForNbaAnalysis",
        "ImplementCreateAnInstructionDatasetForNbaAnalysis",
    ),
    "rec_036": (
        "ImplementFullFinetuningLoraAndQloraTechniques",
        "ImplementImplementFullFinetuningLoraAndQloraTechniques",
    ),
    "rec_046": ("LeverageLlmasajudgeForEvaluatingNbaContent", "ImplementLeverageLlmasajudgeForEvaluatingNbaContent"),
}
FOLDERS = {rec: next(ROOT.glob(f"*/implement_{rec}.py")).parent for rec in NAMES}
DOCUMENTS = ("README.md", "STATUS.md", "IMPLEMENTATION_GUIDE.md", "RECOMMENDATIONS_FROM_BOOKS.md")
EVERY = pytest.mark.parametrize("rec", sorted(NAMES))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def copied(rec: str, to: Path) -> Path:
    """A copy of a drop-in's folder, outside the checkout."""
    return Path(shutil.copytree(FOLDERS[rec], to / FOLDERS[rec].name, ignore=shutil.ignore_patterns("__pycache__")))


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], types.ModuleType]:
    """Imports a drop-in by its plain name from a copy of its folder, as the simulator's tests do."""

    def load(rec: str) -> types.ModuleType:
        monkeypatch.syspath_prepend(str(copied(rec, tmp_path)))
        name = f"implement_{rec}"
        specification = importlib.util.find_spec(name)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        monkeypatch.setitem(sys.modules, name, module)
        specification.loader.exec_module(module)
        return module

    return load


class FreeJob:
    """Stands for a job: every step writes a file and gives the figures that the module's summary reads."""

    FIGURES = {  # noqa: RUF012
        "generate_preferences": {"pairs": 3},
        "apply_to_sql": {"execution_accuracy": {"before": 0.5, "after": 0.75, "n": 60}},
        "reiterate": {
            "rounds": [{"round": n, "accuracy": {"estimate": share}} for n, share in ((0, 0.5), (1, 0.75), (2, 0.6))],
            "best": 1,
        },
        "deduplicated_set": {"pairs": 3, "by_source": {"manual": 3}},
        "compare": {"questions": 60, "before": [0.5, 0.4, 0.6], "full": {"accuracy": [0.75, 0.7, 0.8]}},
        "parse": {"read": 4, "of": 4},
        "evaluate": {"agreement": [0.75, 0.5, 0.9], "always_the_more_frequent": 0.5},
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, step: str) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            path = self.folder / f"{step}.txt"
            path.write_text(step)
            return {"figures": self.FIGURES.get(step, {"figure": 0.5}), "artifacts": [str(path)]}

        return run


@pytest.fixture
def free(loaded: Callable[[str], types.ModuleType], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A drop-in's module whose job costs nothing."""

    def load(rec: str) -> types.ModuleType:
        module = loaded(rec)
        monkeypatch.setattr(module, "_job", lambda folder, recipe: FreeJob(folder))
        return module

    return load


# The real job


PYTEST_INI = (
    "[pytest]\ntestpaths = tests\naddopts = --strict-markers --maxfail=5{coverage}\nmarkers =\n    slow: slow\n"
)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree like the simulator's: its pytest settings at the top, the drop-ins under docs/phases."""
    root = tmp_path_factory.mktemp("simulator")
    with_coverage = importlib.util.find_spec("pytest_cov") is not None
    coverage = " --cov=scripts --cov=notebooks" if with_coverage else ""
    (root / "pytest.ini").write_text(PYTEST_INI.format(coverage=coverage))
    for rec in NAMES:
        copied(rec, root / "docs" / "phases" / "phase_5")
    return root


def in_copy(simulator: Path, rec: str, *command: str) -> subprocess.CompletedProcess[str]:
    folder = simulator / "docs" / "phases" / "phase_5" / FOLDERS[rec].name
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "rec", [rec if rec == "rec_035" else pytest.param(rec, marks=pytest.mark.soak) for rec in sorted(NAMES)]
)
def test_its_own_tests_pass_in_a_copy_under_the_simulators_settings(simulator: Path, rec: str) -> None:
    done = in_copy(simulator, rec, "-m", "pytest", f"test_{rec}.py", "-v")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 passed" in done.stdout


@pytest.mark.soak
@EVERY
def test_its_own_tests_pass_without_pytest(simulator: Path, rec: str) -> None:
    done = in_copy(simulator, rec, f"test_{rec}.py", "-v")
    assert done.returncode == 0, done.stderr
    assert "Ran 6 tests" in done.stderr


@pytest.mark.soak
@EVERY
def test_the_quick_start_prints_real_figures(simulator: Path, rec: str) -> None:
    first = BLOCK.findall((FOLDERS[rec] / "README.md").read_text())[0]
    figures = "\nimport json\nprint('FIGURES' + json.dumps(results))\nassert impl.validate()\n"
    done = in_copy(simulator, rec, "-c", first + figures)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.split("FIGURES")[1])
    assert results["success"] is True
    assert _most_questions(results["metrics"]) >= 50


def _most_questions(figures: Any) -> int:
    if isinstance(figures, list):
        return max(map(_most_questions, figures), default=0)
    if not isinstance(figures, dict):
        return 0
    own = [figures[key] for key in ("questions", "n") if isinstance(figures.get(key), int)]
    return max([*own, *map(_most_questions, figures.values())], default=0)


# The contract


@EVERY
def test_both_spellings_are_one_class(loaded: Callable[[str], Any], rec: str) -> None:
    module = loaded(rec)
    first, second = (getattr(module, name) for name in NAMES[rec])
    assert first is second
    assert first.__name__ == NAMES[rec][0]


@EVERY
def test_results_have_every_key_of_the_contract(free: Callable[[str], Any], rec: str) -> None:
    module = free(rec)
    one = getattr(module, NAMES[rec][0])()
    assert (one.config, one.initialized) == ({}, False)
    one.cleanup()
    with pytest.raises(RuntimeError, match=r"^Must call setup\(\) before execute\(\)$"):
        one.execute()
    assert not one.validate()
    assert one.setup()["success"] is True
    assert one.initialized
    results = one.execute()
    assert set(results) == {
        *("success", "message", "execution_time", "timestamp", "steps_completed", "artifacts", "metrics")
    }
    assert results["success"] is True, results
    assert results["steps_completed"] == list(module.STEPS) == list(results["metrics"])
    assert "Offline default" in results["message"]
    assert one.validate()
    one.cleanup()
    assert not one.initialized
    assert not one.validate(), "the files went with the temporary folder"
    one.cleanup()


@EVERY
def test_each_step_is_a_call_of_its_own(free: Callable[[str], Any], tmp_path: Path, rec: str) -> None:
    module = free(rec)
    one = getattr(module, NAMES[rec][0])({"folder": str(tmp_path / "kept")})
    one.setup()
    for step in module.STEPS:
        assert set(getattr(one, step)()) == {"figures", "artifacts"}
    one.cleanup()
    assert (tmp_path / "kept" / f"{step}.txt").is_file()


@EVERY
def test_production_without_a_recipe_says_that_the_offline_default_ran(free: Callable[[str], Any], rec: str) -> None:
    module = free(rec)
    one = getattr(module, NAMES[rec][1])(config={"enabled": True, "mode": "production"})
    one.setup()
    results = one.execute()
    assert results["success"] is True
    assert "Offline default (mode 'production' names no recipe)" in results["message"]
    one.cleanup()


def test_production_with_a_recipe_hands_it_to_the_job(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded("rec_047")
    asked: list[Any] = []

    def job(folder: Path, recipe: str | None) -> FreeJob:
        asked.append(recipe)
        return FreeJob(folder)

    monkeypatch.setattr(module, "_job", job)
    one = module.CreateAndFinetuneWithPreferenceDatasets({"mode": "production", "recipe": "nba-sql"})
    one.setup()
    assert "Production, recipe nba-sql." in one.execute()["message"]
    assert asked == ["nba-sql"]
    one.cleanup()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"recipes": "nba-sql"}, "no key 'recipes'"),
        ({"mode": "fast"}, "'offline' or 'production'"),
        ({"recipe": "nba-sql"}, "in mode 'production' alone"),
        ({"enabled": False}, "switched off"),
        ({"folder": "/proc/nowhere"}, "config['folder'] cannot be used"),
    ],
)
def test_a_wrong_configuration_is_no_success(loaded: Callable[[str], Any], config: dict[str, Any], words: str) -> None:
    one = loaded("rec_035").CreateAnInstructionDatasetForNbaAnalysis(config)
    for result in (one.setup(), one.execute()):
        assert result["success"] is False
        assert words in result["message"]
        assert result["error"] == result["message"]
    assert not one.validate()


def test_a_step_that_fails_is_named_and_the_figures_before_it_stay(
    free: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = free("rec_036")

    def broken(self: FreeJob) -> dict[str, Any]:
        raise ValueError("no room")

    monkeypatch.setattr(FreeJob, "qlora", broken, raising=False)
    one = module.ImplementFullFinetuningLoraAndQloraTechniques()
    one.setup()
    results = one.execute()
    assert (results["success"], results["error"]) == (False, "qlora failed: no room")
    assert list(results["metrics"]) == ["full", "lora"]
    assert not one.validate()
    one.cleanup()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_figure_that_is_not_finite_does_not_validate(
    free: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    module = free("rec_035")
    monkeypatch.setitem(FreeJob.FIGURES, "manual_pairs", {"a": [{"b": value}]})
    one = module.CreateAnInstructionDatasetForNbaAnalysis()
    one.setup()
    assert one.execute()["success"] is True
    assert not one.validate()
    one.cleanup()


def test_main_says_what_was_done_and_exits_by_it(
    free: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = free("rec_046")
    assert module.main() == 0
    assert "4 of 4 verdicts read; 75.0% agree" in capsys.readouterr().out
    monkeypatch.setattr(module, "_missing", lambda: "prefloop is not installed")
    assert module.main() == 1
    assert "prefloop is not installed" in capsys.readouterr().out


# Old Pythons, and Pythons without prefloop


@EVERY
@pytest.mark.parametrize("kind", ["implement", "test"])
def test_it_parses_on_python_3_9(rec: str, kind: str) -> None:
    ast.parse((FOLDERS[rec] / f"{kind}_{rec}.py").read_text(), feature_version=(3, 9))


@EVERY
def test_an_old_python_is_told_what_to_install(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, rec: str
) -> None:
    module = loaded(rec)
    old = types.SimpleNamespace(version_info=(3, 9, 18, "final", 0), executable=sys.executable)
    monkeypatch.setattr(module, "sys", old)
    one = getattr(module, NAMES[rec][0])()
    for result in (one.setup(), one.execute()):
        assert result["success"] is False
        assert "needs Python 3.11 or newer, this is 3.9" in result["message"]
        assert "pip install" in result["message"]


@EVERY
def test_without_prefloop_it_says_how_to_install_it(tmp_path: Path, rec: str) -> None:
    folder = copied(rec, tmp_path)
    code = (
        f"from implement_{rec} import {NAMES[rec][1]} as One\n"
        "one = One()\nfirst, second = one.setup(), one.execute()\n"
        "print(first['success'], second['success'], second['message'])"
    )
    bare = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"]
    done = subprocess.run(bare, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("False False prefloop is not installed for ")
    assert "pip install" in done.stdout


def test_the_five_modules_differ_only_where_their_jobs_do() -> None:
    """They cannot share a module, since each folder stands alone: what they repeat must stay one text."""

    def shared(rec: str) -> dict[str, str]:
        text = (FOLDERS[rec] / f"implement_{rec}.py").read_text()
        text = text.replace(NAMES[rec][1], "ALIAS").replace(NAMES[rec][0], "CLASS")
        one = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
        functions = {
            node.name: node for node in (*ast.parse(text).body, *one.body) if isinstance(node, ast.FunctionDef)
        }
        names = ("__init__", "setup", "_objection", "_prepare", "_mode", "_run", "execute", "_steps", "validate")
        return {name: ast.unparse(functions[name]) for name in (*names, "cleanup", "_missing", "_finite", "main")}

    texts = [shared(rec) for rec in NAMES]
    assert all(text == texts[0] for text in texts)


# Documents


@EVERY
def test_the_blocks_of_its_documents_run(
    free: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rec: str
) -> None:
    free(rec)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {"__name__": "document"}
    for name in ("README.md", "IMPLEMENTATION_GUIDE.md"):
        blocks = BLOCK.findall((FOLDERS[rec] / name).read_text())
        assert blocks
        for block in blocks:
            exec(compile(block, name, "exec"), space)
    assert space["results"]["success"] is True
    import unittest

    case = next(value for key, value in space.items() if key.startswith("TestRec"))
    outcome = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(outcome)
    assert outcome.testsRun == 2
    assert outcome.wasSuccessful(), outcome.errors + outcome.failures


@EVERY
def test_its_documents_are_filled_and_their_links_lead_somewhere(rec: str) -> None:
    for name in DOCUMENTS:
        text = (FOLDERS[rec] / name).read_text()
        assert "TODO" not in text
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert link == "../PHASE_5_INDEX.md" or (FOLDERS[rec] / link).is_file(), f"{name}: {link}"
    guide = (FOLDERS[rec] / "IMPLEMENTATION_GUIDE.md").read_text()
    source = (FOLDERS[rec] / f"implement_{rec}.py").read_text()
    steps = re.findall(r"^    def (\w+)\(self\) -> dict\[str, Any\]:\n        \"\"\"Step", source, re.MULTILINE)
    assert re.findall(r"^- Call `(\w+)\(\)`", guide, re.MULTILINE) == steps
    assert guide.count("**Expected Outcome:**") == len(steps) >= 4


@EVERY
def test_the_runner_can_read_its_status(rec: str) -> None:
    """The runner asks a question where the completed mark stands, sets it where the planned one does, and takes every
    rec_NNN within five lines of "Prerequisites:" as one to be done before."""
    text = (FOLDERS[rec] / "STATUS.md").read_text()
    assert not re.search(r"✅.*COMPLETE", text)
    assert len(re.findall(r"🔵.*PLANNED", text)) == 1
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if "Prerequisites:" in line)
    named = re.findall(r"rec_[0-9]{3}", "\n".join(lines[at : at + 6]))
    assert set(named) <= set(NAMES) - {rec}
    assert named == {"rec_047": ["rec_035", "rec_036"], "rec_036": ["rec_035"], "rec_046": ["rec_035"]}.get(rec, [])


def test_the_recipe_beside_the_judge_is_one() -> None:
    assert load_recipe(FOLDERS["rec_046"] / "judge-nba.yaml").judge.name == "llm"


# What the jobs are made of


def test_planted_pairs_set_a_right_query_against_another() -> None:
    prompts, completions, pairs = planted_pairs(40, 3)
    assert len(prompts) == len(pairs) == 40
    assert len(completions) == 80
    for pair in pairs:
        right, wrong = (extract_sql(completions[answer].text) for answer in (pair.chosen, pair.rejected))
        assert right
        assert wrong
        assert right != wrong
        assert {completions[pair.chosen].prompt_id, completions[pair.rejected].prompt_id} == {pair.prompt_id}
    again = planted_pairs(40, 3)[2]
    assert [pair.id for pair in again] == [pair.id for pair in pairs]
    assert [pair.id for pair in planted_pairs(40, 4)[2]] != [pair.id for pair in pairs]


@pytest.mark.parametrize(
    ("question", "typed"),
    [
        ("What is the league's average pace?", "what league's average pace"),
        ("How many games did the Celtics win?", "how many games Celtics win"),
        ("Ada Isle points per game.", "Ada Isle points per game"),
        ("", ""),
    ],
)
def test_questions_as_people_type_them(question: str, typed: str) -> None:
    assert as_typed(question) == typed


GOOD = "Plan: games.\n```sql\nSELECT 1\n```"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (Row("how many games", GOOD, "manual"), ""),
        (Row("games", GOOD, "manual"), "question too short or too long"),
        (Row("x " * 41, GOOD, "manual"), "question too short or too long"),
        (Row("how many games", "SELECT 1", "manual"), "not in the answer format"),
        (Row("how many games", "Plan: something.", "manual"), "not in the answer format"),
        (Row("how old is he", "Plan: cannot be answered: no data on birth dates.", "manual"), ""),
        (Row("how many teams", GOOD.replace("1", "2"), "manual"), "query fails or finds nothing"),
        (Row("Who won?! The cup", GOOD, "manual"), "test question"),
    ],
)
def test_rules_that_remove_a_pair(row: Row, reason: str) -> None:
    assert _objection(row, {"who won the cup"}, {"SELECT 2"}) == reason


def test_queries_that_mean_the_same_count_as_one() -> None:
    one = Row("a b", "Plan: x.\n```sql\nSELECT a FROM t WHERE b = 1 AND c = 2\n```", "manual")
    two = Row("c d", "Plan: y.\n```sql\nselect A from T where C = 2 and B = 1\n```", "manual")
    refusal = Row("e f", "Plan: cannot be answered.", "manual")
    assert _meaning(one) == _meaning(two) != _meaning(refusal)


def test_instructions_are_written_as_training_reads_them(tmp_path: Path) -> None:
    from prefloop.loop.dropins_instructions import InstructionSet

    found = InstructionSet(tmp_path).dataset_format()
    assert found["figures"]["read_back"] == 1
    messages, answer = read_instructions(Path(found["artifacts"][0])).examples[0]
    assert answer.startswith("Plan:")
    assert messages[0]["role"] == "user"

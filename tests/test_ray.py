"""Answers and judgements by Ray's workers: those of one process, whoever is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import test_vllm
from command_line import prefloop
from ray_tasks import Doubles
from test_kill import SMALL, contents

from prefloop.config.engine import EngineSection
from prefloop.config.judges import CustomConfig, EnsembleConfig, ExecutionConfig, JudgeConfig, LLMConfig, PeopleConfig
from prefloop.config.recipe import Recipe, load_recipe, parse_recipe
from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.generation import vllm
from prefloop.generation.generate import generate_completions
from prefloop.generation.ray import TRIES, Workers, workers
from prefloop.generation.ray_policies import RayEngine, RayPolicy
from prefloop.judging.open import open_judge
from prefloop.loop.judge_stage import judge_file
from prefloop.models.load import load_policy
from prefloop.models.source import PolicySource
from prefloop.records import Completion, Prompt
from prefloop.store.journal import FileJournal, work_through

ray = pytest.importorskip("ray")

ONE, TWO = (EngineSection(name="ray", workers=count) for count in (1, 2))
SAMPLING = Sampling(k=2, max_new_tokens=48)
PROMPTS = [
    Prompt.create(({"role": "user", "content": f"How many games did the Bulls win in {year}?"},), "toy", "train")
    for year in range(1990, 2006)
]
ROWS = 4
"""Two prompts in a chunk, eight chunks."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One local Ray for all tests here, whose workers find this folder's modules and a stand-in of vLLM."""
    path, stand_in = os.environ.get("PYTHONPATH"), tmp_path_factory.mktemp("stand-in")
    (stand_in / "vllm.py").write_text("from test_vllm import Engine as LLM, Params as SamplingParams\n")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [path, str(Path(__file__).parent), str(stand_in)]))
    ray.init(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False, log_to_driver=False)
    os.environ["PYTHONPATH"] = path or ""
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def alone() -> list[Completion]:
    """What one process writes."""
    return generate_completions(load_policy("embedded"), PROMPTS, SAMPLING, seed=3, rows=ROWS)


def on_ray(journal: FileJournal) -> list[Completion]:
    policy = RayPolicy(PolicySource("embedded"), TWO, threads=1)
    return generate_completions(policy, PROMPTS, SAMPLING, seed=3, rows=ROWS, journal=journal)


def keys(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


class Killing(FileJournal):
    """Kills a worker at its work when the first chunk is kept."""

    killed: psutil.Process | None = None

    def append(self, key: str, value: Any) -> None:
        super().append(key, value)
        if self.killed is None:
            below = psutil.Process().children(recursive=True)
            self.killed = next(process for process in below if "ray::MapWorker" in " ".join(process.cmdline()))
            self.killed.kill()


class Dying(FileJournal):
    """Kills its own process when the first chunk is kept."""

    def append(self, key: str, value: Any) -> None:
        super().append(key, value)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_loses_nothing_and_two_write_what_one_process_writes(
    cluster: Any, alone: list[Completion], tmp_path: Path
) -> None:
    local = FileJournal(tmp_path / "local")
    generate_completions(load_policy("embedded"), PROMPTS, SAMPLING, seed=3, rows=ROWS, journal=local)
    journal = Killing(tmp_path / "journal")
    assert on_ray(journal) == alone
    assert journal.killed is not None
    journal.killed.wait(60)
    assert len(keys(journal.path)) == 8
    assert journal.entries() == local.entries()  # a run goes on here or there alike


DRIVER = """
from pathlib import Path
from test_ray import Dying, on_ray
on_ray(Dying(Path({path!r})))
"""


@pytest.mark.soak
def test_a_killed_driver_resumes_where_it_was(cluster: Any, alone: list[Completion], tmp_path: Path) -> None:
    path = tmp_path / "journal"
    environment = {**os.environ, "RAY_ADDRESS": cluster.get_runtime_context().gcs_address}
    command = [sys.executable, "-c", DRIVER.format(path=str(path))]
    driver = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, check=False)
    assert driver.returncode == -signal.SIGKILL, driver.stderr.decode()
    assert len(FileJournal(path).entries()) == 1
    assert on_ray(FileJournal(path)) == alone
    assert len(keys(path)) == len(set(keys(path))) == 8


def test_vllm_in_workers_has_the_ids_and_order_of_one_process(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=test_vllm.Engine, SamplingParams=test_vllm.Params))
    monkeypatch.setattr(vllm, "ANSWERS_PER_CHUNK", 4)
    here, there = FileJournal(tmp_path / "here"), FileJournal(tmp_path / "there")
    one = vllm.load_engine("embedded", "float32")
    two = RayEngine(PolicySource("embedded", dtype="float32"), ONE)
    sampling = Sampling(k=2)
    alone = vllm.generate_with_engine(one, PROMPTS[:6], sampling, seed=3, journal=here)
    assert vllm.generate_with_engine(two, PROMPTS[:6], sampling, seed=3, journal=there) == alone
    assert there.entries() == here.entries()
    assert len(here.entries()) == 3


OWN_JUDGE = """
def shortest(prompt, answers):
    return [-len(answer) for answer in answers]
"""


def test_judges_of_workers_judge_as_in_one_process(
    cluster: Any, leagues: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_judge.py").write_text(OWN_JUDGE)
    monkeypatch.chdir(tmp_path)  # where the user's own functions are looked for, by every worker
    prompts = [
        Prompt.create(p.messages, task, "train", {"gold_sql": sql})
        for task, sql in (("toy", "SELECT 3"), ("other", "SELECT 4"))
        for p in PROMPTS
    ]
    texts = ["```sql\nSELECT 3\n```", "```sql\nSELECT 4\n```", "none \ud800"]
    answers = [
        Completion(f"{p.id}-{i}", p.id, i, 0, text, (), (), "stop", "policy", {}, 1)
        for i, text in enumerate(texts)  # by answer, not by prompt: the execution judge keeps this order
        for p in prompts
    ]
    execution = ExecutionConfig()
    both = EnsembleConfig(members=(execution, CustomConfig(function="own_judge:shortest")))
    with open_judge(execution) as one, open_judge(execution, engine=TWO, threads=1) as two:
        assert two.judge(prompts, answers) == one.judge(prompts, answers)
    there, here = FileJournal(tmp_path / "there"), FileJournal(tmp_path / "here")
    with open_judge(both) as one, open_judge(both, engine=ONE, threads=1) as other:
        assert other.judge(prompts, answers, journal=there) == one.judge(prompts, answers, journal=here)
    assert there.entries() == here.entries()
    assert len({judgement.value for judgement in one.judge(prompts, answers, journal=here)}) > 1


def test_a_language_model_judges_in_workers(cluster: Any, alone: list[Completion]) -> None:
    config = LLMConfig(max_new_tokens=8)
    with open_judge(config) as one, open_judge(config, engine=ONE, threads=1) as two:
        assert two.judge(PROMPTS[:2], alone[:4]) == one.judge(PROMPTS[:2], alone[:4])


def test_what_goes_wrong_in_a_worker_is_said_as_if_it_went_wrong_here(cluster: Any) -> None:
    one = Workers(1, 1, 0.0)
    chunks = {f"k{n}": n for n in range(6)}
    with pytest.raises(DataError, match=r"^4 is refused, on cpu with 1 threads$"):
        dict(one.each(Doubles(refused=4), chunks))
    with pytest.raises(ModelError, match=r"a worker failed: ZeroDivisionError: nothing to see"):
        dict(one.each(Doubles(broken=0), chunks))


def test_a_chunk_that_kills_every_worker_ends_the_run(cluster: Any, tmp_path: Path) -> None:
    done = FileJournal(tmp_path / "journal")
    work = partial(Workers(1, 1, 0.0).each, Doubles(deadly=2))
    with pytest.raises(ModelError, match=f"{TRIES} workers died over the same chunk.*--resume and fewer"):
        dict(work_through({"a": 1, "b": 2}, work, done, label="double", unit="numbers", size=int))
    assert done.entries() == {"a": 2}


def test_what_the_cluster_has_not_got_is_said_at_once(cluster: Any) -> None:
    with pytest.raises(ConfigError, match=r"each worker needs 1 GPU and the whole Ray cluster has 0.*engine.gpus=0"):
        workers(EngineSection(name="ray", gpus=1))
    with pytest.raises(ConfigError, match=r"each worker needs 8 CPU and the whole Ray cluster has 2"):
        workers(TWO, threads=8)
    assert workers(EngineSection(name="ray")) == Workers(1, 2, 0.0)  # one per machine, with all its cores
    assert workers(EngineSection(name="ray", workers=5)) == Workers(2, 1, 0.0)  # as many as there is room for


def test_without_ray_the_way_to_install_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'prefloop\[ray\]'"):
        workers(TWO)


def test_the_engine_is_one_option_and_no_part_of_what_comes_out() -> None:
    ray_recipe = load_recipe("nba-sql", {"engine": "ray"})
    assert ray_recipe.engine == EngineSection(name="ray")
    assert ray_recipe.hash == load_recipe("nba-sql").hash
    assert load_recipe("nba-sql", {"engine": "ray", "engine.workers": 4}).engine.workers == 4
    assert load_recipe("nba-sql", {"engine.name": "ray", "engine.gpus": 0.5}).engine.gpus == 0.5
    with pytest.raises(ConfigError, match=r"engine.workers: has no effect with engine.name=local"):
        load_recipe("nba-sql", {"engine.workers": 4})
    with pytest.raises(ConfigError, match=r"engine.gpus: workers without a GPU cannot hold the policy"):
        parse_recipe({"engine": {"name": "ray", "gpus": 0}, "policy": {"device": "cuda"}})
    assert Recipe(engine="ray").engine.name == "ray"


def test_stages_over_files_have_the_bytes_of_one_process(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text("".join(f'{{"prompt": "how many games did {n} win"}}\n' for n in range(6)))
    spread = ["--set", "engine.workers=1", "--set", "engine=ray"]
    for name, engine in (("local", []), ("ray", spread)):
        out, verdicts = (tmp_path / f"{name}-{what}.parquet" for what in ("completions", "judgements"))
        one = [*engine, "--set", "threads=1", "--device", "cpu", "--k", 2, "--max-new-tokens", 16]
        done = prefloop("generate", tmp_path / "asked.jsonl", "--out", out, *one)
        assert done.returncode == 0, done.stderr
        given = ["--judge", "own_judge:shortest", "--out", verdicts, *engine]
        (tmp_path / "own_judge.py").write_text(OWN_JUDGE)
        done = prefloop("judge", tmp_path / "asked.jsonl", out, *given, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    for what in ("completions", "judgements"):
        assert (tmp_path / f"ray-{what}.parquet").read_bytes() == (tmp_path / f"local-{what}.parquet").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "engine.workers=2"], "engine.workers: has no effect with engine.name=local"),
        (["--set", "judge.model=x"], "judge.model has no effect here: this command reads engine and threads"),
        (["--endpoint", "http://localhost:1/v1", "--set", "engine=ray"], "have no effect with --endpoint"),
    ],
)
def test_what_a_stage_cannot_be_told_of_its_engine(tmp_path: Path, words: list[str], message: str) -> None:
    done = prefloop("generate", tmp_path / "asked.jsonl", "--out", tmp_path / "c.parquet", *words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("judge", "who"),
    [
        (LLMConfig(endpoint="http://localhost:1/v1", model="x"), "an endpoint"),
        (EnsembleConfig(members=(LLMConfig(endpoint="http://localhost:1/v1", model="x"),) * 2), "an endpoint"),
        (PeopleConfig(), "people"),
    ],
)
@pytest.mark.parametrize("options", [{"engine": ONE}, {"threads": 2}])
def test_a_judge_that_is_only_asked_runs_by_no_engine(
    tmp_path: Path, judge: JudgeConfig, who: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"^engine and threads have no effect with a judge that is {who}: "):
        judge_file(tmp_path / "p.jsonl", tmp_path / "c.parquet", tmp_path / "j.parquet", judge, **options)


def test_a_stage_is_refused_a_gpu_of_workers_without_one_as_a_recipe_is() -> None:
    with pytest.raises(ConfigError, match=r"engine.gpus=0: workers without a GPU cannot hold a model on device cuda"):
        workers(EngineSection(name="ray", gpus=0), device="cuda")


@pytest.mark.soak
def test_a_whole_run_has_the_bytes_of_one_process(cluster: Any, tmp_path: Path) -> None:
    for engine in ("local", "ray"):
        done = prefloop("run", "nba-sql", "--out", tmp_path / engine, *SMALL, "--set", f"engine={engine}")
        assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")


LINGERING = """
import atexit, os, signal, sys, threading, types
from prefloop.cli import app
sys.modules["ray"] = types.SimpleNamespace(is_initialized=lambda: True, shutdown=lambda: print("Ray has ended"))
atexit.register(threading.Event().wait)  # as what Ray leaves behind does, for half a minute
app.app = lambda: os.kill(os.getpid(), signal.SIGINT)
app.main()
"""


def test_an_interrupted_command_does_not_wait_for_what_ray_leaves_behind() -> None:
    command = [sys.executable, "-c", LINGERING, "generate"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (130, "Ray has ended\n"), done.stderr
    assert "interrupted; finished work is kept, go on with --resume" in done.stderr

"""Benchmarks through lm-evaluation-harness: its scores against a plain forward pass, the rule for a drop, refusals."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from peft import LoraConfig, get_peft_model
from test_training import build_model_folder
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from prefloop.cli.benchmark import benchmark
from prefloop.errors import ConfigError, DataError, ModelError, PrefloopError, StoreError
from prefloop.evaluation import harness
from prefloop.evaluation.benchmark_tasks import open_benchmarks, own_tasks
from prefloop.evaluation.harness import Asking, TaskScores, run_task
from prefloop.evaluation.regression import RULE, compared_benchmarks
from prefloop.loop.regression import BenchmarkConfig, benchmark_models
from prefloop.models.load import Policy, load_policy
from prefloop.store.journal import FileJournal

CHOICES = [" who", " most points", " in the final", " rebounds"]
CONTEXTS = ["who scored", "how many rebounds", "in the final did", "most points and", "they get the", "and who did the"]
GOLD = [0, 1, 0, 3, 2, 1]
"""Two of six right answers are the first choice."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with random weights, and one that finds every token equally likely."""
    root = tmp_path_factory.mktemp("models")
    chance = build_model_folder(root / "chance")
    model = AutoModelForCausalLM.from_pretrained(chance)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(root / "uniform")
    for file in chance.glob("token*"):
        (root / "uniform" / file.name).write_bytes(file.read_bytes())
    if (chance / "chat_template.jinja").exists():
        (root / "uniform" / "chat_template.jinja").write_bytes((chance / "chat_template.jinja").read_bytes())
    return {"chance": chance, "uniform": root / "uniform"}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PREFLOOP_CACHE", str(tmp_path_factory.getbasetemp() / "prefloop-cache"))


@pytest.fixture(scope="module")
def shipped() -> Any:
    """Some of the tasks that the harness ships: all of them take seconds to index."""
    from lm_eval import tasks

    root = Path(tasks.__file__).parent
    folders = [root / name for name in ("arc", "gsm8k", "hellaswag", "humaneval", "mbpp", "mmlu", "score")]
    return tasks.TaskManager(include_defaults=False, include_path=folders)


@pytest.fixture
def indexed(shipped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda include_defaults: shipped)


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{text}}",
        "doc_to_target": "gold",
        "target_delimiter": "",
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def choice_task(folder: Path, name: str = "choose", gold: list[int] | None = None, **settings: Any) -> Path:
    rows = [{"text": text, "gold": answer} for text, answer in zip(CONTEXTS, gold or GOLD, strict=True)]
    settings = {"output_type": "multiple_choice", "doc_to_choice": CHOICES, **settings}
    return write_task(folder, name, rows, **settings)


def writing_task(folder: Path, golds: list[str], name: str = "write", **settings: Any) -> Path:
    rows = [{"text": text, "gold": gold} for text, gold in zip(CONTEXTS, golds, strict=True)]
    generation = {"until": ["\n\n"], "max_gen_toks": 4, "do_sample": False}
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    settings = {"generation_kwargs": generation, "metric_list": [metric], **settings}
    return write_task(folder, name, rows, output_type="generate_until", **settings)


def scored(policy: Policy, folder: Path, name: str, tmp_path: Path, **asking: Any) -> TaskScores:
    task = open_benchmarks([name], folder).load(name)[name]
    return run_task(policy, task, Asking(**asking), FileJournal(tmp_path / "journal" / f"{id(policy)}.jsonl"))


def plain_log_probability(policy: Policy, text: str, continuation: str) -> float:
    """Σ log p of the continuation's tokens, one unpadded forward pass."""
    whole = policy.tokenizer.encode(text + continuation)
    start = len(policy.tokenizer.encode(text))
    with torch.no_grad():
        logits = policy.model(torch.tensor([whole])).logits[0].double()
    steps = torch.log_softmax(logits, dim=-1)
    return float(sum(steps[place - 1, whole[place]] for place in range(start, len(whole))))


def plain_greedy(policy: Policy, text: str, tokens: int) -> str:
    """Greedy decoding by the definition: the likeliest next token, over and over, no cache."""
    ids = policy.tokenizer.encode(text)
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            ids.append(int(policy.model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == policy.tokenizer.eos_token_id:
            break
    return str(policy.tokenizer.decode(ids[start:], skip_special_tokens=True))


# --- scores ---


@pytest.mark.parametrize("batch_size", [1, 5])
def test_choices_are_scored_as_a_plain_forward_pass_scores_them(
    folders: dict[str, Path], tmp_path: Path, batch_size: int
) -> None:
    policy = load_policy(folders["chance"], device="cpu")
    choice_task(tmp_path / "tasks")
    found = scored(policy, tmp_path / "tasks", "choose", tmp_path, batch_size=batch_size)
    for context, answers, gold, right in zip(CONTEXTS, found.answers, GOLD, found.scores["acc"], strict=True):
        expected = [plain_log_probability(policy, context, choice) for choice in CHOICES]
        assert [value for value, _ in answers] == pytest.approx(expected, abs=1e-4)
        assert right == float(max(range(4), key=expected.__getitem__) == gold)
    assert found.totals["acc"] == pytest.approx(sum(found.scores["acc"]) / 6)


def test_a_model_without_a_preference_takes_the_shortest_choice(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(folders["uniform"], device="cpu")
    choice_task(tmp_path / "tasks")
    found = scored(policy, tmp_path / "tasks", "choose", tmp_path)
    lengths = [
        len(policy.tokenizer.encode(CONTEXTS[0] + choice)) - len(policy.tokenizer.encode(CONTEXTS[0]))
        for choice in CHOICES
    ]
    vocabulary = policy.model.config.vocab_size
    assert [value for value, _ in found.answers[0]] == pytest.approx([-n * math.log(vocabulary) for n in lengths])
    assert min(lengths) == lengths[0], "the first choice is a shortest one"
    # Σ log p = −tokens · log V is greatest for the first choice, which is right for documents 1 and 3.
    assert found.scores["acc"] == (1, 0, 1, 0, 0, 0)
    assert found.totals["acc"] == pytest.approx(2 / 6)


def test_texts_that_are_generated_match_exactly_or_not(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(folders["chance"], device="cpu")
    greedy = [plain_greedy(policy, text, 4) for text in CONTEXTS]
    golds = [text if number < 4 else "no such text" for number, text in enumerate(greedy)]
    writing_task(tmp_path / "tasks", golds)
    found = scored(policy, tmp_path / "tasks", "write", tmp_path, batch_size=1)
    assert [answer[0] for answer in found.answers] == greedy
    assert found.scores["exact_match"] == (1, 1, 1, 1, 0, 0)


def test_the_chat_template_is_put_around_a_document(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(folders["chance"], device="cpu")
    choice_task(tmp_path / "tasks", doc_to_choice=["who", "most"], gold=[0, 1, 0, 1, 0, 1])
    found = scored(policy, tmp_path / "tasks", "choose", tmp_path, chat_template=True)
    message = [{"role": "user", "content": CONTEXTS[0]}]
    asked = policy.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    expected = [plain_log_probability(policy, asked, choice) for choice in ("who", "most")]
    assert [value for value, _ in found.answers[0]] == pytest.approx(expected, abs=1e-4)


def test_perplexity_has_a_total_but_no_figure_by_document(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = load_policy(folders["uniform"], device="cpu")
    rows = [{"text": text} for text in CONTEXTS]
    settings = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    write_task(tmp_path / "tasks", "perplexed", rows, metric_list=[{"metric": "word_perplexity"}], **settings)
    found = scored(policy, tmp_path / "tasks", "perplexed", tmp_path)
    tokens = sum(len(policy.tokenizer.encode(text)) for text in CONTEXTS)
    words = sum(len(text.split()) for text in CONTEXTS)
    # exp(−Σ log p / words), every token having probability 1 / V
    assert found.totals["word_perplexity"] == pytest.approx(
        policy.model.config.vocab_size ** (tokens / words), rel=1e-4
    )
    assert found.scores == {}
    assert capfd.readouterr() == ("", "")


def test_what_does_not_fit_the_context_is_counted(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(folders["chance"], device="cpu")
    rows = [{"text": "who " * 200, "gold": 0}, {"text": "who", "gold": 0}]
    settings = {"output_type": "multiple_choice", "doc_to_choice": CHOICES[:2]}
    write_task(tmp_path / "tasks", "long", rows, **settings)
    assert scored(policy, tmp_path / "tasks", "long", tmp_path).truncated == 2  # both choices of the first document


def test_damaged_weights_and_impossible_documents_are_no_scores(folders: dict[str, Path], tmp_path: Path) -> None:
    policy = load_policy(folders["chance"], device="cpu")
    choice_task(tmp_path / "tasks", "outside", gold=[0, 1, 0, 7, 2, 1])
    with pytest.raises(DataError, match="outside has a document whose right answer is not among its choices"):
        scored(policy, tmp_path / "tasks", "outside", tmp_path)
    writing_task(tmp_path / "tasks", ["x"] * 6, "endless", generation_kwargs={"max_gen_toks": 500, "until": ["."]})
    with pytest.raises(DataError, match=r"endless cannot be asked: .*max tokens to generate"):
        scored(policy, tmp_path / "tasks", "endless", tmp_path)
    with torch.no_grad():
        policy.model.lm_head.weight.fill_(math.nan)
    choice_task(tmp_path / "tasks")
    with pytest.raises(ModelError, match="probabilities that are no numbers"):
        scored(policy, tmp_path / "tasks", "choose", tmp_path)


def test_nothing_is_printed_and_settings_come_back(
    folders: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import lm_eval.utils

    environment, logger = lm_eval.utils.env, logging.getLogger("lm_eval")
    before = list(logger.handlers), logger.level, logger.propagate
    choice_task(tmp_path / "tasks")
    scored(load_policy(folders["chance"], device="cpu"), tmp_path / "tasks", "choose", tmp_path)
    assert capfd.readouterr() == ("", "")
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    assert lm_eval.utils.env is environment


# --- before against after ---


def config(tmp_path: Path, *names: str, **asking: Any) -> BenchmarkConfig:
    return BenchmarkConfig(names, tmp_path / "tasks", Asking(**asking), device="cpu")


@pytest.fixture
def two_tasks(folders: dict[str, Path], tmp_path: Path) -> BenchmarkConfig:
    choice_task(tmp_path / "tasks")
    writing_task(tmp_path / "tasks", [plain_greedy(load_policy(folders["chance"], device="cpu"), CONTEXTS[0], 4)] * 6)
    return config(tmp_path, "choose", "write", batch_size=2)


def test_two_models_are_compared_document_by_document(
    folders: dict[str, Path], tmp_path: Path, two_tasks: BenchmarkConfig
) -> None:
    found = benchmark_models(str(folders["uniform"]), str(folders["chance"]), tmp_path / "out", two_tasks)
    policy = load_policy(folders["chance"], device="cpu")
    old = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    new = [
        float(max(range(4), key=[plain_log_probability(policy, text, c) for c in CHOICES].__getitem__) == gold)
        for text, gold in zip(CONTEXTS, GOLD, strict=True)
    ]
    figure = found["benchmarks"]["choose"]["figures"]["acc"]
    assert figure["before"] == pytest.approx(2 / 6)
    assert figure["change"] == pytest.approx((sum(new) - sum(old)) / 6)
    assert figure["fixed"] == sum(b > a for a, b in zip(old, new, strict=True))
    assert figure["broken"] == sum(b < a for a, b in zip(old, new, strict=True))
    assert figure["low"] <= figure["change"] <= figure["high"]
    assert found["drops"] == []  # six documents show nothing: the least p there is, is 2 / 2⁶ = 0.03, Holm doubles it
    assert "documents do not rule out a drop" in figure["warning"]


class _Stopped(Exception):
    pass


def test_a_benchmark_that_was_stopped_goes_on_and_ends_with_the_same_bytes(
    folders: dict[str, Path], tmp_path: Path, two_tasks: BenchmarkConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "BATCHES_A_CHUNK", 1)
    sides = str(folders["chance"]), str(folders["uniform"])
    asked, real = [], harness._Journalled._answers

    def counted(self: Any, kind: str, chunk: list[Any]) -> Any:
        asked.append(kind)
        if len(asked) == limit:
            raise KeyboardInterrupt
        return real(self, kind, chunk)

    monkeypatch.setattr(harness._Journalled, "_answers", counted)
    limit = -1
    benchmark_models(*sides, tmp_path / "whole", two_tasks)
    whole = len(asked)
    assert whole == 2 * (24 // 2 + 6 // 2)  # both sides: 24 choices and 6 texts, two at a time
    asked.clear()
    limit = 14
    with pytest.raises(KeyboardInterrupt):
        benchmark_models(*sides, tmp_path / "stopped", two_tasks)
    limit = -1
    with pytest.raises(StoreError, match="--resume"):
        benchmark_models(*sides, tmp_path / "stopped", two_tasks)
    benchmark_models(*sides, tmp_path / "stopped", two_tasks, resume=True)
    assert len(asked) == whole + 1  # only the chunk that was interrupted is asked again
    for name in ("benchmark.json", "before/choose.json", "after/write.json", "manifest.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "stopped" / "work").exists()

    def never(*args: Any) -> None:
        raise AssertionError("no model is needed any more")

    monkeypatch.setattr("prefloop.models.load.load_policy", never)
    again = benchmark_models(*sides, tmp_path / "whole", two_tasks, resume=True)
    assert again == json.loads((tmp_path / "whole" / "benchmark.json").read_text())


def test_an_adapter_is_put_on_the_model_after(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(3)
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(folders["chance"]),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    model.save_pretrained(tmp_path / "adapter")
    choice_task(tmp_path / "tasks")
    base, settings = str(folders["chance"]), config(tmp_path, "choose")
    benchmark_models(base, base, tmp_path / "out", settings, adapter=tmp_path / "adapter")
    rows = {side: json.loads((tmp_path / "out" / side / "choose.json").read_text())[0] for side in ("before", "after")}
    policy = load_policy(base, tmp_path / "adapter", device="cpu")
    expected = [plain_log_probability(policy, CONTEXTS[0], choice) for choice in CHOICES]
    assert [value for value, _ in rows["after"]["answers"][0]] == pytest.approx(expected, abs=1e-4)
    assert rows["before"]["answers"] != rows["after"]["answers"]
    with pytest.raises(StoreError, match="differs in after"):
        benchmark_models(base, base, tmp_path / "out", settings, resume=True)
    with pytest.raises(ModelError, match="no adapter folder"):
        benchmark_models(base, base, tmp_path / "new", settings, adapter=tmp_path / "nothing")


def test_other_data_of_the_same_name_are_another_benchmark(folders: dict[str, Path], tmp_path: Path) -> None:
    choice_task(tmp_path / "tasks")
    base, settings = str(folders["uniform"]), config(tmp_path, "choose", limit=2)
    benchmark_models(base, base, tmp_path / "out", settings)
    choice_task(tmp_path / "tasks", gold=[1, 1, 1, 1, 1, 1])
    with pytest.raises(StoreError, match="differs in tasks"):
        benchmark_models(base, base, tmp_path / "out", settings, resume=True)


# --- the rule ---


def made(*values: float, task: str = "t", **changes: Any) -> TaskScores:
    documents = tuple(str(number) for number in range(len(values)))
    found = TaskScores(task, documents, (), {"acc": values}, {"acc": sum(values) / len(values)}, {"acc": True}, 0)
    return replace(found, **changes)


def figure_of(before: TaskScores, after: TaskScores) -> dict[str, Any]:
    figure: dict[str, Any] = compared_benchmarks({"t": [before]}, {"t": [after]})["benchmarks"]["t"]["figures"]["acc"]
    return figure


def test_a_drop_needs_an_interval_below_zero_and_mcnemar() -> None:
    whole, broken = made(*[1] * 40), made(*[0] * 12, *[1] * 28)
    found = compared_benchmarks({"t": [whole]}, {"t": [broken]})
    figure = found["benchmarks"]["t"]["figures"]["acc"]
    assert (figure["fixed"], figure["broken"], figure["change"]) == (0, 12, -0.3)
    assert figure["p"] == figure["p_holm"] == pytest.approx(2 / 2**12)
    assert figure["high"] < 0
    assert found["drops"] == ["t: acc"]
    back = figure_of(broken, whole)
    assert (back["drop"], back["gain"]) == (False, True)
    # five broken, none fixed: 2 / 2⁵ = 0.0625, though the interval lies below zero
    few = figure_of(whole, made(*[0] * 5, *[1] * 35))
    assert few["high"] < 0
    assert not few["drop"]


def test_less_is_better_where_a_metric_says_so() -> None:
    errors = {"higher_is_better": {"acc": False}}
    figure = figure_of(made(*[0] * 40, **errors), made(*[1] * 12, *[0] * 28, **errors))
    assert figure["drop"]


def test_many_figures_make_a_drop_harder_to_find() -> None:
    before, after = made(*[1] * 40), made(*[0] * 7, *[1] * 33)  # 2 / 2⁷ = 0.0156
    assert figure_of(before, after)["drop"]
    four = compared_benchmarks({n: [before] for n in "abcd"}, {"a": [after], **{n: [before] for n in "bcd"}})
    assert four["benchmarks"]["a"]["figures"]["acc"]["p_holm"] == pytest.approx(4 * 2 / 2**7)
    assert four["drops"] == []


def test_graded_scores_are_tested_by_their_standard_error() -> None:
    # changes −0.1 and −0.3, twenty each: mean −0.2, SE = 0.1 / √40, z = −12.6
    before, after = made(*[0.5] * 40), made(*[0.4] * 20, *[0.2] * 20)
    figure = figure_of(before, after)
    assert figure["p"] == pytest.approx(math.erfc(0.2 / (0.1 / math.sqrt(40)) / math.sqrt(2)))
    assert figure["drop"]
    assert "fixed" not in figure


def test_documents_of_the_same_content_are_one() -> None:
    same = {"documents": ("one",) * 40}
    figure = figure_of(made(*[1] * 40, **same), made(*[0] * 40, **same))
    assert figure["n"] == 1
    assert figure["low"] is None
    assert not figure["drop"]
    assert "one document" in figure["warning"]


def test_a_small_set_that_did_not_change_does_not_rule_a_drop_out() -> None:
    ten = made(*[1] * 10)
    figure = figure_of(ten, ten)
    # nothing changed in 10: up to q = 1 − 0.025^(1/10) = 31% of all documents may
    assert -figure["low"] == pytest.approx(1 - 0.025**0.1)
    assert figure["warning"].startswith("10 documents do not rule out a drop of 30.8 points; ")
    many = made(*[1] * 400)
    assert figure_of(many, many)["warning"] == ""


def test_a_group_counts_every_document_once_and_sides_must_match() -> None:
    small, large = made(1, 1, task="s"), replace(made(*[0] * 8, task="l"), documents=tuple("abcdefgh"))
    found = compared_benchmarks({"g": [small, large]}, {"g": [small, large]})["benchmarks"]["g"]
    assert found["figures"]["acc"]["before"] == 0.2  # 2 of 10, not the mean of 1 and 0
    assert (found["tasks"], found["documents"]) == (["s", "l"], 10)
    with pytest.raises(DataError, match="not asked the same documents of g"):
        compared_benchmarks({"g": [small]}, {"g": [replace(small, documents=("0", "2"))]})


def test_figures_that_are_no_means_are_shown_without_an_interval() -> None:
    one = made(1, 0, totals={"acc": 0.5, "bleu": 12.0})
    found = compared_benchmarks({"t": [one]}, {"t": [replace(one, totals={"acc": 0.5, "bleu": 9.0})]})
    assert found["benchmarks"]["t"]["without_interval"] == {"t: bleu": {"before": 12.0, "after": 9.0}}


# --- what is refused ---

UNSAFE = [
    ({"class": "Task"}, "'class' names code"),
    ({"unsafe_code": True}, "'unsafe_code' names code"),
    ({"use_prompt": "prompts.yaml:x"}, "'use_prompt' names code"),
    ({"metric_list": [{"metric": "code_eval"}]}, "'code_eval' would be fetched from the Hub as code"),
    ({"metric_list": [{"metric": "acc", "hf_evaluate": True}]}, "fetched from the Hub as code"),
    ({"dataset_kwargs": {"data_files": "https://example.org/x.json"}}, "needs the network: download it"),
    ({"dataset_kwargs": {"trust_remote_code": True}}, "trust_remote_code"),
    ({"dataset_kwargs": {"data_files": {"test": "nothing.jsonl"}}}, "nothing.jsonl does not exist"),
    ({"dataset_kwargs": {}}, "give the files of each split"),
    ({"dataset_path": "pandas"}, "dataset_path must be one of arrow, csv"),
    ({"task": "../../escape"}, "must be a name of letters"),
    ({"group": "mine"}, "groups of own tasks are not read"),
    ({"include": "t.yaml"}, "includes itself"),
]


@pytest.mark.parametrize(("settings", "message"), UNSAFE, ids=[message for _, message in UNSAFE])
def test_own_tasks_that_name_code_or_data_elsewhere_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    choice_task(tmp_path, "t", **settings)
    with pytest.raises((ConfigError, DataError), match=message.replace("(", r"\(")) as caught:
        open_benchmarks(["t"], tmp_path)
    assert "\n" not in str(caught.value)


def test_python_beside_an_own_task_is_never_imported(tmp_path: Path) -> None:
    path = choice_task(tmp_path, "t")
    (tmp_path / "tools.py").write_text("raise AssertionError('imported')\n")
    path.write_text(path.read_text() + "process_docs: !function tools.prepare\n")
    with pytest.raises(ConfigError, match="names Python"):
        open_benchmarks(["t"], tmp_path)


def test_templates_cannot_reach_python(tmp_path: Path) -> None:
    hostile = "{{ cycler.__init__.__globals__.os.mkdir('" + str(tmp_path / "made") + "') }}"
    choice_task(tmp_path / "tasks", "t", doc_to_text=hostile)
    with pytest.raises(DataError, match="the task t cannot be read"):
        open_benchmarks(["t"], tmp_path / "tasks").load("t")
    assert not (tmp_path / "made").exists()


def test_parts_are_included_and_files_that_are_no_tasks_are_named(tmp_path: Path) -> None:
    choice_task(tmp_path, "t")
    (tmp_path / "part.yaml").write_text("output_type: multiple_choice\ntarget_delimiter: ' '\n")
    (tmp_path / "u.yaml").write_text(
        "include: part.yaml\ntask: u\ntarget_delimiter: ''\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: t.jsonl}}\n"
    )
    found = own_tasks(tmp_path)
    assert sorted(found) == ["t", "u"]
    assert (found["u"]["output_type"], found["u"]["target_delimiter"]) == ("multiple_choice", "")
    assert found["u"]["dataset_kwargs"]["data_files"] == {"test": [str(tmp_path / "t.jsonl")]}
    (tmp_path / "v.yaml").write_text("task: t\n")
    with pytest.raises(DataError, match="another task t"):
        own_tasks(tmp_path)
    (tmp_path / "v.yaml").write_text("- 1\n")
    with pytest.raises(DataError, match=r"v.yaml is not a task"):
        own_tasks(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        own_tasks(tmp_path / "nowhere")


def test_broken_data_are_named(tmp_path: Path) -> None:
    choice_task(tmp_path, "t")
    (tmp_path / "t.jsonl").write_text('{"text": "a", "gold"')
    with pytest.raises(DataError, match="the task t cannot be read"):
        open_benchmarks(["t"], tmp_path).load("t")


@pytest.mark.usefixtures("indexed")
def test_shipped_tasks_are_found_refused_or_named(tmp_path: Path) -> None:
    choice_task(tmp_path, "colours")
    with pytest.raises(ConfigError, match=r"no task arc_eazy .*did you mean arc_easy"):
        open_benchmarks(["arc_eazy"])
    with pytest.raises(ConfigError, match=r"no task colors .*colours"):
        open_benchmarks(["colors"], tmp_path)
    for name in ("humaneval", "mbpp"):
        with pytest.raises(ConfigError, match=f"{name} runs code that the model wrote"):
            open_benchmarks([name])
    with pytest.raises(ConfigError, match=r"math_grader.py evaluates text as Python"):
        open_benchmarks(["non_greedy_robustness_math_algebra"])
    with pytest.raises(ConfigError, match="once"):
        open_benchmarks(["arc_easy", "arc_easy"])
    assert open_benchmarks(["mmlu", "gsm8k", "hellaswag", "colours"], tmp_path).names[0] == "mmlu"
    with pytest.raises(DataError, match="the data of the task arc_easy cannot be had"):
        open_benchmarks(["arc_easy"]).load("arc_easy")


def test_without_the_extra_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ModelError, match=r"pip install 'prefloop\[harness\]'") as caught:
        open_benchmarks(["arc_easy"])
    assert isinstance(caught.value, PrefloopError)


# --- the command ---


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(benchmark)
    return app


def test_the_command_prints_figures_and_drops(folders: dict[str, Path], tmp_path: Path, command: typer.Typer) -> None:
    choice_task(tmp_path / "tasks")
    base = str(folders["uniform"])
    given = [base, base, "--task", "choose", "--task-folder", str(tmp_path / "tasks"), "--device", "cpu"]
    found = CliRunner().invoke(command, [*given, "--out", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    row = next(line for line in found.output.splitlines() if line.startswith("choose") and " acc " in line)
    assert row.split()[2:5] == ["33.33", "33.33", "+0.00"]
    assert "Significant drops: none" in found.output
    found = CliRunner().invoke(command, [*given, "--out", str(tmp_path / "out"), "--resume", "--json"])
    assert json.loads(found.output)["rule"] == RULE


def test_the_command_starts_without_torch() -> None:
    code = "import sys, prefloop.cli.benchmark; sys.exit(bool({'torch', 'lm_eval', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_tasks_of_the_documentation_can_be_run(folders: dict[str, Path], tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for block in page.split("```yaml\n")[1:]:
        config = yaml.safe_load(block.split("```")[0])
        (tmp_path / f"{config['task']}.yaml").write_text(block.split("```")[0])
    (tmp_path / "words.jsonl").write_text('{"question": "who", "choices": ["one", "two"], "answer": 1}\n')
    (tmp_path / "capitals.jsonl").write_text('{"country": "France", "capital": "Paris"}\n')
    policy = load_policy(folders["chance"], device="cpu")
    assert set(scored(policy, tmp_path, "words", tmp_path).scores["acc"]) <= {0.0, 1.0}
    assert scored(policy, tmp_path, "capitals", tmp_path).scores["exact_match"] == (0.0,)

"""One policy fine-tuned all ways on one instruction set: quality, memory, time and parameters side by side."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.config.recipe import training_section
from prefloop.config.sampling import Sampling
from prefloop.config.tasks import NbaTaskConfig
from prefloop.config.training import SftTrainingConfig, Tuning
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.evaluation.tables import correct
from prefloop.generation.generate import generate_completions
from prefloop.judging.execution import ExecutionJudge
from prefloop.maths.statistics import SHARE, clustered_mean_interval
from prefloop.models.export import export_model
from prefloop.models.load import Policy, base_lineage, load_policy
from prefloop.preferences.instructions import read_instructions
from prefloop.progress import note
from prefloop.records import content_id
from prefloop.store.files import claim, file_hash, read_json, write_json
from prefloop.tasks.nba.task import judge_databases, test_prompts

METHODS = ("lora", "qlora", "full")
HELD_OUT = 0.1

Share = tuple[float, float, float]
"""A share with its 95 % interval."""


@dataclass(frozen=True)
class Row:
    """What one way of training cost and gave."""

    method: str
    trainable_parameters: int
    peak_memory_gb: float
    seconds: float
    megabytes: float
    """Size of the checkpoint on disk."""
    held_out_loss: float
    """Nats per token of held-out answers, with the weights kept."""
    accuracy: Share | None
    """Unseen questions answered right; None if none were asked."""


def compare_methods(
    data: Path,
    out: Path,
    settings: Mapping[str, Any],
    *,
    model: str = "embedded",
    methods: Sequence[str] = METHODS,
    questions: int = 0,
    seed: int = 1,
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Train by each method and write ``comparison.json`` beside the checkpoints in `out`.

    Args:
        settings: of the training, such as ``{"training.epochs": 1}``, the same for all methods.
        questions: how many unseen NBA questions each tuned policy answers greedily; judged by running their SQL.
        resume: keep the methods that are finished, and go on with the others.

    Raises:
        DataError: fewer than two examples.
        ModelError: a training failed; its own words are shown.
    """
    settings = {"training.held_out": HELD_OUT, **settings}
    if "training.method" in settings or not settings["training.held_out"]:
        raise ConfigError(
            "a comparison trains by every method and holds examples out: no training.method, no held_out=0"
        )
    examples = len(read_instructions(Path(data)).examples)  # to name what is wrong before the first training
    if examples < 2:
        raise DataError(f"{data} has {examples} example: a comparison holds some out, so it needs two at least")
    out = Path(out)
    identity = content_id(file_hash(Path(data)), settings, base_lineage(model).id, seed)
    claim(out, identity, resume)
    rows = []
    for method in methods:
        note(f"method {method}")
        folder = out / method
        summary = _trained(data, folder, _read_by(method, settings), model, seed, device, resume)
        accuracy = _accuracy(_tuned(model, method, folder, device), questions) if questions else None
        rows.append(_row(method, summary, folder, accuracy))
    before = _accuracy(load_policy(model, device=device), questions) if questions else None
    found = {"before": before, "methods": [asdict(row) for row in rows], "questions": questions}
    write_json(out / "comparison.json", found)
    return found


def _read_by(method: str, settings: Mapping[str, Any]) -> list[str]:
    """The method, and the settings that it reads: the adapter's mean nothing where all weights are trained."""
    idle = {f"training.{option}" for option in Tuning.idle.get(("method", method), ())}
    kept = {key: value for key, value in settings.items() if key not in idle}
    training_section(SftTrainingConfig, kept)
    return [f"training.method={method}", *(f"{key}={json.dumps(value)}" for key, value in kept.items())]


def _trained(
    data: Path, folder: Path, settings: Sequence[str], model: str, seed: int, device: str, resume: bool
) -> dict[str, Any]:
    """What a training says of itself; in a process of its own, so that its peak of memory is its own."""
    summary = folder.with_name(f"{folder.name}.json")
    if not (resume and summary.is_file()):
        command = [sys.executable, "-m", "prefloop", "train", "sft", data, "--out", folder, "--model", model, "--json"]
        command += [part for setting in settings for part in ("--set", setting)]
        command += ["--seed", seed, "--device", device, *(["--resume"] if resume else [])]
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise ModelError(f"training {folder.name} failed, see above; go on with --resume once it is mended")
        write_json(summary, json.loads(done.stdout))
    return dict(read_json(summary))


def _row(method: str, summary: dict[str, Any], folder: Path, accuracy: Share | None) -> Row:
    return Row(
        method,
        summary["trainable_parameters"],
        summary["peak_memory_gb"],
        summary["seconds"],
        sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6,
        summary["kept"]["held_out/loss"],
        accuracy,
    )


def _tuned(model: str, method: str, folder: Path, device: str) -> Policy:
    """The weights as they were trained: from QLoRA with the base that 4 bits leave."""
    if method == "full":
        return load_policy(folder, device=device)
    if method == "lora":
        return load_policy(model, folder, device=device)
    merged = folder.with_name(f"{folder.name}-merged")
    if not merged.exists():
        export_model(model, folder, merged, device=device)
    return load_policy(merged, device=device)


def _accuracy(policy: Policy, questions: int) -> Share:
    judge_config = ExecutionConfig()
    prompts = test_prompts(NbaTaskConfig(test_questions=questions), judge_databases(), judge_config.workers).prompts
    answers = generate_completions(policy, prompts, Sampling(k=1, greedy=True), seed=1)
    with ExecutionJudge(judge_databases(), judge_config) as judge:
        right = [float(correct(judgement) is True) for judgement in judge.judge(prompts, answers)]
    found = clustered_mean_interval(right, [prompt.meta["template"] for prompt in prompts], bounds=SHARE)
    return found.estimate, found.low, found.high


def comparison_text(found: dict[str, Any]) -> str:
    """The table for the terminal."""
    heads = ["method", "trained", "peak GB", "seconds", "checkpoint MB", "held-out loss"]
    heads += ["questions right"] if found["questions"] else []
    lines = [heads]
    for row in found["methods"]:
        cells = [row["method"], f"{row['trainable_parameters']:,}", f"{row['peak_memory_gb']:.2f}"]
        cells += [f"{row['seconds']:.0f}", f"{row['megabytes']:.1f}", f"{row['held_out_loss']:.4f}"]
        lines.append([*cells, *([_share(row["accuracy"])] if found["questions"] else [])])
    if found["questions"]:
        lines.insert(1, ["before", *[""] * 5, _share(found["before"])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def _share(share: Sequence[float]) -> str:
    value, low, high = share
    return f"{value:.1%} [{low:.0%}, {high:.0%}]"

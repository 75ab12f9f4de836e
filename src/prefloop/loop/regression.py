"""`prefloop benchmark`: what training cost elsewhere, by standard tasks before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, ModelError
from prefloop.evaluation.benchmark_tasks import Benchmarks, open_benchmarks
from prefloop.evaluation.harness import Asking, TaskScores, as_row, run_task
from prefloop.evaluation.regression import compared_benchmarks
from prefloop.loop.software import versions
from prefloop.store.run_folder import RunFolder


@dataclass(frozen=True)
class BenchmarkConfig:
    """Which tasks are put to both models, and how."""

    tasks: Sequence[str]
    """Names of the harness' tasks, groups or tags, or of own tasks."""
    task_folder: Path | None = None
    asking: Asking = field(default_factory=Asking)
    dtype: str = "float32"
    device: str = "auto"


def benchmark_models(
    before: str,
    after: str,
    out: Path,
    config: BenchmarkConfig,
    *,
    adapter: Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Put the same documents to two models; scores of each and ``benchmark.json`` go to the folder `out`.

    Args:
        before, after: ``embedded``, a model folder or a hub id.
        adapter: LoRA adapter on top of the model after.

    Returns:
        ``benchmarks`` by name (documents, tasks, figures with before, after, change, interval, p, power), the names
        of the figures with a significant ``drops``, and the ``rule`` they were found by.

    Raises:
        ConfigError: an unknown task, or one that is refused.
        DataError: a task's data cannot be had, or a task cannot be asked.
        ModelError: the harness is not installed, or a model cannot be loaded.
    """
    benchmarks = open_benchmarks(config.tasks, config.task_folder)
    sides = {"before": (before, None), "after": (after, Path(adapter) if adapter else None)}
    weights = {side: _weights(model, on_top, config.dtype) for side, (model, on_top) in sides.items()}
    asked = {"tasks": list(config.tasks), "asking": asdict(config.asking)}
    identity = {
        "recipe": {**asked, "dtype": config.dtype, "device": config.device},
        "tasks": benchmarks.identity,
        **weights,
    }
    with RunFolder.open(Path(out), identity, resume) as folder:
        # After first: its adapter is what may not fit, and is found out before the other side's work.
        after_rows, before_rows = (
            _side(folder, side, *sides[side], benchmarks, config) for side in ("after", "before")
        )
        figures: dict[str, Any] = folder.document(
            "benchmark.json", lambda: compared_benchmarks(before_rows, after_rows, config.asking.seed)
        )
        folder.finish({"schema": 1, **identity, "versions": {**versions(), "lm_eval": benchmarks.version}})
        return figures


def _weights(model: str, adapter: Path | None, dtype: str) -> str:
    """The id that the policy will have, without loading it."""
    from prefloop.models.lineage import Lineage, hash_folder
    from prefloop.models.load import DTYPES, NF4, base_lineage

    if dtype not in (*DTYPES, NF4):
        raise ConfigError(f"dtype {dtype!r} is unknown: give one of {', '.join((*DTYPES, NF4))}")
    if adapter is not None and not adapter.is_dir():
        raise ModelError(f"no adapter folder {adapter}")
    adapters = (hash_folder(adapter),) if adapter else ()
    return Lineage(base_lineage(model).base, adapters, dtype == NF4).id


def _side(
    folder: RunFolder, side: str, model: str, adapter: Path | None, benchmarks: Benchmarks, config: BenchmarkConfig
) -> dict[str, list[TaskScores]]:
    """Scores of a model by the name of a benchmark; the model is loaded only while some are missing."""
    from prefloop.models.load import load_policy

    files = {name: f"{side}/{name}.json" for name in benchmarks.names}
    missing = [name for name in benchmarks.names if not folder.path(files[name]).exists()]
    policy = load_policy(model, adapter, config.dtype, config.device) if missing else None
    for name in missing:
        journal, tasks = folder.journal(f"{side}-{name}"), benchmarks.load(name)
        asked = (as_row(run_task(policy, tasks[task], config.asking, journal, side)) for task in sorted(tasks))
        folder.document(files[name], partial(list, asked))
        journal.remove()
    return {name: [TaskScores.read(row) for row in folder.document(file, list)] for name, file in files.items()}


def summary(figures: Mapping[str, Any]) -> Iterator[str]:
    """What `prefloop benchmark` prints, line by line."""
    yield f"{'benchmark':<28}{'figure':<24}{'before':>9}{'after':>9}{'change':>9}  95% interval"
    for name, one in figures["benchmarks"].items():
        for label, figure in one["figures"].items():
            yield _line(name, label, figure)
        for label, both in one["without_interval"].items():
            yield f"{name:<28}{label:<24}{both['before']:>9.4f}{both['after']:>9.4f}"
        cut = one["truncated"]
        if any(cut.values()):
            yield f"Note: {name}: requests cut off to fit the context: {cut['before']} before, {cut['after']} after."
    for name, one in figures["benchmarks"].items():
        for label, figure in one["figures"].items():
            if figure["warning"]:
                yield f"Note: {name}, {label}: {figure['warning']}"
    yield f"Significant drops: {'; '.join(figures['drops']) or 'none'}"


def _line(name: str, label: str, figure: Mapping[str, Any]) -> str:
    scale = 100 if figure["share"] else 1
    values = "".join(f"{scale * figure[key]:>9.2f}" for key in ("before", "after"))
    interval = "" if figure["low"] is None else f"  [{scale * figure['low']:+.2f}, {scale * figure['high']:+.2f}]"
    flag = "  DROP" if figure["drop"] else "  gain" if figure["gain"] else ""
    return f"{name:<28}{label:<24}{values}{scale * figure['change']:>+9.2f}{interval}{flag}"

"""Which tasks of lm-evaluation-harness are run: those it ships, and the user's own from YAML files that run no code.

Nothing that a model wrote is ever executed: a task that does is refused before its Python is imported. Own tasks are
data (YAML with Jinja templates, rendered in a sandbox), so a folder of tasks from somebody else is safe to run.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from prefloop.errors import ConfigError, DataError, ModelError, PrefloopError
from prefloop.evaluation.quiet import harness_quiet, last_cause
from prefloop.records import content_id
from prefloop.store.files import cache_folder, file_hash

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

BUILDERS = ("arrow", "csv", "json", "parquet", "text")
"""Kinds of local files that an own task reads; none of them is pickled."""
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
TASK_NAME = re.compile(r"\w[\w.:-]*")
CODE_KEYS = ("class", "custom_dataset", "unsafe_code", "use_prompt")
"""Keys of a task that name Python, or a file of prompts read without care."""
EVALUATORS = frozenset({"eval", "exec", "parse_expr", "sympify", "code_eval"})
"""What turns text into running Python: built in, of sympy, and a metric of the Hub."""
LIKENESS = 0.5
"""Of a name that is offered in place of an unknown one, 0 to 1."""


@dataclass(frozen=True)
class Benchmarks:
    """The tasks that were asked for, checked but not loaded."""

    names: tuple[str, ...]
    """Of tasks, groups or tags, as they were given."""
    identity: str
    """Hash of the own tasks among them, their data, and the harness' version."""
    version: str
    """Of the harness."""
    own: dict[str, dict[str, Any]]
    """Settings of own tasks by name."""
    manager: TaskManager

    def load(self, name: str) -> dict[str, Task]:
        """The tasks behind a name, with their data, by their own names.

        Raises:
            DataError: the data cannot be had, or the task is malformed.
        """
        try:
            with harness_quiet():
                tasks: dict[str, Task] = self.manager.load([deepcopy(self.own.get(name, name))])["tasks"]
        except Exception as error:  # the harness, datasets and Jinja raise many kinds; all mean that it is unusable
            raise _unusable(name, error) from error
        visual = next((task for task, found in tasks.items() if getattr(found, "MULTIMODAL", False)), None)
        if visual is not None:
            raise ConfigError(f"the task {visual} shows pictures or plays sound: language models here read text")
        return tasks


def open_benchmarks(names: Sequence[str], folder: Path | None = None) -> Benchmarks:
    """Find tasks by name, the folder's own first, and check that none of them runs code it should not.

    Raises:
        ModelError: lm-evaluation-harness is not installed.
        ConfigError: an unknown name, or a task that is refused.
        DataError: an own task cannot be read.
    """
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ModelError("benchmarks need lm-evaluation-harness: pip install 'prefloop[harness]'") from error
    if not names or len(set(names)) < len(names):
        raise ConfigError("name each task once: --task NAME")
    own = own_tasks(folder) if folder else {}
    with harness_quiet():
        manager = TaskManager(include_defaults=any(name not in own for name in names))
    for name in names:
        _check(manager, own, name)
    identity = content_id(lm_eval.__version__, [_own_identity(own[name]) for name in sorted(own.keys() & set(names))])
    return Benchmarks(tuple(names), identity, lm_eval.__version__, own, manager)


def own_tasks(folder: Path) -> dict[str, dict[str, Any]]:
    """The tasks of a folder's ``.yaml`` files by name, ready for the harness; paths of data are made absolute.

    Raises:
        ConfigError: a task that names code.
        DataError: no such folder, a file that is no task's, a name given twice, or data that is not there.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}: give --task-folder the folder with your tasks' .yaml files")
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*.yaml")):
        config = _read(path)
        if "group" in config:
            raise ConfigError(f"{path}: groups of own tasks are not read; repeat --task for each task")
        if "task" not in config:  # a part that others include
            continue
        name = config["task"]
        if not isinstance(name, str) or not TASK_NAME.fullmatch(name):
            raise DataError(f"{path}: 'task' must be a name of letters, digits and any of _ . : -, not {name!r}")
        if name in found:
            raise DataError(f"{path}: there is another task {name} in {folder}; rename one")
        found[name] = _with_data(path, _without_code(path, config))
    if not found:
        raise DataError(f"{folder} has no task: put .yaml files with 'task: NAME' into it")
    return found


def _read(path: Path, including: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file over the files that it includes, as the harness merges them; code is not constructed."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        if "!function" in str(error):
            raise ConfigError(
                f"{path} names Python (!function), which own tasks may not: write it with Jinja templates and filters"
            ) from error
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(config, dict):
        raise DataError(f"{path} is not a task: it holds no keys")
    if path in including:
        raise DataError(f"{path} includes itself")
    parts = config.pop("include", [])
    merged: dict[str, Any] = {}
    for part in [parts] if isinstance(parts, str) else parts:
        merged |= _read(path.parent / str(part), (*including, path))
    return merged | config


def _without_code(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    for key in CODE_KEYS:
        if config.get(key):
            raise ConfigError(f"{path}: '{key}' names code, which own tasks may not; remove it")
    return config


def _with_data(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The task reading its own files, given relative to its YAML file, or a data set of the Hub."""
    source, options = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if options.pop("trust_remote_code", False):
        raise ConfigError(f"{path}: 'trust_remote_code' is not given to anything; convert the data to JSON lines")
    if source not in BUILDERS:
        if isinstance(source, str) and HUB_ID.fullmatch(source):
            return {**config, "dataset_kwargs": options}
        raise DataError(
            f"{path}: dataset_path must be one of {', '.join(BUILDERS)} with dataset_kwargs.data_files, "
            f"or owner/name on the Hub, not {source!r}"
        )
    files = options.get("data_files")
    if not files or "data_dir" in options:
        raise DataError(
            f"{path}: give the files of each split in dataset_kwargs.data_files, e.g. test: questions.jsonl"
        )
    if not isinstance(files, dict):
        files = {"train": files}  # what `datasets` calls a split without a name
    found = {split: [_local(path, name) for name in _listed(given)] for split, given in files.items()}
    options |= {"data_files": found, "cache_dir": str(cache_folder() / "benchmarks")}
    return {**config, "dataset_kwargs": options}


def _listed(given: Any) -> list[str]:
    return [str(name) for name in given] if isinstance(given, list) else [str(given)]


def _local(path: Path, name: str) -> str:
    if "://" in name:
        raise ConfigError(f"{path}: {name} needs the network: download it and give the file")
    file = (path.parent / Path(name).expanduser()).resolve()
    if not file.is_file():
        raise DataError(f"{path}: its data {file} does not exist")
    return str(file)


def _own_identity(config: Mapping[str, Any]) -> list[Any]:
    """A task's settings and its files by content, wherever they lie."""
    options = config["dataset_kwargs"]
    files = {split: [file_hash(Path(p)) for p in paths] for split, paths in options.get("data_files", {}).items()}
    kept = {key: value for key, value in options.items() if key not in {"data_files", "cache_dir"}}
    return [content_id(str(sorted({**config, "dataset_kwargs": kept}.items()))), files]


def _check(manager: TaskManager, own: Mapping[str, dict[str, Any]], name: str) -> None:
    if name in own:
        _check_harmless(name, own[name], None)
        return
    if name not in manager.task_index:
        near = difflib.get_close_matches(name, [*own, *manager.all_tasks], 4, LIKENESS)
        hint = f"did you mean {', '.join(dict.fromkeys(near))}?" if near else "'lm-eval ls tasks' lists those it ships"
        raise ConfigError(f"no task {name} in lm-evaluation-harness or --task-folder: {hint}")
    for task, config, path in _configs(manager.task_index, name):
        _check_harmless(task, config, path)


def _configs(index: Mapping[str, Any], item: str | dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Path | None]]:
    """Name, settings and file of every task behind a name, or behind a member of a group."""
    changes = {} if isinstance(item, str) else item
    name = item if isinstance(item, str) else item.get("group") or item["task"]
    entry = index.get(name)
    config = {**((entry.cfg if entry else None) or {}), **changes}
    members = sorted(entry.tags) if entry and entry.kind.name == "TAG" else config.get("task")
    if isinstance(members, list):
        for member in members:
            yield from _configs(index, member)
    else:
        yield str(name), config, entry.yaml_path if entry else None


def _check_harmless(name: str, config: Mapping[str, Any], path: Path | None) -> None:
    from lm_eval import tasks
    from lm_eval.api.registry import metric_registry

    if config.get("unsafe_code"):
        raise ConfigError(f"the task {name} runs code that the model wrote: nothing here executes model output")
    shipped = f"{Path(tasks.__file__).parent}/"
    functions = [text for text in _texts(config) if text.startswith(shipped)]
    for folder in sorted({Path(text).parent for text in functions} | ({path.parent} if path else set())):
        if runner := _evaluates(folder):
            raise ConfigError(f"the task {name} is refused: {runner} evaluates text as Python, and models write text")
    if config.get("process_results"):  # the metrics' names are labels of what it returns
        return
    for metric in config.get("metric_list") or []:
        named = metric.get("metric") if isinstance(metric, dict) else metric
        if metric.get("hf_evaluate") or not (named in metric_registry or named in functions):
            raise ConfigError(
                f"the task {name} is refused: its metric {named!r} would be fetched from the Hub as code; "
                f"use one of {', '.join(sorted(metric_registry))}"
            )


def _texts(value: Any) -> Iterator[str]:
    """Every text in nested settings; functions of the harness' tasks stand there as paths."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


@lru_cache(maxsize=256)
def _evaluates(folder: Path) -> str | None:
    """A Python file of the folder that turns text into running Python."""
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.id if isinstance(node, ast.Name) else node.value if isinstance(node, ast.Constant) else None
            if isinstance(name, str) and name in EVALUATORS:
                return f"{folder.name}/{file.name}"
    return None


def _unusable(name: str, error: Exception) -> PrefloopError:
    if isinstance(error, PrefloopError):
        return error
    reason = last_cause(error)
    if isinstance(error, ConnectionError | FileNotFoundError) or "offline" in str(error).lower():
        return DataError(f"the data of the task {name} cannot be had from the Hub ({reason}): needs the network, once")
    return DataError(f"the task {name} cannot be read: {reason}")

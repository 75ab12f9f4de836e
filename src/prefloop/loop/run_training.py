"""The training of a run: here, or in processes of their own, which read the run's recipe and its preferences."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.errors import DataError, StoreError
from prefloop.loop.launch import Launch, Launched, prepared, start
from prefloop.loop.policies import initial_policy
from prefloop.loop.software import set_threads
from prefloop.loop.training import read_preference_set, summary_of
from prefloop.models.load import Policy
from prefloop.progress import main_process, note
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import read_json
from prefloop.store.run_folder import RECIPE, WORK, RunFolder
from prefloop.training.preference import train_preferences
from prefloop.training.update import TrainingResult


def train_here(
    recipe: Recipe,
    folder: RunFolder,
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
) -> TrainingResult:
    """Train as the recipe says into the run's ``checkpoint``; resumable."""
    return train_preferences(
        policy,
        preferences,
        completions,
        prompts,
        recipe.training,
        folder.root / "checkpoint",
        work=folder.root / WORK / "training",
        seed=recipe.seed,
        log=lambda row: folder.log("step", **row),
        show=note,
    )


def train_in_processes(launch: Launch, root: Path) -> None:
    """Have the processes train the run in `root`, and wait for them.

    Raises:
        ConfigError: they are on several machines, where each has to be started; says how.
        ModelError: one of them failed.
    """
    start(launch, root, _words(root))


def prepared_run(launch: Launch, root: Path) -> Launched:
    """The configuration of these processes, written beside the run's folder, and the lines that start them."""
    return prepared(launch, root, _words(root))


def train_run(root: Path) -> dict[str, Any]:
    """Train as the recipe of a run says, from the preferences in its folder; what each of several processes runs.

    Raises:
        DataError: the folder is no run, or has no preferences yet.
        StoreError: the run is trained already, or is being trained.
    """
    root = Path(root)
    stored = read_json(root / RECIPE)
    if not stored or "recipe" not in stored:
        raise DataError(f"{root} is no run folder: it has no {RECIPE} of 'prefloop run'")
    recipe = Recipe.model_validate(stored["recipe"])
    set_threads(recipe.threads)
    prompts, completions, preferences = read_preference_set(root)
    if (root / "checkpoint" / "training.json").exists():
        raise StoreError(f"{root} is trained already: go on with 'prefloop run … --out {root} --resume'")
    began = time.monotonic()
    with _alone(root):
        result = train_here(recipe, RunFolder(root), initial_policy(recipe), preferences, completions, prompts)
    return summary_of(result, began)


def _words(root: Path) -> list[str]:
    return ["train", "run", str(root)]


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One training of a run at a time; the run itself holds the folder's own lock while it waits for one."""
    if not main_process():
        yield
        return
    path = RunFolder(root).path(f"{WORK}/training.lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"{root} is being trained by another process: wait for it") from error
        yield

"""A training inside a run or a round: here, or in processes of their own, which read from disk what it is."""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.recipe import Recipe
from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig, TrainingConfig
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.loop.launch import Launch, Launched, beside, prepared, start
from prefloop.loop.learned import Learned, read_learned
from prefloop.loop.policies import free_memory
from prefloop.loop.software import set_threads
from prefloop.loop.training import summary_of
from prefloop.models.load import Policy
from prefloop.models.source import PolicySource
from prefloop.preferences.instructions import Example
from prefloop.progress import is_quiet, main_process, note
from prefloop.store.files import read_json, write_json, write_jsonl
from prefloop.store.run_folder import WORK, RunFolder
from prefloop.training.preference import train_preferences
from prefloop.training.reward import train_reward_model
from prefloop.training.sft import train_instructions
from prefloop.training.update import TrainingResult

Data = Learned | list[Example]
CONFIGS = {config.__name__: config for config in (TrainingConfig, RewardTrainingConfig, SftTrainingConfig)}
WAITING, ACCELERATE, LOCK = f"{WORK}/training.json", f"{WORK}/accelerate.yaml", f"{WORK}/training.lock"
"""In a run's or round's folder: what is to be trained, by which processes, and that some are at it."""
EXAMPLES = "examples.jsonl"
STDERR = 2
"""What a training comes to is progress of the run, whose own result alone goes to standard output."""


@dataclass(frozen=True)
class Training:
    """What a training starts from, how it goes, and where in a folder it leaves what it makes."""

    policy: PolicySource
    config: TrainingConfig | RewardTrainingConfig | SftTrainingConfig
    """Its type decides what is trained: a policy on pairs, a reward model on pairs, a policy on examples."""
    seed: int
    initial: PolicySource | None = None
    """Another model as the reference."""
    threads: int = 0
    """Of each process; 0: its share of the cores."""
    out: str = "checkpoint"
    work: str = "training"
    """Name of the resumable state."""
    marks: Mapping[str, Any] = field(default_factory=dict)
    """Stand in the log beside each step."""

    def here(self, folder: RunFolder, data: Data, policy: Policy | None = None) -> TrainingResult:
        """Train in this process; resumable.

        Args:
            policy: `self.policy`, where it is loaded already.

        Raises:
            StoreError: other processes are at it.
        """
        with _alone(folder):
            return self._trained(folder, data, policy)

    def _trained(self, folder: RunFolder, data: Data, policy: Policy | None = None) -> TrainingResult:
        """Train, where Accelerate started several processes in step with the others."""
        policy = policy or self.policy.load()
        out = folder.root / self.out
        options: dict[str, Any] = {
            "work": folder.root / WORK / self.work,
            "seed": self.seed,
            "log": lambda row: folder.log("step", **self.marks, **row),
            "show": note,
        }
        if isinstance(self.config, SftTrainingConfig):
            assert isinstance(data, list)
            return train_instructions(policy, data, self.config, out, **options)
        assert isinstance(data, Learned)
        if isinstance(self.config, RewardTrainingConfig):
            return train_reward_model(policy, *data.records, self.config, out, **options)
        initial = self.initial.load() if self.initial else None
        return train_preferences(policy, *data.records, self.config, out, initial=initial, **options)

    def run(self, folder: RunFolder, data: Data, launch: Launch | None) -> None:
        """Train here, or in the processes of `launch`.

        Raises:
            ConfigError: they are on several machines, where each has to be started; says how.
            ModelError: one of them failed.
            StoreError: others are at it.
        """
        if launch is None:
            self.here(folder, data)
        else:
            self.apart(folder, data, launch)

    def apart(self, folder: RunFolder, data: Data | None, launch: Launch) -> None:
        """Write down what is to be done, have the processes do it, and wait for them; raises as `run`.

        Args:
            data: None: the preferences that stand in the folder itself.
        """
        place = "" if data is None else f"{WORK}/{self.work}-data"
        written = {
            **{name: value for name, value in asdict(self).items() if name != "config"},
            "kind": type(self.config).__name__,
            "config": self.config.model_dump(mode="json"),
            "data": place,
        }
        with _alone(folder):  # whoever trains reads what is written here
            if data is not None:
                _write(data, folder.root / place)
            write_json(folder.path(WAITING), json.loads(json.dumps(written, default=str)))
        free_memory()
        quiet = is_quiet() and launch.machines == 1
        start(
            launch,
            folder.path(ACCELERATE),
            [*(["--quiet"] if quiet else []), *_words(folder.root)],
            stdout=subprocess.DEVNULL if quiet else STDERR,
            after=", then go on with --resume",
        )


def prepared_in(root: Path, launch: Launch, place: str = "") -> Launched:
    """The configuration of the processes of a run, written beside its folder, and the lines that start them there.

    Args:
        place: folder of a round in it.
    """
    return prepared(launch, beside(root), _words(root / place))


def prepared_loop(recipe: Recipe, root: Path, launch: Launch | None) -> Launched:
    """The same of the first training of a loop, after which the others go.

    Raises:
        ConfigError: the recipe has no loop, or one process trains.
    """
    if recipe.loop is None:
        raise ConfigError(f"recipe {recipe.name} has no loop section: it is run by 'prefloop run'")
    if launch is None:
        raise ConfigError("--dry-run shows how several processes are started: give --processes")
    return prepared_in(root, launch, "" if isinstance(recipe.loop, SelfRewardingConfig) else "rounds/1")


def _words(root: Path) -> list[str]:
    """The command with which each process trains what waits in a folder."""
    return ["train", "run", str(root)]


def train_waiting(root: Path) -> dict[str, Any]:
    """What each of several processes does: the training that waits in the folder of a run or round.

    Raises:
        DataError: none waits there.
        StoreError: it is done already, or others are at it.
    """
    folder = RunFolder(Path(root))
    found = read_json(folder.root / WAITING) if (folder.root / WAITING).exists() else None
    if found is None:
        raise DataError(
            f"{root} has no training that waits: start 'prefloop run' or 'prefloop loop' with --processes, which "
            "says when it does"
        )
    place, kind = found.pop("data"), CONFIGS[found.pop("kind")]
    sources = {name: _source(found.pop(name)) for name in ("policy", "initial")}
    training = Training(**{**found, **sources, "config": kind(**found["config"])})
    if (folder.root / training.out / "training.json").exists():
        raise StoreError(f"{root} is trained already: go on with the command that began it, and --resume")
    threads = set_threads(training.threads)
    began = time.monotonic()
    with _alone(folder):
        if main_process():
            folder.log("processes", stage=training.work, threads=threads)
        result = training._trained(folder, _read(folder.root / place))
    unit = "examples" if isinstance(training.config, SftTrainingConfig) else "pairs"
    return {**summary_of(result, began), "unit": unit, "out": str(folder.root / training.out)}


def _source(found: dict[str, Any] | None) -> PolicySource | None:
    return found and PolicySource(**{**found, "adapter": found["adapter"] and Path(found["adapter"])})


def _write(data: Data, place: Path) -> None:
    if isinstance(data, Learned):
        data.write(place)
    else:
        write_jsonl(place / EXAMPLES, [{"messages": messages, "answer": answer} for messages, answer in data])


def _read(place: Path) -> Data:
    path = place / EXAMPLES
    if not path.exists():
        return read_learned(place)
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(tuple(row["messages"]), row["answer"]) for row in rows]


@contextmanager
def _alone(folder: RunFolder) -> Iterator[None]:
    """One training of a folder at a time; the run itself holds the folder's own lock while it waits for one."""
    if not main_process():
        yield
        return
    with folder.path(LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(f"{folder} is being trained by another process: wait until it has ended") from error
        yield

"""Training over files: what `prefloop train` and Python users call, one function for each kind.

What computes is imported inside the functions, once their inputs are read: it takes seconds, a mistake should not.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.objectives import UNREFERENCED
from prefloop.config.training import RewardTrainingConfig, SftTrainingConfig, TrainingConfig
from prefloop.errors import ConfigError
from prefloop.loop.console import TrainingConsole
from prefloop.loop.learned import read_learned
from prefloop.loop.trackers import tracked
from prefloop.models.load import Policy, load_policy
from prefloop.preferences.instructions import read_instructions
from prefloop.progress import main_process, note
from prefloop.records import content_id
from prefloop.store.files import unused

if TYPE_CHECKING:
    from prefloop.training.update import Log, TrainingResult


@dataclass(frozen=True)
class Start:
    """Where a training starts, on what, and who watches it."""

    model: str = "embedded"
    adapter: Path | None = None
    """Of an earlier round, to go on with."""
    seed: int = 1
    device: str = "auto"
    dtype: str = "float32"
    """Type the model is loaded in."""
    resume: bool = False
    log_every: int = 10
    """Steps between rows of figures."""
    track: Sequence[str] = ()
    """Trackers that follow the figures."""

    def policy(self) -> Policy:
        """The model with its adapter."""
        return load_policy(self.model, self.adapter, self.dtype, self.device)


DEFAULT = Start()


def preference_folder(
    preferences: Path, out: Path, config: TrainingConfig, start: Start = DEFAULT, *, initial: str | None = None
) -> dict[str, Any]:
    """Train a policy on a preference set or a run's preferences; the checkpoint goes to `out`.

    Args:
        initial: another model as the reference.
    """
    if initial and (config.reference != "initial" or config.objective in UNREFERENCED):
        raise ConfigError(f"--initial has no effect with {config.objective} and training.reference={config.reference}")
    learned = read_learned(preferences)
    unused(Path(out))
    from prefloop.training.preference import train_preferences

    policy = start.policy()
    reference = load_policy(initial, dtype=start.dtype, device=start.device) if initial else None
    lineages = [policy.lineage.id, reference.lineage.id if reference else None]
    train = partial(train_preferences, policy, *learned.records, config, out, initial=reference)
    return _trained(train, out, config, start, [[asdict(p) for p in learned.preferences], *lineages])


def reward_folder(preferences: Path, out: Path, config: RewardTrainingConfig, start: Start = DEFAULT) -> dict[str, Any]:
    """Train a reward model on a preference set or a run's preferences; it goes to `out` with its head."""
    learned = read_learned(preferences)
    unused(Path(out))
    from prefloop.training.reward import train_reward_model

    policy = start.policy()
    train = partial(train_reward_model, policy, *learned.records, config, out)
    return _trained(train, out, config, start, ["reward", [asdict(p) for p in learned.preferences], policy.lineage.id])


def instruction_file(data: Path, out: Path, config: SftTrainingConfig, start: Start = DEFAULT) -> dict[str, Any]:
    """Fine-tune a policy on instructions and answers; the checkpoint goes to `out`."""
    found = read_instructions(Path(data))
    for row in found.bad[:5]:
        note(f"row {row.line} not read: {row.reason}")
    if found.bad:
        note(f"{len(found.bad):,} rows not read, {len(found.examples):,} examples")
    unused(Path(out))
    from prefloop.training.sft import train_instructions

    policy = start.policy()
    train = partial(train_instructions, policy, found.examples, config, out)
    summary = _trained(train, out, config, start, ["sft", list(found.examples), policy.lineage.id])
    return {**summary, "bad_rows": [asdict(row) for row in found.bad]}


def _trained(
    train: Callable[..., TrainingResult], out: Path, config: Any, start: Start, data: Sequence[Any]
) -> dict[str, Any]:
    """Train, with the resumable state under a name that data, models, settings and seed decide."""
    began = time.monotonic()
    with _work(out, [*data, config.model_dump(), start.seed, start.dtype]) as work, _log(out, config, start) as log:
        result = train(work=work, seed=start.seed, resume=start.resume, log=log, show=note)
    return summary_of(result, began)


@contextmanager
def _work(out: Path, identity: Any) -> Iterator[Path]:
    """Folder of the resumable state beside `out`; all such folders are removed once one training has ended."""
    out = Path(out)
    unused(out)
    yield out.with_name(f".{out.name}.{content_id(identity)}.work")
    if main_process():
        for work in out.parent.glob(
            f".{escape(out.name)}.{'[0-9a-f]' * 20}.work"
        ):  # other settings cannot go on, either
            shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _log(out: Path, config: Any, start: Start) -> Iterator[Log]:
    console = TrainingConsole(start.log_every)
    with tracked(start.track, Path(out).name, Path(out).parent / "tracking", config.model_dump(mode="json")) as send:

        def log(row: dict[str, Any]) -> None:
            console(row)
            send(row)

        yield log


def summary_of(result: TrainingResult, started: float) -> dict[str, Any]:
    """Figures of a training that began at `started` (monotonic seconds), for the terminal."""
    from prefloop.training.update import peak_memory_gb

    return {
        "seconds": time.monotonic() - started,
        "peak_memory_gb": peak_memory_gb(),
        "trainable_parameters": result.trainable,
        "kept": result.kept,
        "steps": result.steps,
        "pairs": result.pairs,
        "dropped": result.dropped,
        "best_step": result.best_step,
        "final_loss": result.final_loss,
    }

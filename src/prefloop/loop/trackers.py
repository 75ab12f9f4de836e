"""Figures of a training run to a tracker: TensorBoard, Weights & Biases, MLflow, Trackio and others, by Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError


@contextmanager
def tracked(
    names: Sequence[str], run: str, folder: Path, settings: dict[str, Any]
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Inside the block rows of figures go to these trackers, which are told the settings first.

    Args:
        names: trackers of Accelerate, such as ``tensorboard``.
        run: name of the run.
        folder: where trackers that write files put theirs.

    Raises:
        ConfigError: an unknown tracker, or one that is not installed.
    """
    if not names:
        yield lambda row: None
        return
    trackers = [_tracker(name, run, folder) for name in names]
    for tracker in trackers:
        tracker.start()
        tracker.store_init_configuration(
            {k: v if isinstance(v, bool | int | float) else str(v) for k, v in settings.items()}
        )
    try:
        yield lambda row: [tracker.log(_figures(row), step=int(row["step"])) for tracker in trackers] and None
    finally:
        for tracker in trackers:
            tracker.finish()


def _figures(row: dict[str, Any]) -> dict[str, float]:
    return {f"train/{name}": value for name, value in row.items() if name != "step"}


def _tracker(name: str, run: str, folder: Path) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = {str(getattr(kind, "value", kind)): tracker for kind, tracker in LOGGER_TYPE_TO_CLASS.items()}
    if name not in known:
        raise ConfigError(f"no tracker '{name}': one of {', '.join(sorted(known))}")
    if name not in {str(getattr(kind, "value", kind)) for kind in get_available_trackers()}:
        raise ConfigError(f"the tracker {name} is not installed: pip install {name}")
    PartialState()  # trackers ask it which process they are in
    extra = {"logging_dir": folder} if known[name].requires_logging_directory else {}
    return known[name](run, **extra)

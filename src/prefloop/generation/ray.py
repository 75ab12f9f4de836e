"""Work in chunks spread over Ray's workers (the extra ``prefloop[ray]``), each chunk handed back as soon as it is done.

Ray Data holds a pool of worker processes on one machine or many, gives each its next chunk, starts a worker that died
again and repeats its chunk. What comes back is a chunk's content alone, so order and number of workers change nothing.
The cluster is the one that ``RAY_ADDRESS`` names, else the one running here (``ray start``), else one of this machine's
own that ends with the process.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from prefloop import errors
from prefloop.config.engine import EngineSection
from prefloop.errors import ConfigError, ModelError, PrefloopError
from prefloop.progress import note, set_quiet

TRIES = 4
"""How often a chunk is begun whose worker dies each time: then the chunk itself is to blame, most likely by memory."""
DIED = (
    f"{TRIES} workers died over the same chunk, most likely for want of memory: finished chunks are kept, go on with "
    "--resume and fewer engine.workers"
)
ADDRESS = "RAY_ADDRESS"
FREE_S = 5.0
"""How long what is ending may take to free its cores before the cluster counts as busy."""


class Task(Protocol):
    """What every worker does; travels to it by pickle."""

    def open(self, device: str, threads: int) -> Callable[[Any], Any]:
        """Load what is needed, once per worker; the function takes a chunk and gives its content, both JSON values.

        Args:
            device: ``auto`` for a worker with a GPU, else ``cpu``.
            threads: cores that the worker has.
        """
        ...


@dataclass(frozen=True)
class Workers:
    """How many workers there are, and what each has."""

    count: int
    cpus: int
    """Cores of each, and its threads."""
    gpus: float

    def each(self, task: Task, chunks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Every chunk's key with what `task` made of it, in the order in which they are done.

        Raises:
            PrefloopError: what a worker raised, as the same kind.
            ModelError: workers keep dying over the same chunk, or something unforeseen went wrong in one.
        """
        import ray

        rows = [{"key": key, "chunk": json.dumps(chunk)} for key, chunk in chunks.items()]
        tries = ray.remote(num_cpus=0)(_Tries).remote()
        with _quiet_data(ray):
            done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                _Worker,
                fn_constructor_args=(task, "auto" if self.gpus else "cpu", self.cpus, tries, version("prefloop")),
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(size=min(self.count, len(rows)), max_tasks_in_flight_per_actor=1),
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            )
            try:
                # Nothing is fetched ahead: that would hold a finished chunk back until the next one is done.
                for batch in done.iter_batches(batch_size=None, prefetch_batches=0):
                    for key, found, failed in zip(batch["key"], batch["found"], batch["failed"], strict=True):
                        if failed:
                            raise getattr(errors, str(failed))(json.loads(found))
                        yield str(key), json.loads(found)
            except ray.exceptions.RayError as error:
                raise ModelError(f"Ray gave up: {_one_line(error)}; finished chunks are kept, see its logs") from error


class _Tries:
    """Counts how often each chunk was begun. Ray itself begins a chunk again for as long as its workers die."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, key: str) -> int:
        self._begun[key] += 1
        return self._begun[key]


class _Worker:
    """One worker process. It loads with its first chunk, so that what goes wrong there is reported as any error."""

    def __init__(self, task: Task, device: str, threads: int, tries: Any, release: str) -> None:
        self._task, self._device, self._threads, self._tries, self._release = task, device, threads, tries, release
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        import ray

        key, failed = str(batch["key"][0]), ""
        try:
            if ray.get(self._tries.begin.remote(key)) > TRIES:
                raise ModelError(DIED)
            if self._work is None:
                _same_release(self._release)
                set_quiet(True)
                self._work = self._task.open(self._device, self._threads)
            found = self._work(json.loads(batch["chunk"][0]))
        except PrefloopError as error:
            failed, found = type(error).__name__, str(error)
        except Exception as error:  # whatever it is, the driver says it in one line
            failed, found = "ModelError", f"a worker failed: {type(error).__name__}: {_one_line(error)}"
        return {"key": [key], "found": [json.dumps(found)], "failed": [failed]}


def _same_release(expected: str) -> None:
    if version("prefloop") != expected:
        raise ConfigError(
            f"{socket.gethostname()} has prefloop {version('prefloop')}, and the command was started by {expected}: "
            "install the same on every machine"
        )


def workers(engine: EngineSection, *, device: str = "auto", threads: int = 0) -> Workers:
    """The workers that an engine's settings ask of the cluster, which is joined or started.

    Args:
        device: what the model is to be on; only ``auto`` and ``cuda`` take a GPU.
        threads: of each worker; 0: the cluster's cores shared out.

    Raises:
        ConfigError: Ray is not installed, the cluster has not got what one worker needs, or a model on a GPU is asked
            of workers without one.
        ModelError: the cluster cannot be reached.
    """
    if engine.gpus == 0 and device == "cuda":
        raise ConfigError(
            "engine.gpus=0: workers without a GPU cannot hold a model on device cuda: leave one of the two out"
        )
    ray = join()
    whole = ray.cluster_resources()
    cpus, gpus = int(whole.get("CPU", 0)), whole.get("GPU", 0.0)
    each_gpu = engine.gpus
    if each_gpu is None:
        each_gpu = float(device == "cuda" or (device == "auto" and gpus > 0))
    machines = sum(1 for node in ray.nodes() if node["Alive"])
    count = engine.workers or (int(gpus // each_gpu) if each_gpu else machines) or 1
    each_cpu = threads or max(1, 1 if each_gpu else cpus // count)
    _require("CPU", each_cpu, cpus, "set threads to fewer")
    _require("GPU", each_gpu, gpus, "set engine.gpus=0 to compute on CPUs")
    fitting = int(min(cpus // each_cpu, gpus // each_gpu if each_gpu else count, count))
    if fitting < count:
        note(f"ray: room for {fitting} of {count} workers, each with {_needs(each_cpu, each_gpu)}")
    _say_if_busy(ray, each_cpu, each_gpu)
    return Workers(fitting, each_cpu, each_gpu)


def join() -> Any:
    """The module `ray`, joined to a cluster or with one of its own; says nothing on the terminal, and reports nothing.

    Raises:
        ConfigError: it is not installed.
        ModelError: no cluster answers at ``RAY_ADDRESS``.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its C++ side speaks past every Python logger
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its coming default, for which it warns
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("engine=ray needs Ray: pip install 'prefloop[ray]' on every machine") from error
    if not ray.is_initialized():
        try:
            with _hushed():
                ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:  # no such cluster, another Ray or Python version, no port: many kinds
            where = f"the cluster at {os.environ[ADDRESS]}" if os.environ.get(ADDRESS) else "a local cluster"
            raise ModelError(f"Ray cannot join {where} ({_one_line(error)}): check {ADDRESS}, or unset it") from error
    return ray


@contextmanager
def _hushed() -> Iterator[None]:
    """Ray's C++ side announces its log level on the process's own standard error, which Python cannot filter."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _require(kind: str, needed: float, there: float, way: str) -> None:
    if needed > there:
        raise ConfigError(
            f"engine: each worker needs {needed:g} {kind} and the whole Ray cluster has {there:g}: start more nodes, "
            f"or {way}"
        )


def _say_if_busy(ray: Any, cpus: int, gpus: float) -> None:
    until = time.monotonic() + FREE_S
    while (free := ray.available_resources()).get("CPU", 0) < cpus or free.get("GPU", 0) < gpus:
        if time.monotonic() > until:
            note(f"ray: the cluster is busy; waiting until one worker's {_needs(cpus, gpus)} are free")
            return
        time.sleep(0.1)  # between looks at what is free; Ray has no call that waits for it


def _needs(cpus: int, gpus: float) -> str:
    return f"{cpus} CPU" + (f" and {gpus:g} GPU" if gpus else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _quiet_data(ray: Any) -> Iterator[None]:
    """Ray Data without its bars, which ours stand for, and without its log on the terminal; both are restored."""
    settings = ray.data.DataContext.get_current()
    before = settings.enable_progress_bars, settings.print_on_execution_start
    settings.enable_progress_bars = settings.print_on_execution_start = False
    consoles = {
        handler: handler.level
        for handler in logging.getLogger("ray.data").handlers
        if isinstance(handler, logging.StreamHandler)
    }
    for handler in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        settings.enable_progress_bars, settings.print_on_execution_start = before
        for handler, level in consoles.items():
            handler.setLevel(level)

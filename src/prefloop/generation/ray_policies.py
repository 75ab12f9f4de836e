"""Policies whose weights Ray's workers hold; in this process are only the tokenizer and what cuts prompts into chunks.

A chunk, its key and its arithmetic are those of one process (`prefloop.generation.generate`), so a journal begun by one
is taken up by the other, and with equal chunks and threads the texts are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from prefloop.config.engine import EngineSection
from prefloop.config.sampling import Sampling
from prefloop.errors import ModelError
from prefloop.generation.generate import CPU_CACHE_BYTES, Encoded, cache_allowance, decoded, fitting_rows
from prefloop.generation.ray import Workers, join, workers
from prefloop.models.lineage import Lineage
from prefloop.models.load import is_hub_id, model_folder, read_tokenizer
from prefloop.models.source import PolicySource


class RayPolicy:
    """A writer (`prefloop.generation.generate.Writer`) whose weights are in Ray's workers.

    Args:
        source: what each worker loads. A folder has to be there on every machine, under the same path.
        threads: of each worker; 0: the cluster's cores shared out.

    Raises:
        ConfigError: Ray is not installed, or the cluster has not got what one worker needs.
        ModelError: the policy or the cluster is not there.
    """

    def __init__(self, source: PolicySource, engine: EngineSection, threads: int = 0) -> None:
        from transformers import AutoConfig

        folder = model_folder(source.model)
        self.tokenizer = read_tokenizer(folder)
        self.lineage = source.lineage
        self.dtype = "torch.float32" if self.lineage.four_bit else f"torch.{source.dtype}"
        self._config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._source = _everywhere(source)
        self._workers = workers(engine, device=source.device, threads=threads)

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt with its answer, where the model knows a limit."""
        return getattr(self._config.get_text_config(), "max_position_embeddings", None)

    def most_rows(self, width: int) -> int:
        """Answers of `width` tokens whose cache fits what a chunk may take in a worker."""
        itemsize = 4 if self.dtype == "torch.float32" else 2
        return fitting_rows(self._config, itemsize, width, _allowance(self._workers))

    def written(
        self, chunks: dict[str, Encoded], sampling: Sampling, seed: int, round_: int
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Every chunk's key with its answers, as they are done."""
        return self._workers.each(WritingTask(self._source, self.lineage, sampling, seed, round_), chunks)


@dataclass(frozen=True)
class WritingTask:
    """Loads a policy and writes the answers to chunks."""

    source: PolicySource
    lineage: Lineage
    sampling: Sampling
    seed: int
    round_: int

    def open(self, device: str, threads: int) -> Callable[[Encoded], list[dict[str, Any]]]:
        """As in `prefloop.generation.ray.Task`.

        Raises:
            ModelError: the machine has another policy under that name.
        """
        import torch

        torch.set_num_threads(threads)
        policy = _placed(self.source, device).load()
        same_weights(self.source, policy.lineage, self.lineage)

        def write(chunk: Encoded) -> list[dict[str, Any]]:
            return [asdict(answer) for answer in decoded(policy, chunk, self.sampling, self.seed, self.round_)]

        return write


def same_weights(source: PolicySource, found: Lineage, expected: Lineage) -> None:
    """Refuse what a worker's machine has in place of the policy meant.

    Raises:
        ModelError: it is another one; names machine and folder.
    """
    if found != expected:
        import socket

        raise ModelError(
            f"{socket.gethostname()} has other weights at {source.adapter or source.model} ({found.id}) than this "
            f"machine ({expected.id}): put the folder on a file system that all machines share"
        )


class RayEngine:
    """vLLM in Ray's workers, in the place of `prefloop.generation.vllm.Engine`; arguments as of `RayPolicy`."""

    def __init__(self, source: PolicySource, engine: EngineSection) -> None:
        self.tokenizer = read_tokenizer(model_folder(source.model))
        self.lineage, self.dtype = source.lineage, source.dtype
        self._source = _everywhere(source)
        self._workers = workers(engine, device=source.device)

    def written(
        self, chunks: dict[str, dict[str, list[int]]], sampling: Sampling, seed: int, round_: int
    ) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
        """Every chunk's key with its answers by prompt id, as they are done."""
        return self._workers.each(EngineTask(self._source, self.lineage, sampling, seed, round_), chunks)


@dataclass(frozen=True)
class EngineTask(WritingTask):
    """Starts vLLM and has it write the answers to chunks."""

    def open(self, device: str, threads: int) -> Callable[[Any], Any]:
        """As in `WritingTask`; vLLM finds its device itself."""
        from prefloop.generation.vllm import load_engine

        engine = load_engine(self.source.model, self.source.dtype)
        same_weights(self.source, engine.lineage, self.lineage)
        return lambda chunk: engine.answers(chunk, self.sampling, self.seed, self.round_)


def _everywhere(source: PolicySource) -> PolicySource:
    """The same by paths that hold wherever a process was started; a hub id stays, and is fetched by each machine."""
    model = source.model
    if model != "embedded" and not is_hub_id(model):
        model = str(model_folder(model).resolve())
    return replace(source, model=model, adapter=source.adapter.resolve() if source.adapter else None)


def _placed(source: PolicySource, device: str) -> PolicySource:
    return replace(source, device=device) if source.device == "auto" else source


def _allowance(workers: Workers) -> int:
    """What the cache of a chunk may take in a worker: of its GPU, which another machine may hold."""
    if not workers.gpus:
        return CPU_CACHE_BYTES
    ray = join()
    return int(ray.get(ray.remote(num_gpus=workers.gpus)(_gpu_allowance).remote()) * min(1.0, workers.gpus))


def _gpu_allowance() -> int:
    import torch

    return cache_allowance(torch.device("cuda"))

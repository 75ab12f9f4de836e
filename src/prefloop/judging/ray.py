"""Judges in Ray's workers: each worker opens the judge and takes chunks of prompts with their answers.

Chunks, their journal keys and each chunk's arithmetic are those of the judge in one process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefloop.config.engine import EngineSection
from prefloop.config.judges import CustomConfig, ExecutionConfig, JudgeConfig
from prefloop.errors import JudgeError
from prefloop.generation.ray import Workers, workers
from prefloop.judging.groups import Answered, Asked, ChunkedJudge, Databases, judge_through
from prefloop.models.load import is_hub_id, model_folder
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.journal import Journal


class RayJudge:
    """A judge whose work is done in Ray's workers.

    Args:
        judge: the same, opened in this process but not entered: it knows its name, and was checked.
        databases: as given to the execution judge; none: the leagues, which every machine builds for itself.
        threads: of each worker; 0: the cluster's cores shared out.
    """

    def __init__(
        self,
        judge: ChunkedJudge,
        config: JudgeConfig,
        engine: EngineSection,
        threads: int = 0,
        databases: Databases = (),
    ) -> None:
        self.name = judge.name
        self._judge, self._config, self._engine, self._threads = judge, config, engine, threads
        self._task = JudgingTask(_everywhere(config), judge.identity, databases, str(Path.cwd()))
        self._workers: Workers | None = None

    def __enter__(self) -> RayJudge:
        """Joins or starts the cluster.

        Raises:
            ConfigError: Ray is not installed, or the cluster has not got what one worker needs.
        """
        device = getattr(self._config, "device", "cpu")  # what has no model needs no GPU
        self._workers = workers(self._engine, device=device, threads=self._threads)
        return self

    def __exit__(self, *exception: object) -> None:
        self._workers = None

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """As the judge itself gives them, in the same order.

        Raises:
            JudgeError: not entered; and whatever the judge raises.
        """
        return self.judge_slices([(prompts, completions)], journal=journal, label=label)

    def judge_slices(
        self, slices: Sequence[Asked], *, journal: Journal | None = None, label: str = "judge"
    ) -> list[Judgement]:
        """The same of several slices, one after the other, by workers that are started once for all of them.

        Chunks are cut inside each slice, as by the judge in one process. Raises as `judge`.
        """
        spread = self._workers
        if spread is None:
            raise JudgeError(f"{self.name} is not open: use it in a with statement")

        def work(chunks: dict[str, list[Answered]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
            return spread.each(self._task, {key: [_row(*asked) for asked in chunk] for key, chunk in chunks.items()})

        found = judge_through(
            self._judge.identity,
            work,
            slices,
            per_chunk=self._judge.per_chunk,
            journal=journal,
            label=label,
        )
        if not isinstance(self._config, ExecutionConfig):
            return found
        by_answer = {judgement.completion_ids[0]: judgement for judgement in found}
        return [by_answer[completion.id] for _, completions in slices for completion in completions]


@dataclass(frozen=True)
class JudgingTask:
    """Opens a judge and judges chunks."""

    config: JudgeConfig
    identity: str
    databases: Databases
    folder: str
    """Where the run was started: a judge of the user's own is looked for there, too."""

    def open(self, device: str, threads: int) -> Callable[[Any], list[dict[str, Any]]]:
        """As in `prefloop.generation.ray.Task`; what the judge holds ends with the worker.

        Raises:
            JudgeError: the machine has another judge under that name.
        """
        from prefloop.judging.open import open_judge

        if hasattr(self.config, "model"):
            import torch

            torch.set_num_threads(threads)
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        judge: Any = ExitStack().enter_context(open_judge(_placed(self.config, device, threads), self.databases))
        if judge.identity != self.identity:
            raise JudgeError(
                f"judge {judge.name} is another one on a worker's machine: its files or functions, or prefloop's "
                "version, differ from this machine's"
            )

        def judge_chunk(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            asked = [_answered(row) for row in rows]
            completions = [completion for _, answers in asked for completion in answers]
            return [asdict(judgement) for judgement in judge.judge([prompt for prompt, _ in asked], completions)]

        return judge_chunk


def _row(prompt: Prompt, answers: Sequence[Completion]) -> dict[str, Any]:
    """As JSON; judges read texts, so token ids and log-probabilities stay here."""
    slim = [{**asdict(answer), "token_ids": [], "logprobs": []} for answer in answers]
    return {"prompt": asdict(prompt), "answers": slim}


def _answered(row: dict[str, Any]) -> Answered:
    prompt = Prompt(**{**row["prompt"], "messages": tuple(row["prompt"]["messages"])})
    return prompt, [Completion(**{**answer, "token_ids": (), "logprobs": ()}) for answer in row["answers"]]


def _everywhere(config: JudgeConfig) -> JudgeConfig:
    """The same by paths that hold wherever a process was started; a hub id stays, and is fetched by each machine."""
    found: dict[str, Any] = {}
    model, adapter = getattr(config, "model", None), getattr(config, "adapter", None)
    if model and model != "embedded" and not is_hub_id(model):
        found["model"] = str(model_folder(model).resolve())
    if adapter:
        found["adapter"] = Path(adapter).resolve()
    return config.model_copy(update=found)


def _placed(config: JudgeConfig, device: str, threads: int) -> JudgeConfig:
    """On the worker's device; SQL runs in as many processes as the worker has cores."""
    if isinstance(config, ExecutionConfig):
        return config if config.workers else config.model_copy(update={"workers": threads})
    if isinstance(config, CustomConfig) or getattr(config, "device", device) != "auto":
        return config
    return config.model_copy(update={"device": device})

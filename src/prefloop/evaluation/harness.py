"""A task of lm-evaluation-harness on a policy, scored document by document.

The harness builds the requests and scores the answers; its `evaluate` is called, not `simple_evaluate`, which also
runs a dozen programs to describe the machine. What is between, asking the model, goes in chunks that are journalled.
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict, dataclass
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING, Any

from prefloop.errors import DataError, ModelError, PrefloopError
from prefloop.evaluation.quiet import harness_quiet, last_cause
from prefloop.models.load import Policy
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.journal import Journal

if TYPE_CHECKING:
    from lm_eval.api.task import Task

SEED = 1234
"""The harness' own, so that examples in prompts are those of its command."""
BATCHES_A_CHUNK = 16
"""Batches asked between two entries of the journal."""


@dataclass(frozen=True)
class Asking:
    """How a task is put to a model."""

    limit: int | None = None
    """Only the first documents of each task."""
    batch_size: int = 8
    chat_template: bool = False
    seed: int = SEED


@dataclass(frozen=True)
class TaskScores:
    """What a policy reached on one task; [n] documents, in the task's order."""

    task: str
    documents: tuple[str, ...]
    """[n] hash of each document."""
    answers: tuple[Any, ...]
    """[n] of each: texts that were generated, or (log-probability, greedy decoding writes it) of each choice."""
    scores: dict[str, tuple[float, ...]]
    """[n] by figure, where the harness' total is the mean over documents."""
    totals: dict[str, float]
    """The harness' own figures, also those that are no means over documents (perplexity, BLEU)."""
    higher_is_better: dict[str, bool]
    truncated: int
    """Requests, or batches of them, whose beginning was cut off to fit the context."""

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> TaskScores:
        """From what `asdict` wrote as JSON."""
        scores = {name: tuple(values) for name, values in row["scores"].items()}
        return cls(**{**row, "documents": tuple(row["documents"]), "answers": tuple(row["answers"]), "scores": scores})


def run_task(policy: Policy, task: Task, asking: Asking, journal: Journal, label: str = "benchmark") -> TaskScores:
    """Ask a policy every document of a task; finished chunks are taken from the journal.

    Raises:
        ModelError: the device's memory is too small, or the model gives probabilities that are no numbers.
        DataError: the task cannot be asked, or a document's right answer is not among its choices.
    """
    import lm_eval
    import torch

    name, shown = task.task_name, sys.stderr
    try:
        with harness_quiet() as warned:
            model = _Journalled(_harness_model(policy, asking), journal, asking, warned)
            model.show(f"{label} {name}", shown)
            _seed(asking.seed)
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=asking.seed)
            found = lm_eval.evaluate(
                model,
                {"tasks": {name: task}},
                limit=asking.limit,
                bootstrap_iters=0,
                apply_chat_template=asking.chat_template,
                fewshot_as_multiturn=asking.chat_template,
                confirm_run_unsafe_code=False,
            )
    except PrefloopError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelError(f"the memory is too small for the task {name}: give a smaller --batch-size") from error
    except Exception as error:  # the harness states what a task must be with assertions and errors of many kinds
        raise DataError(f"the task {name} cannot be asked: {last_cause(error)}") from error
    return _scores(task, found, warned, model.truncated)


def _harness_model(policy: Policy, asking: Asking) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=policy.model, tokenizer=policy.tokenizer, backend="causal", batch_size=asking.batch_size)


def _seed(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class _Journalled:
    """The harness' model, asked in chunks of fixed size: each is drawn from its own seed and kept once finished."""

    def __init__(self, model: Any, journal: Journal, asking: Asking, warned: list[str]) -> None:
        self._model = model
        self._journal = journal
        self._asking = asking
        self._warned = warned
        self._label, self._stderr = "benchmark", sys.stderr
        self.truncated = 0

    def show(self, label: str, stderr: Any) -> None:
        """Where progress goes while everything else is quiet, and what it is called."""
        self._label, self._stderr = label, stderr

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether greedy decoding writes it."""
        return [(float(value), bool(greedy)) for value, greedy in self._asked("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Log-probability of each text."""
        return [float(value) for value in self._asked("loglikelihood_rolling", requests)]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that follows each prompt."""
        return self._asked("generate_until", requests)

    def _asked(self, kind: str, requests: Sequence[Any]) -> list[Any]:
        size, done = self._asking.batch_size * BATCHES_A_CHUNK, dict(self._journal.entries())
        found: list[Any] = []
        with redirect_stderr(self._stderr), progress(self._label, len(requests), "requests") as advance:
            for start in range(0, len(requests), size):
                chunk = list(requests[start : start + size])
                key = content_id(self._label, kind, start, self._asking.seed, [repr(request.args) for request in chunk])
                if key not in done:
                    _seed(self._asking.seed + start)
                    done[key] = self._answers(kind, chunk)
                    self._journal.append(key, done[key])
                found.extend(done[key]["answers"])
                self.truncated += done[key]["truncated"]
                advance(len(chunk))
        return found

    def _answers(self, kind: str, chunk: list[Any]) -> dict[str, Any]:
        before = len(self._warned)
        hidden = redirect_stderr(io.StringIO()) if kind == "loglikelihood_rolling" else nullcontext()
        with hidden:  # there the harness draws a bar for every batch, whatever it is told
            answers = getattr(self._model, kind)(chunk, disable_tqdm=True)
        values = [] if kind == "generate_until" else [a if isinstance(a, float) else a[0] for a in answers]
        if not all(isfinite(value) for value in values):
            raise ModelError(
                f"{self._label}: the model gives probabilities that are no numbers; are its weights whole?"
            )
        return {
            "answers": [list(answer) if isinstance(answer, tuple) else answer for answer in answers],
            "truncated": sum("runcat" in message for message in self._warned[before:]),
        }


def _scores(task: Task, found: Mapping[str, Any], warned: Sequence[str], truncated: int) -> TaskScores:
    """The harness' samples, one row per document and filter, as columns."""
    name = task.task_name
    if any(message.startswith("Label index was not") for message in warned):
        raise DataError(f"the task {name} has a document whose right answer is not among its choices: mend its target")
    filters: dict[str, list[Any]] = {}
    for sample in found["samples"][name]:
        filters.setdefault(sample["filter"], []).append(sample)
    first = next(iter(filters.values()))
    totals = dict(_totals(found["results"][name]))
    scores = {
        _figure(metric, kind): tuple(float(sample[metric]) for sample in samples)
        for kind, samples in filters.items()
        for metric in samples[0]["metrics"]
        if _is_mean(task, metric) and all(isinstance(sample.get(metric), Real) for sample in samples)
    }
    directions = {figure: task.higher_is_better().get(figure.split(" (")[0]) is not False for figure in totals}
    return TaskScores(
        task=name,
        documents=tuple(sample["doc_hash"] for sample in first),
        answers=tuple(_plain(sample["filtered_resps"]) for sample in first),
        scores=scores,
        totals=totals,
        higher_is_better=directions,
        truncated=truncated,
    )


def _totals(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in results.items():
        metric, comma, kind = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, Real) and isfinite(value):
            yield _figure(metric, kind), float(value)


def _figure(metric: str, kind: str) -> str:
    """Name of a figure: a metric, with the filter that the answers went through where a task has several."""
    return metric if kind == "none" else f"{metric} ({kind})"


def _is_mean(task: Task, metric: str) -> bool:
    from lm_eval.api.metrics import mean

    return task.aggregation().get(metric, mean) is mean


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def as_row(scores: TaskScores) -> dict[str, Any]:
    """As a JSON document, read again by `TaskScores.read`."""
    return asdict(scores)

"""Answers to the prompts of a file: what `prefloop generate` and Python users call.

What computes is imported inside, once the inputs are read: it takes seconds, a mistake should not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.config.engine import LOCAL, EngineSection
from prefloop.config.sampling import Sampling
from prefloop.errors import DataError
from prefloop.loop.prompt_files import each_prompt
from prefloop.loop.software import set_threads
from prefloop.loop.tasks import with_system
from prefloop.progress import note
from prefloop.records import Completion, Prompt
from prefloop.store.files import unused
from prefloop.store.journal import Journal, journal_beside
from prefloop.store.tables import records_file, write_records

if TYPE_CHECKING:
    from prefloop.models.source import PolicySource

Write = Callable[[Journal, Path], Iterator[list[Completion]]]
"""Gives the answers in the order of the prompts, some at a time, by a journal and a folder for what is parted."""


def generate_file(
    prompts: Path,
    out: Path,
    *,
    model: str = "embedded",
    adapter: Path | None = None,
    sampling: Sampling | None = None,
    split: str | None = None,
    system: str | None = None,
    endpoint: str | None = None,
    key_variable: str = "OPENAI_API_KEY",
    dtype: str = "float32",
    device: str = "auto",
    seed: int = 1,
    resume: bool = False,
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> dict[str, Any]:
    """Answers to the prompts of a file, written to `out`; returns counts.

    Args:
        system: message in front of prompts that have none; it is part of the prompt, and of its id.
        endpoint: base URL of an OpenAI-compatible server, where `model` is the model's name.
        key_variable: environment variable with the server's key.
        engine: this process, or Ray's workers; interrupted work of one is taken up by the other.
        threads: of this process or of each worker; 0: torch's choice, or the cluster's cores shared out.

    Raises:
        DataError: no prompt, or a server that gave no answer at all.
    """
    prompts, out = map(Path, (prompts, out))
    asked = [with_system(prompt, system) for prompt in each_prompt(prompts) if split in (None, prompt.split)]
    if not asked:
        raise DataError(f"{prompts} has no prompt" + (f" of split '{split}'" if split else ""))
    unused(out)
    sampling = sampling or Sampling()
    decides: list[Any] = [[prompt.id for prompt in asked], sampling.settings, sampling.k, seed]
    if endpoint:
        write = _served(endpoint, model, key_variable, asked, sampling, seed)
        decides += [endpoint, model]
    else:
        from prefloop.models.source import PolicySource

        if threads:
            set_threads(threads)
        write, lineage = _by_policy(PolicySource(model, adapter, dtype, device), engine, threads, asked, sampling, seed)
        decides += [lineage, dtype]
    tally = CompletionTally()
    with journal_beside(out, resume, decides) as journal, records_file(out, Completion) as keep:
        for some in write(journal, out.with_name(f".{out.name}.parts")):
            tally.add(some)
            keep(some)
        if not tally.count:
            raise DataError(f"{endpoint} gave no answer that could be used: see the reasons above")
        if system:
            write_records(out.with_name(f"{out.stem}-prompts.parquet"), asked, Prompt)
            note(f"the prompts with their system message are in {out.stem}-prompts.parquet")
    return {"prompts": len(asked), **tally.summary()}


def _served(
    endpoint: str, model: str, key_variable: str, asked: Sequence[Prompt], sampling: Sampling, seed: int
) -> Write:
    from prefloop.generation.endpoint import Endpoint, EndpointClient
    from prefloop.loop.served import served_answers

    client = EndpointClient(Endpoint(endpoint, model, key_variable=key_variable))
    return lambda journal, _: served_answers(client, asked, sampling, seed, journal)


def _by_policy(
    source: PolicySource, engine: EngineSection, threads: int, asked: Sequence[Prompt], sampling: Sampling, seed: int
) -> tuple[Write, str]:
    """With the policy's lineage."""
    from prefloop.generation.generate import generate_chunks
    from prefloop.loop.policies import written_by
    from prefloop.store.grouped import ordered_on_disk

    policy = written_by(source, engine, threads)

    def write(journal: Journal, work: Path) -> Iterator[list[Completion]]:
        return ordered_on_disk(generate_chunks(policy, asked, sampling, seed=seed, journal=journal), asked, work)

    return write, policy.lineage.id


class CompletionTally:
    """Counts and means of answers that come some at a time."""

    def __init__(self) -> None:
        self.count = 0
        self._distinct: set[int] = set()
        """Hashes of prompt and text."""
        self._finished = self._tokens = self._words = 0
        self._known = True
        """Whether all came with their tokens."""

    def add(self, completions: Iterable[Completion]) -> None:
        """Count some more."""
        for completion in completions:
            self.count += 1
            self._distinct.add(hash((completion.prompt_id, completion.text.strip())))
            self._finished += completion.finish_reason == "stop"
            self._tokens += len(completion.token_ids)
            self._words += len(completion.text.split())
            self._known &= bool(completion.token_ids)

    def summary(self) -> dict[str, Any]:
        """Counts, shares, and the mean length in tokens, or in words where those are not known."""
        return {
            "completions": self.count,
            "distinct": len(self._distinct) / self.count,
            "finished": self._finished / self.count,
            "mean_length": (self._tokens if self._known else self._words) / self.count,
            "unit": "tokens" if self._known else "words",
        }

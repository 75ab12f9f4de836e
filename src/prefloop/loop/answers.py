"""Answers in a run folder: a policy's own, and the candidates of training, by engine and by model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop.config.recipe import Recipe
from prefloop.config.sampling import Sampling
from prefloop.generation.generate import Writer, generate_chunks, generate_completions
from prefloop.loop.policies import Policies, writer_of
from prefloop.models.load import Policy
from prefloop.models.source import PolicySource
from prefloop.records import Completion, Prompt
from prefloop.store.grouped import ordered_on_disk
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder

if TYPE_CHECKING:
    from prefloop.generation.ray_policies import RayEngine
    from prefloop.generation.vllm import Engine


def generated(
    recipe: Recipe,
    folder: RunFolder,
    policy: Callable[[], Policy | Writer],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    prefix: str,
) -> list[Completion]:
    """Completions of a policy, which is loaded if they are still to be written, in ``{prefix}completions.parquet``."""
    return folder.records(
        f"{prefix}completions.parquet",
        Completion,
        lambda journal: generate_completions(
            policy(), prompts, sampling, seed=recipe.seed, journal=journal, label=f"{stage_label(prefix)}generate"
        ),
    )


def stage_label(prefix: str) -> str:
    """What a progress bar calls the files that start so."""
    return prefix.removeprefix("evaluation/").replace("-", " ").replace("/", " ")


def candidate_answers(
    recipe: Recipe, policies: Policies, prompts: Sequence[Prompt], journal: Journal, work: Path, round_: int = 0
) -> Iterator[list[Completion]]:
    """Answers of all models, by model, in the order of the prompts, some at a time; what is finished is in the journal.

    Args:
        work: folder for what is put in order on disk.
        round_: of a loop, of which every round draws anew.

    Raises:
        ModelError: a model or server that is not there or refuses; the extra ``prefloop[vllm]`` is not installed.
    """
    yield from _of_the_policy(recipe, policies, prompts, journal, work, round_)
    for name in recipe.generation.others:
        policies.release()
        written = generate_chunks(
            writer_of(recipe, PolicySource(name, dtype=recipe.policy.dtype, device=recipe.policy.device)),
            prompts,
            recipe.generation.sampling,
            seed=recipe.seed,
            round_=round_,
            journal=journal,
            label=f"generate {name}",
        )
        for some in ordered_on_disk(written, prompts, work):
            # Another model's token ids mean nothing to the policy: training encodes the text.
            yield [replace(completion, token_ids=(), logprobs=()) for completion in some]


def _of_the_policy(
    recipe: Recipe, policies: Policies, prompts: Sequence[Prompt], journal: Journal, work: Path, round_: int
) -> Iterator[list[Completion]]:
    settings = recipe.generation
    if settings.engine == "endpoint":
        from prefloop.generation.endpoint import Endpoint, EndpointClient
        from prefloop.loop.served import served_answers

        server = Endpoint(
            settings.endpoint or "", settings.served_model or recipe.policy.model, key_variable=settings.key_variable
        )
        return served_answers(EndpointClient(server), prompts, settings.sampling, recipe.seed, journal, round_)
    if settings.engine == "vllm":
        from prefloop.generation import vllm

        written = vllm.generate_chunks(
            _engine(recipe), prompts, settings.sampling, seed=recipe.seed, round_=round_, journal=journal
        )
    else:
        writer = policies.writer("before")
        written = generate_chunks(writer, prompts, settings.sampling, seed=recipe.seed, round_=round_, journal=journal)
    return ordered_on_disk(written, prompts, work)


def _engine(recipe: Recipe) -> Engine | RayEngine:
    """vLLM on the recipe's policy, in this process or in Ray's workers."""
    if recipe.engine.name == "ray":
        from prefloop.generation.ray_policies import RayEngine

        return RayEngine(PolicySource(recipe.policy.model, dtype=recipe.policy.dtype), recipe.engine)
    from prefloop.generation.vllm import load_engine

    return load_engine(recipe.policy.model, recipe.policy.dtype)

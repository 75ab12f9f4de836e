"""New prompts that the policy writes itself, after the seed's and its own earlier ones (Self-Instruct, 2212.10560)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from random import Random

from prefloop.config.loop import SelfRewardingConfig
from prefloop.config.sampling import Sampling
from prefloop.generation.generate import Writer, generate_completions
from prefloop.models.load import Policy
from prefloop.preferences.new_prompts import PromptFilter, asking_for_one, read_new_prompt
from prefloop.progress import note
from prefloop.records import Message, Prompt, content_id
from prefloop.store.journal import Journal

BATCH = 256
"""New prompts written before those known are looked at again: up to then none of them can be a shot."""
PATIENCE, WORTHWHILE = 3, 0.02
"""Batches in a row of which less than this share is new, after which no more prompts are written."""


def draw_prompts(
    policy: Policy | Writer,
    seeds: Sequence[Prompt],
    count: int,
    config: SelfRewardingConfig,
    *,
    seed: int,
    round_: int,
    avoid: Collection[str] = (),
    earlier: Sequence[Prompt] = (),
    journal: Journal | None = None,
) -> tuple[list[Prompt], dict[str, int]]:
    """`count` new prompts written by the policy, or fewer where it has no more to say; and what was dropped, why.

    Each is asked for after ``config.shots`` prompts: mostly seeds, ``config.shots_generated`` of them generated ones,
    as far as there are any.

    Args:
        avoid: texts of the evaluation's questions.
        earlier: prompts of earlier rounds: known, and generated shots.
    """
    found: list[str] = []
    texts = [prompt.messages[-1]["content"] for prompt in seeds]
    sieve = PromptFilter(config.rouge, avoid)
    own = [prompt.messages[-1]["content"] for prompt in earlier]
    sieve.know([*texts, *own])
    rng = Random(content_id("new prompts", seed, round_))
    written, poor = 0, 0
    while len(found) < count and poor < PATIENCE:
        shots = [_shots(rng, texts, [*own, *found], config) for _ in range(BATCH)]
        new = _written(policy, shots, config, seed, round_, journal)
        before = len(found)
        for text in new:
            if text is None:
                sieve.drops["unfinished"] += 1
            elif len(found) < count and sieve.admit(text):
                found.append(text)
        written += len(new)
        poor = poor + 1 if len(found) - before < WORTHWHILE * len(new) else 0
    if len(found) < count:
        note(f"only {len(found):,} of {count:,} new prompts: of the last {PATIENCE * BATCH} written hardly any was new")
    before_all = _shared_start(seeds)
    task = seeds[0].task
    prompts = [
        Prompt.create((*before_all, {"role": "user", "content": text}), task, "train", {"question": text, "own": True})
        for text in found
    ]
    return prompts, {"written": written, "kept": len(found), **dict(sorted(sieve.drops.items()))}


def _shots(rng: Random, seeds: Sequence[str], generated: Sequence[str], config: SelfRewardingConfig) -> tuple[str, ...]:
    """Prompts to show, in random order."""
    own = rng.sample(generated, min(config.shots_generated, len(generated)))
    shots = [*rng.sample(seeds, min(config.shots - len(own), len(seeds))), *own]
    rng.shuffle(shots)
    return tuple(shots)


def _written(
    policy: Policy | Writer,
    shots: Sequence[tuple[str, ...]],
    config: SelfRewardingConfig,
    seed: int,
    round_: int,
    journal: Journal | None,
) -> list[str | None]:
    """One new prompt after each set of shots; None where it was cut."""
    asked = {
        prompt.id: prompt for prompt in (Prompt.create(asking_for_one(shown), "new prompt", "train") for shown in shots)
    }
    sampling = Sampling(1, config.prompt_temperature, config.prompt_top_p, max_new_tokens=config.prompt_tokens)
    replies = generate_completions(
        policy, list(asked.values()), sampling, seed=seed, round_=round_, journal=journal, label="new prompts"
    )
    return [read_new_prompt(r.text, config.shots) if r.finish_reason == "stop" else None for r in replies]


def _shared_start(seeds: Sequence[Prompt]) -> tuple[Message, ...]:
    """The system message that every seed begins with, if there is one."""
    starts = {tuple(sorted(prompt.messages[0].items())) for prompt in seeds}
    first = seeds[0].messages[0]
    return (first,) if len(starts) == 1 and first["role"] == "system" else ()

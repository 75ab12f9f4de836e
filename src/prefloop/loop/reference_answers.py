"""SPIN (2401.01335): the task's own answer is chosen, the policy's own answer rejected; nobody judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prefloop.errors import DataError
from prefloop.preferences.build import PreferenceSet
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.tasks.nba.answers import render_answer

WRITER = "task"
"""In place of the lineage of a policy."""


def own_against_reference(
    prompts: Sequence[Prompt], completions: Sequence[Completion]
) -> tuple[list[Completion], PreferenceSet]:
    """The tasks' answers as completions, and one pair per prompt: with the policy's first sample.

    Raises:
        DataError: no prompt has an answer of its own.
    """
    first = {completion.prompt_id: completion for completion in reversed(completions) if completion.index == 0}
    drops: Counter[str] = Counter()
    answers: list[Completion] = []
    pairs: list[Preference] = []
    for prompt in prompts:
        text = reference_answer(prompt)
        own = first.get(prompt.id)
        if text is None or own is None:
            drops["prompt without an answer of its own" if text is None else "prompt without a sample"] += 1
        elif text.strip() == own.text.strip():
            drops["the policy's answer is the task's"] += 1
        else:
            answers.append(_completion(prompt, text))
            pairs.append(Preference.pair(prompt.id, answers[-1].id, own.id, 1.0, 0.0, "spin"))
    if not answers:
        raise DataError("loop.rejected=own: no prompt of this task has an answer of its own to learn from")
    counts = {"prompts": len(prompts), "kept pairs": len(pairs), **dict(sorted(drops.items()))}
    return answers, PreferenceSet(tuple(pairs), counts, "spin")


def reference_answer(prompt: Prompt) -> str | None:
    """What the task holds to be the answer: the gold plan and SQL, or the answer of an instruction set."""
    if "gold_plan" in prompt.meta:
        return render_answer(prompt.meta["gold_plan"], prompt.meta["gold_sql"])
    return prompt.meta.get("reference")


def _completion(prompt: Prompt, text: str) -> Completion:
    key = content_id("reference answer", prompt.id, text)
    return Completion(key, prompt.id, 0, 0, text, (), (), "stop", WRITER, {}, 0)

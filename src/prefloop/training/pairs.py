"""Preferences as token ids, by prompt: what cannot be trained on is dropped and counted, never cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from prefloop.errors import DataError
from prefloop.models.group import Group
from prefloop.models.load import Policy
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.records import Completion, Preference, Prompt

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptPairs:
    """All pairs of one prompt: its distinct completions as one group, and which is preferred to which."""

    prompt_id: str
    group: Group
    chosen: tuple[int, ...]
    """Position in ``group.completions`` of each pair's chosen completion."""
    rejected: tuple[int, ...]
    """The same for the rejected one; empty when training on chosen answers alone."""
    weights: tuple[float, ...]
    soft_labels: tuple[float, ...]
    """Probability that the chosen one is better."""


@dataclass(frozen=True, slots=True)
class PairIndex:
    """The B pairs of several prompts, by the place of their completions among the N of the batch."""

    chosen_B: Tensor
    rejected_B: Tensor
    """Empty when training on chosen answers alone."""
    weights_B: Tensor
    soft_labels_B: Tensor

    @classmethod
    def of(cls, units: Sequence[PromptPairs], device: torch.device) -> PairIndex:
        """The pairs of `units`, whose groups are laid out in this order."""
        starts = [0, *accumulate(len(unit.group.completions) for unit in units)]
        chosen = [start + i for start, unit in zip(starts, units, strict=False) for i in unit.chosen]
        rejected = [start + i for start, unit in zip(starts, units, strict=False) for i in unit.rejected]
        return cls(
            torch.tensor(chosen, device=device),
            torch.tensor(rejected, dtype=torch.long, device=device),
            torch.tensor([weight for unit in units for weight in unit.weights], device=device),
            torch.tensor([label for unit in units for label in unit.soft_labels], device=device),
        )

    def flipped(self, label_smoothing: float) -> Tensor:
        """[B] probability that the pair is the wrong way round: its soft label, smoothed."""
        return (1 - self.soft_labels_B) * (1 - label_smoothing) + self.soft_labels_B * label_smoothing


def prompt_pairs(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    objective: str,
) -> tuple[list[PromptPairs], dict[str, int]]:
    """Pairs by prompt, in the order of prompt and preference ids (whatever order was given), and the drops.

    Raises:
        DataError: a preference names an unknown prompt or completion, or nothing is left to train on.
    """
    drops: Counter[str] = Counter()
    found: list[PromptPairs] = []
    ordered = sorted(preferences, key=lambda preference: (preference.prompt_id, preference.id))
    for prompt_id, group in groupby(ordered, key=lambda preference: preference.prompt_id):
        try:
            ids = tuple(encode_prompt(policy.tokenizer, prompts[prompt_id].messages))
            sides = [(p, *_sides(policy, p, completions)) for p in group]
        except KeyError as error:
            raise DataError(f"a preference of prompt {prompt_id} names {error}, which was not given") from error
        kept = []
        for preference, chosen, rejected in sides:
            reason = _obstacle(policy, preference, len(ids), chosen, rejected, completions, objective)
            if reason:
                drops[reason] += 1
            else:
                kept.append((preference, chosen, rejected))
        if kept:
            found.append(_prompt_pairs(prompt_id, ids, kept, objective))
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "none given"
        raise DataError(f"no pair to train on ({reasons}): ask for more prompts or samples, or other pairs")
    return found, dict(sorted(drops.items()))


def pair_groups(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
) -> list[Group]:
    """One group (chosen, rejected) per preference, in the order given, nothing dropped."""
    return [
        Group(
            tuple(encode_prompt(policy.tokenizer, prompts[preference.prompt_id].messages)),
            _sides(policy, preference, completions),
        )
        for preference in preferences
    ]


def _sides(policy: Policy, preference: Preference, completions: Mapping[str, Completion]) -> tuple[Ids, Ids]:
    """The ids that were generated; for imported text the encoded text with its end token."""
    sides = [completions[preference.chosen], completions[preference.rejected]]
    chosen, rejected = (c.token_ids or tuple(encode_completion(policy.tokenizer, c.text)) for c in sides)
    return chosen, rejected


def _obstacle(
    policy: Policy,
    preference: Preference,
    prompt_length: int,
    chosen: Ids,
    rejected: Ids,
    completions: Mapping[str, Completion],
    objective: str,
) -> str | None:
    """Why a pair cannot be trained on, or None."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    if preference.weight <= 0:
        return "weight of zero"
    if objective != "sft" and (len(preference.ranking) < 2 or chosen == rejected):
        return "chosen and rejected the same"
    if completions[preference.chosen].finish_reason == "length":
        return "unfinished chosen answer"
    longest = len(chosen) if objective == "sft" else max(len(chosen), len(rejected))
    if context and prompt_length + longest > context:
        return "longer than the model's context"
    return None


def _prompt_pairs(
    prompt_id: str, prompt_ids: Ids, kept: Sequence[tuple[Preference, Ids, Ids]], objective: str
) -> PromptPairs:
    place: dict[Ids, int] = {}
    chosen = tuple(place.setdefault(ids, len(place)) for _, ids, _ in kept)
    rejected = () if objective == "sft" else tuple(place.setdefault(ids, len(place)) for _, _, ids in kept)
    return PromptPairs(
        prompt_id,
        Group(prompt_ids, tuple(place)),
        chosen,
        rejected,
        tuple(preference.weight for preference, _, _ in kept),
        tuple(preference.soft_label for preference, _, _ in kept),
    )

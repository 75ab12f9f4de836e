"""Preferences as token ids, by prompt: what cannot be trained on is dropped and counted, never cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations, groupby

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
    margins: tuple[float, ...]
    """How much better it was judged."""
    tiers: tuple[int, ...]
    """Tier of each completion in the prompt's longest ranking, 0 the best."""


@dataclass(frozen=True, slots=True)
class PairIndex:
    """The B pairs of G prompts, by the place of their completions among the N of the batch."""

    chosen_B: Tensor
    rejected_B: Tensor
    """Empty when training on chosen answers alone."""
    weights_B: Tensor
    soft_labels_B: Tensor
    margins_B: Tensor
    group_N: Tensor
    """Prompt of each completion, 0..G-1."""
    tier_N: Tensor
    weights_G: Tensor
    """Sum of the weights of a prompt's pairs."""

    @classmethod
    def of(cls, units: Sequence[PromptPairs], device: torch.device) -> PairIndex:
        """The pairs of `units`, whose groups are laid out in this order."""
        starts = [0, *accumulate(len(unit.group.completions) for unit in units)]
        places = list(zip(starts, units, strict=False))
        sizes = torch.tensor([len(unit.group.completions) for unit in units])

        def floats(name: str) -> Tensor:
            return torch.tensor([value for unit in units for value in getattr(unit, name)], device=device)

        return cls(
            torch.tensor([start + i for start, unit in places for i in unit.chosen], device=device),
            torch.tensor([start + i for start, unit in places for i in unit.rejected], dtype=torch.long, device=device),
            floats("weights"),
            floats("soft_labels"),
            floats("margins"),
            torch.repeat_interleave(torch.arange(len(units)), sizes).to(device),
            torch.tensor([tier for unit in units for tier in unit.tiers], device=device),
            torch.tensor([sum(unit.weights) for unit in units], device=device),
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
    rankings: str = "ends",
) -> tuple[list[PromptPairs], dict[str, int]]:
    """Pairs by prompt, in the order of prompt and preference ids (whatever order was given), and the drops.

    Args:
        rankings: of a preference with more than two answers take the ``ends`` (best against last), or
            ``all-pairs`` of different tiers, which share its weight. The objective ``plackett-luce`` takes the
            whole ranking.

    Raises:
        DataError: a preference names an unknown prompt or completion, or nothing is left to train on.
    """
    drops: Counter[str] = Counter()
    found: list[PromptPairs] = []
    split = rankings == "all-pairs" or objective == "plackett-luce"
    pairwise = [p for preference in preferences for p in (_expanded(preference) if split else [preference])]
    ordered = sorted(pairwise, key=lambda preference: (preference.prompt_id, preference.id, preference.ranking))
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


def _expanded(preference: Preference) -> list[Preference]:
    """Every pair of answers of different tiers, as preferences that share the weight."""
    tiers = preference.ranking
    pairs = [(i, j, a, b) for i, j in combinations(range(len(tiers)), 2) for a in tiers[i] for b in tiers[j]]
    return [
        replace(
            preference,
            ranking=((a,), (b,)),
            scores=(preference.scores[i], preference.scores[j]),
            margin=preference.scores[i] - preference.scores[j],
            weight=preference.weight / len(pairs),
        )
        for i, j, a, b in pairs
    ]


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
        tuple(preference.margin for preference, _, _ in kept),
        _tiers(len(place), chosen, rejected),
    )


def _tiers(count: int, chosen: Sequence[int], rejected: Sequence[int]) -> tuple[int, ...]:
    """How many others are above each completion, along the longest chain of pairs: 0 for one that nobody beats."""
    above = [0] * count
    for _ in range(count):  # pairs of a ranking have no cycle; a contradiction between pairs stops here
        for better, worse in zip(chosen, rejected, strict=False):
            above[worse] = max(above[worse], min(above[better] + 1, count))
    return tuple(above)

"""Preferences as token ids, by prompt: what cannot be trained on is dropped and counted, never cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, combinations, groupby

import torch
from torch import Tensor

from prefloop.errors import DataError, ModelError
from prefloop.models.group import Group
from prefloop.models.load import Policy
from prefloop.models.template import encode_answer, encode_prompt, end_token_ids, thinking_length
from prefloop.records import Completion, Preference, Prompt

Answer = tuple[tuple[int, ...], int]
"""Token ids of an answer, and how many of its first are not scored."""


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
    recorded: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """Of each completion: the lineage id of the policy that wrote it, and its log-probabilities then (or none)."""


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
    thinking: str = "scored",
) -> tuple[list[PromptPairs], dict[str, int]]:
    """Pairs by prompt, in the order of prompt and preference ids (whatever order was given), and the drops.

    Args:
        thinking: whether thinking sections of answers are ``scored``, or ``context`` to what follows them.
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
    encode = _Encoder(policy, prompts, completions, thinking)
    # Two rankings of one prompt say nothing of each other's answers: each is a unit of its own.
    ranked = objective == "plackett-luce"
    for (prompt_id, _), group in groupby(ordered, key=lambda p: (p.prompt_id, p.id if ranked else "")):
        kept = []
        for preference in group:
            try:
                sides = encode.pair(preference)
            except _UnreadableError as error:
                drops[str(error)] += 1
                continue
            reason = encode.obstacle(preference, *sides, objective)
            if reason:
                drops[reason] += 1
            else:
                kept.append((preference, *sides))
        if kept:
            found.append(_prompt_pairs(prompt_id, encode, kept, objective))
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "none given"
        first = f"; {encode.first_error}" if encode.first_error else ""
        raise DataError(f"no pair to train on ({reasons}): ask for more prompts or samples, or other pairs{first}")
    return found, dict(sorted(drops.items()))


def pair_groups(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
) -> list[Group]:
    """One group (chosen, rejected) per preference, in the order given, nothing dropped."""
    encode = _Encoder(policy, prompts, completions, "scored")
    groups = []
    for preference in preferences:
        ids, unscored = zip(*encode.pair(preference), strict=True)
        groups.append(Group(encode.prompt(preference.prompt_id), ids, unscored))
    return groups


class _UnreadableError(DataError):
    """Why an answer cannot be put into tokens."""


@dataclass
class _Encoder:
    """Prompts and answers as token ids; answers that a policy generated keep theirs."""

    policy: Policy
    prompts: Mapping[str, Prompt]
    completions: Mapping[str, Completion]
    thinking: str
    first_error: str = ""
    """What is wrong with the first answer that does not fit the chat template."""
    recorded: dict[tuple[str, Answer], tuple[str, tuple[float, ...]]] = field(default_factory=dict)
    """Log-probabilities of generated answers, with who wrote them."""
    _known: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def prompt(self, prompt_id: str) -> tuple[int, ...]:
        if prompt_id not in self._known:
            try:
                messages = self.prompts[prompt_id].messages
            except KeyError as error:
                raise DataError(f"a preference names the prompt {error}, which was not given") from error
            self._known[prompt_id] = tuple(encode_prompt(self.policy.tokenizer, messages))
        return self._known[prompt_id]

    def pair(self, preference: Preference) -> tuple[Answer, Answer]:
        """The chosen and the rejected answer."""
        try:
            answers = [self.completions[preference.chosen], self.completions[preference.rejected]]
        except KeyError as error:
            raise DataError(
                f"a preference of prompt {preference.prompt_id} names {error}, which was not given"
            ) from error
        chosen, rejected = (self._answer(answer) for answer in answers)
        return chosen, rejected

    def _answer(self, completion: Completion) -> Answer:
        tokenizer = self.policy.tokenizer
        ids, added = list(completion.token_ids), 0
        if not ids:
            try:
                ids, added = encode_answer(tokenizer, self.prompts[completion.prompt_id].messages, completion.text)
            except ModelError as error:
                self.first_error = self.first_error or str(error)
                raise _UnreadableError("answer not as the chat template renders it") from error
        if self.thinking == "context":
            added = max(added, thinking_length(tokenizer, ids))
        answer = tuple(ids), added
        if len(completion.logprobs) == len(ids):
            self.recorded[completion.prompt_id, answer] = completion.policy, completion.logprobs
        return answer

    def obstacle(self, preference: Preference, chosen: Answer, rejected: Answer, objective: str) -> str | None:
        """Why a pair cannot be trained on, or None."""
        context = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        if preference.weight <= 0:
            return "weight of zero"
        answers = [chosen] if objective == "sft" else [chosen, rejected]
        if objective != "sft" and (len(preference.ranking) < 2 or chosen[0] == rejected[0]):
            return "chosen and rejected the same"
        best = self.completions[preference.chosen]
        if best.finish_reason == "length":
            return "unfinished chosen answer"
        if best.finish_reason == "stop" and chosen[0][-1] not in self._ends:
            return "chosen answer without an end token"
        if any(unscored and unscored >= len(ids) - 1 for ids, unscored in answers):  # the end token is no answer
            return "nothing but thinking"
        if context and len(self.prompt(preference.prompt_id)) + max(len(ids) for ids, _ in answers) > context:
            return "longer than the model's context"
        return None

    @cached_property
    def _ends(self) -> set[int]:
        return end_token_ids(self.policy.model, self.policy.tokenizer)


def _expanded(preference: Preference) -> list[Preference]:
    """Every pair of answers of different tiers, as preferences that share the weight."""
    tiers = preference.ranking
    if len(tiers) < 2:
        return [preference]  # a tie: to be dropped and counted
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
    prompt_id: str,
    encode: _Encoder,
    kept: Sequence[tuple[Preference, Answer, Answer]],
    objective: str,
) -> PromptPairs:
    place: dict[Answer, int] = {}
    chosen = tuple(place.setdefault(answer, len(place)) for _, answer, _ in kept)
    rejected = () if objective == "sft" else tuple(place.setdefault(answer, len(place)) for _, _, answer in kept)
    answers, unscored = zip(*place, strict=True)
    return PromptPairs(
        prompt_id,
        Group(encode.prompt(prompt_id), answers, unscored if any(unscored) else ()),
        chosen,
        rejected,
        tuple(preference.weight for preference, _, _ in kept),
        tuple(preference.soft_label for preference, _, _ in kept),
        tuple(preference.margin for preference, _, _ in kept),
        _tiers(len(place), chosen, rejected),
        tuple(encode.recorded.get((prompt_id, answer), ("", ())) for answer in place),
    )


def _tiers(count: int, chosen: Sequence[int], rejected: Sequence[int]) -> tuple[int, ...]:
    """How many others are above each completion, along the longest chain of pairs: 0 for one that nobody beats."""
    above = [0] * count
    for _ in range(count):  # pairs of a ranking have no cycle; a contradiction between pairs stops here
        for better, worse in zip(chosen, rejected, strict=False):
            above[worse] = max(above[worse], min(above[better] + 1, count))
    return tuple(above)

"""What to look at before training: how far length decides which answer is chosen, and which one the judge likes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prefloop.records import Completion, Judgement, Preference

Groups = list[list[tuple[float, int]]]
"""Score and length of the answers to each prompt."""


@dataclass
class _Lengths:
    """Sums over the pairs so far, in one unit of length."""

    chosen: int = 0
    rejected: int = 0
    longer: float = 0.0
    """Pairs whose chosen answer is longer; ties count half."""
    correlations: array[float] = field(default_factory=lambda: array("d"))

    def add(self, preferences: Iterable[Preference], length: Mapping[str, int], groups: Groups) -> None:
        for preference in preferences:
            chosen, rejected = length[preference.chosen], length[preference.rejected]
            self.chosen += chosen
            self.rejected += rejected
            self.longer += 0.5 if chosen == rejected else float(chosen > rejected)
        self.correlations.extend(_correlations(groups))


class Diagnostics:
    """The figures of `diagnostics`, of prompts that come some at a time with all their answers."""

    def __init__(self) -> None:
        self._tokens, self._characters = _Lengths(), _Lengths()
        self._known = True
        self._margins: array[float] = array("d")

    def add(
        self, preferences: Sequence[Preference], completions: Sequence[Completion], judgements: Sequence[Judgement]
    ) -> None:
        """Count some more."""
        self._known = self._known and all(completion.token_ids for completion in completions)
        self._margins.extend(preference.margin for preference in preferences)
        sizes = {"tokens": {c.id: len(c.token_ids) for c in completions}} if self._known else {}
        sizes["characters"] = {c.id: len(c.text) for c in completions}
        for unit, length in sizes.items():
            groups: dict[str, list[tuple[float, int]]] = {}
            for judgement in judgements:
                answer = judgement.completion_ids[0] if judgement.kind == "score" else None
                if answer in length and judgement.value is not None:
                    groups.setdefault(judgement.prompt_id, []).append((judgement.value, length[answer]))
            lengths = self._tokens if unit == "tokens" else self._characters
            lengths.add(preferences, length, list(groups.values()))

    def figures(self) -> dict[str, float | int | None]:
        """As `diagnostics`."""
        lengths, pairs = self._tokens if self._known else self._characters, len(self._margins)
        correlations = lengths.correlations
        return {
            "pairs": pairs,
            "chosen_longer": lengths.longer / pairs if pairs else None,
            "token_ratio": lengths.chosen / max(1, lengths.rejected) if pairs else None,
            "margin_mean": sum(self._margins) / pairs if pairs else None,
            "score_length_correlation": sum(correlations) / len(correlations) if correlations else None,
        }


def diagnostics(
    preferences: Iterable[Preference], completions: Sequence[Completion], judgements: Sequence[Judgement]
) -> dict[str, float | int | None]:
    """What to look at before training: length bias of the pairs and of the judge.

    Returns:
        ``pairs``; ``chosen_longer``, share of pairs whose chosen answer has more tokens (ties count half; characters
        in place of tokens where answers came without them);
        ``token_ratio``, mean tokens chosen over mean tokens rejected; ``margin_mean``; and
        ``score_length_correlation``, Spearman's ρ of score and length within prompts, averaged over them.
    """
    found = Diagnostics()
    found.add(list(preferences), completions, judgements)
    return found.figures()


def _correlations(groups: Groups) -> list[float]:
    """Spearman's ρ of score and length in each group, all groups of one size at once; none where one is constant."""
    found = []
    for size in sorted({len(group) for group in groups if len(group) > 1}):
        from scipy.stats import rankdata

        same = np.array([group for group in groups if len(group) == size])
        ranks = rankdata(same, axis=1)
        ranks -= ranks.mean(axis=1, keepdims=True)
        spread = np.sqrt((ranks**2).sum(axis=1))
        varied = (spread > 0).all(axis=1)
        product = ranks[varied].prod(axis=2).sum(axis=1)
        found += (product / spread[varied].prod(axis=1)).tolist()
    return found

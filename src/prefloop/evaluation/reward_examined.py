"""What a reward model is worth on prompts that it has not seen: against raters it has not heard, and against the truth.

Verdicts of people are noisy, so a reward model can agree with the truth more often than with them: how often the raters
themselves agree with it stands beside. Shapes: [N] pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from prefloop.evaluation.labels import label_gap
from prefloop.maths.agreement import TIE, krippendorff_alpha
from prefloop.maths.calibration import Array, brier_score, calibration_error, fit_temperature, tempered
from prefloop.maths.statistics import SHARE, clustered_mean_interval
from prefloop.preferences.votes import majority
from prefloop.records import Completion, Judgement

Estimate = dict[str, float]
"""``estimate`` with its interval, ``ci_low`` and ``ci_high``."""


@dataclass(frozen=True, slots=True)
class RatedPair:
    """What one rater said of two answers, alone or within a ranking."""

    prompt_id: str
    first: str
    """Completion id; the smaller of the two, so that an order shown means nothing."""
    second: str
    judge: str
    label: float
    """1 where the first is better, 0 the second, ½ for a tie."""


def rated_pairs(judgements: Iterable[Judgement]) -> list[RatedPair]:
    """Every two answers of every verdict; verdicts that are left out of training, or prefer nothing, give none."""
    found = []
    for judgement in judgements:
        for said in majority([judgement], Counter()).get(judgement.prompt_id, []):
            place = {answer: i for i, tier in enumerate(said.ranking) for answer in tier}
            for first, second in combinations(sorted(place), 2):
                label = (np.sign(place[second] - place[first]) + 1) / 2
                found.append(RatedPair(said.prompt_id, first, second, judgement.judge, float(label)))
    return found


def accuracy(
    pairs: Sequence[RatedPair], scores: Mapping[str, float], clusters: Mapping[str, str] | None = None
) -> Estimate | None:
    """Share of the pairs with a better answer in which it scores higher, equal scores ½.

    Args:
        scores: by completion id; pairs with an answer that has none are left out.
        clusters: by prompt id, what the interval is clustered by; default the prompt.

    Returns:
        None where fewer than two clusters are left.
    """
    decided = [pair for pair in pairs if pair.label != TIE and scores.keys() >= {pair.first, pair.second}]
    above = [np.sign(scores[pair.first] - scores[pair.second]) for pair in decided]
    hits = [(1 + sign * (2 * pair.label - 1)) / 2 for sign, pair in zip(above, decided, strict=True)]
    return _estimate(hits, [(clusters or {}).get(pair.prompt_id, pair.prompt_id) for pair in decided])


def calibration(
    fitted: Sequence[RatedPair], examined: Sequence[RatedPair], scores: Mapping[str, float]
) -> dict[str, float | None]:
    """``brier`` and ``ece`` of σ(difference of scores / temperature) on `examined`.

    Args:
        fitted: pairs that the ``temperature`` is fitted on; other verdicts than those examined.

    Returns:
        All None where there is nothing to fit or to examine.
    """
    if not (fitted := _scored(fitted, scores)) or not (examined := _scored(examined, scores)):
        return {"brier": None, "ece": None, "temperature": None}
    temperature = fit_temperature(_logits(fitted, scores), [pair.label for pair in fitted])
    probability, labels = tempered(_logits(examined, scores), temperature), [pair.label for pair in examined]
    return {
        "brier": brier_score(probability, labels),
        "ece": calibration_error(probability, labels),
        "temperature": temperature,
    }


def against_truth(
    scores: Mapping[str, float],
    truth: Mapping[str, float],
    completions: Iterable[Completion],
    clusters: Mapping[str, str],
) -> dict[str, Any]:
    """As `labels.label_gap`, with its accuracy as ``accuracy``, on these answers.

    Args:
        truth: 1 or 0, right or wrong, by completion id.
        clusters: the template by prompt id.
    """
    known = [completion for completion in completions if completion.id in truth]
    judged = [Judgement.create(c.prompt_id, (c.id,), "reward", "score", scores[c.id]) for c in known if c.id in scores]
    right = [
        Judgement.create(c.prompt_id, (c.id,), "truth", "score", truth[c.id], {"correct": truth[c.id]}) for c in known
    ]
    gap = label_gap(judged, right, clusters)
    found = gap.pop("pairwise_accuracy")
    low, high = gap.pop("ci_low", None), gap.pop("ci_high", None)
    return {"accuracy": None if found is None else {"estimate": found, "ci_low": low, "ci_high": high}, **gap}


def raters_figures(
    pairs: Sequence[RatedPair], truth: Mapping[str, float], clusters: Mapping[str, str]
) -> dict[str, Any]:
    """What the raters themselves are worth: ``against_truth`` as a reward model's, ``alpha`` among them, ``pairs``."""
    apart = [
        pair for pair in pairs if truth.keys() >= {pair.first, pair.second} and truth[pair.first] != truth[pair.second]
    ]
    hits = [1 - abs(pair.label - (truth[pair.first] > truth[pair.second])) for pair in apart]
    return {
        "against_truth": _estimate(hits, [clusters.get(pair.prompt_id, pair.prompt_id) for pair in apart]),
        "alpha": _alpha(pairs),
        "pairs": len(pairs),
    }


def _alpha(pairs: Sequence[RatedPair]) -> float | None:
    """Krippendorff's α over pairs of answers; a rater who saw two answers twice counts with the last verdict."""
    rows = {name: i for i, name in enumerate(sorted({pair.judge for pair in pairs}))}
    columns = {key: i for i, key in enumerate(sorted({(pair.first, pair.second) for pair in pairs}))}
    ratings = np.full((len(rows), len(columns)), np.nan)
    for pair in pairs:
        ratings[rows[pair.judge], columns[pair.first, pair.second]] = pair.label
    return krippendorff_alpha(ratings) if len(rows) > 1 else None


def _scored(pairs: Sequence[RatedPair], scores: Mapping[str, float]) -> list[RatedPair]:
    return [pair for pair in pairs if scores.keys() >= {pair.first, pair.second}]


def _logits(pairs: Sequence[RatedPair], scores: Mapping[str, float]) -> Array:
    return np.array([scores[pair.first] - scores[pair.second] for pair in pairs], dtype=np.float64)


def _estimate(values: Sequence[float], clusters: Sequence[str]) -> Estimate | None:
    if len(set(clusters)) < 2:
        return None
    found = clustered_mean_interval(values, clusters, bounds=SHARE)
    return {"estimate": found.estimate, "ci_low": found.low, "ci_high": found.high}

"""What a judge that scores answers is worth beside the truth: the table of Self-Rewarding (2401.10020), and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

from prefloop.evaluation.labels import label_gap
from prefloop.evaluation.rounds import CLOSE, judge_health
from prefloop.maths.statistics import SHARE, clustered_mean_interval
from prefloop.records import Judgement

HIGHEST = 5.0
"""The best score of a rubric."""


def judge_quality(
    judgements: Sequence[Judgement], truth: Sequence[Judgement], templates: Mapping[str, str]
) -> dict[str, Any]:
    """How far scores order answers as the truth does.

    Args:
        judgements: the judge's scores.
        truth: what people or a better judge gave the same answers; where ``objectives["correct"]`` stands, execution
            said whether the answer is right.
        templates: by prompt id, what intervals are clustered by; a prompt without one is a cluster of its own.

    Returns:
        ``accuracy``: of a prompt's pairs of one right and one wrong answer the share in which the right one has the
        higher score, a tie counting half; None where nothing says what is right, or one cluster is all there is.
        ``ranked``: the same over all pairs to which the truth gives different scores. Both with ``estimate``,
        ``ci_low``, ``ci_high`` and ``n``. ``spearman``: rank correlation within a prompt, averaged over those whose
        scores vary on both sides. ``exact_match``: share of prompts with differing true scores whose answers all
        stand in the true order, ties included. ``five_best``: of the answers to which the judge gives a 5, the share
        that no other answer of the prompt beats in truth. Then `judge_health`, and ``answers``.
    """
    given = {j.completion_ids[0]: j.value for j in judgements if j.kind == "score"}
    groups: dict[str, list[tuple[float, float]]] = {}
    for judgement in truth:
        own = given.get(judgement.completion_ids[0])
        if judgement.value is not None and own is not None:
            groups.setdefault(judgement.prompt_id, []).append((own, judgement.value))
    wins, clusters = _ordered(groups, templates)
    known = [judgement for judgement in truth if "correct" in judgement.objectives]
    gap = label_gap(judgements, known, templates) if known else {"pairwise_accuracy": None}
    telling = [group for group in groups.values() if len({true for _, true in group}) > 1]
    fives = [
        true == max(t for _, t in group) for group in groups.values() for own, true in group if own > HIGHEST - CLOSE
    ]
    return {
        "answers": len(truth),
        "accuracy": None
        if gap["pairwise_accuracy"] is None
        else {"estimate": gap["pairwise_accuracy"], **{key: gap[key] for key in ("ci_low", "ci_high", "n")}},
        "ranked": _interval(wins, clusters),
        "spearman": _mean([rho for group in telling if (rho := _spearman(group)) is not None]),
        "exact_match": _mean([float(_same_order(group)) for group in telling]),
        "five_best": _mean([float(best) for best in fives]),
        **judge_health(judgements, HIGHEST),
    }


def _ordered(
    groups: Mapping[str, Sequence[tuple[float, float]]], templates: Mapping[str, str]
) -> tuple[list[float], list[str]]:
    """Whether each pair that the truth tells apart is ordered rightly (a tie: half), and its cluster."""
    wins, clusters = [], []
    for prompt_id, group in sorted(groups.items()):
        for (a, true_a), (b, true_b) in combinations(group, 2):
            if true_a != true_b:
                wins.append(0.5 if abs(a - b) < CLOSE else float((a > b) == (true_a > true_b)))
                clusters.append(templates.get(prompt_id, prompt_id))
    return wins, clusters


def _interval(wins: Sequence[float], clusters: Sequence[str]) -> dict[str, float] | None:
    if len(set(clusters)) < 2:
        return None
    found = clustered_mean_interval(wins, clusters, bounds=SHARE)
    return {"estimate": found.estimate, "ci_low": found.low, "ci_high": found.high, "n": len(wins)}


def _spearman(group: Sequence[tuple[float, float]]) -> float | None:
    from scipy.stats import spearmanr

    own, true = zip(*group, strict=True)
    return float(spearmanr(own, true).statistic) if len(set(own)) > 1 else None


def _same_order(group: Sequence[tuple[float, float]]) -> bool:
    def sign(a: float, b: float) -> int:
        return 0 if abs(a - b) < CLOSE else 1 if a > b else -1

    return all(sign(a[0], b[0]) == sign(a[1], b[1]) for a, b in combinations(group, 2))


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None

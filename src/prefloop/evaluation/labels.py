"""How far the labels of a judge agree with execution, which can tell right from wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from prefloop.maths.statistics import SHARE, clustered_mean_interval
from prefloop.records import Judgement


def label_gap(
    labels: Iterable[Judgement], execution: Iterable[Judgement], templates: Mapping[str, str]
) -> dict[str, Any]:
    """Pairwise accuracy of a judge against execution, and what its favourite answers are worth.

    Args:
        labels, execution: ``score`` judgements of the same completions.
        templates: by prompt id, what the interval is clustered by; a prompt without one is a cluster of its own.

    Returns:
        ``pairwise_accuracy``: of all pairs of a prompt's answers of which exactly one is correct, the share in which
        the judge scores that one higher (a tie counts half), with ``n`` and its interval clustered by template.
        ``best_correct``: share of prompts whose best-scored answer is correct (of ties, a random one), and
        ``best_possible``: share that has a correct answer at all. ``unscored``: answers without a score of the judge.
    """
    scores = {j.completion_ids[0]: j.value for j in labels if j.kind == "score"}
    correct: dict[str, dict[str, float]] = {}
    for judgement in execution:
        if judgement.value is not None:
            right = judgement.objectives["correct"]
            correct.setdefault(judgement.prompt_id, {})[judgement.completion_ids[0]] = right
    wins: list[float] = []
    clusters: list[str] = []
    best: list[float] = []
    possible: list[float] = []
    for prompt_id, verdicts in sorted(correct.items()):
        scored = {i: (s, verdicts[i]) for i in sorted(verdicts) if (s := scores.get(i)) is not None}
        for (a, right_a), (b, right_b) in combinations(scored.values(), 2):
            if right_a != right_b:
                better, worse = (a, b) if right_a > right_b else (b, a)
                wins.append((better > worse) + 0.5 * (better == worse))
                clusters.append(templates.get(prompt_id, prompt_id))
        if scored:
            top = max(score for score, _ in scored.values())
            tied = [right for score, right in scored.values() if score == top]
            best.append(sum(tied) / len(tied))
            possible.append(max(right for _, right in scored.values()))
    found: dict[str, Any] = {
        "best_correct": sum(best) / len(best) if best else None,
        "best_possible": sum(possible) / len(possible) if possible else None,
        "prompts": len(best),
        "unscored": sum(scores.get(i) is None for verdicts in correct.values() for i in verdicts),
    }
    if len(set(clusters)) < 2:
        return {**found, "pairwise_accuracy": None, "n": 0}
    interval = clustered_mean_interval(wins, clusters, bounds=SHARE)
    accuracy = {"pairwise_accuracy": interval.estimate, "ci_low": interval.low, "ci_high": interval.high}
    return {**found, **accuracy, "n": len(wins)}

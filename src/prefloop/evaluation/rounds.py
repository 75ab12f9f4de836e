"""Figures of one round of a loop, from its records: length, diversity, the judge's health, accuracy.

They are what guards judge and what the page of all rounds shows. A figure that the records cannot give is None, and an
answer without a score takes part in none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import sqrt
from statistics import fmean, pstdev
from typing import Any

from prefloop.errors import DataError
from prefloop.evaluation.metrics import token_count
from prefloop.maths.diversity import distinct_n, word_tokens
from prefloop.maths.statistics import SHARE, Interval, clustered_mean_interval, paired_bootstrap
from prefloop.records import Completion, Judgement, Prompt
from prefloop.tasks.nba.text import normalised

UNMEASURED = "not measured"
"""Name of the finding that lists the guards whose figures a round does not have."""
Z = 1.96
"""Standard errors on either side of a 95% interval."""
CLOSE = 1e-9
"""Scores nearer than this are equal: averages of several verdicts differ in their last digit."""


def length_figures(completions: Sequence[Completion], start: Sequence[Completion]) -> dict[str, float]:
    """Mean tokens of a round's answers, and that over round 0's on the questions that both answered.

    Raises:
        DataError: no question was answered by both.
    """
    now, then = ({c.prompt_id: token_count(c) for c in side} for side in (completions, start))
    both = sorted(now.keys() & then.keys())
    if not both:
        raise DataError("no question was answered both in this round and at the start: lengths cannot be compared")
    ratio = sum(now[prompt] for prompt in both) / sum(then[prompt] for prompt in both)
    return {"mean": fmean(token_count(c) for c in completions), "ratio_start": ratio}


def diversity_figures(completions: Sequence[Completion]) -> dict[str, float | None]:
    """How different the samples of one prompt are; greedy answers and prompts with a single sample are left out.

    Returns:
        ``distinct_2``: distinct over all bigrams of words of a prompt's samples, averaged over prompts: it falls with
        the number of samples and with their length, so compare rounds of as many. ``duplicates``: share of a prompt's
        samples whose text another one of them has already (white space and case aside), averaged over prompts.
    """
    groups: dict[str, list[str]] = {}
    for completion in completions:
        if completion.index >= 0:
            groups.setdefault(completion.prompt_id, []).append(" ".join(completion.text.lower().split()))
    several = [texts for _, texts in sorted(groups.items()) if len(texts) > 1]
    distinct = [found for texts in several if (found := distinct_n(map(word_tokens, texts), 2)) is not None]
    return {
        "distinct_2": _mean(distinct),
        "duplicates": _mean([1 - len(set(texts)) / len(texts) for texts in several]),
    }


def judge_health(judgements: Sequence[Judgement], highest: float | None = None) -> dict[str, Any]:
    """Whether a judge's scores still tell answers apart. Comparisons and rankings have no scores and no part in it.

    Args:
        highest: the best score that the judge can give, such as a rubric's 5; none: the best it gave here. A judge
            that gives everything the same score is then at its highest everywhere, which is as useless.

    Returns:
        ``maximum_share``: share of scored answers with the highest score. ``tie_rate``: share of pairs of a prompt's
        answers with equal scores. ``spread``: standard deviation of a prompt's scores, averaged over prompts with at
        least two. ``unscored``: answers without a score.
    """
    scores = [j for j in judgements if j.kind == "score"]
    groups: dict[str, list[float]] = {}
    for judgement in scores:
        if judgement.value is not None:
            groups.setdefault(judgement.prompt_id, []).append(judgement.value)
    given = [value for values in groups.values() for value in values]
    top = highest if highest is not None else max(given, default=0.0)
    ties = [abs(a - b) < CLOSE for values in groups.values() for a, b in combinations(values, 2)]
    return {
        "maximum_share": _mean([float(value > top - CLOSE) for value in given]),
        "tie_rate": _mean([float(tie) for tie in ties]),
        "spread": _mean([pstdev(values) for _, values in sorted(groups.items()) if len(values) > 1]),
        "unscored": len(scores) - len(given),
    }


def prompt_overlap(
    prompts: Sequence[Prompt], earlier: Sequence[Prompt], evaluation: Sequence[Prompt]
) -> dict[str, int]:
    """Prompts of a round that an earlier round had (``rounds``) or the evaluation asks (``evaluation``): must be 0.

    Prompts are the same where their texts are, capitals, punctuation and white space aside.
    """
    own = [_text(prompt) for prompt in prompts]
    known = {"rounds": {_text(p) for p in earlier}, "evaluation": {_text(p) for p in evaluation}}
    return {name: sum(text in texts for text in own) for name, texts in known.items()}


def round_accuracy(
    before: Mapping[str, float] | None,
    after: Mapping[str, float],
    clusters: Mapping[str, str],
    seed: int,
    draws: int = 10_000,
) -> dict[str, Any]:
    """Accuracy of a round and its paired gain, with intervals clustered by template.

    Args:
        before, after: 1 or 0 by prompt id; an unscored question is left out of its mapping. None: no gain.
        clusters: template by prompt id; a prompt without one is a cluster of its own.

    Returns:
        ``accuracy`` of `after`, and ``gain`` on the questions that both have (None where `before` is), each with
        ``estimate``, ``ci_low``, ``ci_high``; ``n`` questions of `after`, ``paired`` questions of both.

    Raises:
        DataError: the questions belong to fewer than two templates, which say nothing about how templates differ.
    """
    asked = sorted(after)
    paired = sorted(after.keys() & before.keys()) if before is not None else []
    for questions in (asked, paired) if before is not None else (asked,):
        if len({clusters.get(prompt, prompt) for prompt in questions}) < 2:
            raise DataError(f"{len(questions)} scored questions of fewer than two templates give no interval: ask more")
    options: Any = {"draws": draws, "seed": seed, "bounds": SHARE}
    accuracy = clustered_mean_interval([after[p] for p in asked], [clusters.get(p, p) for p in asked], **options)
    found: dict[str, Any] = {"accuracy": estimate(accuracy), "gain": None, "n": len(asked), "paired": len(paired)}
    if before is not None:
        sides = [before[p] for p in paired], [after[p] for p in paired]
        found["gain"] = estimate(paired_bootstrap(*sides, [clusters.get(p, p) for p in paired], **options))
    return found


def over_optimisation(curve: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Where the proxy still rises and true accuracy falls (Gao et al. 2022, 2210.10760); None without an accuracy.

    Compares the state with the highest accuracy, of equal ones the first, with the last one. A fall within 1.96
    standard errors of two independent shares is read as none: strict for answers to the same questions, since the
    highest of several noisy figures is too high by chance.

    Args:
        curve: of one training against one proxy: one row per look, in order: ``iteration``, ``kl`` (nats per answer),
            ``proxy``, ``accuracy`` and the number of ``questions`` it is of. Rows without an accuracy are passed over.

    Returns:
        ``peak`` and ``last``, the two rows; ``proxy_rise`` and ``fall`` of accuracy from peak to last; and
        ``over_optimised``: the proxy rose while accuracy fell beyond chance.
    """
    rows = [row for row in curve if row.get("accuracy") is not None]
    if not rows:
        return None
    peak, last = max(rows, key=lambda row: row["accuracy"]), rows[-1]
    first, final, fall = peak.get("proxy"), last.get("proxy"), peak["accuracy"] - last["accuracy"]
    rise = None if first is None or final is None else final - first
    error = sqrt(sum(row["accuracy"] * (1 - row["accuracy"]) / row["questions"] for row in (peak, last)))
    over = rise is not None and rise > 0 and fall > Z * error
    return {"peak": peak, "last": last, "proxy_rise": rise, "fall": fall, "over_optimised": over}


def estimate(interval: Interval) -> dict[str, float]:
    """An interval as it stands in JSON.

    >>> estimate(Interval(0.5, 0.4, 0.6))
    {'estimate': 0.5, 'ci_low': 0.4, 'ci_high': 0.6}
    """
    return {"estimate": interval.estimate, "ci_low": interval.low, "ci_high": interval.high}


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _text(prompt: Prompt) -> str:
    return normalised(" ".join(message["content"] for message in prompt.messages))

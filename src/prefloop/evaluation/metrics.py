"""Figures of one checkpoint's answers: length, reasoning, statuses, samples, votes, held-out preferences.

What compares two checkpoints is in `prefloop.evaluation.compare`. An unscored answer (judgement value None)
is never read as wrong: callers leave it out and count it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.maths.statistics import SHARE, clustered_mean_interval, pass_at_k, wilson
from prefloop.records import Completion, Judgement

SOUND = 0.999
"""Plan-query agreement from which a plan counts as sound."""

NGRAM = 4
"""Tokens of the n-grams that repetition is measured with."""


@dataclass(frozen=True)
class HeldOutPair:
    """A preference on unseen questions, scored by the tuned policy and its reference."""

    template: str
    margin: float
    """Δ = log(π/π_ref)(chosen) − log(π/π_ref)(rejected), in nats."""
    displacement: float
    """log(π/π_ref)(chosen): negative where the chosen answer became less likely."""


def length_figures(completions: Sequence[Completion], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """Verbosity of the answers of one side, aligned with their scored judgements.

    Returns:
        Tokens (mean, median, 90th percentile); characters of the plan (what stands before the first fence)
        and of the SQL; ``truncated``, the share cut at the token limit, with its Wilson interval;
        ``repetition``, the mean of 1 − distinct / all 4-grams; ``correct_per_token``, accuracy / mean tokens.
    """
    tokens = np.array([token_count(completion) for completion in completions])
    cut = sum(completion.finish_reason == "length" for completion in completions)
    bounds = wilson(cut, len(completions))
    correct = np.mean([judgement.objectives["correct"] for judgement in judgements])
    return {
        "mean_tokens": float(tokens.mean()),
        "median_tokens": float(np.median(tokens)),
        "p90_tokens": float(np.quantile(tokens, 0.9)),
        "plan_characters": float(np.mean([len(c.text.split("```", 1)[0].strip()) for c in completions])),
        "sql_characters": float(np.mean([len(j.raw.get("sql") or "") for j in judgements])),
        "truncated": bounds.estimate,
        "truncated_ci": [bounds.low, bounds.high],
        "repetition": float(np.mean([repetition(completion.token_ids) for completion in completions])),
        "correct_per_token": float(correct / tokens.mean()),
    }


def token_count(completion: Completion) -> int:
    """Tokens generated, end token included; an answer of none counts as one, so that ratios exist."""
    return max(1, len(completion.token_ids))


def repetition(token_ids: Sequence[int]) -> float:
    """``1 − distinct 4-grams / all 4-grams``; 0 where there are none.

    >>> repetition([1, 2, 1, 2, 1, 2])  # 1212, 2121, 1212
    0.33333333333333337
    """
    grams = [tuple(token_ids[i : i + NGRAM]) for i in range(len(token_ids) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def reasoning_cells(judgements: Sequence[Judgement]) -> dict[str, float]:
    """Shares of {sound, unsound} plan × {right, wrong} result; unsound but right is right by luck."""
    found: Counter[str] = Counter()
    for judgement in judgements:
        plan = "sound" if judgement.objectives["reasoning"] >= SOUND else "unsound"
        found[f"{plan}_{'right' if judgement.objectives['correct'] else 'wrong'}"] += 1
    names = (f"{plan}_{result}" for plan in ("sound", "unsound") for result in ("right", "wrong"))
    return {name: found[name] / len(judgements) for name in names}


def status_counts(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many answers ended in each status (``ok``, an error class, ``refused`` …), sorted by name."""
    return dict(sorted(Counter(str(judgement.raw["status"]) for judgement in judgements).items()))


def sample_groups(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """Scored judgements of samples by prompt id, in the order given."""
    groups: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        if judgement.value is not None:
            groups.setdefault(judgement.prompt_id, []).append(judgement)
    return groups


def pass_rate(group: Sequence[Judgement], k: int) -> float:
    """pass@k of one prompt's scored samples."""
    return pass_at_k(len(group), sum(judgement.objectives["correct"] > 0.5 for judgement in group), k)


def majority_correct(group: Sequence[Judgement]) -> float:
    """Whether the answer most samples agree on is right (1.0 or 0.0).

    Samples agree when they refuse, or when their results have one digest. Errors have no vote; of answers
    with equal votes the one given first wins; without any vote the question is lost.
    """
    votes = [(vote, judgement) for judgement in group if (vote := denotation(judgement)) is not None]
    if not votes:
        return 0.0
    winner = Counter(vote for vote, _ in votes).most_common(1)[0][0]
    return next(judgement.objectives["correct"] for vote, judgement in votes if vote == winner)


def denotation(judgement: Judgement) -> str | None:
    """What an answer says, as a name equal results share: a digest, ``refused``, or None for an error."""
    status = judgement.raw["status"]
    if status == "refused":
        return "refused"
    return str(judgement.raw["digest"]) if status == "ok" else None


def preference_figures(held_out: Sequence[HeldOutPair], *, seed: int, draws: int, beta: float) -> dict[str, Any]:
    """Does the implicit reward βΔ rank unseen pairs as the judge does? At the reference it ties: ½.

    Returns:
        ``accuracy`` with a clustered interval (a tie counts ½); the margin Δ in nats, mean and quantiles;
        ``log_loss = mean ln(1 + e^{−βΔ})``, ln 2 at the reference; and displacement: the mean change of
        log π(chosen), and the share of chosen answers that became less likely.
    """
    templates = [pair.template for pair in held_out]
    if len(set(templates)) < 2:
        return {"n": len(held_out)}
    margins = np.array([pair.margin for pair in held_out])
    displaced = np.array([pair.displacement for pair in held_out])
    hits = np.where(margins == 0, 0.5, margins > 0).astype(float)
    found = clustered_mean_interval(hits, templates, draws=draws, seed=seed, bounds=SHARE)
    return {
        "accuracy": found.estimate,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": len(held_out),
        "beta": beta,
        "mean_margin": float(margins.mean()),
        "margin_quantiles": {str(q): float(np.quantile(margins, q)) for q in (0.1, 0.5, 0.9)},
        "log_loss": float(np.logaddexp(0, -beta * margins).mean()),
        "displacement": float(displaced.mean()),
        "chosen_less_likely": float((displaced < 0).mean()),
    }

"""Two policies' answers to the same prompts, compared by a judge: who wins, by how much, and at what length.

A judge that compares in both orders wins or loses only where the orders agree; where they do not, the pair is a tie
and is counted as inconsistent (MT-Bench, 2306.05685). Answers of the same text tie without being asked about. What
the judge could not read is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isinf
from typing import Any, Literal

import numpy as np

from prefloop.judging.groups import altered
from prefloop.judging.verdicts import consistency
from prefloop.maths.diversity import distinct_n, word_tokens
from prefloop.maths.length_control import length_controlled_win_rate
from prefloop.maths.statistics import (
    SHARE,
    clustered_mean_interval,
    paired_bootstrap,
    ratio_interval,
)
from prefloop.maths.win_rate import smallest_win_rate
from prefloop.records import Completion, Judgement, Prompt

Winner = Literal["a", "b", "tie", "unscored"]
WIN_OF_B = {"a": 0.0, "tie": 0.5, "b": 1.0}
FEWEST = 20
"""Prompts below which no length-controlled rate is fitted."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one prompt's two answers."""

    prompt: Prompt
    a: Completion
    b: Completion
    winner: Winner
    probability: float | None
    """That b is better, where the judge gives one."""
    inconsistent: bool
    scores: tuple[dict[str, float], dict[str, float]]
    """Score and objectives of a and of b."""

    @property
    def cluster(self) -> str:
        """What is resampled together: prompts of one template say less than as many others."""
        return str(self.prompt.meta.get("template") or self.prompt.id)


def verdicts(
    prompts: Sequence[Prompt],
    a: Sequence[Completion],
    b: Sequence[Completion],
    judgements: Sequence[Judgement],
) -> list[Verdict]:
    """One verdict per prompt that both answered, in the order of `prompts`.

    Args:
        judgements: ``score`` judgements of all these answers, or ``choice`` judgements of the pairs.
    """
    sides = [{completion.prompt_id: completion for completion in side} for side in (a, b)]
    scored = {j.completion_ids[0]: j for j in judgements if j.kind == "score"}
    chosen = {frozenset(j.completion_ids): j for j in judgements if j.kind == "choice"}
    asked = [prompt for prompt in prompts if all(prompt.id in side for side in sides)]
    return [_verdict(prompt, sides[0][prompt.id], sides[1][prompt.id], scored, chosen) for prompt in asked]


def _verdict(
    prompt: Prompt,
    a: Completion,
    b: Completion,
    scored: Mapping[str, Judgement],
    chosen: Mapping[frozenset[str], Judgement],
) -> Verdict:
    scores = _scores(scored.get(a.id)), _scores(scored.get(b.id))
    if a.text.strip() == b.text.strip():
        return Verdict(prompt, a, b, "tie", 0.5, False, scores)
    choice = chosen.get(frozenset((a.id, b.id)))
    if choice is not None:
        return _from_choice(prompt, a, b, choice, scores)
    left, right = scored.get(a.id), scored.get(b.id)
    if left is None or right is None or left.value is None or right.value is None:
        return Verdict(prompt, a, b, "unscored", None, False, scores)
    orders = _orders(left, right)
    if orders is not None and orders[0] * orders[1] > 0:  # the answer on the same side wins both times
        return Verdict(prompt, a, b, "tie", _sigmoid(right.value - left.value), True, scores)
    winner: Winner = "b" if right.value > left.value else "a" if left.value > right.value else "tie"
    # Differences of a Bradley-Terry reward model are logits, too.
    logits = orders is not None or left.judge.startswith("reward-model")
    probability = _sigmoid(right.value - left.value) if logits else None
    return Verdict(prompt, a, b, winner, probability, False, scores)


def _from_choice(
    prompt: Prompt, a: Completion, b: Completion, choice: Judgement, scores: tuple[dict[str, float], dict[str, float]]
) -> Verdict:
    if choice.value is None:
        return Verdict(prompt, a, b, "unscored", None, False, scores)
    probability = choice.value if choice.completion_ids[0] == b.id else 1 - choice.value
    inconsistent = bool(choice.raw.get("inconsistent"))
    winner: Winner = "b" if probability > 0.5 else "a" if probability < 0.5 else "tie"
    return Verdict(prompt, a, b, "tie" if inconsistent else winner, probability, inconsistent, scores)


def _scores(judgement: Judgement | None) -> dict[str, float]:
    if judgement is None or judgement.value is None:
        return {}
    return {"score": judgement.value, **judgement.objectives}


def _orders(left: Judgement, right: Judgement) -> tuple[float, float] | None:
    """Logits of a judge that compared both ways (PairRM), each for the answer on the left."""
    there = left.raw.get("logits", {}).get(right.completion_ids[0])
    back = right.raw.get("logits", {}).get(left.completion_ids[0])
    return None if there is None or back is None else (there, back)


def _sigmoid(value: float) -> float:
    return 1 / (1 + exp(-value)) if value > -700 else 0.0


def judged_figures(
    found: Sequence[Verdict], judgements: Sequence[Judgement], *, seed: int, draws: int, one_tokenizer: bool = True
) -> dict[str, Any]:
    """All figures of a judged comparison, a JSON object. Rates are of b over a, 0..1, ties half; intervals are 95%,
    over resampled prompts (or templates, where prompts have one), and None with fewer than two.

    Args:
        one_tokenizer: whether both sides count tokens alike; else lengths are compared in words.

    Returns:
        ``win_rate``; ``length_controlled`` (as if both answers had the same length; None where too few were judged);
        ``verbosity`` (tokens, their ratio, and how often the longer answer wins); ``objectives`` before and after;
        ``distinct`` (share of different n-grams); ``by_category``; ``power``; ``agreement``, of the judge with itself
        (`self_agreement`); ``altered``, answers that the judge did not see as they are.
    """
    judged = [verdict for verdict in found if verdict.winner != "unscored"]
    wins = [WIN_OF_B[verdict.winner] for verdict in judged]
    ids = [verdict.cluster for verdict in judged]
    return {
        "kind": "judged",
        "judge": ", ".join(sorted({judgement.judge for judgement in judgements})),
        "agreement": self_agreement(judgements),
        "altered": altered(judgements),
        "prompts": len(found),
        "win_rate": {**_counts(found), **_interval(wins, ids, seed, draws)},
        "length_controlled": _length_controlled(judged, wins, seed, draws),
        "verbosity": _verbosity(found, judged, seed, draws, one_tokenizer),
        "objectives": _objectives(found, seed, draws),
        "distinct": {
            str(n): {side: distinct_n([word_tokens(getattr(v, side).text) for v in found], n) for side in ("a", "b")}
            for n in (1, 2)
        },
        "by_category": _by_category(found),
        "power": _power(wins),
    }


def self_agreement(judgements: Sequence[Judgement]) -> dict[str, float | int]:
    """How far a judge agrees with itself: a figure of a judge that contradicts itself is worth little.

    Returns:
        What there is to compare: ``consistency_rate`` and ``first_slot_win_rate`` of comparisons in both orders
        (`prefloop.judging.verdicts.consistency`), ``same_score_rate`` of answers scored several times, with counts.
    """
    orders = consistency(judgements)
    found = {name: value for name, value in orders.items() if orders["pairs"] and value is not None}
    samples = [[reading["verdict"] for reading in j.raw["samples"]] for j in judgements if "samples" in j.raw]
    several = [[str(v) for v in verdicts if v is not None] for verdicts in samples]
    several = [verdicts for verdicts in several if len(verdicts) > 1]
    if several:
        same = sum(len(set(verdicts)) == 1 for verdicts in several) / len(several)
        found |= {"same_score_rate": same, "answers_scored_several_times": len(several)}
    return found


def _counts(found: Sequence[Verdict]) -> dict[str, int]:
    winners = Counter(verdict.winner for verdict in found)
    return {
        "wins": winners["b"],
        "ties": winners["tie"],
        "losses": winners["a"],
        "unscored": winners["unscored"],
        "inconsistent": sum(verdict.inconsistent for verdict in found),
    }


def _interval(values: Sequence[float], ids: Sequence[str], seed: int, draws: int) -> dict[str, Any]:
    if not values:
        return {"rate": None, "ci_low": None, "ci_high": None, "n": 0}
    if len(set(ids)) < 2:
        return {"rate": sum(values) / len(values), "ci_low": None, "ci_high": None, "n": len(values)}
    found = clustered_mean_interval(values, ids, draws=draws, seed=seed, bounds=SHARE)
    return {"rate": found.estimate, "ci_low": found.low, "ci_high": found.high, "n": len(values)}


def _length_controlled(
    judged: Sequence[Verdict], wins: Sequence[float], seed: int, draws: int
) -> dict[str, Any] | None:
    """The rate as if both answers had the same length; None with too few prompts, or nothing to fit."""
    if len({verdict.cluster for verdict in judged}) < FEWEST:
        return None
    found = length_controlled_win_rate(
        wins,
        [len(verdict.b.text) for verdict in judged],
        [len(verdict.a.text) for verdict in judged],
        [verdict.cluster for verdict in judged],
        seed=seed,
        draws=min(draws, 1_000),
    )
    if found.left_out:
        return None
    controlled = found.controlled
    return {
        "rate": controlled.estimate,
        "ci_low": controlled.low,
        "ci_high": controlled.high,
        "raw_minus_controlled": found.raw.estimate - controlled.estimate,
        "extrapolated": found.extrapolated,
    }


def _verbosity(
    found: Sequence[Verdict], judged: Sequence[Verdict], seed: int, draws: int, one_tokenizer: bool
) -> dict[str, Any]:
    known = one_tokenizer and all(v.a.token_ids and v.b.token_ids for v in found)
    before, after = (
        [len(c.token_ids) if known else len(c.text.split()) for c in (getattr(v, side) for v in found)]
        for side in ("a", "b")
    )
    longer = [
        WIN_OF_B[v.winner] if len(v.b.text) > len(v.a.text) else 1 - WIN_OF_B[v.winner]
        for v in judged
        if len(v.a.text) != len(v.b.text) and v.winner != "tie"
    ]
    figures: dict[str, Any] = {
        "unit": "tokens" if known else "words",
        "before": float(np.mean(before)) if before else None,
        "after": float(np.mean(after)) if after else None,
        "length_ratio": None,
        "ci_low": None,
        "ci_high": None,
        "longer_wins": sum(longer) / len(longer) if longer else None,
        "longer_wins_n": len(longer),
    }
    if len({v.cluster for v in found}) > 1:
        ratio = ratio_interval(
            [max(1, n) for n in after], [max(1, n) for n in before], [v.cluster for v in found], draws=draws, seed=seed
        )
        figures |= {"length_ratio": ratio.estimate, "ci_low": ratio.low, "ci_high": ratio.high}
    return figures


def _objectives(found: Sequence[Verdict], seed: int, draws: int) -> dict[str, Any]:
    names = dict.fromkeys(name for verdict in found for side in verdict.scores for name in side)
    figures = {}
    for name in names:
        both = [(v.scores[0][name], v.scores[1][name], v.cluster) for v in found if all(name in s for s in v.scores)]
        if len({cluster for *_, cluster in both}) < 2:
            continue
        before, after, ids = zip(*both, strict=True)
        change = paired_bootstrap(before, after, ids, draws=draws, seed=seed)
        figures[name] = {
            "before": float(np.mean(before)),
            "after": float(np.mean(after)),
            "difference": change.estimate,
            "ci_low": change.low,
            "ci_high": change.high,
            "n": len(both),
        }
    return figures


def _by_category(found: Sequence[Verdict]) -> dict[str, dict[str, int]]:
    groups: dict[str, list[Verdict]] = {}
    for verdict in found:
        groups.setdefault(str(verdict.prompt.meta.get("category") or "all"), []).append(verdict)
    return {category: _counts(members) for category, members in sorted(groups.items())} if len(groups) > 1 else {}


def _power(wins: Sequence[float]) -> dict[str, Any]:
    """The smallest win rate that so many prompts show, and a warning where the one found is nearer to 50%."""
    if not wins:
        return {"smallest_win_rate": None, "warning": "no prompt was judged: there is nothing to claim."}
    rate, decided = sum(wins) / len(wins), sum(win != 0.5 for win in wins) / len(wins)
    if not decided:
        return {"smallest_win_rate": None, "warning": f"all {len(wins)} prompts tied: no difference to show."}
    least = smallest_win_rate(len(wins), decided)
    if abs(rate - 0.5) >= least - 0.5:
        return {"smallest_win_rate": least, "warning": ""}
    shown = "cannot show any win rate" if isinf(least) else f"show a win rate of {least:.0%} or more"
    warning = f"{len(wins)} prompts {shown} (80% power, {decided:.0%} decided): {rate:.1%} is a lead, not a result."
    return {"smallest_win_rate": None if isinf(least) else least, "warning": warning}

"""`evaluation.json`: two checkpoints on the same questions, paired, with intervals clustered by template.

A question counts only where both sides were scored; what the judge could not score is left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf
from typing import Any

import numpy as np

from prefloop.errors import DataError
from prefloop.evaluation import metrics
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.metrics import HeldOutPair
from prefloop.maths.statistics import (
    SHARE,
    clustered_mean_interval,
    design_effect,
    holm,
    mcnemar_exact,
    minimum_detectable_gain,
    paired_bootstrap,
    ratio_interval,
)
from prefloop.records import Completion, Judgement, Prompt

SIDES = ("before", "after")
POWER = 0.8


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are drawn."""

    seed: int
    draws: int


@dataclass(frozen=True)
class Comparison:
    """The questions that both sides were scored on, each side's answers in the order of the prompts."""

    prompts: Sequence[Prompt]
    completions: Mapping[str, Sequence[Completion]]
    judgements: Mapping[str, Sequence[Judgement]]
    bootstrap: Bootstrap

    @property
    def templates(self) -> list[str]:
        """What intervals are clustered by, [n]."""
        return [prompt.meta["template"] for prompt in self.prompts]

    def objective(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """One objective before and after, each [n]."""
        before, after = ([j.objectives[name] for j in self.judgements[side]] for side in SIDES)
        return np.array(before, dtype=float), np.array(after, dtype=float)

    def where(self, keep: Callable[[Prompt], bool]) -> Comparison:
        """The same comparison on some of the questions."""
        places = [i for i, prompt in enumerate(self.prompts) if keep(prompt)]
        return Comparison(
            [self.prompts[i] for i in places],
            {side: [self.completions[side][i] for i in places] for side in SIDES},
            {side: [self.judgements[side][i] for i in places] for side in SIDES},
            self.bootstrap,
        )


def evaluate(
    prompts: Sequence[Prompt],
    before: Answers,
    after: Answers,
    held_out: Sequence[HeldOutPair],
    *,
    seed: int,
    draws: int,
    beta: float,
) -> dict[str, Any]:
    """All figures of a comparison.

    Args:
        prompts: the test questions; meta holds template, family, register and seen.
        held_out: pairs on test questions.
        seed, draws: of the bootstrap.
        beta: of the objective, for the preference log-loss.

    Returns:
        A JSON object. A rate with its change has ``before, after, gain`` (or ``difference``), ``ci_low,
        ci_high`` of the change, ``before_ci, after_ci``, ``n`` and ``templates``; intervals are None where
        there is only one template, and only ``n`` stands where nothing was measured.

    Raises:
        DataError: a question has no greedy answer or judgement, or none was scored on both sides.
    """
    bootstrap = Bootstrap(seed, draws)
    both = align(prompts, before, after, bootstrap)
    return {
        "execution_accuracy": accuracy(both),
        "execution_accuracy_unseen": accuracy(both.where(lambda prompt: not prompt.meta["seen"])),
        "execution_accuracy_seen": accuracy(both.where(lambda prompt: prompt.meta["seen"])),
        "valid_sql": _objective_change(both, "valid"),
        **sampled_figures(prompts, before, after, bootstrap),
        "reasoning": reasoning(both),
        "verbosity": verbosity(both),
        "preference_accuracy": metrics.preference_figures(held_out, seed=seed, draws=draws, beta=beta),
        "by_family": split(both, "family"),
        "by_register": split(both, "register"),
        "by_trap": split(both, "trap"),
        "errors": {side: metrics.status_counts(both.judgements[side]) for side in SIDES},
        "power": power(both),
        "unscored": _unscored(prompts, before, after, len(both.prompts)),
    }


def align(prompts: Sequence[Prompt], before: Answers, after: Answers, bootstrap: Bootstrap) -> Comparison:
    """Greedy answers side by side, on the questions that both sides were scored on."""
    completions = {
        side: _by_prompt(prompts, answers.greedy, f"greedy answer {side}")
        for side, answers in zip(SIDES, (before, after), strict=True)
    }
    judgements = {
        side: _by_prompt(prompts, answers.greedy_judgements, f"judgement {side}")
        for side, answers in zip(SIDES, (before, after), strict=True)
    }
    scored = [p for p in prompts if all(judgements[side][p.id].value is not None for side in SIDES)]
    if not scored:
        raise DataError(f"none of {len(prompts)} test questions was scored on both sides: judge again")
    return Comparison(
        scored,
        {side: [completions[side][p.id] for p in scored] for side in SIDES},
        {side: [judgements[side][p.id] for p in scored] for side in SIDES},
        bootstrap,
    )


def accuracy(both: Comparison) -> dict[str, Any]:
    """Greedy execution accuracy, with the exact McNemar test."""
    if not both.prompts:
        return {"n": 0}
    fixed, broken, p = mcnemar_exact(*both.objective("correct"))
    mcnemar = {"fixed": fixed, "broken": broken, "p": p}
    return {**_objective_change(both, "correct", "gain"), "mcnemar": mcnemar}


def split(both: Comparison, field: str) -> dict[str, Any]:
    """Accuracy by a field of the prompts' meta; exploratory: p-values are Holm's over its values."""
    values = sorted({_name(prompt, field) for prompt in both.prompts if field in prompt.meta})
    found = {value: accuracy(both.where(_having(field, value))) for value in values}
    adjusted = holm([row["mcnemar"]["p"] for row in found.values()])
    for row, p in zip(found.values(), adjusted, strict=True):
        row["mcnemar"]["p_holm"] = p
    return found


def reasoning(both: Comparison) -> dict[str, Any]:
    """Plan-query agreement, and sound or unsound plan × right or wrong result on each side."""
    cells = {f"{side}_cells": metrics.reasoning_cells(both.judgements[side]) for side in SIDES}
    return {**_objective_change(both, "reasoning"), **cells}


def verbosity(both: Comparison) -> dict[str, Any]:
    """Length of the greedy answers; the ratio after / before is paired, on the log scale.

    ``more_verbose`` says whether the ratio's interval lies above 1; anything less is no growth shown.
    """
    before, after = ([metrics.token_count(c) for c in both.completions[side]] for side in SIDES)
    low = high = None
    if len(set(both.templates)) > 1:
        settings = both.bootstrap
        ratio = ratio_interval(after, before, both.templates, draws=settings.draws, seed=settings.seed)
        low, high = ratio.low, ratio.high
    return {
        "length_ratio": float(np.exp(np.mean(np.log(after) - np.log(before)))),
        "ci_low": low,
        "ci_high": high,
        "n": len(before),
        "more_verbose": low is not None and low > 1,
        **{side: metrics.length_figures(both.completions[side], both.judgements[side]) for side in SIDES},
    }


def sampled_figures(prompts: Sequence[Prompt], before: Answers, after: Answers, bootstrap: Bootstrap) -> dict[str, Any]:
    """Accuracy at T=1, pass@k for k = all samples, and the majority's, on the questions that were sampled.

    A question enters with all k samples scored on both sides.
    """
    groups = [metrics.sample_groups(answers.sampled_judgements) for answers in (before, after)]
    k = max((len(group) for side in groups for group in side.values()), default=0)
    asked = [p for p in prompts if k and all(len(side.get(p.id, ())) == k for side in groups)]
    templates = [prompt.meta["template"] for prompt in asked]

    def figure(measure: Callable[[Sequence[Judgement]], float]) -> dict[str, Any]:
        old, new = (np.array([measure(side[p.id]) for p in asked], dtype=float) for side in groups)
        return {**change(old, new, templates, bootstrap, "gain"), "k": k}

    found = {
        "sampled_accuracy": figure(lambda group: metrics.pass_rate(group, 1)),
        "pass_at_k": figure(lambda group: metrics.pass_rate(group, k)),
    }
    if asked and all("digest" in j.raw for side in groups for group in side.values() for j in group):
        found["majority_vote"] = figure(metrics.majority_correct)
    return found


def power(both: Comparison) -> dict[str, Any]:
    """The smallest gain these questions show, and a warning where the gain found is smaller.

    Questions of one template say less than as many independent ones: n is divided by the design effect of the
    paired differences.
    """
    before, after = both.objective("correct")
    discordant, gain = float((before != after).mean()), float((after - before).mean())
    effect = design_effect(after - before, both.templates)
    least = minimum_detectable_gain(len(before) / effect, discordant, power=POWER)
    return {
        "discordant": discordant,
        "design_effect": effect,
        "effective_n": len(before) / effect,
        "minimum_detectable_gain": None if isinf(least) else least,
        "warning": _warning(both, gain, least, discordant) if abs(gain) < least else "",
    }


def _warning(both: Comparison, gain: float, least: float, discordant: float) -> str:
    n, templates = len(both.prompts), len(set(both.templates))
    if not discordant:
        return f"No verdict changed on {n} questions: there is no gain to show."
    if isinf(least):
        return (
            f"{n} questions of {templates} templates are too few to show any gain: {discordant:.1%} of the "
            f"verdicts changed. The gain of {100 * gain:+.1f} points is a lead, not a result."
        )
    return (
        f"{n} questions of {templates} templates show a gain of {100 * least:.1f} points or more "
        f"({POWER:.0%} power, {discordant:.1%} of the verdicts changed). The gain of {100 * gain:+.1f} "
        "points is smaller: a lead, not a result."
    )


def change(
    before: np.ndarray, after: np.ndarray, templates: Sequence[str], bootstrap: Bootstrap, name: str
) -> dict[str, Any]:
    """A rate on each side and its paired change, called `name`, with intervals clustered by template."""
    if not len(before):
        return {"n": 0}
    found: dict[str, Any] = {
        "before": float(before.mean()),
        "after": float(after.mean()),
        name: float((after - before).mean()),
        "ci_low": None,
        "ci_high": None,
        "before_ci": None,
        "after_ci": None,
        "n": len(before),
        "templates": len(set(templates)),
    }
    if found["templates"] > 1:
        seed, draws = bootstrap.seed, bootstrap.draws
        interval = paired_bootstrap(before, after, templates, draws=draws, seed=seed, bounds=SHARE)
        found |= {"ci_low": interval.low, "ci_high": interval.high}
        for side, values in zip(SIDES, (before, after), strict=True):
            interval = clustered_mean_interval(values, templates, draws=draws, seed=seed, bounds=SHARE)
            found[f"{side}_ci"] = [interval.low, interval.high]
    return found


def _objective_change(both: Comparison, objective: str, name: str = "difference") -> dict[str, Any]:
    before, after = both.objective(objective)
    return change(before, after, both.templates, both.bootstrap, name)


def _by_prompt(prompts: Sequence[Prompt], rows: Sequence[Any], what: str) -> dict[str, Any]:
    found = {row.prompt_id: row for row in rows}
    missing = [prompt.id for prompt in prompts if prompt.id not in found]
    if missing:
        raise DataError(f"{len(missing)} test questions have no {what}, the first is prompt {missing[0]}")
    return found


def _unscored(prompts: Sequence[Prompt], before: Answers, after: Answers, kept: int) -> dict[str, Any]:
    """What the judge could not score: greedy answers and samples by side, and the questions left out."""
    counts = {
        side: {
            "greedy": sum(j.value is None for j in answers.greedy_judgements),
            "sampled": sum(j.value is None for j in answers.sampled_judgements),
        }
        for side, answers in zip(SIDES, (before, after), strict=True)
    }
    return {**counts, "questions": len(prompts) - kept}


def _having(field: str, value: str) -> Callable[[Prompt], bool]:
    return lambda prompt: _name(prompt, field) == value


def _name(prompt: Prompt, field: str) -> str:
    return str(prompt.meta.get(field) or "none")

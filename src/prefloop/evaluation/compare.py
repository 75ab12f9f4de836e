"""`evaluation.json`: two checkpoints on the same questions, paired, with intervals clustered by template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.maths.statistics import (
    Interval,
    clustered_mean,
    mcnemar_exact,
    minimum_detectable_gain,
    paired_bootstrap,
    pass_at_k,
    ratio_interval,
)
from prefloop.records import Completion, Judgement, Prompt

SOUND = 0.999
"""Plan-query agreement from which a plan counts as sound."""

FEW = 2
"""Smallest number of questions a split is reported for."""


@dataclass(frozen=True)
class Answers:
    """What one checkpoint answered: greedy on every question, samples on some, and the judgements."""

    greedy: Sequence[Completion]
    greedy_judgements: Sequence[Judgement]
    sampled: Sequence[Completion]
    sampled_judgements: Sequence[Judgement]


@dataclass(frozen=True)
class HeldOutPair:
    """A preference on unseen questions, scored by the tuned policy and its reference."""

    template: str
    margin: float
    """Δ = log(π/π_ref)(chosen) − log(π/π_ref)(rejected), in nats."""
    displacement: float
    """log(π/π_ref)(chosen): negative where the chosen answer became less likely."""


@dataclass(frozen=True)
class Paired:
    """One figure of every greedy answer before and after, with the questions' templates."""

    before: np.ndarray
    after: np.ndarray
    templates: list[str]


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
        held_out: pairs on test questions (`HeldOutPair`).
        beta: of the objective, for the preference log-loss.

    Questions that either side's judge could not score are left out of the paired figures and counted.
    """
    frame = _Frame(prompts, before, after, seed, draws)
    return {
        "execution_accuracy": frame.accuracy(lambda p: True),
        "execution_accuracy_unseen": frame.accuracy(lambda p: not p.meta["seen"]),
        "execution_accuracy_seen": frame.accuracy(lambda p: p.meta["seen"]),
        "valid_sql": frame.difference("valid"),
        "sampled_accuracy": frame.sampled(1),
        "pass_at_k": frame.sampled(len(before.sampled) // max(1, len({c.prompt_id for c in before.sampled}))),
        "reasoning": frame.reasoning(),
        "verbosity": frame.verbosity(),
        "preference_accuracy": _preference_accuracy(held_out, seed, draws, beta),
        "by_family": frame.split("family"),
        "by_register": frame.split("register"),
        "by_trap": frame.split("trap"),
        "errors": frame.errors(),
        "power": frame.power(),
        "unscored": frame.unscored,
    }


class _Frame:
    """The scored questions of one comparison, aligned."""

    def __init__(
        self, prompts: Sequence[Prompt], before: Answers, after: Answers, seed: int, draws: int
    ) -> None:
        self.seed, self.draws = seed, draws
        self.sides = {"before": before, "after": after}
        self.judged = {
            side: {j.prompt_id: j for j in answers.greedy_judgements} for side, answers in self.sides.items()
        }
        self.written = {
            side: {c.prompt_id: c for c in answers.greedy} for side, answers in self.sides.items()
        }
        scored = [p for p in prompts if all(self.judged[side][p.id].value is not None for side in self.sides)]
        self.prompts = scored
        self.unscored = len(prompts) - len(scored)

    def column(self, name: str, prompts: Sequence[Prompt]) -> Paired:
        sides = [
            np.array([self.judged[side][p.id].objectives[name] for p in prompts], dtype=float)
            for side in ("before", "after")
        ]
        return Paired(sides[0], sides[1], [p.meta["template"] for p in prompts])

    def gain(self, pair: Paired) -> Interval:
        return paired_bootstrap(pair.before, pair.after, pair.templates, draws=self.draws, seed=self.seed)

    def accuracy(self, keep: Callable[[Prompt], bool]) -> dict[str, Any]:
        prompts = [p for p in self.prompts if keep(p)]
        if len(prompts) < FEW:
            return {"n": len(prompts)}
        pair = self.column("correct", prompts)
        fixed, broken, p = mcnemar_exact(pair.before, pair.after)
        return {
            **self._difference(pair, "gain"),
            "templates": len(set(pair.templates)),
            "before_ci": self._mean(pair.before, pair.templates),
            "after_ci": self._mean(pair.after, pair.templates),
            "mcnemar": {"fixed": fixed, "broken": broken, "p": p},
        }

    def difference(self, name: str) -> dict[str, Any]:
        return self._difference(self.column(name, self.prompts), "difference")

    def _difference(self, pair: Paired, name: str) -> dict[str, Any]:
        found = self.gain(pair)
        return {
            "before": float(pair.before.mean()),
            "after": float(pair.after.mean()),
            name: found.estimate,
            "ci_low": found.low,
            "ci_high": found.high,
            "n": len(pair.before),
        }

    def _mean(self, values: np.ndarray, templates: list[str]) -> list[float]:
        found = clustered_mean(values, templates, draws=self.draws, seed=self.seed)
        return [found.low, found.high]

    def sampled(self, k: int) -> dict[str, Any]:
        """pass@k over each side's samples; pass@1 is the accuracy at temperature 1."""
        rates = {side: _pass_rates(answers, k) for side, answers in self.sides.items()}
        prompts = [p for p in self.prompts if p.id in rates["before"] and p.id in rates["after"]]
        if len(prompts) < FEW:
            return {"n": len(prompts)}
        pair = Paired(
            np.array([rates["before"][p.id] for p in prompts]),
            np.array([rates["after"][p.id] for p in prompts]),
            [p.meta["template"] for p in prompts],
        )
        return {**self._difference(pair, "gain"), "k": k}

    def reasoning(self) -> dict[str, Any]:
        """Plan-query agreement, and sound/unsound × right/wrong (unsound but right = right for the wrong reason)."""
        found: dict[str, Any] = self.difference("reasoning")
        for side in self.sides:
            cells = Counter(
                f"{'sound' if o['reasoning'] >= SOUND else 'unsound'}_{'right' if o['correct'] else 'wrong'}"
                for o in (self.judged[side][p.id].objectives for p in self.prompts)
            )
            names = [f"{a}_{b}" for a in ("sound", "unsound") for b in ("right", "wrong")]
            found[f"{side}_cells"] = {name: cells[name] / len(self.prompts) for name in names}
        return found

    def verbosity(self) -> dict[str, Any]:
        """Tokens of the answers; the ratio after/before with its interval; SQL and plan apart in characters."""
        templates = [p.meta["template"] for p in self.prompts]
        tokens = {
            side: np.array([len(self.written[side][p.id].token_ids) for p in self.prompts], dtype=float)
            for side in self.sides
        }
        ratio = ratio_interval(tokens["after"], tokens["before"], templates, draws=self.draws, seed=self.seed)
        found: dict[str, Any] = {
            "length_ratio": ratio.estimate,
            "ci_low": ratio.low,
            "ci_high": ratio.high,
            "n": len(templates),
        }
        for side in self.sides:
            texts = [self.written[side][p.id] for p in self.prompts]
            sql = [len(self.judged[side][p.id].raw.get("sql") or "") for p in self.prompts]
            found[side] = {
                "mean_tokens": float(tokens[side].mean()),
                "p90_tokens": float(np.quantile(tokens[side], 0.9)),
                "sql_characters": float(np.mean(sql)),
                "plan_characters": float(np.mean([len(c.text) - n for c, n in zip(texts, sql, strict=True)])),
                "truncated": float(np.mean([c.finish_reason == "length" for c in texts])),
            }
        return found

    def split(self, name: str) -> dict[str, Any]:
        """Accuracy by a meta field; exploratory, so without tests."""
        values = sorted({str(p.meta[name]) for p in self.prompts})
        found = {}
        for value in values:
            prompts = [p for p in self.prompts if str(p.meta[name]) == value]
            if len(prompts) >= FEW:
                found[value] = self._difference(self.column("correct", prompts), "gain")
        return found

    def errors(self) -> dict[str, dict[str, int]]:
        """How many answers ended in each status, by side."""
        return {
            side: dict(sorted(Counter(self.judged[side][p.id].raw["status"] for p in self.prompts).items()))
            for side in self.sides
        }

    def power(self) -> dict[str, Any]:
        """Smallest gain these questions show with 80% power, and a warning where the gain claimed is smaller."""
        pair = self.column("correct", self.prompts)
        discordant = float((pair.before != pair.after).mean())
        least = minimum_detectable_gain(len(self.prompts), discordant)
        gain = float((pair.after - pair.before).mean())
        warning = ""
        if abs(gain) < least:
            warning = f"{len(self.prompts)} questions show a gain of {least:.1%} or more with 80% power; the gain here is {gain:.1%}"
        return {"discordant": discordant, "minimum_detectable_gain": least, "warning": warning}


def _pass_rates(answers: Answers, k: int) -> dict[str, float]:
    """pass@k by prompt id, over the samples that were scored."""
    groups: dict[str, list[float]] = {}
    for judgement in answers.sampled_judgements:
        if judgement.value is not None:
            groups.setdefault(judgement.prompt_id, []).append(judgement.objectives["correct"])
    return {i: pass_at_k(len(v), int(sum(v)), k) for i, v in groups.items() if len(v) >= k}


def _preference_accuracy(
    held_out: Sequence[HeldOutPair], seed: int, draws: int, beta: float
) -> dict[str, Any]:
    """Does the implicit reward rank unseen pairs as the judge does? ½ at the reference, by definition."""
    if len(held_out) < FEW:
        return {"n": len(held_out)}
    margins = np.array([pair.margin for pair in held_out])
    hits = np.where(margins == 0, 0.5, margins > 0).astype(float)
    found = clustered_mean(hits, [pair.template for pair in held_out], draws=draws, seed=seed)
    displaced = np.array([pair.displacement for pair in held_out])
    return {
        "accuracy": found.estimate,
        "ci_low": found.low,
        "ci_high": found.high,
        "n": len(held_out),
        "mean_margin": float(margins.mean()),
        "log_loss": float(np.logaddexp(0, -beta * margins).mean()),
        "displacement": float(displaced.mean()),
        "chosen_less_likely": float((displaced < 0).mean()),
    }

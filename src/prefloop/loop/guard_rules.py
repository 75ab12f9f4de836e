"""What each guard of a loop looks at, its limits, and its one sentence. `prefloop.loop.guards` acts on them.

Every limit and where it comes from stands in ``docs/loop.md``. Those that a recipe can set are in `GuardsConfig`, the
others are named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from prefloop.config.loop import GuardsConfig
from prefloop.evaluation.wording import bounds, percent, points

Verdict = Literal["ok", "warn", "hold", "stop"]
Round = Mapping[str, Any]
"""A round of ``rounds.json``."""

CHOSEN_LONGER = (0.60, 0.70)
"""Share of pairs whose chosen answer is the longer one: warn, stop."""
TOKEN_RATIO = 1.15
"""Tokens of chosen over tokens of rejected answers: warn."""
SCORE_LENGTH = 0.4
"""Spearman's ρ of score and length: warn."""
HALVED = 0.5
"""Spread of the judge's scores over round 1's (stop), distinct bigrams over round 0's (warn)."""
LESS_LIKELY = 0.5
"""Share of chosen answers that became less likely than the reference has them: warn."""
EARLY = 0.6
"""A warning of repeated answers comes at this share of their limit."""
EXECUTION = "execution"
"""Judges of that name run the answers: they give the highest score to what is right, whoever wrote it."""


@dataclass(frozen=True)
class Finding:
    """What one guard saw in one round."""

    name: str
    value: float | None
    limit: float | None
    """The limit that the value went beyond; where it is ok, the first that there is."""
    verdict: Verdict
    text: str
    """One sentence, with the figures."""
    acted: bool = True
    """False where guards are switched off: `promoted` and `ends` pass it over."""


@dataclass(frozen=True)
class Case:
    """A round, those before it, and the limits."""

    found: Round
    earlier: Sequence[Round]
    config: GuardsConfig

    def figure(self, *path: str) -> float | None:
        return figure_of(self.found, path)

    def at_start(self, *path: str) -> float | None:
        """The figure in round 0."""
        return figure_of(self.earlier[0], path) if self.earlier else None

    def first(self, *path: str) -> float | None:
        """The figure in the first tuned round that has it."""
        known = (figure_of(one, path) for one in self.earlier if one["round"] > 0)
        return next((value for value in known if value is not None), None)


Guard = Callable[[Case], Finding | None]
"""None where its figures were not measured."""


def figure_of(found: Round, path: Sequence[str]) -> float | None:
    """A number in a round; None where it, or what it stands in, is missing or no number."""
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


def _graded(
    value: float | None,
    steps: Sequence[tuple[Verdict, float]],
    what: str,
    form: Callable[[float], str],
    *,
    advice: str = "",
    below: bool = False,
) -> Finding | None:
    """The last of the steps, given from mild to severe, that the value lies beyond.

    Args:
        advice: what a warning ends with.
        below: low values are the bad ones.
    """
    if value is None:
        return None
    beyond = [(verdict, limit) for verdict, limit in steps if (value < limit if below else value > limit)]
    if not beyond:
        limit = steps[0][1]
        return Finding("", value, limit, "ok", f"{what}: {form(value)}, within the limit of {form(limit)}")
    verdict, limit = beyond[-1]
    said = f"{what}: {form(value)}, {'below' if below else 'above'} {form(limit)}"
    return Finding("", value, limit, verdict, f"{said}, so {advice}" if verdict == "warn" and advice else said)


def _times(ratio: float) -> str:
    return f"×{ratio:.2f}"


def _chosen_longer(case: Case) -> Finding | None:
    warn, stop = CHOSEN_LONGER
    return _graded(
        case.figure("data", "diagnostics", "chosen_longer"),
        [("warn", warn), ("stop", stop)],
        "Pairs whose chosen answer is the longer one",
        percent,
        advice="the pairs may teach length: choose the shortest of the answers that are nearly the best",
    )


def _token_ratio(case: Case) -> Finding | None:
    return _graded(
        case.figure("data", "diagnostics", "token_ratio"),
        [("warn", TOKEN_RATIO)],
        "Tokens of chosen over tokens of rejected answers",
        _times,
        advice="the pairs may teach length",
    )


def _answer_length(case: Case) -> Finding | None:
    growth = case.config.length_growth
    return _graded(
        case.figure("watched", "length", "ratio_start"),
        [("warn", 1 + growth / 2), ("hold", 1 + growth)],
        "Mean answer length over round 0's",
        _times,
        advice="see whether what was added says more",
    )


def _score_and_length(case: Case) -> Finding | None:
    return _graded(
        case.figure("data", "diagnostics", "score_length_correlation"),
        [("warn", SCORE_LENGTH)],
        "Rank correlation of score and length within prompts",
        lambda value: f"{value:+.2f}".replace("-", "−"),
        advice="the judge likes long answers",
    )


def _against_start(case: Case) -> Finding | None:
    return _regression(case, "gain_start", "round 0")


def _against_previous(case: Case) -> Finding | None:
    return _regression(case, "gain_previous", "the round before")


def _regression(case: Case, name: str, other: str) -> Finding | None:
    """Held where the fall is certain, or where it is larger than what is put up with."""
    gain, low, high = (case.figure("watched", name, part) for part in ("estimate", "ci_low", "ci_high"))
    if gain is None:
        return None
    fall = case.config.regression
    held = gain < -fall or (high is not None and high < 0)
    said = f"Accuracy on the watched questions against {other}: {points(gain)} points ({bounds(low, high)})"
    why = f", a fall of more than {100 * fall:.1f}" if gain < -fall else ", a fall beyond chance" if held else ""
    return Finding("", gain, -fall, "hold" if held else "ok", said + why)


def _gain(case: Case) -> Finding | None:
    """Two rounds in a row without a gain that is shown are the end."""
    low = case.figure("watched", "gain_previous", "ci_low")
    if low is None:
        return None
    said = f"Lower bound of the gain on the round before, on the watched questions: {points(low)} points"
    if low > 0:
        return Finding("", low, 0.0, "ok", f"{said}, above 0")
    before = figure_of(case.earlier[-1], ("watched", "gain_previous", "ci_low")) if case.earlier else None
    if before is not None and before <= 0:
        return Finding(
            "", low, 0.0, "stop", f"{said}, and {points(before)} in the round before: no gain is shown twice"
        )
    return Finding("", low, 0.0, "warn", f"{said}, so no gain is shown")


def _kl(case: Case) -> Finding | None:
    value, limit = case.figure("training", "kl"), case.config.kl
    if value is None:
        return None
    what = "Divergence from the reference, nats per answer"
    if limit is None:
        return Finding("", value, None, "ok", f"{what}: {value:.1f}, without a limit")
    if (case.found.get("training") or {}).get("stopped"):  # what was kept is from before the limit
        return Finding("", value, limit, "warn", f"{what}: {value:.1f}; training was ended at the limit of {limit:.1f}")
    return _graded(value, [("hold", limit)], what, lambda nats: f"{nats:.1f}")


def _judge_maximum(case: Case) -> Finding | None:
    return _graded(
        case.figure("judge", "maximum_share"),
        [(_inflation(case), case.config.saturation)],
        "Answers with the judge's highest score",
        percent,
        advice="few pairs are left to learn from",
    )


def _judge_spread(case: Case) -> Finding | None:
    return _graded(
        _over(case.figure("judge", "spread"), case.first("judge", "spread")),
        [(_inflation(case), HALVED)],
        "Spread of the judge's scores within a prompt over round 1's",
        _times,
        advice="few pairs are left to learn from",
        below=True,
    )


def _inflation(case: Case) -> Verdict:
    """Scores that rise are inflation, unless the answers are run: then they are right more often."""
    name = str((case.found.get("judge") or {}).get("name", ""))
    return "warn" if name.startswith(EXECUTION) else "stop"


def _contrast(case: Case) -> Finding | None:
    path = ("data", "diagnostics", "margin_mean")
    return _graded(
        _over(case.figure(*path), case.first(*path)),
        [("warn", case.config.contrast)],
        "Mean margin of the pairs over round 1's",
        _times,
        advice="chosen and rejected grow alike: take rejected answers from an older model",
        below=True,
    )


def _displacement(case: Case) -> Finding | None:
    return _graded(
        case.figure("training", "displacement"),
        [("warn", LESS_LIKELY)],
        "Chosen answers that became less likely",
        percent,
        advice="think of an NLL term or DPOP, and of dropping pairs that are alike",
    )


def _repeated_answers(case: Case) -> Finding | None:
    """Limits are shares of what did not repeat in round 0: a policy with short answers repeats some from the start."""
    start = case.at_start("diversity", "duplicates") or 0.0
    warn, stop = (start + share * (1 - start) for share in (EARLY * case.config.duplicates, case.config.duplicates))
    return _graded(
        case.figure("diversity", "duplicates"),
        [("warn", warn), ("stop", stop)],
        f"Samples that repeat another of their prompt ({percent(start)} in round 0)",
        percent,
        advice="think of a higher temperature",
    )


def _variety(case: Case) -> Finding | None:
    return _graded(
        _over(case.figure("diversity", "distinct_2"), case.at_start("diversity", "distinct_2")),
        [("warn", HALVED)],
        "Distinct bigrams of a prompt's samples over round 0's",
        _times,
        advice="think of a higher temperature",
        below=True,
    )


def _repeated_prompts(case: Case) -> Finding | None:
    return _overlap(case, "rounds", "Prompts that an earlier round had as well")


def _test_prompts(case: Case) -> Finding | None:
    return _overlap(case, "evaluation", "Prompts that the evaluation asks as well")


def _overlap(case: Case, name: str, what: str) -> Finding | None:
    return _graded(case.figure("data", "overlap", name), [("stop", 0.0)], what, lambda count: f"{count:.0f}")


def _over(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base is not None and base > 0 else None


GUARDS: dict[str, Guard] = {
    "against the start": _against_start,
    "against the round before": _against_previous,
    "gain": _gain,
    "answer length": _answer_length,
    "chosen longer": _chosen_longer,
    "token ratio": _token_ratio,
    "score and length": _score_and_length,
    "KL": _kl,
    "judge's maximum": _judge_maximum,
    "judge's spread": _judge_spread,
    "contrast": _contrast,
    "displacement": _displacement,
    "repeated answers": _repeated_answers,
    "variety": _variety,
    "repeated prompts": _repeated_prompts,
    "test prompts": _test_prompts,
}
"""In the order in which they are shown."""

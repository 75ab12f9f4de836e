"""What the page of all rounds shows of each: a table of paths into ``rounds.json``, and how figures are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.evaluation import wording
from prefloop.evaluation.svg import number
from prefloop.evaluation.wording import MISSING, bounds, percent, points


def at(value: Any, *path: str) -> Any:
    """What stands at a path of names; None where a part of it is missing.

    >>> at({"judge": None}, "judge", "accuracy") is None
    True
    """
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def share(found: Mapping[str, Any] | None) -> str:
    """A share with its interval.

    >>> share({"estimate": 0.612, "ci_low": 0.57, "ci_high": 0.65})
    '61.2% (57.0 to 65.0)'
    """
    if found is None:
        return MISSING
    return f"{percent(found['estimate'])} ({100 * found['ci_low']:.1f} to {100 * found['ci_high']:.1f})"


def change(found: Mapping[str, Any] | None) -> str:
    """A change of a share in percentage points, with its interval if it has one."""
    if found is None:
        return MISSING
    interval = bounds(found.get("ci_low"), found.get("ci_high"))
    return points(found["estimate"]) + ("" if interval == MISSING else f" ({interval})")


def parts(told: str) -> tuple[str, str]:
    """An estimate, and the interval that stands in brackets behind it.

    >>> parts("+1.0 (−2.0 to +4.0)"), parts("–")
    (('+1.0', '−2.0 to +4.0'), ('–', ''))
    """
    estimate, _, interval = told.partition(" (")
    return estimate, interval.removesuffix(")")


def figure(value: float | None) -> str:
    """Three digits."""
    return MISSING if value is None else number(value)


def times(value: float | None) -> str:
    """A ratio.

    >>> times(1.0249)
    '×1.02'
    """
    return MISSING if value is None else f"×{value:.2f}"


def count(value: float | None) -> str:
    """A whole number."""
    return MISSING if value is None else f"{value:,.0f}"


def word(value: Any) -> str:
    """A name or a hash."""
    return MISSING if value is None else wording.visible(str(value))


Form = Callable[[Any], str]
DETAILS: tuple[tuple[str, tuple[tuple[str, str, Form], ...]], ...] = (
    (
        "Data",
        (
            ("Prompts", "data.prompts", count),
            ("Pairs", "data.pairs", count),
            ("Chosen is the longer one", "data.diagnostics.chosen_longer", percent),
            ("Tokens, chosen over rejected", "data.diagnostics.token_ratio", times),
            ("Mean margin", "data.diagnostics.margin_mean", figure),
            ("Similarity of chosen and rejected", "data.diagnostics.similarity", percent),
            ("Score and length, rank correlation", "data.diagnostics.score_length_correlation", figure),
            ("Prompts of an earlier round", "data.overlap.rounds", count),
            ("Prompts of the evaluation", "data.overlap.evaluation", count),
        ),
    ),
    (
        "Judge",
        (
            ("Judge", "judge.name", word),
            ("Orders right over wrong", "judge.accuracy", share),
            ("Answers with its highest score", "judge.maximum_share", percent),
            ("Ties within a prompt", "judge.tie_rate", percent),
            ("Spread within a prompt", "judge.spread", figure),
            ("Unscored answers", "judge.unscored", count),
        ),
    ),
    (
        "Reward model",
        (
            ("Pairs it learned from", "reward_model.pairs", count),
            ("On held-out prompts and raters", "reward_model.held_out_prompts_and_raters", share),
            ("Against the truth", "reward_model.against_truth", share),
            ("Brier score", "reward_model.brier", figure),
            ("Calibration error", "reward_model.ece", figure),
            ("Temperature", "reward_model.temperature", figure),
        ),
    ),
    (
        "Training",
        (
            ("Steps", "training.steps", count),
            ("Final loss", "training.final_loss", figure),
            ("KL from round 0, nats per answer", "training.kl", figure),
            ("Chosen became less likely", "training.displacement", percent),
            ("Ended early", "training.stopped", word),
        ),
    ),
    (
        "Answers",
        (
            ("Watched questions, accuracy", "watched.accuracy", percent),
            ("Watched, gain on the start", "watched.gain_start", change),
            ("Watched, gain on the round before", "watched.gain_previous", change),
            ("Valid", "valid", percent),
            ("Mean tokens", "length.mean", figure),
            ("Distinct bigrams within a prompt", "diversity.distinct_2", percent),
            ("Repeated samples", "diversity.duplicates", percent),
        ),
    ),
    (
        "Lineage",
        (
            ("Started from", "lineage.start", word),
            ("Policy", "lineage.policy", word),
            ("Reference", "lineage.reference", word),
        ),
    ),
)
"""What is shown of every round: label, path, form."""


@dataclass(frozen=True)
class DetailGroup:
    """Rows of the table of details under one heading."""

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """Label, and for every round a figure and its interval (empty where it has none)."""


def details(every: Sequence[Mapping[str, Any]]) -> list[DetailGroup]:
    """Rows and groups that no round has a figure for are left out."""
    groups = []
    for title, entries in DETAILS:
        rows = [(label, [at(one, *path.split(".")) for one in every], form) for label, path, form in entries]
        if title == "Data":
            reasons = dict.fromkeys(name for one in every for name in at(one, "data", "drops") or ())
            rows += [(f"Dropped: {name}", [at(one, "data", "drops", name) for one in every], count) for name in reasons]
        told = [(label, _cells(values, form)) for label, values, form in rows if any(v is not None for v in values)]
        if told:
            groups.append(DetailGroup(title, told))
    return groups


def _cells(values: Sequence[Any], form: Form) -> list[tuple[str, str]]:
    split = form in (share, change)
    return [parts(form(value)) if split else (form(value), "") for value in values]

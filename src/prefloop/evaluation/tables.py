"""Tables for the terminal: figures before and after with their intervals, and answers side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prefloop.evaluation.wording import method
from prefloop.records import Judgement, Prompt

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from prefloop.evaluation.answers import Answers

MISSING = "–"

FIGURES = (
    ("execution accuracy", "execution_accuracy", "gain"),
    ("  unseen templates", "execution_accuracy_unseen", "gain"),
    ("  seen templates", "execution_accuracy_seen", "gain"),
    ("accuracy at T=1", "sampled_accuracy", "gain"),
    ("pass@{k}", "pass_at_k", "gain"),
    ("majority of {k}", "majority_vote", "gain"),
    ("valid SQL", "valid_sql", "difference"),
    ("plan agrees with SQL", "reasoning", "difference"),
)
"""Label, key in the evaluation, and what the change is called there."""


def summary_table(evaluation: Mapping[str, Any]) -> Table:
    """Figures before and after with 95% intervals, one row each; at most 96 columns wide."""
    from rich import box
    from rich.table import Table

    title = "Before and after, paired on the same questions; 95% intervals clustered by template"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    table.add_column("figure", no_wrap=True)
    for heading in ("before", "after", "change", "95% interval", "n"):
        table.add_column(heading, justify="right", no_wrap=True)
    for label, key, name in FIGURES:
        row = evaluation.get(key, {})
        if name in row:
            table.add_row(label.format(**row), *_rates(row, name))
    table.add_row("tokens per answer", *_lengths(evaluation["verbosity"]))
    preference = evaluation["preference_accuracy"]
    if "accuracy" in preference:
        bounds = f"{preference['ci_low']:.1%} to {preference['ci_high']:.1%}"
        figures = ("50.0%", f"{preference['accuracy']:.1%}", MISSING, bounds, str(preference["n"]))
        table.add_row("held-out preferences", *figures)
    return table


def methods_table(evaluation: Mapping[str, Any]) -> Table:
    """Execution accuracy of each seed, tuned and by the baselines where those were run."""
    from rich import box
    from rich.table import Table

    table = Table(title="Execution accuracy by seed and method", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("seed", "method"):
        table.add_column(heading, no_wrap=True)
    for heading in ("accuracy", "gain", "95% interval", "lead of the tuned policy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in evaluation["seeds"]:
        tuned = row["execution_accuracy"]
        table.add_row(str(row["seed"]), "tuned", f"{tuned['after']:.1%}", *_gain(tuned, "gain"), MISSING)
        for name, figures in (row["baselines"] or {}).items():
            lead = " ".join(_gain(figures["tuned_lead"], "estimate", "({})"))
            table.add_row("", method(name), f"{figures['accuracy']:.1%}", *_gain(figures, "gain"), lead)
    return table


def _gain(row: Mapping[str, Any], change: str, between: str = "{}") -> list[str]:
    """A change in points, and its interval."""
    return [f"{100 * row[change]:+.1f}", between.format(_between(row, lambda value: f"{100 * value:+.1f}"))]


def _rates(row: Mapping[str, Any], change: str) -> list[str]:
    return [
        _with_interval(row["before"], row["before_ci"]),
        _with_interval(row["after"], row["after_ci"]),
        *_gain(row, change),
        str(row["n"]),
    ]


def _lengths(row: Mapping[str, Any]) -> list[str]:
    return [
        *(f"{row[side]['mean_tokens']:.1f}" for side in ("before", "after")),
        f"×{row['length_ratio']:.3f}",
        _between(row, lambda value: f"{value:.3f}"),
        str(row["n"]),
    ]


def _with_interval(rate: float, bounds: Sequence[float] | None) -> str:
    """A rate in percent, its interval in brackets."""
    return f"{rate:.1%}" + (f" [{100 * bounds[0]:.0f}, {100 * bounds[1]:.0f}]" if bounds else "")


def _between(row: Mapping[str, Any], text: Callable[[float], str]) -> str:
    return MISSING if row["ci_low"] is None else f"{text(row['ci_low'])} to {text(row['ci_high'])}"


def shown_prompts(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """Test questions to show side by side: a seeded draw that goes round the families; nobody picks them.

    Unseen templates come first; others only where there are too few of them. The order of `prompts` changes
    nothing.
    """
    rng, found = random.Random(seed), list[Prompt]()
    test = sorted((prompt for prompt in prompts if prompt.split == "test"), key=lambda prompt: prompt.id)
    for seen in (False, True):
        families: dict[str, list[Prompt]] = {}
        for prompt in test:
            if prompt.meta["seen"] == seen:
                families.setdefault(prompt.meta["family"], []).append(prompt)
        queues = [rng.sample(members, len(members)) for _, members in sorted(families.items())]
        rng.shuffle(queues)
        while len(found) < count and any(queues):
            found += [queue.pop() for queue in queues if queue]
    return found[:count]


def side_by_side(
    prompts: Sequence[Prompt], before: Answers, after: Answers, n: int = 10, seed: int = 0
) -> pd.DataFrame:
    """`n` unseen questions with both greedy answers.

    Returns:
        Columns ``question``, ``original answer``, ``tuned answer``, ``original correct``, ``tuned correct``;
        the last two hold True, False, or None where the judge could not score the answer.
    """
    import pandas as pd

    texts = [{c.prompt_id: c.text for c in side.greedy} for side in (before, after)]
    verdicts = [{j.prompt_id: correct(j) for j in side.greedy_judgements} for side in (before, after)]
    rows = [
        {
            "question": question(prompt),
            "original answer": texts[0][prompt.id],
            "tuned answer": texts[1][prompt.id],
            "original correct": verdicts[0][prompt.id],
            "tuned correct": verdicts[1][prompt.id],
        }
        for prompt in shown_prompts(prompts, n, seed)
    ]
    return pd.DataFrame(rows, dtype=object)


def question(prompt: Prompt) -> str:
    """What the user asked last."""
    return prompt.messages[-1]["content"]


def correct(judgement: Judgement) -> bool | None:
    """Whether an answer was right; None where the judge could not score it."""
    return None if judgement.value is None else judgement.objectives["correct"] > 0.5

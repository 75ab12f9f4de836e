"""`report.html`: one self-contained page. It loads nothing, runs offline, and escapes what a model wrote.

The page's own style sheet and script are the only ones that its Content-Security-Policy lets run: both are named
there by hash. The same evaluation and context give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.evaluation import charts, wording
from prefloop.evaluation.pages import asset, policy_source, templates
from prefloop.store.files import write_text

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE, STYLE, SCRIPT = "report.html.j2", "report.css", "report.js"
FILLED = ("prompts", "kept pairs")
"""Counts of the drop table that are totals, not losses."""


@dataclass(frozen=True)
class ShownAnswer:
    """One answer of the side-by-side view."""

    text: str
    sql: str
    right: bool | None
    """None where the judge could not score it."""
    status: str
    rows: Sequence[Sequence[Any]]
    """First rows of the result; for an error its message, as the only cell."""
    columns: Sequence[str] = ()
    """Their names, where the judge kept them."""


@dataclass(frozen=True)
class ShownQuestion:
    """A question with its gold and both answers."""

    question: str
    template: str
    gold_sql: str
    before: ShownAnswer
    after: ShownAnswer
    family: str = ""
    """Letter of the question family."""
    gold_rows: Sequence[Sequence[Any]] = ()
    """First rows of the gold's result."""
    gold_columns: Sequence[str] = ()


@dataclass(frozen=True)
class ReportContext:
    """What the page shows beside the evaluation."""

    name: str
    shown: Sequence[ShownQuestion]
    """Side by side."""
    fixed: Sequence[ShownQuestion]
    broken: Sequence[ShownQuestion]
    """Questions whose verdict changed, or a draw of them."""
    margins: Sequence[float]
    """Δ of every held-out pair, in nats."""
    lengths: Mapping[str, Sequence[float]]
    """Tokens of every greedy answer, ``before`` and ``after``."""
    drops: Mapping[str, int]
    """Pairs kept, and what was dropped by reason."""
    diagnostics: Mapping[str, Any]
    """Of the preference set: chosen_longer, token_ratio, margin_mean, score_length_correlation."""
    history: Sequence[Mapping[str, float]]
    """One row per training step."""
    families: Mapping[str, str]
    """Name of each family letter."""
    command: str
    recipe: str
    """The resolved recipe as YAML."""
    versions: Mapping[str, str]
    lineage: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Hash of each file that the figures rest on."""
    audit: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By split: questions accepted, and turned away by reason."""
    changed: Mapping[str, int] = field(default_factory=dict)
    """How many were ``fixed`` and ``broken`` in all; default as many as are listed."""
    traps: Mapping[str, str] = field(default_factory=dict)
    """Name of each mistake that questions invite."""
    origin: str = ""
    """What the questions are about, and how much of it is real."""


def write_report(evaluation: Mapping[str, Any], context: ReportContext, path: Path) -> Path:
    """Render the page and write it whole or not at all.

    Raises:
        StoreError: the page cannot be written.
    """
    write_text(path, render(evaluation, context))
    return path


def render(evaluation: Mapping[str, Any], context: ReportContext) -> str:
    """The page as HTML."""
    from markupsafe import Markup

    environment = templates()
    names = ("percent", "points", "bounds", "p_value", "visible", "cell", "columns", "method")
    environment.filters |= {name: getattr(wording, name) for name in names} | {"sql": highlight}
    style, script = asset(STYLE) + _code_style(), asset(SCRIPT)
    return environment.get_template(TEMPLATE).render(
        e=evaluation,
        c=context,
        claim=claim(evaluation),
        seeds=evaluation.get("seeds", ()),
        baselines=evaluation.get("baselines") or {},
        majority=evaluation.get("majority_vote", {}),
        changed={"fixed": len(context.fixed), "broken": len(context.broken), **context.changed},
        charts={name: Markup(svg) for name, svg in _charts(evaluation, context).items()},
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {policy_source(style)}; script-src {policy_source(script)}; "
        "base-uri 'none'; form-action 'none'",
    )


def claim(evaluation: Mapping[str, Any]) -> str:
    """The page's first sentence: what changed, by how much, how surely."""
    row = evaluation["execution_accuracy"]
    low, high = row["ci_low"], row["ci_high"]
    ends = f"from {row['before']:.1%} to {row['after']:.1%}"
    if low is None:
        return f"Execution accuracy on {row['n']} unseen questions went {ends}, with no interval."
    moved = "rose" if low > 0 else "fell" if high < 0 else "did not change beyond chance,"
    interval = f"{wording.points(row['gain'])} points, 95% interval {wording.bounds(low, high)}"
    return f"Execution accuracy on {row['n']} unseen questions {moved} {ends} ({interval})."


def highlight(sql: str) -> Markup:
    """SQL as HTML with classes for the page's style sheet; the text is escaped."""
    from markupsafe import Markup
    from pygments import highlight as rendered

    return Markup(rendered(wording.visible(sql), *_highlighter()))


@cache
def _highlighter() -> tuple[Any, Any]:
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.sql import SqlLexer

    return SqlLexer(), HtmlFormatter(nowrap=True)


def _code_style() -> str:
    """The highlighter's classes, light and dark, without its backgrounds."""
    from pygments.formatters.html import HtmlFormatter

    def rules(style: str) -> str:
        lines = HtmlFormatter(style=style).get_style_defs("pre.sql").splitlines()
        return "\n".join(line for line in lines if line.startswith("pre.sql ."))

    return f"{rules('xcode')}\n@media (prefers-color-scheme: dark) {{\n{rules('github-dark')}\n}}\n"


def _charts(evaluation: Mapping[str, Any], context: ReportContext) -> dict[str, str]:
    steps = {
        "Loss": [row["loss"] for row in context.history],
        "Reward margin": [row["rewards/margins"] for row in context.history if "rewards/margins" in row],
        "Pairs ranked right": [row["rewards/accuracies"] for row in context.history if "rewards/accuracies" in row],
    }
    order = sorted(context.drops.items(), key=lambda drop: (drop[0] not in FILLED, -drop[1], drop[0]))
    drops = [charts.Bar(reason, count, reason in FILLED) for reason, count in order]
    before, after = (context.lengths.get(side, ()) for side in ("before", "after"))
    return {
        "gains": charts.forest("Change in percentage points", _effects(evaluation)),
        "families": charts.lanes("Accuracy by question family", _families(evaluation, context)),
        "margins": charts.margins("Reward margins on held-out pairs", context.margins),
        "lengths": charts.lengths("Answer length in tokens", before, after),
        "drops": charts.bars("Where pairs were lost", drops),
        "training": charts.curves("Training", {name: values for name, values in steps.items() if values}),
    }


def _effects(evaluation: Mapping[str, Any]) -> list[charts.Effect]:
    found = []
    for label, key, change in (
        ("Execution accuracy", "execution_accuracy", "gain"),
        ("on unseen templates", "execution_accuracy_unseen", "gain"),
        ("on seen templates", "execution_accuracy_seen", "gain"),
        ("Samples at T=1", "sampled_accuracy", "gain"),
        ("SQL that runs", "valid_sql", "difference"),
        ("Plan agrees with SQL", "reasoning", "difference"),
    ):
        row = evaluation.get(key, {})
        if row.get("ci_low") is not None:
            found.append(charts.Effect(label, row[change], row["ci_low"], row["ci_high"]))
    return found


def _families(evaluation: Mapping[str, Any], context: ReportContext) -> list[charts.Change]:
    """Families by their gain, the greatest first."""
    rows = sorted(evaluation["by_family"].items(), key=lambda item: (-item[1]["gain"], item[0]))
    return [
        charts.Change(
            f"{letter} · {context.families[letter]}" if letter in context.families else letter,
            *(row[name] for name in ("before", "after", "before_ci", "after_ci", "n")),
        )
        for letter, row in rows
    ]

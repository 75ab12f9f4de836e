"""`report.html`: one self-contained page. It loads nothing, runs offline, and escapes whatever a model wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.evaluation import charts
from prefloop.store.files import write_text

TEMPLATE = "report.html.j2"


@dataclass(frozen=True)
class ShownAnswer:
    """One answer of the side-by-side view."""

    text: str
    sql: str
    right: bool
    status: str
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class ShownQuestion:
    """A question with its gold and both answers."""

    question: str
    template: str
    gold_sql: str
    before: ShownAnswer
    after: ShownAnswer


@dataclass(frozen=True)
class ReportContext:
    """What the page shows beside the evaluation."""

    name: str
    shown: Sequence[ShownQuestion]
    fixed: Sequence[ShownQuestion]
    broken: Sequence[ShownQuestion]
    margins: Sequence[float]
    lengths: Mapping[str, Sequence[float]]
    drops: Mapping[str, int]
    diagnostics: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    families: Mapping[str, str]
    command: str
    recipe: str
    versions: Mapping[str, str]
    lineage: Mapping[str, str] = field(default_factory=dict)


def write_report(evaluation: Mapping[str, Any], context: ReportContext, path: Path) -> Path:
    """Render the page and write it whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("prefloop", "evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "sql": highlight}
    page = environment.get_template(TEMPLATE).render(
        e=evaluation,
        c=context,
        charts=_charts(evaluation, context),
        claim=claim(evaluation),
        code_css=_code_css(),
    )
    write_text(path, page)
    return path


def claim(evaluation: Mapping[str, Any]) -> str:
    """The page's first sentence: what changed, how surely."""
    row = evaluation["execution_accuracy"]
    low, high = row["ci_low"], row["ci_high"]
    moved = "rose" if low > 0 else "fell" if high < 0 else "did not change beyond chance:"
    words = f"{moved} from {row['before']:.1%} to {row['after']:.1%}"
    interval = f"{100 * row['gain']:+.1f} points, 95% interval {100 * low:+.1f} to {100 * high:+.1f}"
    return f"Execution accuracy on {row['n']} unseen questions {words} ({interval})."


def highlight(sql: str) -> Any:
    """SQL as HTML with classes for the page's style sheet; the text is escaped."""
    from markupsafe import Markup
    from pygments import highlight as render
    from pygments.formatters import HtmlFormatter
    from pygments.lexers.sql import SqlLexer

    return Markup(render(sql, SqlLexer(), HtmlFormatter(nowrap=True)))


def _code_css() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="friendly").get_style_defs(".sql")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".sql")
    return (
        f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n.sql {{ background: none !important }}"
    )


def _charts(evaluation: Mapping[str, Any], context: ReportContext) -> dict[str, Any]:
    from markupsafe import Markup

    families = [
        (f"{letter} {context.families.get(letter, '')}".strip(), row["before"], row["after"], row["n"])
        for letter, row in evaluation["by_family"].items()
    ]
    margins = [row["rewards/margins"] for row in context.history if "rewards/margins" in row]
    losses = [row["loss"] for row in context.history]
    found = {
        "families": charts.dumbbell("Accuracy by question family", families),
        "margins": charts.histogram(
            "Reward margins on held-out pairs", {"margin": context.margins}, zero=True
        ),
        "lengths": charts.histogram("Answer length in tokens", dict(context.lengths)),
        "drops": charts.bars("Where pairs were lost", list(context.drops.items())),
        "training": charts.curves(
            "Loss and reward margin over training", {"loss": losses, "margin": margins}
        ),
    }
    return {name: Markup(svg) for name, svg in found.items()}


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"

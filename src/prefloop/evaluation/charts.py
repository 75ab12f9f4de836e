"""Small charts as inline SVG: pure functions of numbers, no script, no font, no file beside the page.

Positions across are percentages and sizes down are pixels, so a chart fits any width and its text keeps its
size. Colours come from classes in the page's style sheet. Every chart has a title and a description for
screen readers, and tells before from after, right from wrong, by shape, place or words, not by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from prefloop.evaluation import svg
from prefloop.evaluation.svg import at, line, number, text
from prefloop.evaluation.wording import bounds, points

BINS = 40
"""Most columns of a histogram; at least 16, since the step is a round number."""
TALLEST = 128
PANEL = 84
ROW = 48
GUTTER = 12
"""Percent of a curve's panel kept free for the scale."""

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Change:
    """A share before and after, each with its interval if it has one."""

    label: str
    before: float
    after: float
    before_ci: Sequence[float] | None
    after_ci: Sequence[float] | None
    n: int


@dataclass(frozen=True)
class Effect:
    """A change with its interval."""

    label: str
    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A count; `kept` sets totals apart from losses."""

    label: str
    count: int
    kept: bool = False


def lanes(title: str, rows: Sequence[Change]) -> str:
    """Two lanes per row on a scale of 0 to 100%: ring and whisker before, dot and whisker after."""
    if not rows:
        return svg.empty(title)
    bottom, parts = ROW * len(rows), list[str]()
    for i, row in enumerate(rows):
        parts += _heading(i * ROW, row.label, f"{row.before:.0%} → {row.after:.0%} (n = {row.n})")
        parts += _strip(i * ROW, [at(tick) for tick in QUARTERS])
        parts += _lane("before", row.before, row.before_ci, i * ROW + 27)
        parts += _lane("after", row.after, row.after_ci, i * ROW + 37)
    parts += svg.axis(QUARTERS, 0, 1, bottom, lambda tick: f"{tick:.0%}")
    words = (f"{r.label}: {r.before:.0%} before, {r.after:.0%} after, {r.n} questions" for r in rows)
    return svg.document(title, "; ".join(words), bottom + 22, parts)


def _lane(side: str, share: float, interval: Sequence[float] | None, y: int) -> list[str]:
    mark = f'<circle cx="{at(share)}" cy="{y}" r="4.5" class="mark {side}"/>'
    return [line(at(interval[0]), at(interval[1]), y, y, f"whisker {side}"), mark] if interval else [mark]


def forest(title: str, rows: Sequence[Effect]) -> str:
    """Changes in percentage points with their intervals, and a line at no change."""
    if not rows:
        return svg.empty(title)
    ends = [100 * value for row in rows for value in (row.low, row.high)]
    ends = ends if any(ends) else [-1.0, 1.0]  # nothing changed at all: still an axis
    ticks = svg.ticks(min(0.0, *ends), max(0.0, *ends))
    low, high, bottom = ticks[0], ticks[-1], ROW * len(rows)

    def x(share: float) -> str:
        return at((100 * share - low) / (high - low))

    parts, words = list[str](), list[str]()
    for i, row in enumerate(rows):
        y, interval = i * ROW + 32, bounds(row.low, row.high)
        parts += _heading(i * ROW, row.label, f"{points(row.estimate)} ({interval})")
        parts += _strip(i * ROW, [x(tick / 100) for tick in ticks])
        parts.append(line(x(0), x(0), i * ROW + 21, i * ROW + 43, "axis"))
        parts.append(line(x(row.low), x(row.high), y, y, "whisker after"))
        parts.append(f'<circle cx="{x(row.estimate)}" cy="{y}" r="5" class="mark after"/>')
        words.append(f"{row.label}: {points(row.estimate)} points, {interval}")
    parts += svg.axis(ticks, low, high, bottom, lambda tick: points(tick / 100).removesuffix(".0") if tick else "0")
    return svg.document(title, "; ".join(words), bottom + 22, parts)


def margins(title: str, values: Sequence[float]) -> str:
    """Histogram with 0 on an edge of a bin: what lies left of it was ranked wrong, right of it, right."""
    if not values:
        return svg.empty(title)
    edges, base = svg.bin_edges(values, BINS, zero=True), TALLEST + 26
    counts = svg.bin_counts(values, edges)
    parts = _columns(edges, counts, max(counts), base, lambda i: "wrong" if edges[i] < 0 else "after")
    wrong, right = (sum(test) / len(values) for test in ([v < 0 for v in values], [v > 0 for v in values]))
    zero = at(-edges[0] / (edges[-1] - edges[0]))
    parts += [
        line(zero, zero, 20, base, "axis"),
        text("0", 12, f"◀ ranked wrong: {wrong:.0%}", "note"),
        text("100%", 12, f"ranked right: {right:.0%} ▶", "note", "end"),
        *_scale(edges, base),
    ]
    words = f"{len(values)} pairs: {right:.0%} above 0, {wrong:.0%} below; median {number(median(values))}"
    return svg.document(title, words, base + 22, parts)


def lengths(title: str, before: Sequence[float], after: Sequence[float]) -> str:
    """Two histograms back to back on one scale, before upwards and after downwards, with their medians."""
    if not before or not after:
        return svg.empty(title)
    edges, middle = svg.bin_edges([*before, *after], BINS, whole=True), TALLEST + 22
    counts = [svg.bin_counts(values, edges) for values in (before, after)]
    most = max(max(found) for found in counts)
    parts = _columns(edges, counts[0], most, middle, lambda i: "before")
    parts += _columns(edges, counts[1], most, middle, lambda i: "after", up=False)
    words = []
    for name, values, top in (("before", before, middle - TALLEST), ("after", after, middle)):
        x = at((median(values) - edges[0]) / (edges[-1] - edges[0]))
        label = f"{name}: median {number(median(values))}"
        parts.append(line(x, x, top, top + TALLEST, "median"))
        parts.append(text("0", 12 if name == "before" else middle + TALLEST + 12, label, "label"))
        words.append(f"{label}, from {number(min(values))} to {number(max(values))}")
    parts += [line("0%", "100%", middle, middle, "axis"), *_scale(edges, middle + TALLEST + 16)]
    return svg.document(title, "; ".join(words), middle + TALLEST + 38, parts)


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Horizontal bars, each under its label and count; totals are filled, losses are outlines."""
    if not rows:
        return svg.empty(title)
    most, step, parts = max(1, *(row.count for row in rows)), 36, list[str]()
    for i, row in enumerate(rows):
        width, style = max(100 * row.count / most, 0.3), "after" if row.kept else "lost"
        parts += _heading(i * step, row.label, f"{row.count:,}")
        parts.append(f'<rect x="0" y="{i * step + 19}" width="{width:.2f}%" height="9" rx="2" class="bar {style}"/>')
    words = (f"{row.label}: {row.count:,}" for row in rows)
    return svg.document(title, "; ".join(words), step * len(rows), parts)


def curves(title: str, series: Mapping[str, Sequence[float]]) -> str:
    """One panel per series over the steps: the values thin, their moving average strong."""
    shown = {name: list(values) for name, values in series.items() if len(values) > 1}
    if not shown:
        return svg.empty(title)
    step, parts, words = PANEL + 36, list[str](), list[str]()
    for i, (name, values) in enumerate(shown.items()):
        smooth = svg.moving_average(values)
        ends = f"{number(smooth[0])} → {number(smooth[-1])}"
        parts += [*_heading(i * step, name, ends), *_panel(values, smooth, i * step + 22)]
        words.append(f"{name}: {ends} over {len(values)} steps")
    bottom, steps = step * len(shown) - 12, max(len(values) for values in shown.values())
    parts.append(text("0", bottom + 16, f"steps 1 to {steps:,}", "note"))
    return svg.document(title, "; ".join(words), bottom + 22, parts)


def _panel(values: Sequence[float], smooth: Sequence[float], top: int) -> list[str]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    drawn = []
    for data, style in ((values, "raw"), (smooth, "smooth")):
        places = enumerate(data)
        corners = " ".join(f"{100 * i / (len(data) - 1):.2f},{100 * (high - v) / span:.2f}" for i, v in places)
        drawn.append(f'<polyline points="{corners}" class="curve {style}"/>')
    end = f"{100 - GUTTER}%"
    return [
        line("0%", end, top, top, "grid"),
        line("0%", end, top + PANEL, top + PANEL, "grid"),
        f'<svg y="{top}" width="{end}" height="{PANEL}" viewBox="0 0 100 100" preserveAspectRatio="none" '
        f'class="inner">{"".join(drawn)}</svg>',
        text("100%", top + 13, number(high), "note", "end"),
        text("100%", top + PANEL, number(low), "note", "end"),
    ]


def _heading(top: int, label: str, figures: str) -> list[str]:
    return [text("0", top + 14, label, "label"), text("100%", top + 14, figures, "note", "end")]


def _strip(top: int, places: Sequence[str]) -> list[str]:
    """The scale's lines behind one row's marks."""
    return [line(x, x, top + 21, top + 43, "grid") for x in places]


def _columns(
    edges: Sequence[float],
    counts: Sequence[int],
    most: int,
    base: float,
    style: Callable[[int], str],
    up: bool = True,
) -> list[str]:
    """A histogram's columns on the line `base`; `style` names the class of the i-th."""
    width, parts = (svg.percent(1) - svg.percent(0)) / len(counts), []
    for i, count in enumerate(counts):
        if count:
            tall, left = TALLEST * count / most, svg.percent(i / len(counts))
            parts.append(
                f'<rect x="{left + 0.1 * width:.2f}%" y="{base - tall if up else base:.1f}" '
                f'width="{0.8 * width:.2f}%" height="{tall:.1f}" class="bar {style(i)}">'
                f"<title>{number(edges[i])} to {number(edges[i + 1])}: {count:,}</title></rect>"
            )
    return parts


def _scale(edges: Sequence[float], y: float) -> list[str]:
    return svg.axis(svg.ticks(edges[0], edges[-1]), edges[0], edges[-1], y, number)

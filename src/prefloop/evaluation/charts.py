"""Small charts as inline SVG: no script, no font, no file beside the page. Colours come from the page's CSS.

Every chart has a title and a description for screen readers, and marks right and wrong, before and after by shape
or position too, not by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 640


def dumbbell(title: str, rows: Sequence[tuple[str, float, float, int]]) -> str:
    """Accuracy before (ring) and after (dot) by name: rows of (name, before, after, n), shares in 0..1."""
    left, right, step = 150, 60, 26
    height = step * len(rows) + 34
    span = WIDTH - left - right

    def x(value: float) -> float:
        return left + span * value

    parts = [_grid(left, span, height - 26)]
    for i, (name, before, after, n) in enumerate(rows):
        y = 16 + i * step
        parts += [
            f'<text x="{left - 10}" y="{y + 4}" class="label" text-anchor="end">{escape(name)}</text>',
            f'<line x1="{x(before):.1f}" x2="{x(after):.1f}" y1="{y}" y2="{y}" class="link"/>',
            f'<circle cx="{x(before):.1f}" cy="{y}" r="5.5" class="before"><title>before {before:.1%}</title></circle>',
            f'<circle cx="{x(after):.1f}" cy="{y}" r="5.5" class="after"><title>after {after:.1%}</title></circle>',
            f'<text x="{WIDTH - right + 12}" y="{y + 4}" class="note">n={n}</text>',
        ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(
            f'<text x="{x(tick):.0f}" y="{height - 6}" class="note" text-anchor="middle">{tick:.0%}</text>'
        )
    words = "; ".join(f"{name}: {before:.0%} before, {after:.0%} after" for name, before, after, _ in rows)
    return _svg(title, words, height, parts)


def histogram(title: str, series: dict[str, Sequence[float]], bins: int = 28, zero: bool = False) -> str:
    """Counts over a common range; one or two series (the second drawn as an outline).

    Args:
        zero: draw a line at 0.
    """
    values = [value for data in series.values() for value in data]
    if not values:
        return _empty(title)
    low, high = min(values), max(values)
    high = high if high > low else low + 1
    height, base, left = 200, 168, 16
    span = WIDTH - 2 * left
    counts = {name: _counts(data, low, high, bins) for name, data in series.items()}
    most = max(max(c) for c in counts.values())
    parts = []
    for place, (name, found) in enumerate(counts.items()):
        style = "after" if place or len(counts) == 1 else "before"
        for i, count in enumerate(found):
            if count:
                top = base - 145 * count / most
                at = left + span * i / bins
                parts.append(
                    f'<rect x="{at + 1:.1f}" y="{top:.1f}" width="{span / bins - 2:.1f}" height="{base - top:.1f}" '
                    f'class="bar {style}"><title>{escape(name)}: {count}</title></rect>'
                )
    if zero and low < 0 < high:
        at = left + span * (0 - low) / (high - low)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="14" y2="{base}" class="axis"/>')
        parts.append(f'<text x="{at:.1f}" y="{base + 16}" class="note" text-anchor="middle">0</text>')
    parts.append(f'<text x="{left}" y="{base + 16}" class="note">{_number(low)}</text>')
    parts.append(
        f'<text x="{WIDTH - left}" y="{base + 16}" class="note" text-anchor="end">{_number(high)}</text>'
    )
    words = "; ".join(
        f"{name}: {len(data)} values from {_number(min(data))} to {_number(max(data))}"
        for name, data in series.items()
        if data
    )
    return _svg(title, words, height, parts)


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars with their counts."""
    if not rows:
        return _empty(title)
    left, step = 290, 26
    span = WIDTH - left - 70
    most = max(count for _, count in rows) or 1
    parts = []
    for i, (name, count) in enumerate(rows):
        y = 6 + i * step
        parts += [
            f'<text x="{left - 10}" y="{y + 13}" class="label" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{max(span * count / most, 1):.1f}" height="17" class="bar after"/>',
            f'<text x="{left + span * count / most + 8:.1f}" y="{y + 13}" class="note">{count:,}</text>',
        ]
    return _svg(title, "; ".join(f"{name}: {count}" for name, count in rows), step * len(rows) + 8, parts)


def curves(title: str, series: dict[str, Sequence[float]]) -> str:
    """Values over steps, every curve on the common range; the legend is the caller's."""
    values = [value for data in series.values() for value in data]
    if len(values) < 2:
        return _empty(title)
    low, high = min(*values, 0.0), max(values)
    high = high if high > low else low + 1
    height, left, base = 200, 44, 168
    span = WIDTH - left - 16

    def y(value: float) -> float:
        return base - 148 * (value - low) / (high - low)

    parts = [
        f'<line x1="{left}" x2="{WIDTH - 16}" y1="{y(v):.1f}" y2="{y(v):.1f}" class="grid"/>'
        f'<text x="{left - 8}" y="{y(v) + 4:.1f}" class="note" text-anchor="end">{_number(v)}</text>'
        for v in (low, (low + high) / 2, high)
    ]
    for place, (_, data) in enumerate(series.items()):
        points = " ".join(
            f"{left + span * i / max(len(data) - 1, 1):.1f},{y(v):.1f}" for i, v in enumerate(data)
        )
        parts.append(f'<polyline points="{points}" class="curve {"after" if place else "before"}"/>')
    steps = max(len(data) for data in series.values())
    parts.append(f'<text x="{WIDTH - 16}" y="{base + 18}" class="note" text-anchor="end">step {steps}</text>')
    words = "; ".join(
        f"{name}: from {_number(data[0])} to {_number(data[-1])}" for name, data in series.items() if data
    )
    return _svg(title, words, height, parts)


def _counts(data: Sequence[float], low: float, high: float, bins: int) -> list[int]:
    found = [0] * bins
    for value in data:
        found[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return found


def _grid(left: int, span: int, height: int) -> str:
    return "".join(
        f'<line x1="{left + span * t:.0f}" x2="{left + span * t:.0f}" y1="4" y2="{height}" class="grid"/>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    )


def _svg(title: str, words: str, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title><desc>{escape(words)}</desc>{''.join(parts)}</svg>"
    )


def _empty(title: str) -> str:
    return _svg(title, "no data", 40, ['<text x="8" y="24" class="note">no data</text>'])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

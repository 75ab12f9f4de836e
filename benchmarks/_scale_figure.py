"""Draws the curves of `benchmarks/scale.py`: CPU seconds and peak memory of each stage against rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, told apart with any colour vision."""
WIDTH, HEIGHT, LEFT, TOP, GAP, LEGEND = 300, 240, 60, 40, 90, 190

Curves = dict[str, list[tuple[float, float]]]
"""Rows and value by stage."""


def write_figure(path: Path, seconds: Curves, memory: Curves, limit_gb: float) -> None:
    """Two panels beside each other: seconds on two logarithmic scales, memory on one."""
    low = min(y for points in seconds.values() for _, y in points)
    high = max(y for points in seconds.values() for _, y in points)
    decades = list(range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1))
    time = _panel(
        LEFT, "CPU seconds", seconds, [10.0**d for d in decades],
        lambda y: (math.log10(y) - decades[0]) / (decades[-1] - decades[0]),
    )  # fmt: skip
    marks = [0.0, 0.25, 0.5, 0.75, 1.0]
    peak = _panel(LEFT + WIDTH + GAP, "peak resident GB", memory, marks, lambda y: y / (1.1 * limit_gb))
    legend = [
        f'<rect x="{2 * (LEFT + WIDTH) + GAP - 30}" y="{TOP + 22 * i}" width="12" height="12" fill="{COLOURS[i % 7]}"/>'
        f'<text x="{2 * (LEFT + WIDTH) + GAP - 12}" y="{TOP + 22 * i + 11}">{escape(stage)}</text>'
        for i, stage in enumerate(seconds)
    ]
    width, height = 2 * (LEFT + WIDTH) + GAP + LEGEND - 40, TOP + HEIGHT + 50
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join([*time, *peak, *legend])}</svg>\n',
        encoding="utf-8",
    )


def _panel(
    left: float, title: str, curves: Curves, ticks: Sequence[float], share: Callable[[float], float]
) -> list[str]:
    rows = sorted({x for points in curves.values() for x, _ in points})
    first, last = math.log10(rows[0]), math.log10(rows[-1])

    def across(x: float) -> float:
        return left + WIDTH * (math.log10(x) - first) / (last - first or 1)

    def down(y: float) -> float:
        return TOP + HEIGHT * (1 - share(y))

    parts = [f'<text x="{left}" y="{TOP - 16}" font-weight="bold">{escape(title)}</text>']
    for tick in ticks:
        y = down(tick)
        parts.append(f'<line x1="{left}" x2="{left + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for x in rows:
        parts.append(f'<text x="{across(x):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{TOP + HEIGHT + 38}" text-anchor="middle">completions</text>')
    for i, points in enumerate(curves.values()):
        line = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[i % 7]}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3" fill="{COLOURS[i % 7]}"/>' for x, y in points]
    return parts

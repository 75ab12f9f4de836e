"""What the charts are drawn with: lines, text, axes, round scales. Across in percent, down in pixels."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from html import escape
from math import ceil, floor, log10

EDGE = 2.0
"""Percent of the width kept free on each side, so that marks at the ends are whole."""


def percent(share: float) -> float:
    """Position of a share of the scale, in percent of the chart's width."""
    return EDGE + (100 - 2 * EDGE) * share


def at(share: float) -> str:
    """`percent` as an attribute."""
    return f"{percent(share):.2f}%"


def line(x1: str, x2: str, y1: float, y2: float, style: str) -> str:
    """A line with a class."""
    return f'<line x1="{x1}" x2="{x2}" y1="{y1:g}" y2="{y2:g}" class="{style}"/>'


def text(x: str, y: float, words: str, style: str, anchor: str = "start") -> str:
    """Escaped words; `anchor` is start, middle or end."""
    return f'<text x="{x}" y="{y:g}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'


def axis(ticks: Sequence[float], low: float, high: float, y: float, name: Callable[[float], str]) -> list[str]:
    """Names of the ticks on the scale, 16 pixels below `y`; those at the ends stay inside the chart."""
    found = []
    for tick in ticks:
        share = (tick - low) / (high - low)
        if -1e-9 <= share <= 1 + 1e-9:
            anchor = "start" if share < 0.02 else "end" if share > 0.98 else "middle"
            x = "0" if anchor == "start" else "100%" if anchor == "end" else at(share)
            found.append(text(x, y + 16, name(tick), "note", anchor))
    return found


def document(title: str, words: str, height: float, parts: Sequence[str]) -> str:
    """The chart, as wide as its place, named by `title` and told in `words`."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-")
    return (
        f'<svg class="chart" width="100%" height="{height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-words"><title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-words">{escape(words)}</desc>{"".join(parts)}</svg>'
    )


def empty(title: str) -> str:
    """A chart that says that it has no data."""
    return document(title, "no data", 28, [text("0", 18, "no data", "note")])


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that enclose low and high.

    >>> ticks(0, 33)
    [0.0, 10.0, 20.0, 30.0, 40.0]
    """
    step = round_step(((high - low) or 1.0) / count)
    return [i * step for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def round_step(size: float) -> float:
    """The smallest of 1, 2, 5 · 10^m that is not below `size`.

    >>> round_step(0.03), round_step(12)
    (0.05, 20.0)
    """
    if size <= 0:
        return 1.0
    power = 10.0 ** floor(log10(size))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= size * (1 - 1e-9))


def bin_edges(values: Sequence[float], bins: int, *, whole: bool = False, zero: bool = False) -> list[float]:
    """About `bins` equal bins that hold all values, with edges at multiples of a round step, as 0 is.

    Args:
        whole: the step is an integer, for counts.
        zero: the bins reach 0.

    >>> bin_edges([3, 5, 8], 40, whole=True)
    [3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    step = round_step((high - low) / bins)
    step = max(1.0, step) if whole else step
    return [i * step for i in range(floor(low / step), floor(high / step) + 2)]


def bin_counts(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    """How many values lie in each bin [edge, next edge).

    >>> bin_counts([0, 1, 1.5], [0, 1, 2])
    [1, 2]
    """
    step, found = edges[1] - edges[0], [0] * (len(edges) - 1)
    for value in values:
        found[min(max(floor((value - edges[0]) / step + 1e-9), 0), len(found) - 1)] += 1
    return found


def moving_average(values: Sequence[float]) -> list[float]:
    """Centred over about a tenth of the values; at the ends over those that there are.

    >>> moving_average([1.0, 2.0, 3.0])
    [1.0, 2.0, 3.0]
    """
    reach = len(values) // 20
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def number(value: float) -> str:
    """Three digits, or all of a thousand; what is below a ten-thousandth is 0.

    >>> number(1234.5), number(0.12345), number(-2.5), number(-2e-8)
    ('1,234', '0.123', '−2.5', '0')
    """
    if abs(value) < 1e-4:
        return "0"
    return (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")

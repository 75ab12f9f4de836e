"""Charts of rounds as inline SVG: figures over rounds with their intervals, and what RL did over its distance.

Drawn as `prefloop.evaluation.charts` draws: across in percent, down in pixels, colours by class. Lines differ in their
dashes and marks as well as in colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from prefloop.evaluation import svg
from prefloop.evaluation.svg import line, number, text
from prefloop.evaluation.wording import visible

TALL = 190
HEAD = 22
"""Pixels above the highest value, for its label."""
LEFT, WIDE = 14.0, 82.0
"""Percent of the width left of the data, for the scale's numbers, and of the data."""
STYLES = 4
MARKS = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0-9 0Z",
    "M-4-4H4V4H-4Z",
    "M-5.6 0L0-5.6L5.6 0L0 5.6Z",
    "M-5 4L0-5L5 4Z",
)
"""Circle, square, diamond and triangle about 0, one for each style."""
LABELLED = 8
"""Most points of a line that are told in words beside their marks."""


@dataclass(frozen=True)
class Point:
    """A figure, with its interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False
    """Drawn as a ring: a round that was not promoted."""


@dataclass(frozen=True)
class Line:
    """A figure along the chart."""

    label: str
    points: Sequence[Point]
    told: bool = False
    """Its values stand beside its marks, where they are few."""


@dataclass(frozen=True)
class Level:
    """A figure that does not change along the chart."""

    label: str
    y: float


@dataclass(frozen=True)
class Key:
    """What a line of a chart means."""

    kind: str
    """``series`` or ``level``."""
    style: int
    label: str

    @property
    def mark(self) -> str:
        """The path of its marks."""
        return MARKS[self.style]


@dataclass(frozen=True)
class Chart:
    """A drawing and what its lines mean."""

    svg: str
    keys: Sequence[Key]


def plot(
    title: str,
    lines: Sequence[Line],
    levels: Sequence[Level],
    places: Sequence[tuple[float, str]],
    form: Callable[[float], str],
    height: int = TALL,
) -> Chart:
    """Lines and levels over one scale.

    Args:
        places: named places across; the first and the last are the ends of the scale.
        form: how a value is written.
    """
    shown = [one for one in lines if one.points]
    if not shown:
        return Chart(svg.empty(title), ())
    ends = [y for one in shown for p in one.points for y in (p.y, p.low, p.high) if y is not None]
    ends += [level.y for level in levels]
    ticks = svg.ticks(min(ends), max(ends), 4)
    ticks = ticks if len(ticks) > 1 else [ticks[0] - 1, ticks[0], ticks[0] + 1]
    frame = _Frame(places[0][0], places[-1][0], ticks[0], ticks[-1], height)
    parts = _grid(frame, ticks, form)
    for i, level in enumerate(levels):
        y = frame.y(level.y)
        parts.append(line(f"{LEFT - 2:g}%", "100%", y, y, f"level l{i % STYLES}"))
    for i, one in enumerate(shown):
        parts += _line(frame, one, i % STYLES, form)
    parts += [text(frame.x(x), frame.bottom + 18, name, "note", "middle") for x, name in places]
    keys = [Key("series", i % STYLES, one.label) for i, one in enumerate(shown)]
    keys += [Key("level", i % STYLES, f"{level.label}: {form(level.y)}") for i, level in enumerate(levels)]
    words = "; ".join(
        [f"{one.label}: {', '.join(form(p.y) for p in one.points)}" for one in shown]
        + [f"{level.label}: {form(level.y)}" for level in levels]
    )
    return Chart(svg.document(title, visible(words), frame.bottom + 26, parts), keys)


@dataclass(frozen=True)
class _Frame:
    """Where values lie."""

    left: float
    right: float
    low: float
    high: float
    height: int

    @property
    def bottom(self) -> int:
        return HEAD + self.height

    def share(self, x: float) -> float:
        return (x - self.left) / ((self.right - self.left) or 1.0)

    def x(self, value: float) -> str:
        return f"{LEFT + WIDE * self.share(value):.2f}%"

    def y(self, value: float) -> float:
        return round(self.bottom - self.height * (value - self.low) / ((self.high - self.low) or 1.0), 1)


def _grid(frame: _Frame, ticks: Sequence[float], form: Callable[[float], str]) -> list[str]:
    parts, before = [], ""
    for tick in ticks:
        y, name = frame.y(tick), form(tick).replace(".0%", "%")
        parts.append(line("0", "100%", y, y, "grid"))
        if name != before:  # of a narrow scale several round alike
            parts.append(text("0", y - 4, name, "note"))
        before = name
    return parts


def _line(frame: _Frame, one: Line, style: int, form: Callable[[float], str]) -> list[str]:
    parts = [_path(frame, one, style)]
    many = len(one.points) > LABELLED
    for p in one.points:
        x, y = frame.x(p.x), frame.y(p.y)
        if p.low is not None and p.high is not None:
            parts.append(line(x, x, frame.y(p.high), frame.y(p.low), f"interval s{style}"))
        size, ring = ' transform="scale(.6)"' if many else "", " ring" if p.hollow else ""
        mark = f'<path d="{MARKS[style]}" class="point s{style}{ring}"{size}/>'
        parts.append(f'<svg x="{x}" y="{y:g}" class="inner">{mark}</svg>')
        if one.told and not many:
            above = frame.y(p.y if p.high is None else p.high) - 9
            anchor = "start" if p is one.points[0] else "end" if p is one.points[-1] else "middle"
            parts.append(text(x, above, form(p.y), "value", anchor))
    return parts


def _path(frame: _Frame, one: Line, style: int) -> str:
    """The line itself, in percent of the data's width and in pixels from its top."""
    corners = " ".join(f"{100 * frame.share(p.x):.2f},{frame.y(p.y) - HEAD:g}" for p in one.points)
    return (
        f'<svg x="{LEFT:g}%" y="{HEAD}" width="{WIDE:g}%" height="{frame.height}" '
        f'viewBox="0 0 100 {frame.height}" preserveAspectRatio="none" class="inner">'
        f'<polyline points="{corners}" class="series s{style}"/></svg>'
    )


def rounds_places(rounds: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """Rounds as places across: the start and the numbers after it."""
    return [(float(one["round"]), "start" if one["round"] == 0 else f"{one['round']}") for one in rounds]


def over_distance(title: str, curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Chart:
    """A figure of every curve over its KL from the reference, on a square-root scale (2210.10760).

    Rows without the figure or without KL are passed over; a KL estimated below 0 counts as 0.
    """
    lines, furthest = [], 0.0
    for label, rows in curves.items():
        known = [row for row in rows if row.get(name) is not None and row.get("kl") is not None]
        points = [Point(sqrt(max(0.0, row["kl"])), row[name]) for row in known]
        furthest = max([furthest, *(p.x for p in points)])
        lines.append(Line(label, points))
    places = [(tick, number(tick * tick)) for tick in svg.ticks(0.0, furthest, 4)]
    share = name == "accuracy"
    return plot(title, lines, (), places, (lambda y: f"{y:.1%}") if share else number, 150)

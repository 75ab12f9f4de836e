"""Progress of long work: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

Advance = Callable[[int], None]
"""Call with the number of units just finished."""

_PLAIN_EVERY_S = 15.0


@dataclass(frozen=True)
class _Shown:
    """Work whose progress is shown, and how work inside it moves it on."""

    advance: Advance
    known: Advance
    """Counts what an earlier run had finished, which does not count into the rate."""
    unit: str
    parts: bool


_quiet = False
_console: Any = None
"""Where a bar is being drawn, or None."""
_shown: _Shown | None = None
"""The work whose progress is shown, if any."""


def set_quiet(quiet: bool) -> None:
    """Silence all progress output (used by ``--json`` and the tests)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress is silenced; processes that are started here are to be silent, too."""
    return _quiet


def main_process() -> bool:
    """Whether this process is the one, of several that train together, that writes files and speaks."""
    return os.environ.get("RANK", "0") == "0"


def note(message: str) -> None:
    """Say something beside the progress on standard error, above a bar that is drawn."""
    if _quiet:
        return
    if _console is not None:
        _console.print(message, markup=False, highlight=False, soft_wrap=True)
    else:
        print(message, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0, parts: bool = False) -> Iterator[Advance]:
    """Show how far `label` is: ``with progress("generate", 600, "prompts") as advance: advance(16)``.

    Work inside other work that shows its progress (the answers of a training) is silent.

    Args:
        label: what is being done, one or two words.
        total: number of units in all.
        unit: plural noun, shown beside the rate.
        done: units already finished by an earlier, interrupted run; they do not count into the rate.
        parts: the work inside, done part by part, is counted here where it has the same unit.
    """
    global _shown
    if _quiet:
        yield lambda n: None
    elif _shown is not None:
        inside = _shown.parts and _shown.unit == unit
        if inside:
            _shown.known(done)
        yield _shown.advance if inside else lambda n: None
    else:
        try:
            with (_bar if sys.stderr.isatty() else _plain)(label, total, unit, done) as (advance, known):
                _shown = _Shown(advance, known, unit, parts)
                yield advance
        finally:
            _shown = None


@contextmanager
def _bar(label: str, total: int, unit: str, done: int) -> Iterator[tuple[Advance, Advance]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    global _console
    started, count = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        _console = bar.console
        task = bar.add_task(label, total=total, completed=done, rate="")

        def advance(n: int) -> None:
            nonlocal count
            count += n
            rate = count / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=n, rate=f"{rate:,.1f} {unit}/s")

        try:
            yield advance, lambda n: bar.update(task, advance=n)
        finally:
            _console = None


@contextmanager
def _plain(label: str, total: int, unit: str, done: int) -> Iterator[tuple[Advance, Advance]]:
    started = last = time.monotonic()
    count = 0

    def line(now: float) -> str:
        rate = count / max(now - started, 1e-9)
        left = (total - done - count) / rate if rate else float("inf")
        ending = f", {left:,.0f} s left" if 0 < left < float("inf") else ""
        return f"{label}: {done + count:,}/{total:,} {unit}, {rate:,.1f}/s{ending}"

    def known(n: int) -> None:
        nonlocal done
        done += n

    def advance(n: int) -> None:
        nonlocal count, last
        count += n
        now = time.monotonic()
        if now - last >= _PLAIN_EVERY_S:
            last = now
            print(line(now), file=sys.stderr, flush=True)

    yield advance, known
    now = time.monotonic()
    print(f"{line(now)} ({now - started:,.1f} s)", file=sys.stderr, flush=True)

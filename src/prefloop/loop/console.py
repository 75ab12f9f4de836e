"""What a training run says while it runs: one row of figures every few steps."""

from __future__ import annotations

from typing import Any

from prefloop.progress import note

COLUMNS = {
    "step": ("step", "{:,.0f}"),
    "iteration": ("iteration", "{:,.0f}"),
    "loss": ("loss", "{:.4f}"),
    "held_out/loss": ("held-out", "{:.4f}"),
    "reward/mean": ("reward", "{:+.3f}"),
    "watched/accuracy": ("watched", "{:.1%}"),
    "rewards/margins": ("margin", "{:+.3f}"),
    "scores/margins": ("margin", "{:+.3f}"),
    "rewards/accuracies": ("accuracy", "{:.1%}"),
    "scores/accuracies": ("accuracy", "{:.1%}"),
    "shift/chosen": ("Δ chosen", "{:+.2f}"),
    "shift/rejected": ("Δ rejected", "{:+.2f}"),
    "kl/token": ("KL/token", "{:.4f}"),
    "kl": ("KL/answer", "{:.3f}"),
    "length/mean": ("tokens", "{:.0f}"),
    "length/chosen": ("chosen tok", "{:.0f}"),
    "length/rejected": ("rejected tok", "{:.0f}"),
    "grad_norm": ("grad norm", "{:.2f}"),
    "padding": ("padding", "{:.1%}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "memory_gb": ("peak GB", "{:.2f}"),
}
"""Figure, its heading, and how it is written."""

LOOKS = ("held_out/loss", "watched/accuracy")
"""Figures that are measured at some steps only: those are always shown."""


class TrainingConsole:
    """Prints a row of the first step, of every `every`-th and of each look, under headings that name the figures."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._headed: list[str] = []

    def __call__(self, row: dict[str, Any]) -> None:
        """Take the figures of one step."""
        if row["step"] != 1 and row["step"] % self.every and not any(name in row for name in LOOKS):
            return
        names = [name for name in COLUMNS if name in row or name in self._headed]
        if names != self._headed:
            self._headed = names
            note("  ".join(f"{COLUMNS[name][0]:>{_width(name)}}" for name in names))
        cells = [COLUMNS[name][1].format(row[name]) if name in row else "" for name in names]
        note("  ".join(f"{cell:>{_width(name)}}" for name, cell in zip(names, cells, strict=True)))


def _width(name: str) -> int:
    return max(8, len(COLUMNS[name][0]))

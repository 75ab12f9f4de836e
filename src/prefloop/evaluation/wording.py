"""How the page writes numbers, and how it makes whatever a model wrote visible."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

MISSING = "–"
LONGEST_CELL = 200


def percent(value: float | None) -> str:
    """A share.

    >>> percent(0.6125)
    '61.3%'
    """
    return MISSING if value is None else f"{value:.1%}"


def points(value: float | None) -> str:
    """A change of a share, in percentage points.

    >>> points(-0.042)
    '−4.2'
    """
    return MISSING if value is None else f"{100 * value:+.1f}".replace("-", "−")


def bounds(low: float | None, high: float | None) -> str:
    """The interval of a change, in percentage points."""
    return MISSING if low is None or high is None else f"{points(low)} to {points(high)}"


def p_value(p: float) -> str:
    r"""A p-value with its relation sign; below 0.001 nothing but that is said.

    >>> p_value(0.25), p_value(3e-9)
    ('=\xa00.25', '<\xa00.001')
    """
    return "<\xa00.001" if p < 0.001 else f"=\xa0{p:.2g}"


def visible(text: str) -> str:
    """The text with control, format and surrogate characters, which hide or reorder others, spelled out.

    >>> visible("a" + chr(0x202E) + "b")
    'a⟨U+202E⟩b'
    """
    return "".join(f"⟨U+{ord(char):04X}⟩" if _hidden(char) else char for char in text)


def _hidden(char: str) -> bool:
    return char not in "\n\t" and unicodedata.category(char) in ("Cc", "Cf", "Cs")


def cell(value: Any) -> str:
    """A cell of a result: NULL for None, floats to four decimals where that loses little, long text cut.

    >>> cell(None), cell(27.680000001), cell(0.00012), cell(3)
    ('NULL', '27.68', '0.00012', '3')
    """
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) >= 0.01 or value == 0 else f"{value:.4g}"
    text = visible(str(value))
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def columns(row: Sequence[Any], most: int = 12) -> list[str]:
    """The cells of a row, the last one telling how many more there are where they are too many."""
    cells = [cell(value) for value in row[:most]]
    return cells if len(row) <= most else [*cells, f"… {len(row) - most} more columns"]


def method(name: str) -> str:
    """A baseline's name in words.

    >>> method("sft_on_chosen"), method("best_of_k")
    ('SFT on chosen', 'best of K')
    """
    return name.replace("_", " ").replace("sft", "SFT").replace("of k", "of K")

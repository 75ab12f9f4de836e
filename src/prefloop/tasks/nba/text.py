"""Question texts as they are compared."""

from __future__ import annotations


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces.

    >>> normalised("  LeBron's PPG, 2022-23? ")
    'lebron s ppg 2022 23'
    """
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())

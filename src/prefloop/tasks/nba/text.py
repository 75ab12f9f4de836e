"""Question texts as they are compared."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+")
"""Letters and digits in a row, as `str.isalnum` knows them."""


def normalised(text: str) -> str:
    """Lower case, letters and digits only, single spaces.

    >>> normalised("  LeBron's PPG, 2022-23? ")
    'lebron s ppg 2022 23'
    """
    return " ".join(WORD.findall(text.lower()))

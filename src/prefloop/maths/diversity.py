"""Diversity of texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

TOKEN = re.compile(r"\w+|[^\w\s]")


def word_tokens(text: str) -> list[str]:
    """Words and punctuation marks of a text: what `distinct_n` counts where no model's tokens are at hand.

    After Unicode normalisation (NFC) and case folding: runs of letters, digits and underscores, and every other mark
    that is no white space by itself.

    >>> word_tokens("The answer, the ANSWER!")
    ['the', 'answer', ',', 'the', 'answer', '!']
    """
    return TOKEN.findall(unicodedata.normalize("NFC", text).casefold())


def distinct_n(texts: Iterable[Sequence[str] | Sequence[int]], n: int) -> float | None:
    """Distinct n-grams over all n-grams of the texts together (Li et al. 2016, 1510.03055, §5.2).

    n-grams do not cross from one text to the next. The figure falls with the amount of text, whatever its diversity:
    compare sets of like size, and state the tokens.

    Args:
        texts: tokens of each text, from one tokenizer: `word_tokens`, or a model's ids.

    Returns:
        In (0, 1]; None where no text has n tokens.

    Raises:
        ValueError: n is not positive.

    >>> distinct_n([["a", "b", "a"], ["a", "b"]], 2)  # ab, ba, ab
    0.6666666666666666
    """
    if n < 1:
        raise ValueError(f"n-grams have at least one token, not {n}")
    grams = [tuple(tokens[i : i + n]) for tokens in texts for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None

"""Which prompts that a model wrote are worth asking: the filters of Self-Instruct (2212.10560, section 2.2).

A new prompt joins only if it is unlike every prompt known so far (ROUGE-L below a limit), of a sensible length, about
nothing the task cannot serve, and no question of the evaluation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prefloop.records import Message
from prefloop.tasks.nba.text import normalised

FEWEST_WORDS, MOST_WORDS = 4, 150
"""Self-Instruct's limits on the length of an instruction."""

UNSERVED = frozenset(
    {"image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot"}
)
"""Words of what a language model cannot take or give; Self-Instruct's list, less its phrase "go to"."""


ROUNDING = 1e-9

_REQUEST = (Path(__file__).parent / "new_prompt.txt").read_text(encoding="utf-8").strip()


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, one machine operation per word (Hyyrö 2004).

    Bit i of `row` is 0 where the table's row grows from column i to i + 1; a word of `second` updates all columns at
    once by ``row ← (row + (row ∧ m)) ∨ (row ∧ ¬m)`` with m the places of the word in `first`.

    >>> lcs_length("how many points did he score".split(), "how many did he get".split())
    4
    """
    places: dict[str, int] = {}
    for i, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """ROUGE-L of two word lists: F1 of the longest common subsequence, ``2 · LCS / (m + n)`` (Lin 2004); 0 if empty.

    >>> rouge_l("who won the finals".split(), "who won the final game".split())
    0.6666666666666666
    """
    common = lcs_length(first, second)
    return 2 * common / (len(first) + len(second)) if common else 0.0


@dataclass
class PromptFilter:
    """Known prompts, and which new ones may join them; what was turned away is counted by reason."""

    limit: float
    """ROUGE-L from which on two prompts are too alike; 1: only the same words in the same order."""
    avoid: Collection[str] = ()
    """Texts that must not be asked, such as the evaluation's questions; compared as `normalised` gives them."""
    unserved: frozenset[str] = UNSERVED
    fewest: int = FEWEST_WORDS
    most: int = MOST_WORDS
    drops: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._avoid = {normalised(text) for text in self.avoid}
        self._known: dict[str, tuple[str, ...]] = {}
        self._lengths: list[int] = []
        self._holders: dict[str, list[int]] = {}

    def know(self, texts: Iterable[str]) -> None:
        """Take prompts in as they are."""
        for text in texts:
            joined = normalised(text)
            if joined in self._known:
                continue
            words = self._known[joined] = tuple(joined.split())
            for word in words:
                self._holders.setdefault(word, []).append(len(self._lengths))
            self._lengths.append(len(words))

    def admit(self, text: str) -> bool:
        """Whether a new prompt may be asked; it is then known, else counted in ``drops``."""
        reason = self._objection(text)
        if reason:
            self.drops[reason] += 1
            return False
        self.know([text])
        return True

    def _objection(self, text: str) -> str:
        joined = normalised(text)
        words = tuple(joined.split())
        if not words or not (text[0].isalnum() or text[0] in "'\"“‘¿¡("):
            return "empty, or begins with a mark"
        if not self.fewest <= len(words) <= self.most:
            return "too short or too long"
        if self.unserved & set(words):
            return "asks for what the task cannot serve"
        if joined in self._avoid:
            return "question of the evaluation"
        if joined in self._known:
            return "repeated"
        return "too much like a known prompt" if self._alike(words) else ""

    def _alike(self, words: tuple[str, ...]) -> bool:
        """Whether any known prompt reaches the limit; most are told apart by the words they share at all."""
        lengths = np.array(self._lengths)
        needed = self.limit * (len(words) + lengths) / 2
        holders = [self._holders[word] for word in set(words) if word in self._holders]
        shared = np.bincount(np.concatenate([[], *holders]).astype(np.int64), minlength=len(lengths))
        close = np.flatnonzero(np.minimum(shared, len(words)) >= needed - ROUNDING)
        known = list(self._known.values())
        return any(lcs_length(words, known[i]) >= needed[i] - ROUNDING for i in close)


def asking_for_one(shots: Sequence[str]) -> tuple[Message, ...]:
    """The request for one more prompt, after some that there are."""
    listed = "\n".join(f"{number}. {shot}" for number, shot in enumerate(shots, 1))
    return ({"role": "user", "content": _REQUEST.replace("{shots}", listed)},)


def read_new_prompt(reply: str, shots: int) -> str:
    """The prompt in a reply: without a number before it, and without further ones after it.

    >>> read_new_prompt("9. who won the finals\\n10. and the year before", 8)
    'who won the finals'
    """
    text = re.sub(r"^\s*\d+[.)]\s+", "", reply)
    return re.split(rf"\n\s*{shots + 2}[.)]\s", text)[0].strip()

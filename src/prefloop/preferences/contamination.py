"""Which training texts a test set holds, too: by runs of n words, by whole short prompts, by queries.

The rule on n words is GPT-3's (arXiv 2005.14165, section 4 and appendix C): an example counts as leaked where it has
n = 13 words in a row in common with a test item, or is the whole of it where that is shorter. Words are runs of letters
and digits without case. Differing from there, a short test *prompt* must be equal to a whole text, and a short test
*answer* is not looked for: "yes" is in every data set. Queries are compared in canonical form
(`prefloop.sql.canonical`), as they are and with their literals masked.

Memory holds 16 bytes for each n words of the test sets, and nothing of the training texts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from prefloop.preferences.held_out import HeldOut
from prefloop.sql.canonical import canonical_sql, masked_sql
from prefloop.tasks.nba.text import normalised

WORDS = 13
"""n of GPT-3."""
MASKED = "query but for literals"
"""Reason of a hit that is dropped only where that is asked for: questions of one template have such queries."""
_FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that its powers mod 2^64 give every place of a word in a run its own weight."""
EXCERPT = 300
"""Characters of a test item that are kept to be shown."""


@dataclass(frozen=True)
class Item:
    """Where a test item is, and its beginning."""

    file: str
    row: int
    text: str


@dataclass(frozen=True)
class Hit:
    """What a training text has in common with a test item."""

    reason: str
    """``n words``, ``whole text``, ``same query`` or ``query but for literals``."""
    found: str
    item: Item


class Contamination:
    """An index of test items that training texts are looked up in."""

    def __init__(self, words: int = WORDS) -> None:
        self.words = words
        self.items: list[Item] = []
        self._ids: dict[str, int] = {}
        self._runs, self._run_items = array("Q"), array("L")
        self._whole: dict[str, int] = {}
        self._queries: dict[str, int] = {}
        self._masked: dict[str, int] = {}
        self._powers = np.array([pow(_FACTOR, i, 1 << 64) for i in range(words)], np.uint64)
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, row: HeldOut) -> None:
        """Look for this test item from now on."""
        number = len(self.items)
        self.items.append(Item(row.file, row.row, row.asked[-1][:EXCERPT] if row.asked else ""))
        self._sorted = None
        for text in (*row.asked, *row.answers):
            words = normalised(text).split()
            for word in words:
                if word not in self._ids:
                    self._ids[word] = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "big") | 1
            runs, _ = self._hashes(words)
            self._runs.extend(runs.tolist())
            self._run_items.extend([number] * len(runs))
        for text in row.asked:
            words = normalised(text).split()
            if 0 < len(words) < self.words:
                self._whole.setdefault(" ".join(words), number)
        for query in row.queries:
            canonical, masked = _forms(query)
            self._queries.setdefault(canonical, number)
            self._masked.setdefault(masked, number)

    def text_hit(self, text: str) -> Hit | None:
        """The first test item that a text has a run of words, or all of them, in common with."""
        words = normalised(text).split()
        if (number := self._whole.get(" ".join(words))) is not None and words:
            return Hit("whole text", " ".join(words), self.items[number])
        runs, places = self._hashes(words)
        known, items = self._index()
        if not len(runs) or not len(known):
            return None
        at = np.minimum(np.searchsorted(known, runs), len(known) - 1)
        hits = np.flatnonzero(known[at] == runs)
        if not len(hits):
            return None
        start = int(places[hits[0]])
        return Hit(f"{self.words} words", " ".join(words[start : start + self.words]), self.items[items[at[hits[0]]]])

    def query_hit(self, query: str, mask: bool = False) -> Hit | None:
        """The first test item with the same query; with `mask` also with other literals in it."""
        if not self._queries:
            return None
        canonical, masked = _forms(query)
        if (number := self._queries.get(canonical)) is not None:
            return Hit("same query", canonical, self.items[number])
        if mask and (number := self._masked.get(masked)) is not None:
            return Hit(MASKED, masked, self.items[number])
        return None

    def _hashes(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of all runs of n words that the tests know each word of, and where they start."""
        ids = np.array([self._ids.get(word, 0) for word in words], np.uint64)
        known = np.cumsum(np.concatenate(([0], ids != 0)))
        places = np.flatnonzero(known[self.words :] - known[: -self.words] == self.words)
        return (ids[places[:, None] + np.arange(self.words)] * self._powers).sum(axis=1, dtype=np.uint64), places

    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes of the tests' runs, sorted, and the first item of each."""
        if self._sorted is None:
            runs, first = np.unique(np.array(self._runs, np.uint64), return_index=True)
            self._sorted = runs, np.array(self._run_items, np.int64)[first]
        return self._sorted


def _forms(query: str) -> tuple[str, str]:
    """Canonical text, as it is and with its literals masked; one that cannot be parsed without case and spacing."""
    plain = " ".join(query.lower().split())
    return canonical_sql(query) or plain, masked_sql(query) or plain

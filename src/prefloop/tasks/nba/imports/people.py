"""When two spellings of a name are one player."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SUFFIXES = {"jr", "sr", "ii", "iii", "iv"}


@lru_cache(maxsize=20_000)
def folded(name: str) -> str:
    """A name without accents, punctuation, case and suffix, to be compared.

    >>> folded("Luka Dončić") == folded("LUKA DONCIC"), folded("Otto Porter Jr."), folded("C.J. McCollum")
    (True, 'otto porter', 'cj mccollum')
    """
    plain = unicodedata.normalize("NFKD", name.replace("đ", "d").replace("Đ", "D"))
    letters = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    words = re.sub(r"[.'’`]", "", letters).replace("-", " ").split()
    if len(words) > 2 and words[-1] in _SUFFIXES:
        words.pop()
    return " ".join(words)


def abbreviates(short: str, name: str) -> bool:
    """Whether a name is written with its initial alone; of several given names or surnames one may be left out.

    >>> abbreviates("L. Doncic", "Luka Dončić"), abbreviates("O. Porter", "Otto Porter Jr.")
    (True, True)
    >>> abbreviates("J. Navarro", "Juan Carlos Navarro"), abbreviates("J. Tatum", "Jayson Tate")
    (True, False)
    """
    initial, _, surname = folded(short).partition(" ")
    first, *others = folded(name).split() or [""]
    return len(initial) == 1 and first.startswith(initial) and surname.split() in (others, others[-1:])


def may_be_one(slug: str | None, other: str | None) -> bool:
    """Whether two identifiers do not tell two players apart: one is missing, they are equal, or of different sources.

    >>> may_be_one("willima01", "willima03"), may_be_one("willima01", "nba101"), may_be_one(None, "nba101")
    (False, True, True)
    """
    return not slug or not other or slug == other or _space(slug) != _space(other)


def _space(slug: str) -> str:
    """Which source an identifier is of: ``nba101``, ``espn3975``; all others are Basketball-Reference's."""
    source = re.fullmatch(r"(nba|espn|synthetic)[-\d].*", slug)
    return source[1] if source else ""

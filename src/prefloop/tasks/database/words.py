"""Names of tables and columns as words: ``order_items`` is order items, ``unitPrice`` unit price."""

from __future__ import annotations

import re
import unicodedata

_PARTS = re.compile(r"U+(?!L)|U?L+|C+|D+")
"""Words by the kinds of their characters (`_kinds`)."""
UNNAMED = "unnamed"
"""What a name of nothing but space is called: engines allow it."""
KEY_WORDS = frozenset(["id", "ids", "key", "code", "guid", "uuid", "pk", "fk", "no", "nr"])
"""Last words of a column that numbers or names its rows for machines."""


def words(name: str) -> str:
    """An identifier as lower-case words, of any script; never empty.

    >>> words("order_items"), words("StuID"), words("unitPrice2"), words("straßeGröße"), words("ID顧客")
    ('order items', 'stu id', 'unit price 2', 'straße größe', 'id 顧客')
    """
    parts = (name[found.start() : found.end()] for found in _PARTS.finditer(_kinds(name)))
    return " ".join(part.lower() for part in parts) or name.strip() or UNNAMED


def _kinds(name: str) -> str:
    """A letter for each character: upper, lower, caseless, digit or separator; an accent or ² is as what it follows."""
    kinds = ""
    for character in name:
        if unicodedata.category(character) in ("Mn", "Mc", "Me", "No"):
            kinds += kinds[-1:] or "-"
        elif character.isupper() or character.islower():
            kinds += "U" if character.isupper() else "L"
        elif character.isdecimal():
            kinds += "D"
        else:
            kinds += "C" if character.isalnum() else "-"
    return kinds


def plural(text: str) -> str:
    """The plural of the last word; a word that ends in s stands.

    >>> plural("order item"), plural("city"), plural("customers"), plural("box")
    ('order items', 'cities', 'customers', 'boxes')
    """
    if text.endswith("s") and not text.endswith("ss"):
        return text
    if re.search(r"[^aeiou]y$", text):
        return f"{text[:-1]}ies"
    return f"{text}es" if text.endswith(("ss", "x", "ch", "sh")) else f"{text}s"


def singular(text: str) -> str:
    """The singular of the last word.

    >>> singular("order items"), singular("cities"), singular("addresses"), singular("status")
    ('order item', 'city', 'address', 'status')
    """
    if text.endswith("ies") and len(text) > 4:
        return f"{text[:-3]}y"
    if text.endswith(("sses", "xes", "ches", "shes")):
        return text[:-2]
    return text[:-1] if text.endswith("s") and not text.endswith(("ss", "us", "is")) else text


def key_like(name: str) -> bool:
    """Whether a column's name says that it numbers rows.

    >>> key_like("StuID"), key_like("customer_id"), key_like("paid")
    (True, True, False)
    """
    return words(name).split()[-1] in KEY_WORDS

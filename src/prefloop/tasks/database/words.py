"""Names of tables and columns as words: ``order_items`` is order items, ``unitPrice`` unit price."""

from __future__ import annotations

import re

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
KEY_WORDS = frozenset(["id", "ids", "key", "code", "guid", "uuid", "pk", "fk", "no", "nr"])
"""Last words of a column that numbers or names its rows for machines."""


def words(name: str) -> str:
    """An identifier as lower-case words.

    >>> words("order_items"), words("StuID"), words("unitPrice2")
    ('order items', 'stu id', 'unit price 2')
    """
    return " ".join(part.lower() for part in _PARTS.findall(name)) or name


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

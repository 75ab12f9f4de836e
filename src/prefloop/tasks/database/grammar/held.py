"""What a database may hold, by its names and texts: read generously, since what is said to be lacking has to lack."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from unicodedata import normalize

from prefloop.tasks.database.source.inspection import Inspected


@dataclass(frozen=True)
class Held:
    """Names and frequent texts of a database, joined up: no separator hides a word."""

    names: str
    """Names of tables and columns, one on a line."""
    texts: str
    """Texts that columns frequently hold, one on a line."""

    def any_of(self, words: Iterable[str]) -> bool:
        """Whether one of the words, lower-case ASCII, stands in a name or a text, be it inside another word.

        >>> Held(joined(["CO2_t", "faxno"]), "").any_of(["co2"]), Held("", joined(["Next of kin"])).any_of(["ofkin"])
        (True, True)
        """
        return any(word in self.names or word in self.texts for word in words)

    @property
    def readable(self) -> bool:
        """The names are ASCII: in those of another script or language the words would not be found."""
        return self.names.isascii()


def joined(texts: Iterable[str]) -> str:
    """Texts in lower case, one on a line, of each only its letters and digits, and those plain.

    >>> joined(["order_items", "CO₂ (t)"])
    'orderitems\\nco2t'
    """
    return "\n".join("".join(filter(str.isalnum, normalize("NFKC", text).lower())) for text in texts)


def held_by(found: Inspected) -> Held:
    """What the names and texts of a database that was looked at say."""
    names = [name for table in found.schema.tables for name in (table.name, *(c.name for c in table.columns))]
    texts = [
        value
        for profiles in found.profiles.values()
        for profile in profiles.values()
        for value, _ in profile.values
        if isinstance(value, str)
    ]
    return Held(joined(names), joined(texts))

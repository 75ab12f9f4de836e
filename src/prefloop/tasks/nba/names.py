"""Names of nobody: an open, generated set, so that a policy learns to copy names instead of knowing them.

A name is built from syllables in one of several sound patterns; no list of real people is involved, and any
likeness is chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Flavour:
    """A sound pattern: onsets, vowels, codas and typical endings of first and last names."""

    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    codas: tuple[str, ...]
    first_endings: tuple[str, ...]
    last_endings: tuple[str, ...]


def _flavour(onsets: str, vowels: str, codas: str, first_endings: str, last_endings: str) -> Flavour:
    return Flavour(*(tuple(text.split()) for text in (onsets, vowels, codas, first_endings, last_endings)))


FLAVOURS = (
    _flavour(
        "b br c ch d dr f g gr h j k l m n p r s sh st t tr v w",
        "a e i o u a e o ee ai ay",
        "l n r s m t ck nd rt ll x",
        "n on ell in as er ard ick y ie",
        "son man ton ley field ford well ers wood ings ett more",
    ),
    _flavour(
        "b d dr g j k l m n p r s st t v z br kr ml sr",
        "a e i o u a o e",
        "n r k l m s v t",
        "an o a ko en ir imir oš ane",
        "ić ović ević ski čić ak ec nik ović ac",
    ),
    _flavour(
        "b d f g l m n r s t v c p br tr qu",
        "a e i o u ou ai é au",
        "l n r s x nt rd t",
        "ien ois el ès and ric ine ée",
        "eau ier ard in ot ais aux oux elle",
    ),
    _flavour(
        "b ch d f g k kw l m n nd r s sh t w y z mb",
        "a e i o u a o u",
        "n m",
        "e i a u ola emi oye",
        "yemi ole wale kwu ngo mba nde ika ombe ade",
    ),
    _flavour(
        "b c d f g h j l m n p r s t v z al es",
        "a e i o u a o á í",
        "n r s l",
        "o os el io án ito ez",
        "ez es oza ero illo ada aldo ano ía era",
    ),
    _flavour(
        "h j k l m n p r s t v y kr fr sk sv b g",
        "a e i o u aa ä ö y e",
        "n r l s k nd rk st",
        "i o ar en us ri ik",
        "nen ström berg lund sson dahl mäki gaard sen",
    ),
)

PARTICLES = ("de ", "van ", "O'", "Mc", "St. ")
SUFFIXES = (" Jr.", " II", " III")
PARTICLE_RATE, SUFFIX_RATE, DOUBLE_RATE = 0.03, 0.02, 0.02


def person_name(rng: np.random.Generator) -> str:
    """A first and a last name, now and then with particle, hyphen or suffix.

    >>> person_name(np.random.default_rng(3)) == person_name(np.random.default_rng(3))
    True
    """
    flavour = FLAVOURS[int(rng.integers(len(FLAVOURS)))]
    first = _word(rng, flavour, flavour.first_endings)
    last = _word(rng, flavour, flavour.last_endings)
    draws = rng.random(3)
    if draws[0] < DOUBLE_RATE:
        last = f"{last}-{_word(rng, flavour, flavour.last_endings)}"
    if draws[1] < PARTICLE_RATE:
        last = PARTICLES[int(rng.integers(len(PARTICLES)))] + last
    suffix = SUFFIXES[int(rng.integers(len(SUFFIXES)))] if draws[2] < SUFFIX_RATE else ""
    return f"{first} {last}{suffix}"


def _word(rng: np.random.Generator, flavour: Flavour, endings: tuple[str, ...]) -> str:
    """One or two syllables and an ending, capitalised."""
    draws = iter(rng.random(9))

    def one(values: tuple[str, ...]) -> str:
        return values[int(next(draws) * len(values))]

    syllables = one(flavour.onsets) + one(flavour.vowels)
    if next(draws) < 0.45:
        syllables += one(flavour.codas) + one(flavour.onsets) + one(flavour.vowels)
    joint = one(flavour.codas) if endings[0][0] not in "aeiouáéíèäöy" or next(draws) < 0.7 else ""
    return (syllables + joint + one(endings)).capitalize()

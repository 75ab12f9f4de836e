"""Draws questions: an intent, what it asks of this database, and a wording.

A *structure* is an intent with its form and the kinds of its narrowings; a *template* is a structure with a wording.
Which templates no training question has is decided by hashes, as for the NBA questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from prefloop.tasks.database.grammar import children, groups, owners, refusals, rows
from prefloop.tasks.database.grammar.intent import Asked, Intent
from prefloop.tasks.database.grammar.world import World, pick
from prefloop.tasks.nba.questions.grammar import is_held_out

INTENTS: tuple[Intent, ...] = (
    *rows.INTENTS,
    *groups.INTENTS,
    *children.INTENTS,
    *owners.INTENTS,
    *refusals.INTENTS,
)
FAMILIES = tuple(sorted({intent.family for intent in INTENTS}))
TRIES = 8
"""Intents tried for one question: not every database offers all of them."""


@dataclass(frozen=True)
class Drawn:
    """One drawn question."""

    text: str
    family: str
    template: str
    held_out: bool
    manner: str
    """``full`` or ``typed``."""
    sql: str | None
    compare_sql: str | None
    comparison: dict[str, Any]
    lacks: str


def draw_question(rng: np.random.Generator, world: World, family: str) -> Drawn | None:
    """One question of a family; None where the database offers none."""
    intents = [intent for intent in INTENTS if intent.family == family]
    for _ in range(TRIES):
        intent = pick(rng, intents)
        asked = intent.draw(rng, world)
        if asked is not None:
            return _worded(rng, intent, asked)
    return None


def _worded(rng: np.random.Generator, intent: Intent, asked: Asked) -> Drawn:
    manner = "full" if rng.random() < 0.5 else "typed"
    wordings = intent.full if manner == "full" else intent.typed
    number = int(rng.integers(len(wordings)))
    kinds = sorted(each.kind for each in asked.filters)
    structure = "+".join([f"{intent.name} {asked.variety}".strip(), *kinds])
    template = f"{structure}/{manner}{number}"
    return Drawn(
        _fill(wordings[number], asked, manner),
        intent.family,
        template,
        is_held_out(structure, template),
        manner,
        asked.sql,
        asked.compare_sql,
        asked.comparison,
        asked.lacks,
    )


def _fill(wording: str, asked: Asked, manner: str) -> str:
    """The wording with its fields filled; what values hold is not read as a field."""
    said = [each.full if manner == "full" else each.typed for each in asked.filters]
    narrowed = (" and " if manner == "full" else " ").join(said)
    text = " ".join(wording.format(**asked.words, where=narrowed).split())
    for mark in ".?!,":
        text = text.replace(f" {mark}", mark)
    return text[0].upper() + text[1:] if manner == "full" else text

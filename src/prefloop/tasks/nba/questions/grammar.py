"""Draws questions: an intent, a scope, names from a world, and a wording.

A *structure* is an intent with the kinds of narrowing it carries; a *template* is a structure with a wording.
Held out are whole structures (a shape of SQL that no training question asks for) and, of the structures that are
seen, some templates (the wording is known from other structures only).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefloop.records import content_id
from prefloop.tasks.nba.questions import events, leaders, player_games, players, teams
from prefloop.tasks.nba.questions.intent import Intent, World
from prefloop.tasks.nba.questions.player_query import DOUBLES
from prefloop.tasks.nba.questions.query import Query, applicable
from prefloop.tasks.nba.questions.refusals import REFUSALS, Refusal, refusal_plan
from prefloop.tasks.nba.questions.scope import Scope, draw_scope, phrase

INTENTS: tuple[Intent, ...] = (
    *(replace(intent, needs="players") for intent in (*players.INTENTS, *leaders.INTENTS, *player_games.INTENTS)),
    *teams.INTENTS,
    *(replace(intent, needs="events") for intent in events.INTENTS),
)

SHARES = {
    "A": 3,
    "B": 10,
    "C": 10,
    "D": 20,
    "E": 15,
    "F": 10,
    "G": 7,
    "H": 10,
    "I": 4,
    "J": 5,
    "K": 2,
    "M": 2,
    "N": 2,
}
"""Percent of questions per family; the four percent M and N are unanswerable."""

HELD_OUT_STRUCTURES = 30
"""Percent of narrowed structures that no training question uses."""

HELD_OUT_TEMPLATES = 25
"""Percent of the templates of seen structures that no training question uses."""


@dataclass(frozen=True)
class Question:
    """One drawn question with everything its answer and its judgement need."""

    text: str
    family: str
    intent: str
    structure: str
    template: str
    register: str
    query: Query | None
    """None: unanswerable."""
    refusal: str
    comparison: dict[str, Any]

    @property
    def held_out(self) -> bool:
        """No training question has this template."""
        return is_held_out(self.structure, self.template)

    @property
    def primary_fault(self) -> str | None:
        """The mistake this kind of question most often meets, if any."""
        found = applicable(self.query) if self.query else ()
        return found[0] if found else None

    def plan(self) -> str:
        """What the right answer says before its SQL."""
        return self.query.plan() if self.query else refusal_plan(self.refusal)


def is_held_out(structure: str, template: str) -> bool:
    """Decided by hashes, so that it never depends on the order of drawing.

    Bare structures (no narrowing beyond the season) are never held out whole: each intent and each narrowing
    occurs in training, only their combination may be new.
    """
    narrowings = [part for part in structure.split("+")[1:] if not part.startswith("season")]
    if narrowings and _percent("structure", structure) < HELD_OUT_STRUCTURES:
        return True
    return _percent("template", template) < HELD_OUT_TEMPLATES


def _percent(kind: str, name: str) -> int:
    return int(content_id("hold-out", kind, name), 16) % 100


TeamWords = dict[str, tuple[str, ...]]
"""Team code to its names: code, nickname, city (or the nickname again where two teams share a city)."""


def askable(world: World) -> dict[str, float]:
    """The families' shares, of those that the world has anything to ask about."""
    known = {intent.family for intent in INTENTS if world.knows(intent.needs)}
    known |= {refusal.family for refusal in REFUSALS if world.knows(refusal.needs)}
    return {family: share for family, share in SHARES.items() if family in known}


def draw_family(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """A family letter, with the given weights."""
    letters = sorted(weights)
    shares = np.array([weights[letter] for letter in letters], dtype=float)
    return letters[int(rng.choice(len(letters), p=shares / shares.sum()))]


def draw_question(rng: np.random.Generator, family: str, world: World, vocabulary: TeamWords) -> Question:
    """One question of a family, its intents evenly."""
    refusals = [refusal for refusal in REFUSALS if refusal.family == family and world.knows(refusal.needs)]
    if refusals:
        return _refused(rng, refusals[int(rng.integers(len(refusals)))], world, vocabulary)
    intents = [intent for intent in INTENTS if intent.family == family and world.knows(intent.needs)]
    return _asked(rng, intents[int(rng.integers(len(intents)))], world, vocabulary)


def _asked(rng: np.random.Generator, intent: Intent, world: World, vocabulary: TeamWords) -> Question:
    slots = intent.draw(rng, world)
    scope = draw_scope(rng, intent.scope, world.calendar(intent.needs), slots.get("t", ""), world.codes)
    register = "curated" if rng.random() < 0.5 else "typed"
    wordings = intent.curated if register == "curated" else intent.typed
    wording = int(rng.integers(len(wordings)))
    style = int(rng.integers(6))
    text = _fill(wordings[wording], slots, scope, register, vocabulary, style)
    structure = "+".join((intent.name, *scope.shape))
    comparison = {key: slots["n"] if value == "n" else value for key, value in intent.comparison.items()}
    return Question(
        text,
        intent.family,
        intent.name,
        structure,
        f"{structure}/{register}{wording}",
        register,
        intent.build(slots, scope),
        "",
        comparison,
    )


def _refused(rng: np.random.Generator, refusal: Refusal, world: World, vocabulary: TeamWords) -> Question:
    slots = {"p": world.player(rng)} if world.knows("players") else {}
    slots["t"] = world.codes[int(rng.integers(len(world.codes)))]
    register = "curated" if rng.random() < 0.5 else "typed"
    wordings = refusal.curated if register == "curated" else refusal.typed
    wording = int(rng.integers(len(wordings)))
    text = _fill(wordings[wording], slots, Scope(season="last"), register, vocabulary, int(rng.integers(6)))
    template = f"{refusal.name}/{register}{wording}"
    return Question(text, refusal.family, refusal.name, refusal.name, template, register, None, refusal.reason, {})


def _fill(wording: str, slots: dict[str, Any], scope: Scope, register: str, vocabulary: TeamWords, style: int) -> str:
    words = {key: value for key, value in slots.items() if isinstance(value, str | int)}
    if "t" in slots:
        nickname = vocabulary[slots["t"]][1]
        words |= {"team": nickname, "poss": f"{nickname}'" if nickname.endswith("s") else f"{nickname}'s"}
        words["tt"] = vocabulary[slots["t"]][style % 3].lower()
    if "u" in slots:
        words |= {"team2": vocabulary[slots["u"]][1], "ut": vocabulary[slots["u"]][style % 3].lower()}
    if "double" in slots:
        words["dd"], words["ddt"] = DOUBLES[slots["double"]]
    text = " ".join(wording.format(**words, scope=phrase(scope, register, vocabulary, style)).split())
    for mark in ".?!,":
        text = text.replace(f" {mark}", mark)
    return text

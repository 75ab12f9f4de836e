"""Questions that the database cannot answer: of something it does not hold, or of the future.

The right answer is a refusal that says what is lacking, as in the NBA task (`prefloop.tasks.nba.questions.refusals`).
A name or a category that no row has is not among them: whether it occurs is what the query finds out, and its empty
result is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefloop.tasks.database.grammar.intent import AGGREGATES, Asked, Intent, of_table, table_words
from prefloop.tasks.database.grammar.world import Facts, World, draw_name, pick
from prefloop.tasks.database.model import UNANSWERABLE


@dataclass(frozen=True)
class Absent:
    """Something that a database may not hold."""

    one: str
    many: str
    words: frozenset[str]
    """Singular words of which any, in a name or a value, says that it may be there after all."""


def _absent(one: str, many: str, words: str) -> Absent:
    return Absent(one, many, frozenset(words.split()))


ATTRIBUTES = (
    _absent("carbon footprint", "carbon footprints", "carbon footprint emission co2 climate"),
    _absent("insurance cover", "insurance cover", "insurance cover insured insurer coverage"),
    _absent("nickname", "nicknames", "nickname nick alias"),
    _absent("review score", "review scores", "review rating score star feedback"),
    _absent("fax number", "faxes", "fax telefax"),
    _absent("number of page views", "page views", "page view visit traffic click"),
    _absent("warranty period", "warranties", "warranty guarantee"),
    _absent("energy use", "energy use", "energy power consumption watt electricity"),
    _absent("emergency contact", "emergency contacts", "emergency contact"),
    _absent("number of followers", "followers", "follower social media subscriber"),
)
"""What a row of any kind might have."""

THINGS = (
    _absent("lawsuit", "lawsuits", "lawsuit suit litigation legal court"),
    _absent("press article", "press articles", "press article news media"),
    _absent("parking permit", "parking permits", "parking permit"),
    _absent("software licence", "software licences", "software licence license"),
    _absent("donation", "donations", "donation donor charity gift"),
    _absent("job application", "job applications", "job application applicant candidate"),
    _absent("insurance claim", "insurance claims", "insurance claim"),
    _absent("podcast", "podcasts", "podcast episode media"),
)
"""What might belong to a row of any kind."""

FORECASTS = frozenset("forecast prediction projection projected expected planned plan budget target".split())


def _lacking(rng: np.random.Generator, world: World, facts: Facts, options: tuple[Absent, ...]) -> Asked | None:
    named = draw_name(rng, facts)
    absent = [each for each in options if not each.words & world.vocabulary]
    if named is None or not absent:
        return None
    one = pick(rng, absent)
    said = {**table_words(facts, name=named[0]), "value": named[1], "absent": one.one, "absents": one.many}
    return Asked(None, said, lacks=one.many)


@of_table("names")
def _attribute(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    return _lacking(rng, world, facts, ATTRIBUTES)


@of_table("names")
def _thing(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    return _lacking(rng, world, facts, THINGS)


@of_table("measures")
def _future(rng: np.random.Generator, world: World, facts: Facts) -> Asked | None:
    if FORECASTS & world.vocabulary:
        return None
    measure, aggregate = pick(rng, facts.measures), AGGREGATES[pick(rng, sorted(AGGREGATES))]
    return Asked(None, {**table_words(facts, measure=measure), "aggregate": aggregate}, lacks="the future")


INTENTS = (
    Intent(
        "absent_attribute",
        UNANSWERABLE,
        _attribute,
        (
            "What is the {absent} of the {one} whose {name} is {value}?",
            "Give the {absent} of the {one} with {name} {value}.",
            "For the {one} with the {name} {value}, what is the {absent}?",
        ),
        ("{absent} of {value}", "{value} {absent}", "{one} {value} {absent}"),
    ),
    Intent(
        "absent_thing",
        UNANSWERABLE,
        _thing,
        (
            "How many {absents} belong to the {one} whose {name} is {value}?",
            "Count the {absents} of the {one} with {name} {value}.",
            "What is the number of {absents} of the {one} called {value}?",
        ),
        ("number of {absents} of {value}", "{value} {absents} count"),
    ),
    Intent(
        "future",
        UNANSWERABLE,
        _future,
        (
            "What will the {aggregate} {measure} of {many} be next year?",
            "Predict the {aggregate} {measure} over all {many} for the next twelve months.",
            "By how much will the {aggregate} {measure} of {many} change next year?",
        ),
        ("{aggregate} {measure} of {many} next year", "forecast {aggregate} {measure} {many}"),
    ),
)

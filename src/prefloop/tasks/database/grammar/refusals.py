"""Questions that the database cannot answer: of something it does not hold, or of the future.

Asked is only what no name and no frequent text of the database has a part of a word of: rather too little than what can
be answered after all. The right answer is a refusal that says what is lacking, as in the NBA task
(`prefloop.tasks.nba.questions.refusals`). A name or a category that no row has is not among them: whether it occurs is
what the query finds out, and its empty result is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefloop.tasks.database.grammar.held import Held, joined
from prefloop.tasks.database.grammar.intent import AGGREGATES, Asked, Intent, of_table, table_words
from prefloop.tasks.database.grammar.world import Facts, World, draw_name, pick
from prefloop.tasks.database.model import UNANSWERABLE


@dataclass(frozen=True)
class Absent:
    """Something that a database may not hold."""

    one: str
    many: str
    stems: frozenset[str]
    """Parts of words, of which any in a name or a text says that it may be there after all (`Held.any_of`)."""


def _absent(one: str, many: str, stems: str) -> Absent:
    return Absent(one, many, frozenset(stems.split()))


ATTRIBUTES = (
    _absent("carbon footprint", "carbon footprints", "carbon footprint emission co2 climate ghg greenhouse"),
    _absent("insurance cover", "insurance cover", "insur cover polic premium protect"),
    _absent("nickname", "nicknames", "nick alias aka knownas handle username displayname shortname pseudonym moniker"),
    _absent("review score", "review scores", "review rating rated score star feedback grade satisf opinion"),
    _absent("fax number", "faxes", "fax"),
    _absent("number of page views", "page views", "page view visit traffic click hit impression session"),
    _absent("warranty period", "warranties", "warrant guarant"),
    _absent("energy use", "energy use", "energy power consum watt electric kw joule fuel volt mpg"),
    _absent("emergency contact", "emergency contacts", "emergenc contact kin guardian relative spouse"),
    _absent("number of followers", "followers", "follow social media subscri fan friend audience"),
)
"""What a row of any kind might have."""

THINGS = (
    _absent("lawsuit", "lawsuits", "suit litig legal court case disput plaintiff sued trial"),
    _absent("press article", "press articles", "press article news media publi journal headline coverage blog"),
    _absent("parking permit", "parking permits", "park permit"),
    _absent("software licence", "software licences", "softw licen subscri install"),
    _absent("donation", "donations", "donat donor charit gift grant contribut pledge sponsor fundrais"),
    _absent("job application", "job applications", "job applica candidat recruit vacanc hiring"),
    _absent("insurance claim", "insurance claims", "insur claim polic premium accident incident damage"),
    _absent("podcast", "podcasts", "podcast episode media broadcast radio audio"),
)
"""What might belong to a row of any kind."""

FORECASTS = frozenset(
    "forecast predict projected projection expect plan budget target estimat future schedul outlook upcoming nextyear"
    " quota".split()
)
"""Of which any says that the next year may be there."""
AGES = frozenset("age tenure senior experience birth born since elapsed duration year month week day date".split())
"""Of which any, in the name of a measure, says that it may grow with the calendar: next year's can be worked out."""


def _lacking(rng: np.random.Generator, world: World, facts: Facts, options: tuple[Absent, ...]) -> Asked | None:
    named = draw_name(rng, facts)
    absent = [each for each in options if not world.held.any_of(each.stems)]
    if named is None or not absent or not world.held.readable:
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
    options = [name for name in facts.measures if not Held(joined([name]), "").any_of(AGES)]
    if not options or not world.held.readable or world.held.any_of(FORECASTS):
        return None
    measure, aggregate = pick(rng, options), AGGREGATES[pick(rng, sorted(AGGREGATES))]
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

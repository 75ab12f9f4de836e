"""Questions the database cannot answer (families M and N): the right answer is a refusal with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """One kind of unanswerable question."""

    name: str
    family: str
    reason: str
    """What the database lacks, as the plan says it."""
    curated: tuple[str, ...]
    typed: tuple[str, ...]

    @property
    def needs(self) -> str:
        """``players`` where a wording names one."""
        return "players" if any("{p}" in wording for wording in self.curated + self.typed) else ""


REFUSALS = (
    Refusal(
        "age",
        "M",
        "birth dates",
        ("How old is {p}?", "What is the age of {p}?"),
        ("{p} age", "how old is {p}"),
    ),
    Refusal(
        "height",
        "M",
        "heights",
        ("How tall is {p}?", "What is the height of {p}?"),
        ("{p} height", "how tall is {p}"),
    ),
    Refusal(
        "college",
        "M",
        "colleges",
        ("Which college did {p} attend?",),
        ("{p} college", "where did {p} go to college"),
    ),
    Refusal(
        "draft",
        "M",
        "the draft",
        ("When was {p} drafted?", "Which pick was {p} in the draft?"),
        ("{p} draft pick", "{p} draft year"),
    ),
    Refusal(
        "salary",
        "N",
        "salaries",
        ("What is the salary of {p}?", "How much does {p} earn?"),
        ("{p} salary", "{p} contract"),
    ),
    Refusal(
        "prediction",
        "N",
        "future games",
        ("Who will win the next {team} game?", "Will the {team} win the title next year?"),
        ("{tt} next game prediction", "will {tt} win tomorrow"),
    ),
    Refusal(
        "award",
        "N",
        "awards",
        ("How many MVP awards has {p} won?", "Was {p} an All-Star {scope}?"),
        ("{p} mvp awards", "{p} all star selections"),
    ),
    Refusal(
        "betting",
        "N",
        "betting odds",
        ("What are the odds of the {team} winning tonight?",),
        ("{tt} odds tonight", "{tt} point spread"),
    ),
    Refusal(
        "injury",
        "N",
        "injury reports",
        ("Is {p} injured?", "When will {p} return from injury?"),
        ("{p} injury status", "{p} injury update"),
    ),
    Refusal(
        "live",
        "N",
        "live scores",
        ("What is the live score of the {team} game?",),
        ("{tt} live score", "{tt} score right now"),
    ),
    Refusal(
        "coach",
        "N",
        "coaches",
        ("Who coaches the {team}?", "Who is the head coach of the {team}?"),
        ("{tt} coach", "who coaches the {tt}"),
    ),
)


def refusal_plan(reason: str) -> str:
    """The right answer's only line."""
    return f"cannot be answered: the database holds no data on {reason}."

"""What a project holds, as records: the log of verdicts, its items, and prompts, completions and judgements.

Raters are named by their pseudonyms alone. A verdict is never turned into another: "both bad" and skips are judgements
without a value, and what is not to be trained on (gold, repeats, surplus, ambiguous questions) stays and says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.adjudication import is_ambiguous
from prefloop.annotation.export_corrections import stands_with
from prefloop.annotation.protocol import BOTH_BAD, EQUAL, preference
from prefloop.annotation.rendering import reveals
from prefloop.annotation.results import Execution
from prefloop.annotation.schema import answer, item, judgement, rater
from prefloop.annotation.schema import project as project_table
from prefloop.config.annotation import AnnotationConfig
from prefloop.preferences.people import PEOPLE
from prefloop.records import CORRECTED, LEFT_OUT, Completion, Judgement, Prompt, content_id

ROLES = {"gold": "gold item", "training": "calibration item"}
"""Why verdicts on items of known answers are left out of training data."""
SIDES = {"left": 1.0, "equal": 0.5, "right": 0.0}
"""Of an objective: P(the answer shown first is better)."""
ADJUDICATION = "adjudication"
Row = dict[str, Any]
Tiers = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Exported:
    """A project at one moment."""

    config: AnnotationConfig
    source: str
    state: str
    log: list[Row]
    """Every revision of every verdict, oldest first."""
    items: dict[str, Row]
    """By id, in their order."""
    answers: dict[str, dict[int, Row]]
    """By item and index."""
    discarded: frozenset[str]
    """Raters who were removed, and their verdicts with them."""
    include_surplus: bool
    executed: Mapping[str, Execution] = field(default_factory=dict)
    """What became of corrected answers when they were run, by completion id; empty before that."""

    @cached_property
    def current(self) -> list[Row]:
        """The verdicts that stand: the last revision of each, but for those withdrawn."""
        return [row for row in self.log if row["current"] and row["kind"] != "withdrawn"]

    @cached_property
    def settled(self) -> set[str]:
        """Items that a reviewer settled."""
        return {row["item_id"] for row in self.current if row["kind"] == ADJUDICATION}

    @cached_property
    def ambiguous(self) -> dict[str, list[Row]]:
        """What was said of the questions that most people find ambiguous, and no reviewer has settled, by item."""
        said: dict[str, list[Row]] = {}
        for row in self.current:
            stands = row["counted"] or (row["kind"] == "skip" and row["rater"] not in self.discarded)
            if row["role"] == "item" and not row["turn"] and stands:
                said.setdefault(row["item_id"], []).append(row)
        reasons = {item_id: [row["reason"] for row in rows] for item_id, rows in said.items()}
        return {i: rows for i, rows in said.items() if i not in self.settled and is_ambiguous(reasons[i])}

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Each prompt once, in the order of the items."""
        found: dict[str, Prompt] = {}
        for row in self.items.values():
            messages = tuple(row["messages"])
            found.setdefault(
                row["prompt_id"], Prompt(row["prompt_id"], messages, row["task"], row["split"], row["meta"])
            )
        return list(found.values())

    @cached_property
    def completions(self) -> list[Completion]:
        """Each answer once with all its fields, then the corrected answers of raters."""
        found = {row["completion_id"]: self._completion(row) for row in self._answer_rows()}
        edited = {completion.id: completion for completion in self.edited.values()}
        told = (stands_with(made, self.executed[i]) if i in self.executed else made for i, made in edited.items())
        return [*found.values(), *told]

    @cached_property
    def edited(self) -> dict[tuple[int, int], Completion]:
        """Corrected answers by number in the log and index of the answer; what says nothing new is left out."""
        found: dict[tuple[int, int], Completion] = {}
        by_id: dict[str, Completion] = {}
        taken: dict[str, int] = defaultdict(int)
        for row in self._answer_rows():
            prompt_id = self.items[row["item_id"]]["prompt_id"]
            taken[prompt_id] = max(taken[prompt_id], row["details"]["index"] + 1)
        for row in self.current:
            for index, text in sorted(row["edits"].items(), key=lambda edit: int(edit[0])):
                if self._says_nothing_new(row["item_id"], text):
                    continue
                made = self._correction(row, int(index), text, taken[row["prompt_id"]])
                taken[row["prompt_id"]] += made.id not in by_id
                found[row["seq"], int(index)] = by_id.setdefault(made.id, made)
        return found

    @cached_property
    def judgements(self) -> list[Judgement]:
        """One for every verdict that stands, and one for every corrected answer against those it was shown with."""
        found = []
        for row in self.current:
            verdict = self._verdict(row)
            found += [verdict, *self._of_edits(row, verdict)]
        return found

    def _answer_rows(self) -> Iterator[Row]:
        for answers in self.answers.values():
            yield from answers.values()

    def _completion(self, row: Row) -> Completion:
        details = {name: tuple(value) if isinstance(value, list) else value for name, value in row["details"].items()}
        prompt_id = self.items[row["item_id"]]["prompt_id"]
        return Completion(row["completion_id"], prompt_id, text=row["text"], policy=row["policy"], **details)

    def _correction(self, row: Row, index: int, text: str, place: int) -> Completion:
        original = self.answers[row["item_id"]][index]
        policy = PEOPLE + row["rater"]
        identity = content_id("completion", row["prompt_id"], policy, text)
        edited = {"edited": original["completion_id"]}
        round_ = original["details"]["round"]
        return Completion(identity, row["prompt_id"], place, round_, text, (), (), "stop", policy, edited, 0)

    def _says_nothing_new(self, item_id: str, text: str) -> bool:
        words = text.split()
        return not words or any(words == row["text"].split() for row in self.answers[item_id].values())

    def left_out(self, row: Row) -> str | None:
        """Why a verdict that stands is not trained on, or None."""
        of = self.items[row["item_id"]]
        if of["role"] in ROLES:
            return ROLES[of["role"]]
        if of["id"] in self.settled:
            return None if row["kind"] == ADJUDICATION else "adjudicated"
        if row["turn"]:
            return "repeat"
        if of["id"] in self.ambiguous:
            return "ambiguous question"
        if of["status"] == "aside":
            return "item set aside"
        if any(reveals(found["text"], self.config.reveals) for found in self.answers[of["id"]].values()):
            return "an answer names its model"
        if row["counted"] or row["kind"] == "skip":
            return None
        if row["rater"] in self.discarded:
            return "discarded with its rater"
        return None if self.include_surplus else "surplus"

    def _verdict(self, row: Row) -> Judgement:
        names = {index: found["completion_id"] for index, found in self.answers[row["item_id"]].items()}
        tiers = tuple(tuple(names[index] for index in tier) for tier in row["ranking"] or ())
        objectives = {name: SIDES[side] for name, side in sorted(row["objectives"].items())}
        said = (self._kind(row), _value(row), objectives, tiers, _raw(row, self.left_out(row)))
        judge = PEOPLE + row["rater"] + ("/adjudication" if row["kind"] == ADJUDICATION else "")
        return Judgement.create(row["prompt_id"], tuple(row["completion_ids"]), judge, *said)

    def _kind(self, row: Row) -> str:
        """``choice`` or ``ranking``; a verdict without either is of the project's kind."""
        if row["strength"] is None and row["ranking"] is None:
            return "ranking" if self.config.kind == "ranking" else "choice"
        return "choice" if row["ranking"] is None else "ranking"

    def _of_edits(self, row: Row, verdict: Judgement) -> Iterator[Judgement]:
        """A corrected answer is better than the one preferred, and that better than the other.

        Answers of which a rater said nothing together (both bad) are each below it, and not compared.
        """
        for index in row["edits"]:
            made = self.edited.get((row["seq"], int(index)))
            if made is None or row["kind"] == "skip":
                continue
            said = {**verdict.raw, "status": CORRECTED, "corrects": made.sampling["edited"]}
            if (execution := self.executed.get(made.id)) is not None:
                said |= {"executed": execution.outcome}
                if execution.left_out:
                    said.setdefault(LEFT_OUT, execution.left_out)
            for shown, tiers in _below(verdict):
                answers, ranking = (made.id, *shown), ((made.id,), *tiers)
                yield Judgement.create(verdict.prompt_id, answers, verdict.judge, "ranking", 1.0, {}, ranking, said)


def read_exported(connection: sa.Connection, include_surplus: bool = False) -> Exported:
    """Everything that a project's export says, read in one transaction.

    Args:
        include_surplus: train on verdicts beyond an item's target, too.
    """
    if connection.dialect.name == "postgresql" and not connection.in_transaction():
        connection.execution_options(isolation_level="REPEATABLE READ")  # one moment, whatever is submitted meanwhile
    items = {row.id: dict(row._mapping) for row in connection.execute(sa.select(item).order_by(item.c.position))}
    answers: dict[str, dict[int, Row]] = {item_id: {} for item_id in items}
    for row in connection.execute(sa.select(answer).order_by(answer.c.item_id, answer.c.index)):
        answers[row.item_id][row.index] = dict(row._mapping)
    found = sa.select(judgement, rater.c.pseudonym).join(rater, rater.c.id == judgement.c.rater_id)
    rows = connection.execute(found.order_by(judgement.c.seq))
    log = [_log_row(row._mapping, items[row.item_id], answers[row.item_id]) for row in rows]
    discarded = frozenset(connection.scalars(sa.select(rater.c.pseudonym).where(rater.c.discarded)))
    project = connection.execute(sa.select(project_table)).one()
    config = AnnotationConfig.model_validate(project.settings)
    return Exported(config, project.source, project.state, log, items, answers, discarded, include_surplus)


def _log_row(row: Mapping[str, Any], of: Row, answers: Mapping[int, Row]) -> Row:
    kept = ("seq", "client_id", "turn", "revision", "current", "counted", "kind", "strength", "ranking", "order")
    said = ("objectives", "reason", "comment", "edits", "opened", "submitted")
    return {
        **{name: row[name] for name in (*kept, *said)},
        "item_id": of["id"],
        "prompt_id": of["prompt_id"],
        "completion_ids": [answers[index]["completion_id"] for index in row["order"]],
        "rater": row["pseudonym"],
        "seconds": round((row["submitted"] - row["opened"]) / 1000, 3),
        "role": of["role"],
        "stratum": of["stratum"],
        "probability": of["probability"],
    }


def _raw(row: Row, left_out: str | None) -> Row:
    """What a verdict said before it was read as a judgement; ``status`` in a word or two."""
    names = (
        "item_id",
        "seq",
        "role",
        "turn",
        "revision",
        "order",
        "strength",
        "objectives",
        "comment",
        "reason",
        "edits",
    )
    times = ("opened", "submitted", "seconds", "counted", "stratum", "probability")
    found = {name: row[name] for name in (*names, *times)} | {"status": _status(row)}
    if row["strength"] == BOTH_BAD:
        found["both_bad"] = True
    if row["kind"] == ADJUDICATION:
        found["adjudication"] = True
    return found if left_out is None else {**found, LEFT_OUT: left_out}


def _status(row: Row) -> str:
    if row["ranking"] is not None:
        return "ranked"
    if row["strength"] is None:
        return f"skipped ({row['reason']})"
    return {BOTH_BAD: "both bad", EQUAL: "tie"}.get(row["strength"], "preferred")


def _value(row: Row) -> float | None:
    """1 for a ranking; of a choice, whether the answer shown first is better; None where nothing was preferred."""
    if row["ranking"] is not None:
        return 1.0
    if row["strength"] is None or row["strength"] == BOTH_BAD:
        return None
    best, _ = preference(row["strength"], row["order"])
    return 0.5 if best is None else float(best == row["order"][0])


def _below(verdict: Judgement) -> Iterator[tuple[tuple[str, ...], Tiers]]:
    """What stands below a corrected answer: answers shown, and their tiers."""
    shown = verdict.completion_ids
    if verdict.ranking:
        yield shown, verdict.ranking
    elif verdict.value is None:
        yield from (((answer,), ((answer,),)) for answer in shown)
    elif verdict.value == SIDES["equal"]:
        yield shown, (shown,)
    else:
        best, other = shown if verdict.value == SIDES["left"] else shown[::-1]
        yield shown, ((best,), (other,))

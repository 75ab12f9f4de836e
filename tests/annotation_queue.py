"""Projects for tests of the annotation queue, and a second queue in plain Python to hold the real one against."""

from __future__ import annotations

import itertools
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from prefloop.annotation.database import Database, open_database
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.protocol import Verdict
from prefloop.annotation.schema import project, rater
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt

SECRET = "5" * 64
"""In place of a random one, so that what is drawn is the same in every run."""
_numbers = itertools.count(1)


def new_item(number: int, role: str = "item", answers: int = 2, **options: Any) -> NewItem:
    """Item `number`; gold and training: answer 0 is the best one."""
    prompt = Prompt.create(({"role": "user", "content": f"question {number}"},), "a-task", "train")
    made = tuple(
        Completion(f"c{number}-{i}", prompt.id, i, 0, f"answer {i}", (1,), (-0.5,), "stop", f"policy-{i}", {}, i)
        for i in range(answers)
    )
    if role != "item":
        options = {"known": {"best": [0], "explanation": "the first is right"}, **options}
    return NewItem(prompt, made, role=role, **options)


def fill(connection: sa.Connection, config: AnnotationConfig, items: Iterable[NewItem], raters: int, **of: Any) -> None:
    """A project with raters 1, 2, …"""
    create_project(connection, config, "a test", 0)
    connection.execute(sa.update(project).values(secret=SECRET))
    add_items(connection, items)
    row = {"role": "rater", "status": "active", "qualified": True, "created": 0} | of
    people = [{"id": i, "pseudonym": f"rater-{i}", "name": f"Rater {i}"} | row for i in range(1, raters + 1)]
    connection.execute(sa.insert(rater), people)


def open_project(
    place: Path | str, config: AnnotationConfig, items: Iterable[NewItem], raters: int = 1, **of: Any
) -> Database:
    """A new database with a project in it."""
    database = open_database(place)
    with database.writing.begin() as connection:
        fill(connection, config, items, raters, **of)
    return database


def verdict(item_id: str, kind: str = "choice", strength: int | None = None, **options: Any) -> Verdict:
    """A verdict with an id of its own; a choice is for the left answer."""
    if kind == "choice" and strength is None:
        strength = 1
    if kind == "skip":
        options = {"reason": "broken", **options}
    client_id = str(uuid.UUID(int=next(_numbers)))
    return Verdict(client_id=client_id, item_id=item_id, kind=kind, strength=strength, **options)


@dataclass
class Entry:
    """A line of the reference's log."""

    seq: int
    verdict: Verdict
    rater: int
    revision: int
    vote: object
    """Answer index, ``tie``, ``both bad``; None for what is no choice."""
    counted: bool
    current: bool = True


@dataclass
class ReferenceQueue:
    """The rules of the queue, over and over from the log: no counters, no database, no speed.

    Which of gold, repeat and ordinary item comes next is drawn in the real one; here either is allowed where it exists.
    """

    config: AnnotationConfig
    roles: dict[str, str]
    """Of items, in the order of the queue."""
    expected: dict[str, int]
    repeat_after: int
    log: list[Entry] = field(default_factory=list)
    shown: dict[tuple[str, int, int], tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    """(item, rater, turn): state, order."""
    leases: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """rater: item, turn, end."""
    status: dict[str, str] = field(default_factory=dict)
    target: dict[str, int] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.status = dict.fromkeys(self.roles, "open")
        self.target = dict.fromkeys(self.roles, self.config.overlap)

    @property
    def length(self) -> int:
        return int(self.config.lease_minutes * 60_000)

    def standing(self, item: str, rater: int, turn: int) -> Entry | None:
        """The current line of a rater on an item."""
        for entry in self.log:
            if (entry.verdict.item_id, entry.rater, entry.verdict.turn) == (item, rater, turn) and entry.current:
                return entry
        return None

    def counted(self, item: str) -> list[Entry]:
        return [entry for entry in self.log if entry.verdict.item_id == item and entry.counted and entry.current]

    def skips(self, item: str) -> int:
        return sum(
            entry.verdict.item_id == item and entry.current and entry.verdict.kind == "skip" and not entry.verdict.turn
            for entry in self.log
        )

    def holders(self, item: str) -> set[int]:
        return {rater for rater, (held, turn, _) in self.leases.items() if held == item and turn == 0}

    def expire(self, now: int) -> int:
        over = [who for who, (_, _, end) in self.leases.items() if end <= now]
        for who in over:
            self.end(who, "expired")
        return len(over)

    def end(self, rater: int, state: str) -> None:
        if rater in self.leases:
            item, turn, _ = self.leases.pop(rater)
            self.shown[item, rater, turn] = (state, self.shown[item, rater, turn][1])

    def wanted(self, rater: int, role: str) -> list[str]:
        """Open items that a rater could get, in order, free slot or not."""
        over = ("answered", "skipped", "leased")
        return [
            item
            for item, its_role in self.roles.items()
            if its_role == role
            and self.status[item] == "open"
            and self.shown.get((item, rater, 0), ("", ()))[0] not in over
        ]

    def free(self, item: str) -> bool:
        return len(self.counted(item)) + len(self.holders(item)) < self.target[item]

    def offers(self, rater: int) -> tuple[str | None, set[tuple[str, int]]]:
        """The ordinary item that is next, and the hidden ones that may come instead."""
        first = next(filter(self.free, self.wanted(rater, "item")), None)
        hidden = {(item, 0) for item in self.wanted(rater, "gold")[:1]}
        mine = [
            entry.verdict.item_id
            for entry in reversed(self.log)
            if entry.rater == rater and entry.current and entry.vote is not None and entry.verdict.turn == 0
            if self.roles[entry.verdict.item_id] == "item" and (entry.verdict.item_id, rater, 1) not in self.shown
        ]
        return first, hidden | {(item, 1) for item in mine[self.repeat_after :][:1]}

    def nothing(self, rater: int) -> str:
        waiting = any(len(self.counted(item)) < self.target[item] for item in self.wanted(rater, "item"))
        return "held" if waiting else "done"

    def hold(self, rater: int, item: str, turn: int, order: tuple[int, ...], now: int) -> None:
        self.shown[item, rater, turn] = ("leased", order)
        self.leases[rater] = (item, turn, now + self.length)

    def judge(self, rater: int, verdict: Verdict, now: int) -> str:
        """The receipt's word, or the kind of refusal."""
        for entry in self.log:
            if entry.verdict.client_id == verdict.client_id:
                return "known" if (entry.rater, entry.verdict) == (rater, verdict) else "conflict"
        if rater in self.gone:
            return "forbidden"
        key = (verdict.item_id, rater, verdict.turn)
        if key not in self.shown:
            return "missing"
        last = self.standing(*key)
        withdrawn = last is None or last.verdict.kind == "withdrawn"
        if verdict.revises is None and not withdrawn:
            return "conflict"
        if verdict.revises is not None and (last is None or last.seq != verdict.revises):
            return "conflict"
        if verdict.kind == "withdrawn" and withdrawn:
            return "conflict"
        self.expire(now)  # a refusal changes nothing, not even this
        return self._enter(rater, verdict, last, withdrawn)

    def _enter(self, rater: int, verdict: Verdict, last: Entry | None, first: bool) -> str:
        item, turn = verdict.item_id, verdict.turn
        _, order = self.shown[item, rater, turn]
        if self.leases.get(rater, ("", 0, 0))[:2] == (item, turn):
            del self.leases[rater]
        skips = self.skips(item)
        if last is not None:
            last.current = False
        vote = None
        if verdict.kind == "choice":
            vote = {0: "both bad", 3: "tie"}.get(verdict.strength, order[0] if verdict.strength in (1, 2) else order[1])
        ordinary = self.roles[item] == "item" and turn == 0
        counted = ordinary and vote is not None and self.free(item)
        revision = 0 if last is None else last.revision + 1
        self.log.append(Entry(len(self.log) + 1, verdict, rater, revision, vote, counted))
        state = {"choice": "answered", "skip": "skipped", "withdrawn": "released"}[verdict.kind]
        self.shown[item, rater, turn] = (state, order)
        if ordinary:
            self._review(item, self.skips(item) > skips)
        if vote is None:
            return {"skip": "skipped", "withdrawn": "withdrawn"}[verdict.kind]
        return ("counted" if counted or not ordinary else "surplus") if first else "edited"

    def _review(self, item: str, new_skip: bool) -> None:
        votes = Counter(entry.vote for entry in self.counted(item))
        enough = votes.total() >= self.target[item]
        most = self.config.overlap + self.config.extra_raters
        if self.skips(item) >= self.config.skips and (new_skip or self.status[item] == "aside"):
            self.status[item] = "aside"
        elif enough and self.target[item] < most and self._disputed(item, votes):
            self.status[item], self.target[item] = "open", most
        else:
            self.status[item] = "closed" if enough else "open"

    def _disputed(self, item: str, votes: Counter[object]) -> bool:
        if self.config.overlap == 1:
            return False
        most = max(votes.values())
        if 2 * most <= votes.total():
            return True
        (leader,) = (vote for vote, count in votes.items() if count == most)
        return item in self.expected and isinstance(leader, int) and leader != self.expected[item]

    def remove(self, rater: int, discard: bool) -> int:
        self.end(rater, "released")
        self.gone.add(rater)
        lost = [entry for entry in self.log if entry.rater == rater and entry.counted and entry.current]
        if not discard:
            return 0
        for entry in self.log:
            entry.counted &= entry.rater != rater
        for entry in lost:
            if self.status[entry.verdict.item_id] == "closed":
                self.status[entry.verdict.item_id] = "open"
        return len(lost)

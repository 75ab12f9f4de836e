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
from annotation_tables import new_database

from prefloop.annotation.database import Database
from prefloop.annotation.items import NewItem, add_items, create_project
from prefloop.annotation.protocol import Verdict
from prefloop.annotation.schema import project, rater
from prefloop.config.annotation import AnnotationConfig
from prefloop.records import Completion, Prompt

SECRET = "5" * 64
"""In place of a project's random one."""
_numbers = itertools.count(1)


def fix_secret(connection: sa.Connection) -> None:
    """What is hidden in the stream, and on which side an answer stands, is the same in every run."""
    connection.execute(sa.update(project).values(secret=SECRET))


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
    fix_secret(connection)
    add_items(connection, items)
    row = {"role": "rater", "status": "active", "qualified": True, "created": 0} | of
    people = [{"id": i, "pseudonym": f"rater-{i}", "name": f"Rater {i}"} | row for i in range(1, raters + 1)]
    connection.execute(sa.insert(rater), people)


def open_project(
    place: Path | str, config: AnnotationConfig, items: Iterable[NewItem], raters: int = 1, **of: Any
) -> Database:
    """A new database with a project in it."""
    database = new_database(place)
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
    item: str
    rater: int
    turn: int
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
    opened: dict[tuple[str, int, int], int] = field(default_factory=dict)
    handles: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    leases: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    """rater: item, turn, end."""
    status: dict[str, str] = field(default_factory=dict)
    target: dict[str, int] = field(default_factory=dict)
    extra: dict[str, int] = field(default_factory=dict)
    """Of the target: asked for because of a split."""
    gone: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.status = dict.fromkeys(self.roles, "open")
        self.target = dict.fromkeys(self.roles, self.config.overlap)
        self.extra = dict.fromkeys(self.roles, 0)

    @property
    def length(self) -> int:
        return int(self.config.lease_minutes * 60_000)

    def standing(self, item: str, rater: int, turn: int) -> Entry | None:
        """The current line of a rater on an item."""
        for entry in self.log:
            if (entry.item, entry.rater, entry.turn) == (item, rater, turn) and entry.current:
                return entry
        return None

    def counted(self, item: str) -> list[Entry]:
        return [entry for entry in self.log if entry.item == item and entry.counted and entry.current]

    def skips(self, item: str) -> int:
        return sum(
            entry.item == item and entry.current and entry.verdict.kind == "skip" and not entry.turn
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
            self.give_back(item)

    def again(self, rater: int) -> set[tuple[str, int]]:
        """What the rater let run out or withdrew, longest ago, and may get again: it comes before anything new."""
        mine = [
            (item, turn)
            for (item, who, turn), (state, _) in self.shown.items()
            if who == rater and state in ("expired", "released")
            if turn or self.roles[item] == "gold" or (self.status[item] == "open" and self.free(item))
        ]
        oldest = min((self.opened[item, rater, turn] for item, turn in mine), default=None)
        return {(item, turn) for item, turn in mine if self.opened[item, rater, turn] == oldest}

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
            entry.item
            for entry in reversed(self.log)
            if entry.rater == rater and entry.current and entry.vote is not None and entry.turn == 0
            if self.roles[entry.item] == "item" and (entry.item, rater, 1) not in self.shown
        ]
        return first, hidden | {(item, 1) for item in mine[self.repeat_after :][:1]}

    def nothing(self, rater: int) -> str:
        waiting = any(len(self.counted(item)) < self.target[item] for item in self.wanted(rater, "item"))
        return "held" if waiting else "done"

    def hold(self, rater: int, handle: str, item: str, turn: int, order: tuple[int, ...], now: int) -> None:
        if rater not in self.leases:
            self.opened[item, rater, turn] = now
        self.handles[handle] = (item, rater, turn)
        self.shown[item, rater, turn] = ("leased", order)
        self.leases[rater] = (item, turn, now + self.length)

    def judge(self, rater: int, verdict: Verdict, now: int) -> str:
        """The receipt's word, or the kind of refusal."""
        for entry in self.log:
            if entry.verdict.client_id == verdict.client_id:
                return "known" if (entry.rater, entry.verdict) == (rater, verdict) else "conflict"
        if rater in self.gone:
            return "forbidden"
        key = self.handles.get(verdict.item_id, ("", 0, 0))
        if key[1] != rater:
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
        return self._enter(key, verdict, last, withdrawn)

    def _enter(self, key: tuple[str, int, int], verdict: Verdict, last: Entry | None, first: bool) -> str:
        item, rater, turn = key
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
        self.log.append(Entry(len(self.log) + 1, verdict, *key, revision, vote, counted))
        state = {"choice": "answered", "skip": "skipped", "withdrawn": "released"}[verdict.kind]
        self.shown[item, rater, turn] = (state, order)
        if ordinary:
            self._review(item, self.skips(item) > skips)
        if vote is None:
            return {"skip": "skipped", "withdrawn": "withdrawn"}[verdict.kind]
        return ("counted" if counted or not ordinary else "surplus") if first else "edited"

    def _review(self, item: str, new_skip: bool) -> None:
        if self.skips(item) >= self.config.skips and (new_skip or self.status[item] == "aside"):
            self.status[item] = "aside"
            return
        first, most = self.target[item] - self.extra[item], self.config.overlap + self.config.extra_raters
        if self.extra[item]:
            self.target[item] = self.target[item] if self.needs_extra(item) else first
        elif len(self.counted(item)) >= first and self.disputed(item):
            self.target[item] = max(first, most)
        self.extra[item] = self.target[item] - first
        self.status[item] = "closed" if len(self.counted(item)) >= self.target[item] else "open"

    def give_back(self, item: str) -> None:
        """After a lease or a verdict has gone."""
        if self.extra[item]:
            self._review(item, new_skip=False)

    def needs_extra(self, item: str) -> bool:
        """Somebody is, or was, on an extra slot, or the others are filled and disagree."""
        used = len(self.counted(item)) + len(self.holders(item))
        return used > self.target[item] - self.extra[item] or self.disputed(item)

    def disputed(self, item: str) -> bool:
        """Whether as many as an item asks at first disagree with each other or with a judge."""
        votes = Counter(entry.vote for entry in self.counted(item))
        if self.config.overlap == 1 or votes.total() < self.config.overlap:
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
            if self.status[entry.item] == "closed":
                self.status[entry.item] = "open"
        for entry in lost:
            self.give_back(entry.item)
        return len(lost)

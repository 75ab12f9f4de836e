"""The queue against a second one in plain Python, step by step; then many raters at once on SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_queue import ReferenceQueue, fill, new_item, open_project, verdict
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from prefloop.annotation import stream
from prefloop.annotation.control import remove_rater, requeue, set_state
from prefloop.annotation.database import Database, open_database
from prefloop.annotation.protocol import RefusedError, Verdict
from prefloop.annotation.queue import Nothing, Receipt, Showing, expire, lease, release, renew, submit
from prefloop.annotation.schema import item, judgement, rater, showing
from prefloop.annotation.writer import Writer
from prefloop.config.annotation import AnnotationConfig

CONFIG = AnnotationConfig(
    overlap=2, extra_raters=1, skips=2, lease_minutes=1 / 60, gold_share=0.15, repeat_share=0.25
)  # leases of a second
ITEMS = [
    new_item(3, expected={"best": 0, "judge": "a-judge"}),
    *(new_item(i) for i in range(3)),
    *(new_item(i, "gold") for i in (4, 5)),
]
RATERS = st.integers(1, 4)
STRENGTHS = st.integers(0, 5)
KINDS = ["choice", "withdrawn", "skip"]
WAYS = st.sampled_from([*range(6), "skip", "skip", "hold", "hold"])


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return (
        str(tmp_path / "p.db") if request.param == "sqlite" else request.getfixturevalue("postgres").create_database()
    )


# One step at a time


class Queues(RuleBasedStateMachine):
    """Both queues get the same requests; the real one never commits, so that each example starts from nothing."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.connection = self.database.writing.connect()
        self.connection.begin()
        fill(self.connection, CONFIG, ITEMS, 4)
        roles = {new.id: new.role for new in ITEMS}
        expected = {new.id: new.expected["best"] for new in ITEMS if new.expected}
        self.model = ReferenceQueue(CONFIG, roles, expected, stream.REPEAT_AFTER)
        self.now = 0
        self.seqs: dict[int, int] = {}  # the model's to the database's
        self.receipts: list[tuple[int, Verdict, Receipt]] = []

    def teardown(self) -> None:
        self.connection.rollback()
        self.connection.close()

    def run(self, job: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """As the writer does: a refused job leaves nothing behind. A refusal is its kind."""
        savepoint = self.connection.begin_nested()
        try:
            result = job(self.connection, *arguments, **options)
        except RefusedError as error:
            savepoint.rollback()
            return error.kind
        savepoint.commit()
        return result

    @rule(rater_id=RATERS)
    def lease(self, rater_id: int) -> None:
        self.next(rater_id)

    def next(self, rater_id: int) -> Showing | None:
        found = self.run(lease, rater_id, self.now)
        if rater_id in self.model.gone:
            assert found == "forbidden"
            return None
        self.model.expire(self.now)
        self.offered(rater_id, found)
        return found if isinstance(found, Showing) else None

    @rule(rater_id=RATERS, how=WAYS)
    def work(self, rater_id: int, how: str | int) -> None:
        """What most people do most of the time, so that the other rules have something to go wrong on."""
        found = self.next(rater_id)
        if found and how != "hold":
            said = {"kind": "skip"} if how == "skip" else {"kind": "choice", "strength": how}
            self.judge(found.handle, "-", **said)

    @rule(ways=st.lists(WAYS, min_size=4, max_size=4))
    def all_work(self, ways: list[str | int]) -> None:
        for rater_id, how in enumerate(ways, start=1):
            self.work(rater_id, how)

    @rule(rater_id=RATERS, others=st.lists(WAYS, min_size=4, max_size=4), strength=STRENGTHS)
    def answer_late(self, rater_id: int, others: list[str | int], strength: int) -> None:
        found = self.next(rater_id)
        self.now += self.model.length
        self.all_work(others)
        if found:
            self.judge(found.handle, "-", kind="choice", strength=strength)

    def offered(self, rater_id: int, found: Showing | Nothing) -> None:
        held = self.model.leases.get(rater_id)
        again = self.model.again(rater_id)
        first, hidden = self.model.offers(rater_id)
        if isinstance(found, Nothing):
            assert held is None
            assert first is None
            assert not again
            assert found.reason == self.model.nothing(rater_id)
            return
        assert found.expires == self.now + self.model.length
        key = (found.item_id, found.turn)
        assert key in ({held[:2]} if held else again or hidden | {(first, 0)})
        known = self.model.shown.get((found.item_id, rater_id, found.turn))
        assert known is None or known[1] == found.order  # stable
        if found.turn:
            assert found.order == self.model.shown[found.item_id, rater_id, 0][1][::-1]
        assert self.model.handles.get(found.handle, (found.item_id, rater_id, found.turn)) == (
            found.item_id, rater_id, found.turn,
        )  # fmt: skip
        self.model.hold(rater_id, found.handle, *key, found.order, self.now)

    @precondition(lambda self: self.model.handles)
    @rule(which=st.integers(0, 100), kind=st.sampled_from(KINDS), strength=STRENGTHS, revises=st.sampled_from("-llw"))
    def say_more(self, which: int, kind: str, strength: int, revises: str) -> None:
        """On anything that was shown: in time, late, or for a second time."""
        handle = list(self.model.handles)[-1 - which % len(self.model.handles)]
        self.judge(handle, revises, kind=kind, **({"strength": strength} if kind == "choice" else {}))

    def judge(self, handle: str, revises: str, **said: Any) -> None:
        """As a first verdict (-), a change of the last one (l) or of a wrong one (w)."""
        item_id, rater_id, turn = self.model.handles[handle]
        last = self.model.standing(item_id, rater_id, turn)
        seq = {"-": None, "l": last.seq if last else None, "w": 10_000}[revises]
        if said["kind"] == "withdrawn" and seq is None:
            seq = 10_000
        made = verdict(handle, revises=seq, **said)
        self.submit(rater_id, made, made.model_copy(update={"revises": self.seqs.get(seq, seq)}))

    def submit(self, rater_id: int, said: Verdict, sent: Verdict) -> None:
        before = len(self.model.log)
        word = self.model.judge(rater_id, said, self.now)
        got = self.run(submit, rater_id, sent, self.now)
        if not isinstance(got, Receipt):
            assert got == word
            return
        assert got.state == word
        assert got.feedback is None
        if len(self.model.log) > before:
            self.seqs[len(self.model.log)] = got.seq
        self.receipts.append((rater_id, sent, got))

    @precondition(lambda self: self.receipts)
    @rule(which=st.integers(0, 100), by_another=st.booleans(), changed=st.booleans())
    def retry(self, which: int, by_another: bool, changed: bool) -> None:
        rater_id, sent, before = self.receipts[which % len(self.receipts)]
        if by_another:
            assert self.run(submit, rater_id % 4 + 1, sent, self.now) == "conflict"
        elif changed:
            assert self.run(submit, rater_id, sent.model_copy(update={"comment": "other"}), self.now) == "conflict"
        else:
            again = self.run(submit, rater_id, sent, self.now)
            assert (again.seq, again.state) == (before.seq, "known")

    @rule(rater_id=RATERS)
    def renew(self, rater_id: int) -> None:
        held = self.model.leases.get(rater_id)
        named = {key: handle for handle, key in self.model.handles.items()}
        handle = named[held[0], rater_id, held[1]] if held else next(iter(named.values()), ITEMS[0].id)
        end = self.run(renew, rater_id, handle, self.now)
        assert end == (self.now + self.model.length if held else None)
        if held:
            self.model.leases[rater_id] = (*held[:2], end)

    @rule(milliseconds=st.sampled_from([1, 400, 999, 1000]), take_back=st.booleans())
    def wait(self, milliseconds: int, take_back: bool) -> None:
        self.now += milliseconds
        if take_back:
            assert self.run(expire, self.now) == self.model.expire(self.now)

    @rule(rater_id=RATERS)
    def release(self, rater_id: int) -> None:
        assert self.run(release, rater_id) == (rater_id in self.model.leases)
        self.model.end(rater_id, "released")

    @precondition(lambda self: set(self.model.status.values()) > {"open"})
    @rule(which=st.integers(0, 9))
    def requeue(self, which: int) -> None:
        over = [item_id for item_id, status in self.model.status.items() if status != "open"]
        item_id = over[which % len(over)]
        self.run(requeue, item_id, self.now)
        self.model.target[item_id] += 1
        self.model.status[item_id] = "open"
        self.model.give_back(item_id)

    @precondition(lambda self: len(self.model.log) > 9 and len(self.model.gone) < 2)
    @rule(rater_id=RATERS, discard=st.booleans())
    def remove(self, rater_id: int, discard: bool) -> None:
        assert self.run(remove_rater, rater_id, self.now, discard=discard) == self.model.remove(rater_id, discard)

    @rule(state=st.sampled_from(["paused", "stopped"]), rater_id=RATERS)
    def pause_and_go_on(self, state: str, rater_id: int) -> None:
        self.run(set_state, state, "", self.now)
        assert self.run(lease, rater_id, self.now) in (Nothing(state), "forbidden")
        for handle, key in list(self.model.handles.items())[-1:]:  # work is not refused meanwhile
            self.judge(handle, "l" if self.model.standing(*key) else "-", kind="choice", strength=2)
        self.run(set_state, "running", "", self.now)

    @invariant()
    def items_agree(self) -> None:
        for row in self.connection.execute(sa.select(item)):
            counted, holders = self.model.counted(row.id), self.model.holders(row.id)
            assert (row.done, row.leased, row.skipped) == (len(counted), len(holders), self.model.skips(row.id))
            assert row.role != "item" or 0 <= row.done + row.leased <= row.target
            assert (row.status, row.target) == (self.model.status[row.id], self.model.target[row.id])
            assert row.extra == self.model.extra[row.id]
            assert not row.extra or row.status == "aside" or self.model.needs_extra(row.id)  # exactly as long as needed

    @invariant()
    def leases_agree(self) -> None:
        rows = self.connection.execute(sa.select(showing)).all()
        held = [row for row in rows if row.state == "leased"]
        assert len({row.rater_id for row in held}) == len(held)
        assert {row.rater_id: (row.item_id, row.turn, row.expires) for row in held} == self.model.leases
        stored = {(row.item_id, row.rater_id, row.turn): (row.state, tuple(row.order)) for row in rows}
        assert stored == self.model.shown
        assert {row.handle: (row.item_id, row.rater_id, row.turn) for row in rows} == self.model.handles
        assert not set(self.model.handles) & {new.id for new in ITEMS}

    @invariant()
    def logs_agree(self) -> None:
        rows = self.connection.execute(sa.select(judgement).order_by(judgement.c.seq)).all()
        assert [row.seq for row in rows] == [self.seqs[entry.seq] for entry in self.model.log]
        assert {row.seq for row in rows} == {receipt.seq for _, _, receipt in self.receipts}  # none lost
        for row, entry in zip(rows, self.model.log, strict=True):
            assert (row.client_id, row.rater_id) == (entry.verdict.client_id, entry.rater)
            assert (row.revision, row.current, row.counted) == (entry.revision, entry.current, entry.counted)
        current = Counter((row.item_id, row.rater_id, row.turn) for row in rows if row.current)
        assert set(current.values()) <= {1}
        assert set(current) == {(row.item_id, row.rater_id, row.turn) for row in rows}


@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 12), ("postgresql", 3)])
def test_the_queue_does_what_the_reference_does(
    kind: str, examples: int, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    sqlite = kind == "sqlite"
    place = tmp_path / "p.db" if sqlite else request.getfixturevalue("postgres").create_database()
    monkeypatch.setattr(stream, "REPEAT_AFTER", 1)
    monkeypatch.setattr(Queues, "database", open_database(place), raising=False)
    run_state_machine_as_test(
        Queues, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None, database=None)
    )
    Queues.database.close()


# Many at once


class Crowd:
    """Raters in threads, in random order, who double-click, let leases run out and answer late."""

    def __init__(self, writer: Writer, raters: int, seed: int) -> None:
        self.writer = writer
        self.acknowledged: list[tuple[str, Receipt]] = []
        self.failures: list[BaseException] = []
        self._ticks = itertools.count(1)
        self._threads = [threading.Thread(target=self._live, args=(i, seed)) for i in range(1, raters + 1)]

    def work(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join()

    def _live(self, rater_id: int, seed: int) -> None:
        try:
            drawn = random.Random(seed * 1000 + rater_id)
            while not self._done(rater_id, drawn):
                pass
        except BaseException as error:
            self.failures.append(error)

    def _now(self) -> int:
        return next(self._ticks) * 20

    def _done(self, rater_id: int, drawn: random.Random) -> bool:
        found = self.writer.run(lambda connection: lease(connection, rater_id, self._now()))
        if isinstance(found, Nothing):
            return found.reason == "done"
        how = drawn.random()
        if how < 0.1:  # forgets it
            return False
        late = self._now() + 60_000 if how < 0.2 else self._now()
        said = verdict(found.handle, strength=drawn.randrange(6))
        jobs = [
            self.writer.submit(lambda connection: submit(connection, rater_id, said, late))
            for _ in range(2 if how > 0.7 else 1)
        ]
        self.acknowledged += [(said.client_id, job.result()) for job in jobs]
        return False


def test_fifty_raters_on_a_small_pool_fill_every_slot_and_no_more(place: str) -> None:
    config = AnnotationConfig(overlap=3, extra_raters=0, lease_minutes=1 / 60)
    database = open_project(place, config, [new_item(i) for i in range(12)], 50)
    writer = Writer(database.writing)
    crowd = Crowd(writer, 50, seed=1)
    crowd.work()
    writer.close()
    assert crowd.failures == []
    with database.reading.connect() as connection:
        rows = connection.execute(sa.select(judgement)).all()
        items = connection.execute(sa.select(item)).all()
    database.close()
    counted = Counter(row.item_id for row in rows if row.counted)
    assert counted == {row.id: 3 for row in items}
    assert {(row.done, row.leased, row.status) for row in items} == {(3, 0, "closed")}
    assert len({(row.item_id, row.rater_id, row.turn) for row in rows}) == len(rows)
    assert {row.client_id: row.seq for row in rows} == {client: receipt.seq for client, receipt in crowd.acknowledged}
    firsts = Counter(client for client, receipt in crowd.acknowledged if receipt.state != "known")
    assert set(firsts.values()) == {1}


@pytest.mark.parametrize("seed", range(3))
def test_a_crowd_that_disagrees_and_loses_members_stays_within_its_targets(seed: int, tmp_path: Path) -> None:
    config = AnnotationConfig(overlap=2, extra_raters=2, lease_minutes=1 / 60)
    database = open_project(tmp_path / "p.db", config, [new_item(i) for i in range(8)], 12)
    writer = Writer(database.writing)
    crowd = Crowd(writer, 10, seed)
    expelled = threading.Thread(
        target=lambda: [writer.run(lambda c, i=i: remove_rater(c, i, 0, discard=True)) for i in (1, 2)]
    )
    expelled.start()
    crowd.work()
    expelled.join()
    writer.close()
    assert all(isinstance(error, RefusedError) and error.kind == "forbidden" for error in crowd.failures)
    with database.reading.connect() as connection:
        rows = connection.execute(sa.select(judgement)).all()
        for row in connection.execute(sa.select(item)):
            counted = [one for one in rows if one.item_id == row.id and one.counted and one.current]
            assert row.done == len(counted) <= row.target <= 4
            assert row.leased == 0
            assert not {1, 2} & {one.rater_id for one in counted}
        assert connection.scalar(sa.select(sa.func.count()).where(rater.c.status == "removed")) == 2
    database.close()

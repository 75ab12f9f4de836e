"""What raters are shown: sides, hidden gold, repeats, calibration; and what becomes of late, second and changed verdicts."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_queue import SECRET, fill, new_item, verdict
from annotation_tables import new_database
from scipy.stats import binom, chi2, chisquare

from prefloop.annotation.control import remove_rater, requeue, set_state
from prefloop.annotation.items import NewItem, add_items, create_project, has_project
from prefloop.annotation.protocol import RefusedError, Verdict, preference, winner
from prefloop.annotation.queue import Nothing, Showing, lease, renew, submit
from prefloop.annotation.schema import invite, item, judgement, rater, showing
from prefloop.annotation.stream import REPEAT_AFTER, handle_of, sides
from prefloop.config.annotation import AnnotationConfig

MINUTE = 60_000
PLAIN = {"gold_share": 0.0, "repeat_share": 0.0, "extra_raters": 0}
A, B, C, D = 1, 2, 3, 4


class Table:
    """A project in a transaction that is never committed, and short words for what raters do."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.now = 0
        self.items: list[NewItem] = []

    def set(self, items: list[NewItem], raters: int = 4, qualified: bool = True, **settings: Any) -> Table:
        self.items = items
        fill(self.connection, AnnotationConfig(**{**PLAIN, **settings}), items, raters, qualified=qualified)
        return self

    def lease(self, who: int) -> Any:
        return lease(self.connection, who, self.now)

    def submit(self, who: int, said: Verdict) -> Any:
        savepoint = self.connection.begin_nested()
        try:
            receipt = submit(self.connection, who, said, self.now)
        except RefusedError:
            savepoint.rollback()
            raise
        savepoint.commit()
        return receipt

    def judge(self, who: int, best: int | None = 0, **options: Any) -> Any:
        """Lease and answer: for an answer index, or None for a tie."""
        found = self.lease(who)
        assert isinstance(found, Showing)
        strength = 3 if best is None else (2 if found.order[0] == best else 4)
        return self.submit(who, verdict(found.handle, strength=strength, **options))

    def row(self, number: int = 0) -> Any:
        return self.connection.execute(sa.select(item).where(item.c.id == self.items[number].id)).one()


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    database = new_database(tmp_path / "p.db")
    with database.writing.connect() as connection:
        yield Table(connection)
        connection.rollback()
    database.close()


# Sides


def test_sides_are_balanced_and_stable() -> None:
    drawn = [sides("a secret", who, f"{number:020x}", 2) for who in range(100) for number in range(100)]
    counts = Counter(drawn)
    assert set(counts) == {(0, 1), (1, 0)}
    assert chisquare(list(counts.values())).pvalue > 0.01
    assert drawn == [sides("a secret", who, f"{number:020x}", 2) for who in range(100) for number in range(100)]
    per_rater = [sum(order == (0, 1) for order in drawn[who * 100 : who * 100 + 100]) for who in range(100)]
    assert chi2.sf(sum((lefts - 50) ** 2 / 25 for lefts in per_rater), 100) > 0.01
    other = [sides("another", who, f"{number:020x}", 2) for who in range(100) for number in range(100)]
    assert 4_700 < sum(a == b for a, b in zip(drawn, other, strict=True)) < 5_300


def test_every_order_of_a_ranking_is_as_likely() -> None:
    counts = Counter(sides("a secret", 1, f"{number:020x}", 3) for number in range(10_000))
    assert len(counts) == 6
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_the_order_stays_when_the_item_comes_back(table: Table) -> None:
    table.set([new_item(i) for i in range(20)])
    first = table.lease(A)
    assert table.lease(A) == first  # a reload
    table.now = 5 * MINUTE
    renewed = table.lease(A)
    assert (renewed.order, renewed.opened, renewed.expires) == (first.order, 0, 20 * MINUTE)
    table.now = 20 * MINUTE
    again = table.lease(A)  # its time was over: the same item, opened anew
    assert (again.item_id, again.order, again.opened) == (first.item_id, first.order, 20 * MINUTE)


# What is hidden in the stream


def test_gold_and_repeats_come_at_their_shares_and_look_like_the_rest(table: Table) -> None:
    ordinary, gold = 260, 80
    items = [new_item(i) for i in range(ordinary)] + [new_item(1000 + i, "gold") for i in range(gold)]
    table.set(items, raters=1, overlap=1, gold_share=0.1, repeat_share=0.2)
    roles = {new.id: new.role for new in items}
    kinds: Counter[str] = Counter()
    position: dict[str, int] = {}
    for number in range(300):
        found = table.lease(A)
        kind = "repeat" if found.turn else roles[found.item_id]
        kinds[kind] += 1
        assert {name: type(value) for name, value in dataclasses.asdict(found).items()} == {
            "handle": str, "item_id": str, "turn": int, "order": tuple, "opened": int, "expires": int,
        }  # fmt: skip
        receipt = table.submit(A, verdict(found.handle))
        assert (receipt.state, receipt.feedback) == ("counted", None)
        if kind == "repeat":
            assert number - position[found.item_id] > REPEAT_AFTER
        position.setdefault(found.item_id, number)
    for kind, share in (("gold", 0.1), ("repeat", 0.2)):
        assert binom.ppf(0.001, 300, share) <= kinds[kind] <= binom.ppf(0.999, 300, share)
    rows = table.connection.execute(sa.select(showing).where(showing.c.turn == 1)).all()
    first = dict(
        table.connection.execute(sa.select(showing.c.item_id, showing.c.order).where(showing.c.turn == 0)).all()
    )
    assert len(rows) == kinds["repeat"]
    assert all(row.order == first[row.item_id][::-1] and roles[row.item_id] == "item" for row in rows)
    done = table.connection.scalar(sa.select(sa.func.sum(item.c.done)))
    assert done == kinds["item"]  # neither gold nor a repeat fills a slot


def hidden_stream(table: Table) -> Callable[[Showing], str]:
    """A stream of items, gold and repeats; what an item of it is."""
    items = [new_item(i) for i in range(60)] + [new_item(1000 + i, "gold") for i in range(20)]
    table.set(items, raters=2, overlap=1, gold_share=0.2, repeat_share=0.3)
    roles = {new.id: new.role for new in items}
    return lambda found: "repeat" if found.turn else roles[found.item_id]


def test_a_rater_has_another_name_for_every_look(table: Table) -> None:
    hidden_stream(table)
    for who in (A, B):
        for _ in range(20):
            table.submit(who, verdict(table.lease(who).handle))
    rows = table.connection.execute(sa.select(showing)).all()
    handles = {row.handle for row in rows}
    assert {row.turn for row in rows} == {0, 1}
    assert len(handles) == len(rows) == 40
    assert all(re.fullmatch("[0-9a-f]{20}", handle) for handle in handles)
    assert not handles & {new.id for new in table.items}
    assert all(row.handle == handle_of(SECRET, row.item_id, row.rater_id, row.turn) for row in rows)
    other = {handle_of("another secret", row.item_id, row.rater_id, row.turn) for row in rows}
    assert not handles & other


@pytest.mark.parametrize("how", ["withdrawn", "expired"])
def test_what_was_let_go_comes_back_at_once_whatever_it_is(how: str, table: Table) -> None:
    kind_of = hidden_stream(table)
    let_go: Counter[str] = Counter()
    for number in range(60):
        table.now = number * 60 * MINUTE
        found = table.lease(A)
        if kind_of(found) in ("gold", "repeat", "item") and let_go[kind_of(found)] < 2 and number > 1:
            if how == "withdrawn":
                receipt = table.submit(A, verdict(found.handle))
                table.submit(A, verdict(found.handle, "withdrawn", revises=receipt.seq))
            else:
                table.now += 30 * MINUTE
            again = table.lease(A)
            assert (again.handle, again.order, again.opened) == (found.handle, found.order, table.now)
            let_go[kind_of(found)] += 1
        assert table.submit(A, verdict(found.handle)).state == "counted"
    assert let_go == {"gold": 2, "repeat": 2, "item": 2}
    assert table.connection.scalar(sa.select(sa.func.count()).select_from(showing)) == 60


def test_of_several_that_were_let_go_the_oldest_comes_first(table: Table) -> None:
    table.set([new_item(i) for i in range(3)], overlap=1)
    said = []
    for table.now in range(3):
        found = table.lease(A)
        said.append((found.handle, table.submit(A, verdict(found.handle)).seq))
    for handle, seq in (said[2], said[0]):
        table.submit(A, verdict(handle, "withdrawn", revises=seq))
    assert table.lease(A).handle == said[0][0]


def test_an_item_that_was_let_go_and_taken_by_another_does_not_come_back(table: Table) -> None:
    table.set([new_item(0), new_item(1)], overlap=1)
    first = table.lease(A)
    table.now = 15 * MINUTE
    assert table.lease(B).item_id == first.item_id
    assert table.lease(A).item_id == table.items[1].id


def test_without_shares_nothing_is_hidden(table: Table) -> None:
    table.set([new_item(i) for i in range(15)] + [new_item(99, "gold")], overlap=1)
    while isinstance(table.lease(A), Showing):
        assert table.judge(A).state == "counted"
    assert table.lease(A) == Nothing("done")
    assert table.connection.scalar(sa.select(sa.func.count()).select_from(showing)) == 15


# Late, second and changed verdicts


def test_a_late_verdict_counts_while_a_slot_is_free_and_is_surplus_after(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    first = table.lease(A)
    assert table.lease(B) == Nothing("held")
    table.now = 15 * MINUTE
    second = table.lease(B)
    assert table.lease(C) == Nothing("held")
    assert table.submit(A, verdict(first.handle)).state == "surplus"  # B is on the slot
    assert (table.row().done, table.row().leased) == (0, 1)
    table.now = 40 * MINUTE
    assert table.submit(B, verdict(second.handle)).state == "counted"  # late, too, but nobody took it
    assert (table.row().done, table.row().leased, table.row().status) == (1, 0, "closed")
    assert [table.lease(who) for who in (A, B, C)] == [Nothing("done")] * 3


def test_an_item_whose_time_ran_out_is_awaited_while_others_hold_it(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    table.lease(A)
    table.now = 15 * MINUTE
    table.lease(B)
    assert table.lease(A) == Nothing("held")  # not done: it comes back if B lets go


def test_a_lease_is_lengthened_until_another_has_the_slot(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    found = table.lease(A)
    table.now = 15 * MINUTE  # over, but nobody looked for work
    assert renew(table.connection, A, found.handle, table.now) == 30 * MINUTE
    assert table.lease(B) == Nothing("held")
    table.now = 30 * MINUTE
    assert isinstance(table.lease(B), Showing)
    assert renew(table.connection, A, found.handle, table.now) is None


def test_a_second_tab_changes_nothing_and_a_retry_is_known(table: Table) -> None:
    table.set([new_item(0)])
    found = table.lease(A)
    first = verdict(found.handle, strength=1)
    receipt = table.submit(A, first)
    with pytest.raises(RefusedError, match="another tab") as refused:
        table.submit(A, verdict(found.handle, strength=5))
    assert refused.value.kind == "conflict"
    again = table.submit(A, first)
    assert (again.seq, again.state) == (receipt.seq, "known")
    with pytest.raises(RefusedError, match="used for another one"):
        table.submit(A, first.model_copy(update={"strength": 5}))
    rows = table.connection.execute(sa.select(judgement)).all()
    assert [(row.strength, row.current, row.counted) for row in rows] == [(1, True, True)]
    assert table.row().done == 1


def test_a_retry_is_known_even_after_the_rater_is_out(table: Table) -> None:
    table.set([new_item(0)])
    said = verdict(table.lease(A).handle)
    receipt = table.submit(A, said)
    remove_rater(table.connection, A, 0, discard=False)
    assert table.submit(A, said).seq == receipt.seq


def test_edits_keep_their_slot_and_withdrawals_give_it_back(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    found = table.lease(A)
    first = table.submit(A, verdict(found.handle, strength=1))
    second = table.submit(A, verdict(found.handle, strength=5, revises=first.seq))
    assert (second.state, table.row().status, table.row().done) == ("edited", "closed", 1)
    with pytest.raises(RefusedError, match="not your last one"):
        table.submit(A, verdict(found.handle, strength=2, revises=first.seq))
    third = table.submit(A, verdict(found.handle, "withdrawn", revises=second.seq))
    assert (third.state, table.row().status, table.row().done) == ("withdrawn", "open", 0)
    with pytest.raises(RefusedError, match="withdrawn already"):
        table.submit(A, verdict(found.handle, "withdrawn", revises=third.seq))
    again = table.lease(A)
    assert (again.item_id, again.order) == (found.item_id, found.order)
    assert table.submit(A, verdict(found.handle)).state == "counted"
    rows = table.connection.execute(sa.select(judgement).order_by(judgement.c.seq)).all()
    assert [(row.revision, row.kind, row.current, row.counted) for row in rows] == [
        (0, "choice", False, True),
        (1, "choice", False, True),
        (2, "withdrawn", False, False),
        (3, "choice", True, True),
    ]


def test_a_slot_given_back_and_taken_makes_the_next_edit_surplus(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    found = table.lease(A)
    first = table.submit(A, verdict(found.handle))
    skipped = table.submit(A, verdict(found.handle, "skip", revises=first.seq))
    assert table.judge(B).state == "counted"
    assert table.submit(A, verdict(found.handle, revises=skipped.seq)).state == "edited"
    assert (table.row().done, table.row().skipped) == (1, 0)
    last = table.connection.execute(sa.select(judgement).order_by(judgement.c.seq.desc())).first()
    assert (last.current, last.counted) == (True, False)


@pytest.mark.parametrize("kind", ["choice", "skip", "withdrawn"])
def test_nothing_is_said_of_an_item_that_was_not_shown(kind: str, table: Table) -> None:
    table.set([new_item(0), new_item(1)])
    table.lease(A)
    hers = table.connection.scalar(sa.select(showing.c.handle))
    for handle, who in ((table.items[0].id, A), (hers, B), ("f" * 20, A)):
        with pytest.raises(RefusedError) as refused:
            table.submit(who, verdict(handle, kind, revises=1 if kind == "withdrawn" else None))
        assert refused.value.kind == "missing"
    with pytest.raises(RefusedError, match="not your last one"):
        table.submit(A, verdict(hers, "withdrawn", revises=1))


def test_who_is_out_gets_and_gives_nothing(table: Table) -> None:
    table.set([new_item(0)], overlap=1)
    found = table.lease(A)
    table.connection.execute(sa.insert(invite).values(token="t", role="rater", rater_id=A, created=0, expires=9))
    remove_rater(table.connection, A, 0, discard=True)
    assert table.row().leased == 0
    assert table.connection.execute(sa.select(invite)).all() == []  # a link to a new password would be a way back
    for request in (lambda: table.lease(A), lambda: table.submit(A, verdict(found.handle)), lambda: table.lease(77)):
        with pytest.raises(RefusedError, match="closed") as refused:
            request()
        assert refused.value.kind == "forbidden"
    with pytest.raises(RefusedError, match="no rater 77"):
        remove_rater(table.connection, 77, 0, discard=True)
    assert isinstance(table.lease(B), Showing)


def test_a_pause_stops_the_stream_but_refuses_no_work(table: Table) -> None:
    table.set([new_item(0)])
    found = table.lease(A)
    set_state(table.connection, "paused", "lunch", 0)
    assert table.lease(A) == table.lease(B) == Nothing("paused")
    assert table.submit(A, verdict(found.handle)).state == "counted"
    with pytest.raises(RefusedError, match="running, paused, stopped"):
        set_state(table.connection, "asleep", "", 0)


# Skips, disagreement, asking again


def test_the_skip_limit_sets_aside_until_asked_again(table: Table) -> None:
    table.set([new_item(0)], overlap=3, skips=2)
    for who, status in ((A, "open"), (B, "aside")):
        assert table.submit(who, verdict(table.lease(who).handle, "skip")).state == "skipped"
        assert table.row().status == status
    assert table.lease(C) == Nothing("done")
    requeue(table.connection, table.items[0].id, 0)
    assert (table.row().status, table.row().target) == ("open", 4)
    assert table.judge(C).state == "counted"
    assert table.row().status == "open"  # old skips do not set it aside once more
    table.submit(D, verdict(table.lease(D).handle, "skip"))
    assert (table.row().status, table.row().skipped) == ("aside", 3)


@pytest.mark.parametrize("which", ["gold", "nothing"])
def test_only_items_that_people_fill_are_asked_again(which: str, table: Table) -> None:
    table.set([new_item(0, "gold")])
    with pytest.raises(RefusedError, match="there is no item") as refused:
        requeue(table.connection, table.items[0].id if which == "gold" else "0" * 20, 0)
    assert refused.value.kind == "missing"


def test_a_skip_that_is_taken_back_brings_the_item_back(table: Table) -> None:
    table.set([new_item(0)], overlap=3, skips=1)
    found = table.lease(A)
    skip = table.submit(A, verdict(found.handle, "skip"))
    assert table.row().status == "aside"
    assert table.submit(A, verdict(found.handle, revises=skip.seq)).state == "edited"
    assert (table.row().status, table.row().skipped, table.row().done) == ("open", 0, 1)


@pytest.mark.parametrize(
    ("votes", "expected", "target"),
    [
        ([0, 0, 0], None, 3),
        ([0, 0, 1], None, 3),  # two of three are a majority
        ([0, 1, None], None, 5),  # the three split
        ([0, 0, 1], 0, 3),
        ([0, 0, 1], 1, 5),  # the judge says otherwise
        ([None, None, 0], 0, 3),  # a tie contradicts nobody
    ],
)
def test_more_raters_where_they_split_or_the_judge_differs(
    votes: list[int | None], expected: int | None, target: int, table: Table
) -> None:
    options = {} if expected is None else {"expected": {"best": expected, "judge": "j"}}
    table.set([new_item(0, **options)], raters=6, overlap=3, extra_raters=2)
    for who, best in enumerate(votes, start=1):
        table.judge(who, best)
    assert (table.row().target, table.row().status) == (target, "closed" if target == 3 else "open")
    while isinstance(table.lease(len(votes) + 1), Showing):
        votes.append(1)
        table.judge(len(votes), 1)
    assert (table.row().done, table.row().status) == (target, "closed")


def split(table: Table, *bests: int, **settings: Any) -> list[tuple[Showing, int]]:
    """One item, and a verdict of each of the first raters; what each was shown, and where the verdict stands."""
    table.set([new_item(0)], raters=6, **{"overlap": 2, "extra_raters": 2, **settings})
    given = []
    for who, best in enumerate(bests, start=1):
        found = table.lease(who)
        given.append((found, table.submit(who, said_for(found, best)).seq))
    return given


def said_for(found: Showing, best: int, **options: Any) -> Verdict:
    return verdict(found.handle, strength=2 if found.order[0] == best else 4, **options)


def places(table: Table) -> tuple[str, int, int, int]:
    row = table.row()
    return row.status, row.target, row.done, row.leased


def test_nobody_is_asked_about_a_split_that_has_gone(table: Table) -> None:
    _, (shown, seq) = split(table, 0, 1)
    assert places(table) == ("open", 4, 2, 0)
    agreed = table.submit(B, said_for(shown, 0, revises=seq))
    assert places(table) == ("closed", 2, 2, 0)
    assert table.lease(C) == Nothing("done")
    table.submit(B, said_for(shown, 1, revises=agreed.seq))
    assert places(table) == ("open", 4, 2, 0)  # and asked again once it is back


def test_an_extra_rater_at_work_is_not_sent_away(table: Table) -> None:
    _, (shown, seq) = split(table, 0, 1)
    third = table.lease(C)
    table.submit(B, said_for(shown, 0, revises=seq))
    assert places(table) == ("open", 4, 2, 1)
    assert table.submit(C, said_for(third, 0)).state == "counted"
    assert places(table) == ("open", 4, 3, 0)  # who has answered is not made surplus


@pytest.mark.parametrize("how", ["skip", "expired", "removed"])
def test_the_last_extra_rater_who_goes_closes_an_item_that_is_agreed_on(how: str, table: Table) -> None:
    _, (shown, seq) = split(table, 0, 1)
    third = table.lease(C)
    table.submit(B, said_for(shown, 0, revises=seq))
    if how == "skip":
        table.submit(C, verdict(third.handle, "skip"))
    elif how == "expired":
        table.now = 15 * MINUTE
    else:
        remove_rater(table.connection, C, 0, discard=False)
    assert table.lease(D) == Nothing("done")
    assert places(table) == ("closed", 2, 2, 0)
    if how == "expired":
        assert table.submit(C, said_for(third, 0)).state == "surplus"
        assert places(table) == ("closed", 2, 2, 0)


@pytest.mark.parametrize(("gone", "left"), [(B, ("closed", 2, 2, 0)), (C, ("open", 4, 2, 0))])
def test_discarded_verdicts_may_end_a_split_or_leave_it(
    gone: int, left: tuple[str, int, int, int], table: Table
) -> None:
    split(table, 0, 1, 0)
    assert places(table) == ("open", 4, 3, 0)
    assert remove_rater(table.connection, gone, 0, discard=True) == 1
    assert places(table) == left


def test_a_verdict_taken_back_ends_a_split_until_it_is_given_again(table: Table) -> None:
    _, (shown, seq) = split(table, 0, 1)
    table.submit(B, verdict(shown.handle, "withdrawn", revises=seq))
    assert places(table) == ("open", 2, 1, 0)
    assert table.lease(B).handle == shown.handle
    table.submit(B, said_for(shown, 1))
    assert places(table) == ("open", 4, 2, 0)


def test_one_more_person_whom_a_reviewer_wants_is_asked_whatever_becomes_of_a_split(table: Table) -> None:
    _, (shown, seq) = split(table, 0, 1, extra_raters=1)
    requeue(table.connection, table.items[0].id, 0)
    assert places(table) == ("open", 4, 2, 0)
    table.submit(B, said_for(shown, 0, revises=seq))
    assert places(table) == ("open", 3, 2, 0)


def test_one_rater_alone_has_nobody_to_disagree_with(table: Table) -> None:
    table.set([new_item(0, expected={"best": 1, "judge": "j"})], overlap=1, extra_raters=2)
    table.judge(A, 0)
    assert (table.row().status, table.row().target) == ("closed", 1)


def test_discarded_verdicts_are_asked_of_somebody_else(table: Table) -> None:
    table.set([new_item(0), new_item(1), new_item(2)], overlap=1)
    for _ in range(2):
        table.judge(A)
    table.connection.execute(sa.update(item).where(item.c.id == table.items[1].id).values(status="settled"))
    assert remove_rater(table.connection, A, 0, discard=True) == 2
    assert [(table.row(i).done, table.row(i).status) for i in range(3)] == [(0, "open"), (0, "settled"), (0, "open")]
    assert remove_rater(table.connection, A, 0, discard=True) == 0  # again is no harm
    assert table.lease(B).item_id == table.items[0].id
    gone = table.connection.execute(sa.select(rater).where(rater.c.id == A)).one()
    assert (gone.name, gone.password, gone.status, gone.pseudonym) == (None, None, "removed", "rater-1")


# Calibration


def test_calibration_teaches_then_qualifies(table: Table) -> None:
    training = [new_item(100 + i, "training") for i in range(4)]
    table.set([new_item(0), *training], qualified=False, qualification=0.75)
    for best, right in ((0, True), (1, False), (0, True), (0, True)):
        assert table.lease(A).item_id in {new.id for new in training}
        receipt = table.judge(A, best)
        assert receipt.state == "kept"
        assert receipt.feedback == {"right": right, "best": [0], "explanation": "the first is right"}
    assert table.lease(A).item_id == table.items[0].id


def test_calibration_can_be_failed_and_is_not_changed_afterwards(table: Table) -> None:
    training = [new_item(100 + i, "training") for i in range(2)]
    table.set([new_item(0), *training], qualified=False, qualification=0.75)
    found = table.lease(A)
    said = verdict(found.handle, strength=5 if found.order[0] == 0 else 1)
    wrong = table.submit(A, said)
    assert wrong.feedback["right"] is False
    assert table.submit(A, said).feedback == wrong.feedback  # the answer got lost on the way
    for change in ({"strength": 3}, {"kind": "withdrawn"}, {"kind": "skip"}):
        with pytest.raises(RefusedError, match="answered once"):
            table.submit(A, verdict(found.handle, revises=wrong.seq, **change))
    skipped = table.submit(A, verdict(table.lease(A).handle, "skip"))
    assert skipped.feedback["right"] is False
    assert table.lease(A) == Nothing("unqualified")


def test_without_a_threshold_calibration_only_teaches(table: Table) -> None:
    table.set([new_item(0), new_item(100, "training")], qualified=False)
    assert table.judge(A, 1).feedback["right"] is False
    assert table.judge(A).state == "counted"


def test_without_calibration_items_nobody_waits_for_them(table: Table) -> None:
    table.set([new_item(0)], qualified=False)
    assert table.judge(A).state == "counted"


# What is said, and of what


def choice(**fields: Any) -> dict[str, Any]:
    return {"client_id": "0" * 8 + "-0000-0000-0000-" + "0" * 12, "item_id": "0" * 20, "kind": "choice"} | fields


@pytest.mark.parametrize(
    ("fields", "config", "says"),
    [
        ({}, {}, "a choice needs one"),
        ({"strength": 1}, {"kind": "ranking"}, "ranking verdicts"),
        ({"kind": "ranking", "ranking": [[0]]}, {}, "pairwise verdicts"),
        ({"kind": "ranking"}, {"kind": "ranking"}, "a ranking needs them"),
        ({"kind": "ranking", "ranking": []}, {"kind": "ranking"}, "no tier is empty"),
        ({"kind": "ranking", "ranking": [[0], []]}, {"kind": "ranking"}, "no tier is empty"),
        ({"kind": "ranking", "ranking": [[0], [0]]}, {"kind": "ranking"}, "one tier"),
        ({"kind": "ranking", "ranking": [[3]]}, {"kind": "ranking"}, "answers 0 to 2"),
        ({"kind": "ranking", "ranking": [[-1]]}, {"kind": "ranking"}, "answers 0 to 2"),
        ({"kind": "skip"}, {}, "needs a reason"),
        ({"strength": 1, "reason": "broken"}, {}, "other verdicts have none"),
        ({"kind": "withdrawn"}, {}, "can be withdrawn"),
        ({"strength": 1, "edits": {9: "better"}}, {}, "answers 0 to 2"),
        ({"strength": 1, "edits": {0: "better"}}, {"edits": False}, "corrected answers"),
        ({"strength": 1, "objectives": {"style": "left"}}, {"objectives": ("speed",)}, "no objective 'style'"),
    ],
)
def test_a_verdict_that_does_not_fit_is_refused(fields: dict[str, Any], config: dict[str, Any], says: str) -> None:
    with pytest.raises(RefusedError, match=says) as refused:
        Verdict(**choice(**fields)).check(AnnotationConfig(**config), 3)
    assert refused.value.kind == "invalid"


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": 6},
        {"strength": 1, "turn": 0},
        {"strength": 1, "item_id": "../../etc"},
        {"strength": 1, "client_id": "x" * 36},
        {"strength": 1, "comment": "x" * 20_001},
        {"strength": 1, "rater_id": 1},
        {"kind": "adjudication"},
    ],
)
def test_what_is_no_verdict_at_all(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Verdict(**choice(**fields))


def test_a_nul_is_dropped_from_what_people_write() -> None:
    said = Verdict(**choice(strength=1, comment="a\0b", edits={0: "c\0"}))
    assert (said.comment, said.edits) == ("ab", {0: "c"})


def test_winners_whatever_the_order_shown() -> None:
    row = type("Row", (), {"ranking": None, "order": [1, 0]})
    row.strength = 1
    assert (winner(row), preference(1, [1, 0])) == (1, (1, 2))
    row.strength = 4
    assert (winner(row), preference(4, [1, 0])) == (0, (0, 1))
    row.strength = 3
    assert winner(row) == "tie"
    row.strength = 0
    assert winner(row) == "both bad"
    row.ranking = [[2], [0, 1]]
    assert winner(row) == 2
    row.ranking = [[0, 1], [2]]
    assert winner(row) == "tie"


def test_rankings_go_the_same_way(table: Table) -> None:
    table.set([new_item(0, answers=4)], kind="ranking", overlap=2, extra_raters=1)
    found = table.lease(A)
    assert sorted(found.order) == [0, 1, 2, 3]
    assert table.submit(A, verdict(found.handle, "ranking", ranking=((2,), (0, 1)))).state == "counted"
    assert table.submit(B, verdict(table.lease(B).handle, "ranking", ranking=((3,),))).state == "counted"
    assert (table.row().status, table.row().target) == ("open", 3)


# Items


def test_items_are_added_once_and_in_order(table: Table) -> None:
    table.set([new_item(i) for i in range(3)])
    assert has_project(table.connection)
    assert add_items(table.connection, [new_item(2), new_item(7), new_item(7), new_item(5)]) == 2
    rows = table.connection.execute(sa.select(item).order_by(item.c.position)).all()
    assert [row.messages[0]["content"] for row in rows] == [f"question {i}" for i in (0, 1, 2, 7, 5)]
    assert len({row.position for row in rows}) == 5
    with pytest.raises(sa.exc.IntegrityError):
        create_project(table.connection, AnnotationConfig(), "another", 0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: new_item(0, answers=3), "a pair needs two"),
        (lambda: new_item(0, answers=0), "a pair needs two"),
        (lambda: new_item(0, role="silver"), "not one of item, gold, training"),
        (lambda: new_item(0, "gold", known=None), "needs a known answer"),
        (lambda: new_item(0, "training", known={"best": []}), "needs a known answer"),
        (lambda: new_item(0, known={"best": [0]}), "none otherwise"),
        (lambda: new_item(0, "gold", known={"best": [2]}), "other than 0 to 1"),
        (lambda: new_item(0, "gold", known={"best": ["neither"]}), "other than 0 to 1"),
        (lambda: new_item(0, expected={"best": 2, "judge": "j"}), "expected answer other than 0 to 1"),
        (lambda: new_item(0, results=(None,)), "1 results for 2 answers"),
    ],
)
def test_items_that_nobody_could_judge_are_refused_by_name(
    make: Callable[[], NewItem], says: str, table: Table
) -> None:
    table.set([])
    with pytest.raises(RefusedError, match=says) as refused:
        add_items(table.connection, [make()])
    assert make().id in str(refused.value)


# Statements


def test_looking_for_work_goes_by_the_index_and_takes_few_statements(table: Table) -> None:
    table.set([new_item(i) for i in range(30)] + [new_item(90, "gold")], gold_share=0.05, repeat_share=0.05)
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(table.connection, "before_cursor_execute", note)
    found = table.lease(A)
    leased, seen[:] = list(seen), []
    submit(table.connection, A, verdict(found.handle), 0)
    submitted = list(seen)
    sa.event.remove(table.connection, "before_cursor_execute", note)
    assert (len(leased), len(submitted)) == (8, 7)
    plans = [
        [row.detail for row in table.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        for statement, parameters in leased + submitted
    ]
    assert sum("ix_item_next" in step for plan in plans for step in plan) == 1
    whole = ("SCAN item", "SCAN showing", "SCAN judgement", "SCAN answer", "SCAN rater", "TEMP B-TREE")
    assert not [step for plan in plans for step in plan if any(word in step for word in whole)]

"""Webhooks: the outbox in the event's own transaction, a receiver that misbehaves, signatures, and where none may go."""

from __future__ import annotations

import asyncio
import doctest
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_app import POLICY, START, World, choice, new_item, world
from hypothesis import given
from hypothesis import strategies as st

from prefloop.annotation import destinations, schema, webhooks
from prefloop.annotation.courier import REST_MS, Courier
from prefloop.annotation.destinations import check, outside, read_url
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.service import Address
from prefloop.annotation.webhooks import EVENTS, TRIES, enqueue, register, sign, verify, wait_ms

V1 = "/api/v1"
DAY = 86_400_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        yield found


def test_docstring_examples() -> None:
    for module in (webhooks, destinations):
        found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert found.attempted
        assert not found.failed


@dataclass
class Got:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """A local server that answers what it is told to, or nothing at all."""

    status: int = 200
    location: str = ""
    silent: bool = False
    got: list[Got] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                receiver.got.append(Got(self.path, dict(self.headers), self.rfile.read(length)))
                if receiver.silent:
                    receiver.released.wait(30)
                    return
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?a=1"


def hooked(found: World, url: str, *events: str) -> tuple[int, str]:
    return found.service.writer.run(lambda c: register(c, url, events or EVENTS, found.clock()))


def tell(found: World, event: str = "project.paused", payload: dict[str, Any] | None = None) -> int:
    return found.service.writer.run(lambda c: enqueue(c, event, payload or {"reason": "r"}, found.clock()))


def deliver(found: World, **options: Any) -> None:
    async def once() -> None:
        await Courier(found.service, **options).once()

    asyncio.run(once())


def outbox(found: World) -> list[Any]:
    with found.service.database.reading.connect() as connection:
        return list(connection.execute(sa.select(schema.delivery).order_by(schema.delivery.c.id)).all())


def said(found: World) -> list[str]:
    """The project's log."""
    with found.service.database.reading.connect() as connection:
        return [f"{row.what}: {row.about}" for row in connection.execute(sa.select(schema.event))]


def judge(found: World, name: str = "first", **more: Any) -> dict[str, Any]:
    client = found.client(name)
    item = client.post(f"{V1}/next").json()
    body = choice(item, **more)
    assert client.post(f"{V1}/judgements", json=body).status_code == 200
    return body


# What is told, and when


def test_a_verdict_and_what_it_does_to_the_item_are_told_once(small: World) -> None:
    hooked(small, "http://receiver/")
    body = judge(small)
    small.client("first").post(f"{V1}/judgements", json=body)  # a retry is no event
    created, closed = outbox(small)
    assert (created.event, closed.event) == ("judgement.created", "item.closed")
    told = created.payload["data"]
    assert (told["item_id"], told["strength"], told["rater"][:6], told["seq"]) == (small.items[0], 1, "rater-", 1)
    assert created.payload["created"] == START
    assert closed.payload["data"] == {"item": small.items[0], "done": 1, "target": 1}
    assert created.payload["id"] != closed.payload["id"]
    assert POLICY not in str(outbox(small))
    assert "'first'" not in str(outbox(small)), "people by pseudonym"


def test_what_an_admin_does_is_told(small: World) -> None:
    hooked(small, "http://receiver/")
    admin = small.client("admin")
    judge(small)
    admin.post(f"{V1}/items/{small.items[0]}/requeue")
    admin.post(f"{V1}/project/state", json={"state": "stopped", "reason": "enough"})
    admin.post(f"{V1}/raters/{small.ids['first']}/remove", json={"discard": True})
    told = [(row.event, row.payload["data"]) for row in outbox(small)][2:]
    assert told[0] == ("item.open", {"item": small.items[0], "done": 1, "target": 2})
    assert told[1] == ("project.stopped", {"reason": "enough"})
    assert (told[2][0], told[2][1]["discarded"]) == ("rater.removed", 1)


def test_an_adjudication_settles_an_item_and_tells(small: World) -> None:
    from prefloop.annotation.protocol import Verdict

    hooked(small, "http://receiver/", "item.settled")
    judge(small)
    verdict = Verdict(**choice({"id": small.items[0]}, 2))
    small.service.writer.run(lambda c: webhooks.adjudicate(c, small.ids["reviewer"], verdict, START))
    (row,) = outbox(small)
    assert (row.event, row.payload["data"]["item"]) == ("item.settled", small.items[0])


def test_skips_that_set_an_item_aside_are_told(tmp_path: Path) -> None:
    with world(tmp_path, skips=1) as found:
        hooked(found, "http://receiver/", "item.aside")
        judge(found, kind="skip", strength=None, reason="broken")
        assert [row.event for row in outbox(found)] == ["item.aside"]


def test_an_item_that_a_lease_leaves_closed_is_told(tmp_path: Path) -> None:
    """Two disagree, a third looks at it, the two agree meanwhile, with the judge, and the third goes away."""
    with world(tmp_path, [new_item(0)], overlap=2, extra_raters=1) as found:
        first, second = found.client("first"), found.client("second")

        def said(item: dict[str, Any], best: int, **more: Any) -> dict[str, Any]:
            return choice(item, 1 if item["answers"][0]["index"] == best else 5, **more)

        first.post(f"{V1}/judgements", json=said(first.post(f"{V1}/next").json(), 1))
        item = second.post(f"{V1}/next").json()
        seq = second.post(f"{V1}/judgements", json=said(item, 0)).json()["seq"]
        assert "id" in found.client("reviewer").post(f"{V1}/next").json()
        hooked(found, "http://receiver/", "item.closed")
        assert second.post(f"{V1}/judgements", json=said(item, 1, revises=seq)).status_code == 200
        assert outbox(found) == []
        found.clock.pass_(15 * 60_000)
        assert found.client("admin").post(f"{V1}/next").json() == {"nothing": "done"}
        (row,) = outbox(found)
        assert row.payload["data"] == {"item": found.items[0], "done": 2, "target": 2}


def test_an_event_is_stored_with_what_it_tells_of_or_not_at_all(small: World) -> None:
    hooked(small, "http://receiver/")

    def broken(connection: sa.Connection) -> None:
        webhooks.set_state(connection, "paused", "", START)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        small.service.writer.run(broken)
    assert outbox(small) == []
    assert "paused" not in str(said(small))


def test_each_webhook_gets_the_events_that_it_asked_for(small: World) -> None:
    first, _ = hooked(small, "http://one/", "project.paused")
    second, _ = hooked(small, "http://two/", "project.paused", "project.stopped")
    assert (tell(small, "project.paused"), tell(small, "project.stopped"), tell(small, "item.closed")) == (2, 1, 0)
    assert [(row.webhook_id, row.event) for row in outbox(small)] == [
        (first, "project.paused"),
        (second, "project.paused"),
        (second, "project.stopped"),
    ]


def test_without_a_webhook_nothing_is_stored(small: World) -> None:
    judge(small)
    assert outbox(small) == []


# Delivery


def test_a_delivery_is_signed_named_and_made_once(small: World) -> None:
    with Receiver() as receiver:
        _, secret = hooked(small, receiver.url)
        tell(small, payload={"reason": "für \u2028 alle"})
        deliver(small)
        deliver(small)
    (got,) = receiver.got
    (row,) = outbox(small)
    assert got.path == "/hook?a=1"
    assert got.headers["Host"] == f"127.0.0.1:{receiver.port}"
    assert (got.headers["X-Prefloop-Event"], got.headers["X-Prefloop-Id"]) == ("project.paused", row.payload["id"])
    assert json.loads(got.body) == row.payload
    assert verify(secret, got.headers["X-Prefloop-Signature"], got.body, seconds=START // 1000)
    assert (row.due, row.tries, row.status) == (None, 1, "answered 200")


def test_a_receiver_that_fails_is_tried_again_after_growing_waits_then_given_up(small: World) -> None:
    with Receiver(status=500) as receiver:
        _, secret = hooked(small, receiver.url)
        tell(small)
        waits = []
        for tries in range(1, TRIES + 1):
            deliver(small)
            (row,) = outbox(small)
            assert (row.tries, len(receiver.got)) == (tries, tries)
            if row.due is not None:
                waits.append(row.due - small.clock())
                small.clock.now = row.due - 1
                deliver(small)  # not before its time
                assert len(receiver.got) == tries
                small.clock.now = row.due
        deliver(small)
    assert waits == [15_000, 60_000, 240_000, 960_000, 3_840_000, 15_360_000, 61_440_000]
    assert 0.9 * DAY < sum(waits) < DAY
    assert (row.due, row.status) == (None, "gave up after 8 tries: answered 500")
    assert "webhook gave up: webhook 1, project.paused: answered 500" in said(small)
    assert len({got.body for got in receiver.got}) == len({got.headers["X-Prefloop-Id"] for got in receiver.got}) == 1
    sent = [int(got.headers["X-Prefloop-Signature"][2:].split(",")[0]) for got in receiver.got]
    assert [b - a for a, b in pairwise(sent)] == [wait // 1000 for wait in waits]
    last = receiver.got[-1]
    assert verify(secret, last.headers["X-Prefloop-Signature"], last.body, seconds=sent[-1])


def test_a_receiver_that_recovers_gets_what_it_missed(small: World) -> None:
    with Receiver(status=503) as receiver:
        hooked(small, receiver.url)
        tell(small)
        deliver(small)
        receiver.status = 204
        small.clock.pass_(15_000)
        deliver(small)
    assert [(row.due, row.tries, row.status) for row in outbox(small)] == [(None, 2, "answered 204")]


def test_a_redirect_is_a_failure_and_is_not_followed(small: World) -> None:
    with Receiver() as other, Receiver(status=307, location=other.url) as receiver:
        hooked(small, receiver.url)
        tell(small)
        deliver(small)
        assert (len(receiver.got), len(other.got)) == (1, 0)
    assert outbox(small)[0].status == "failed, will be tried again: answered 307: redirects are not followed"


def test_a_receiver_that_never_answers_fails_after_the_time_limit(small: World) -> None:
    with Receiver(silent=True) as receiver:
        hooked(small, receiver.url)
        tell(small)
        deliver(small, timeout=0.3)
    assert outbox(small)[0].status == "failed, will be tried again: no answer within 0.3 s"


def test_a_receiver_that_is_not_there_fails_with_a_reason(small: World) -> None:
    with Receiver() as receiver:
        url = receiver.url
    hooked(small, url)
    tell(small)
    deliver(small)
    assert outbox(small)[0].status.startswith("failed, will be tried again: ConnectError")
    assert outbox(small)[0].due == START + 15_000


def test_one_that_hangs_delays_no_other(small: World) -> None:
    with Receiver(silent=True) as hanging, Receiver() as other:
        hooked(small, hanging.url)
        hooked(small, other.url)
        tell(small)
        tell(small)

        async def both() -> None:
            courier = Courier(small.service, timeout=30)
            running = asyncio.create_task(courier.once())
            while len(other.got) < 2:
                await asyncio.sleep(0.01)
            assert len(hanging.got) <= 1
            hanging.released.set()  # closes without an answer
            await running

        asyncio.run(both())
    assert [(row.webhook_id, row.tries) for row in outbox(small)] == [(1, 1), (2, 1), (1, 0), (2, 1)]


def test_after_a_failure_a_receiver_is_left_alone_for_a_while(small: World) -> None:
    with Receiver(status=500) as receiver:
        hooked(small, receiver.url)
        tell(small)
        tell(small)

        async def twice() -> None:
            courier = Courier(small.service)
            await courier.once()
            small.clock.pass_(REST_MS - 1)
            await courier.once()
            assert len(receiver.got) == 1
            small.clock.pass_(1)
            receiver.status = 200
            await courier.once()

        asyncio.run(twice())
        assert len(receiver.got) == 3
    assert [row.tries for row in outbox(small)] == [2, 1]


def test_what_waits_survives_a_restart(tmp_path: Path) -> None:
    from prefloop.annotation.database import open_database
    from prefloop.annotation.service import Service
    from prefloop.annotation.writer import Writer

    with Receiver() as receiver:
        with world(tmp_path) as before:
            hooked(before, receiver.url)
            tell(before)
            event_id = outbox(before)[0].payload["id"]
        database = open_database(tmp_path / "project.db")
        service = Service(database, Writer(database.writing), Address("http://127.0.0.1:8642"), lambda: START + 5 * DAY)
        asyncio.run(Courier(service).once())
        service.close()
    assert [got.headers["X-Prefloop-Id"] for got in receiver.got] == [event_id]


def test_a_crash_between_sending_and_writing_it_down_sends_the_same_id_again(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError

    with Receiver() as receiver:
        hooked(small, receiver.url)
        tell(small)
        with monkeypatch.context() as patch:
            patch.setattr(webhooks, "delivered", crash)
            deliver(small)
        deliver(small)
    assert len(receiver.got) == 2
    assert len({got.headers["X-Prefloop-Id"] for got in receiver.got}) == 1
    assert outbox(small)[0].status == "answered 200"


def test_it_runs_until_it_is_cancelled(small: World) -> None:
    with Receiver() as receiver:
        hooked(small, receiver.url)
        tell(small)

        async def serve() -> None:
            running = asyncio.create_task(Courier(small.service).run())
            while not outbox(small)[0].tries:
                await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(serve())
        assert len(receiver.got) == 1


def test_what_waits_too_long_is_given_up_and_what_is_long_over_forgotten(small: World) -> None:
    hooked(small, "http://receiver/")
    tell(small)
    sweep = lambda now: small.service.writer.run(lambda c: webhooks.sweep(c, now))  # noqa: E731
    assert sweep(START + 2 * DAY) == 0
    assert sweep(START + 2 * DAY + 1) == 1
    assert outbox(small)[0].status == "gave up: its receiver failed for two days"
    assert "webhook gave up: 1 deliveries older than two days" in said(small)
    assert sweep(START + 30 * DAY) == 0
    assert len(outbox(small)) == 1
    sweep(START + 30 * DAY + 1)
    assert outbox(small) == []


# The routes


def test_a_webhook_is_made_listed_watched_and_removed(small: World) -> None:
    admin = small.client("admin")
    with Receiver() as receiver:
        made = admin.post(f"{V1}/webhooks", json={"url": receiver.url, "events": ["project.paused"] * 2})
        assert made.status_code == 201
        secret = made.json().pop("secret")
        shown = {"id": 1, "url": receiver.url, "events": ["project.paused"], "created": START}
        assert made.json() == shown | {"secret": secret}
        assert len(secret) == 64
        assert admin.get(f"{V1}/webhooks").json() == [shown]
        for _ in range(3):
            tell(small)
        deliver(small)
        assert verify(
            secret, receiver.got[0].headers["X-Prefloop-Signature"], receiver.got[0].body, seconds=START // 1000
        )
    page = admin.get(f"{V1}/webhooks/1/deliveries", params={"limit": 2}).json()
    assert ([one["id"] for one in page["deliveries"]], page["next"]) == ([3, 2], 2)
    rest = admin.get(f"{V1}/webhooks/1/deliveries", params={"before": 2}).json()
    assert rest["next"] is None
    (first,) = rest["deliveries"]
    assert (first["status"], first["tries"], first["due"]) == ("answered 200", 1, None)
    assert first["event_id"] == receiver.got[0].headers["X-Prefloop-Id"]
    tell(small)
    assert admin.delete(f"{V1}/webhooks/1").status_code == 204
    assert admin.get(f"{V1}/webhooks").json() == []
    assert admin.delete(f"{V1}/webhooks/1").status_code == 404
    assert tell(small) == 0
    newest = admin.get(f"{V1}/webhooks/1/deliveries").json()["deliveries"][0]
    assert (newest["due"], newest["status"]) == (None, "not sent: the webhook was removed")
    assert admin.get(f"{V1}/webhooks/2/deliveries").status_code == 404
    assert secret not in admin.get(f"{V1}/webhooks").text


@pytest.mark.parametrize("events", [[], ["everything"], ["judgement.created", 1]])
def test_unknown_events_are_refused(small: World, events: list[Any]) -> None:
    body = {"url": "http://127.0.0.1/", "events": events}
    assert small.client("admin").post(f"{V1}/webhooks", json=body).status_code == 422


# Signatures


def test_a_signature_is_the_hmac_of_time_and_body() -> None:
    # openssl: printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret
    wanted = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686"
    assert sign("secret", b'{"a":1}', 1_700_000_000) == f"t=1700000000,v1={wanted}"


@given(st.binary(), st.integers(0, 2**40), st.integers(0, 400), st.text(max_size=20))
def test_only_the_secret_the_body_and_the_time_together_verify(body: bytes, sent: int, later: int, secret: str) -> None:
    signature = sign(secret, body, sent)
    assert verify(secret, signature, body, seconds=sent + later) == (later <= 300)
    assert not verify(secret + "x", signature, body, seconds=sent)
    assert not verify(secret, signature, body + b" ", seconds=sent)
    assert not verify(secret, signature.replace("t=", "t=1"), body, seconds=int(f"1{sent}"))


@given(st.text(max_size=100))
def test_no_other_header_verifies_or_raises(header: str) -> None:
    assert not verify("s", header, b"{}", seconds=0)


def test_a_replay_outside_the_window_is_refused() -> None:
    signature = sign("s", b"{}", 1000)
    assert [verify("s", signature, b"{}", seconds=now) for now in (699, 700, 1300, 1301)] == [False, True, True, False]
    assert verify("s", signature, b"{}", seconds=1011, window=10) is False
    assert verify("s", sign("s", b"{}", 10**12), b"{}") is False, "by the receiver's own clock"


# Where none may go

INSIDE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",  # metadata service of clouds
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",  # NAT64 of 169.254.169.254
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside_are_refused_whatever_name_leads_there(address: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", address]

    assert not outside(address)
    with pytest.raises(RefusedError, match="private network"):
        asyncio.run(check("https://receiver.example/", inside=False, resolve=resolve))
    assert asyncio.run(check("https://receiver.example/", inside=True, resolve=resolve)).name == "receiver.example"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://localhost/",
        "http://[::ffff:7f00:1]/",
    ],
)
def test_other_spellings_of_this_machine_are_refused_by_the_real_name_service(url: str) -> None:
    with pytest.raises(RefusedError):
        asyncio.run(check(url, inside=False))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_will_do(address: str) -> None:
    assert outside(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "receiver",
        "ftp://receiver/",
        "file:///etc/passwd",
        "http://",
        "https://:443/",
        "http://u:p@receiver/",
        "http://u@receiver/",
        "http://receiver:99999/",
        "http://[::1/",
        "javascript:alert(1)",
        "http://" + "a" * 2000,
        "//receiver/",
    ],
)
def test_what_is_no_address_of_the_web_is_refused(url: str) -> None:
    with pytest.raises(RefusedError):
        read_url(url)


@given(st.text(max_size=60))
def test_no_text_breaks_the_reading_of_urls(text: str) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"]

    for url in (text, f"http://{text}", f"https://{text}/x"):
        try:
            found = asyncio.run(check(url, inside=False, resolve=resolve))
        except RefusedError:
            continue
        assert found.url.host == "93.184.216.34"
        assert found.url.scheme in ("http", "https")


def test_the_request_goes_to_the_address_that_was_checked_and_names_the_host() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("receiver.example", 8443)
        return ["2606:2800:220:1:248:1893:25c8:1946"]

    found = asyncio.run(check("https://receiver.example:8443/a/b?c=d#e", inside=False, resolve=resolve))
    assert str(found.url) == "https://[2606:2800:220:1:248:1893:25c8:1946]:8443/a/b?c=d"
    assert (found.host, found.name) == ("receiver.example:8443", "receiver.example")


def public(tmp_path: Path) -> Any:
    return world(tmp_path, origin="https://rate.example.org")


def test_a_public_server_refuses_a_private_receiver_when_it_is_registered(tmp_path: Path) -> None:
    with public(tmp_path) as found:
        for url in ("http://127.0.0.1:9/", "http://169.254.169.254/latest", "http://localhost/"):
            refused = found.client("admin").post(f"{V1}/webhooks", json={"url": url, "events": ["project.paused"]})
            assert refused.status_code == 422
            assert "private network" in refused.json()["error"]["reason"]
        assert found.client("admin").get(f"{V1}/webhooks").json() == []


def test_a_name_that_turns_to_a_private_address_later_gets_nothing(tmp_path: Path) -> None:
    """DNS rebinding: the name is resolved again at each delivery, and checked again."""

    async def inside(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    with public(tmp_path) as found, Receiver() as receiver:
        hooked(found, f"http://receiver.example:{receiver.port}/")
        tell(found)
        deliver(found, resolve=inside)
        assert receiver.got == []
        assert "private network" in outbox(found)[0].status
        found.clock.pass_(wait_ms(1))
        deliver(found, resolve=inside, inside=True)
        assert receiver.got[0].headers["Host"] == f"receiver.example:{receiver.port}"


def test_a_name_without_an_address_is_refused(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    monkeypatch.setattr(destinations, "look_up", nowhere)
    body = {"url": "http://receiver.example/", "events": ["project.paused"]}
    refused = small.client("admin").post(f"{V1}/webhooks", json=body)
    assert (refused.status_code, refused.json()["error"]["reason"]) == (422, "the host receiver.example has no address")


def test_a_proxy_of_the_environment_is_not_used(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as proxy, Receiver() as receiver:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        hooked(small, receiver.url)
        tell(small)
        deliver(small)
        assert (len(proxy.got), len(receiver.got)) == (0, 1)


def test_a_payload_names_neither_policy_nor_gold(tmp_path: Path) -> None:
    items = [new_item(0, "gold"), *(new_item(place) for place in range(1, 9))]
    with world(tmp_path, items, gold_share=0.5) as found:
        hooked(found, "http://receiver/", "judgement.created")
        while "id" in (item := found.client("first").post(f"{V1}/next").json()):
            assert found.client("first").post(f"{V1}/judgements", json=choice(item)).status_code == 200
        told = [row.payload for row in outbox(found)]
        assert {one["data"]["item_id"] for one in told} == set(found.items)  # the gold item, too
        text = str(told)
    for secret in (POLICY, "gold", "expected", "known", "hidden"):
        assert secret not in text

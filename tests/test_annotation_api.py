"""The annotation API: each route with each role and scope, what raters must never see, retries, hostile requests."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
import sqlalchemy as sa
from annotation_app import JUDGE, POLICY, RESULT, SCOPES, START, World, choice, new_item, served, world
from hypothesis import HealthCheck, given, settings
from postgres import Postgres
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from prefloop.annotation import api_rating, api_running, destinations, schema
from prefloop.annotation.accounts import ROLES, accept_invite, look_up_invite
from prefloop.annotation.api_models import Nothing
from prefloop.annotation.api_models_running import PostedItem
from prefloop.annotation.client import AnnotationClient, ApiError
from prefloop.annotation.export_records import read_exported
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.results import QueryResult
from prefloop.annotation.webhooks import EVENTS
from prefloop.errors import ConfigError, StoreError

V1 = "/api/v1"
HOOK = {"url": "http://127.0.0.1:9/", "events": ["judgement.created"]}
POSTED = {"prompt": "which?", "answers": [{"text": "this", "policy": POLICY}, {"text": "that", "policy": POLICY}]}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("whole")) as found:
        yield found


def rows(found: World, query: Any) -> list[Any]:
    with found.service.database.reading.connect() as connection:
        return list(connection.execute(query).all())


def held(found: World, name: str) -> dict[str, Any]:
    response = found.client(name).post(f"{V1}/next")
    assert response.status_code == 200, response.text
    return response.json()


def submitted(found: World, name: str, **more: Any) -> dict[str, Any]:
    """An item, judged."""
    item = held(found, name)
    response = found.client(name).post(f"{V1}/judgements", json=choice(item, **more))
    assert response.status_code == 200, response.text
    return item | {"seq": response.json()["seq"]}


def error(response: Any) -> dict[str, str]:
    """The one shape of everything that is no success."""
    body = response.json()
    assert set(body) == {"error"}, body
    assert set(body["error"]) == {"kind", "reason"}, body
    return body["error"]


# Who may do what

ROUTES: list[tuple[str, str, Any, str | None]] = [
    ("POST", "/next", None, "annotate"),
    ("GET", "/items/{item_id}", None, "annotate"),
    ("POST", "/items/{item_id}/renew", {}, "annotate"),
    ("POST", "/items/{item_id}/run", {"text": "SELECT 1"}, "annotate"),
    (
        "POST",
        "/judgements",
        {"client_id": str(uuid.UUID(int=1)), "item_id": "0" * 20, "kind": "choice", "strength": 1},
        "annotate",
    ),
    ("GET", "/judgements/mine", None, "annotate"),
    ("GET", "/project", None, None),
    ("GET", "/progress", None, "read"),
    ("GET", "/export/judgements", None, "read"),
    ("POST", "/items", {"items": [POSTED]}, "manage"),
    ("POST", "/items/{item_id}/requeue", None, "manage"),
    ("POST", "/project/state", {"state": "running"}, "manage"),
    ("GET", "/raters", None, "manage"),
    ("POST", "/raters/{rater_id}/remove", {}, "manage"),
    ("POST", "/invites", {}, "manage"),
    ("POST", "/tokens", {"name": "n", "scopes": ["annotate"]}, None),
    ("GET", "/tokens", None, None),
    ("DELETE", "/tokens/{token_id}", None, None),
    ("POST", "/webhooks", HOOK, "manage"),
    ("GET", "/webhooks", None, "manage"),
    ("DELETE", "/webhooks/{webhook_id}", None, "manage"),
    ("GET", "/webhooks/{webhook_id}/deliveries", None, "manage"),
]
"""Method, path, body, and the scope that is needed (None: any)."""


def test_the_table_has_every_route_and_the_schema_describes_each(small: World) -> None:
    described = small.app.openapi()
    paths = {(method.upper(), path.removeprefix(V1)) for path, one in described["paths"].items() for method in one}
    assert paths == {(method, path) for method, path, _, _ in ROUTES}
    operations = [one for path in described["paths"].values() for one in path.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        assert one["tags"]
        assert one["description"]
        assert one["security"] == [{"token": []}]
        for status in ("401", "403", "422"):
            assert one["responses"][status]["content"]["application/json"]["schema"]["$ref"].endswith("/Failure")


@pytest.mark.parametrize(("method", "path", "body", "scope"), ROUTES, ids=[f"{m} {p}" for m, p, _, _ in ROUTES])
def test_who_may_call_a_route(small: World, method: str, path: str, body: Any, scope: str | None) -> None:
    """ASVS 8.2.1, 8.3.1: each role with each of its scopes, by token and by session."""
    place = V1 + path.format(item_id=small.items[0], rater_id=999, token_id=999, webhook_id=999)

    def call(client: Any) -> Any:
        return client.request(method, place, json=body)

    nobody = call(small.client())
    assert nobody.status_code == 401
    assert nobody.headers["www-authenticate"] == "Bearer"
    assert error(nobody)["kind"] == "unauthorized"
    assert call(small.client(token="pf_" + "x" * 43)).status_code == 401
    for name, role in (("admin", "admin"), ("reviewer", "reviewer"), ("first", "rater")):
        assert set(SCOPES[role]) == ROLES[role]
        session = call(small.browser(name))
        assert (session.status_code in (401, 403)) == (scope is not None and scope not in ROLES[role]), (
            role,
            session.text,
        )
        for held_scope in SCOPES[role]:
            response = call(small.client(token=small.token(name, held_scope)))
            refused = scope is not None and scope != held_scope
            if path == "/tokens" and method == "POST":
                refused = True  # sessions make tokens
            assert (response.status_code == 403) == refused, (role, held_scope, response.text)
            assert response.status_code < 500
            if refused and scope:
                assert response.headers["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{scope}"'
                assert error(response)["kind"] == "forbidden"


def test_a_token_beside_a_session_decides_alone(small: World) -> None:
    browser = small.browser("admin")
    for header in ("Bearer pf_wrong", "Basic YTpi", "Bearer"):
        assert browser.get(f"{V1}/project", headers={"Authorization": header}).status_code == 401


def test_a_revoked_token_is_nothing_at_once(small: World) -> None:
    admin = small.browser("admin")
    issued = admin.post(f"{V1}/tokens", json={"name": "mine", "scopes": ["read", "annotate"]}).json()
    assert issued["scopes"] == ["annotate", "read"]
    program = small.client(token=issued["token"])
    assert program.get(f"{V1}/progress").status_code == 200
    listed = next(one for one in admin.get(f"{V1}/tokens").json() if one["id"] == issued["id"])
    assert listed == {
        "id": issued["id"],
        "name": "mine",
        "scopes": ["annotate", "read"],
        "created": START,
        "used": START,
        "revoked": None,
    }
    assert admin.delete(f"{V1}/tokens/{issued['id']}").status_code == 204
    assert program.get(f"{V1}/progress").status_code == 401
    assert admin.delete(f"{V1}/tokens/{issued['id']}").status_code == 404
    assert issued["token"] not in str(rows(small, sa.select(schema.token)))


def test_no_token_has_more_scopes_than_its_owner(small: World) -> None:
    refused = small.browser("first").post(f"{V1}/tokens", json={"name": "up", "scopes": ["manage"]})
    assert refused.status_code == 403
    assert "not for the role rater" in error(refused)["reason"]


def test_a_removed_rater_is_out_in_every_way(small: World) -> None:
    """ASVS 7.4.2"""
    held(small, "first")
    admin = small.client("admin")
    assert admin.post(f"{V1}/raters/{small.ids['first']}/remove", json={}).json() == {"discarded": 0}
    assert small.client("first").post(f"{V1}/next").status_code == 401
    assert small.browser("first").post(f"{V1}/next").status_code == 401
    assert admin.post(f"{V1}/raters/{small.ids['first']}/remove", json={}).status_code == 404
    gone = next(one for one in admin.get(f"{V1}/raters").json() if one["id"] == small.ids["first"])
    assert (gone["name"], gone["status"]) == (None, "removed")


def test_nobody_removes_themselves(small: World) -> None:
    refused = small.client("admin").post(f"{V1}/raters/{small.ids['admin']}/remove", json={})
    assert (refused.status_code, error(refused)["kind"]) == (409, "conflict")


def test_removing_with_discard_asks_somebody_else(small: World) -> None:
    item = submitted(small, "first")
    removed = small.client("admin").post(f"{V1}/raters/{small.ids['first']}/remove", json={"discard": True})
    assert removed.json() == {"discarded": 1}
    assert held(small, "second")["messages"] == item["messages"]


def test_an_idle_session_ends(small: World) -> None:
    """ASVS 7.4.1"""
    browser = small.browser("first")
    for _ in range(3):  # used every 10 hours it stays
        small.clock.pass_(10 * 3_600_000)
        assert browser.get(f"{V1}/project").status_code == 200
    small.clock.pass_(12 * 3_600_000)
    assert browser.get(f"{V1}/project").status_code == 401


# One rater and the things of another


def test_an_item_is_there_only_for_those_who_were_shown_it(tmp_path: Path) -> None:
    """ASVS 8.2.2"""
    with world(tmp_path, overlap=2) as found:
        first, second = found.client("first"), found.client("second")
        item = submitted(found, "first")
        place = f"{V1}/items/{item['id']}"
        for response in (
            second.get(place),
            second.post(f"{place}/renew", json={}),
            second.post(f"{place}/run", json={"text": "SELECT 1"}),
            second.post(f"{V1}/judgements", json=choice(item)),
            second.post(f"{V1}/judgements", json=choice(item, kind="withdrawn", strength=None, revises=item["seq"])),
            first.get(f"{V1}/items/{found.items[0]}"),  # what the desk calls it
            first.get(f"{V1}/items/{'0' * 20}"),
        ):
            assert (response.status_code, error(response)["kind"]) == (404, "missing")
            assert "question" not in response.text
        assert first.get(place).json()["before"]["strength"] == 1
        own = held(found, "second")
        assert own["messages"] == item["messages"]
        assert own["id"] != item["id"]
        assert own["before"] is None


def test_somebody_elses_verdict_can_neither_be_read_nor_changed(tmp_path: Path) -> None:
    """ASVS 8.2.2"""
    with world(tmp_path, overlap=2) as found:
        second = found.client("second")
        item, mine = held(found, "first"), choice(held(found, "first"), comment="mine alone")
        seq = found.client("first").post(f"{V1}/judgements", json=mine).json()["seq"]
        own = held(found, "second")
        assert own["messages"] == item["messages"]
        for response in (
            second.post(f"{V1}/judgements", json=mine),  # the id of somebody else's submission
            second.post(f"{V1}/judgements", json=choice(own, revises=seq)),
            second.post(f"{V1}/judgements", json=choice(own, kind="withdrawn", strength=None, revises=seq)),
        ):
            assert response.status_code == 409, response.text
            assert "mine alone" not in response.text
        assert second.get(f"{V1}/judgements/mine").json() == {"judgements": [], "next": None}
        assert [row.comment for row in rows(found, sa.select(schema.judgement))] == ["mine alone"]


def test_somebody_elses_token_is_not_there(small: World) -> None:
    """ASVS 8.2.2"""
    theirs = small.browser("second").get(f"{V1}/tokens").json()[0]["id"]
    for client in (small.browser("first"), small.client("first"), small.client("reviewer")):
        refused = client.delete(f"{V1}/tokens/{theirs}")
        assert (refused.status_code, error(refused)["kind"]) == (404, "missing")
        assert theirs not in [one["id"] for one in client.get(f"{V1}/tokens").json()]
    assert small.client("second").get(f"{V1}/project").status_code == 200
    assert small.client("admin").delete(f"{V1}/tokens/{theirs}").status_code == 204
    assert small.client("second").get(f"{V1}/project").status_code == 401


# What a rater must never see


def test_no_byte_that_a_rater_receives_tells_who_wrote_what_or_what_is_hidden(tmp_path: Path) -> None:
    """ASVS 8.2.3: every answer of every route in a whole session with practice, hidden gold and repeats."""
    items = [new_item(place) for place in range(40)]
    items += [new_item(50 + i, "gold") for i in range(4)] + [new_item(60, "training")]
    options = {"gold_share": 0.3, "repeat_share": 0.3, "qualification": 0.5, "reveals": (POLICY,)}
    with world(tmp_path, items, **options) as found:
        found.service.writer.run(lambda c: c.execute(sa.update(schema.rater).values(qualified=False)))
        client, seen, receipts = found.client("first"), [], []

        def said(response: Any) -> Any:
            seen.append(str(response.headers).encode() + response.content)
            return response.json()

        while "nothing" not in (item := said(client.post(f"{V1}/next"))):
            said(client.get(f"{V1}/items/{item['id']}"))
            said(client.post(f"{V1}/items/{item['id']}/renew", json={}))
            best = 1 + 4 * (item["answers"][1]["index"] == 0)  # always answer 0
            receipts.append(said(client.post(f"{V1}/judgements", json=choice(item, best))))
            said(client.post(f"{V1}/judgements", json=choice(item)))
        said(client.get(f"{V1}/judgements/mine"))
        for method, path, body, _ in ROUTES:
            said(
                client.request(
                    method, V1 + path.format(item_id=items[0].id, rater_id=1, token_id=1, webhook_id=1), json=body
                )
            )
        judged = dict(
            rows(
                found,
                sa.select(schema.item.c.role, sa.func.count()).join(schema.judgement).group_by(schema.item.c.role),
            )
        )
        turns = {row.turn for row in rows(found, sa.select(schema.showing.c.turn))}
        assert (judged["item"] >= 40, judged["gold"], judged["training"], turns) == (True, 4, 1, {0, 1})
        hidden = {"turn", *found.items}
        hidden |= {POLICY, JUDGE, RESULT["identical_to"], "meta-that", "gold", "hidden-stratum", "0.125", "expected"}
        hidden |= {one.prompt.id for one in items} | {answer.id for one in items for answer in one.answers}
        hidden |= {f"because of {place}" for place in range(50, 54)}
        assert any(one.id in found.client("admin").get(f"{V1}/export/judgements").text for one in items[0].answers)
        for body in seen:
            for secret in hidden:
                assert secret.encode() not in body, (secret, body)
        practice, *others = receipts
        assert practice["feedback"] == {"right": True, "best": [0], "explanation": "because of 60"}
        assert {(one["state"], one["feedback"]) for one in others} == {("taken", None)}, (
            "hidden items say what others say"
        )


def test_a_hidden_item_and_a_repeat_have_the_fields_of_any_other(tmp_path: Path) -> None:
    items = [new_item(place) for place in range(14)] + [new_item(20, "gold")]
    with world(tmp_path, items, gold_share=0.5, repeat_share=0.5) as found:
        shapes = set()
        for _ in range(14):
            item = submitted(found, "first")
            shapes.add((tuple(item), tuple(item["answers"][0]), len(item["context"]), item["calibration"]))
        assert len(shapes) == 1


def test_a_reviewer_reads_the_log_without_names_and_without_who_wrote_what(small: World) -> None:
    submitted(small, "first")
    reviewer = small.client("reviewer")
    everything = "".join(reviewer.get(f"{V1}/{path}").text for path in ("progress", "export/judgements", "project"))
    assert POLICY not in everything
    assert '"first"' not in everything
    assert small.client("reviewer").get(f"{V1}/project").json()["settings"] is None  # `reveals` names models
    assert small.client("admin").get(f"{V1}/project").json()["settings"]["overlap"] == 1


# Judging


def test_the_order_is_the_same_whenever_it_is_asked(small: World) -> None:
    item = held(small, "first")
    assert held(small, "first") == item == small.client("first").get(f"{V1}/items/{item['id']}").json()
    (order,) = rows(small, sa.select(schema.showing.c.order))
    assert [answer["index"] for answer in item["answers"]] == order[0]
    assert [answer["text"] for answer in item["answers"]] == [f"answer {i} to question 0" for i in order[0]]


def test_equal_results_are_said_to_be_equal(tmp_path: Path) -> None:
    from dataclasses import replace

    alike = replace(new_item(0), results=(RESULT, RESULT))
    with world(tmp_path, [alike, new_item(1)]) as found:
        assert held(found, "first")["same_results"] is True
        submitted(found, "first")
        item = held(found, "first")
        assert (item["same_results"], item["answers"][0]["result"] is None) == (False, item["answers"][0]["index"] == 1)


def test_a_lease_is_renewed_until_it_has_ended(small: World) -> None:
    item, client = held(small, "first"), small.client("first")
    place = f"{V1}/items/{item['id']}/renew"
    small.clock.pass_(60_000)
    assert client.post(place).json() == {"expires": START + 16 * 60_000}
    small.clock.pass_(15 * 60_000)
    assert held(small, "second")["messages"] == item["messages"]  # taken back, given to another
    late = client.post(place, json={})
    assert (late.status_code, error(late)["kind"]) == (409, "conflict")
    assert client.post(f"{V1}/judgements", json=choice(item)).json()["state"] == "taken"
    assert [row.counted for row in rows(small, sa.select(schema.judgement))] == [False]  # surplus


@pytest.fixture
def games(tmp_path: Path) -> Path:
    path = tmp_path / "games.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (n INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(25)])
    return path


def test_a_correction_is_tried_on_the_database_of_the_answers(tmp_path: Path, games: Path) -> None:
    with world(tmp_path, sql=games) as found:
        item, client = held(found, "first"), found.client("first")
        place = f"{V1}/items/{item['id']}/run"

        def run(text: str) -> Any:
            return client.post(place, json={"text": text}).json()

        assert run("```sql\nSELECT COUNT(*) AS games, NULL FROM t\n```") == {
            "columns": ["games", "NULL"],
            "rows": [[25, None]],
            "count": 1,
            "error": None,
        }
        many = run("SELECT n FROM t ORDER BY n")
        assert (many["count"], many["rows"]) == (25, [[n] for n in range(20)])
        assert "no such table: players" in run("SELECT * FROM players")["error"]
        assert run("I do not know.")["error"] == "no SQL in this answer"
        for hostile in ("DELETE FROM t", "ATTACH 'x' AS y", "PRAGMA journal_mode = DELETE"):
            assert run(hostile)["error"]
        assert run("SELECT COUNT(*) FROM t")["rows"] == [[25]]
        assert rows(found, sa.select(schema.judgement)) == []  # nothing is kept


def test_one_query_of_a_person_at_a_time(tmp_path: Path, games: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go = threading.Event(), threading.Event()

    def slow(texts: Any, database: Path) -> list[QueryResult]:
        entered.set()
        assert go.wait(20)
        return [QueryResult() for _ in texts]

    monkeypatch.setattr(api_rating, "run_answers", slow)
    with world(tmp_path, sql=games) as found, served(found.app) as url, ThreadPoolExecutor(1) as other:
        place = f"{url}{V1}/items/{held(found, 'first')['id']}/run"
        headers = {"Authorization": f"Bearer {found.tokens['first']}"}
        first = other.submit(httpx2.post, place, json={"text": "SELECT 1"}, headers=headers)
        assert entered.wait(20)
        second = httpx2.post(place, json={"text": "SELECT 1"}, headers=headers)
        assert (second.status_code, error(second)["kind"]) == (409, "conflict")
        go.set()
        assert first.result(20).status_code == 200


def test_what_was_not_run_is_not_tried(tmp_path: Path, games: Path) -> None:
    with world(tmp_path, [replace(new_item(0), results=(None, None))], sql=games) as found:
        place = f"{V1}/items/{held(found, 'first')['id']}/run"
        assert found.client("first").post(place, json={"text": "SELECT 1"}).status_code == 404
    (tmp_path / "other").mkdir()
    with world(tmp_path / "other", sql=games) as found:
        place = f"{V1}/items/{held(found, 'first')['id']}/run"
        games.unlink()
        response = found.client("first").post(place, json={"text": "SELECT 1"})
        assert (response.status_code, "gone" in error(response)["reason"]) == (404, True)


def test_there_is_nothing_where_the_project_is_paused(small: World) -> None:
    admin = small.client("admin")
    body = {"state": "paused", "reason": "lunch"}
    assert admin.post(f"{V1}/project/state", json=body).json() == body
    assert held(small, "first") == {"nothing": "paused"}
    assert small.client("first").get(f"{V1}/project").json()["reason"] == "lunch"
    admin.post(f"{V1}/project/state", json={"state": "running"})
    assert "id" in held(small, "first")


def test_every_kind_of_verdict_sent_twice_is_one(small: World) -> None:
    """Promise 4 of the protocol: a double click or a retry is one vote."""
    client = small.client("first")

    def twice(body: dict[str, Any], state: str) -> int:
        first, second = (client.post(f"{V1}/judgements", json=body) for _ in range(2))
        assert (first.json()["state"], second.json()["state"]) == (state, "known")
        assert first.json()["seq"] == second.json()["seq"]
        return first.json()["seq"]

    item = held(small, "first")
    seq = twice(choice(item, 2, comment="hm", edits={"0": "better"}), "taken")
    seq = twice(choice(item, 5, revises=seq), "edited")
    twice(choice(item, kind="withdrawn", strength=None, revises=seq), "withdrawn")
    other = held(small, "first")
    twice(choice(other, kind="skip", strength=None, reason="ambiguous"), "skipped")
    assert [row.kind for row in rows(small, sa.select(schema.judgement))] == ["choice", "choice", "withdrawn", "skip"]


def test_a_ranking_with_ties_and_a_tail_comes_back_as_it_was_sent(tmp_path: Path) -> None:
    with world(tmp_path, [new_item(0, answers=4)], kind="ranking", objectives=("clear",)) as found:
        item = held(found, "first")
        body = choice(item, kind="ranking", strength=None, ranking=[[2], [0, 3]])
        assert found.client("first").post(f"{V1}/judgements", json=body).json()["state"] == "taken"
        assert found.client("first").post(f"{V1}/judgements", json=body).json()["state"] == "known"
        (own,) = found.client("first").get(f"{V1}/judgements/mine").json()["judgements"]
        assert (own["ranking"], own["strength"], own["revision"]) == ([[2], [0, 3]], None, 0)
        assert found.client("first").get(f"{V1}/items/{item['id']}").json()["before"]["ranking"] == [[2], [0, 3]]


def test_an_id_used_for_another_verdict_is_refused(small: World) -> None:
    body = choice(held(small, "first"))
    small.client("first").post(f"{V1}/judgements", json=body)
    other = small.client("first").post(f"{V1}/judgements", json=body | {"strength": 5})
    assert (other.status_code, error(other)["kind"]) == (409, "conflict")


def test_own_verdicts_are_paged(small: World) -> None:
    seqs = [submitted(small, "first")["seq"] for _ in range(5)]
    client, found, after = small.client("first"), [], 0
    while after is not None:
        page = client.get(f"{V1}/judgements/mine", params={"after": after, "limit": 2}).json()
        found += [one["seq"] for one in page["judgements"]]
        after = page["next"]
    assert found == seqs


# Running a project


def test_posting_the_same_items_again_adds_none(small: World) -> None:
    admin, other = small.client("admin"), {**POSTED, "answers": POSTED["answers"][::-1]}
    first = admin.post(f"{V1}/items", json={"items": [POSTED]}).json()
    assert first["added"] == 1
    assert admin.post(f"{V1}/items", json={"items": [POSTED]}).json() == {"added": 0, "ids": first["ids"]}
    assert admin.post(f"{V1}/items", json={"items": [other]}).json()["ids"] == first["ids"], "whatever their order"


def test_answers_are_numbered_by_their_content_and_known_ones_follow() -> None:
    texts = [f"answer {i}" for i in range(8)]
    posted = {"prompt": "?", "answers": [{"text": text} for text in texts], "role": "gold"}
    new = api_running.new_item(PostedItem(**posted, known={"best": [5, "tie"]}, expected={"best": 2, "judge": "j"}))
    assert [answer.text for answer in new.answers] != texts, "their place would tell who wrote them"
    assert new.answers[new.known["best"][0]].text == "answer 5"
    assert new.known["best"][1] == "tie"
    assert new.answers[new.expected["best"]].text == "answer 2"
    again = PostedItem(**posted | {"answers": [{"text": text} for text in texts[::-1]]}, known={"best": [2]})
    assert api_running.new_item(again).id == new.id


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": [{"text": "one"}]}, "at least 2"),
        ({"answers": [{"text": "one"}, {"text": "one "}]}, "the same text"),
        ({"answers": [{"text": t} for t in "abc"]}, "compares 2 answers, not 3"),
        ({"role": "gold"}, "have a known answer"),
        ({"known": {"best": [0]}}, "have a known answer"),
        ({"role": "gold", "known": {"best": [2]}}, "the answers are 0 to 1"),
        ({"expected": {"best": 7, "judge": "j"}}, "the answers are 0 to 1"),
        ({"prompt": [{"role": "user"}]}, "a role and a content"),
        ({"prompt": "a\0b"}, "NUL"),
        ({"unknown": 1}, "unknown"),
        ({"split": "validation"}, "split"),
    ],
)
def test_an_item_that_does_not_fit_is_refused_with_its_place(small: World, change: dict[str, Any], said: str) -> None:
    before = len(rows(small, sa.select(schema.item)))
    response = small.client("admin").post(f"{V1}/items", json={"items": [POSTED, POSTED | change]})
    assert response.status_code == 422
    assert said in error(response)["reason"]
    assert "items.1" in error(response)["reason"]
    assert len(rows(small, sa.select(schema.item))) == before


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_numbers_that_json_has_not_are_refused(small: World, number: str) -> None:
    for part in (
        f'"meta": {{"a": {number}}}',
        f'"answers": [{{"text": "a", "result": {{"rows": [[{number}]]}}}}, {{"text": "b"}}]',
    ):
        body = json.dumps({"items": [POSTED | {"split": "test"}]})[:-3] + f", {part}}}]}}"
        response = small.client("admin").post(f"{V1}/items", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422, response.text


def test_an_item_asked_again_is_open_again(small: World) -> None:
    item, true_id = submitted(small, "first"), small.items[0]
    admin = small.client("admin")
    assert admin.post(f"{V1}/items/{true_id}/requeue").json() == {"id": true_id}
    assert held(small, "second")["messages"] == item["messages"]
    assert admin.post(f"{V1}/items/{'0' * 20}/requeue").status_code == 404


def test_an_invitation_makes_one_account(small: World) -> None:
    response = small.client("admin").post(f"{V1}/invites", json={"role": "reviewer", "hours": 1})
    found, service = response.json(), small.service
    assert (response.status_code, found["expires"]) == (201, START + 3_600_000)
    assert found["url"] == f"http://127.0.0.1:8642/join#{found['token']}"
    with service.database.reading.connect() as connection:
        assert look_up_invite(connection, found["token"], START + 3_599_999).role == "reviewer"
        with pytest.raises(RefusedError, match="expired"):
            look_up_invite(connection, found["token"], START + 3_600_000)
    service.writer.run(lambda c: accept_invite(c, found["token"], "new", None, START))
    assert [one["name"] for one in small.client("admin").get(f"{V1}/raters").json()][-1] == "new"
    assert small.client("admin").post(f"{V1}/invites", json={"rater_id": 999}).status_code == 404


def test_the_log_comes_in_pages_and_whole_whatever_their_size(small: World) -> None:
    seqs = [submitted(small, "first", comment="line\u2028 of \u00fc\n")["seq"] for _ in range(4)]
    reader, found = small.client("reviewer"), []
    response = reader.get(f"{V1}/export/judgements")
    assert response.headers["content-type"] == "application/x-ndjson"
    whole = [json.loads(line) for line in response.text.split("\n")[:-1]]
    while page := reader.get(
        f"{V1}/export/judgements", params={"after": found[-1]["seq"] if found else 0, "limit": 3}
    ).text:
        found += [json.loads(line) for line in page.split("\n")[:-1]]
    assert found == whole
    assert [line["seq"] for line in whole] == seqs
    assert whole[0]["comment"] == "line\u2028 of \u00fc\n"
    with small.service.database.reading.connect() as connection:
        assert whole == read_exported(connection).log
    assert (whole[0]["rater"][:6], whole[0]["seconds"]) == ("rater-", 0)
    ids = {
        row.index: row.completion_id
        for row in rows(small, sa.select(schema.answer))
        if row.item_id == whole[0]["item_id"]
    }
    assert whole[0]["completion_ids"] == [ids[index] for index in whole[0]["order"]], "from left to right"


def test_the_log_crosses_its_reading_blocks(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_running, "_AT_ONCE", 2)
    seqs = [submitted(small, "first")["seq"] for _ in range(5)]
    for limit, wanted in ((10, seqs), (5, seqs), (4, seqs[:4]), (3, seqs[:3]), (1, seqs[:1])):
        text = small.client("admin").get(f"{V1}/export/judgements", params={"limit": limit}).text
        assert [json.loads(line)["seq"] for line in text.splitlines()] == wanted


# Hostile requests


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"\\ud800"',
        b'{"\\ud800": 1}',
        b'{"client_id": "\\ud800"}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"strength": ' + b"9" * 5000 + b"}",
        b'{"edits": {"' + b"9" * 5000 + b'": "x"}}',
    ],
)
def test_a_broken_body_gets_a_reason(whole: World, body: bytes) -> None:
    response = whole.client("first").post(
        f"{V1}/judgements", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code in (400, 422)
    assert error(response)["kind"] == "invalid"
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"edits": {"7": "x"}}, 422),
        ({"strength": 6}, 422),
        ({"strength": None}, 422),
        ({"kind": "ranking", "strength": None, "ranking": [[0, 1]]}, 422),
        ({"kind": "adjudication"}, 422),
        ({"turn": 0}, 422),
        ({"objectives": {"none": "left"}}, 422),
        ({"revises": 10**30}, 409),
        ({"revises": -1}, 409),
        ({"client_id": "1"}, 422),
        ({"client_id": str(uuid.UUID(int=2)) + "\n"}, 422),
        ({"item_id": "../project"}, 422),
        ({"policy": "x"}, 422),
        ({"comment": "x" * 20_001}, 422),
    ],
)
def test_a_verdict_that_does_not_fit_changes_nothing(small: World, change: dict[str, Any], status: int) -> None:
    item = held(small, "first")
    response = small.client("first").post(f"{V1}/judgements", json=choice(item) | change)
    assert response.status_code == status, response.text
    assert error(response)["reason"]
    assert rows(small, sa.select(schema.judgement)) == []
    assert held(small, "first") == item


@pytest.mark.parametrize(
    "path", [f"raters/{10**30}/remove", f"raters/-{2**63}/remove", "raters/0/remove", "raters/x/remove"]
)
def test_keys_that_no_row_has_are_refused(whole: World, path: str) -> None:
    assert whole.client("admin").post(f"{V1}/{path}", json={}).status_code == 422


@pytest.mark.parametrize(
    "path", ["none", "items", "items/../project", "items/%2e%2e/next", "next/", "items/" + "0" * 21]
)
def test_other_paths_have_the_same_shape_of_errors(whole: World, path: str) -> None:
    response = whole.client("first").get(f"{V1}/{path}", follow_redirects=False)
    assert response.status_code in (200, 307, 404, 405, 422)
    if response.status_code >= 400:
        assert error(response)["reason"]


def test_a_fault_of_the_server_tells_nothing_of_it(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of the database")

    monkeypatch.setattr("prefloop.annotation.queue.lease", broken)
    response = small.client("first").post(f"{V1}/next")
    assert (response.status_code, error(response)["kind"]) == (500, "failed")
    assert "secret" not in response.text


def test_what_could_not_be_saved_is_to_be_tried_again(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(self: Any, job: Any) -> None:
        raise StoreError("could not be saved: INSERT INTO judgement: disk full")

    monkeypatch.setattr(type(small.service), "write", full)
    response = small.client("first").post(f"{V1}/next")
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert "INSERT" not in response.text


# The whole schema


@pytest.fixture(scope="module")
def described(whole: World) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", whole.app)


CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.ignored_auth,
    checks.unsupported_method,
]
"""Not that all data of the right shape are accepted: most items that can be named are not there."""


@pytest.mark.parametrize(("method", "path"), [route[:2] for route in ROUTES], ids=[f"{m} {p}" for m, p, _, _ in ROUTES])
def test_whatever_is_asked_is_answered_as_described(whole: World, described: Any, method: str, path: str) -> None:
    async def look_up(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    @given(case=described[V1 + path][method].as_strategy())
    @settings(max_examples=12, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def each(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {whole.token('admin', *SCOPES['admin'])}"}  # cases revoke tokens
        case.call_and_validate(headers=headers, checks=CHECKS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(destinations, "look_up", look_up)
        each()


def test_a_project_in_postgresql_takes_and_gives_the_same(postgres: Postgres) -> None:
    hostile = "\u2028 \U0001f600 ' \" \\ %s :x \x7f \ufffe"
    posted = {
        "prompt": hostile,
        "answers": [{"text": hostile}, {"text": hostile + "2"}],
        "meta": {hostile: [1.5, "\0"]},
    }
    with world(postgres.create_database()) as found:
        admin, client = found.client("admin"), found.client("first")
        assert admin.post(f"{V1}/items", json={"items": [posted]}).json()["added"] == 1
        assert admin.post(f"{V1}/webhooks", json=HOOK).status_code == 201
        for _ in range(6):
            item = submitted(found, "first", comment="a\0b" + hostile, edits={"1": hostile})
        assert item["messages"][0]["content"] == hostile
        assert client.post(f"{V1}/next").json() == {"nothing": "done"}
        assert client.get(f"{V1}/judgements/mine").json()["judgements"][-1]["edits"] == {"1": hostile}
        lines = admin.get(f"{V1}/export/judgements").text.split("\n")[:-1]
        assert [json.loads(line)["comment"][1:] for line in lines] == ["b" + hostile] * 6
        assert len(admin.get(f"{V1}/webhooks/1/deliveries").json()["deliveries"]) == 6
        assert admin.get(f"{V1}/progress").json()["done"] == 6
        assert admin.post(f"{V1}/raters/{2**53}/remove", json={}).status_code == 404


# The client


def test_the_client_judges_a_project_to_its_end_over_a_real_server(small: World, tmp_path: Path) -> None:
    with served(small.app) as origin, AnnotationClient(origin, small.tokens["first"]) as client:
        assert client.project().kind == "pairwise"
        seqs = []
        while not isinstance(item := client.next(), Nothing):
            assert client.renew(item) == START + 15 * 60_000
            seqs.append(client.submit(item, "choice", strength=4, comment="über").seq)
        assert item.nothing == "done"
        assert [one.seq for one in client.judgements()] == seqs
        assert len(seqs) == 5
        with pytest.raises(ApiError, match="this needs the scope read") as refused:
            client.progress()
        assert (refused.value.status, refused.value.kind) == (403, "forbidden")
        with AnnotationClient(origin + "/", small.tokens["admin"]) as admin:
            assert admin.progress()["done"] == 5
            out = tmp_path / "log.jsonl"
            assert admin.export(out) == 5
            assert admin.export(out) == 0
            assert len(admin.add_items([{**POSTED, "prompt": f"{i}"} for i in range(250)]).ids) == 250
            admin.set_state("stopped", "enough")
        assert client.next() == Nothing(nothing="stopped")


def test_an_export_goes_on_where_it_was_cut(small: World, tmp_path: Path) -> None:
    for _ in range(3):
        submitted(small, "first")
    out = tmp_path / "log.jsonl"
    with served(small.app) as origin, AnnotationClient(origin, small.tokens["reviewer"]) as client:
        client.export(out)
        whole = out.read_bytes()
        for cut in (0, 1, len(whole) // 2, len(whole) - 1):
            out.write_bytes(whole[:cut])
            client.export(out)
            assert out.read_bytes() == whole
        out.write_text("something else\n")
        with pytest.raises(ConfigError, match="holds no judgements"):
            client.export(out)
        assert out.read_text() == "something else\n"


class Flaky:
    """A transport on which every answer is lost once, after the server has done its work."""

    def __init__(self, app: Any) -> None:
        import httpx2

        self.lost: set[bytes] = set()
        self.ids: list[str] = []
        flaky = self

        class Transport(httpx2.BaseTransport):
            def handle_request(self, request: httpx2.Request) -> httpx2.Response:
                body = request.read()
                response = app.request(
                    request.method, request.url.raw_path.decode(), content=body, headers=dict(request.headers)
                )
                if request.url.path.endswith("/judgements"):
                    flaky.ids.append(json.loads(body)["client_id"])
                if (key := request.url.path.encode() + body) not in flaky.lost:
                    flaky.lost.add(key)
                    raise httpx2.ReadError("connection lost")
                return httpx2.Response(response.status_code, content=response.content, headers=dict(response.headers))

        self.transport = Transport()


def test_the_client_sends_a_verdict_again_with_its_id_until_it_hears_of_it(small: World) -> None:
    flaky, waits = Flaky(small.client("first")), []
    client = AnnotationClient(
        "http://127.0.0.1:8642", small.tokens["first"], transport=flaky.transport, sleep=waits.append
    )
    receipt = client.submit(client.next(), "choice", strength=0)
    assert receipt.state == "known"
    assert len(flaky.ids) == 2
    assert len(set(flaky.ids)) == 1
    assert waits == [1.0, 1.0]
    assert len(rows(small, sa.select(schema.judgement))) == 1


def test_the_client_gives_up_after_growing_pauses_and_says_why() -> None:
    import httpx2

    waits: list[float] = []
    answers = iter(
        [httpx2.Response(503, headers={"Retry-After": "7"}), *[httpx2.Response(502, text="<h1>Bad gateway")] * 4]
    )
    transport = httpx2.MockTransport(lambda request: next(answers))
    with pytest.raises(ApiError, match="no answer of the annotation API: 502 '<h1>Bad gateway'"):
        AnnotationClient("http://server", "pf_x", transport=transport, sleep=waits.append).next()
    assert waits == [7.0, 2.0, 4.0, 8.0]

    def refuse(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    with pytest.raises(ApiError, match="server does not answer: refused"):
        AnnotationClient("http://server", "pf_x", transport=httpx2.MockTransport(refuse), sleep=waits.append).next()
    with pytest.raises(ConfigError, match="no web address"):
        AnnotationClient("server", "pf_x")


def test_what_is_refused_is_not_sent_again(small: World) -> None:
    with served(small.app) as origin, AnnotationClient(origin, small.tokens["first"]) as client:
        item = client.next()
        with pytest.raises(ApiError, match="strength") as refused:
            client.submit(item, "choice", strength=9)
        assert refused.value.status == 422


# The documentation


def test_the_documentation_names_every_route_and_event() -> None:
    text = (Path(__file__).parent.parent / "docs" / "annotation-api.md").read_text()
    table = set(re.findall(r"^\| `(\w+) (/\S*)` \| (\w+)", text, re.MULTILINE))
    assert table == {(method, path, scope or "any") for method, path, _, scope in ROUTES}
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", text)) >= set(EVENTS)


# Events (what is sent is tested in test_annotation_webhooks)


def test_the_schema_names_the_events(small: World) -> None:
    described = small.app.openapi()["components"]["schemas"]["NewWebhook"]["properties"]["events"]
    assert tuple(described["items"]["enum"]) == EVENTS

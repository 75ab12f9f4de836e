"""What the desk and one's own account can do: webhooks, tokens, removal that asks first, another password."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotation_app import START, new_item
from test_annotation_pages import GOOD, OWN, SCRIPT, Site, cookie_of, opened, with_password
from test_annotation_webhooks import Receiver

from prefloop.annotation import background, desk_access, throttle, webhooks
from prefloop.annotation.accounts import invite
from prefloop.annotation.courier import Courier

HOOK = {"url": "http://127.0.0.1:9/hook", "events": ["item.closed", "rater.removed"]}
OTHER = "another teapot 42 owls"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The desk asks for none: they are tested elsewhere, and take a process."""
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path) as found:
        yield found


def shown(page: str) -> str:
    """The secret that a page shows."""
    return re.search(r'<input readonly value="([^"]+)"', page)[1]


def main(page: str) -> str:
    return page.split("<main", 1)[1]


def log(site: Site) -> list[tuple[str, str, int | None]]:
    return [(row["what"], row["about"], row["rater_id"]) for row in site.stored()["event"]]


# Webhooks


def test_a_webhook_is_added_tested_and_removed(site: Site) -> None:
    """A real receiver gets the test event, signed with the secret that the page showed once."""
    admin = site.world.ids["admin"]
    with Receiver() as receiver:
        answer = site.post("/desk/webhooks", "admin", data=HOOK | {"url": receiver.url})
        assert answer.status_code == 200
        secret = shown(answer.text)
        assert [secret in site.get(path, "admin").text for path in ("/desk/webhooks", "/desk/webhooks/1")] == [0, 0]
        assert site.post("/desk/webhooks/1/test", "admin").headers["location"] == "/desk/webhooks/1"
        assert re.search(r"webhook\.test</td>.*?waiting</td>", site.get("/desk/webhooks/1", "admin").text)
        asyncio.run(_deliver(site))
        (got,) = receiver.got
        assert got.headers[webhooks.EVENT] == webhooks.TEST
        seconds = START // 1000
        assert webhooks.verify(secret, got.headers[webhooks.SIGNATURE], got.body, seconds=seconds)
        for path in ("/desk/webhooks", "/desk/webhooks/1"):
            assert "answered 200" in site.get(path, "admin").text
        assert site.post("/desk/webhooks/1/remove", "admin").headers["location"] == "/desk/webhooks"
    assert "None yet." in site.get("/desk/webhooks", "admin").text
    page = site.get("/desk/webhooks/1", "admin").text
    assert "it is sent nothing more" in page
    assert "<form" not in main(page)
    assert site.post("/desk/webhooks/1/test", "admin").status_code == 404
    assert site.post("/desk/webhooks/1/remove", "admin").status_code == 404
    assert log(site)[-2:] == [("webhook added", "webhook 1", admin), ("webhook removed", "webhook 1", admin)]


async def _deliver(site: Site) -> None:
    await Courier(site.world.service).once()


def test_a_test_goes_to_one_receiver_only(site: Site) -> None:
    for _ in range(2):
        site.post("/desk/webhooks", "admin", data=HOOK)
    site.post("/desk/webhooks/2/test", "admin")
    assert [(row["webhook_id"], row["event"]) for row in site.stored()["delivery"]] == [(2, "webhook.test")]
    assert webhooks.TEST not in webhooks.EVENTS  # nobody is told of somebody else's


def test_a_webhook_to_a_machine_inside_is_refused_and_its_address_kept_in_the_form(tmp_path: Path) -> None:
    """ASVS 1.3.6, as by the API."""
    with opened(tmp_path, origin="https://rate.example.org") as site:
        before = site.stored()
        for url in (
            "http://127.0.0.1:9/",
            "http://169.254.169.254/latest",
            "ftp://x.example/",
            "http://u:p@x.example/",
        ):
            answer = site.post("/desk/webhooks", "admin", data=HOOK | {"url": url})
            assert answer.status_code == 422
            assert 'role="alert"' in answer.text
            assert f'value="{url}"' in answer.text
        assert site.stored() == before


@pytest.mark.parametrize("fields", [{"url": HOOK["url"]}, {**HOOK, "events": ["everything"]}, {**HOOK, "more": "1"}])
def test_a_webhook_that_does_not_fit_is_refused(site: Site, fields: dict[str, Any]) -> None:
    before = site.stored()
    assert site.post("/desk/webhooks", "admin", data=fields).status_code == 422
    assert site.stored() == before


def test_deliveries_are_listed_newest_first_and_paged(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_access, "DELIVERIES", 2)
    site.post("/desk/webhooks", "admin", data=HOOK)
    for _ in range(5):
        site.post("/desk/webhooks/1/test", "admin")
    site.run(lambda c: webhooks.failed(c, 4, SCRIPT, START))
    path, counts, read = "/desk/webhooks/1", [], ""
    while path:
        page = main(site.get(path, "admin").text)
        read += page
        counts.append(page.count("<tr><td>"))
        older = re.search(r'href="([^"]*before=\d+)"', page)
        path = older[1] if older else ""
    assert counts == [2, 2, 1]
    assert "<script>alert" not in read
    assert "failed, will be tried again" in read


# Tokens


def test_people_make_tokens_of_their_own_with_no_more_than_their_role(site: Site) -> None:
    answer = site.post("/account/tokens", "first", data={"name": f"mine {SCRIPT}", "scopes": ["annotate"]})
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    secret = shown(answer.text)
    assert site.world.client(token=secret).post("/api/v1/next").status_code == 200
    page = site.get("/account", "first").text
    assert secret not in page
    assert "mine &#34;&gt;&lt;script&gt;" in page
    assert 'value="manage"' not in page
    before = site.stored()
    for scopes in (["read"], ["annotate", "manage"], []):
        answer = site.post("/account/tokens", "first", data={"name": "more", "scopes": scopes})
        assert answer.status_code == 422
    assert site.stored() == before


def test_own_tokens_are_revoked_and_those_of_others_are_not_there(site: Site) -> None:
    """ASVS 8.2.2."""
    secret = shown(site.post("/account/tokens", "first", data={"name": "script", "scopes": "annotate"}).text)
    key = max(row["id"] for row in site.stored()["token"])
    told = [site.post(f"/account/tokens/{number}/revoke", "second") for number in (key, 999)]
    assert [answer.status_code for answer in told] == [404, 404]
    assert site.world.client(token=secret).post("/api/v1/next").status_code == 200
    assert site.post(f"/account/tokens/{key}/revoke", "first").headers["location"] == "/account"
    assert site.world.client(token=secret).post("/api/v1/next").status_code == 401
    assert "script" not in main(site.get("/account", "first").text)


def test_an_admin_sees_and_revokes_everybodys_tokens(site: Site) -> None:
    page = main(site.get("/desk/tokens", "admin").text)
    assert [f"Revoke all of {name}" in page for name in ("admin", "reviewer", "first", "second")] == [True] * 4
    key = next(row["id"] for row in site.stored()["token"] if row["rater_id"] == site.world.ids["first"])
    assert site.post(f"/desk/tokens/{key}/revoke", "admin").headers["location"] == "/desk/tokens"
    assert site.world.client("first").post("/api/v1/next").status_code == 401
    assert site.world.client("second").post("/api/v1/next").status_code == 200
    assert "Revoke all of first" not in site.get("/desk/tokens", "admin").text


# Removing


def test_removal_is_asked_for_on_a_page_of_its_own_that_says_what_it_does(tmp_path: Path) -> None:
    with opened(tmp_path, [new_item(0), new_item(1)], overlap=1) as site:
        site.judged("second")
        before = site.stored(leases=False)
        rater = site.world.ids["second"]
        assert f'href="/desk/raters/{rater}/remove"' in site.get("/desk", "admin").text
        assert f'action="/desk/raters/{rater}/remove"' not in site.get("/desk", "admin").text
        page = main(site.get(f"/desk/raters/{rater}/remove", "admin").text)
        pseudonym = next(row["pseudonym"] for row in before["rater"] if row["id"] == rater)
        for said in ("Remove second?", pseudonym, "Their verdicts: 1<", "their 1 API token", 'value="false" checked'):
            assert said in page
        assert site.stored(leases=False) == before  # asking changes nothing
    with opened(tmp_path / "b") as site:
        assert "They have no verdicts." in site.get(f"/desk/raters/{site.world.ids['second']}/remove", "admin").text


@pytest.mark.parametrize(("discard", "counted"), [("false", True), ("true", False)])
def test_what_was_said_stays_or_no_longer_counts(site: Site, discard: str, counted: bool) -> None:
    site.judged("second")
    path = f"/desk/raters/{site.world.ids['second']}/remove"
    assert site.post(path, "admin", data={"discard": discard}).headers["location"] == "/desk"
    (row,) = site.stored()["judgement"]
    assert (row["current"], row["counted"]) == (True, counted)
    assert "second" not in [row["name"] for row in site.stored()["rater"]]
    after = site.stored()
    assert [site.get(path, "admin").status_code, site.post(path, "admin").status_code] == [404, 404]
    assert site.stored() == after


def test_nobody_is_asked_to_remove_themselves(site: Site) -> None:
    assert site.get(f"/desk/raters/{site.world.ids['admin']}/remove", "admin").status_code == 409


def test_the_desk_pauses_and_stops_with_a_reason(site: Site) -> None:
    for state in ("paused", "stopped"):
        site.post("/desk/state", "admin", data={"state": state, "reason": f"for {state} {SCRIPT}"})
        page = site.get("/judge", "first").text
        assert f"The project is {state}." in page
        assert f"for {state} &#34;&gt;&lt;script&gt;" in page
        assert '<button class="primary">Go on</button>' in site.get("/desk", "admin").text


# Another password


@pytest.fixture
def ada(site: Site) -> str:
    """A session of somebody with a password."""
    with_password(site)
    return cookie_of(site.post("/login", data={"name": "Ada", "password": GOOD}))[0]


def change(site: Site, who: str, old: str = GOOD, new: str = OTHER) -> Any:
    return site.post("/account/password", who, data={"old": old, "new": new})


def test_people_change_their_password_with_the_old_one(site: Site, ada: str) -> None:
    """ASVS 6.2.2, 6.2.3, 7.2.4 and 7.4.3: every other session ends, and this one gets a new secret."""
    elsewhere, _ = cookie_of(site.post("/login", data={"name": "Ada", "password": GOOD}))
    key = next(row["id"] for row in site.stored()["rater"] if row["name"] == "Ada")
    link = site.run(lambda c: invite(c, "rater", START, rater_id=key))
    answer = change(site, ada)
    assert answer.status_code == 200
    assert "Your password is changed." in answer.text
    fresh, attributes = cookie_of(answer)
    assert "httponly" in attributes
    assert "Ada" in site.get("/account", fresh).text
    for ended in (ada, elsewhere):
        assert site.get("/account", ended).headers["location"] == "/login"
    assert site.post("/login", data={"name": "Ada", "password": GOOD}).status_code == 403
    assert site.post("/login", data={"name": "Ada", "password": OTHER}).status_code == 303
    assert site.post("/join", data={"token": link, "password": GOOD}).status_code == 403  # an older link is void
    assert log(site)[-1] == ("password", "chosen anew with the old one", key)
    assert GOOD not in str(site.stored())
    assert OTHER not in str(site.stored())


def test_a_session_alone_changes_no_password(site: Site, ada: str) -> None:
    """ASVS 6.2.3: whoever sits down at somebody's browser does not know the old one; guesses are slowed down."""
    before = site.stored()
    answers = [change(site, ada, old=f"guess number {number}") for number in range(throttle.FREE + 1)]
    assert [answer.status_code for answer in answers] == [403] * throttle.FREE + [429]
    assert "the old password is wrong" in answers[0].text
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert all("set-cookie" not in answer.headers for answer in answers)
    assert change(site, ada).status_code == 429  # the right one has to wait as well
    assert site.post("/login", data={"name": "Ada", "password": GOOD}).status_code == 429  # one count for both doors
    after = site.stored()
    assert {name for name in after if after[name] != before[name]} == {"throttle"}
    site.world.clock.pass_(throttle.LONGEST_WAIT)
    assert change(site, ada).status_code == 200


@pytest.mark.parametrize("new", ["short", "password-password", "trustno1trustno1", "my annotation 4711 x", GOOD])
def test_a_new_password_that_will_not_do_is_refused_and_is_no_guess(site: Site, ada: str, new: str) -> None:
    before = site.stored()
    answer = change(site, ada, new=new)
    assert answer.status_code == 403
    assert 'role="alert"' in answer.text
    assert site.stored() == before


def test_who_comes_in_by_links_has_no_password_to_change(site: Site) -> None:
    page = site.get("/account", "first").text
    assert 'action="/account/password"' not in page
    before = site.stored()
    assert "has no password" in change(site, "first").text
    assert site.stored() == before


def test_the_form_is_masked_and_helps_password_managers(site: Site, ada: str) -> None:
    """ASVS 6.2.6 and 6.2.7."""
    page = site.get("/account", ada).text
    fields = dict(re.findall(r'name="(old|new)" type="password" autocomplete="([a-z-]+)"', page))
    assert fields == {"old": "current-password", "new": "new-password"}


def test_programs_change_no_password(site: Site, ada: str) -> None:
    token = site.world.tokens["admin"]
    headers = OWN | {"Authorization": f"Bearer {token}"}
    answer = site.post("/account/password", headers=headers, data={"old": GOOD, "new": OTHER})
    assert answer.headers["location"] == "/login"

"""Attacks on the pages: other sites, other people's items, hostile forms and paths; and what every page must have."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_app import JUDGE, PEOPLE, POLICY, START, Clock, World, choice, new_item, world
from annotation_server import new_item as plain_item
from annotation_server import serving
from argon2 import PasswordHasher
from starlette.testclient import TestClient

from prefloop.annotation import (
    accounts,
    background,
    desk,
    desk_access,
    pages,
    pages_account,
    pages_doors,
    passwords,
    schema,
    signing_in,
)
from prefloop.annotation.accounts import create_rater, invite, session_person
from prefloop.annotation.app import create_app
from prefloop.annotation.guards import BODY_LIMIT, session_cookie
from prefloop.config.annotation import AnnotationConfig

OWN = {"Sec-Fetch-Site": "same-origin"}
ELSEWHERE = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8642"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {},
)
GOOD = "glacier teapot 41 owls"
SCRIPT = '"><script>alert(1)</script>'
HEADERS = ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Permissions-Policy")
ROUTES = {
    (method, route.path): route.endpoint.__name__
    for part in (pages_doors, pages, pages_account, desk, desk_access)
    for route in part.router.routes
    for method in route.methods
}
LOWEST = {
    ("GET", "/desk"): "admin",
    ("POST", "/desk/state"): "admin",
    ("POST", "/desk/invite"): "admin",
    ("POST", "/desk/raters/{rater_id}/link"): "admin",
    ("GET", "/desk/raters/{rater_id}/remove"): "admin",
    ("POST", "/desk/raters/{rater_id}/remove"): "admin",
    ("GET", "/desk/webhooks"): "admin",
    ("POST", "/desk/webhooks"): "admin",
    ("GET", "/desk/webhooks/{webhook_id}"): "admin",
    ("POST", "/desk/webhooks/{webhook_id}/test"): "admin",
    ("POST", "/desk/webhooks/{webhook_id}/remove"): "admin",
    ("GET", "/desk/tokens"): "admin",
    ("POST", "/desk/tokens/{token_id}/revoke"): "admin",
    ("POST", "/desk/items/{item_id}/requeue"): "reviewer",
    ("POST", "/desk/items/{item_id}/settle"): "reviewer",
    ("GET", "/desk/disagreements"): "reviewer",
    ("GET", "/desk/items/{item_id}"): "reviewer",
}
"""The lowest role that a page of the desk is for."""
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


class Site:
    """The whole app with one client for everybody: who asks is said by the cookie of each request."""

    def __init__(self, found: World, client: TestClient) -> None:
        self.world, self._client = found, client
        self.cookie = session_cookie(found.service.address)[0]

    def ask(self, method: str, path: str, who: str | None = None, headers: Any = OWN, **sent: Any) -> Any:
        """One request, redirects not followed; `who` is a name, or a session's token."""
        self._client.cookies.clear()
        token = self.world.sessions.get(who, who) if who else None
        cookie = {"Cookie": f"{self.cookie}={token}"} if token else {}
        return self._client.request(method, path, headers={**headers, **cookie}, follow_redirects=False, **sent)

    def get(self, path: str, who: str | None = None, **sent: Any) -> Any:
        return self.ask("GET", path, who, **sent)

    def post(self, path: str, who: str | None = None, **sent: Any) -> Any:
        return self.ask("POST", path, who, **sent)

    def run(self, job: Callable[..., Any]) -> Any:
        return self.world.service.writer.run(job)

    def judged(self, name: str, strength: int = 1) -> dict[str, Any] | None:
        """Somebody takes the next item and judges it; None where there is none."""
        item = self.post("/api/v1/next", name).json()
        if "nothing" in item:
            return None
        assert self.post("/api/v1/judgements", name, json=choice(item, strength)).status_code == 200
        return item

    def path(self, route: str) -> str:
        """A route with this world's first item, and a person whom nothing needs."""
        keys = {"item_id": self.world.items[0], "rater_id": str(self.world.ids["second"])}
        keys |= {"webhook_id": "1", "token_id": "1"}
        return route.format(**keys)

    def stored(self, *, leases: bool = True) -> dict[str, list[Any]]:
        """Every row of every table; without leases as if nobody held anything."""
        with self.world.service.database.reading.connect() as connection:
            found = {
                table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
                for table in schema.metadata.sorted_tables
            }
        if not leases:
            found["showing"] = []
            found["item"] = [row | {"leased": 0} for row in found["item"]]
        return found


@contextmanager
def opened(place: Path, *given: Any, **settings: Any) -> Iterator[Site]:
    with world(place, *given, **settings) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))  # cheap
        client = TestClient(create_app(found.service), found.service.address.origin, raise_server_exceptions=False)
        with client:
            yield Site(found, client)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The desk asks for none: they are tested elsewhere, and take a process."""
    monkeypatch.setattr(background, "COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(tmp_path) as found:
        yield found


def with_password(site: Site, name: str = "Ada") -> None:
    key = site.run(lambda c: create_rater(c, name, "rater", passwords.HASHER.hash(GOOD), START))
    assert key


def link(site: Site, role: str = "rater") -> str:
    return site.run(lambda c: invite(c, role, START))


# Other sites


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_no_other_site_changes_anything(site: Site, headers: dict[str, str]) -> None:
    """ASVS 3.5.1: every form of every page, signed in as the person who may do all."""
    before = site.stored()
    fields = {"name": "Eve", "password": GOOD, "token": link(site), "state": "stopped", "role": "admin"}
    before = site.stored()
    for method, route in ROUTES:
        if method == "POST":
            answer = site.post(site.path(route), "admin", headers=headers, data=fields)
            assert answer.status_code == 403, route
            assert "set-cookie" not in answer.headers, route
    assert site.stored() == before


def test_a_page_that_is_only_read_changes_nothing_but_who_holds_the_next_item(site: Site) -> None:
    """ASVS 3.5.3: other sites can make a browser open a page; the guards look at changes alone."""
    before = site.stored(leases=False)
    for who in ("admin", "reviewer", "first"):
        for method, route in ROUTES:
            if method == "GET":
                assert site.get(site.path(route), who, headers={"Sec-Fetch-Site": "cross-site"}).status_code < 500
    assert site.stored(leases=False) == before


def test_nobody_is_signed_out_by_a_link(site: Site) -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert site.ask(method, "/logout", "first").status_code == 405
    assert site.get("/mine", "first").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/",
        "//evil.example/%2e%2e",
        "/%5cevil.example/",
        "/desk//evil.example",
        "/desk/",
        "/static",
        "/login?next=https://evil.example",
        "/judge/last?before=1&next=//evil.example",
        "/judge/last/",
    ],
)
def test_no_redirect_leads_elsewhere(site: Site, path: str) -> None:
    origin = site.world.service.address.origin
    for who in (None, "first", "admin"):
        place = site.get(origin + path, who).headers.get("location", "/")
        assert re.match(r"/(?![/\\])", place.removeprefix(origin)), place


def test_signing_in_leads_to_the_own_pages_whatever_the_form_says(site: Site) -> None:
    with_password(site)
    answer = site.post("/login?next=//evil.example", data={"name": "Ada", "password": GOOD, "next": "//evil.example"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


# Who may do what


def test_the_table_has_every_page_of_the_desk() -> None:
    assert LOWEST.keys() == {key for key in ROUTES if key[1].startswith("/desk")}


@pytest.mark.parametrize("route", LOWEST, ids=" ".join)
def test_a_page_of_the_desk_is_for_its_roles_alone(site: Site, route: tuple[str, str]) -> None:
    """ASVS 8.2.1: a refusal changes nothing, and says nothing of the project."""
    method, path = route
    allowed = {"admin": ("admin",), "reviewer": ("reviewer", "admin")}[LOWEST[route]]
    fields = {"state": "paused", "role": "rater"} if method == "POST" else None
    for name in (None, *PEOPLE):
        if PEOPLE.get(name) in allowed:
            continue
        before = site.stored()
        answer = site.ask(method, site.path(path), name, data=fields)
        if name is None:
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")
        else:
            assert answer.status_code == 403
            assert "question" not in answer.text
        assert site.stored() == before


def test_every_other_page_but_the_doors_is_for_those_signed_in(site: Site) -> None:
    doors = {"/login", "/join", "/logout"}
    for method, route in ROUTES:
        if route not in doors:
            answer = site.ask(method, site.path(route))
            assert (answer.status_code, answer.headers["location"]) == (303, "/login"), route
    assert site.get("/mine", "x" * 43).headers["location"] == "/login"
    assert site.get("/mine", site.world.tokens["admin"]).headers["location"] == "/login"  # programs have no pages


def test_an_item_is_there_only_for_those_who_were_shown_it(site: Site) -> None:
    """ASVS 8.2.2: somebody else's item sounds like one that never was."""
    shown = site.judged("first")
    told = set()
    for item in (shown["id"], "0" * 20, "%00", "<b>x<i>", "a" * 5000):
        answer = site.get(f"/judge/{item}", "second")
        assert answer.status_code == 404
        told.add(re.sub(r"Sign out.*?</form>", "", answer.text))
    assert len(told) == 1
    assert site.get(f"/judge/{shown['id']}", "first").status_code == 200
    assert site.get(f"/judge/{site.world.items[0]}", "first").status_code == 404  # what the desk calls it
    assert site.get("/judge/last", "second").headers["location"] == "/judge"
    assert site.get("/judge/last?before=999", "second").headers["location"] == "/judge"
    assert shown["id"] not in site.get("/mine", "second").text


def test_gold_is_not_among_the_items_to_settle(tmp_path: Path) -> None:
    items = [new_item(0), new_item(1, "gold"), new_item(2, "training")]
    with opened(tmp_path, items) as site:
        answers = [site.get(f"/desk/items/{one.id}", "reviewer").status_code for one in items]
        assert answers == [200, 404, 404]


def test_who_was_removed_sees_no_further_page(site: Site) -> None:
    """ASVS 7.4.2."""
    assert site.post(site.path("/desk/raters/{rater_id}/remove"), "admin").status_code == 303
    for path in ("/judge", "/mine", "/"):
        assert site.get(path, "second").headers["location"] == "/login"


def test_a_reviewer_reads_verdicts_without_names_and_without_who_wrote_what(tmp_path: Path) -> None:
    with opened(tmp_path, [new_item(0)], overlap=2) as site:
        for name, strength in (("first", 1), ("second", 5)):
            assert site.judged(name, strength)
        page = site.get(site.path("/desk/items/{item_id}"), "reviewer").text
        assert "Rater A" in page
        assert "Rater B" in page
        main = page.split("<main", 1)[1]
        hidden = (POLICY, JUDGE, "nobody-may-see", "first", "second", "rater-", "hidden-stratum")
        assert [text for text in hidden if text in main] == []


def test_no_page_tells_a_rater_who_wrote_what_or_what_is_known(tmp_path: Path) -> None:
    items = [new_item(place, role) for place, role in enumerate(["item", "gold"] * 4)]
    secret = [POLICY, JUDGE, "nobody-may-see", "hidden-stratum", "hash-that-stays-here", "0.125", "because of"]
    secret += [completion.id for one in items for completion in one.answers] + [one.id for one in items]
    with opened(tmp_path, items, gold_share=0.5) as site:
        read = []
        while True:
            read.append(site.get("/judge", "first").text)
            if site.judged("first") is None:
                break
            read += [site.get(path, "first").text for path in ("/mine", "/")]
            read.append(site.get(site.get("/judge/last", "first").headers["location"], "first").text)
    assert len(read) > 8 * 2
    assert [text for text in secret for page in read if text in page] == []


def test_progress_does_not_tell_a_lone_rater_which_items_were_gold(tmp_path: Path) -> None:
    items = [new_item(place, role) for place, role in enumerate(["item"] * 6 + ["gold"] * 6)]
    with opened(tmp_path, items, gold_share=0.5) as site:
        while site.judged("first"):
            page = site.get("/judge", "first").text
            assert "in all" not in page  # it would stand still after a gold item
            assert "<progress" not in page


def test_nobody_removes_themselves(site: Site) -> None:
    assert site.post(f"/desk/raters/{site.world.ids['admin']}/remove", "admin").status_code == 409
    assert site.get("/desk", "admin").status_code == 200


def test_an_invitation_is_shown_once_and_makes_one_account(site: Site) -> None:
    answer = site.post("/desk/invite", "admin", data={"role": "reviewer"})
    assert answer.status_code == 200
    token = re.search(r"/join#([\w-]{43})", answer.text)[1]
    assert token not in str(site.stored())
    assert token not in site.get("/desk", "admin").text
    joined = site.post("/join", data={"token": token, "name": "Ada", "password": GOOD})
    assert joined.headers["location"] == "/judge"
    assert site.post("/join", data={"token": token, "name": "Bob", "password": GOOD}).status_code == 403


def test_who_forgot_a_password_gets_a_link_and_chooses_it_alone(site: Site) -> None:
    """ASVS 6.4.1: the link works once; what it changes ends the sessions of the account."""
    with_password(site)
    old, _ = cookie_of(site.post("/login", data={"name": "Ada", "password": GOOD}))
    key = next(row["id"] for row in site.stored()["rater"] if row["name"] == "Ada")
    tokens = []
    for _ in range(2):
        page = site.post(f"/desk/raters/{key}/link", "admin").text
        tokens.append(re.search(r"/join#([\w-]{43})", page)[1])
    first, second = tokens
    fresh = {"name": "somebody else", "password": "another teapot 42 owls"}
    assert site.post("/join", data=fresh | {"token": first}).status_code == 403  # the second took its place
    assert site.post("/join", data=fresh | {"token": second, "password": "short"}).status_code == 403
    assert "Ada" in site.get("/mine", old).text
    new, _ = cookie_of(site.post("/join", data=fresh | {"token": second}))
    assert "Ada" in site.get("/mine", new).text
    assert site.get("/mine", old).headers["location"] == "/login"
    assert site.post("/login", data={"name": "Ada", "password": GOOD}).status_code == 403
    assert site.post("/join", data=fresh | {"token": second}).status_code == 403


# Sessions


def cookie_of(answer: Any) -> tuple[str, set[str]]:
    """Value and attributes of the one cookie that is set."""
    (line,) = answer.headers.get_list("set-cookie")
    first, *attributes = (part.strip().lower() for part in line.split(";"))
    return line.split(";")[0].split("=", 1)[1], {first.split("=")[0], *attributes}


@pytest.mark.parametrize("origin", ["http://127.0.0.1:8642", "https://rate.example.org"])
@pytest.mark.parametrize("door", ["/login", "/join"])
def test_the_sessions_cookie(tmp_path: Path, origin: str, door: str) -> None:
    """ASVS 3.3.1 to 3.3.4: the secret is in the cookie alone."""
    with opened(tmp_path, origin=origin) as site:
        with_password(site)
        given = {"/login": {"name": "Ada", "password": GOOD}, "/join": {"name": "Bob", "password": GOOD}}[door]
        answer = site.post(door, data=given if door == "/login" else given | {"token": link(site)})
        token, attributes = cookie_of(answer)
        bound = {"__host-prefloop", "secure"} if origin.startswith("https") else {"prefloop-8642"}
        assert attributes == bound | {"httponly", "samesite=lax", "path=/", f"max-age={30 * 24 * 3600}"}
        assert re.fullmatch(r"[\w-]{43}", token)
        assert token not in answer.text
        assert all(token not in site.get(path, token).text for path in ("/judge", "/mine", "/"))


def test_a_planted_session_is_not_taken_over(site: Site) -> None:
    """ASVS 7.2.4: neither a made-up cookie nor somebody else's becomes the session of who signs in."""
    with_password(site)
    made_up = "A" * 43
    for planted in (made_up, "second"):
        answer = site.post("/login", planted, data={"name": "Ada", "password": GOOD})
        token, _ = cookie_of(answer)
        assert token not in (made_up, site.world.sessions["second"])
        assert "Ada" in site.get("/mine", token).text
        assert site.get("/mine", planted).headers["location"] == "/login"


def test_joining_ends_the_session_before(site: Site) -> None:
    answer = site.post("/join", "second", data={"token": link(site), "name": "Ada", "password": GOOD})
    assert answer.status_code == 303
    assert site.get("/mine", "second").headers["location"] == "/login"


def test_signing_out_ends_the_session_and_takes_the_cookie_back(site: Site) -> None:
    """ASVS 7.4.1: the cookie that somebody kept is worth nothing."""
    answer = site.post("/logout", "first")
    value, attributes = cookie_of(answer)
    assert (value, answer.headers["location"]) == ('""', "/login")
    assert {"max-age=0", "httponly", "path=/"} <= attributes
    assert site.get("/mine", "first").headers["location"] == "/login"
    assert site.post("/logout").headers["location"] == "/login"  # without a session nothing happens


def test_every_page_of_a_person_has_a_way_out(site: Site) -> None:
    """ASVS 7.4.4."""
    read = ["/judge", "/mine", "/desk", "/desk/disagreements", site.path("/desk/items/{item_id}"), "/welcome"]
    for path in read:
        assert 'action="/logout"' in site.get(path, "admin").text, path


def test_passwords_are_masked_and_may_be_pasted(site: Site) -> None:
    """ASVS 6.2.6 and 6.2.7."""
    for path, helper in (("/login", "current-password"), ("/join", "new-password")):
        (field,) = re.findall(r'<input name="password"[^>]*>', site.get(path).text)
        assert 'type="password"' in field
        assert f'autocomplete="{helper}"' in field
    assert "paste" not in (pages.HERE / "static" / "annotate.js").read_text()


def test_the_wrong_name_and_the_wrong_password_sound_the_same(site: Site) -> None:
    with_password(site)
    told = {
        site.post("/login", data={"name": name, "password": "wrong password of mine"}).text.replace(name, "NAME")
        for name in ("Ada", "Bob")
    }
    assert len(told) == 1


def test_guessing_is_slowed_down_whatever_the_headers_say_of_the_sender(site: Site) -> None:
    """ASVS 6.3.1: addresses in headers are somebody's claim; only a proxy that was named is believed."""
    with_password(site)
    for number in range(6):
        claim = OWN | {"X-Forwarded-For": f"203.0.113.{number}", "X-Real-IP": f"203.0.113.{number}"}
        answer = site.post("/login", headers=claim, data={"name": "Ada", "password": "guess"})
    assert "too many failed attempts" in answer.text
    answer = site.post("/login", data={"name": "Ada", "password": GOOD})
    assert "set-cookie" not in answer.headers


def test_a_throttled_sign_in_says_when_to_try_again(site: Site) -> None:
    with_password(site)
    answers = [site.post("/login", data={"name": "Ada", "password": "guess"}) for _ in range(6)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_an_invitation_in_the_query_is_not_read(site: Site) -> None:
    """ASVS 14.2.1: secrets stand in the link's fragment or the form, never in what servers log."""
    token = link(site)
    page = site.get(f"/join?token={token}").text
    assert token not in page
    assert site.post(f"/join?token={token}", data={"name": "Ada", "password": GOOD}).status_code == 422


# Hostile input


def pieces() -> Iterable[bytes]:
    yield from [b"x" * 65536] * (BODY_LIMIT // 65536 + 1)


READERS = ("/login", "/join", "/desk/state", "/desk/invite", "/desk/raters/{rater_id}/remove")
READERS = (*READERS, "/desk/items/{item_id}/settle", "/desk/webhooks", "/account/password", "/account/tokens")
FORM = OWN | {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("route", READERS)
def test_large_bodies_are_refused_on_every_form(site: Site, route: str, chunked: bool) -> None:
    """ASVS 5.2.1: whether or not the request says how long it is."""
    before = site.stored()
    sent = pieces() if chunked else b"x" * (BODY_LIMIT + 1)
    assert site.post(site.path(route), "admin", headers=FORM, content=sent).status_code == 413
    assert site.stored() == before


def test_what_is_refused_as_too_large_is_not_done(site: Site) -> None:
    before = site.stored()
    for method, route in ROUTES:
        if method == "POST":
            answer = site.post(site.path(route), "admin", headers=FORM, content=b"x" * (BODY_LIMIT + 1))
            assert answer.status_code == 413
    assert site.stored() == before


@pytest.mark.parametrize(
    "name", ["Ada\r\nSet-Cookie: prefloop=eve", "Ada\nX-Evil: 1", "a\u202eb", "\x00", " ", "x" * 81]
)
def test_a_name_reaches_no_header_and_hides_nothing(site: Site, name: str) -> None:
    before = link(site)
    for path, sent in (
        ("/login", {"name": name, "password": GOOD}),
        ("/join", {"name": name, "password": GOOD, "token": before}),
    ):
        answer = site.post(path, data=sent)
        assert answer.status_code == 403
        assert not {"set-cookie", "x-evil"} & set(answer.headers)
    assert site.post("/join", data={"name": "Ada", "password": GOOD, "token": before}).status_code == 303


def test_what_was_sent_comes_back_as_text_on_every_error(site: Site) -> None:
    """ASVS 1.2.1: forms, paths and queries."""
    answers = [
        site.get(f"/judge/{SCRIPT}", "first"),
        site.get("/judge/last", "first", params={"before": SCRIPT}),
        site.get(f"/desk/items/{SCRIPT}", "reviewer"),
        site.get(f"/{SCRIPT}"),
        site.post("/login", data={"name": SCRIPT, "password": "x"}),
        site.post("/join", data={"name": SCRIPT, "password": GOOD, "token": SCRIPT}),
        site.post("/join", data={"name": SCRIPT, "password": "short", "token": link(site)}),
        site.post("/desk/state", "admin", data={"state": SCRIPT}),
        site.post("/desk/invite", "admin", data={"role": SCRIPT}),
        site.post(f"/desk/raters/{SCRIPT}/remove", "admin"),
        site.post(f"/desk/items/{SCRIPT}/requeue", "reviewer"),
        site.get(f"/desk/raters/{SCRIPT}/remove", "admin"),
        site.get(f"/desk/webhooks/{SCRIPT}", "admin"),
        site.post("/desk/webhooks", "admin", data={"url": SCRIPT, "events": "item.closed"}),
        site.post("/desk/webhooks", "admin", data={"url": "http://a/", "events": SCRIPT}),
        site.post("/account/tokens", "admin", data={"name": f"\x00{SCRIPT}", "scopes": "read"}),
        site.post("/account/tokens", "admin", data={"name": "a", "scopes": SCRIPT}),
        site.post("/account/password", "admin", data={"old": SCRIPT, "new": SCRIPT}),
    ]
    assert all(400 <= answer.status_code < 500 for answer in answers)
    assert [answer.url.path for answer in answers if "<script>alert" in answer.text] == []
    assert all("Traceback" not in answer.text for answer in answers)


def test_what_people_wrote_is_text_on_every_page(tmp_path: Path) -> None:
    """Names, reasons, comments, objectives and the project's name, on the pages of all who read them."""
    settings = {"name": f"P{SCRIPT}", "objectives": (f"O{SCRIPT}",), "overlap": 2}
    with opened(tmp_path, [new_item(0)], **settings) as site:
        token = site.run(lambda c: invite(c, "rater", START))
        joined = site.post("/join", data={"token": token, "name": f"N{SCRIPT}", "password": GOOD})
        eve, _ = cookie_of(joined)
        item = site.post("/api/v1/next", eve).json()
        site.post("/api/v1/judgements", eve, json=choice(item, comment=f"C{SCRIPT}", edits={"0": f"E{SCRIPT}"}))
        read = [site.get(path, eve) for path in ("/mine", f"/judge/{item['id']}")]
        read += [site.get("/judge", "first")]
        site.post("/desk/state", "admin", data={"state": "paused", "reason": f"R{SCRIPT}"})
        read += [site.get("/judge", "first"), site.get("/desk", "admin")]
        read += [site.get(site.path("/desk/items/{item_id}"), "reviewer")]
        assert [answer.status_code for answer in read] == [200] * 6
        whole = "".join(answer.text for answer in read)
        assert "<script>alert" not in whole
        assert all(f"{letter}&#34;&gt;&lt;script&gt;" in whole for letter in "PONCER")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../pages.py",
        "/static/%2e%2e/pages.py",
        "/static/..%2fpages.py",
        "/static/%2e%2e%2f%2e%2e%2fconfig%2fannotation.py",
        "/static/....//pages.py",
        "/static/..%5cpages.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/annotate.js%00.css",
        "/static/../templates/desk.html",
        "/static/",
        "/templates/desk.html",
        "/.git/config",
        "/annotation.db",
        "/docs",
        "/redoc",
        "/openapi.json",
    ],
)
def test_no_file_but_the_apps_own_is_served(site: Site, path: str) -> None:
    """ASVS 13.4.1 and 13.4.3: no source, no template, no database, no listing."""
    answer = site.get(site.world.service.address.origin + path)
    assert answer.status_code == 404
    assert not re.search(r"\bimport\b|\{%|root:", answer.text)


BAD_FORMS = (
    {},
    {"id": "x", "strength": "1"},
    {"strength": "much"},
    {"strength": "9"},
    {"place-x": "1"},
    {"place-0": "²"},
    {"place-0": "9" * 5000},
    {"strength": "1", "comment": "x" * 20_001},
)


@pytest.mark.parametrize("fields", BAD_FORMS, ids=lambda fields: str(fields)[:40])
def test_a_form_of_the_desk_that_does_not_fit_is_refused(site: Site, fields: dict[str, str]) -> None:
    sent = {"id": "0b9c53ba-9d7f-4a53-8d3c-1f2d3c4b5a69"} | fields if fields else {}
    before = site.stored()
    assert site.post(site.path("/desk/items/{item_id}/settle"), "reviewer", data=sent).status_code == 422
    assert site.stored() == before


@pytest.mark.parametrize("path", ["/judge/%s", "/judge/last?before=%s", "/desk/raters/%s/remove"])
def test_numbers_that_no_row_has_are_refused(site: Site, path: str) -> None:
    method = "POST" if path.endswith("remove") else "GET"
    answer = site.ask(method, site.path(path) % 2**70, "admin")
    assert answer.status_code < 500


def test_only_the_beginning_of_a_name_is_looked_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Composing n accents after one letter takes n² steps, on the event loop, before anybody has signed in."""
    lengths: list[int] = []
    whole = accounts.name_key

    def measured(name: str) -> str:
        lengths.append(len(name))
        return whole(name[: accounts.NAME])

    for module in (accounts, signing_in):
        monkeypatch.setattr(module, "name_key", measured)
    site.post("/login", data={"name": "a" + "\u0301\u0323" * 10_000, "password": GOOD})
    assert max(lengths, default=0) <= 1000


@pytest.mark.parametrize(("codec", "field"), [("unicode_escape", rb"\ud800"), ("punycode", b"a-bcd0"), ("idna", b"a")])
def test_no_form_chooses_how_its_text_is_read(site: Site, codec: str, field: bytes) -> None:
    parts = [b"--x\r\nContent-Disposition: form-data; name=%b\r\n\r\n%b\r\n" % pair for pair in _fields(field)]
    kind = OWN | {"Content-Type": f"multipart/form-data; boundary=x; charset={codec}"}
    assert site.post("/login", headers=kind, content=b"".join(parts) + b"--x--\r\n").status_code == 415


def _fields(field: bytes) -> tuple[tuple[bytes, bytes], ...]:
    return (b'"name"', field), (b'"password"', b"x")


def test_a_fault_of_the_server_tells_nothing_of_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret-of-the-server")

    monkeypatch.setattr(pages, "last_verdict", broken)
    answer = site.get("/judge/last", "first")
    assert answer.status_code == 500
    assert "secret-of-the-server" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["cache-control"] == "no-store"


# What every answer has


def test_every_answer_has_the_headers_and_is_not_kept(site: Site) -> None:
    """ASVS 3.4.3 to 3.4.6, 14.3.2: pages, redirects, refusals and errors of the real app."""
    answers = [site.get(site.path(route), who) for _, route in ROUTES for who in (None, "first", "admin")]
    answers += [site.get("/nothing"), site.post("/logout", headers={"Origin": "null"}), site.get("/static/none.css")]
    assert {answer.status_code for answer in answers} >= {200, 303, 403, 404, 405}
    for answer in answers:
        assert all(answer.headers.get(name) for name in HEADERS), answer.url
        if not answer.url.path.startswith("/static/"):
            assert answer.headers["cache-control"] == "no-store", answer.url
        kind = answer.headers.get("content-type", "")
        assert not answer.content or "charset=" in kind, answer.url


def test_no_page_has_a_script_or_a_style_of_its_own(site: Site) -> None:
    """The policy would stop it; none is there to begin with."""
    read = [site.get(site.path(route), "admin").text for method, route in ROUTES if method == "GET"]
    for page in read:
        assert re.findall(r"<script[^>]*>[^<]", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []
        assert all(address.startswith("/") for address in re.findall(r'(?:src|href|action)="([^"#]*)', page) if address)


def test_sessions_end_unused_and_the_page_says_where_to_go(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        clock: Clock = site.world.clock
        clock.pass_(accounts.IDLE_LIMIT)
        assert site.get("/mine", "first").headers["location"] == "/login"
        assert site.world.service.writer.run(lambda c: session_person(c, site.world.sessions["first"], clock())) is None


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no chromium: install Debian's package to test the pages")
def test_on_a_shared_computer_nobody_sees_the_draft_of_the_one_before(tmp_path: Path) -> None:
    """ASVS 14.3.1; and the second verdict must not lean on the first."""
    from playwright.sync_api import sync_playwright

    config = AnnotationConfig(overlap=2, gold_share=0, repeat_share=0)
    with serving(tmp_path / "a.db", [plain_item("Q", "one", "two")], config) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        context = browser.new_context()
        page = context.new_page()
        for name in ("Ada", "Bob"):
            context.add_cookies([{"name": server.cookie, "value": server.session(name), "url": server.url}])
            page.goto(f"{server.url}/judge")
            page.wait_for_selector("html[data-ready]", state="attached")
            if name == "Ada":
                page.keyboard.press("1")
                page.get_by_role("button", name="Sign out").click()
                page.wait_for_url("**/login")
        chosen = page.locator("input[name=strength]:checked").count()
        browser.close()
    assert chosen == 0

"""The rater's screens in a real Chromium: keys, tabs, a lost network, a closed tab, phones, screen readers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from annotation_server import Running, new_item, serving
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from prefloop.annotation import schema, webhooks
from prefloop.annotation.control import set_state
from prefloop.annotation.service import milliseconds
from prefloop.annotation.tokens import issue_token
from prefloop.config.annotation import AnnotationConfig

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
SCREENSHOTS = os.environ.get("PREFLOOP_SCREENSHOTS")
"""Folder for pictures of every screen (`make screenshots`); none are taken without it."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no chromium: install Debian's package to test the pages"),
]

ROWS = {"columns": ["name", "points"], "rows": [["Ann <Lee>", 31.5], [None, 7]], "count": 2, "error": None}
ITEMS = [
    new_item(
        f"Question {i}: who led the Boston Celtics in points in 2019-20?",
        f"She **led** with 31 points, question {i}.",
        "Plan: take the maximum.\n\n```sql\nSELECT name, MAX(points)\nFROM box\nWHERE team = 'BOS'\n```",
        results=({**ROWS, "identical_to": "a"}, {**ROWS, "identical_to": "b"}),
        context={"Schema": "`box(name, points, team)`"},
    )
    for i in range(6)
]
PLAIN = AnnotationConfig(overlap=1, gold_share=0, repeat_share=0)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)  # as of all else: a busy machine is no fault
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-quic"])
        yield found
        found.close()


class Screen:
    """A browser context on a server; what it asks for elsewhere, and its script's errors, fail the test."""

    def __init__(self, server: Running, context: BrowserContext) -> None:
        self.server, self.context = server, context
        self.bodies: list[str] = []
        self.faults: list[str] = []
        context.on("request", lambda request: self._asked(request.url))
        context.on("response", self._answered)
        context.set_default_timeout(15_000)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.server.url, "data:", "blob:")):
            self.faults.append(f"asked {url}")

    def _answered(self, response: Any) -> None:
        if response.status == 200 and "static" not in response.url:
            self.bodies.append(response.url)

    def page(self, path: str = "/judge") -> Page:
        page = self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda said: self.faults.append(said.text) if "Content Security" in said.text else None)
        page.goto(self.server.url + path)
        ready(page)
        return page

    def instead(self, path: str, status: int, body: str) -> None:
        """Another answers in place of the server. Only for pages opened later: one that is there already may send
        its next request past a route that Chromium has not told it of yet."""
        assert not self.context.pages
        self.context.route(path, lambda route: route.fulfill(status=status, body=body))

    def rows(self, table: sa.Table = schema.judgement) -> list[Any]:
        with self.server.service.database.reading.connect() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all())


Open = Callable[..., Screen]


def ready(page: Page, path: str = "") -> None:
    """The page, and its script, are there."""
    if path:
        page.wait_for_url(path)
    page.wait_for_selector("html[data-ready]", state="attached")


@pytest.fixture
def open_screen(tmp_path: Path, browser: Browser) -> Iterator[Open]:
    closing: list[Any] = []
    screens: list[Screen] = []

    def opened(items: list[Any] | None = None, config: AnnotationConfig = PLAIN, **options: Any) -> Screen:
        manager = serving(tmp_path / "a.db", items or ITEMS, config)
        server = manager.__enter__()
        closing.append(manager)
        return signed_in(server, **options)

    def signed_in(server: Running, name: str = "Ada", role: str = "rater", **options: Any) -> Screen:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.add_cookies([{"name": server.cookie, "value": server.session(name, role), "url": server.url}])
        screens.append(Screen(server, context))
        return screens[-1]

    opened.signed_in = signed_in  # type: ignore[attr-defined]
    yield opened
    for screen in screens:
        screen.context.close()
    for manager in closing:
        manager.__exit__(None, None, None)
    assert [fault for screen in screens for fault in screen.faults] == []


def next_item(page: Page, keys: str) -> None:
    """Press keys, the last of which leads to the next item, and wait for it."""
    before = page.locator(".work").get_attribute("data-item")
    for key in keys.split():
        page.keyboard.press(key)
    page.wait_for_function(
        "before => document.documentElement.dataset.ready && document.querySelector('.work, [data-nothing]')"
        " && document.querySelector('.work')?.dataset.item !== before",
        arg=before,
    )


def test_a_session_by_keyboard_alone(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    shown = []
    for key in ("1", "5", "3", "0", "2"):
        shown.append(
            [int(i) for i in page.locator("[data-index]").evaluate_all("all => all.map(one => one.dataset.index)")]
        )
        next_item(page, f"{key} Enter")
    next_item(page, "s 2")  # ambiguous
    expect(page.locator("[data-nothing=done]")).to_be_visible()
    rows = screen.rows()
    assert [(row.kind, row.strength) for row in rows] == [
        ("choice", 1), ("choice", 5), ("choice", 3), ("choice", 0), ("choice", 2), ("skip", None),
    ]  # fmt: skip
    assert [row.order for row in rows[:5]] == shown  # keys follow what was on the screen
    assert rows[5].reason == "ambiguous"


def test_the_reading_of_an_ambiguous_question_is_kept(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    page.keyboard.press("s")
    page.get_by_label("which reading would you choose").fill("Regular season, 2 of 3.")  # no digit is a key in here
    page.reload()
    ready(page)
    page.keyboard.press("s")
    expect(page.locator("#reading")).to_have_value("Regular season, 2 of 3.")  # a draft like any other
    next_item(page, "2")
    page.keyboard.press("Backspace")
    ready(page, "**/judge/*")
    expect(page.locator("#reading")).to_have_value("Regular season, 2 of 3.")
    expect(page.locator("#comment")).to_have_value("")
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_url("**/judge")
    first, second = screen.rows()
    assert (first.kind, first.reason, first.comment) == ("skip", "ambiguous", "Regular season, 2 of 3.")
    assert (second.kind, second.strength, second.comment) == ("choice", 2, "")


def test_the_order_stays_the_same_in_another_tab_and_another_browser(open_screen: Open) -> None:
    screen = open_screen()
    first = screen.page().locator(".answers").inner_text()
    assert screen.page().locator(".answers").inner_text() == first
    orders = {tuple(row.order) for row in screen.rows(schema.showing)}
    assert len(orders) == 1


def test_nothing_that_reaches_the_browser_names_a_model(open_screen: Open) -> None:
    screen = open_screen(config=PLAIN.model_copy(update={"gold_share": 0.5}), items=[
        *ITEMS, new_item("Gold?", "right", "wrong", role="gold", known={"best": [0], "explanation": "known-why"})
    ])  # fmt: skip
    page = screen.page()
    seen = ""
    for _ in range(4):
        seen += page.content()
        next_item(page, "1 Enter")
    page.goto(screen.server.url + "/mine")
    seen += page.content()
    for secret in ("policy-", "secret-", "known-why", '"gold"', ">gold<"):
        assert secret not in seen


def test_back_changes_a_verdict_and_keeps_the_old_one_in_the_log(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    next_item(page, "1 Enter")
    next_item(page, "2 Enter")
    page.keyboard.press("Backspace")
    ready(page, "**/judge/*")
    expect(page.locator("input[value='2']")).to_be_checked()
    address = page.url
    page.keyboard.press("Backspace")  # once more: the one before
    page.wait_for_function("address => location.href !== address", arg=address)
    ready(page)
    expect(page.locator("input[value='1']")).to_be_checked()
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    ready(page, "**/judge")
    rows = screen.rows()
    assert [(row.strength, row.revision, row.current) for row in rows] == [(1, 0, False), (2, 0, True), (4, 1, True)]
    handle = next(row.handle for row in screen.rows(schema.showing) if row.item_id == rows[0].item_id)
    page.goto(f"{screen.server.url}/judge/{handle}")
    page.get_by_role("button", name="Withdraw").click()
    ready(page, "**/judge")
    assert screen.rows()[-1].kind == "withdrawn"


def test_two_tabs_are_one_verdict(open_screen: Open) -> None:
    screen = open_screen()
    one, two = screen.page(), screen.page()
    item = one.locator(".work").get_attribute("data-item")
    assert two.locator(".work").get_attribute("data-item") == item
    two.evaluate(  # it moves on by itself soon after, perhaps before anybody looks
        "() => { const banner = document.querySelector('#banner');"
        " new MutationObserver(() => localStorage.setItem('told', banner.textContent))"
        ".observe(banner, { childList: true }); }"
    )
    next_item(one, "1 Enter")
    two.wait_for_function(
        "item => document.querySelector('.work')?.dataset.item !== item && localStorage.told", arg=item
    )
    assert "another tab" in two.evaluate("localStorage.told")
    assert [row.strength for row in screen.rows()] == [1]


def test_a_second_verdict_from_a_tab_that_knew_nothing_is_refused(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    item = page.locator(".work").get_attribute("data-item")
    answered = page.request.post(
        f"{screen.server.url}/api/v1/judgements",
        data={"client_id": "00000000-0000-4000-8000-000000000000", "item_id": item, "kind": "choice", "strength": 5},
        headers={"Origin": screen.server.url},
    )
    assert answered.status == 200
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(page.locator("[data-error]")).to_contain_text("judged this item already")
    assert [row.strength for row in screen.rows()] == [5]


def test_a_lost_network_loses_nothing(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    screen.context.set_offline(True)
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("No connection. 1 answer(s) wait here")
    assert screen.rows() == []
    screen.context.set_offline(False)
    ready(page, "**/judge")
    expect(page.locator(".progress")).to_contain_text("1 of yours")
    assert [row.strength for row in screen.rows()] == [4]


def test_a_closed_tab_loses_neither_a_draft_nor_an_unsent_answer(open_screen: Open) -> None:
    screen = open_screen()
    page = screen.page()
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("because of the join")
    page.close()
    page = screen.page()
    expect(page.locator("input[value='2']")).to_be_checked()
    expect(page.locator("#comment")).to_have_value("because of the join")
    screen.context.set_offline(True)
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator("#banner")).to_contain_text("wait here")
    page.close()
    screen.context.set_offline(False)
    page = screen.page()
    expect(page.locator(".progress")).to_contain_text("1 of yours")
    assert [(row.strength, row.comment) for row in screen.rows()] == [(2, "because of the join")]


def test_a_ranking_with_ties_and_a_top_by_keyboard(open_screen: Open) -> None:
    items = [new_item(f"Rank {i}", "alpha", "beta", "gamma", "delta") for i in range(2)]
    screen = open_screen(items, PLAIN.model_copy(update={"kind": "ranking"}))
    page = screen.page()
    order = [int(i) for i in page.locator("[data-index]").evaluate_all("all => all.map(one => one.dataset.index)")]
    next_item(page, "b 1 d 2 a 2 Enter")
    assert screen.rows()[0].ranking == [[order[1]], [order[0], order[3]]]


def test_a_correction_and_an_objective_go_along(open_screen: Open) -> None:
    screen = open_screen(config=PLAIN.model_copy(update={"objectives": ("concise",)}))
    page = screen.page()
    index = page.locator("[data-index]").first.get_attribute("data-index")
    page.locator(".answer").first.get_by_text("Correct this answer").click()
    page.locator(f"[data-edit='{index}']").fill("SELECT 1 -- <b>mine</b>")
    page.get_by_role("group", name="concise").get_by_label("Right").check()
    page.locator("h2").first.click()
    next_item(page, "5 Enter")
    row = screen.rows()[0]
    assert (row.edits, row.objectives, row.strength) == ({index: "SELECT 1 -- <b>mine</b>"}, {"concise": "right"}, 5)


def test_a_correction_is_run_before_it_is_given(open_screen: Open, tmp_path: Path) -> None:
    league = tmp_path / "league.sqlite"
    with closing(sqlite3.connect(league)) as connection, connection:
        connection.execute("CREATE TABLE box (name TEXT, points INTEGER)")
        connection.execute("INSERT INTO box VALUES ('<b>Jayson</b>', 31)")
    screen = open_screen(config=PLAIN.model_copy(update={"sql": league}))
    page = screen.page()
    answer = page.locator(".answer").first
    answer.get_by_text("Correct this answer").click()
    tried = answer.locator("[data-tried]")
    answer.get_by_role("textbox").fill("SELECT name, points FROM box")
    answer.get_by_role("button", name="Run the query").click()
    expect(tried.locator("td")).to_have_text(["<b>Jayson</b>", "31"])
    expect(tried).to_contain_text("1 row")
    answer.get_by_role("textbox").fill("SELECT pts FROM box")
    answer.get_by_role("button", name="Run the query").click()
    expect(tried.locator(".error")).to_contain_text("no such column: pts")
    assert screen.rows() == []


def test_practice_is_explained_and_guidelines_come_first(open_screen: Open) -> None:
    training = new_item(
        "Practice", "good", "bad", role="training", known={"best": [0], "explanation": "The first holds."}
    )
    screen = open_screen([training, *ITEMS], PLAIN.model_copy(update={"guidelines": "# Rules\n\nBe *fair*."}))
    page = screen.page()
    expect(page.get_by_role("heading", name="Rules")).to_be_visible()
    page.keyboard.press("Enter")  # the button has the focus
    ready(page, "**/judge")
    expect(page.get_by_text("Practice: after your verdict")).to_be_visible()
    left = page.locator("[data-index]").first.get_attribute("data-index")
    page.keyboard.press("1" if left == "0" else "5")
    page.keyboard.press("Enter")
    expect(page.locator("[data-feedback]")).to_contain_text("As expected.")
    expect(page.locator("[data-feedback]")).to_contain_text("The first holds.")
    page.keyboard.press("Enter")
    ready(page, "**/judge")
    expect(page.locator(".prompt")).to_contain_text("Question 0")


def test_alone_the_link_leads_straight_to_the_first_item(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path / "a.db", ITEMS, PLAIN, alone=True) as server:
        context = browser.new_context()
        page = context.new_page()
        link = server.join_link()
        page.goto(link)
        ready(page, "**/judge")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        expect(page.locator(".progress")).to_contain_text("1 of yours")
        other = context.browser.new_context().new_page()
        other.goto(link)  # it worked once
        expect(other.get_by_role("alert")).to_contain_text("used before")
        context.close()


def test_people_join_by_an_invitation_and_sign_in_again(tmp_path: Path, browser: Browser) -> None:
    with serving(tmp_path / "a.db", ITEMS, PLAIN) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.join_link("rater"))
        page.get_by_label("Your name").fill("Ada")
        page.get_by_label("A password").fill("glacier teapot 41 owls")
        page.get_by_role("button", name="Join").click()
        ready(page, "**/judge")
        page.get_by_role("button", name="Sign out").click()
        ready(page, "**/login")
        page.get_by_label("Name").fill("Ada")
        page.get_by_label("Password").fill("wrong password of mine")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong")
        page.get_by_label("Password").fill("glacier teapot 41 owls")
        page.get_by_role("button", name="Sign in").click()
        ready(page, "**/judge")
        context.close()


SCREENS = ("work", "mine", "account", "desk", "disagreements", "case", "remove", "webhooks", "webhook", "tokens")
SCREENS = (*SCREENS, "login", "join", "welcome", "nothing")


def some_access(connection: sa.Connection) -> None:
    """A password, tokens, and a webhook that has been sent something."""
    now = milliseconds()
    connection.execute(sa.update(schema.rater).where(schema.rater.c.name == "Ada").values(password="$"))
    for rater_id, name, scopes in ((1, "nightly export", ("read",)), (2, "my script", ("annotate",))):
        issue_token(connection, rater_id, name, scopes, now)
    key, _ = webhooks.register(connection, "http://127.0.0.1:9/annotation/items?project=7", webhooks.EVENTS, now)
    for _ in range(3):
        webhooks.send_test(connection, key, now)
    webhooks.delivered(connection, 1, "answered 204")
    webhooks.failed(connection, 2, "no answer within 10 s", now)


def visit(page: Page, name: str, server: Running) -> None:
    paths = {
        "work": "/judge",
        "mine": "/mine",
        "account": "/account",
        "desk": "/desk",
        "webhooks": "/desk/webhooks",
        "webhook": "/desk/webhooks/1",
        "tokens": "/desk/tokens",
        "disagreements": "/desk/disagreements",
        "login": "/login",
    }
    paths |= {"join": "/join", "welcome": "/welcome"}
    if name == "case":
        page.goto(server.url + "/desk/disagreements")
        page.locator("td a").first.click()
        page.wait_for_url("**/desk/items/*")
    elif name == "remove":
        page.goto(server.url + "/desk")
        page.locator("tr", has_text="Bob").get_by_text("Change").click()
        page.get_by_role("link", name="Remove Bob").click()
        page.wait_for_url("**/remove")
    elif name == "nothing":
        server.service.writer.run(lambda connection: set_state(connection, "paused", "Lunch.", 0))
        page.goto(server.url + "/judge")
    else:
        page.goto(server.url + paths[name])
    ready(page)


@pytest.mark.parametrize(("width", "height", "scheme"), [(1280, 900, "light"), (360, 740, "dark")])
def test_every_screen_is_readable_for_all(open_screen: Open, width: int, height: int, scheme: str) -> None:
    """axe finds nothing serious, and nothing scrolls sideways."""
    config = PLAIN.model_copy(update={"overlap": 2, "objectives": ("concise", "reads well"), "guidelines": "Be fair."})
    screen = open_screen(config=config, role="admin", viewport={"width": width, "height": height}, color_scheme=scheme)
    other = open_screen.signed_in(screen.server, "Bob")  # type: ignore[attr-defined]
    for one, key in ((screen, "1"), (other, "5")):
        page = one.page()
        page.get_by_role("button", name="Start").click()
        ready(page, "**/judge")
        order = page.locator("[data-index]").first.get_attribute("data-index")
        next_item(page, f"{key if order == '0' else {'1': '5', '5': '1'}[key]} Enter")
        page.close()
    screen.server.service.writer.run(some_access)
    page = screen.page("/judge")
    for name in SCREENS:
        visit(page, name, screen.server)
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
        assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in serious] == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{width}.png", full_page=width < 1000)


@pytest.mark.parametrize("status", [200, 404, 502])
def test_an_answer_that_no_receipt_came_for_is_kept(open_screen: Open, status: int) -> None:
    """A proxy, or somebody's sign-in page, answers in place of the server."""
    screen = open_screen()
    screen.instead("**/api/v1/judgements", status, "<html>Welcome</html>")
    page = screen.page()
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("1 answer(s) wait here")
    assert screen.rows() == []
    screen.context.unroute("**/api/v1/judgements")
    page.wait_for_url("**/judge")
    expect(page.locator(".progress")).to_contain_text("1 of yours")
    assert [row.strength for row in screen.rows()] == [4]


def keys_left(page: Page) -> list[str]:
    return page.evaluate("Object.keys(localStorage)")


def test_signing_out_leaves_nothing_of_oneself_in_the_browser(open_screen: Open) -> None:
    """ASVS 14.3.1; what somebody else has not sent yet stays for them."""
    screen = open_screen()
    page = screen.page()
    page.evaluate("localStorage.setItem('outbox:rater-other', '[1]')")
    page.keyboard.press("2")
    assert [key for key in keys_left(page) if key.startswith("draft:")]
    page.get_by_role("button", name="Sign out").focus()
    page.keyboard.press("Enter")
    ready(page, "**/login")
    assert keys_left(page) == ["outbox:rater-other"]
    assert screen.rows(schema.session) == []


def test_signing_out_sends_first_and_throws_nothing_away_unasked(open_screen: Open) -> None:
    screen = open_screen()
    screen.instead("**/api/v1/judgements", 503, "{}")
    page = screen.page()
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.locator("#banner")).to_contain_text("wait here")
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator("#banner")).to_contain_text("Sign out once more to throw them away")
    assert [key for key in keys_left(page) if key.startswith("outbox:")]
    # a slow answer: the page that waits for the network must not lead elsewhere meanwhile
    page.route("**/logout", lambda route: (time.sleep(1), route.continue_()))
    page.get_by_role("button", name="Sign out").click()
    ready(page, "**/login")
    assert keys_left(page) == []
    assert screen.rows() == []


def test_two_projects_on_one_machine_do_not_sign_each_other_out(tmp_path: Path, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    with (
        serving(tmp_path / "a.db", ITEMS, PLAIN, alone=True) as one,
        serving(tmp_path / "b.db", ITEMS, PLAIN, alone=True) as two,
    ):
        for server in (one, two):
            page.goto(server.join_link())
            ready(page, "**/judge")
        page.goto(one.url + "/mine")
        assert page.url == one.url + "/mine"
        page.get_by_role("button", name="Sign out").click()
        ready(page, "**/login")
        page.goto(two.url + "/mine")
        assert page.url == two.url + "/mine"
    context.close()


def test_removal_asks_first_with_javascript_off(open_screen: Open) -> None:
    screen = open_screen(role="admin", java_script_enabled=False)
    screen.server.session("Bob")
    page = screen.context.new_page()
    page.goto(screen.server.url + "/desk")
    page.locator("tr", has_text="Bob").locator("summary").click()
    page.get_by_role("link", name="Remove Bob").click()
    assert {row.status for row in screen.rows(schema.rater)} == {"active"}
    page.get_by_role("link", name="Keep them").click()
    page.wait_for_url("**/desk")
    page.goto(f"{screen.server.url}/desk/raters/2/remove")
    page.get_by_role("button", name="Remove Bob").click()
    page.wait_for_url("**/desk")
    assert [(row.status, row.name) for row in screen.rows(schema.rater)] == [("active", "Ada"), ("removed", None)]


def test_a_webhook_and_a_token_by_keyboard_alone(open_screen: Open) -> None:
    screen = open_screen(role="admin")
    page = screen.page("/desk/webhooks")
    page.get_by_label("Address").focus()
    page.keyboard.type("http://127.0.0.1:9/hook")
    for _ in range(9):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")  # the last event is not told
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="A webhook was added")).to_be_visible()
    page.get_by_role("link", name="Go on to the webhook").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Send a test").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("cell", name="webhook.test")).to_be_visible()
    (hook,) = screen.rows(schema.webhook)
    assert hook.events == sorted(set(webhooks.EVENTS) - {"rater.removed"})
    page.goto(screen.server.url + "/account")
    page.get_by_label("What it is for").focus()
    page.keyboard.type("export")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="A token was made")).to_be_visible()
    assert [row.name for row in screen.rows(schema.token)] == ["export"]

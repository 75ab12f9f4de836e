"""The guards before the app: by hand-made requests, and by a real browser with a page of somebody else's."""

from __future__ import annotations

import asyncio
import doctest
import json
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message

from prefloop.annotation import guards
from prefloop.annotation.guards import (
    BODY_LIMIT,
    CSP,
    clear_session,
    guarded,
    origins,
    security_headers,
    session_cookie,
    set_session,
)
from prefloop.annotation.service import Address

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
LOCAL = Address("http://127.0.0.1:8642")
PUBLIC = Address("https://rate.example.org")
TRUSTED = Address("http://rate.test:8642", insecure=True)
ADDRESSES = {"loopback": LOCAL, "HTTPS": PUBLIC, "plain HTTP": TRUSTED}
Headers = Iterable[tuple[str, str]]


class Answer:
    """What an app sent."""

    def __init__(self, sent: list[Message]) -> None:
        self.sent = sent
        self.status: int = sent[0]["status"]
        self.headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
        self.names = [name.decode().lower() for name, _ in sent[0]["headers"]]
        self.text = b"".join(message.get("body", b"") for message in sent[1:]).decode()


def ask(
    app: ASGIApp,
    method: str = "GET",
    path: str = "/",
    headers: Headers = (),
    body: Iterable[bytes] = (b"",),
    address: Address = LOCAL,
    host: bool = True,
) -> Answer:
    """One request as a server would hand it over; the app may fail after it has answered."""
    given = [("host", address.host), *headers] if host else list(headers)
    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
    scope |= {"raw_path": path.encode(), "query_string": b"", "root_path": "", "scheme": "http", "client": ("::1", 1)}
    scope |= {"server": ("127.0.0.1", 8642), "headers": [(name.encode(), value.encode()) for name, value in given]}
    chunks, sent = list(body), []
    messages = [
        {"type": "http.request", "body": chunk, "more_body": place < len(chunks) - 1}
        for place, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def once() -> None:
        try:
            await app(scope, receive, send)
        except ZeroDivisionError:
            assert sent, "nothing was answered"

    asyncio.run(once())
    return Answer(sent)


class Site:
    """A small app that counts what it was let to do."""

    def __init__(self, folder: Path, address: Address) -> None:
        (folder / "page.css").write_text("body {}")
        self.done: list[dict[str, str]] = []
        self.received: list[int] = []
        routes = [
            Route("/", self.page),
            Route("/do", self.do, methods=["POST", "PUT", "PATCH", "DELETE"]),
            Route("/fail", self.fail),
            Route("/loose", self.loose),
            Route("/api/v1/do", self.do, methods=["POST"]),
            WebSocketRoute("/socket", self.socket),
            Mount("/static", StaticFiles(directory=folder)),
        ]
        self.app = guarded(Starlette(routes=routes), address)

    async def page(self, request: Request) -> Response:
        return HTMLResponse('<title>own</title><form method="post" action="/do"><button>do</button></form>')

    async def do(self, request: Request) -> Response:
        self.received.append(len(await request.body()))
        self.done.append(dict(request.headers))
        return PlainTextResponse("done")

    async def fail(self, request: Request) -> Response:
        raise ZeroDivisionError

    async def loose(self, request: Request) -> Response:
        weak = {"Content-Security-Policy": "default-src *", "Cache-Control": "public", "X-Frame-Options": "ALLOWALL"}
        return PlainTextResponse("", headers=weak)

    async def socket(self, socket: Any) -> None:
        raise AssertionError("a WebSocket got through")


@pytest.fixture(params=ADDRESSES)
def address(request: pytest.FixtureRequest) -> Address:
    return ADDRESSES[request.param]


@pytest.fixture
def site(tmp_path: Path, address: Address) -> Site:
    return Site(tmp_path, address)


@pytest.fixture
def local(tmp_path: Path) -> Site:
    return Site(tmp_path, LOCAL)


def test_docstring_examples() -> None:
    found = doctest.testmod(guards)
    assert found.attempted
    assert not found.failed


# Headers

EVERYWHERE = {
    "/": 200,
    "/fail": 500,
    "/nothing": 404,
    "/do": 405,
    "/loose": 200,
    "/static/page.css": 200,
    "/static/nothing.css": 404,
}


@pytest.mark.parametrize("path", EVERYWHERE)
def test_every_answer_has_the_headers(site: Site, address: Address, path: str) -> None:
    """ASVS 3.4.3, 3.4.4, 3.4.5, 3.4.6: policy, nosniff, referrer, framing: on errors and files, too."""
    found = ask(site.app, "GET", path, address=address)
    assert found.status == EVERYWHERE[path]
    for name, value in security_headers(address).items():
        assert found.headers[name.lower()] == value
        assert found.names.count(name.lower()) == 1
    assert found.headers["x-content-type-options"] == "nosniff"
    assert (found.headers.get("cache-control") == "no-store") == (not path.startswith("/static/"))


def test_refusals_have_the_headers(site: Site, address: Address) -> None:
    """ASVS 3.4.4: nosniff on all answers; also before the app is reached."""
    refusals = {
        421: ask(site.app, headers=[("host", "evil.example")], address=address, host=False),
        400: ask(site.app, address=address, host=False),
        403: ask(site.app, "POST", "/do", [("origin", "https://evil.example")], address=address),
        413: ask(site.app, "POST", "/do", [("content-length", str(BODY_LIMIT + 1))], address=address),
    }
    for status, found in refusals.items():
        assert found.status == status
        assert found.headers["content-security-policy"] == CSP
        assert found.headers["cache-control"] == "no-store"
    assert site.done == []


def test_the_policy_allows_the_apps_own_files_only() -> None:
    """ASVS 3.4.3: object-src and base-uri none; no inline script or style, nothing from elsewhere."""
    policy = {part.split()[0]: part.split()[1:] for part in CSP.split("; ")}
    assert all(policy[name] == ["'none'"] for name in ("default-src", "object-src", "base-uri", "frame-ancestors"))
    assert all(policy[name] == ["'self'"] for name in ("script-src", "style-src", "connect-src", "form-action"))
    assert "unsafe" not in CSP
    assert "http" not in CSP
    assert "*" not in CSP


def test_https_is_remembered_for_a_year_but_not_on_loopback() -> None:
    """ASVS 3.4.1: HSTS of at least one year."""
    assert security_headers(PUBLIC)["Strict-Transport-Security"] == f"max-age={365 * 24 * 3600}"
    for other in (LOCAL, TRUSTED, Address("https://localhost:8642")):  # it would hold for each port of localhost
        assert "Strict-Transport-Security" not in security_headers(other)


def test_no_site_learns_where_readers_come_from() -> None:
    """ASVS 3.4.5: no referrer for others; on plain HTTP the own origin is needed to check forms."""
    assert security_headers(PUBLIC)["Referrer-Policy"] == "no-referrer"
    assert security_headers(LOCAL)["Referrer-Policy"] == security_headers(TRUSTED)["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/static/../", "/static/..%2f..%2fetc/passwd", "/static/../../etc/passwd", "/static", "/staticky"])  # fmt: skip
def test_path_tricks_read_no_file_outside(local: Site, path: str) -> None:
    found = ask(local.app, "GET", path)
    assert found.status in (307, 404)
    assert "root:" not in found.text


# Hosts

LOOPBACKS = ["127.0.0.1:8642", "localhost:8642", "[::1]:8642", "LOCALHOST:8642"]
STRANGERS = [
    "", "evil.example", "127.0.0.1", "127.0.0.1:8643", "127.0.0.1:80", "localhost", "localhost:8642.evil.example",
    "evil.example:8642", "localhost.:8642", "127.0.0.1:8642, evil.example", " 127.0.0.1:8642", "0.0.0.0:8642",
    "127.1:8642", "user@127.0.0.1:8642", "[::1]", "2130706433:8642", "127.0.0.1:8642/", "rate.example.org",
]  # fmt: skip


@pytest.mark.parametrize("host", LOOPBACKS)
def test_loopback_goes_by_its_names_at_its_port(local: Site, host: str) -> None:
    assert ask(local.app, headers=[("host", host)], host=False).status == 200


@pytest.mark.parametrize("host", STRANGERS)
def test_other_names_get_nothing(local: Site, host: str) -> None:
    """A page whose name is pointed at this machine (DNS rebinding) reads and changes nothing."""
    for method, path in (("GET", "/"), ("POST", "/do"), ("GET", "/static/page.css"), ("OPTIONS", "/do")):
        found = ask(local.app, method, path, [("host", host), ("sec-fetch-site", "same-origin")], host=False)
        assert found.status == 421
        assert "own" not in found.text
    assert local.done == []


def test_there_is_one_host_header(local: Site) -> None:
    assert ask(local.app, host=False).status == 400
    assert ask(local.app, headers=[("host", LOCAL.host)]).status == 400
    assert ask(local.app, headers=[("host", "evil.example")]).status == 400


def test_a_public_address_has_one_name_and_its_scheme_a_port(tmp_path: Path) -> None:
    app = Site(tmp_path, PUBLIC).app
    statuses = {
        host: ask(app, headers=[("host", host)], host=False).status
        for host in ("rate.example.org", "Rate.Example.ORG", "rate.example.org:443", "rate.example.org:80")
    }
    assert list(statuses.values()) == [200, 200, 200, 421]
    for host in ("localhost", "127.0.0.1:443", "rate.example.org.evil.example", "xrate.example.org", "example.org"):
        assert ask(app, headers=[("host", host)], host=False).status == 421
    forwarded = [("host", "evil.example"), ("x-forwarded-host", "rate.example.org")]
    assert ask(app, headers=forwarded, host=False).status == 421


@pytest.mark.parametrize(
    ("origin", "names"),
    [
        ("http://localhost:9", {"http://localhost:9", "http://127.0.0.1:9", "http://[::1]:9"}),
        ("http://[::1]:9", {"http://localhost:9", "http://127.0.0.1:9", "http://[::1]:9"}),
        ("http://[::1]", {"http://localhost", "http://127.0.0.1", "http://[::1]"}),
        ("http://127.0.0.1:80", {"http://localhost", "http://127.0.0.1", "http://[::1]"}),
        ("https://Rate.example.org:443", {"https://rate.example.org"}),
        ("https://rate.example.org:8443", {"https://rate.example.org:8443"}),
    ],
)
def test_an_address_has_these_origins(origin: str, names: set[str]) -> None:
    assert origins(Address(origin)) == names


def test_websockets_are_closed(local: Site) -> None:
    sent: list[Message] = []

    async def once() -> None:
        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1:8642")]
        await local.app({"type": "websocket", "path": "/socket", "headers": headers}, lambda: None, send)  # type: ignore[arg-type]

    asyncio.run(once())
    assert sent == [{"type": "websocket.close", "code": 1008}]


# Where changes come from

COOKIE = ("cookie", "prefloop=x")
OWN = ("origin", "http://127.0.0.1:8642")
CASES: list[tuple[list[tuple[str, str]], bool]] = [
    ([("sec-fetch-site", "same-origin"), COOKIE], True),
    ([("sec-fetch-site", "same-origin"), ("origin", "null"), COOKIE], True),  # a form under no-referrer
    ([("sec-fetch-site", "none"), COOKIE], True),
    ([("sec-fetch-site", "cross-site"), COOKIE], False),
    ([("sec-fetch-site", "same-site"), COOKIE], False),  # another port of the machine
    ([("sec-fetch-site", "cross-site"), OWN], False),
    ([("sec-fetch-site", "Same-Origin"), COOKIE], False),
    ([("sec-fetch-site", ""), OWN], False),
    ([("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")], False),
    ([OWN, COOKIE], True),
    ([("origin", "http://localhost:8642"), COOKIE], True),
    ([("origin", "http://[::1]:8642"), COOKIE], True),
    ([("origin", "http://127.0.0.1:8643"), COOKIE], False),
    ([("origin", "https://127.0.0.1:8642"), COOKIE], False),
    ([("origin", "http://127.0.0.1:8642.evil.example"), COOKIE], False),
    ([("origin", "http://evil.example"), COOKIE], False),
    ([("origin", "null"), COOKIE], False),
    ([("origin", "null")], False),
    ([("origin", ""), COOKIE], False),
    ([OWN, ("origin", "http://evil.example"), COOKIE], False),
    ([("origin", "http://evil.example"), ("authorization", "Bearer pf_x")], False),
    ([COOKIE], False),
    ([COOKIE, ("authorization", "Bearer pf_x")], False),
    ([("authorization", "Bearer pf_x")], True),
    ([], True),  # nobody in particular: there is nothing to forge
]


@pytest.mark.parametrize(("headers", "welcome"), CASES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_changes_come_from_the_apps_own_pages(local: Site, method: str, headers: Headers, welcome: bool) -> None:
    """ASVS 3.5.1: requests from other sites are told from the app's own and refused."""
    assert ask(local.app, method, "/do", headers).status == (200 if welcome else 403)
    assert len(local.done) == welcome


def test_unknown_methods_are_checked_like_changes(local: Site) -> None:
    """ASVS 3.5.3: only GET, HEAD and OPTIONS are taken for harmless."""
    for method in ("TRACE", "PROPFIND", "get", "POST "):
        assert ask(local.app, method, "/do", [("origin", "http://evil.example")]).status == 403
    for method, status in (("GET", 200), ("HEAD", 200), ("OPTIONS", 405)):
        assert ask(local.app, method, "/", [("sec-fetch-site", "cross-site"), COOKIE]).status == status


def test_nothing_is_shared_with_other_origins(site: Site, address: Address) -> None:
    """ASVS 3.5.2: no preflight is ever answered with a permission."""
    wanted = [("origin", "https://evil.example"), ("access-control-request-method", "POST")]
    found = ask(site.app, "OPTIONS", "/do", wanted, address=address)
    assert not [name for name in found.names if name.startswith("access-control")]
    assert found.headers["cross-origin-resource-policy"] == found.headers["cross-origin-opener-policy"] == "same-origin"


def test_the_api_is_refused_in_its_own_shape(local: Site) -> None:
    found = ask(local.app, "POST", "/api/v1/do", [("origin", "http://evil.example")])
    error = json.loads(found.text)["error"]
    assert (error["kind"], "another site" in error["reason"]) == ("forbidden", True)
    assert ask(local.app, "POST", "/do", [("origin", "x")]).headers["content-type"].startswith("text/plain")


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_any_other_origin_is_refused(origin: str) -> None:
    async def never(*_: Any) -> None:
        raise AssertionError(origin)

    if origin.lower() not in origins(LOCAL):
        assert ask(guards.OriginCheck(never, LOCAL), "POST", "/do", [("origin", origin), COOKIE]).status == 403


# Bodies


def test_bodies_up_to_the_limit_arrive_whole(local: Site) -> None:
    body = [b"x" * (BODY_LIMIT // 2)] * 2
    assert ask(local.app, "POST", "/do", [("content-length", str(BODY_LIMIT))], body).status == 200
    assert ask(local.app, "POST", "/do", body=body).status == 200
    assert local.received == [BODY_LIMIT] * 2


def test_larger_bodies_are_refused_whatever_they_say_of_themselves(local: Site) -> None:
    chunks = [b"x" * 65_536] * 40
    for headers, body in (
        ([("content-length", str(BODY_LIMIT + 1))], [b"small"]),
        ([("content-length", "9" * 30)], [b"small"]),
        ([("transfer-encoding", "chunked")], chunks),
        ([("content-length", "5")], chunks),
        ([], [b"x" * BODY_LIMIT, b"x"]),
    ):
        found = ask(local.app, "POST", "/do", headers, body)
        assert (found.status, len([one for one in found.sent if one["type"] == "http.response.start"])) == (413, 1)
    assert local.done == []


# The cookie


def _cookie(response: Response) -> tuple[str, Any, str]:
    (header,) = [value.decode() for name, value in response.raw_headers if name == b"set-cookie"]
    ((name, morsel),) = SimpleCookie(header).items()
    return name, morsel, header


def test_the_cookie_is_bound_to_the_host_over_https() -> None:
    """ASVS 3.3.1, 3.3.2, 3.3.3, 3.3.4: Secure, SameSite, __Host- and HttpOnly."""
    set_session(response := Response(), PUBLIC, "secret")
    name, morsel, _ = _cookie(response)
    assert (name, morsel.value) == ("__Host-prefloop", "secret")
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, True, "lax", "/")
    assert morsel["domain"] == ""
    assert int(morsel["max-age"]) == 30 * 24 * 3600


@pytest.mark.parametrize("address", [LOCAL, TRUSTED])
def test_over_plain_http_the_cookie_has_no_prefix(address: Address) -> None:
    """ASVS 3.3.2 and 3.3.4 hold; 3.3.1 and 3.3.3 need HTTPS."""
    set_session(response := Response(), address, "secret")
    name, morsel, header = _cookie(response)
    assert name == "prefloop-8642"
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == ("", True, "lax")
    assert "Secure" not in header


def test_the_cookie_is_taken_back_under_the_same_name_and_attributes(address: Address) -> None:
    clear_session(response := Response(), address)
    name, morsel, _ = _cookie(response)
    assert name == session_cookie(address)[0]
    assert (morsel.value, morsel["max-age"], morsel["path"]) == ("", "0", "/")
    assert bool(morsel["secure"]) == address.secure  # without it browsers ignore a __Host- cookie


@pytest.mark.parametrize("origin", ["http://127.0.0.1:{}", "http://localhost:{}", "https://rate.example.org:{}"])
def test_servers_of_one_host_have_cookies_of_their_own(origin: str) -> None:
    """Cookies are shared among ports (RFC 6265, 8.5): two projects on one machine must not take each other's."""
    names = {session_cookie(Address(origin.format(port)))[0] for port in (8642, 8643)}
    assert len(names) == 2
    assert session_cookie(Address("http://127.0.0.1"))[0] == "prefloop"


# A real browser


@contextmanager
def served(app: ASGIApp, listener: socket.socket) -> Iterator[None]:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()


def _listen() -> tuple[socket.socket, int]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener, listener.getsockname()[1]


@pytest.mark.browser
@pytest.mark.skipif(not CHROMIUM, reason="no chromium: install Debian's package to test the guards with it")
@pytest.mark.parametrize("name", ["127.0.0.1", "rate.test"])
def test_a_browser_reaches_the_app_from_its_own_page_only(tmp_path: Path, name: str) -> None:
    """ASVS 3.5.1: forms and scripts of the app work, those of another site do not, on loopback and on plain HTTP.

    ``rate.test`` is no origin that browsers trust, so that they send no ``Sec-Fetch-Site`` there.
    """
    from playwright.sync_api import sync_playwright

    (own, port), (other, elsewhere) = _listen(), _listen()
    url, evil = f"http://{name}:{port}", f"http://evil.test:{elsewhere}"
    site = Site(tmp_path, Address(url, insecure=True))
    rules = f"MAP evil.test 127.0.0.1:{elsewhere}, MAP *.test 127.0.0.1:{port}"
    flags = ["--no-sandbox", "--disable-quic", f"--host-resolver-rules={rules}"]
    with served(site.app, own), served(_attack(url), other), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.goto(url)
        page.context.add_cookies([{"name": "prefloop", "value": "x", "url": url}])
        page.click("button")
        assert page.text_content("body") == "done"
        page.goto(url)
        assert page.evaluate("fetch('/do', {method: 'POST'}).then(answer => answer.status)") == 200
        assert len(site.done) == 2
        assert ("sec-fetch-site" in site.done[0]) == (name == "127.0.0.1")
        page.goto(evil)
        assert page.evaluate(f"fetch('{url}/do', {{method: 'POST', mode: 'no-cors'}}).then(() => 1, () => 1)") == 1
        page.click("button")
        page.wait_for_url(f"{url}/do")
        assert "another site" in str(page.text_content("body"))
        page.goto(f"http://rebound.test:{port}/")  # somebody's name that leads here
        assert "does not go by that name" in str(page.text_content("body"))
        browser.close()
    assert len(site.done) == 2


def _attack(target: str) -> ASGIApp:
    async def page(request: Request) -> Response:
        return HTMLResponse(f'<form method="post" action="{target}/do"><button>win a prize</button></form>')

    return Starlette(routes=[Route("/", page)])

"""What stands before every page and route: who may ask, how much, and what browsers may do with the answer.

Plain ASGI around the whole app, its error pages and files included (OWASP ASVS 5.0, chapter 3). Requests are checked by
their ``Host`` (DNS rebinding), and those that change something by where they come from: ``Sec-Fetch-Site``, else
``Origin``, instead of tokens in forms. So a ``GET`` must never change anything.
"""

from __future__ import annotations

from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.annotation.accounts import SESSION_LIMIT
from prefloop.annotation.service import LOOPBACK, Address

App = TypeVar("App", bound=Starlette)
BODY_LIMIT = 2 * 1024 * 1024
"""Most bytes of a request's body."""
STATIC = "/static/"
"""Files that are everybody's and may be cached."""
SAFE = ("GET", "HEAD", "OPTIONS")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
)
_UNUSED = "accelerometer autoplay camera display-capture geolocation gyroscope magnetometer microphone midi payment usb"
_PORTS = {"http": ":80", "https": ":443"}


def guarded(app: App, address: Address) -> App:
    """The app with all guards around it; to be called before its first request.

    Middleware that is added in the ordinary way stands inside the page for unforeseen errors, which would then have no
    security headers.
    """
    inner = app.build_middleware_stack

    def build() -> ASGIApp:
        limited = RequestBodyLimitMiddleware(BodyCheck(inner()), BODY_LIMIT)
        return SecurityHeaders(HostCheck(OriginCheck(limited, address), address), address)

    # Starlette builds the stack once, by this method; there is no other place outside its own error page.
    app.build_middleware_stack = build  # type: ignore[method-assign]
    return app


class SecurityHeaders:
    """Headers on every answer, in place of any that the app gave."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app, self.headers = app, security_headers(address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self.headers)
                if not scope["path"].startswith(STATIC):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, sending)


class HostCheck:
    """Answers only to its own name: a name that somebody points here gets nothing. WebSockets are not spoken."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app, self.hosts = app, {urlsplit(origin).netloc for origin in origins(address)}
        self.hosts |= {host + _PORTS[urlsplit(address.origin).scheme] for host in self.hosts if _bare(host)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http" and (refusal := self._refusal(scope)):
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1:
            return refuse(scope, 400, "invalid", "a request has one Host header")
        if hosts[0].lower() not in self.hosts:
            return refuse(scope, 421, "invalid", "this server does not go by that name: open the address it printed")
        return None


class OriginCheck:
    """What changes something comes from the app's own pages, or from a program, which sends no cookie.

    Without ``Sec-Fetch-Site`` and ``Origin`` it is no browser of this decade; a cookie then makes it suspicious.
    """

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self.app, self.origins = app, origins(address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in SAFE or self._own(Headers(scope=scope)):
            await self.app(scope, receive, send)
        else:
            reason = "this came from another site: open the page here and try again (programs: a token, no cookie)"
            await refuse(scope, 403, "forbidden", reason)(scope, receive, send)

    def _own(self, headers: Headers) -> bool:
        if sites := headers.getlist("sec-fetch-site"):
            return all(site in ("same-origin", "none") for site in sites)
        if given := headers.getlist("origin"):
            return all(origin.lower() in self.origins for origin in given)
        return "cookie" not in headers


class BodyCheck:
    """Refuses a body that is too long before anything is done, and forms in other shapes than the pages send.

    A multipart form chooses how its own text is decoded, and some codecs take very long.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope, Headers(scope=scope))):
            await refusal(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_LIMIT:
            return refuse(scope, 413, "invalid", f"a request has at most {BODY_LIMIT:,} bytes")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("multipart/"):
            return refuse(scope, 415, "invalid", "forms are sent as application/x-www-form-urlencoded")
        return None


def security_headers(address: Address) -> dict[str, str]:
    """For every answer of the server at this address.

    On plain HTTP beyond loopback browsers send no ``Sec-Fetch-Site``, and with the referrer policy ``no-referrer`` a
    form's ``Origin`` is ``null`` (Fetch standard, "append a request Origin header"). There the policy is
    ``same-origin``: other sites learn as little, and the form's origin can be checked. Loopback gets no HSTS, which
    would hold for every port of the machine.
    """
    found = {
        "Content-Security-Policy": CSP,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer" if address.secure else "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _UNUSED.split()),
    }
    if address.secure and not address.loopback:
        found["Strict-Transport-Security"] = "max-age=31536000"
    return found


def origins(address: Address) -> set[str]:
    """How browsers name the server: by its address, and on loopback by the machine's other names for itself.

    >>> sorted(origins(Address("http://127.0.0.1:8642")))
    ['http://127.0.0.1:8642', 'http://[::1]:8642', 'http://localhost:8642']
    """
    parts = urlsplit(address.origin.lower())
    scheme, host = parts.scheme, parts.netloc.removesuffix(_PORTS[parts.scheme])
    if not address.loopback:
        return {f"{scheme}://{host}"}
    port = "" if _bare(host) else f":{parts.port}"
    return {f"{scheme}://{f'[{name}]' if ':' in name else name}{port}" for name in LOOPBACK}


def refuse(scope: Scope, status: int, kind: str, reason: str) -> Response:
    """A refusal before any route is reached: words for people, the API's shape of errors for programs."""
    if scope["path"].startswith("/api/"):
        return JSONResponse({"error": {"kind": kind, "reason": reason}}, status)
    return PlainTextResponse(reason, status)


def session_cookie(address: Address) -> tuple[str, dict[str, Any]]:
    """Name and attributes of the session's cookie; ``__Host-`` binds it to this host, and needs HTTPS.

    Browsers share cookies among the ports of a host (RFC 6265, 8.5): a port in the address is in the name, so that two
    projects on one machine do not sign each other's people out.

    >>> [session_cookie(Address(a))[0] for a in ("http://127.0.0.1:8642", "https://rate.example.org")]
    ['prefloop-8642', '__Host-prefloop']
    """
    port = urlsplit(address.origin).port
    name = f"{'__Host-' if address.secure else ''}prefloop{'' if port is None else f'-{port}'}"
    return name, {"path": "/", "secure": address.secure, "httponly": True, "samesite": "lax"}


def set_session(response: Response, address: Address, token: str) -> None:
    """Give the browser its session; the only place where its secret leaves the server."""
    name, attributes = session_cookie(address)
    response.set_cookie(name, token, max_age=SESSION_LIMIT // 1000, **attributes)


def clear_session(response: Response, address: Address) -> None:
    """Take the cookie back; the session itself ends by `prefloop.annotation.accounts.close_session`."""
    name, attributes = session_cookie(address)
    response.delete_cookie(name, **attributes)


def _bare(host: str) -> bool:
    """Whether it names no port, and so means its scheme's."""
    return urlsplit(f"//{host}").port is None

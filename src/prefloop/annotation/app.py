"""The web app of one project, put together: pages, desk, API, guards, and what runs beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from prefloop.annotation import api, desk, desk_access, pages, pages_account, pages_doors
from prefloop.annotation.background import Background
from prefloop.annotation.courier import Courier
from prefloop.annotation.guards import guarded
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.rendering import stylesheet
from prefloop.annotation.service import Service
from prefloop.errors import StoreError

NO_TELEMETRY: Any = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""Nothing is sent anywhere, whatever the environment says."""
PARTS = (api, pages_doors, pages, pages_account, desk, desk_access)
TITLES = {
    403: "This is not for you",
    404: "There is nothing here",
    405: "There is nothing here",
    409: "Nothing was changed",
    422: "That does not fit",
    429: "Too many tries",
    503: "It could not be saved",
}


def create_app(service: Service) -> FastAPI:
    """The app, to be served by one process that owns the project (`prefloop.annotation.database.owned`)."""
    app = FastAPI(
        title="prefloop annotation",
        version=version("prefloop"),
        description="People rank generated answers. Programs send `Authorization: Bearer pf_…`.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url=f"{api.PREFIX}/openapi.json",
        lifespan=_beside,
        telemetry=NO_TELEMETRY,
        routes=[route for part in PARTS for route in part.router.routes],  # included, each app would build them anew
    )
    app.state.service = service
    app.add_api_route("/static/code.css", _code_css, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
    for kind, handler in (
        (RefusedError, api.refused),
        (RequestValidationError, api.unreadable),
        (HTTPException, api.http_error),
        (StoreError, api.unavailable),
        (Exception, api.failed),
    ):
        app.add_exception_handler(kind, _as_asked(handler))
    return guarded(app, service.address)


@asynccontextmanager
async def _beside(app: FastAPI) -> AsyncIterator[None]:
    """While the server runs: deliver webhooks, and compute figures where the desk or a stop rule asks for them."""
    service: Service = app.state.service
    app.state.figures = Background(service)
    tasks = [asyncio.create_task(Courier(service).run()), asyncio.create_task(app.state.figures.watch())]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await app.state.figures.close()


def _as_asked(handler: Callable[[Request, Any], Awaitable[Response]]) -> Callable[[Request, Any], Awaitable[Response]]:
    """Failures as JSON for programs, and as a page for people."""

    async def handle(request: Request, error: Any) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 303 and not api.is_api(request):
            return Response(status_code=303, headers=error.headers)
        found = await handler(request, error)
        if api.is_api(request):
            return found
        said = json.loads(bytes(found.body))
        reason = error.detail if isinstance(error, HTTPException) else said["error"]["reason"]
        title = TITLES.get(found.status_code, "Something went wrong")
        return pages.page("error.html", request, None, found.status_code, title=title, reason=reason)

    return handle


def _code_css() -> Response:
    return Response(stylesheet(), media_type="text/css")

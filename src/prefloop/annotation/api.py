"""The HTTP API, under ``/api/v1``: what the pages' script, the client and other programs speak.

Every answer that is no success has one shape, ``{"error": {"kind", "reason"}}``, and none tells how the server works.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exception_handlers import http_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from prefloop.annotation import api_access, api_rating, api_running
from prefloop.annotation.api_models import failures
from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.throttle import ThrottledError
from prefloop.errors import StoreError

PREFIX = "/api/v1"
STATUSES = {"missing": 404, "conflict": 409, "invalid": 422, "forbidden": 403}
_KINDS = {401: "unauthorized", 403: "forbidden", 404: "missing", 405: "invalid", 409: "conflict", 413: "invalid"}
_LONGEST = 2000
_log = logging.getLogger(__name__)

router = APIRouter(prefix=PREFIX, responses=failures(400, 401, 403, 413, 422, 503))
for part in (api_rating.router, api_running.router, api_access.router):
    router.include_router(part)


def install_errors(app: FastAPI) -> None:
    """Answer failures in the API's shape; pages may bring handlers of their own that call these for `is_api` requests.

    Only `HTTPException` is left as it is beside the API: pages redirect by it.
    """
    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(StoreError, unavailable)
    app.add_exception_handler(Exception, failed)


def is_api(request: Request) -> bool:
    """Whether a program asked rather than a page."""
    return request.url.path.startswith(f"{PREFIX}/")


def problem(status: int, kind: str, reason: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that is no success."""
    text = reason[:_LONGEST].encode(errors="replace").decode()  # halves of characters come in, and cannot go out
    return JSONResponse({"error": {"kind": kind, "reason": text}}, status, headers)


async def refused(request: Request, error: Any) -> Response:
    """`RefusedError` by its kind; too many tries with the time to wait."""
    if isinstance(error, ThrottledError):
        return problem(429, "forbidden", str(error), {"Retry-After": str(error.seconds)})
    return problem(STATUSES[error.kind], error.kind, str(error))


async def unreadable(request: Request, error: Any) -> Response:
    """A request that does not fit the schema: the first findings, each with its place."""
    return problem(422, "invalid", _findings(error.errors()))


async def http_error(request: Request, error: Any) -> Response:
    """What the framework raises."""
    if not is_api(request):
        return await http_exception_handler(request, error)
    return problem(error.status_code, _KINDS.get(error.status_code, "invalid"), str(error.detail), error.headers)


async def unavailable(request: Request, error: Exception) -> Response:
    """The writer is closed, or could not commit: nothing was saved."""
    _log.error("%s %s: %s", request.method, request.url.path, error)
    return problem(503, "unavailable", "it could not be saved: try again in a moment", {"Retry-After": "5"})


async def failed(request: Request, error: Exception) -> Response:
    """A fault of the server; the framework writes its trace into the log."""
    return problem(500, "failed", "the server failed; its log says why")


def _findings(errors: Sequence[Any]) -> str:
    said = [f"{'.'.join(str(part)[:100] for part in error['loc'])}: {error['msg']}" for error in errors[:5]]
    more = len(errors) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")

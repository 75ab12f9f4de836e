"""Failures of the Hub in one line each, none of which ever holds a token or a signed address."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
"""Statuses that may be gone with the next attempt."""

SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bhf_oauth_[\w.-]{16,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bsk-(?:proj-|ant-|or-)?[A-Za-z0-9_-]{32,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Access tokens and private keys by the forms that their issuers give them."""

_SIGNED = re.compile(r"(https?://[^\s'\"?]+)\?[^\s'\"]+")
_HEADER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}")


@dataclass(frozen=True)
class Place:
    """What was asked for, for messages."""

    repo_id: str
    kind: str
    """``dataset`` or ``model``."""
    endpoint: str
    writing: bool
    logged_in: bool

    @property
    def page(self) -> str:
        """Address of the repository's page."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo_id}"

    @property
    def name(self) -> str:
        """The repository in words."""
        return f"the {'data set' if self.kind == 'dataset' else self.kind} {self.repo_id}"


def redact(text: str, token: str | None = None) -> str:
    """`text` without tokens, authorisation headers and the queries of signed addresses.

    >>> redact("PUT https://store/x?Signature=abc with Bearer hf_aaaaaaaaaaaaaaaaaaaaaaaa")
    'PUT https://store/x?… with <token>'
    """
    for secret in (token, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        if secret and len(secret.strip()) >= 6:
            text = text.replace(secret.strip(), "<token>")
    return SECRETS.sub("<token>", _HEADER.sub("<token>", _SIGNED.sub(r"\1?…", text)))


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what caused it, outermost first."""
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or found.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of the Hub's client came from, if it came from an answer at all."""
    for each in chain(error):
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later: the line broke, or the Hub was busy.

    Xet's failures are plain ConnectionErrors that tell a status in their text alone.
    """
    import httpx2
    from huggingface_hub.errors import OfflineModeIsEnabled

    found = list(chain(error))
    if any(isinstance(each, OfflineModeIsEnabled) for each in found):
        return False
    status = status_of(error)
    if status:
        return status in TRANSIENT
    broken = any(isinstance(each, httpx2.TransportError | ConnectionError | TimeoutError) for each in found)
    return broken and not any("client error" in str(each) for each in found)


def explain(error: BaseException, place: Place, token: str | None) -> str:
    """One line that names what happened, where, and the way out; without any token."""
    message = _of_kind(error, place) or _of_status(error, place, token) or _other(error, place, token)
    return redact(message, token)


def login_hint(place: Place) -> str:
    """How to log in."""
    return f"run 'hf auth login' or set HF_TOKEN (tokens: {place.endpoint}/settings/tokens)"


def _of_kind(error: BaseException, place: Place) -> str | None:
    import httpx2
    from huggingface_hub import errors

    found = list(chain(error))

    def any_is(kind: type[BaseException]) -> bool:
        return any(isinstance(each, kind) for each in found)

    if any_is(errors.OfflineModeIsEnabled):
        return f"offline: HF_HUB_OFFLINE is set, so {place.name} cannot be reached; unset it or give a local folder"
    if any_is(errors.GatedRepoError):
        first = "" if place.logged_in else f"{login_hint(place)}, then "
        return f"{place.name} is gated: {first}open {place.page}, accept its terms with that account and run again"
    if any_is(errors.RevisionNotFoundError):
        return f"{place.name} has no such revision: see the branches and tags at {place.page}"
    if any_is(errors.RemoteEntryNotFoundError):
        return f"{place.name} has no such file: see {place.page}/tree/main"
    if any_is(errors.HFValidationError):
        return f"{place.repo_id!r} is not a repository id: give owner/name"
    if status_of(error) is None and any_is(httpx2.TransportError):
        return (
            f"cannot reach {place.endpoint} for {place.name} ({_why(found)}): check the network, proxy or HF_ENDPOINT "
            "and run again; what the Hub has is not sent again"
        )
    if any("xet-" in str(each) and "client error" in str(each) for each in found):
        return (
            f"{place.endpoint} does not take Xet transfers for {place.name}: set HF_HUB_DISABLE_XET=1 for plain ones, "
            "or check that the token may write"
        )
    if any(isinstance(each, OSError) and each.errno == errno.ENOSPC for each in found):
        return f"disk full while fetching {place.name}: free some space and run again; finished files are kept"
    return None


def _why(found: list[BaseException]) -> str:
    import httpx2

    return next(type(each).__name__ for each in found if isinstance(each, httpx2.TransportError))


def _of_status(error: BaseException, place: Place, token: str | None) -> str | None:
    status = status_of(error)
    if status == 401 and place.logged_in:
        return (
            f"{place.endpoint} refuses the token for {place.name} (401): it is wrong, expired or revoked; "
            f"make another and {login_hint(place)}"
        )
    if status in (401, 404) and not place.logged_in:
        return f"not logged in, and {place.name} is missing or private ({status}): {login_hint(place)}"
    if status == 404:
        return f"there is no {place.name.removeprefix('the ')} at {place.endpoint}, or your account may not see it"
    if status == 403:
        owner = place.repo_id.partition("/")[0]
        what = f"write to {place.name}" if place.writing else f"read {place.name}"
        ways = f"a token with write permission and an account that belongs to {owner!r}" if place.writing else "access"
        return f"no permission to {what} (403){_said(error, token)}: it takes {ways}; {login_hint(place)}"
    if status in (409, 412):
        return f"{place.name} changed while it was written ({status}): run again"
    if status == 429:
        return f"{place.endpoint} limits your rate (429): wait a few minutes and run again; nothing is sent twice"
    if status and status >= 500:
        return (
            f"{place.endpoint} fails for {place.name} ({status}) after several attempts: try later; "
            "what the Hub has is not sent again"
        )
    return None


def _said(error: BaseException, token: str | None) -> str:
    """What the server said of it, cut short."""
    for each in chain(error):
        said = getattr(each, "server_message", None)
        if said:
            return f", which says {redact(' '.join(str(said).split()), token)[:200]!r}"
    return ""


def _other(error: BaseException, place: Place, token: str | None) -> str:
    innermost = [each for each in chain(error) if str(each).strip()][-1:] or [error]
    text = redact(" ".join(str(innermost[0]).split()), token)[:300]
    return f"{place.name}: the Hub's client failed with {type(innermost[0]).__name__}: {text}"

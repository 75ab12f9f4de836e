"""What an OpenAI-compatible server sent back, read as hostile input: an answer, or a failure in the server's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

RETRIED = frozenset({429, 500, 502, 503, 504, 529})
"""Too many requests, and what a server that is restarted or overloaded says; any other status is final."""
EVERYONE = frozenset({401, 403, 404, 405})
"""Key, address or model are wrong: no other request would do better."""
LONGEST_WORDS = 300


@dataclass(frozen=True)
class Reply:
    """One answer of a chat model, or why there is none."""

    text: str = ""
    finish_reason: str = ""
    """As the server named it: ``stop``, ``length``, ``content_filter``, …"""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""
    """Empty where the request was answered."""


@dataclass(frozen=True)
class Failure:
    """A request that was not answered."""

    words: str
    status: int = 0
    """0 = no answer of the protocol came back."""
    again: bool = False
    """Whether another try may succeed."""
    everyone: bool = False
    """Whether every other request would fail alike."""
    wait: float | None = None
    """Seconds the server asks to wait."""

    @property
    def cause(self) -> str:
        """Equal for failures of one cause."""
        return f"HTTP {self.status}" if self.everyone and self.status else self.words


def read_reply(content: bytes, secret: str) -> Reply | Failure:
    """The first choice of a chat completion; a body that is cut or has another shape is worth another try."""
    try:
        payload = json.loads(content)
        choice = payload["choices"][0]
        text = choice["message"].get("content")
        if not isinstance(text, str | None):
            raise TypeError
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Failure(f"the answer cannot be read: {_clean(content, secret) or 'empty'}", again=True)
    usage = payload.get("usage")
    return Reply(
        text=_utf8(text or ""),
        finish_reason=_utf8(str(choice.get("finish_reason") or ""))[:LONGEST_WORDS],
        prompt_tokens=_count(usage, "prompt_tokens"),
        completion_tokens=_count(usage, "completion_tokens"),
    )


def failure_of(status: int, headers: Mapping[str, str], content: bytes, secret: str) -> Failure:
    """A refused request, in the server's words and without the key."""
    words = _clean(_message(content), secret)
    return Failure(
        f"HTTP {status}" + (f", {words}" if words else ""),
        status,
        again=status in RETRIED,
        everyone=status in EVERYONE,
        wait=_retry_after(headers),
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from either form of the header (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            said = headers.get("date")  # the server's clock, which may differ from ours
            now = parsedate_to_datetime(said) if said else datetime.now(UTC)
            seconds = (parsedate_to_datetime(value) - now).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if seconds == seconds else None


def _message(content: bytes) -> bytes:
    """The message inside the shapes that servers use for errors; else the whole body."""
    try:
        payload = json.loads(content)
        error = payload.get("error", payload)
        message = error if isinstance(error, str) else error.get("message") or error.get("detail")
        return message.encode(errors="replace") if isinstance(message, str) else content
    except (ValueError, AttributeError, RecursionError):
        return content


def _clean(content: bytes, secret: str) -> str:
    """One printable line of bounded length, without the secret."""
    text = content.decode("utf-8", errors="replace")
    if secret:
        text = text.replace(secret, "***")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= LONGEST_WORDS else f"{line[:LONGEST_WORDS]}…"


def _utf8(text: str) -> str:
    """JSON can carry halves of surrogate pairs, which no file can."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53 else 0

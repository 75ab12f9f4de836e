"""A small client of the annotation API, for scripts and judges that are programs.

Every request may be sent again without harm (a verdict has its id, a lease is the same lease, an item its content), so
what the network swallowed is sent again: a few times, with growing pauses.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from prefloop.annotation.api_models import (
    Item,
    Nothing,
    OwnJudgement,
    OwnJudgements,
    Project,
    Renewed,
    Result,
    Saved,
)
from prefloop.annotation.api_models_running import AddedItems
from prefloop.errors import ConfigError, PrefloopError

TRIES = 5
_AGAIN = (429, 502, 503, 504)
_LONGEST_WAIT_S = 60.0
_PAGE = 10_000
_ITEMS_AT_ONCE = 100
_BYTES_AT_ONCE = 1_000_000
"""Of the 2 MiB that a request may have."""


class ApiError(PrefloopError):
    """The server refused a request, or could not be reached; says what it said."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        super().__init__(f"{kind}: {reason}" if status else reason)
        self.status = status
        """HTTP status; 0 where no answer came."""
        self.kind = kind


class AnnotationClient:
    """Speaks for the owner of a token; a context manager.

    Args:
        url: where the server is, as in ``https://rate.example.org``.
        token: as the desk gives it, ``pf_…``.
        transport, sleep: the tests bring their own.

    Raises:
        ConfigError: the URL is no web address.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no web address: give one like https://rate.example.org")
        headers = {"Authorization": f"Bearer {token}"}
        base = f"{url.rstrip('/')}/api/v1/"
        self._http = httpx2.Client(base_url=base, headers=headers, timeout=timeout, transport=transport)
        self._sleep = sleep

    def __enter__(self) -> AnnotationClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    # Judging

    def next(self) -> Item | Nothing:
        """The item held, or the next one; `Nothing` says why there is none."""
        found = self._json("POST", "next")
        return Nothing.model_validate(found) if "nothing" in found else Item.model_validate(found)

    def renew(self, item: Item) -> int:
        """Hold an item longer; the lease's new end in milliseconds."""
        return Renewed.model_validate(self._json("POST", f"items/{item.id}/renew")).expires

    def run(self, item: Item, text: str) -> Result:
        """What the query of a corrected answer returns, where the item's answers were run, too; nothing is kept."""
        return Result.model_validate(self._json("POST", f"items/{item.id}/run", json={"text": text}))

    def submit(self, item: Item, kind: str, *, client_id: str | None = None, **verdict: Any) -> Saved:
        """Give a verdict; it is durable when this returns.

        Args:
            kind: ``choice`` (with ``strength``), ``ranking`` (with tiers of answer indices), ``skip`` (with
                ``reason``) or ``withdrawn`` (with ``revises``).
            client_id: a UUID, to send the same verdict again later; made here where none is given.
            verdict: the other fields of `prefloop.annotation.protocol.Verdict`.

        Raises:
            ApiError: refused, or no answer: send it again with the same ``client_id``.
        """
        body = {"client_id": client_id or str(uuid.uuid4()), "item_id": item.id, "kind": kind}
        return Saved.model_validate(self._json("POST", "judgements", json=body | verdict))

    def judgements(self, after: int = 0) -> Iterator[OwnJudgement]:
        """One's own verdicts, every revision, oldest first."""
        while True:
            page = OwnJudgements.model_validate(self._json("GET", "judgements/mine", params={"after": after}))
            yield from page.judgements
            if page.next is None:
                return
            after = page.next

    # Running a project

    def project(self) -> Project:
        """What raters are asked; with the scope ``manage``, all settings."""
        return Project.model_validate(self._json("GET", "project"))

    def progress(self) -> dict[str, Any]:
        """The counts of `prefloop.annotation.progress.Progress`."""
        found: dict[str, Any] = self._json("GET", "progress")
        return found

    def add_items(self, items: Iterable[dict[str, Any]]) -> AddedItems:
        """Append items, each ``{"prompt", "answers": [{"text", "policy"}, …], …}`` (docs/annotation-api.md).

        Sent in parts, in order; items that are there already are left alone, so a broken call is made again.
        """
        added, ids = 0, list[str]()
        for part in _parts(items):
            found = AddedItems.model_validate(self._json("POST", "items", json={"items": part}))
            added, ids = added + found.added, [*ids, *found.ids]
        return AddedItems(added=added, ids=ids)

    def set_state(self, state: str, reason: str = "") -> None:
        """``running``, ``paused`` or ``stopped``."""
        self._json("POST", "project/state", json={"state": state, "reason": reason})

    def export(self, path: Path) -> int:
        """Append the log to a JSON-lines file, from where the file ends; how many lines came.

        A line that was cut off is dropped first. ``current`` and ``counted`` of lines that were there stay as they were
        read: the last revision of (``item_id``, ``rater``, ``turn``) holds.
        """
        after, end = _last(path)
        lines = 0
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(end)
            file.truncate()
            while body := self._send("GET", "export/judgements", params={"after": after, "limit": _PAGE}).content:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
                lines += body.count(b"\n")
                after = json.loads(body.splitlines()[-1])["seq"]
        return lines

    # The wire

    def _json(self, method: str, path: str, **request: Any) -> Any:
        return self._send(method, path, **request).json()

    def _send(self, method: str, path: str, **request: Any) -> httpx2.Response:
        for attempt in range(TRIES):
            wait = float(2**attempt)
            try:
                response = self._http.request(method, path, **request)
            except httpx2.TransportError as failure:
                error = ApiError(0, "unavailable", f"{self._http.base_url.host} does not answer: {failure}")
            else:
                if response.is_success:
                    return response
                error = _error(response)
                if response.status_code not in _AGAIN:
                    raise error
                asked = response.headers.get("retry-after", "")
                wait = float(asked) if asked.isdigit() else wait
            if attempt + 1 < TRIES:
                self._sleep(min(wait, _LONGEST_WAIT_S))
        raise error


def _error(response: httpx2.Response) -> ApiError:
    """What the server said, or what stood between."""
    try:
        said = response.json()["error"]
        return ApiError(response.status_code, str(said["kind"]), str(said["reason"]))
    except (ValueError, KeyError, TypeError):
        reason = f"no answer of the annotation API: {response.status_code} {response.text[:200]!r}"
        return ApiError(response.status_code, "failed", reason)


def _parts(items: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    part: list[dict[str, Any]] = []
    size = 0
    for item in items:
        length = len(json.dumps(item))
        if part and (len(part) == _ITEMS_AT_ONCE or size + length > _BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(item)
        size += length
    if part:
        yield part


def _last(path: Path) -> tuple[int, int]:
    """``seq`` of the last whole line of a file, and where it ends in bytes.

    Raises:
        ConfigError: the file holds something else.
    """
    if not path.exists():
        return 0, 0
    seq = end = 0
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            end += len(line)
            last = line
    if end:
        try:
            seq = int(json.loads(last)["seq"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} holds no judgements of an earlier export: give another file") from error
    return seq, end

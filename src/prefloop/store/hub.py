"""The Hugging Face Hub: one commit per upload, downloads that are whole, retries, errors in one line.

The client library does the transfer (Xet where `hf_xet` is installed, Git LFS otherwise or with
``HF_HUB_DISABLE_XET=1``). The endpoint is ``HF_ENDPOINT``; the token is ``HF_TOKEN`` or what `hf auth login` kept,
and is handed to nothing but the client.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from prefloop.errors import ConfigError, DataError, PrefloopError, StoreError
from prefloop.progress import note
from prefloop.store.hub_errors import Place, explain, is_transient, login_hint, redact

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT = "https://huggingface.co"
KINDS = ("dataset", "model")
TRANSPORT = ("httpx2", "httpcore2")
"""Loggers of what the client sends through."""
WAITS_S = (1.0, 4.0)
"""Pauses before the second and third attempt at a whole step; the client retries each transfer five times within."""

_PART = r"(?!.*(?:--|\.\.))\w(?:[\w.-]{0,94}\w)?"
_REPO_ID = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Snapshot:
    """A repository at one commit."""

    repo_id: str
    kind: str
    commit: str
    """40 hex digits."""
    files: dict[str, int]
    """Size in bytes by path, sorted."""


@dataclass(frozen=True)
class Uploaded:
    """Where an upload is."""

    url: str
    commit: str
    changed: bool
    """False where the repository held the same bytes already."""


def endpoint() -> str:
    """Address of the Hub, without a slash at the end.

    Raises:
        ConfigError: ``HF_ENDPOINT`` is no http address.
    """
    given = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or ENDPOINT
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ConfigError(f"HF_ENDPOINT={redact(given)!r} is not an address: give one such as {ENDPOINT}")
    return given


def check_repo_id(repo_id: str, kind: str = "model") -> None:
    """Refuse what cannot be a repository.

    Raises:
        DataError: it is not ``owner/name`` in the Hub's alphabet, or `kind` is unknown.
    """
    if kind not in KINDS:
        raise DataError(f"{kind!r} is no kind of repository: give one of {', '.join(KINDS)}")
    if not _REPO_ID.fullmatch(repo_id) or repo_id.endswith(".git"):
        raise DataError(
            f"{redact(repo_id)!r} is not a repository id: give owner/name, each of at most 96 letters, digits, '-', "
            "'_' or '.', starting and ending with none of '-' and '.', without '--' or '..'"
        )


def repo_page(repo_id: str, kind: str) -> str:
    """Address of the repository's page."""
    return Place(repo_id, kind, endpoint(), False, False).page


def upload(
    repo_id: str, kind: str, files: Mapping[str, Path | bytes], *, public: bool, message: str, description: str = ""
) -> Uploaded:
    """Put files into a repository, made if need be, in one commit: all of them arrive or none.

    Sending again sends only what the Hub lacks; where it lacks nothing there is no commit.

    Args:
        files: content by path in the repository; other files that stand there stay.
        public: of a repository that is made; one that stands must be as `public` says.

    Raises:
        DataError: a malformed id.
        StoreError: not logged in, no permission, offline, or the Hub keeps failing.
    """
    check_repo_id(repo_id, kind)
    place = _place(repo_id, kind, writing=True)
    if not place.logged_in:
        raise StoreError(f"not logged in to {place.endpoint}: {login_hint(place)}; nothing was sent")

    def step() -> Uploaded:
        from huggingface_hub import CommitOperationAdd

        api = _api()
        api.create_repo(repo_id, repo_type=kind, private=not public, exist_ok=True)
        before = api.repo_info(repo_id, repo_type=kind)
        _check_visibility(place, private=bool(before.private), public=public)
        operations = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        done = api.create_commit(
            repo_id, operations, repo_type=kind, commit_message=message, commit_description=description
        )
        return Uploaded(place.page, done.oid, done.oid != before.sha)

    return _carried_out(step, place, StoreError)


def _check_visibility(place: Place, private: bool, public: bool) -> None:
    if public and private:
        raise StoreError(
            f"{place.name} is private: push without --public, and publish it at {place.page}/settings once you have "
            "looked at all that it holds; nothing was sent"
        )
    if not public and not private:
        raise StoreError(f"{place.name} is public: give --public to publish there, or another id; nothing was sent")


def kind_of(repo_id: str) -> str:
    """The kind of the repository of that name; of two the model.

    Raises:
        DataError: there is none, or as in `snapshot`.
    """
    check_repo_id(repo_id)
    place = _place(repo_id, "model")

    def step() -> list[str]:
        api = _api()
        return [kind for kind in reversed(KINDS) if api.repo_exists(repo_id, repo_type=kind)]

    for kind in _carried_out(step, place, DataError):
        return kind
    private = "or your account may not see it" if place.logged_in else f"or it is private: {login_hint(place)}"
    raise DataError(f"there is neither a model nor a data set {repo_id} at {place.endpoint}, {private}")


def snapshot(repo_id: str, kind: str = "dataset", revision: str | None = None) -> Snapshot:
    """What a repository holds at a branch, tag or commit; asks the Hub.

    Raises:
        DataError: it cannot be read (missing, private, gated, offline, …), or a path in it leaves the folder.
    """
    check_repo_id(repo_id, kind)

    def step() -> Snapshot:
        api = _api()
        commit = str(api.repo_info(repo_id, repo_type=kind, revision=revision).sha)
        tree = api.list_repo_tree(repo_id, repo_type=kind, revision=commit, recursive=True)
        sizes = {entry.path: size for entry in tree if (size := getattr(entry, "size", None)) is not None}
        return Snapshot(repo_id, kind, commit, dict(sorted(sizes.items())))

    found = _carried_out(step, _place(repo_id, kind), DataError)
    for name in found.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not name.isprintable():
            raise DataError(f"{repo_page(repo_id, kind)} holds a file with the path {name!r}: it is not fetched")
    return found


def fetch(found: Snapshot, folder: Path, names: Sequence[str]) -> None:
    """Write files of a snapshot into `folder`; files that an interrupted call left there whole are kept.

    Raises:
        DataError: as in `snapshot`, or the disk is full.
    """

    def step() -> None:
        from huggingface_hub import hf_hub_download

        for name in names:
            hf_hub_download(
                found.repo_id,
                name,
                repo_type=found.kind,
                revision=found.commit,
                local_dir=folder,
                endpoint=endpoint(),
            )

    _carried_out(step, _place(found.repo_id, found.kind), DataError)


def download_file(repo_id: str, filename: str, *, kind: str = "dataset", revision: str | None = None) -> Path:
    """A file of a repository in the Hub's local cache, fetched if need be; without a network the cached one.

    Raises:
        DataError: a malformed id, no such repository, file or revision, gated (names the page on which to accept the
            terms), private, offline and not cached, or the Hub keeps failing.
    """
    check_repo_id(repo_id, kind)

    def step() -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo_id, filename, repo_type=kind, revision=revision, endpoint=endpoint()))

    return _carried_out(step, _place(repo_id, kind), DataError, f"{filename}: ")


def download_folder(repo_id: str, *, kind: str, revision: str | None = None, patterns: Sequence[str] = ()) -> Path:
    """A repository in the Hub's local cache, fetched if need be; without a network the cached one if it is whole.

    Args:
        patterns: of the files wanted (``*.json``); none means all.

    Raises:
        DataError: as in `download_file`.
    """
    check_repo_id(repo_id, kind)

    def step() -> Path:
        from huggingface_hub import snapshot_download

        chosen = list(patterns) or None
        return Path(
            snapshot_download(repo_id, repo_type=kind, revision=revision, allow_patterns=chosen, endpoint=endpoint())
        )

    return _carried_out(step, _place(repo_id, kind), DataError)


def token() -> str | None:
    """The access token, if there is one; for redaction and for telling whether one is logged in."""
    from huggingface_hub import get_token

    return get_token()


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint(), library_name="prefloop")


def _place(repo_id: str, kind: str, writing: bool = False) -> Place:
    return Place(repo_id, kind, endpoint(), writing, token() is not None)


def _carried_out(step: Callable[[], _Found], place: Place, kind: type[PrefloopError], prefix: str = "") -> _Found:
    """The result of `step`, tried again after transient failures; every other failure as `kind`, in one line.

    The client's own exceptions are not chained: their text may quote what was sent.
    """
    failure = ""
    for attempt in range(len(WAITS_S) + 1):
        try:
            with subdued():
                return step()
        except PrefloopError:
            raise
        except Exception as error:  # the client, its transport and its storage each have their own kinds
            failure = prefix + explain(error, place, token())
            if attempt == len(WAITS_S) or not is_transient(error):
                break
        note(f"{failure}; trying again in {WAITS_S[attempt]:.0f} s")
        time.sleep(WAITS_S[attempt])  # back-off: a server in trouble is not helped by being asked at once
    raise kind(failure)


class _Notes(logging.Handler):
    """The client's warnings (retries, rate limits) as notes, without tokens and signed addresses."""

    def emit(self, record: logging.LogRecord) -> None:
        note(f"hub: {redact(record.getMessage())}")


@contextmanager
def subdued() -> Iterator[None]:
    """The client speaks through our notes alone, and draws bars only on a terminal; its settings are restored.

    Its transport logs headers and signed addresses, also where a program logs everything: it is kept to warnings.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub")
    transport = {each: each.level for each in map(logging.getLogger, TRANSPORT)}
    kept = logger.handlers, logger.propagate
    bars = not are_progress_bars_disabled() and not sys.stderr.isatty()
    logger.handlers, logger.propagate = [_Notes()], False
    for each in transport:
        each.setLevel(logging.WARNING)
    if bars:
        disable_progress_bars()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        for warning in caught:
            note(f"hub: {redact(str(warning.message))}")
    finally:
        logger.handlers, logger.propagate = kept
        for each, level in transport.items():
            each.setLevel(level)
        if bars:
            enable_progress_bars()

"""Object storage (``s3://``, ``gs://``, ``hf://``) through fsspec: addresses, copies of what they hold, errors.

Credentials and endpoints are those of fsspec and of each service's own client (``AWS_PROFILE``, ``AWS_ENDPOINT_URL``,
``GOOGLE_APPLICATION_CREDENTIALS``, ``HF_TOKEN``, …); none is read, kept or shown here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from prefloop.errors import DataError, PrefloopError, StoreError
from prefloop.progress import progress
from prefloop.records import content_id
from prefloop.store.files import atomic_path, cache_folder, exclusive, write_json
from prefloop.store.hub import endpoint, subdued
from prefloop.store.hub_errors import redact

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": ""}
"""Extra of this package by the scheme that needs it."""
LEASES, JOURNALS = ".lease", ".journal"
"""Folders beside a run's files that say who writes it, and copy its work in progress: nothing that a reader wants."""
_ADDRESS = re.compile(r"(?P<scheme>s3a?|gcs|gs|hf|memory):/{1,2}(?P<path>[^/].*)", re.DOTALL)
_VERSIONS = ("ETag", "etag", "xet_hash", "blob_id", "md5Hash", "crc32c")
"""What the services call the version of an object's content, the first that is there counts."""


@dataclass(frozen=True)
class Address:
    """A place in object storage."""

    scheme: str
    path: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    @property
    def id(self) -> str:
        """A name for what is kept here of it."""
        return content_id("address", str(self))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def filesystem(self) -> Any:
        """fsspec's file system for it, which is not to answer from what it listed earlier.

        Raises:
            StoreError: its package is not installed.
        """
        import fsspec

        options = {"endpoint": endpoint()} if self.scheme == "hf" else {}
        try:
            return fsspec.filesystem(self.scheme, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            extra = EXTRAS.get(self.scheme)
            raise StoreError(f"{self}: {self.scheme}:// needs a package: pip install 'prefloop[{extra}]'") from error


def address(path: Path | str) -> Address | None:
    """The address that a path is; None for a place on this machine. `Path` makes one slash of two, which is known.

    >>> str(address(Path("s3://bucket/runs/a/")))
    's3://bucket/runs/a'
    """
    found = _ADDRESS.fullmatch(str(path))
    return Address(found["scheme"], found["path"].rstrip("/")) if found else None


def files_below(fs: Any, place: Address) -> dict[str, str]:
    """Version of every file under a folder, by its path in it; empty where there is nothing.

    Raises:
        StoreError: a path that leaves the folder.
    """
    found: dict[str, str] = {}
    root = fs._strip_protocol(str(place)).rstrip("/")
    fs.invalidate_cache()
    for path, info in fs.find(root, detail=True).items():
        name = str(path)[len(root) :].lstrip("/")
        parts = PurePosixPath(name).parts
        if not name or name.endswith("/"):  # the file itself, or what some tools write in a folder's place
            continue
        if ".." in parts or "\\" in name or not name.isprintable():
            raise StoreError(f"{place} holds a file with the path {name!r}: it is not fetched")
        found[name] = version(info)
    return dict(sorted(found.items()))


def results_below(fs: Any, place: Address) -> dict[str, str]:
    """The same without leases and journals."""
    found = files_below(fs, place)
    return {name: of for name, of in found.items() if not {LEASES, JOURNALS} & set(PurePosixPath(name).parts)}


def version(info: dict[str, Any]) -> str:
    """What changes with an object's content."""
    for key in _VERSIONS:
        if info.get(key):
            return str(info[key]).strip('"')
    stamp = next((info[key] for key in ("LastModified", "updated", "mtime", "created") if info.get(key)), "")
    return f"{info.get('size')} {stamp}"


def fetched(path: Path | str, *, weights: bool = True) -> Path:
    """A local copy of a file or folder in object storage, fetched as far as it changed; a local path as it is.

    Args:
        weights: whether the safetensors of a folder are wanted.

    Raises:
        DataError: there is nothing, or it cannot be read.
    """
    place = address(path)
    if place is None:
        return Path(path)
    out = cache_folder() / "fetched" / place.id / place.name
    with exclusive(out), reaching(place, DataError):
        fs = place.filesystem()
        if not fs.exists(str(place)):
            raise DataError(f"{place} does not exist: check the address")
        if fs.isfile(str(place)):
            _bring(fs, place, {"": version(fs.info(str(place)))}, out, weights)
        else:
            _bring(fs, place, results_below(fs, place), out, weights)
    return out


def _bring(fs: Any, place: Address, there: dict[str, str], out: Path, weights: bool) -> None:
    """Make `out` hold what is there, by the versions of the last time."""
    record = out.with_name(f".{out.name}.versions.json")
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):  # nothing fetched yet, or a record that is damaged: all is fetched
        known = json.loads(record.read_text(encoding="utf-8"))
    for name in known.keys() - there.keys():
        (out / name).unlink(missing_ok=True)
    stale = [name for name in there if known.get(name) != there[name] or not (out / name).is_file()]
    wanted = [name for name in stale if weights or not name.endswith(".safetensors")]
    download(fs, place, wanted, out)
    write_json(record, {name: there[name] for name in there if name in wanted or name not in stale})


def download(fs: Any, place: Address, names: list[str], out: Path) -> None:
    """Write files of a folder (``""``: the address itself) to `out`, each whole or not at all."""
    if not names:
        return
    with progress(f"fetch {place.name}", len(names), "files") as advance:
        for name in names:
            with atomic_path(out / name) as temporary:
                fs.get_file(f"{place}/{name}" if name else str(place), str(temporary))
            advance(1)


@contextmanager
def reaching(place: Address, kind: type[PrefloopError] = StoreError, kept: str = "") -> Iterator[None]:
    """Failures of the block, which reaches for an address, in one line without secrets; `kept` is said at its end.

    The clients try again by themselves what may be gone with the next attempt.
    """
    try:
        with subdued() if place.scheme == "hf" else nullcontext():
            yield
    except PrefloopError:
        raise
    except Exception as error:  # each service's client has its own kinds
        raise kind(redact(f"{place}: {_reason(place, error)}{kept}")) from None


def _reason(place: Address, error: Exception) -> str:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    kind = type(error).__name__
    if "Credential" in kind or "credentials" in text.lower():
        return (
            f"no credentials for {place.scheme}:// ({text}): set them as its own tools expect (docs/object-storage.md)"
        )
    if isinstance(error, PermissionError):
        return f"access is refused ({text}): check the credentials and what they allow"
    if isinstance(error, FileNotFoundError) or kind == "RepositoryNotFoundError":
        return f"there is no such bucket, repository or file ({text}): create it or correct the address"
    return f"cannot be reached ({kind}: {text})"

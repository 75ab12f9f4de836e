"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefloop.errors import StoreError
from prefloop.records import canonical_json


def cache_folder() -> Path:
    """Where things that can be built again are kept: ``$PREFLOOP_CACHE``, else ``~/.cache/prefloop``."""
    return Path(os.environ.get("PREFLOOP_CACHE") or Path.home() / ".cache" / "prefloop")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is flushed to disk and renamed onto `path`.

    Raises:
        StoreError: the folder cannot be written, or the disk is full. What stood at `path` before stays.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may be the folder itself that cannot be reached
            temporary.unlink(missing_ok=True)
        if isinstance(error, StoreError):
            raise
        raise write_failure(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_failure(path: Path, error: OSError) -> StoreError:
    """The one-line message for a failed write to `path`."""
    if error.errno == errno.ENOSPC:
        return StoreError(
            f"disk full while writing {path}: free some space and run again with --resume; finished work is kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreError(f"cannot write {path}: the folder is read-only; choose another with --out")
    return StoreError(f"cannot write {path}: {error.strerror or error}; finished work is kept")


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one canonical JSON object per line, whole or not at all."""
    write_text(path, "".join(canonical_json(row) + "\n" for row in rows))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

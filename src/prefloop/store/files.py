"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from prefloop.errors import PrefloopError, StoreError
from prefloop.records import canonical_json


def cache_folder() -> Path:
    """Where things that can be built again are kept: ``$PREFLOOP_CACHE``, else ``~/.cache/prefloop``."""
    return Path(os.environ.get("PREFLOOP_CACHE") or Path.home() / ".cache" / "prefloop")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; on success it is flushed to disk and renamed onto `path`.

    The block only writes: every OSError in it counts as a failed write (`computed_path` where it also computes).

    Raises:
        StoreError: the folder cannot be written, or the disk is full. What stood at `path` before stays.
    """
    with writing(path), computed_path(path) as temporary:
        yield temporary


@contextmanager
def computed_path(path: Path) -> Iterator[Path]:
    """`atomic_path` for a block that also computes what it writes: a failure in it stays what it is.

    The block puts `writing` around its own writes.
    """
    on_this_machine(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with writing(path):
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):  # it may be the folder itself that cannot be reached
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, renamed onto it on success; what an earlier try left there is removed first.

    Where `out` stands already its files are replaced one by one, and others in it stay.

    Raises:
        StoreError: it cannot be written, or the disk is full; `out` is as before.
    """
    temporary = out.with_name(f".{out.name}.partial")
    with writing(out):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if not out.is_dir():
                temporary.replace(out)
                return
            for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
                target = out / path.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
            shutil.rmtree(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn failures of the block, which writes `path`, into a StoreError, whatever library writes.

    Libraries written in Rust (safetensors, tokenizers) report the system's error as text: "(os error 28)".
    """
    try:
        yield
    except PrefloopError:
        raise
    except OSError as error:
        raise write_failure(path, error) from error
    except Exception as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise write_failure(path, OSError(int(number[1]), str(error))) from error


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that other processes building the same `path` wait for."""
    lock = path.with_name(f".{path.name}.lock")
    with writing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.open("w")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def held(lock: Path, what: object) -> Iterator[None]:
    """Keep other processes from `what` by a lock file that says who holds it; it is removed at the end.

    The system lets go of the lock when the holder ends, however that is: neither a kill nor the clock leaves it behind.

    Raises:
        StoreError: another process holds it, named as far as that is known, or the file cannot be made.
    """
    with writing(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = _locked(lock, what)
    with handle:
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def _locked(lock: Path, what: object) -> IO[str]:
    """The lock file, open and locked, with this process's name in it."""
    while True:
        handle = lock.open("a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read(200).strip()
            handle.close()
            named = f" ({holder})" if holder else ""
            raise StoreError(
                f"{what} is in use by another prefloop process{named}: wait for it or choose --out"
            ) from error
        with suppress(FileNotFoundError):  # the holder before may have removed what was opened here
            if os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                handle.truncate(0)
                handle.write(f"process {os.getpid()} on {platform.node()}")
                handle.flush()
                return handle
        handle.close()


def write_failure(path: Path, error: OSError) -> StoreError:
    """The one-line message for a failed write to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
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


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        StoreError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}): restore it, or remove the folder and start over") from error


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


def on_this_machine(path: Path) -> None:
    """Refuse an address of object storage where it cannot be written; it would become a folder called ``s3:``.

    Raises:
        StoreError: it is one.
    """
    if re.match(r"[a-z][a-z0-9]+:/", str(path)):
        raise StoreError(f"{path} cannot be written: of what is in object storage only run folders can; give a path")


def unused(out: Path) -> None:
    """Refuse an output that stands: nothing of the user's is written over.

    Raises:
        StoreError: it is a file, a folder with something in it, or not on this machine.
    """
    on_this_machine(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise StoreError(f"{out} exists already: choose another --out or remove it first")


def claim(out: Path, identity: str, resume: bool) -> None:
    """Mark a folder of several results as this work's; finished parts of the same work may lie in it on `resume`.

    Raises:
        StoreError: it holds something, and not to be resumed, or another work's.
    """
    on_this_machine(out)
    marker = out / "identity.json"
    if out.is_dir() and any(out.iterdir()):
        if not resume:
            raise StoreError(f"{out} exists already: go on with --resume, or choose another --out")
        if not marker.is_file() or read_json(marker) != identity:
            raise StoreError(f"{out} was made from other data or settings: choose another --out")
    write_json(marker, identity)

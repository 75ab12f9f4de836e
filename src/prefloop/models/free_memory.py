"""How much memory this process may hold, by what the system says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import torch

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
NO_LIMIT = 2**60
"""Version 1 writes a number near 2^63 for no limit."""


def available_memory(device: torch.device | str = "cpu") -> int | None:
    """Bytes that this process may hold in all, what it holds now included; None where the system does not say.

    CUDA: free and own memory of the device. Otherwise the smallest of the machine's free memory (Linux:
    ``MemAvailable``; macOS: all of it, which the system compresses) and the limits of the control groups.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    own = _kilobytes(Path("/proc/self/status"), "VmRSS:") or 0
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
    found = [_physical() if free is None else free + own, *_group_limits(own)]
    return min((size for size in found if size is not None), default=None)


def _kilobytes(path: Path, name: str) -> int | None:
    """A line like ``MemAvailable:  1024 kB`` in bytes; None where there is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), None)
    except (OSError, ValueError, IndexError):
        return None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _group_limits(own: int, root: Path = GROUPS) -> list[int]:
    """What each control group over this process (version 2, then 1) leaves to it, what it holds included.

    A group's usage counts files it has read, too; ``inactive_file`` of them goes when memory is asked for.
    """
    found = []
    for folder, limit, usage, cache in _groups(root):
        most, used = _number(folder / limit), _number(folder / usage)
        if most is not None and used is not None and most < NO_LIMIT:
            found.append(max(0, most - max(0, used - (_statistic(folder / "memory.stat", cache) or 0) - own)))
    return found


def _groups(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders of the groups from this process's own up to the root, with the names of their files."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        inner = PurePosixPath(path.lstrip("/"))
        if not controllers:
            for folder in (inner, *inner.parents):
                yield root / folder, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for folder in (inner, *inner.parents):
                yield root / "memory" / folder, *names


def _number(path: Path) -> int | None:
    """None where the file is missing or says ``max``."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _statistic(path: Path, name: str) -> int | None:
    try:
        rows = dict(line.split() for line in path.read_text(encoding="utf-8").splitlines())
        return int(rows[name])
    except (OSError, ValueError, KeyError):
        return None

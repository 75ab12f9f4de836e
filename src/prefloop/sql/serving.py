"""What the processes that run untrusted SQL share: one JSON line in, one out, within an address space of their own.

Request: ``{"id": n, "database": name, "sql": text}``. Reply: ``{"id", "status", "columns", "rows", "message",
"opcodes"}`` with bytes as ``{"b": hex}`` and non-finite floats as ``{"f": text}``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from typing import Any


def reply(
    status: str, columns: list[str] | None = None, rows: list[Any] | None = None, *, message: str = "", opcodes: int = 0
) -> dict[str, Any]:
    """What one query gave, as JSON."""
    return {
        "status": status,
        "columns": columns or [],
        "rows": rows or [],
        "message": message[:300],
        "opcodes": opcodes,
    }


def cell(value: Any) -> Any:
    """A value as JSON."""
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"f": str(value)}
    return value


def size(value: Any) -> int:
    """What a value counts towards the largest result."""
    return len(value) if isinstance(value, str | bytes) else 8


def serve(answer: Callable[[str, str], dict[str, Any]], memory_mb: int) -> None:
    """Answer requests from standard input until it ends.

    Args:
        answer: database and SQL to a `reply`.
    """
    _confine(memory_mb)
    while line := sys.stdin.readline():
        request = json.loads(line)
        found = answer(request["database"], request["sql"])
        sys.stdout.write(json.dumps({"id": request["id"], **found}) + "\n")
        sys.stdout.flush()


def _confine(memory_mb: int) -> None:
    import resource

    size = memory_mb * 2**20
    with contextlib.suppress(ValueError, OSError):  # some systems (macOS) refuse address-space limits
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)

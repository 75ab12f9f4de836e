"""PostgreSQL's values as SQLite would give them, so that both are compared alike (`prefloop.sql.compare`).

Numbers are int or float, booleans 0 or 1, ``bytea`` bytes. Everything else is the server's own text: dates as ISO,
arrays as ``{1,2}``, JSON as it is written. Blanks that pad ``char(n)`` are left off.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.adapt import Loader

LARGEST_INT = 2**63
"""SQLite's integers end here; larger numbers are floats."""


class _Text(Loader):
    def load(self, data: Any) -> str:
        return bytes(data).decode("utf-8", "replace")


class _Padded(_Text):
    def load(self, data: Any) -> str:
        return super().load(data).rstrip(" ")


class _Int(Loader):
    def load(self, data: Any) -> int:
        return int(bytes(data))


class _Float(Loader):
    def load(self, data: Any) -> float:
        return float(bytes(data))


class _Numeric(Loader):
    def load(self, data: Any) -> int | float:
        text = bytes(data)
        found = float(text)
        return int(text) if text.lstrip(b"-").isdigit() and abs(found) < LARGEST_INT else found


class _Bool(Loader):
    def load(self, data: Any) -> int:
        return int(bytes(data) == b"t")


class _Bytes(Loader):
    def load(self, data: Any) -> bytes:
        return bytes.fromhex(bytes(data)[2:].decode())  # bytea_output is hex: \x00ff


_LOADERS = {"int2": _Int, "int4": _Int, "int8": _Int, "oid": _Int, "float4": _Float, "float8": _Float}
_LOADERS |= {"numeric": _Numeric, "bool": _Bool, "bytea": _Bytes, "bpchar": _Padded}


def load_plainly(connection: psycopg.Connection[Any]) -> None:
    """Have a connection's cursors give plain values; of types that psycopg does not know, too."""
    for kind in connection.adapters.types:
        for oid in filter(None, (kind.oid, kind.array_oid)):
            connection.adapters.register_loader(oid, _Text)
    connection.adapters.register_loader(0, _Text)
    for name, loader in _LOADERS.items():
        connection.adapters.register_loader(name, loader)

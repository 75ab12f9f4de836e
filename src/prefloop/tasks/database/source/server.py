"""What reading a PostgreSQL server needs beyond SQLite: errors that name the place, and dates that Python has not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.adapt import Loader

from prefloop.errors import DataError

TIMES = ("date", "time", "timetz", "timestamp", "timestamptz", "interval")


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn what the server says against reading a `place` into a DataError that names it."""
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise DataError(
            f"{place} takes longer to read than the role's statement_timeout: raise it while the task is made"
        ) from error
    except psycopg.Error as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{place} cannot be read: {reason}") from error


def rows_if_any(connection: Any, query: str) -> list[Any]:
    """What a query finds that may be left out: nothing where types have no equality, or the time is not enough."""
    with suppress(psycopg.errors.UndefinedFunction, psycopg.errors.QueryCanceled), connection.transaction():
        return list(connection.execute(query).fetchall())
    return []


def keep_all_times(connection: Any) -> None:
    """Have dates and times that Python cannot hold (``infinity``, years before 1 or after 9999) come as their text."""
    for name in TIMES:
        oid = connection.adapters.types[name].oid
        known = connection.adapters.get_loader(oid, psycopg.pq.Format.TEXT)
        assert known is not None
        connection.adapters.register_loader(oid, _or_text(known))


def _or_text(known: Any) -> type[Loader]:
    class OrText(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._known = known(oid, context)

        def load(self, data: Buffer) -> Any:
            try:
                return self._known.load(data)
            except (psycopg.DataError, OverflowError):
                return bytes(data).decode()

    return OrText

"""Slowing down those who guess: after a few failures each next try has to wait twice as long as the one before.

Failures are counted per account *and* address, and per address over all accounts; never per account alone, for then
anybody could lock somebody out by failing on purpose (OWASP ASVS 5.0, 6.1.1 and 6.3.1). What many addresses do together
is bounded by the cost of a hash (`prefloop.annotation.passwords`). A waiting try is refused before any hash is
computed, is not counted, and does not lengthen the wait.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from prefloop.annotation.protocol import RefusedError
from prefloop.annotation.schema import throttle

FREE, FREE_BY_ADDRESS = 5, 20
"""Failures before the first wait; people behind one address share the second."""
FIRST_WAIT, LONGEST_WAIT = 1_000, 15 * 60_000
FORGOTTEN = 24 * 3_600_000
"""Failures so long past no longer count; sooner, waiting for it would beat the back-off."""


class ThrottledError(RefusedError):
    """Too many failures: HTTP 429 with ``Retry-After``; the same for names that exist and that do not."""

    def __init__(self, wait: int) -> None:
        self.seconds = -(-wait // 1_000)
        super().__init__("forbidden", f"too many failed attempts: try again in {self.seconds} s")


@dataclass(frozen=True)
class Limit:
    """Something that is counted."""

    key: str
    """Hashed: the table names neither accounts nor addresses."""
    free: int


def account_limit(account: str, address: str) -> Limit:
    """Of tries on one account from one address."""
    return Limit(_hashed("account", account, network(address)), FREE)


def address_limit(what: str, address: str) -> Limit:
    """Of tries from one address: at signing in, at invitations, with tokens."""
    return Limit(_hashed("address", what, network(address)), FREE_BY_ADDRESS)


def network(address: str) -> str:
    """What one sender can easily change is one address: an IPv6 subnet of 64 bits.

    >>> network("2001:db8::1") == network("2001:db8::2"), network("::ffff:192.0.2.1"), network("unix")
    (True, '192.0.2.1', 'unix')
    """
    try:
        found = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found), 64), strict=False))


def check(connection: sa.Connection, limits: Sequence[Limit], now: int) -> None:
    """May somebody try now? Reads only.

    Raises:
        ThrottledError: not yet.
    """
    until = connection.scalar(sa.select(sa.func.max(throttle.c.until)).where(_any(limits)))
    if until is not None and until > now:
        raise ThrottledError(until - now)


def count(connection: sa.Connection, limits: Sequence[Limit], now: int) -> None:
    """Count a failure; rows that are forgotten go."""
    connection.execute(sa.delete(throttle).where(throttle.c.until <= now - FORGOTTEN))
    before = {row.key: row.failures for row in connection.execute(sa.select(throttle).where(_any(limits)))}
    for limit in limits:
        failures = before.get(limit.key, 0) + 1
        row = {"failures": failures, "until": now + wait(failures, limit.free)}
        if limit.key in before:
            connection.execute(sa.update(throttle).where(throttle.c.key == limit.key).values(row))
        else:
            connection.execute(sa.insert(throttle).values(key=limit.key, **row))


def forget(connection: sa.Connection, limit: Limit) -> None:
    """After a success. Not for an address: whoever has an account could forget their guesses at others by it."""
    connection.execute(sa.delete(throttle).where(throttle.c.key == limit.key))


def wait(failures: int, free: int) -> int:
    """Milliseconds until the next try.

    >>> [wait(failures, free=5) // 1000 for failures in (4, 5, 6, 7, 14, 15, 1000)]
    [0, 1, 2, 4, 512, 900, 900]
    """
    if failures < free:
        return 0
    return min(FIRST_WAIT << min(failures - free, 30), LONGEST_WAIT)


def _any(limits: Sequence[Limit]) -> sa.ColumnElement[bool]:
    return throttle.c.key.in_([limit.key for limit in limits])


def _hashed(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()

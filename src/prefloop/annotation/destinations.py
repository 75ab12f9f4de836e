"""Where a webhook may be sent: never to a machine inside, unless the server itself is only reached from inside.

A server that fetches what it is told to is a door into its own network: the cloud's metadata service, a database's
console. So the host is resolved, every address it has is checked, and the connection goes to the checked address: the
name is not resolved again, since a second answer could differ (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx2

from prefloop.annotation.protocol import RefusedError

LONGEST_URL = 2000
LOOK_UP_S = 5.0
_NAT64 = IPv6Network("64:ff9b::/96")
Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to the addresses it has; raises OSError where there are none."""


@dataclass(frozen=True)
class Destination:
    """An address that was checked, and how a request to it must look."""

    url: httpx2.URL
    """With the address in the place of the name."""
    host: str
    """The ``Host`` header."""
    name: str
    """What the certificate must be made out to."""


def read_url(text: str) -> httpx2.URL:
    """A URL that a webhook may have, as far as it can be seen without asking the name service.

    Raises:
        RefusedError: it is none, or holds a password.
    """
    try:
        url = httpx2.URL(text)
    except (httpx2.InvalidURL, UnicodeError) as error:
        raise RefusedError("invalid", "the webhook's URL cannot be read") from error
    if url.scheme not in ("http", "https") or not url.host or len(text) > LONGEST_URL:
        raise RefusedError("invalid", f"a webhook's URL is http(s)://host/path, of at most {LONGEST_URL} characters")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise RefusedError("invalid", f"there is no port {url.port}")
    if url.userinfo:
        raise RefusedError("invalid", "the webhook's URL holds a password: receivers check the signature instead")
    return url


async def check(text: str, *, inside: bool, resolve: Resolve | None = None) -> Destination:
    """The address behind a URL.

    Args:
        inside: addresses of this machine and of private networks will do.
        resolve: the name service; the tests bring their own.

    Raises:
        RefusedError: the URL is none, its host has no address, or one of them lies inside.
    """
    url = read_url(text)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        async with asyncio.timeout(LOOK_UP_S):
            found = await (resolve or look_up)(url.host, port)
    except (OSError, UnicodeError) as error:
        raise RefusedError("invalid", f"the host {url.host} has no address") from error
    if not found:
        raise RefusedError("invalid", f"the host {url.host} has no address")
    if not inside and not all(map(outside, found)):
        raise RefusedError("invalid", f"the host {url.host} lies in a private network: webhooks go to public hosts")
    host = url.netloc.decode("ascii")
    return Destination(url.copy_with(host=found[0], fragment=None), host, url.raw_host.decode("ascii").strip("[]"))


async def look_up(host: str, port: int) -> list[str]:
    """What the system's name service says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def outside(address: str) -> bool:
    """Whether an address is reached over the public internet.

    >>> [outside(a) for a in ("93.184.216.34", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%eth0")]
    [True, False, False, False, False]
    """
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        found = _embedded(found) or found
    return found.is_global and not found.is_multicast and not found.is_reserved


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, 6to4, Teredo or NAT64."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)

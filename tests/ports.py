"""Ports for servers that tests start, stop and start again."""

from __future__ import annotations

import random
import socket

import pytest


def free_port() -> int:
    """Below those that systems give to outgoing connections: one of them could take the port of a server that is down,
    even a client's own attempt to connect to it."""
    for port in random.Random().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    pytest.fail("no port is free")

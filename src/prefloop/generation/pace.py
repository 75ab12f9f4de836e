"""When requests may start: so many per minute, and not while the server asks everyone to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

Sleep = Callable[[float], Awaitable[None]]


class Pace:
    """When the next request may start: `interval` seconds after the last one, and not while a server asks to wait."""

    def __init__(self, interval: float, sleep: Sleep, clock: Callable[[], float]) -> None:
        self._interval, self._sleep, self._clock = interval, sleep, clock
        self._next = 0.0
        self._held = 0.0

    async def turn(self) -> None:
        """Wait for a place in the order of asking; a hold that comes meanwhile means a new place behind it."""
        while True:
            start = max(self._clock(), self._next)
            self._next = start + self._interval
            while (wait := start - self._clock()) > 0:
                await self._sleep(wait)
            if self._held <= start:
                return

    def hold(self, seconds: float) -> None:
        """Nobody starts for so long."""
        self._held = max(self._held, self._clock() + seconds)
        self._next = max(self._next, self._held)

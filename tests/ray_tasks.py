"""What the workers of `test_ray` do, in a module that they import quickly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefloop.errors import DataError


@dataclass(frozen=True)
class Doubles:
    """Doubles a number; what is named here goes wrong instead."""

    refused: int | None = None
    broken: int | None = None
    deadly: int | None = None

    def open(self, device: str, threads: int) -> Callable[[Any], Any]:
        def double(number: int) -> Any:
            if number == self.refused:
                raise DataError(f"{number} is refused, on {device} with {threads} threads")
            if number == self.broken:
                raise ZeroDivisionError("nothing\nto see")
            if number == self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            return 2 * number

        return double

"""Whether to go on asking a server: not where every first request fails for one cause."""

from __future__ import annotations

from prefloop.errors import ModelError
from prefloop.generation.replies import Failure, Reply

HOPELESS = 8
"""So many first requests that fail for one cause, and none that succeeds, end the whole."""


class Prospects:
    """Watches the answers of `total` requests to one model on one server."""

    def __init__(self, url: str, model: str, key_variable: str, total: int) -> None:
        self._url, self._model, self._key_variable, self._total = url, model, key_variable, total
        self._failures: list[Failure] = []
        self._answered = False
        self.hopeless = False

    def verdict(self, answer: Reply | Failure) -> ModelError | None:
        """What to raise if, with this answer, there is no point in asking on."""
        self._answered |= isinstance(answer, Reply)
        if self._answered or not isinstance(answer, Failure):
            return None
        self._failures.append(answer)
        first, count = self._failures[0], len(self._failures)
        enough = min(HOPELESS, self._total) if first.everyone else HOPELESS
        self.hopeless = count >= enough and len({failure.cause for failure in self._failures}) == 1
        if not self.hopeless:
            return None
        return ModelError(
            f"endpoint {self._url}, model {self._model!r}: {first.words}; "
            f"the first {count} request{'s' * (count > 1)} failed so{self._advice(first)}"
        )

    def _advice(self, failure: Failure) -> str:
        if failure.status in (401, 403):
            return f": is the key in {self._key_variable} right?"
        if failure.status in (404, 405):
            return ": is the model's name right, and does the URL end as the server wants it (often /v1)?"
        return ": is the server up, and the URL right?" if failure.everyone else ""

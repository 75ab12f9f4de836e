"""How answers are drawn from a policy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefloop.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. Filters apply in the order temperature, top_k, top_p, as in transformers.

    Raises:
        ConfigError: values that mean nothing, or that `greedy` would ignore; all findings at once.
    """

    k: int = 8
    """Answers per prompt (greedy: one, whatever `k`)."""
    temperature: float = 1.0
    top_p: float = 1.0
    """Nucleus: the smallest set of most probable tokens that holds this probability."""
    top_k: int = 0
    """Only the k most probable tokens; 0 = all."""
    max_new_tokens: int = 256
    greedy: bool = False
    """One answer, the most probable token at each step, index -1."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; the answer's text ends before them, its tokens after them."""

    def __post_init__(self) -> None:
        findings = [
            message
            for wrong, message in (
                (self.k < 1, f"k={self.k}: ask for at least 1 answer"),
                (
                    self.temperature <= 0,
                    f"temperature={self.temperature}: must be positive (use greedy for 0)",
                ),
                (not 0 < self.top_p <= 1, f"top_p={self.top_p}: must be above 0 and at most 1"),
                (self.top_k < 0, f"top_k={self.top_k}: must be 0 (all tokens) or positive"),
                (self.max_new_tokens < 1, f"max_new_tokens={self.max_new_tokens}: must be at least 1"),
                (not all(self.stop), "stop: an empty text would end every answer at once"),
                (
                    self.greedy and (self.temperature, self.top_p, self.top_k) != (1.0, 1.0, 0),
                    "greedy: temperature, top_p and top_k have no effect with it",
                ),
            )
            if wrong
        ]
        if findings:
            raise ConfigError("sampling: " + "; ".join(findings))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides an answer, as it stands in the records (k does not)."""
        kept = {name: value for name, value in asdict(self).items() if name != "k"}
        return {**kept, "stop": list(self.stop)}

    @property
    def indices(self) -> list[int]:
        """Indices of a prompt's answers."""
        return [-1] if self.greedy else list(range(self.k))

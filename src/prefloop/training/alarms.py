"""What a training run should be stopped for: found in its figures, said once, with the way out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from prefloop.training.update import Figures

WINDOW = 20
"""Steps that are averaged."""

STUCK = 1e-3
"""Mean margin below which nothing was learned: a DPO loss is then still ln 2."""

FALL = -1.0
"""Mean change of the chosen answers' log-probability, per token, from which on they are being unlearned."""

LONGER = 1.25
"""Chosen answers this much longer than rejected ones teach length."""


class Alarms:
    """Looks at a history after every step; says each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def __call__(self, history: Sequence[Figures]) -> list[str]:
        """What the last steps set off that was not said before."""
        if len(history) < WINDOW:
            return []
        found = [text for raised, text in ALARMS.items() if text not in self._said and raised(history)]
        self._said.update(found)
        return found


def _mean(history: Sequence[Mapping[str, float]], name: str) -> float:
    """Mean over the last window; NaN where the figure is not logged, which no comparison is true of."""
    return sum(row.get(name, math.nan) for row in history[-WINDOW:]) / WINDOW


def _stuck(history: Sequence[Figures]) -> bool:
    return abs(_mean(history, "rewards/margins")) < STUCK  # at ln 2, or what beside it is added


def _falling(history: Sequence[Figures]) -> bool:
    """Where there is a reference: without one the shift is the log-probability itself."""
    return "kl/token" in history[-1] and _mean(history, "shift/chosen") / _mean(history, "length/chosen") < FALL


def _longer(history: Sequence[Figures]) -> bool:
    return _mean(history, "length/chosen") > LONGER * _mean(history, "length/rejected")


ALARMS: dict[Callable[[Sequence[Figures]], bool], str] = {
    _stuck: "no margin between chosen and rejected, a DPO loss still at ln 2 = 0.693: raise training.learning_rate or "
    "training.beta, and look at the example above: are chosen and rejected the right way round?",
    _falling: f"the chosen answers lost more than {-FALL:g} nats per token: the policy forgets what it should prefer; "
    "lower training.learning_rate, or take training.nll_weight=0.2 or the objective dpop",
    _longer: f"chosen answers are over {LONGER:g} times as long as rejected ones, so length is learned: take pairs of "
    "like length; for a policy training.ld_alpha=0.5 (LD-DPO), or the objective simpo or dpo-norm",
}
"""Conditions and what is said of them."""

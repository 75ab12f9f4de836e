"""A judge of your own: a function from a prompt and its answers to one number for each.

    def shortest(prompt, answers, limit=100):
        return [-max(0, len(answer) - limit) for answer in answers]

``judge: my_module:shortest``, or with ``options`` a section of its own (docs/judges.md).
"""

from __future__ import annotations

import math
from typing import Any

from prefloop.config.judges import CustomConfig
from prefloop.config.plugins import load_function, source_of
from prefloop.judging.groups import Answered, ChunkedJudge
from prefloop.records import Judgement, Prompt, content_id

PROMPTS_PER_CHUNK = 16
GROUP = "prefloop.judges"
"""Entry points that name a judge."""


class CustomJudge(ChunkedJudge):
    """Calls the function once per prompt; what it raises, or returns wrongly, leaves that prompt unscored.

    The judge's name carries a hash of the function's text: scores of two versions are told apart.
    """

    per_chunk = PROMPTS_PER_CHUNK

    def __init__(self, config: CustomConfig) -> None:
        self._function = load_function(config.function, GROUP)
        self._options = config.options
        self.name = (
            f"{config.function}@{content_id(source_of(self._function), repr(sorted(config.options.items())))[:8]}"
        )
        self.identity = self.name

    def __enter__(self) -> CustomJudge:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def judge_chunk(self, chunk: list[Answered]) -> list[Judgement]:
        """One ``score`` judgement per completion."""
        found = []
        for prompt, answers in chunk:
            scores, error = self._scores(prompt, [answer.text for answer in answers])
            for answer, score in zip(answers, scores, strict=True):
                why = {} if score is not None else {"error": error or "no score"}
                found.append(Judgement.create(prompt.id, (answer.id,), self.name, "score", score, raw=why))
        return found

    def _scores(self, prompt: Prompt, answers: list[str]) -> tuple[list[float | None], str]:
        try:
            values = list(self._function(prompt, answers, **self._options))
            if len(values) != len(answers):
                raise ValueError(f"{len(values)} scores for {len(answers)} answers")
            return [_number(value) for value in values], "not a finite number"
        except Exception as error:  # the user's code may fail in any way, and one prompt must not end the run
            return [None] * len(answers), f"{type(error).__name__}: {' '.join(str(error).split())}"


def _number(value: Any) -> float | None:
    score = None if value is None else float(value)
    return score if score is None or math.isfinite(score) else None

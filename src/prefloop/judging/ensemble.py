"""Several judges on the same answers. Their scales differ, so each counts by rank within the prompt.

For answer i of a prompt with n answers that judge m scored: q_mi = (worse answers + half of the ties) / (n - 1), in
0..1, and score_i = Σ_m w_m q_mi / Σ_m w_m over the judges that scored it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.config.judges import EnsembleConfig, JudgeConfig
from prefloop.errors import ConfigError
from prefloop.judging.groups import Judge, answered
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.journal import Journal

Open = Callable[[JudgeConfig], Judge]


@dataclass(frozen=True)
class _Part:
    """One member's entries in the ensemble's journal."""

    journal: Journal
    prefix: str

    def entries(self) -> Mapping[str, Any]:
        return _Prefixed(self.journal.entries(), self.prefix)

    def append(self, key: str, value: Any) -> None:
        self.journal.append(self.prefix + key, value)


class _Prefixed(Mapping[str, Any]):
    """The entries whose keys start so, without that start; each is read when it is asked for."""

    def __init__(self, entries: Mapping[str, Any], prefix: str) -> None:
        self._entries, self._prefix = entries, prefix

    def __getitem__(self, key: str) -> Any:
        return self._entries[self._prefix + key]

    def __contains__(self, key: object) -> bool:
        return f"{self._prefix}{key}" in self._entries

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._entries if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class EnsembleJudge:
    """Members judge one after the other, so that only one is held in memory."""

    name = "ensemble"

    def __init__(self, config: EnsembleConfig, open_member: Open) -> None:
        if config.weights and len(config.weights) != len(config.members):
            raise ConfigError(f"judge.weights: {len(config.weights)} for {len(config.members)} members")
        weights = config.weights or (1.0,) * len(config.members)
        if min(weights) < 0 or not sum(weights):
            raise ConfigError("judge.weights: must not be negative, and not all 0")
        for member in config.members:
            open_member(member)  # what is wrong with one is said before another judges
        self._members = list(zip(config.members, weights, strict=True))
        self._open = open_member

    def __enter__(self) -> EnsembleJudge:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """One ``score`` judgement per completion, in 0..1; its objectives are the members' ranks, their own scores
        stand in ``raw``. A member that left an answer unscored does not count for it."""
        named: dict[str, tuple[float, dict[str, float]]] = {}
        for number, (config, weight) in enumerate(self._members):
            with self._open(config) as member:
                part = _Part(journal, f"{number}/") if journal else None
                judged = member.judge(prompts, completions, journal=part, label=f"{label} {member.name}")
                name = member.name if member.name not in named else f"{member.name} {number + 1}"
                named[name] = weight, _scores(judged)
        return [
            judgement
            for prompt, answers in answered(prompts, completions)
            for judgement in _combined(prompt, answers, named)
        ]


def _scores(judged: Sequence[Judgement]) -> dict[str, float]:
    return {j.completion_ids[0]: j.value for j in judged if j.kind == "score" and j.value is not None}


def _combined(
    prompt: Prompt, answers: Sequence[Completion], named: Mapping[str, tuple[float, dict[str, float]]]
) -> list[Judgement]:
    known = {name: {a.id: scores[a.id] for a in answers if a.id in scores} for name, (_, scores) in named.items()}
    found = []
    for answer in answers:
        # A member that could score one answer of several says nothing of its rank.
        ranks = {
            name: _rank(answer.id, scores)
            for name, scores in known.items()
            if answer.id in scores and (len(scores) > 1 or len(answers) == 1)
        }
        total = sum(named[name][0] for name in ranks)
        value = sum(named[name][0] * rank for name, rank in ranks.items()) / total if total else None
        raw = {"scores": {name: known[name][answer.id] for name in ranks}}
        why = {} if value is not None else {"error": "no member scored it"}
        found.append(
            Judgement.create(prompt.id, (answer.id,), EnsembleJudge.name, "score", value, ranks, raw={**raw, **why})
        )
    return found


def _rank(answer: str, scores: Mapping[str, float]) -> float:
    """Share of the other answers that are worse, ties half; ½ where there is no other."""
    others = [score for other, score in scores.items() if other != answer]
    if not others:
        return 0.5
    return sum((scores[answer] > score) + 0.5 * (scores[answer] == score) for score in others) / len(others)

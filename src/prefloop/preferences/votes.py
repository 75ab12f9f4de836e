"""Verdicts of several judges on the same answers, gathered into one ranking with the share that agrees with it.

For answers i and j, q_ij is the mean over judges of P(i better than j): 1, 0, or ½ for a tie. A judge that saw the two
several times counts once, and what it said of the two alone goes before what a ranking of its implies. Answers that
were compared together are ranked by their mean q over the others (Borda), which for two answers is the majority. Their
scores are half the mean strength, so the margin of a pair is the mean strength itself: 1 better, 2 much better, 0
equal, and 1 where a ranking puts one above the other, however far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from prefloop.records import LEFT_OUT, Judgement

BOTH_BAD = "both bad"
"""No tie: it says nothing of the two. Imported labels say so in ``raw["choice"]``, the app in ``raw["both_bad"]``."""
STRENGTHS = {1: 2.0, 2: 1.0, 3: 0.0, 4: -1.0, 5: -2.0}
"""How much better the answer shown first is, by ``raw["strength"]``."""
_DIGITS = 9
"""Means that differ by rounding alone are equal."""


@dataclass(frozen=True)
class Consensus:
    """What judges together say of answers that were compared with each other."""

    prompt_id: str
    ranking: tuple[tuple[str, ...], ...]
    """Tiers of completion ids, best first; one tier where they tie."""
    scores: tuple[float, ...]
    """By tier, never rising."""
    soft_label: float
    """Share of the judges for the first tier against the last, ties ½."""


@dataclass(frozen=True)
class _Vote:
    """Of two answers, the one with the smaller id first."""

    share: float
    """P(first better)."""
    strength: float
    """How much better."""
    direct: bool
    """Of the two alone, not by a ranking."""


@dataclass
class _Ballot:
    """What was said of one prompt's answers."""

    asked: set[tuple[str, ...]] = field(default_factory=set)
    """Answers that were compared together, sorted by id."""
    votes: dict[tuple[str, str], dict[str, list[_Vote]]] = field(default_factory=dict)
    """By pair (ids sorted) and judge."""

    def add(self, judgement: Judgement) -> None:
        self.asked.add(tuple(sorted(judgement.completion_ids)))
        for first, second, share, strength in _comparisons(judgement):
            if first > second:
                first, second, share, strength = second, first, 1 - share, -strength
            vote = _Vote(share, strength, judgement.kind == "choice")
            self.votes.setdefault((first, second), {}).setdefault(judgement.judge, []).append(vote)

    def means(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Mean share and strength by ordered pair, both ways round."""
        found = {}
        for (a, b), by_judge in self.votes.items():
            heard = [[v for v in said if v.direct] or said for said in by_judge.values()]
            share = fmean(fmean(vote.share for vote in said) for said in heard)
            strength = fmean(fmean(vote.strength for vote in said) for said in heard)
            found[a, b], found[b, a] = (share, strength), (1 - share, -strength)
        return found


def majority(judgements: Sequence[Judgement], drops: Counter[str]) -> dict[str, list[Consensus]]:
    """One consensus for every set of answers that was compared, by prompt; the same whatever the order given.

    Judgements without a preference, and those marked as left out, are counted in `drops` by their reason.
    """
    ballots: dict[str, _Ballot] = {}
    for judgement in judgements:
        reason = _obstacle(judgement)
        if reason:
            drops[reason] += 1
        else:
            ballots.setdefault(judgement.prompt_id, _Ballot()).add(judgement)
    found = {}
    for prompt_id, ballot in ballots.items():
        means = ballot.means()
        found[prompt_id] = [_consensus(prompt_id, answers, means) for answers in sorted(ballot.asked)]
    return found


def _obstacle(judgement: Judgement) -> str | None:
    """Why a judgement has no vote, or None."""
    if why := judgement.raw.get(LEFT_OUT):
        return f"judgement left out: {why}"
    both_bad = judgement.raw.get("both_bad") or judgement.raw.get("choice") == BOTH_BAD
    status = BOTH_BAD if both_bad else judgement.raw.get("status") or "no verdict"
    without = f"judgement without a preference: {status}"
    if len(set(judgement.completion_ids)) < 2 or (both_bad and judgement.kind == "choice"):
        return without
    if judgement.kind == "ranking":
        ranked = {answer for tier in judgement.ranking for answer in tier}
        return None if ranked.intersection(judgement.completion_ids) else without
    usable = judgement.value is not None and 0 <= judgement.value <= 1 and len(judgement.completion_ids) == 2
    return None if usable else without


def _comparisons(judgement: Judgement) -> Iterator[tuple[str, str, float, float]]:
    """Pairs of answers with P(first better) and how much; two that a ranking leaves out are not compared."""
    if judgement.kind == "choice":
        first, second = judgement.completion_ids
        assert judgement.value is not None
        strength = STRENGTHS.get(judgement.raw.get("strength", 0), 2 * judgement.value - 1)
        yield first, second, judgement.value, strength
        return
    tier = {answer: place for place, answers in enumerate(judgement.ranking) for answer in answers}
    last = len(judgement.ranking)
    for first, second in combinations(judgement.completion_ids, 2):
        a, b = tier.get(first, last), tier.get(second, last)
        if (a, b) != (last, last):
            yield first, second, (b > a) + 0.5 * (a == b), float((b > a) - (b < a))


def _consensus(
    prompt_id: str, answers: Sequence[str], means: Mapping[tuple[str, str], tuple[float, float]]
) -> Consensus:
    against = {i: [means[i, j] for j in answers if (i, j) in means] for i in answers}
    shares = {i: round(fmean(share for share, _ in said), _DIGITS) for i, said in against.items()}
    tiers = [tuple(i for i in answers if shares[i] == share) for share in sorted(set(shares.values()), reverse=True)]
    scores: list[float] = []
    for tier in tiers:  # few strong voices against many weak ones could turn the scores round, not the ranking
        score = fmean(strength for i in tier for _, strength in against[i]) / 2
        scores.append(min([score, *scores[-1:]]) + 0.0)
    ends = [means[i, j][0] for i in tiers[0] for j in tiers[-1] if (i, j) in means]
    soft_label = fmean(ends) if len(tiers) > 1 and ends else shares[tiers[0][0]]
    return Consensus(prompt_id, tuple(tiers), tuple(scores), soft_label)


def compared(kinds: Collection[str]) -> bool:
    """Whether judgements of these kinds are comparisons alone; a judge's scores, where there are some, decide."""
    return bool(kinds) and all(kind in ("choice", "ranking") for kind in kinds)


def signed(judges: Iterable[str]) -> str:
    """Who judged, for a preference's source: raters are not named one by one."""
    return "+".join(sorted({judge.partition("/")[0] for judge in judges}))

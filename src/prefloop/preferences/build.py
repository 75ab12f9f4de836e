"""Judged groups to pairs, with every drop counted by its reason.

Scores are paired by a strategy; comparisons by people are taken as they were made (`prefloop.preferences.votes`).
Strategies (recipes of record: best-worst, Snorkel-Mistral-PairRM-DPO; best-worst-of-5, arXiv 2502.16825;
all-pairs weighted 1/k, InstructGPT, arXiv 2203.02155).
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import combinations
from math import inf, isfinite

from prefloop.config.recipe import PreferenceConfig
from prefloop.preferences.diagnostics import diagnostics as diagnostics
from prefloop.preferences.votes import Consensus, compared, majority, signed
from prefloop.records import Completion, Judgement, Preference, Prompt, content_id
from prefloop.tasks.nba.text import normalised

WORST_OF = 5
MAJORITY = "majority"
"""In place of a strategy where answers were compared, not scored."""


@dataclass(frozen=True)
class Candidate:
    """A scored completion."""

    completion: Completion
    score: float


@dataclass(frozen=True)
class PreferenceSet:
    """Pairs, and where the others were lost."""

    preferences: tuple[Preference, ...]
    drops: dict[str, int]
    """Prompts or pairs dropped, by reason; ``kept pairs`` and ``prompts`` beside them."""
    strategy: str
    """How pairs were made: the one asked for, or ``majority`` where answers were compared."""


Pairs = list[tuple[Candidate, Candidate, Preference]]
"""Chosen and rejected answer (of a ranking, the ends), and what is made of them."""


class Pairing:
    """Makes the pairs of prompts that may come some at a time; what spans them, such as drops, is kept between.

    Args:
        kinds, judges: of all judgements: they decide what pairs are made of, and how they are signed.
    """

    def __init__(self, kinds: Collection[str], judges: Sequence[str], config: PreferenceConfig, seed: int) -> None:
        self.strategy = MAJORITY if compared(kinds) else config.strategy
        self.drops: Counter[str] = Counter()
        self.prompts = self.kept = 0
        self._source = f"{self.strategy}/{signed(judges) if self.strategy == MAJORITY else ''.join(judges[:1])}"
        self._config, self._seed = config, seed
        self._seen: set[bytes] = set()

    def pairs(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], judgements: Sequence[Judgement]
    ) -> Pairs:
        """The pairs of some prompts with all their answers, but for the rule on margins (`trained_on`)."""
        pairs_of = (
            self._compared(completions, judgements)
            if self.strategy == MAJORITY
            else self._scored(completions, judgements)
        )
        pairs: Pairs = []
        for prompt in prompts:
            self.prompts += 1
            asked = asked_text(prompt)
            if asked in self._seen:
                self.drops["duplicate prompt"] += 1
                continue
            self._seen.add(asked)
            pairs += pairs_of(prompt)
        return _similarity_rule(pairs, self._config.max_similarity, self.drops)

    def trained_on(self, pairs: Pairs, threshold: float | None) -> list[Preference]:
        """The preferences with a margin of at least `threshold`, weighted; the others are counted as dropped."""
        kept = pairs
        if threshold is not None:
            kept = [pair for pair in pairs if pair[2].margin >= threshold]
            self.drops["margin below the quantile"] += len(pairs) - len(kept)
        self.kept += len(kept)
        return [preference for *_, preference in _weighted(kept)]

    @property
    def counts(self) -> dict[str, int]:
        """Prompts, kept pairs, and what was dropped by reason."""
        return {"prompts": self.prompts, "kept pairs": self.kept, **dict(sorted(self.drops.items()))}

    def _scored(self, completions: Sequence[Completion], judgements: Sequence[Judgement]) -> Callable[[Prompt], Pairs]:
        groups = _groups(completions, judgements, self.drops)

        def pairs_of(prompt: Prompt) -> Pairs:
            candidates = _distinct(groups.get(prompt.id, []), self.drops)
            found = _pairs(candidates, self._config, self._seed, prompt.id, self.drops)
            return [(a, b, _preference(prompt, a, b, self._source)) for a, b in found]

        return pairs_of

    def _compared(
        self, completions: Sequence[Completion], judgements: Sequence[Judgement]
    ) -> Callable[[Prompt], Pairs]:
        return _Compared(completions, judgements, self._source, self.drops).pairs


def build_preferences(
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    judgements: Sequence[Judgement],
    config: PreferenceConfig,
    seed: int,
) -> PreferenceSet:
    """Pairs of the prompts' sampled completions (greedy answers, index -1, are left out).

    Where the judgements are comparisons, each set of answers that was compared gives one ranking instead, of which a
    pair is the shortest: the majority's, with its share as the soft label. The strategy then has no say.

    The same inputs and seed give the same pairs whatever the order of completions and judgements.
    """
    pairing = Pairing([j.kind for j in judgements], [j.judge for j in judgements], config, seed)
    pairs = pairing.pairs(prompts, completions, judgements)
    threshold = margin_threshold([preference.margin for *_, preference in pairs], config.min_margin_quantile)
    return PreferenceSet(tuple(pairing.trained_on(pairs, threshold)), pairing.counts, pairing.strategy)


def asked_text(prompt: Prompt) -> bytes:
    """Hash of what a prompt asks, case and punctuation aside: prompts with one hash ask the same."""
    text = normalised(" ".join(message["content"] for message in prompt.messages))
    return blake2b(text.encode(), digest_size=16).digest()


def _groups(
    completions: Sequence[Completion], judgements: Sequence[Judgement], drops: Counter[str]
) -> dict[str, list[Candidate]]:
    scores = {judgement.completion_ids[0]: judgement.value for judgement in judgements if judgement.kind == "score"}
    groups: dict[str, list[Candidate]] = {}
    for completion in sorted(completions, key=lambda c: (c.prompt_id, c.round, c.index)):
        if completion.index < 0:
            continue
        score = scores.get(completion.id)
        if score is None or not isfinite(score):
            drops["answer unscored"] += 1
        else:
            groups.setdefault(completion.prompt_id, []).append(Candidate(completion, score))
    return groups


def _distinct(candidates: Sequence[Candidate], drops: Counter[str]) -> list[Candidate]:
    """The first of each text (whitespace and case aside), without empty ones."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        text = " ".join(candidate.completion.text.lower().split())
        if not text:
            drops["answer empty"] += 1
        elif text in found:
            drops["answer repeated"] += 1
        else:
            found[text] = candidate
    return list(found.values())


def _pairs(
    candidates: list[Candidate], config: PreferenceConfig, seed: int, prompt_id: str, drops: Counter[str]
) -> list[tuple[Candidate, Candidate]]:
    """(chosen, rejected) by the strategy; an unfinished answer is never chosen, a tie is no pair."""
    finished = [c for c in candidates if c.completion.finish_reason == "stop"]
    if len(candidates) < 2:
        drops["prompt with fewer than two distinct answers"] += 1
        return []
    if not finished:
        drops["prompt without a finished answer"] += 1
        return []
    rng = random.Random(content_id("pairs", seed, prompt_id))
    order = _all_pairs if config.strategy == "all-pairs" else _ranked_pairs
    found = order(candidates, finished, config, rng)
    if not found:
        tied = len({candidate.score for candidate in candidates}) == 1
        drops["prompt with tied answers" if tied else "prompt whose better answers are unfinished"] += 1
    return found


def _all_pairs(
    candidates: list[Candidate], finished: list[Candidate], config: PreferenceConfig, rng: random.Random
) -> list[tuple[Candidate, Candidate]]:
    ranked = sorted(candidates, key=lambda c: -c.score)
    return [(a, b) for a, b in combinations(ranked, 2) if a.score > b.score and a in finished]


def _ranked_pairs(
    candidates: list[Candidate], finished: list[Candidate], config: PreferenceConfig, rng: random.Random
) -> list[tuple[Candidate, Candidate]]:
    """Best against worst (or a random one, or the worst of five random), then the second best against the
    second worst, and so on; no answer serves twice."""
    best = _shortest_first(sorted(finished, key=lambda c: -c.score), config.length_tolerance)
    rest = list(candidates)
    if config.strategy == "best-random":
        rng.shuffle(rest)
    elif config.strategy == "best-worst-of-5":
        others = [c for c in rest if c is not best[0]]
        rest = sorted(rng.sample(others, min(WORST_OF, len(others))), key=lambda c: c.score)
    else:
        rest = _longest_first(sorted(rest, key=lambda c: c.score), config.length_tolerance)
    found: list[tuple[Candidate, Candidate]] = []
    used: set[str] = set()
    for chosen in best:
        if len(found) == config.pairs_per_prompt:
            break
        rejected = next((c for c in rest if c.score < chosen.score and c.completion.id not in used), None)
        if rejected is None or chosen.completion.id in used:
            continue
        used |= {chosen.completion.id, rejected.completion.id}
        found.append((chosen, rejected))
    return found


def _shortest_first(best: list[Candidate], tolerance: float | None) -> list[Candidate]:
    """Candidates, best first; those within `tolerance` of the best score by length (Meta-Rewarding, 2407.19594)."""
    if tolerance is None:
        return best
    return sorted(best, key=lambda c: len(c.completion.text) if c.score >= best[0].score - tolerance else inf)


def _longest_first(worst: list[Candidate], tolerance: float | None) -> list[Candidate]:
    """Candidates, worst first; those within `tolerance` of the worst score by falling length."""
    if tolerance is None:
        return worst
    return sorted(worst, key=lambda c: -len(c.completion.text) if c.score <= worst[0].score + tolerance else inf)


def _preference(prompt: Prompt, chosen: Candidate, rejected: Candidate, source: str) -> Preference:
    ids = (chosen.completion.id, rejected.completion.id)
    return Preference.pair(prompt.id, *ids, chosen.score, rejected.score, source)


class _Compared:
    """Preferences of answers that judges compared with each other."""

    def __init__(
        self, completions: Sequence[Completion], judgements: Sequence[Judgement], source: str, drops: Counter[str]
    ) -> None:
        self._verdicts = majority(judgements, drops)
        self._known = {completion.id: completion for completion in completions}
        self._source, self._drops = source, drops

    def pairs(self, prompt: Prompt) -> Pairs:
        found: Pairs = []
        for verdict in self._verdicts.get(prompt.id, []):
            if reason := self._obstacle(verdict):
                self._drops[reason] += 1
            else:
                best, last = (Candidate(self._known[verdict.ranking[i][0]], verdict.scores[i]) for i in (0, -1))
                found.append((best, last, self._preference(verdict)))
        if prompt.id not in self._verdicts:
            self._drops["prompt without a comparison"] += 1
        return found

    def _obstacle(self, verdict: Consensus) -> str | None:
        """Why a verdict cannot be trained on, or None."""
        if any(answer not in self._known for tier in verdict.ranking for answer in tier):
            return "comparison with an answer that was not given"
        if len(verdict.ranking) < 2:
            return "comparison tied"
        best, last = self._known[verdict.ranking[0][0]], self._known[verdict.ranking[-1][0]]
        if " ".join(best.text.lower().split()) == " ".join(last.text.lower().split()):
            return "comparison of the same text"
        return None if best.finish_reason == "stop" else "comparison whose better answer is unfinished"

    def _preference(self, verdict: Consensus) -> Preference:
        tiers = [list(tier) for tier in verdict.ranking]
        identity = content_id("preference", verdict.prompt_id, tiers, self._source)
        margin = verdict.scores[0] - verdict.scores[-1]
        label = (verdict.ranking, verdict.scores, margin, verdict.soft_label)
        return Preference(identity, verdict.prompt_id, *label, 1.0, self._source)


def _weighted(pairs: Pairs) -> Pairs:
    """Each of the k pairs that a prompt is left with weighs 1/k, so every prompt counts the same."""
    counts = Counter(preference.prompt_id for *_, preference in pairs)
    return [(a, b, replace(preference, weight=1 / counts[preference.prompt_id])) for a, b, preference in pairs]


def _similarity_rule(pairs: Pairs, limit: float, drops: Counter[str]) -> Pairs:
    """Near-identical texts push both likelihoods down (arXiv 2402.13228)."""
    if limit >= 1:
        return pairs
    kept = [p for p in pairs if similarity(p[0].completion.text, p[1].completion.text) <= limit]
    drops["pair too similar"] += len(pairs) - len(kept)
    return kept


def similarity(a: str, b: str) -> float:
    """Matching characters in order, over the mean length (`difflib`), 0 to 1."""
    return difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()


def margin_threshold(margins: Sequence[float], quantile: float) -> float | None:
    """The least margin that is kept where the share `quantile` is dropped (equal margins stay or go together)."""
    return sorted(margins)[int(quantile * len(margins))] if margins and quantile else None

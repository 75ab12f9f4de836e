"""Judged groups to pairs, with every drop counted by its reason.

Scores are paired by a strategy; comparisons by people are taken as they were made (`prefloop.preferences.votes`).
Strategies (recipes of record: best-worst, Snorkel-Mistral-PairRM-DPO; best-worst-of-5, arXiv 2502.16825;
all-pairs weighted 1/k, InstructGPT, arXiv 2203.02155).
"""

from __future__ import annotations

import difflib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import inf, isfinite

from prefloop.config.recipe import PreferenceConfig
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
    drops: Counter[str] = Counter()
    strategy = MAJORITY if compared(judgements) else config.strategy
    if strategy == MAJORITY:
        pairs_of = _Compared(completions, judgements, drops).pairs
    else:
        groups = _groups(completions, judgements, drops)
        source = f"{strategy}/{judgements[0].judge if judgements else ''}"

        def pairs_of(prompt: Prompt) -> Pairs:
            candidates = _distinct(groups.get(prompt.id, []), drops)
            found = _pairs(candidates, config, seed, prompt.id, drops)
            return [(chosen, rejected, _preference(prompt, chosen, rejected, source)) for chosen, rejected in found]

    pairs: Pairs = []
    seen: set[str] = set()
    for prompt in prompts:
        text = normalised(" ".join(message["content"] for message in prompt.messages))
        if text in seen:
            drops["duplicate prompt"] += 1
            continue
        seen.add(text)
        pairs += pairs_of(prompt)
    kept = _similarity_rule(pairs, config.max_similarity, drops)
    kept = _weighted(_margin_rule(kept, config.min_margin_quantile, drops))
    counts = {"prompts": len(prompts), "kept pairs": len(kept), **dict(sorted(drops.items()))}
    return PreferenceSet(tuple(preference for _, _, preference in kept), counts, strategy)


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

    def __init__(self, completions: Sequence[Completion], judgements: Sequence[Judgement], drops: Counter[str]) -> None:
        self._verdicts = majority(judgements, drops)
        self._known = {completion.id: completion for completion in completions}
        self._source = f"{MAJORITY}/{signed(judgements)}"
        self._drops = drops

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


def _margin_rule(pairs: Pairs, quantile: float, drops: Counter[str]) -> Pairs:
    """Drop the share `quantile` of pairs with the smallest margins; equal margins stay or go together."""
    if not pairs or quantile == 0:
        return pairs
    margins = sorted(preference.margin for *_, preference in pairs)
    threshold = margins[int(quantile * len(margins))]
    kept = [pair for pair in pairs if pair[2].margin >= threshold]
    drops["margin below the quantile"] += len(pairs) - len(kept)
    return kept


def diagnostics(
    preferences: Iterable[Preference], completions: Sequence[Completion], judgements: Sequence[Judgement]
) -> dict[str, float | int | None]:
    """What to look at before training: length bias of the pairs and of the judge.

    Returns:
        ``pairs``; ``chosen_longer``, share of pairs whose chosen answer has more tokens (ties count half; characters
        in place of tokens where answers came without them);
        ``token_ratio``, mean tokens chosen over mean tokens rejected; ``margin_mean``; and
        ``score_length_correlation``, Spearman's ρ of score and length within prompts, averaged over them.
    """
    known = all(completion.token_ids for completion in completions)
    length = {c.id: len(c.token_ids) if known else len(c.text) for c in completions}
    pairs = [(length[p.chosen], length[p.rejected], p.margin) for p in preferences]
    groups: dict[str, list[tuple[float, int]]] = {}
    for judgement in judgements:
        if judgement.value is not None and judgement.kind == "score":
            groups.setdefault(judgement.prompt_id, []).append((judgement.value, length[judgement.completion_ids[0]]))
    correlations = _correlations(
        group
        for group in groups.values()
        if len({score for score, _ in group}) > 1 and len({tokens for _, tokens in group}) > 1
    )
    mean = lambda values: sum(values) / len(values) if values else None  # noqa: E731 (one word, used four times)
    chosen_longer = mean([0.5 if c == r else float(c > r) for c, r, _ in pairs])
    ratio = sum(c for c, _, _ in pairs) / max(1, sum(r for _, r, _ in pairs)) if pairs else None
    return {
        "pairs": len(pairs),
        "chosen_longer": chosen_longer,
        "token_ratio": ratio,
        "margin_mean": mean([margin for *_, margin in pairs]),
        "score_length_correlation": mean(correlations),
    }


def _correlations(groups: Iterable[Sequence[tuple[float, int]]]) -> list[float]:
    """Spearman's ρ of score and length; comparisons have no scores, and need no SciPy."""
    found = []
    for group in groups:
        from scipy.stats import spearmanr

        found.append(float(spearmanr(*zip(*group, strict=True)).statistic))
    return found

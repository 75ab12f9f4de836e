"""Which answers of a prompt people compare, and what they are asked first.

| strategy | chosen | probability |
|---|---|---|
| mix | at random, with moderate predicted gaps and disagreement of judges preferred (`selection_mix`) | known |
| random | at random | known |
| in-order | the first ones of each prompt, as they came | none: nothing is drawn |
| d-optimal | what teaches a reward model most (`selection_design`) | none: nothing is drawn |

``probability`` of an item is the chance, before anything was drawn, that this very item came to be in the project:
π_i of `selection_mix`. Any prefix of the queue, weighted by 1 / probability, speaks for all pairs that the answers
allow. Choices that nothing hangs on (the same result of the query, nearly the same text) are thinned to a small sample.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from math import comb

import numpy as np

from prefloop.annotation.items import NewItem
from prefloop.annotation.selection_design import Floats, d_optimal, differences
from prefloop.annotation.selection_judges import Opinions, ids_of, moderate
from prefloop.annotation.selection_mix import Candidates, chances, draw
from prefloop.config.annotation import AnnotationConfig
from prefloop.errors import ConfigError
from prefloop.records import Completion, Judgement, Prompt

NEARLY_THE_SAME = 0.9
"""Share of the words that two texts have in common, in order (`difflib`)."""
LISTED = 66
"""Most candidates of a prompt that are looked at; of more (above 12 answers), so many drawn at random."""


@dataclass(frozen=True)
class Group:
    """A prompt with two or more answers that differ."""

    prompt: Prompt
    answers: tuple[Completion, ...]


@dataclass(frozen=True)
class Selected:
    """Items in the order of the queue."""

    items: list[NewItem]
    candidates: int
    """Pairs, or rankings, that the answers allow."""


@dataclass
class _Listed:
    """All candidates, prompt after prompt."""

    groups: list[Group] = field(default_factory=list)
    answers: list[tuple[Completion, ...]] = field(default_factory=list)
    prompt: list[int] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)
    allowed: int = 0


def select_items(
    groups: Sequence[Group],
    judgements: Sequence[Judgement],
    config: AnnotationConfig,
    features: Mapping[str, Floats] | None = None,
    same: Mapping[str, str] | None = None,
) -> Selected:
    """Items of `config.kind`, by `config.selection` and `config.seed`; the same inputs give the same items.

    Args:
        judgements: of judges, on answers of the groups: gaps, disagreement and expected winners come from them.
        features: vectors by completion id, for d-optimal alone.
        same: id by the id of a left-out answer with the same text.

    Raises:
        ConfigError: d-optimal without features, or for rankings.
        DataError: an answer without features.
    """
    opinions, rng = Opinions(judgements), np.random.default_rng(config.seed)
    strategy = config.selection.strategy
    if strategy == "in-order":
        return _in_order(groups, opinions, config)
    listed = _listed(groups, config, rng)
    if strategy == "d-optimal":
        if features is None:
            raise ConfigError("selection.strategy=d-optimal needs the features of the answers: give --features FILE")
        if config.kind != "pairwise":
            raise ConfigError("selection.strategy=d-optimal chooses pairs: set kind=pairwise, or another strategy")
        return _designed(listed, opinions, config, differences(_ids(listed), features, same or {}), rng)
    found = _described(listed, opinions)
    settings = config.selection
    known = chances(found, _shares(config, opinions), _per_prompt(config), settings.identical, settings.items)
    chosen = draw(found, known, rng)
    items = [
        _item(listed, int(i), opinions, stratum, float(probability))
        for i, stratum, probability in zip(chosen.index, chosen.strata, chosen.probability, strict=True)
    ]
    return Selected(items, listed.allowed)


def _per_prompt(config: AnnotationConfig) -> int:
    return config.selection.pairs_per_prompt if config.kind == "pairwise" else 1


def _size(group: Group, config: AnnotationConfig) -> int:
    """Answers of one item."""
    return 2 if config.kind == "pairwise" else min(config.selection.ranked, len(group.answers))


def _shares(config: AnnotationConfig, opinions: Opinions) -> tuple[float, float, float]:
    """Of random, gap and disagreement; what judges are needed for goes to random where there are too few."""
    if config.selection.strategy == "random":
        return 1.0, 0.0, 0.0
    random, gap = config.selection.random_share, config.selection.gap_share
    disagreement = max(0.0, 1 - random - gap)
    if len(opinions.judges) < 2:
        random, disagreement = random + disagreement, 0.0
    if not opinions.judges:
        random, gap = random + gap, 0.0
    return random, gap, disagreement


def _in_order(groups: Sequence[Group], opinions: Opinions, config: AnnotationConfig) -> Selected:
    items, allowed = [], 0
    for group in groups:
        size = _size(group, config)
        allowed += comb(len(group.answers), size)
        for answers in islice(combinations(group.answers, size), _per_prompt(config)):
            expected = opinions.expected(ids_of(answers))
            items.append(NewItem(group.prompt, answers, expected=expected, stratum="in-order"))
    return Selected(items[: config.selection.items], allowed)


def _designed(
    listed: _Listed, opinions: Opinions, config: AnnotationConfig, table: Floats, rng: np.random.Generator
) -> Selected:
    same = np.array([_identical(answers, opinions) for answers in listed.answers], dtype=np.bool_)
    kept = np.flatnonzero(~same | (rng.random(len(same)) < config.selection.identical))
    prompts = np.array(listed.prompt, dtype=np.int64)[kept]
    order = d_optimal(table[kept], prompts, _per_prompt(config), config.selection.items)
    items = [_item(listed, int(kept[i]), opinions, "d-optimal", None) for i in order]
    return Selected(items, listed.allowed)


def _listed(groups: Sequence[Group], config: AnnotationConfig, rng: np.random.Generator) -> _Listed:
    found = _Listed()
    for group in groups:
        size = _size(group, config)
        allowed = comb(len(group.answers), size)
        places = list(combinations(range(len(group.answers)), size)) if allowed <= LISTED else _drawn(group, size, rng)
        found.answers += [tuple(group.answers[i] for i in place) for place in places]
        found.prompt += [len(found.groups)] * len(places)
        found.chance += [len(places) / allowed] * len(places)
        found.groups.append(group)
        found.allowed += allowed
    return found


def _drawn(group: Group, size: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """`LISTED` different combinations, each as likely as any."""
    found: set[tuple[int, ...]] = set()
    while len(found) < LISTED:
        found.add(tuple(sorted(rng.choice(len(group.answers), size, replace=False).tolist())))
    return sorted(found)


def _described(listed: _Listed, opinions: Opinions) -> Candidates:
    ids = _ids(listed)
    return Candidates(
        prompt=np.array(listed.prompt, dtype=np.int64),
        gap=moderate(opinions.gaps(ids)),
        disagreement=np.array([opinions.disagree(each) for each in ids], dtype=np.bool_),
        identical=np.array([_identical(answers, opinions) for answers in listed.answers], dtype=np.bool_),
        chance=np.array(listed.chance, dtype=np.float64),
    )


def _ids(listed: _Listed) -> list[tuple[str, ...]]:
    return [ids_of(answers) for answers in listed.answers]


def _identical(answers: Sequence[Completion], opinions: Opinions) -> bool:
    """The same result, and texts that hardly differ."""
    if not opinions.same_result(ids_of(answers)):
        return False
    first, *others = (completion.text.split() for completion in answers)
    return all(_alike(first, other) for other in others)


def _alike(a: list[str], b: list[str]) -> bool:
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    return matcher.quick_ratio() >= NEARLY_THE_SAME and matcher.ratio() >= NEARLY_THE_SAME


def _item(listed: _Listed, index: int, opinions: Opinions, stratum: str, probability: float | None) -> NewItem:
    answers = listed.answers[index]
    prompt = listed.groups[listed.prompt[index]].prompt
    expected = opinions.expected(ids_of(answers))
    return NewItem(prompt, answers, expected=expected, stratum=stratum, probability=probability)

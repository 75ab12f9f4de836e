"""What ``round.json`` says of a round: accuracy and its gains, answers, KL, data, judge and lineage."""

from __future__ import annotations

from typing import Any

from prefloop.config.loop import RlhfConfig
from prefloop.errors import DataError
from prefloop.evaluation.rounds import diversity_figures, length_figures, prompt_overlap
from prefloop.loop.examined import Values, against, kl_between
from prefloop.loop.heads import Head
from prefloop.loop.preference_round import Outcome
from prefloop.loop.standing import START, Loop, Standing
from prefloop.records import Prompt


def start_figures(loop: Loop, first: Standing) -> dict[str, Any]:
    own = against(loop.recipe, loop.test, first.examined, first.examined, START)
    level = _changes(loop, own, own)
    return {
        "round": 0,
        "lineage": {"start": None, "policy": first.examined.lineage, "reference": None},
        "accuracy": level["accuracy"],
        "watched": {"accuracy": level["watched"]["accuracy"]},
        **_answers(loop, first, first),
        "guards": [],
        "promoted": True,
    }


def round_figures(
    loop: Loop,
    number: int,
    outcome: Outcome,
    after: Standing,
    first: Standing,
    standing: Standing,
) -> dict[str, Any]:
    recipe = loop.recipe
    since_start = against(recipe, loop.test, after.examined, first.examined, START)
    since_last = against(recipe, loop.test, after.examined, standing.examined, "previous")
    config = recipe.loop.rl if isinstance(recipe.loop, RlhfConfig) else recipe.training
    reference = first if config.reference == "initial" else standing
    changes = _changes(loop, since_start, since_last)
    changes["watched"]["length"] = _lengths(after, first, {prompt.id for prompt in loop.watched})
    return {
        "round": number,
        "lineage": {
            "start": standing.examined.lineage,
            "policy": after.examined.lineage,
            "reference": None if config.reference == "free" else reference.examined.lineage,
        },
        "data": {**outcome.data, "overlap": _overlap(loop, number, outcome)},
        "judge": outcome.judge,
        "reward_model": outcome.reward_model,
        "training": {**outcome.training, "kl": _kl(loop, reference.head, after)},
        **changes,
        **_answers(loop, after, first),
        "curve": outcome.curve,
    }


def _changes(loop: Loop, since_start: Values, since_last: Values) -> dict[str, Any]:
    """Accuracy and its gains, on the reported prompts, and apart from them on those that guards look at."""
    seed, draws = loop.recipe.seed, loop.recipe.evaluation.bootstrap
    found = {}
    for name, among in (("reported", loop.reported), ("watched", {prompt.id for prompt in loop.watched})):
        start, last = (values.figures(among, seed, draws) for values in (since_start, since_last))
        found[name] = {"accuracy": start["accuracy"], "gain_start": start["gain"], "gain_previous": last["gain"]}
    watched = found["watched"]
    return {**found["reported"], "watched": {**watched, "accuracy": watched["accuracy"]["estimate"]}}


def _lengths(standing: Standing, first: Standing, among: set[str]) -> dict[str, Any]:
    """Of the greedy answers to the prompts whose ids are `among`."""
    mine, theirs = ([c for c in s.examined.greedy if c.prompt_id in among] for s in (standing, first))
    return length_figures(mine, theirs)


def _answers(loop: Loop, standing: Standing, first: Standing) -> dict[str, Any]:
    """How long and how different the answers are."""
    return {
        "valid": standing.examined.valid,
        "length": _lengths(standing, first, loop.reported),
        "diversity": diversity_figures(standing.examined.sampled),
    }


def _kl(loop: Loop, reference: Head, after: Standing) -> float:
    """Nats per answer that a round moved away from its reference."""
    budget, examined = loop.recipe.training.tokens_per_batch, after.examined
    found = examined.folder.document(
        "stages/kl.json",
        lambda: {"kl": kl_between(reference.load_merged(), loop.watched, examined.sampled, budget)},
    )
    return float(found["kl"])


def _overlap(loop: Loop, number: int, outcome: Outcome) -> dict[str, int]:
    """Prompts of this round that an earlier round, or the evaluation, asked too."""
    earlier = [p for n in range(1, number) for p in loop.round_folder(n).records("prompts.parquet", Prompt, _none)]
    return prompt_overlap(outcome.prompts, earlier, loop.test)


def _none(_: object) -> list[Prompt]:
    raise DataError("a round without prompts: the run folder is damaged")

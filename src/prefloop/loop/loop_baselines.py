"""What simpler means reach with the data of a loop: SFT each round, best-of-K, one long run of as many judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.config.loop import RlhfConfig, SelfRewardingConfig
from prefloop.generation.generate import generate_completions
from prefloop.loop.baselines import by_sft
from prefloop.loop.examined import Values, against, cluster, examine
from prefloop.loop.heads import Head
from prefloop.loop.judged import recipe_judge
from prefloop.loop.learned import Learned, read_learned
from prefloop.loop.policies import writer_of
from prefloop.loop.preference_round import by_recipe, candidates, judged, paired, spin, tuned
from prefloop.loop.reward_round import Scorer
from prefloop.loop.rlhf import collected
from prefloop.loop.standing import START, Loop, Standing
from prefloop.preferences.build import build_preferences
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.run_folder import RunFolder

FOLDER = "baselines"


@dataclass(frozen=True)
class Beside:
    """What a baseline is compared with."""

    first: Standing
    """The start."""
    best: Standing
    """The loop's best round."""


def loop_baselines(loop: Loop, beside: Beside, rounds: int) -> dict[str, Any]:
    """Accuracy of each baseline on the reported prompts, its gain over the start, and the loop's lead over it."""
    found = _sft(loop, beside, rounds)
    if loop.execution is not None:
        found |= _best_of_k(loop, beside, rounds)
    return found | _one_long_run(loop, beside, rounds)


def _sft(loop: Loop, beside: Beside, rounds: int) -> dict[str, Any]:
    """SFT on each round's chosen answers, from the SFT of the round before.

    The answers are those of the loop's own rounds, so this chain has the benefit of the loop's better samples.
    """
    recipe, found, start = by_sft(loop.recipe), {}, beside.first.head
    head = start
    for number in range(1, rounds + 1):
        place = loop.folder.inner(f"{FOLDER}/sft-{number}")
        tuned(recipe, place, start, head, read_learned(loop.round_folder(number).root), loop.launch)
        head = head.trained(place.root / "checkpoint", recipe.training)
        found[f"sft_round_{number}"] = _figures(loop, beside, place, head, f"SFT on chosen answers, round {number}")
    return found


def _figures(loop: Loop, beside: Beside, place: RunFolder, head: Head, label: str) -> dict[str, Any]:
    recipe, test = loop.recipe, loop.test
    examined = examine(recipe, place, head, loop.execution, test, loop.watched)
    values = against(recipe, test, examined, beside.first.examined, START)
    lead = against(recipe, test, beside.best.examined, examined, place.root.name)
    return _row(loop, values, lead, label)


def _row(loop: Loop, values: Values, lead: Values, label: str) -> dict[str, Any]:
    """A baseline's figures; `lead` is the loop's best round after the baseline."""
    settings: Any = (loop.reported, loop.recipe.seed, loop.recipe.evaluation.bootstrap)
    found = values.figures(*settings)
    gained = lead.figures(*settings)["gain"]
    return {"label": label, "accuracy": found["accuracy"], "gain": found["gain"], "lead": gained}


def _one_long_run(loop: Loop, beside: Beside, rounds: int) -> dict[str, Any]:
    """The start answers the prompts of all rounds, and is tuned once on as many judgements as the loop had."""
    recipe, place, head = loop.recipe, loop.folder.inner(f"{FOLDER}/long"), beside.first.head
    tuned(recipe, place, head, head, _learned(loop, place, head, rounds), loop.launch)
    after = head.trained(place.root / "checkpoint", recipe.training)
    label = f"one {recipe.training.objective} run on as many judgements"
    return {"one_long_run": _figures(loop, beside, place, after, label)}


def _learned(loop: Loop, place: RunFolder, head: Head, rounds: int) -> Learned:
    """Pairs of the head's answers to prompts for all rounds, by what labels in the loop."""
    recipe = loop.recipe
    if isinstance(recipe.loop, SelfRewardingConfig):
        from prefloop.loop.self_rewarding import own_labels

        count, policy = rounds * recipe.loop.prompts, writer_of(recipe, head.source)
        prompts, completions, verdicts, _ = own_labels(
            recipe, loop.folder, place, 0, head, policy, count, (), loop.test
        )
    else:
        asked = [prompt for share in loop.train[:rounds] for prompt in share]
        prompts = place.records("prompts.parquet", Prompt, lambda _: asked)
        completions = candidates(recipe, place, 0, head, prompts)
        if isinstance(recipe.loop, RlhfConfig):
            verdicts = collected(recipe, place, prompts, completions, loop.execution, loop.collect)
        elif recipe.loop is not None and recipe.loop.rejected == "own":
            return spin(place, prompts, completions)[0]
        else:
            verdicts, _ = judged(recipe, place, prompts, completions, None, by_recipe(recipe, place))
    built = build_preferences(prompts, completions, verdicts, recipe.preferences, recipe.seed)
    return paired(place, prompts, completions, verdicts, built)[0]


def _best_of_k(loop: Loop, beside: Beside, rounds: int) -> dict[str, Any]:
    """The start's samples to the reported prompts; what labels in the loop takes its favourite of each."""
    assert loop.execution is not None
    recipe, place = loop.recipe, loop.folder.inner(f"{FOLDER}/best-of-k")
    prompts = [prompt for prompt in loop.test if prompt.id in loop.reported]
    sampling = recipe.generation.sampling
    samples = place.records(
        "completions.parquet",
        Completion,
        lambda journal: generate_completions(
            writer_of(recipe, beside.first.head.source),
            prompts,
            sampling,
            seed=recipe.seed,
            journal=journal,
            label="best of k",
        ),
    )
    execution = loop.execution
    truth = place.records(
        "judgements.parquet", Judgement, lambda journal: execution.judge(prompts, samples, journal=journal)
    )
    scores = place.document("scores.json", lambda: _scores(loop, beside.first, place, prompts, samples, truth, rounds))
    right = {j.completion_ids[0]: j.objectives.get("correct", 0.0) for j in truth}
    groups: dict[str, list[str]] = {}
    for sample in samples:
        groups.setdefault(sample.prompt_id, []).append(sample.id)
    given = scores["scores"]
    after = {key: right[max(ids, key=lambda i: given.get(i, float("-inf")))] for key, ids in groups.items()}
    clusters = {prompt.id: cluster(prompt) for prompt in prompts}
    values = Values(beside.first.examined.correct, after, clusters)
    lead = Values(after, beside.best.examined.correct, clusters)
    label = f"best of {recipe.generation.k} by {scores['by']}, without training"
    return {"best_of_k": _row(loop, values, lead, label)}


def _scores(
    loop: Loop,
    first: Standing,
    place: RunFolder,
    prompts: Sequence[Prompt],
    samples: Sequence[Completion],
    truth: Sequence[Judgement],
    rounds: int,
) -> dict[str, Any]:
    """What chooses: the last reward model, or the recipe's judge (execution itself is an upper bound, and says so)."""
    recipe = loop.recipe
    if isinstance(recipe.loop, RlhfConfig):
        with Scorer(loop.round_folder(rounds).root / "reward") as scorer:
            return {"by": "the reward model", "scores": dict(scorer.score(prompts, samples))}
    if isinstance(recipe.loop, SelfRewardingConfig):
        from prefloop.loop.self_rewarding import own_judge

        with own_judge(writer_of(recipe, first.head.source), recipe.loop, recipe.seed) as own:
            found = own.judge(prompts, samples)
        return {"by": "its own verdicts", "scores": _by_answer(found)}
    if isinstance(recipe.judge, ExecutionConfig):
        return {"by": "execution (an oracle)", "scores": {j.completion_ids[0]: j.value or 0.0 for j in truth}}
    with recipe_judge(recipe, place) as judge:
        found = judge.judge(prompts, samples)
    return {"by": f"judge {recipe.judge.name}", "scores": _by_answer(found)}


def _by_answer(judgements: Sequence[Judgement]) -> dict[str, float]:
    return {j.completion_ids[0]: j.value for j in judgements if j.kind == "score" and j.value is not None}

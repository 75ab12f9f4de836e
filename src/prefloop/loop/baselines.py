"""What the same data reach without preference tuning: SFT on the chosen answers, best-of-K, majority vote.

A gain alone proves little, since the base policy's mistakes were planted. Best-of-K and majority vote spend K
samples per question at answer time; SFT spends as many training tokens as DPO did.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from prefloop.config.objectives import LOSS_OPTIONS
from prefloop.config.recipe import Recipe, TrainingConfig
from prefloop.evaluation.metrics import majority_correct
from prefloop.judging.groups import Judge
from prefloop.loop.launch import Launch
from prefloop.loop.learned import Learned
from prefloop.loop.policies import checkpoint_source, initial_source, writer_of
from prefloop.loop.run import answered, execution_judge
from prefloop.loop.run_training import Training
from prefloop.maths.statistics import SHARE, paired_bootstrap
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.run_folder import RunFolder


def run_baselines(recipe: Recipe, folder: RunFolder, launch: Launch | None = None) -> dict[str, Any]:
    """Execution accuracy of each baseline on the test set, its gain over the policy as it started, and DPO's lead."""
    prompts = folder.records("prompts.parquet", Prompt, lambda _: [])
    test = [prompt for prompt in prompts if prompt.split == "test"]
    with execution_judge(recipe) as judge:
        sft = _sft(recipe, folder, judge, prompts, test, launch)
        samples, scores = _samples(recipe, folder, judge, test)
    before, after = (_correct(folder, test, side) for side in ("before", "after"))
    chosen = {
        "sft_on_chosen": sft,
        "best_of_k": _best_of_k(test, samples, scores),
        "majority_vote": _majority(test, samples, scores),
    }
    clusters = [prompt.meta["template"] for prompt in test]
    return {name: _figures(before, values, after, clusters, recipe) for name, values in chosen.items()}


def _figures(
    before: list[float], values: list[float], after: list[float], clusters: list[str], recipe: Recipe
) -> dict[str, Any]:
    draws = recipe.evaluation.bootstrap
    gain = paired_bootstrap(before, values, clusters, draws=draws, seed=recipe.seed, bounds=SHARE)
    lead = paired_bootstrap(values, after, clusters, draws=draws, seed=recipe.seed, bounds=SHARE)
    return {
        "accuracy": sum(values) / len(values),
        "gain": gain.estimate,
        "ci_low": gain.low,
        "ci_high": gain.high,
        "tuned_lead": {"estimate": lead.estimate, "ci_low": lead.low, "ci_high": lead.high},
    }


def _correct(folder: RunFolder, test: list[Prompt], side: str) -> list[float]:
    judgements = folder.records(f"evaluation/{side}-greedy-judgements.parquet", Judgement, lambda _: [])
    found = {judgement.prompt_id: judgement.objectives.get("correct", 0.0) for judgement in judgements}
    return [found[prompt.id] for prompt in test]


def _sft(
    recipe: Recipe,
    folder: RunFolder,
    judge: Judge,
    prompts: list[Prompt],
    test: list[Prompt],
    launch: Launch | None,
) -> list[float]:
    """SFT on the chosen answers of the same pairs."""
    out = folder.root / "baselines" / "sft"
    tuned_recipe = by_sft(recipe)
    if not (out / "training.json").exists():
        data = Learned(
            folder.records("preferences.parquet", Preference, lambda _: []),
            {c.id: c for c in folder.records("completions.parquet", Completion, lambda _: [])},
            {prompt.id: prompt for prompt in prompts},
        )
        training = Training(
            initial_source(recipe),
            tuned_recipe.training,
            recipe.seed,
            threads=recipe.threads,
            out="baselines/sft",
            work="baseline-sft",
            marks={"baseline": "sft"},
        )
        training.run(folder, data, launch)
    greedy = recipe.generation.greedy
    judgements = answered(
        recipe,
        folder,
        judge,
        lambda: writer_of(recipe, checkpoint_source(tuned_recipe, out, merge=True)),
        test,
        greedy,
        "baselines/sft-",
    )[1]
    found = {judgement.prompt_id: judgement.objectives.get("correct", 0.0) for judgement in judgements}
    return [found[prompt.id] for prompt in test]


def by_sft(recipe: Recipe) -> Recipe:
    """The recipe with SFT in place of its objective, for twice the epochs: a pair has two answers, SFT reads one."""
    settings = recipe.training.model_dump(exclude=set(LOSS_OPTIONS))
    config = TrainingConfig(**{**settings, "objective": "sft", "epochs": 2 * recipe.training.epochs})
    return recipe.model_copy(update={"training": config})


def _samples(
    recipe: Recipe, folder: RunFolder, judge: Judge, test: list[Prompt]
) -> tuple[list[Completion], dict[str, Judgement]]:
    policy, sampling = partial(writer_of, recipe, initial_source(recipe)), recipe.generation.sampling
    completions, judgements = answered(recipe, folder, judge, policy, test, sampling, "baselines/samples-")
    return completions, {judgement.completion_ids[0]: judgement for judgement in judgements}


def _grouped(test: Sequence[Prompt], samples: Sequence[Completion]) -> list[list[Completion]]:
    groups: dict[str, list[Completion]] = {prompt.id: [] for prompt in test}
    for completion in samples:
        groups[completion.prompt_id].append(completion)
    return [groups[prompt.id] for prompt in test]


def _best_of_k(test: Sequence[Prompt], samples: Sequence[Completion], scores: dict[str, Judgement]) -> list[float]:
    """The sample the policy itself finds likeliest, by mean log-probability per token."""
    best = [max(group, key=lambda c: sum(c.logprobs) / len(c.logprobs)) for group in _grouped(test, samples)]
    return [scores[completion.id].objectives.get("correct", 0.0) for completion in best]


def _majority(test: Sequence[Prompt], samples: Sequence[Completion], scores: dict[str, Judgement]) -> list[float]:
    """The denotation most samples agree on; errors have no vote, ties go to the earlier sample."""
    groups = [[scores[completion.id] for completion in group] for group in _grouped(test, samples)]
    return [majority_correct(group) for group in groups]

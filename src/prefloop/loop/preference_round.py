"""One round of preference tuning: fresh answers, judged, paired, and the policy tuned from where it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.config.loop import IterativeConfig
from prefloop.config.recipe import Recipe
from prefloop.evaluation.labels import label_gap
from prefloop.evaluation.rounds import judge_health
from prefloop.judging.groups import Judge, require_scored
from prefloop.loop.answers import candidate_answers
from prefloop.loop.heads import Head
from prefloop.loop.judged import recipe_judge
from prefloop.loop.launch import Launch
from prefloop.loop.learned import REFERENCE_ANSWERS, Learned, read_learned
from prefloop.loop.policies import policies_of
from prefloop.loop.reference_answers import own_against_reference
from prefloop.loop.run_training import Training
from prefloop.models.load import Policy
from prefloop.preferences.build import PreferenceSet, build_preferences, diagnostics
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.files import read_json
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.training.preference import pair_logps

Judging = Callable[[Sequence[Prompt], Sequence[Completion], Journal], list[Judgement]]
PROBED = 200
"""Pairs of which it is measured whether the chosen answer became less likely."""


@dataclass(frozen=True)
class Outcome:
    """What a round made."""

    head: Head
    prompts: list[Prompt]
    data: dict[str, Any]
    judge: dict[str, Any]
    training: dict[str, Any]
    reward_model: dict[str, Any] | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)


def iterative_round(
    recipe: Recipe,
    folder: RunFolder,
    number: int,
    start: Head,
    head: Head,
    prompts: list[Prompt],
    execution: Judge | None,
    earlier: RunFolder | None = None,
    launch: Launch | None = None,
) -> Outcome:
    """A round by the recipe's judge, or with SPIN's pairs of the task's answer against the policy's own."""
    assert isinstance(recipe.loop, IterativeConfig)
    completions = candidates(recipe, folder, number, head, prompts)
    if recipe.loop.rejected == "own":
        learned, data = spin(folder, prompts, completions)
        judge: dict[str, Any] = {"name": "the task's own answers", "accuracy": None}
    else:
        judgements, judge = judged(recipe, folder, prompts, completions, execution, by_recipe(recipe, folder))
        built = build_preferences(prompts, completions, judgements, recipe.preferences, recipe.seed)
        learned, data = paired(folder, prompts, completions, judgements, built)
    if earlier is not None and recipe.loop.earlier:
        learned = learned.beside(read_learned(earlier.root), recipe.loop.earlier, recipe.seed)
    training = tuned(recipe, folder, start, head, learned, launch)
    return Outcome(head.trained(folder.root / "checkpoint", recipe.training), prompts, data, judge, training)


def candidates(recipe: Recipe, folder: RunFolder, number: int, head: Head, prompts: list[Prompt]) -> list[Completion]:
    """K answers of the head to each prompt, and of other models that the recipe names."""

    def compute(journal: Journal) -> list[Completion]:
        settings = recipe
        if recipe.generation.engine == "vllm":  # reads whole models
            model = head.whole(folder.work("vllm-model"))
            settings = recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"model": model})})
        policies = policies_of(recipe, {"before": lambda: head.source})
        written = candidate_answers(settings, policies, prompts, journal, folder.work("candidates"), number)
        return [completion for some in written for completion in some]

    return folder.records("completions.parquet", Completion, compute)


def judged(
    recipe: Recipe,
    folder: RunFolder,
    prompts: list[Prompt],
    completions: list[Completion],
    execution: Judge | None,
    judging: Judging,
) -> tuple[list[Judgement], dict[str, Any]]:
    """Labels of the round's answers, and how healthy they are; where execution can, it says how far they are true."""
    labels = folder.records("judgements.parquet", Judgement, lambda journal: judging(prompts, completions, journal))
    figures = {"name": ", ".join(sorted({label.judge for label in labels})), **judge_health(labels)}
    checkable = [prompt for prompt in prompts if "gold_sql" in prompt.meta]
    if execution is None or not checkable or isinstance(recipe.judge, ExecutionConfig):
        return labels, {**figures, "accuracy": None}
    truth = truths(folder, checkable, completions, execution)
    gap = label_gap(labels, truth, {prompt.id: prompt.meta["template"] for prompt in checkable})
    return labels, {**figures, "accuracy": estimate(gap)}


def truths(
    folder: RunFolder, prompts: Sequence[Prompt], completions: Sequence[Completion], execution: Judge
) -> list[Judgement]:
    """What execution says of the round's answers: for figures, and for raters that are simulated."""
    return folder.records(
        "stages/execution-judgements.parquet",
        Judgement,
        lambda journal: execution.judge(prompts, completions, journal=journal, label="check labels"),
    )


def estimate(gap: dict[str, Any]) -> dict[str, float] | None:
    """The pairwise accuracy of `label_gap` with its interval."""
    if gap["pairwise_accuracy"] is None:
        return None
    return {"estimate": gap["pairwise_accuracy"], "ci_low": gap["ci_low"], "ci_high": gap["ci_high"]}


def paired(
    folder: RunFolder,
    prompts: list[Prompt],
    completions: list[Completion],
    judgements: list[Judgement],
    built: PreferenceSet,
) -> tuple[Learned, dict[str, Any]]:
    """The round's pairs on disk, and their figures."""
    preferences = folder.records("preferences.parquet", Preference, lambda _: list(built.preferences))
    note(f"{len(preferences):,} pairs of {len(prompts):,} prompts")
    data = {
        "prompts": len(prompts),
        "pairs": len(preferences),
        "drops": built.drops,
        "diagnostics": diagnostics(preferences, completions, judgements),
    }
    return Learned(preferences, {c.id: c for c in completions}, {p.id: p for p in prompts}), data


def tuned(
    recipe: Recipe, folder: RunFolder, start: Head, head: Head, learned: Learned, launch: Launch | None = None
) -> dict[str, Any]:
    """Train unless the checkpoint stands; figures of the training."""
    out, config = folder.root / "checkpoint", recipe.training
    # Without its adapter a LoRA policy is the start itself; a model trained whole no longer has it inside.
    other = config.reference == "initial" and config.objective not in ("sft",) and head.model != start.model
    if not (out / "training.json").exists():
        initial = start.apart if other else None
        training = Training(head.apart, config, recipe.seed, initial, recipe.threads)
        with folder.timed("train"):
            training.run(folder, learned, launch)
    written = read_json(out / "training.json")
    last = written["history"][-max(1, len(written["history"]) // 10) :]
    kl = [row["kl/token"] for row in last if "kl/token" in row]
    displaced = folder.document("stages/displacement.json", lambda: _displacement(recipe, head, out, learned))
    return {
        "steps": written["steps"],
        "final_loss": written["final_loss"],
        "kl_on_pairs": fmean(kl) if kl else None,
        "displacement": displaced["chosen_less_likely"],
    }


def _displacement(recipe: Recipe, head: Head, checkpoint: Any, learned: Learned) -> dict[str, float]:
    """Share of chosen answers that the round made less likely."""
    sample = learned.preferences[:: max(1, len(learned.preferences) // PROBED)][:PROBED]
    budget = recipe.training.tokens_per_batch

    def chosen(policy: Policy) -> list[float]:
        return [c for c, _ in pair_logps(policy, sample, learned.completions, learned.prompts, budget)]

    before, after = chosen(head.load()), chosen(head.trained(checkpoint, recipe.training).load())
    return {"chosen_less_likely": fmean(float(b > a) for b, a in zip(before, after, strict=True))}


def by_recipe(recipe: Recipe, folder: RunFolder) -> Judging:
    def judging(prompts: Sequence[Prompt], completions: Sequence[Completion], journal: Journal) -> list[Judgement]:
        with recipe_judge(recipe, folder) as judge:
            found = judge.judge(prompts, completions, journal=journal)
        require_scored(found)
        return found

    return judging


def spin(folder: RunFolder, prompts: list[Prompt], completions: list[Completion]) -> tuple[Learned, dict[str, Any]]:
    """SPIN's pairs (2401.01335): the task's answer chosen, the policy's own rejected."""
    answers, built = own_against_reference(prompts, completions)
    answers = folder.records(REFERENCE_ANSWERS, Completion, lambda _: answers)
    return paired(folder, prompts, [*answers, *completions], [], built)

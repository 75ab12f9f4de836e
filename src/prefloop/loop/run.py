"""The whole way: prompts -> completions -> judgements -> preferences -> checkpoint -> evaluation -> report.

Each stage is one function of the room below; this file only says what follows what, and where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig
from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.config.sampling import Sampling
from prefloop.evaluation.compare import Answers, HeldOutPair, evaluate
from prefloop.evaluation.labels import label_gap
from prefloop.generation.generate import Writer
from prefloop.judging.groups import Judge, require_scored
from prefloop.judging.open import open_judge
from prefloop.loop.answers import generated, sample_candidates, stage_label
from prefloop.loop.judged import judged_evaluation, recipe_judge
from prefloop.loop.launch import Launch
from prefloop.loop.learned import Learned
from prefloop.loop.policies import Policies, initial_lineage, initial_source, run_policies
from prefloop.loop.run_training import Training
from prefloop.loop.tasks import ask, judge_databases, origin
from prefloop.models.load import Policy
from prefloop.preferences.build import build_preferences, diagnostics
from prefloop.preferences.export import export_trl, trl_rows
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.training.preference import pair_logps


@dataclass(frozen=True)
class Stages:
    """What the stages of one seed share: the recipe, the folder, and the policies (`run_policies`)."""

    recipe: Recipe
    folder: RunFolder
    policies: Policies
    launch: Launch | None = None
    """Processes that train; None: this one."""

    @property
    def checkpoint(self) -> Path:
        """Where the trained policy is."""
        return self.folder.root / "checkpoint"


def run_seed(recipe: Recipe, folder: RunFolder, launch: Launch | None = None) -> dict[str, Any]:
    """Run (or take up) every stage for the recipe's seed; returns the evaluation.

    Training is done by the processes of `launch`, if given; everything else here.

    The order is fixed and each stage reads its inputs from the folder, so a run killed anywhere goes on with
    the first file that is missing and ends with the same bytes.
    """
    if not isinstance(recipe.judge, ExecutionConfig) and not folder.path("judgements.parquet").exists():
        with recipe_judge(recipe, folder):  # one that cannot be opened is found before answers are written for it
            pass
    policies = run_policies(recipe, folder.root / "checkpoint")
    stages = Stages(recipe, folder, policies, launch)
    with execution_judge(recipe) if recipe.task.executed else nullcontext() as execution:
        prompts = _prompts(stages)
        train = [prompt for prompt in prompts if prompt.split == "train"]
        test = [prompt for prompt in prompts if prompt.split == "test"]
        completions = folder.records(
            "completions.parquet", Completion, lambda journal: sample_candidates(recipe, policies, train, journal)
        )
        judgements = _labels(stages, execution, train, completions)
        preferences = _preferences(stages, train, completions, judgements)
        _train(stages, preferences, completions, train)
        if execution is None:
            return judged_evaluation(recipe, folder, policies, test)
        return _evaluation(stages, execution, test)


def execution_judge(recipe: Recipe) -> Judge:
    """The judge that compares before and after where SQL is asked for, whoever labels the pairs."""
    config = recipe.judge if isinstance(recipe.judge, ExecutionConfig) else ExecutionConfig()
    return open_judge(config, judge_databases(recipe), engine=recipe.engine, threads=recipe.threads)


def _labels(
    stages: Stages, execution: Judge | None, prompts: list[Prompt], completions: list[Completion]
) -> list[Judgement]:
    """What the recipe's judge says of the training answers; beside it, how far execution agrees."""
    recipe, folder = stages.recipe, stages.folder

    def compute(journal: Journal) -> list[Judgement]:
        if execution and isinstance(recipe.judge, ExecutionConfig):
            return execution.judge(prompts, completions, journal=journal)
        stages.policies.release()
        with recipe_judge(recipe, folder) as judge:
            found = judge.judge(prompts, completions, journal=journal)
        require_scored(found)
        return found

    labels = folder.records("judgements.parquet", Judgement, compute)
    if execution and not isinstance(recipe.judge, ExecutionConfig):
        checked = folder.records(
            "stages/execution-judgements.parquet",
            Judgement,
            lambda journal: execution.judge(prompts, completions, journal=journal, label="check labels"),
        )
        templates = {prompt.id: prompt.meta["template"] for prompt in prompts}
        folder.document("stages/label-gap.json", lambda: label_gap(labels, checked, templates))
    return labels


def _prompts(stages: Stages) -> list[Prompt]:
    def compute(_: object) -> list[Prompt]:
        asked = ask(stages.recipe)
        stages.folder.document("stages/prompts.json", lambda: asked.audit)
        stages.folder.document("stages/origin.json", lambda: asked.origin)
        return asked.prompts

    return stages.folder.records("prompts.parquet", Prompt, compute)


def answered(
    recipe: Recipe,
    folder: RunFolder,
    judge: Judge,
    policy: Callable[[], Policy | Writer],
    prompts: Sequence[Prompt],
    sampling: Sampling,
    prefix: str,
) -> tuple[list[Completion], list[Judgement]]:
    """Completions of a policy and their judgements, in ``{prefix}completions.parquet`` and so on."""
    completions = generated(recipe, folder, policy, prompts, sampling, prefix)
    judgements = folder.records(
        f"{prefix}judgements.parquet",
        Judgement,
        lambda journal: judge.judge(prompts, completions, journal=journal, label=f"{stage_label(prefix)}judge"),
    )
    return completions, judgements


def _preferences(
    stages: Stages, prompts: list[Prompt], completions: list[Completion], judgements: list[Judgement]
) -> list[Preference]:
    recipe = stages.recipe

    def compute(_: object) -> list[Preference]:
        built = build_preferences(prompts, completions, judgements, recipe.preferences, recipe.seed)
        figures = diagnostics(built.preferences, completions, judgements)
        lost = ", ".join(
            f"{count:,} {name}" for name, count in built.drops.items() if name not in ("prompts", "kept pairs")
        )
        note(f"{len(built.preferences):,} pairs of {len(prompts):,} prompts" + (f"; dropped: {lost}" if lost else ""))
        stages.folder.document("stages/preferences.json", lambda: {"drops": built.drops, "diagnostics": figures})
        rows = trl_rows(built.preferences, {p.id: p for p in prompts}, {c.id: c for c in completions})
        card = {
            "name": recipe.name,
            "policy": f"{recipe.policy.model} ({initial_lineage(recipe).id})",
            "judge": ", ".join(sorted({judgement.judge for judgement in judgements})),
            "strategy": built.strategy,
            "recipe": recipe.hash,
            "origin": stages.folder.document("stages/origin.json", lambda: origin(recipe)),
            "diagnostics": figures,
            "drops": built.drops,
        }
        export_trl(stages.folder.path("preferences/README.md").parent, rows, card)
        return list(built.preferences)

    return stages.folder.records("preferences.parquet", Preference, compute)


def _train(stages: Stages, preferences: list[Preference], completions: list[Completion], prompts: list[Prompt]) -> None:
    """Train unless the checkpoint stands."""
    recipe = stages.recipe
    if not (stages.checkpoint / "training.json").exists():
        with stages.folder.timed("train"):
            training = Training(initial_source(recipe), recipe.training, recipe.seed, threads=recipe.threads)
            if stages.launch is None:
                data = Learned(preferences, {c.id: c for c in completions}, {p.id: p for p in prompts})
                training.here(stages.folder, data, stages.policies["before"])
            else:
                stages.policies.release()
                training.apart(stages.folder, None, stages.launch)
    initial = initial_lineage(recipe).id
    stages.folder.document(
        "stages/lineage.json",
        lambda: {"initial": initial, "tuned": stages.policies["after"].lineage.id, "reference": initial},
    )


def _evaluation(stages: Stages, judge: Judge, test: list[Prompt]) -> dict[str, Any]:
    recipe = stages.recipe
    answers = compared_answers(recipe, stages.folder, judge, stages.policies, test)
    subset = sampled_subset(test, recipe.evaluation.sampled_questions)
    margins = stages.folder.document("evaluation/held-out.json", lambda: _held_out(stages, subset, answers["before"]))
    return stages.folder.document(
        "evaluation.json",
        lambda: evaluate(
            test,
            answers["before"],
            answers["after"],
            [HeldOutPair(**row) for row in margins],
            seed=recipe.seed,
            draws=recipe.evaluation.bootstrap,
            beta=recipe.training.strength,
        ),
    )


def compared_answers(
    recipe: Recipe, folder: RunFolder, judge: Judge, policies: Policies, test: list[Prompt]
) -> dict[str, Answers]:
    """Greedy answers before and after to every test question, and samples at T=1 for the subset, all judged."""
    greedy = recipe.generation.greedy
    sampled = Sampling(recipe.evaluation.samples, max_new_tokens=recipe.generation.max_new_tokens)
    subset = sampled_subset(test, recipe.evaluation.sampled_questions)
    found = {}
    for side in ("after", "before"):  # as they are in memory after training
        policy = partial(policies.writer, side)
        best = answered(recipe, folder, judge, policy, test, greedy, f"evaluation/{side}-greedy-")
        drawn = answered(recipe, folder, judge, policy, subset, sampled, f"evaluation/{side}-sampled-")
        found[side] = Answers(*best, *drawn)
    return found


def _held_out(stages: Stages, prompts: list[Prompt], before: Answers) -> list[dict[str, Any]]:
    """Pairs of the samples of the policy as it started on unseen questions, scored by both policies."""
    recipe = stages.recipe
    built = build_preferences(prompts, before.sampled, before.sampled_judgements, PreferenceConfig(), recipe.seed)
    completions = {completion.id: completion for completion in before.sampled}
    templates = {prompt.id: prompt for prompt in prompts}
    budget = recipe.training.tokens_per_batch
    scores = {
        side: pair_logps(stages.policies[policy], built.preferences, completions, templates, budget)
        for side, policy in (("reference", "before"), ("policy", "tuned"))
    }
    rows = []
    for preference, policy, reference in zip(built.preferences, scores["policy"], scores["reference"], strict=True):
        chosen, rejected = (p - r for p, r in zip(policy, reference, strict=True))
        template = templates[preference.prompt_id].meta["template"]
        rows.append({"template": template, "margin": chosen - rejected, "displacement": chosen})
    return rows


def sampled_subset(test: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` test prompts (all, where there are fewer) spread evenly over the ids, the same for every seed."""
    ordered = sorted(test, key=lambda prompt: prompt.id)
    count = min(count, len(ordered))
    return [ordered[i * len(ordered) // count] for i in range(count)]

"""The whole way: prompts -> completions -> judgements -> preferences -> checkpoint -> evaluation -> report.

Each stage is one function of the room below; this file only says what follows what, and where it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.config.sampling import Sampling
from prefloop.evaluation.compare import Answers, HeldOutPair, evaluate
from prefloop.generation.generate import generate_completions
from prefloop.judging.execution import ExecutionJudge
from prefloop.models.export import export_model
from prefloop.models.load import Policy, load_policy, merged
from prefloop.preferences.build import build_preferences, diagnostics
from prefloop.preferences.export import export_trl, trl_rows
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.run_folder import RunFolder
from prefloop.tasks.nba.task import ORIGIN, judge_databases, test_prompts, train_prompts
from prefloop.tasks.nba.text import normalised
from prefloop.training.preference import pair_logps, train_preferences


@dataclass(frozen=True)
class Stages:
    """What the stages of one seed share: the recipe, the folder, the judge and the policy as it started."""

    recipe: Recipe
    folder: RunFolder
    judge: ExecutionJudge
    initial: Policy


def run_seed(recipe: Recipe, folder: RunFolder) -> dict[str, Any]:
    """Run (or take up) every stage for the recipe's seed; returns the evaluation.

    The order is fixed and each stage reads its inputs from the folder, so a run killed anywhere goes on with
    the first file that is missing and ends with the same bytes.
    """
    with ExecutionJudge(judge_databases(), recipe.judge) as judge:
        policy = load_policy(recipe.policy.model, dtype=recipe.policy.dtype, device=recipe.policy.device)
        stages = Stages(recipe, folder, judge, policy)
        prompts = _prompts(stages)
        train = [prompt for prompt in prompts if prompt.split == "train"]
        completions, judgements = answered(recipe, folder, judge, policy, train, _sampling(recipe), "")
        preferences = _preferences(stages, train, completions, judgements)
        tuned = _tuned(stages, preferences, completions, train)
        return _evaluation(stages, tuned, [prompt for prompt in prompts if prompt.split == "test"])


def _sampling(recipe: Recipe) -> Sampling:
    settings = recipe.generation
    return Sampling(settings.k, settings.temperature, settings.top_p, max_new_tokens=settings.max_new_tokens)


def _prompts(stages: Stages) -> list[Prompt]:
    """Test questions first: no training question may share a text with them."""
    audits: dict[str, Any] = {}

    def compute(_: object) -> list[Prompt]:
        task, workers = stages.recipe.task, stages.recipe.judge.workers
        test = test_prompts(task, judge_databases(), workers)
        forbidden = {normalised(prompt.meta["question"]) for prompt in test.prompts}
        train = train_prompts(task, judge_databases(), workers, stages.recipe.seed, forbidden)
        audits.update(test=test.audit, train=train.audit)
        stages.folder.document("stages/prompts.json", lambda: audits)
        return [*train.prompts, *test.prompts]

    return stages.folder.records("prompts.parquet", Prompt, compute)


def answered(
    recipe: Recipe,
    folder: RunFolder,
    judge: ExecutionJudge,
    policy: Policy,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    prefix: str,
) -> tuple[list[Completion], list[Judgement]]:
    """Completions of `policy` and their judgements, in ``{prefix}completions.parquet`` and so on."""
    completions = folder.records(
        f"{prefix}completions.parquet",
        Completion,
        lambda journal: generate_completions(
            policy, prompts, sampling, seed=recipe.seed, journal=journal, label=f"{_label(prefix)}generate"
        ),
    )
    judgements = folder.records(
        f"{prefix}judgements.parquet",
        Judgement,
        lambda journal: judge.judge(prompts, completions, journal=journal, label=f"{_label(prefix)}judge"),
    )
    return completions, judgements


def _label(prefix: str) -> str:
    return prefix.removeprefix("evaluation/").replace("-", " ").replace("/", " ")


def _preferences(
    stages: Stages, prompts: list[Prompt], completions: list[Completion], judgements: list[Judgement]
) -> list[Preference]:
    recipe = stages.recipe

    def compute(_: object) -> list[Preference]:
        built = build_preferences(prompts, completions, judgements, recipe.preferences, recipe.seed)
        figures = diagnostics(built.preferences, completions, judgements)
        stages.folder.document("stages/preferences.json", lambda: {"drops": built.drops, "diagnostics": figures})
        rows = trl_rows(built.preferences, {p.id: p for p in prompts}, {c.id: c for c in completions})
        card = {
            "name": recipe.name,
            "policy": f"{recipe.policy.model} ({stages.initial.lineage.id})",
            "judge": recipe.judge.name,
            "strategy": recipe.preferences.strategy,
            "recipe": recipe.hash,
            "origin": ORIGIN,
            "diagnostics": figures,
            "drops": built.drops,
        }
        export_trl(stages.folder.path("preferences/README.md").parent, rows, card)
        return list(built.preferences)

    return stages.folder.records("preferences.parquet", Preference, compute)


def _tuned(
    stages: Stages, preferences: list[Preference], completions: list[Completion], prompts: list[Prompt]
) -> Policy:
    """Train unless the checkpoint stands, then load it as a user would."""
    recipe, out = stages.recipe, stages.folder.root / "checkpoint"
    if not (out / "training.json").exists():
        with stages.folder.timed("train"):
            train_preferences(
                stages.initial,
                preferences,
                {completion.id: completion for completion in completions},
                {prompt.id: prompt for prompt in prompts},
                recipe.training,
                out,
                work=stages.folder.root / "work" / "training",
                seed=recipe.seed,
                log=lambda row: stages.folder.log("step", **row),
                show=note,
            )
    tuned = load_checkpoint(recipe, out)
    lineage = {
        "initial": stages.initial.lineage.id,
        "tuned": tuned.lineage.id,
        "reference": stages.initial.lineage.id,
    }
    stages.folder.document("stages/lineage.json", lambda: lineage)
    return tuned


def load_checkpoint(recipe: Recipe, out: Path) -> Policy:
    """The trained policy of a run: base and adapter, or a whole folder; from QLoRA on the weights it learned on."""
    settings = recipe.policy
    if recipe.training.method == "qlora":
        whole = out.with_name(f"{out.name}-merged")
        if not whole.exists():
            export_model(settings.model, out, whole, settings.dtype, device=settings.device)
        return load_policy(whole, dtype=settings.dtype, device=settings.device)
    if recipe.training.method == "full":
        return load_policy(out, dtype=settings.dtype, device=settings.device)
    return load_policy(settings.model, adapter=out, dtype=settings.dtype, device=settings.device)


def _evaluation(stages: Stages, tuned: Policy, test: list[Prompt]) -> dict[str, Any]:
    recipe = stages.recipe
    policies = {"before": stages.initial, "after": merged(tuned)}
    answers = compared_answers(recipe, stages.folder, stages.judge, policies, test)
    subset = sampled_subset(test, recipe.evaluation.sampled_questions)
    margins = stages.folder.document(
        "evaluation/held-out.json", lambda: _held_out(stages, tuned, subset, answers["before"])
    )
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
    recipe: Recipe, folder: RunFolder, judge: ExecutionJudge, policies: dict[str, Policy], test: list[Prompt]
) -> dict[str, Answers]:
    """Greedy answers of each policy to every test question, and samples at T=1 for the subset, all judged."""
    greedy = Sampling(k=1, greedy=True, max_new_tokens=recipe.generation.max_new_tokens)
    sampled = Sampling(recipe.evaluation.samples, max_new_tokens=recipe.generation.max_new_tokens)
    subset = sampled_subset(test, recipe.evaluation.sampled_questions)
    found = {}
    for side, policy in policies.items():
        best = answered(recipe, folder, judge, policy, test, greedy, f"evaluation/{side}-greedy-")
        drawn = answered(recipe, folder, judge, policy, subset, sampled, f"evaluation/{side}-sampled-")
        found[side] = Answers(*best, *drawn)
    return found


def _held_out(stages: Stages, tuned: Policy, prompts: list[Prompt], before: Answers) -> list[dict[str, Any]]:
    """Pairs of the samples of the policy as it started on unseen questions, scored by both policies."""
    recipe = stages.recipe
    built = build_preferences(prompts, before.sampled, before.sampled_judgements, PreferenceConfig(), recipe.seed)
    completions = {completion.id: completion for completion in before.sampled}
    templates = {prompt.id: prompt for prompt in prompts}
    budget = recipe.training.tokens_per_batch
    scores = {
        side: pair_logps(policy, built.preferences, completions, templates, budget)
        for side, policy in (("policy", tuned), ("reference", stages.initial))
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

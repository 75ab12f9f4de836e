"""The whole way: prompts -> completions -> judgements -> preferences -> checkpoint -> evaluation -> report.

Each stage is one function of the room below; this file only says what follows what, and where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig, JudgeConfig
from prefloop.config.recipe import PreferenceConfig, Recipe
from prefloop.config.sampling import Sampling
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.compare import HeldOutPair, evaluate
from prefloop.evaluation.labels import label_gap
from prefloop.generation.generate import Writer
from prefloop.judging.groups import Judge
from prefloop.judging.open import open_judge
from prefloop.loop.answers import candidate_answers, generated, stage_label
from prefloop.loop.judge_stage import JudgementTally, answer_groups, judged_slices
from prefloop.loop.judged import judged_evaluation, recipe_judge
from prefloop.loop.launch import Launch
from prefloop.loop.learned import Learned
from prefloop.loop.policies import Policies, initial_lineage, initial_source, run_policies
from prefloop.loop.prefer_stage import Paired
from prefloop.loop.run_training import Training
from prefloop.loop.tasks import ask, judge_databases, origin
from prefloop.models.load import Policy
from prefloop.preferences.build import build_preferences
from prefloop.preferences.export import trl_files, trl_rows, write_card
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.grouped import ids_of
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import each_record, find_records
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
        completions = _candidates(stages, train)
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


def _candidates(stages: Stages, prompts: list[Prompt]) -> Path:
    """The file with K answers to each training question."""
    recipe, policies = stages.recipe, stages.policies
    work = stages.folder.work("candidates")
    return stages.folder.written(
        "completions.parquet",
        Completion,
        lambda journal: candidate_answers(recipe, policies, prompts, journal, work),
    )


def _labels(stages: Stages, execution: Judge | None, prompts: list[Prompt], completions: Path) -> Path:
    """The file of what the recipe's judge says of the training answers; beside it, how far execution agrees."""
    recipe, folder = stages.recipe, stages.folder

    def judged(judge: Judge, config: JudgeConfig, journal: Journal, label: str = "judge") -> Iterator[list[Judgement]]:
        groups = answer_groups(ids_of(prompts), completions, config)
        work = folder.work("judging")
        return judged_slices(judge, config, groups, prompts, journal, work, JudgementTally(), label)

    def compute(journal: Journal) -> Iterator[list[Judgement]]:
        if execution and isinstance(recipe.judge, ExecutionConfig):
            yield from judged(execution, recipe.judge, journal)
            return
        stages.policies.release()
        with recipe_judge(recipe, folder) as judge:
            yield from judged(judge, recipe.judge, journal)

    labels = folder.written("judgements.parquet", Judgement, compute)
    if execution and not isinstance(recipe.judge, ExecutionConfig):
        checked = folder.written(
            "stages/execution-judgements.parquet",
            Judgement,
            lambda journal: judged(execution, ExecutionConfig(), journal, "check labels"),
        )
        templates = {prompt.id: prompt.meta["template"] for prompt in prompts}
        folder.document(
            "stages/label-gap.json",
            lambda: label_gap(each_record(labels, Judgement), each_record(checked, Judgement), templates),
        )
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


def _preferences(stages: Stages, prompts: list[Prompt], completions: Path, judgements: Path) -> list[Preference]:
    """The pairs, which are also exported in TRL's format with a card."""
    recipe, folder = stages.recipe, stages.folder

    def compute(_: object) -> Iterator[list[Preference]]:
        work, place = folder.work("pairing"), folder.path("preferences/README.md").parent
        paired = Paired(
            ids_of(prompts), lambda: prompts, completions, judgements, recipe.preferences, recipe.seed, work
        )
        pairs = asked = 0
        with trl_files(place) as write:
            for part, kept in paired.slices():
                by_id = {prompt.id: prompt for prompt in part.prompts}
                write(trl_rows(kept, by_id, {answer.id: answer for answer in part.rows[0]}))
                pairs, asked = pairs + len(kept), asked + len({preference.prompt_id for preference in kept})
                yield kept
        counts = paired.counts()
        _tell_drops(pairs, len(prompts), counts["drops"])
        folder.document("stages/preferences.json", lambda: counts)
        card = {
            "name": recipe.name,
            "policy": f"{recipe.policy.model} ({initial_lineage(recipe).id})",
            "recipe": recipe.hash,
            "origin": folder.document("stages/origin.json", lambda: origin(recipe)),
        }
        write_card(place, {**card, **paired.card()}, pairs, asked)

    return list(each_record(folder.written("preferences.parquet", Preference, compute), Preference))


def _tell_drops(pairs: int, prompts: int, drops: dict[str, int]) -> None:
    lost = ", ".join(f"{count:,} {name}" for name, count in drops.items() if name not in ("prompts", "kept pairs"))
    note(f"{pairs:,} pairs of {prompts:,} prompts" + (f"; dropped: {lost}" if lost else ""))


def _train(stages: Stages, preferences: list[Preference], completions: Path, prompts: list[Prompt]) -> None:
    """Train unless the checkpoint stands."""
    recipe = stages.recipe
    if not (stages.checkpoint / "training.json").exists():
        with stages.folder.timed("train"):
            training = Training(initial_source(recipe), recipe.training, recipe.seed, threads=recipe.threads)
            if stages.launch is None:
                ranked = {answer for preference in preferences for tier in preference.ranking for answer in tier}
                by_id = {found.id: found for found in find_records(completions, Completion, "id", ranked)}
                data = Learned(preferences, by_id, {prompt.id: prompt for prompt in prompts})
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

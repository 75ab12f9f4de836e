"""What the drop-ins of the NBA simulator call for preference tuning (rec_047): one method for each step of it.

Offline, the embedded policy learns from labels of a small reward model that is trained in the same call; with a
recipe the same four methods report one whole run. Every step returns JSON: ``figures`` (numbers that were computed)
and ``artifacts`` (paths that exist).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from prefloop.config.judges import ExecutionConfig, RewardModelConfig
from prefloop.config.recipe import PreferenceConfig, Recipe, load_recipe
from prefloop.config.sampling import Sampling
from prefloop.config.training import RewardTrainingConfig
from prefloop.evaluation.answers import Answers
from prefloop.evaluation.compare import HeldOutPair, evaluate
from prefloop.evaluation.labels import label_gap
from prefloop.generation.generate import generate_completions
from prefloop.judging.execution import ExecutionJudge
from prefloop.judging.reward_model import RewardModelJudge
from prefloop.loop.main import HEADLINES, run_recipe
from prefloop.loop.planted import planted_pairs
from prefloop.loop.policies import initial_policy, load_checkpoint
from prefloop.loop.run import sampled_subset
from prefloop.loop.tasks import Asked, ask
from prefloop.models.load import Policy, merged
from prefloop.preferences.build import PreferenceSet, build_preferences
from prefloop.preferences.export import write_preference_set
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import read_json, write_json
from prefloop.tasks.nba.task import judge_databases
from prefloop.training.preference import pair_logps, train_preferences
from prefloop.training.reward import train_reward_model

Step = dict[str, Any]
"""``figures``, and ``artifacts`` as paths."""

OFFLINE = {
    "task.train_questions": 96,
    "task.test_questions": 100,
    "generation.k": 6,
    "judge.workers": 2,
    "preferences.pairs_per_prompt": 1,
    "preferences.min_margin_quantile": 0.25,
    "training.learning_rate": 3e-4,
    "training.batch_pairs": 8,
    "evaluation.sampled_questions": 50,
    "evaluation.samples": 4,
    "evaluation.bootstrap": 2000,
}
"""The recipe nba-sql, cut down to what two CPU cores do within a minute."""
PLANTED = 600
"""Pairs the offline reward model learns from."""
REWARD_TRAINING = RewardTrainingConfig(method="full", learning_rate=3e-4, epochs=1, dtype="bfloat16", held_out=0.1)


def offline_recipe(**overrides: Any) -> Recipe:
    """What runs when no recipe is named; dotted keys with ``__`` for the dot replace parts of `OFFLINE`."""
    return load_recipe("nba-sql", OFFLINE | {key.replace("__", "."): value for key, value in overrides.items()})


def step(figures: dict[str, Any], *artifacts: Path) -> Step:
    """A step's result."""
    return {"figures": figures, "artifacts": [str(path) for path in artifacts]}


def preference_tuning(folder: Path, recipe: str | None = None) -> PreferenceTuning | PreferenceRun:
    """The job of rec_047 in `folder`: a whole run of `recipe` (a shipped name or a path), or the offline default."""
    return PreferenceRun(folder, load_recipe(recipe)) if recipe else PreferenceTuning(folder)


class PreferenceTuning:
    """The offline job, step by step; each method needs the ones before it, and runs them where they have not run."""

    def __init__(self, folder: Path, recipe: Recipe | None = None) -> None:
        self.folder, self.recipe = Path(folder), recipe or offline_recipe()

    @cached_property
    def _asked(self) -> Asked:
        return ask(self.recipe)

    @cached_property
    def _policy(self) -> Policy:
        return initial_policy(self.recipe)

    def _split(self, name: str) -> list[Prompt]:
        return [prompt for prompt in self._asked.prompts if prompt.split == name]

    def _answers(self, policy: Policy, prompts: Sequence[Prompt], k: int = 0) -> list[Completion]:
        """`k` samples for each prompt, or its greedy answer."""
        limit = self.recipe.generation.max_new_tokens
        sampling = Sampling(k, max_new_tokens=limit) if k else Sampling(1, greedy=True, max_new_tokens=limit)
        return generate_completions(policy, prompts, sampling, seed=self.recipe.seed)

    def _executed(self, prompts: Sequence[Prompt], answers: Sequence[Completion]) -> list[Judgement]:
        config = self.recipe.judge if isinstance(self.recipe.judge, ExecutionConfig) else ExecutionConfig(workers=2)
        with ExecutionJudge(judge_databases(), config) as judge:
            return judge.judge(prompts, answers)

    @cached_property
    def _candidates(self) -> tuple[list[Completion], list[Judgement]]:
        completions = self._answers(self._policy, self._split("train"), self.recipe.generation.k)
        return completions, self._executed(self._split("train"), completions)

    def _pairs(self, judgements: Sequence[Judgement]) -> PreferenceSet:
        completions = self._candidates[0]
        return build_preferences(
            self._split("train"), completions, judgements, self.recipe.preferences, self.recipe.seed
        )

    def generate_preferences(self) -> Step:
        """Step 1: answers of the policy to every training question, run, and paired: chosen and rejected."""
        completions, judgements = self._candidates
        built = self._pairs(judgements)
        out = self.folder / "preferences"
        card = {
            "name": "rec_047",
            "policy": self.recipe.policy.model,
            "judge": judgements[0].judge,
            "strategy": built.strategy,
            "recipe": self.recipe.hash,
            "origin": self._asked.origin,
            "diagnostics": {},
            "drops": built.drops,
        }
        write_preference_set(out, self._split("train"), completions, list(built.preferences), card)
        right = [j.objectives["correct"] for j in judgements if j.value is not None]
        figures = {
            "questions": len(self._split("train")),
            "answers": len(completions),
            "answers_right": sum(right) / len(right),
            "pairs": len(built.preferences),
            "dropped": {name: n for name, n in built.drops.items() if name not in ("prompts", "kept pairs")},
        }
        return step(figures, out / "preferences.jsonl", out / "preferences.parquet", out / "README.md")

    def train_with_reward_model(self) -> Step:
        """Step 2: train a reward model, let it label the same answers, and tune by DPO on its labels alone."""
        reward, checkpoint = self.folder / "reward-model", self.folder / "checkpoint"
        prompts, completions, preferences = planted_pairs(PLANTED, self.recipe.seed)
        learned = train_reward_model(
            self._policy,
            preferences,
            completions,
            prompts,
            REWARD_TRAINING,
            reward,
            work=self.folder / "work" / "reward-model",
            seed=self.recipe.seed,
        )
        candidates, executed = self._candidates
        with RewardModelJudge(RewardModelConfig(model=str(reward))) as judge:
            labels = judge.judge(self._split("train"), candidates)
        templates = {prompt.id: prompt.meta["template"] for prompt in self._split("train")}
        gap = label_gap(labels, executed, templates)
        built = self._pairs(labels)
        tuned = train_preferences(
            self._policy,
            built.preferences,
            {completion.id: completion for completion in candidates},
            {prompt.id: prompt for prompt in self._split("train")},
            self.recipe.training,
            checkpoint,
            work=self.folder / "work" / "dpo",
            seed=self.recipe.seed,
        )
        figures = {
            "reward_model": labels[0].judge,
            "reward_pairs": learned.pairs,
            "reward_held_out_accuracy": learned.kept["held_out/scores/accuracies"],
            "labels_against_execution": gap,
            "dpo_pairs": tuned.pairs,
            "dpo_steps": tuned.steps,
            "dpo_final_loss": tuned.final_loss,
        }
        return step(figures, reward / "training.json", checkpoint / "training.json")

    @cached_property
    def _evaluation(self) -> dict[str, Any]:
        """Before against after on unseen questions, by execution; written to ``evaluation.json``."""
        test = self._split("test")
        subset = sampled_subset(test, self.recipe.evaluation.sampled_questions)
        tuned = merged(load_checkpoint(self.recipe, self.folder / "checkpoint"))
        samples = self._answers(self._policy, subset, self.recipe.evaluation.samples)
        judged = self._executed(subset, samples)
        sides = []
        for policy, drawn in ((self._policy, (samples, judged)), (tuned, ([], []))):
            greedy = self._answers(policy, test)
            sides.append(Answers(greedy, self._executed(test, greedy), *drawn))
        margins = self._held_out(subset, samples, judged, tuned)
        settings = self.recipe.evaluation
        found = evaluate(
            test, *sides, margins, seed=self.recipe.seed, draws=settings.bootstrap, beta=self.recipe.training.strength
        )
        write_json(self.folder / "evaluation.json", found)
        return found

    def _held_out(
        self, prompts: list[Prompt], samples: list[Completion], judged: list[Judgement], tuned: Policy
    ) -> list[HeldOutPair]:
        """Pairs that execution makes of the first policy's samples on unseen questions, scored by both policies."""
        pairs = build_preferences(prompts, samples, judged, PreferenceConfig(), self.recipe.seed).preferences
        asked, answers = {p.id: p for p in prompts}, {c.id: c for c in samples}
        before, after = (pair_logps(policy, pairs, answers, asked, 8192) for policy in (self._policy, tuned))
        return [
            HeldOutPair(asked[pair.prompt_id].meta["template"], (c - c0) - (r - r0), c - c0)
            for pair, (c0, r0), (c, r) in zip(pairs, before, after, strict=True)
        ]

    def apply_to_sql(self) -> Step:
        """Step 3: both policies write SQL for the same unseen questions, and it is run."""
        return step(
            {"questions": len(self._split("test")), **sql_figures(self._evaluation)}, self.folder / "evaluation.json"
        )

    def assess(self) -> Step:
        """Step 4: reasoning, verbosity, and whether unseen preferences are matched."""
        return step(assessment(self._evaluation), self.folder / "evaluation.json")


def sql_figures(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Accuracy of the SQL before and after, all and on unseen templates, and the share that runs."""
    names = ("execution_accuracy", "execution_accuracy_unseen", "valid_sql")
    return {name: evaluation[name] for name in names if name in evaluation}


def assessment(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Reasoning (plan and query agree), verbosity (lengths) and the likelihood to match preferences, before and after;
    of a task without SQL the figures that its judge gives."""
    names = ("reasoning", "verbosity", "preference_accuracy", *HEADLINES)
    kept = {name: evaluation[name] for name in names if name in evaluation}
    return {name: value for name, value in kept.items() if name not in sql_figures(evaluation)}


class PreferenceRun:
    """A whole run of a recipe: the first step runs it (or goes on with it), and every step reports its part."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = Path(folder) / "run", recipe

    @cached_property
    def _evaluation(self) -> dict[str, Any]:
        return run_recipe(self.recipe, self.folder, resume=True)

    def generate_preferences(self) -> Step:
        """Step 1: the run's preference set, with every drop counted."""
        assert self._evaluation
        found = read_json(self.folder / "stages" / "preferences.json")
        figures = {"questions": found["drops"]["prompts"], "pairs": found["drops"]["kept pairs"], **found}
        return step(figures, self.folder / "preferences" / "preferences.jsonl")

    def train_with_reward_model(self) -> Step:
        """Step 2: which judge labelled, how far it agrees with execution where that was measured, and the training."""
        assert self._evaluation
        gap = self.folder / "stages" / "label-gap.json"
        figures = {"judge": self.recipe.judge.name, "objective": self.recipe.training.objective}
        figures |= {"labels_against_execution": read_json(gap)} if gap.exists() else {}
        return step(figures, self.folder / "checkpoint" / "training.json")

    def apply_to_sql(self) -> Step:
        """Step 3: SQL before and after; empty for a recipe of another task."""
        return step(sql_figures(self._evaluation), self.folder / "evaluation.json")

    def assess(self) -> Step:
        """Step 4: as `PreferenceTuning.assess`."""
        return step(assessment(self._evaluation), self.folder / "evaluation.json", self.folder / "report.html")

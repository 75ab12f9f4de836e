"""What a run will do, before it does it: counts, memory and time (`--dry-run`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.config.tasks import CustomTaskConfig
from prefloop.errors import ConfigError
from prefloop.loop.amounts import amounts
from prefloop.loop.plan_model import ModelPlan, plan_model
from prefloop.models.load import is_hub_id, model_folder

TOKENS_PER_ANSWER = 95
"""Mean answer of the embedded policy; other policies are planned at half of max_new_tokens."""

GENERATE_TOKENS_S, TRAIN_TOKENS_S, JUDGE_ANSWERS_S, QUESTIONS_S = 9_000, 7_000, 800, 110
"""Rates of the embedded policy on two CPU cores (docs/measurements.md)."""

MEMORY_GB = 5.0
"""Peak of the shipped recipe with the embedded policy (docs/measurements.md)."""

START_S = 12


@dataclass(frozen=True)
class Plan:
    """Counts per stage, and what they will cost."""

    questions: int | None
    """None: a task of your own says it when it is asked."""
    training_answers: int
    test_answers: int
    most_pairs: int
    training_steps: int
    seconds: int | None
    """With the embedded policy, on two CPU cores."""
    memory_gb: float | None
    seeds: int
    baselines: bool
    model: ModelPlan | None
    """Of another policy."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def text(self) -> str:
        """For the terminal."""
        rows = [
            ("prompts", "your task decides" if self.questions is None else f"{self.questions:,}"),
            ("answers sampled for training", f"{self.training_answers:,}"),
            ("answers for the evaluation", f"{self.test_answers:,}"),
            ("preference pairs", f"at most {self.most_pairs:,}"),
            ("optimizer steps", f"at most {self.training_steps:,}"),
            ("seeds", f"{self.seeds}" + (" with baselines" if self.baselines else "")),
        ]
        if self.memory_gb is not None and self.seconds is not None:
            rows.append(("memory", f"about {self.memory_gb:.1f} GB"))
            rows.append(("time after the install", f"about {self.seconds / 60:.0f} min on two cores"))
        text = "\n".join(f"{name:<30} {value}" for name, value in rows)
        return f"{text}\n{self.model.text()}" if self.model else text


def plan(recipe: Recipe, seeds: int = 1, baselines: bool = False) -> Plan:
    """Count what the recipe asks for; no weights are loaded, fetched or built.

    Raises:
        ModelError: the policy is a folder that holds no model.
    """
    if not is_hub_id(recipe.policy.model):
        model_folder(recipe.policy.model)
    if baselines and not recipe.task.executed:
        raise ConfigError(f"--baselines are measured by execution, which task.name={recipe.task.name} does not ask for")
    counted, training = amounts(recipe, baselines), recipe.training
    train, test, pairs = counted.train, counted.test, counted.pairs
    sampled, tested = counted.sampled, counted.tested
    embedded = recipe.policy.model == "embedded"
    trained = pairs * training.epochs * 2 * TOKENS_PER_ANSWER * (2 if baselines else 1)
    seconds = (
        START_S
        + (train + test) / QUESTIONS_S
        + (sampled + tested) * TOKENS_PER_ANSWER / GENERATE_TOKENS_S
        + (sampled + tested) / JUDGE_ANSWERS_S
        + trained / TRAIN_TOKENS_S
    )
    return Plan(
        questions=None if isinstance(recipe.task, CustomTaskConfig) else train + test,
        training_answers=sampled * seeds,
        test_answers=tested * seeds,
        most_pairs=pairs,
        training_steps=-(-pairs * training.epochs // training.batch_pairs) * seeds * (2 if baselines else 1),
        seconds=round(seconds) * seeds if embedded else None,
        memory_gb=MEMORY_GB if embedded else None,
        seeds=seeds,
        baselines=baselines,
        model=None if embedded else plan_model(recipe, sampled + tested, pairs),
    )

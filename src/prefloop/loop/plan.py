"""What a run will do, before it does it: counts, memory and time (`--dry-run`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prefloop.config.recipe import Recipe
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
    """Counts per stage, and what they will cost on two CPU cores with the embedded policy."""

    questions: int
    training_answers: int
    test_answers: int
    most_pairs: int
    training_steps: int
    seconds: int | None
    """None for other policies: their speed is not known here."""
    memory_gb: float | None
    seeds: int
    baselines: bool

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)

    def text(self) -> str:
        """For the terminal."""
        seconds = (
            "not known for this policy" if self.seconds is None else f"about {self.seconds / 60:.0f} min on two cores"
        )
        memory = "not known for this policy" if self.memory_gb is None else f"about {self.memory_gb:.1f} GB"
        rows = (
            ("questions", f"{self.questions:,}"),
            ("answers sampled for training", f"{self.training_answers:,}"),
            ("answers for the evaluation", f"{self.test_answers:,}"),
            ("preference pairs", f"at most {self.most_pairs:,}"),
            ("optimizer steps", f"at most {self.training_steps:,}"),
            ("seeds", f"{self.seeds}" + (" with baselines" if self.baselines else "")),
            ("memory", memory),
            ("time after the install", seconds),
        )
        return "\n".join(f"{name:<30} {value}" for name, value in rows)


def plan(recipe: Recipe, seeds: int = 1, baselines: bool = False) -> Plan:
    """Count what the recipe asks for; nothing is loaded or built.

    Raises:
        ModelError: the policy is a folder that holds no model.
    """
    if not is_hub_id(recipe.policy.model):
        model_folder(recipe.policy.model)
    task, settings, training = recipe.task, recipe.evaluation, recipe.training
    sampled = task.train_questions * recipe.generation.k
    tested = 2 * (task.test_questions + settings.sampled_questions * settings.samples)
    if baselines:
        tested += task.test_questions * (1 + recipe.generation.k)
    k = recipe.generation.k
    per_prompt = k * (k - 1) // 2 if recipe.preferences.strategy == "all-pairs" else recipe.preferences.pairs_per_prompt
    pairs = task.train_questions * per_prompt
    embedded = recipe.policy.model == "embedded"
    generated = (sampled + tested) * TOKENS_PER_ANSWER
    trained = pairs * training.epochs * 2 * TOKENS_PER_ANSWER * (2 if baselines else 1)
    seconds = (
        START_S
        + (task.train_questions + task.test_questions) / QUESTIONS_S
        + generated / GENERATE_TOKENS_S
        + (sampled + tested) / JUDGE_ANSWERS_S
        + trained / TRAIN_TOKENS_S
    )
    return Plan(
        questions=task.train_questions + task.test_questions,
        training_answers=sampled,
        test_answers=tested,
        most_pairs=pairs,
        training_steps=-(-pairs * training.epochs // training.batch_pairs) * seeds * (2 if baselines else 1),
        seconds=round(seconds) * seeds if embedded else None,
        memory_gb=MEMORY_GB if embedded else None,
        seeds=seeds,
        baselines=baselines,
    )

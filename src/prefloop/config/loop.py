"""What a loop is: rounds of collecting, judging and training, and the guards that end it.

A recipe with a ``loop`` section is run by ``prefloop loop``; its other sections say what each round does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from prefloop.config.section import Section, kind_of, short_form
from prefloop.config.training import Idle, Optimizer, RewardTrainingConfig, SftTrainingConfig


class RatersConfig(Section):
    """Who ranks the answers of a round: people in the annotation app, or simulated raters of known noise."""

    idle: ClassVar[Idle] = {
        ("who", "people"): ("count", "skill_low", "skill_high", "tie"),
    }

    who: Literal["simulated", "people"] = Field(
        "simulated", description="simulated: made-up raters of known noise; people: the loop waits for them"
    )
    count: int = Field(12, ge=2, description="simulated raters")
    skill_low: float = Field(0.75, ge=0.5, le=1, description="worst rater's chance to say what the answers are worth")
    skill_high: float = Field(0.95, ge=0.5, le=1, description="best rater's chance")
    tie: float = Field(0.05, ge=0, le=1, description="share of verdicts that call two answers equal")
    overlap: int = Field(3, ge=1, description="raters per item")
    ranked: int = Field(4, ge=2, le=9, description="answers in one ranking")
    held_out_raters: float = Field(0.25, gt=0, lt=1, description="share of raters no verdict of whom is trained on")

    @model_validator(mode="after")
    def _ordered(self) -> RatersConfig:
        if self.skill_low > self.skill_high:
            raise ValueError("skill_low is at most skill_high")
        return self


class PolicyGradientConfig(Optimizer):
    """How the policy learns from the reward model: sampled answers, their advantages, clipped updates."""

    idle: ClassVar[Idle] = Optimizer.idle
    evaluate_every: ClassVar[int] = 1
    patience: ClassVar[int] = 0
    """Nothing is held out: what is sampled next is unseen."""

    algorithm: Literal["rloo", "grpo", "dr-grpo", "dapo"] = Field(
        "rloo", description="advantage, ratio and normalisation (docs/objectives/policy-gradient.md)"
    )
    iterations: int = Field(30, ge=1, description="times that answers are sampled afresh")
    prompts: int = Field(64, ge=1, description="prompts per iteration")
    k: int = Field(8, ge=2, description="answers per prompt, sampled at temperature 1")
    epochs: int = Field(1, ge=1, description="passes over the answers of an iteration")
    minibatches: int = Field(2, ge=1, description="optimizer steps per pass")
    clip_low: float = Field(0.2, gt=0, lt=1, description="how much less likely an answer may become in an iteration")
    clip_high: float = Field(0.2, gt=0, description="how much likelier; dapo's paper takes 0.28")
    kl_weight: float = Field(0.05, ge=0, description="price of moving away from the reference, per nat")
    reference: Literal["initial", "previous"] = Field(
        "initial", description="what to stay close to: the policy of round 0, or the one this round starts from"
    )
    whiten: bool = Field(True, description="take rewards less their iteration's mean, in its deviations")
    length_penalty: float = Field(
        0.0,
        ge=0,
        description="taken off the reward, whitened or not, for every mean length of the first iteration that an "
        "answer has beyond 1.25 of it",
    )
    truncated: Literal["lowest", "mask"] = Field(
        "lowest", description="answers cut at the limit: the group's lowest reward, or no part in the update"
    )
    look_every: int = Field(5, ge=1, description="iterations between looks at the policy from outside")

    @model_validator(mode="after")
    def _filled(self) -> PolicyGradientConfig:
        if self.minibatches > self.prompts:
            raise ValueError("minibatches is at most prompts: a prompt's answers stay in one update")
        return self


class RlhfConfig(Section):
    """Rankings of raters -> reward model -> policy gradient, again and again."""

    name: Literal["rlhf"] = Field("rlhf", description="reward model from rankings, then policy gradient")
    rounds: int = Field(2, ge=1, description="rounds at most")
    raters: RatersConfig = RatersConfig()
    reward: RewardTrainingConfig = RewardTrainingConfig()
    held_out_prompts: float = Field(0.15, gt=0, lt=0.9, description="share of prompts the reward model never sees")
    rl: PolicyGradientConfig = PolicyGradientConfig()


class IterativeConfig(Section):
    """Preference tuning on fresh prompts, each round from the model of the last."""

    name: Literal["iterative-dpo"] = Field("iterative-dpo", description="preference tuning, round after round")
    rounds: int = Field(3, ge=1, description="rounds at most")
    rejected: Literal["judged", "own"] = Field(
        "judged", description="judged: pairs by the judge; own: SPIN, the task's answer against the policy's own"
    )
    earlier: float = Field(0.0, ge=0, le=1, description="share of the last round's pairs that are trained on again")


class SelfRewardingConfig(Section):
    """The model writes prompts, answers them and judges the answers (2401.10020)."""

    made: ClassVar[tuple[str, ...]] = (
        "seed_questions",
        "seed_samples",
        "seed_temperature",
        "seed_answers",
        "written",
    )

    name: Literal["self-rewarding"] = Field("self-rewarding", description="the policy judges itself")
    rounds: int = Field(2, ge=1, description="rounds of preference tuning after the seed model M1")
    instructions: int = Field(3_200, ge=1, description="seed examples of answering (IFT)")
    judged: int = Field(1_630, ge=1, description="seed examples of judging (EFT)")
    examined: int = Field(541, ge=2, description="further judging examples, kept to measure the judge")
    seed_data: Path | None = Field(
        None, description="folder with ift.jsonl and eft.jsonl; none: made from the task (nba-sql alone)"
    )
    seed_questions: int = Field(1_000, ge=2, description="questions whose answers become judging examples")
    seed_samples: int = Field(4, ge=2, description="answers the policy gives to each of them")
    seed_temperature: float = Field(1.0, gt=0, description="of these answers")
    seed_answers: Literal["right", "log"] = Field(
        "right", description="IFT answers: right ones, or as the embedded policy's corpus has them, mistakes included"
    )
    written: int = Field(500, ge=0, description="seed examples of writing a new question")
    sft: SftTrainingConfig = SftTrainingConfig()
    prompts: int = Field(1_000, ge=1, description="new prompts per round")
    shots: int = Field(8, ge=1, description="prompts shown when a new one is written")
    shots_generated: int = Field(2, ge=0, description="how many of them may be generated ones")
    prompt_temperature: float = Field(0.6, gt=0, description="of new prompts")
    prompt_top_p: float = Field(0.9, gt=0, le=1, description="of new prompts")
    prompt_tokens: int = Field(128, ge=1, description="longest new prompt in tokens; longer ones are dropped")
    rouge: float = Field(0.7, gt=0, le=1, description="new prompts this much alike (ROUGE-L) to any are dropped")
    rubric: Path | None = Field(
        None,
        description="text file in which the model is asked to judge; none: the one for SQL where seed data is made, "
        "else that of the llm judge's rubric mode",
    )
    judge_samples: int = Field(3, ge=1, description="verdicts per answer, averaged")
    judge_temperature: float = Field(1.0, gt=0, description="of the verdicts")
    judge_tokens: int = Field(256, ge=1, description="longest verdict in tokens; longer ones are unreadable")

    @model_validator(mode="after")
    def _consistent(self) -> SelfRewardingConfig:
        idle = sorted(self.model_fields_set & set(self.made)) if self.seed_data else []
        if idle:
            raise ValueError(f"{', '.join(idle)}: no effect with seed_data, which takes the place of what they make")
        if self.shots_generated > self.shots:
            raise ValueError("shots_generated is at most shots")
        return self


LoopConfig = Annotated[
    Annotated[RlhfConfig, Tag("rlhf")]
    | Annotated[IterativeConfig, Tag("iterative-dpo")]
    | Annotated[SelfRewardingConfig, Tag("self-rewarding")],
    Discriminator(kind_of("iterative-dpo")),
    BeforeValidator(short_form),
]
"""Any loop's section; without a name, iterative DPO's."""


PLACES: dict[str, type[RatersConfig] | type[Optimizer]] = {
    "loop.raters": RatersConfig,
    "loop.reward": RewardTrainingConfig,
    "loop.rl": PolicyGradientConfig,
    "loop.sft": SftTrainingConfig,
}
"""Sections inside a loop's that have options which a switch makes idle."""


class GuardsConfig(Section):
    """When a round is not promoted, and when the loop ends. Limits: recipes of record and what went wrong in them."""

    enabled: bool = Field(True, description="false: what they find is said, nothing is held back or stopped")
    watched: int = Field(200, ge=20, description="test questions that guards look at; reported figures leave them out")
    length_growth: float = Field(0.5, gt=0, description="mean answer length over round 0's, less 1: not promoted")
    regression: float = Field(0.02, ge=0, description="fall of accuracy on the watched questions: not promoted")
    kl: float | None = Field(20.0, gt=0, description="nats per answer from the round's reference: RL ends there")
    saturation: float = Field(0.8, gt=0, le=1, description="share of answers with the judge's highest score: stop")
    duplicates: float = Field(0.5, gt=0, le=1, description="share of a prompt's samples that repeat another: stop")
    contrast: float = Field(0.5, gt=0, le=1, description="pairs' mean margin over round 1's: below, warn")

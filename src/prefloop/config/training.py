"""How models are trained: what all trainings share, and the options of each kind."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from prefloop.config.objectives import DEFAULT_BETA, LOSS_OPTIONS, OBJECTIVES, Objective
from prefloop.config.section import Section

Idle = dict[tuple[str, Any], tuple[str, ...]]
"""A switch and its value, and the options of the same section that then have no effect."""


class Optimizer(Section):
    """Which weights are trained, and the optimizer: the same for every kind of training."""

    idle: ClassVar[Idle] = {("method", "full"): ("lora_alpha", "lora_rank", "lora_variant")}

    method: Literal["lora", "qlora", "full"] = Field(
        "lora", description="a LoRA adapter; the same on 4-bit weights (NF4); or all weights"
    )
    lora_rank: int = Field(16, ge=1, description="rank of the adapter")
    lora_alpha: int = Field(32, ge=1, description="scale of the adapter; alpha/rank multiplies it")
    lora_variant: Literal["lora", "rslora", "dora"] = Field(
        "lora", description="rslora scales by alpha/sqrt(rank); dora trains magnitudes apart from directions"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine", description="decay after warm-up; wsd: constant, then linear over the last fifth"
    )
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    tokens_per_batch: int = Field(8192, ge=64, description="token budget of one forward pass")
    checkpoint_every: int = Field(20, ge=1, description="steps between resumable checkpoints")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="autocast type of the forward pass; float16 scales the loss"
    )
    checkpointing: bool = Field(False, description="compute activations again in the backward pass: slower, smaller")


class Tuning(Optimizer):
    """What trainings on given data share."""

    idle: ClassVar[Idle] = {**Optimizer.idle, ("held_out", 0.0): ("evaluate_every", "patience")}

    epochs: int = Field(2, ge=1, description="passes over the data")
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="share kept from training; its loss chooses the weights kept"
    )
    evaluate_every: int = Field(20, ge=1, description="steps between looks at what is held out")
    patience: int = Field(0, ge=0, description="stop after this many looks without a better one; 0: never")


Thinking = Literal["scored", "context"]
THINKING = "thinking sections of answers: learned from, or read but not scored"


class TrainingConfig(Tuning):
    """How the policy learns from preferences."""

    idle: ClassVar[Idle] = {
        **Tuning.idle,
        **{("objective", name): tuple(sorted(LOSS_OPTIONS - options)) for name, options in OBJECTIVES.items()},
    }

    objective: Objective = Field("dpo", description="what a step minimises (docs/objectives.md)")
    beta: float | None = Field(
        None, gt=0, description="strength of the pull to the reference; its default is the objective's"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of flipped labels assumed (dpo: cDPO; robust)")
    label_scale: float | None = Field(None, gt=0, description="dpo: soft labels, sigmoid(scale * judged margin)")
    nll_weight: float = Field(0.0, ge=0, description="weight of the chosen answer's NLL per token (iterative RPO, CPO)")
    reference: Literal["initial", "previous", "free"] = Field(
        "initial",
        description="what to stay close to: the model without the adapter it carries, the model as training starts, "
        "or nothing",
    )
    ipo_average: bool = Field(True, description="ipo: margin per token, not per answer")
    gamma_beta_ratio: float = Field(0.5, ge=0, description="simpo: margin asked for, in nats per token")
    penalty: float = Field(50.0, ge=0, description="dpop: weight of the fall of the chosen answer's likelihood")
    ld_alpha: float = Field(1.0, ge=0, le=1, description="LD-DPO: weight of tokens beyond the shorter answer's length")
    weighting: Literal["none", "wpo"] = Field("none", description="wpo: pairs the policy would say itself count most")
    lambda_good: float = Field(1.0, gt=0, description="kto: weight of good answers")
    lambda_bad: float = Field(1.0, gt=0, description="kto: weight of bad answers")
    rankings: Literal["ends", "all-pairs"] = Field("ends", description="longer rankings: best with worst, or all pairs")
    thinking: Thinking = Field("scored", description=THINKING)
    batch_pairs: int = Field(16, ge=1, description="pairs per optimizer step")

    @property
    def strength(self) -> float:
        """Beta, or the objective's default."""
        return self.beta if self.beta is not None else DEFAULT_BETA.get(self.objective, 0.1)


class SftTrainingConfig(Tuning):
    """How a model learns from instructions and answers."""

    thinking: Thinking = Field("scored", description=THINKING)
    batch_examples: int = Field(16, ge=1, description="examples per optimizer step")


class RewardTrainingConfig(Tuning):
    """How a reward model learns from preferences."""

    idle: ClassVar[Idle] = {
        **Tuning.idle,
        ("objective", "plackett-luce"): ("centring", "label_scale", "margin_weight", "rankings"),
    }

    objective: Literal["bradley-terry", "plackett-luce"] = Field(
        "bradley-terry", description="pairs, or whole rankings"
    )
    rankings: Literal["ends", "all-pairs"] = Field("all-pairs", description="bradley-terry: pairs of longer rankings")
    centring: float = Field(0.01, ge=0, description="bradley-terry: pull of scores towards 0")
    margin_weight: float = Field(0.0, ge=0, description="bradley-terry: distance asked for, times the judged margin")
    label_scale: float | None = Field(
        None, gt=0, description="bradley-terry: soft labels, sigmoid(scale * judged margin)"
    )
    batch_prompts: int = Field(16, ge=1, description="prompts per optimizer step, with all their pairs")

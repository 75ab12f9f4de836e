"""Supervised fine-tuning: cross-entropy on answers. Trains the embedded policy from scratch, too.

command -> `train_sft` (batch, log-probabilities, loss, step, log) -> `maths.objectives.cross_entropy`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from prefloop.errors import DataError
from prefloop.maths.objectives import cross_entropy
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.records import content_id
from prefloop.store.files import write_json
from prefloop.training.batches import sorted_batches
from prefloop.training.loop import StepOutcome, run_steps
from prefloop.training.update import Log, TrainingResult

BETAS = (0.9, 0.95)
"""AdamW betas of pretraining: with the usual 0.999 a short run's second moments lag behind its gradients."""

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its answer (end token included)."""


@dataclass(frozen=True)
class SftConfig:
    """How examples are learned."""

    learning_rate: float
    epochs: int = 1
    tokens_per_batch: int = 8_192
    """Tokens of one optimizer step, padding included."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.02
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Autocast type of the forward pass; weights and moments keep the model's own type."""
    prompt_weight: float = 0.0
    """Weight of a prompt token in the loss, where an answer token counts 1: 0 teaches answers alone, 1 the
    whole text (a model trained from scratch learns more from it)."""
    checkpoint_every: int = 200


def train_sft(
    model: PreTrainedModel,
    examples: Sequence[Example],
    config: SftConfig,
    out: Path,
    *,
    seed: int,
    resume: bool = True,
    log: Log = lambda row: None,
) -> TrainingResult:
    """Train all weights of `model` in place; one optimizer step per length-sorted batch.

    The loss of a step is the mean over its scored tokens, not the mean of its examples' means.

    Args:
        out: folder of ``state.safetensors`` (to resume from) and ``training.json`` (figures per step).
        resume: go on from the state in `out`; otherwise one that lies there is overwritten.

    Raises:
        DataError: no example fits the model's context.
        ModelError: loss or gradient became unusable; says what to do.
        StoreError: the state in `out` is another run's, or `out` cannot be written.
    """
    groups, weights, dropped = _prepare(model, examples, config.prompt_weight)
    lengths = [group.tokens for group in groups]
    plan = [
        batch
        for epoch in range(config.epochs)
        for batch in sorted_batches(lengths, config.tokens_per_batch, seed, epoch)
    ]
    model.eval().requires_grad_(True)  # eval: dropout off, gradients flow all the same
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    identity = content_id("sft", asdict(config), seed, model.config.to_dict(), content_id(list(map(list, examples))))
    with training_attention(model):
        forward = GroupForward(model)
        history = run_steps(
            lambda step: _backward(forward, [groups[i] for i in plan[step]], [weights[i] for i in plan[step]], config),
            [sum(lengths[i] for i in batch) for batch in plan],
            parameters,
            config,
            betas=BETAS,
            work=out,
            identity=identity,
            resume=resume,
            log=log,
            label="sft",
        )
    result = TrainingResult(out, len(plan), history, len(groups), dropped)
    write_json(out / "training.json", result.as_json())
    return result


def _backward(
    forward: GroupForward, groups: Sequence[Group], weights: Sequence[torch.Tensor], config: SftConfig
) -> StepOutcome:
    batch = forward.pack(groups)
    device = batch.input_ids.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        logps = forward(batch)
    loss = cross_entropy(logps.tokens, torch.cat(list(weights)).to(device))
    loss.backward()
    return StepOutcome({"loss": loss.item()}, batch.input_ids.numel() - batch.padding, batch.padding)


def _prepare(
    model: PreTrainedModel, examples: Sequence[Example], prompt_weight: float
) -> tuple[list[Group], list[torch.Tensor], dict[str, int]]:
    """Groups of one completion, and the loss weight of each scored token.

    To score the prompt as well, everything after its first token is laid out as the completion.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    groups: list[Group] = []
    weights: list[torch.Tensor] = []
    for prompt, answer in examples:
        if context and len(prompt) + len(answer) > context:
            continue
        scored_prompt = len(prompt) - 1 if prompt_weight else 0
        start = len(prompt) - scored_prompt
        groups.append(Group(tuple(prompt[:start]), ((*prompt[start:], *answer),)))
        weights.append(torch.tensor([prompt_weight] * scored_prompt + [1.0] * len(answer)))
    if not groups:
        raise DataError(f"none of {len(examples)} examples fits the model's context of {context} tokens")
    dropped = len(examples) - len(groups)
    return groups, weights, {"longer than the context": dropped} if dropped else {}

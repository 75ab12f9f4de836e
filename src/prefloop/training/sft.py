"""Supervised fine-tuning: cross-entropy on answers. Trains the embedded policy from scratch, too.

command -> `train_instructions` (adapters or all weights of a policy) or `train_sft` (a model in place)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prefloop.config.training import SftTrainingConfig
from prefloop.errors import DataError, ModelError
from prefloop.maths.objectives import cross_entropy
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.models.load import Policy
from prefloop.models.template import encode_answer, encode_prompt, thinking_length
from prefloop.records import Message, content_id
from prefloop.training.announce import Show, announce
from prefloop.training.batches import sorted_batches, split, step_plan
from prefloop.training.loop import Engine, Job, Pass, finished, run_steps
from prefloop.training.trainable import autocast, save_checkpoint, trainable
from prefloop.training.update import Log, TrainingResult

BETAS = (0.9, 0.95)
"""AdamW betas of pretraining: with the usual 0.999 a short run's second moments lag behind its gradients."""

Example = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of its answer (end token included)."""


@dataclass(frozen=True)
class SftConfig:
    """How a model learns examples from scratch; an optimizer step is one forward pass."""

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
    evaluate_every: int = 1
    patience: int = 0


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
    groups, weights = _whole_texts(examples, config.prompt_weight)
    groups, weights, dropped = _fitting(model, groups, weights)
    lengths = [group.tokens for group in groups]
    plan = [
        batch
        for epoch in range(config.epochs)
        for batch in sorted_batches(lengths, config.tokens_per_batch, seed, epoch)
    ]
    model.eval().requires_grad_(True)  # eval: dropout off, gradients flow all the same
    identity = content_id("sft", asdict(config), seed, model.config.to_dict(), content_id(list(map(list, examples))))
    with training_attention(model):
        forward = GroupForward(model)
        engine = Engine.of(forward, config, BETAS)
        job = _job(forward, groups, weights, plan, config.dtype)
        history = run_steps(engine, job, config, work=out, identity=identity, resume=resume, log=log)
    return finished(engine, out, history, len(groups), dropped)


def train_instructions(
    policy: Policy,
    examples: Sequence[tuple[Sequence[Message], str]],
    config: SftTrainingConfig,
    out: Path,
    *,
    work: Path,
    seed: int,
    resume: bool = True,
    log: Log = lambda row: None,
    show: Show | None = None,
) -> TrainingResult:
    """Train a policy on conversations and their answers, and write the checkpoint: an adapter or a whole model.

    The loss of a step is the mean over its answers' tokens.

    Args:
        policy: where training starts; its model is the same after the call as before it.
        out: checkpoint folder; ``training.json`` (figures per step) is written last.
        work: folder of the resumable state.
        show: called with what is worth reading before the first step.

    Raises:
        DataError: no example can be trained on.
        ModelError: the gradient is zero or not finite.
        StoreError: the state in `work` is another run's, or a folder cannot be written.
    """
    groups, dropped = _answers(policy, examples, config.thinking)
    weights = [torch.ones(group.scored[0]) for group in groups]
    training, held_out = split(len(groups), config.held_out, seed)
    plan = step_plan(training, [1] * len(training), config.batch_examples, config.epochs, seed)
    data = content_id([asdict(group) for group in groups])
    start = [policy.lineage.id, str(policy.model.dtype)]
    identity = content_id("instructions", config.model_dump(mode="json"), seed, start, data)
    with trainable(policy, config, seed) as model:
        forward = GroupForward(model)
        engine = Engine.of(forward, config)
        what, learned = f"{len(training):,} examples", [groups[i] for i in training]
        budget = announce(show, what, dropped, forward, learned, policy, ["answer"], config, engine.ranks)
        job = _job(forward, groups, weights, plan, config.dtype, held_out)
        history = run_steps(engine, job, config, work=work, identity=identity, resume=resume, log=log, budget=budget)
        save_checkpoint(model, policy, out, engine.ranks)
    return finished(engine, out, history, len(groups), dropped)


def _job(
    forward: GroupForward,
    groups: Sequence[Group],
    weights: Sequence[Tensor],
    plan: Sequence[Sequence[int]],
    dtype: str,
    held_out: Sequence[int] = (),
) -> Job:
    def one_pass(module: Any, members: Sequence[int], given: None) -> Pass:
        batch = forward.pack([groups[i] for i in members])
        with autocast(batch.input_ids.device, dtype):
            logps = module(batch)
        weights_T = torch.cat([weights[i] for i in members]).to(logps.tokens.device)
        loss = cross_entropy(logps.tokens, weights_T) * weights_T.sum()
        return Pass(loss, {}, batch.input_ids.numel() - batch.padding, batch.padding)

    totals = [weights_T.sum().item() for weights_T in weights]
    return Job(
        "sft",
        plan,
        [group.tokens for group in groups],
        totals,
        one_pass,
        lambda i: asdict(groups[i]),
        held_out=held_out,
    )


def _answers(
    policy: Policy, examples: Sequence[tuple[Sequence[Message], str]], thinking: str
) -> tuple[list[Group], dict[str, int]]:
    """Groups of one answer each, and what was dropped, by reason."""
    drops: Counter[str] = Counter()
    groups: list[Group] = []
    first = ""
    for messages, text in examples:
        try:
            prompt = tuple(encode_prompt(policy.tokenizer, messages))
            ids, unscored = encode_answer(policy.tokenizer, messages, text)
        except ModelError as error:
            drops["not as the chat template renders it"] += 1
            first = first or f"; {error}"
            continue
        if thinking == "context":
            unscored = max(unscored, thinking_length(policy.tokenizer, ids))
        if unscored and unscored >= len(ids) - 1:  # the end token is no answer
            drops["nothing but thinking"] += 1
            continue
        groups.append(Group(prompt, (tuple(ids),), (unscored,) if unscored else ()))
    if not groups:
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items())) or "none given"
        raise DataError(f"no example to train on ({reasons}){first}")
    groups, _, long = _fitting(policy.model, groups, [torch.empty(0)] * len(groups))
    return groups, dict(sorted((drops + Counter(long)).items()))


def _whole_texts(examples: Sequence[Example], prompt_weight: float) -> tuple[list[Group], list[Tensor]]:
    """Groups of one completion, and the loss weight of each scored token.

    To score the prompt as well, everything after its first token is laid out as the completion.
    """
    groups: list[Group] = []
    weights: list[Tensor] = []
    for prompt, answer in examples:
        scored_prompt = len(prompt) - 1 if prompt_weight else 0
        start = len(prompt) - scored_prompt
        groups.append(Group(tuple(prompt[:start]), ((*prompt[start:], *answer),)))
        weights.append(torch.tensor([prompt_weight] * scored_prompt + [1.0] * len(answer)))
    return groups, weights


def _fitting(
    model: PreTrainedModel, groups: Sequence[Group], weights: Sequence[Tensor]
) -> tuple[list[Group], list[Tensor], dict[str, int]]:
    """What fits the model's context."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    kept = [i for i, group in enumerate(groups) if not context or group.tokens <= context]
    if not kept:
        raise DataError(f"none of {len(groups)} examples fits the model's context of {context} tokens")
    dropped = len(groups) - len(kept)
    reasons = {"longer than the model's context": dropped} if dropped else {}
    return [groups[i] for i in kept], [weights[i] for i in kept], reasons

"""Reward-model training: preferences in, a scorer out. All pairs of a prompt go through one forward pass.

command -> `train_reward_model` -> `maths.rankings.bradley_terry`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefloop.config.training import RewardTrainingConfig
from prefloop.errors import ModelError
from prefloop.maths.adjustments import soft_label
from prefloop.maths.rankings import bradley_terry, plackett_luce
from prefloop.models.attention import training_attention
from prefloop.models.group import GroupScores
from prefloop.models.load import Policy
from prefloop.models.reward import HEAD, load_reward_model, new_reward_model
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.training.announce import Show, announce
from prefloop.training.batches import split, step_plan
from prefloop.training.loop import Engine, Job, Pass, finished, run_steps
from prefloop.training.pairs import PairIndex, PromptPairs, prompt_pairs
from prefloop.training.trainable import autocast, save_checkpoint, tuned
from prefloop.training.update import Log, TrainingResult

RELOADED = 1e-3
"""Largest difference of a score before and after saving."""


def train_reward_model(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    config: RewardTrainingConfig,
    out: Path,
    *,
    work: Path,
    seed: int,
    resume: bool = True,
    log: Log = lambda row: None,
    show: Show | None = None,
) -> TrainingResult:
    """Train a scorer of answers on the policy's layers and write it with its head; read it back and score again.

    The loss of a step is the mean over its prompts, weighted by their preferences' weights.

    Args:
        policy: whose layers and tokenizer are taken; its model is not touched.
        out: an adapter folder that holds the head, or with full training a model folder; `load_reward_model` reads
            both.
        show: called with what is worth reading before the first step.

    Raises:
        ModelError: what was saved scores otherwise, or as in `prefloop.training.preference.train_preferences`.
    """
    kind = "plackett-luce" if config.objective == "plackett-luce" else "dpo"
    units, dropped = prompt_pairs(policy, preferences, completions, prompts, kind, config.rankings)
    training, held_out = split(len(units), config.held_out, seed)
    data = content_id([asdict(unit) for unit in units])
    identity = content_id("reward", config.model_dump(mode="json"), seed, policy.lineage.id, data)
    start = new_reward_model(policy, config.method, config.dtype, seed)
    with tuned(start.model, config, seed, "SEQ_CLS", [HEAD]) as model:
        scores = GroupScores(model)
        engine = Engine.of(scores, config)
        groups = [units[i].group for i in training]
        sides = ["chosen", "rejected"]
        budget = announce(
            show, f"{len(training):,} prompts", dropped, scores, groups, policy, sides, config, engine.ranks
        )
        job = Job(
            "reward",
            step_plan(training, [1] * len(training), config.batch_prompts, config.epochs, seed),
            [scores.tokens(unit.group) for unit in units],
            [sum(unit.weights) for unit in units],
            lambda module, members, given: _pass(module, scores, [units[i] for i in members], config),
            lambda i: asdict(units[i]),
            held_out=held_out,
        )
        history = run_steps(engine, job, config, work=work, identity=identity, resume=resume, log=log, budget=budget)
        probe = [unit.group for unit in units[:4]]
        with torch.no_grad():
            expected = engine.module(scores.pack(probe)).cpu()
        save_checkpoint(model, start, out, engine.ranks)
    if config.method != "qlora" and engine.ranks.main:  # on the full-precision base, a 4-bit model scores otherwise
        _check_saved(policy, out, config.method, probe, expected)
    return finished(engine, out, history, sum(len(unit.chosen) for unit in units), dropped)


def _pass(module: Any, scores: GroupScores, units: Sequence[PromptPairs], config: RewardTrainingConfig) -> Pass:
    batch = scores.pack([unit.group for unit in units])
    pairs = PairIndex.of(units, batch.input_ids.device)
    with autocast(batch.input_ids.device, config.dtype):
        score_N = module(batch)
    losses, weights = _losses(score_N, pairs, config)
    metrics = _metrics(score_N.detach(), batch.lengths, pairs)
    figures = {name: (values_B * pairs.weights_B).sum() for name, values_B in metrics.items()}
    return Pass((losses * weights).sum(), figures, batch.input_ids.numel() - batch.padding, batch.padding)


def _losses(score_N: Tensor, pairs: PairIndex, config: RewardTrainingConfig) -> tuple[Tensor, Tensor]:
    if config.objective == "plackett-luce":
        losses_G = plackett_luce(score_N, pairs.tier_N, pairs.group_N, len(pairs.weights_G))
        return losses_G, pairs.weights_G
    soft = config.label_scale is not None
    losses_B = bradley_terry(
        score_N[pairs.chosen_B],
        score_N[pairs.rejected_B],
        margins=config.margin_weight * pairs.margins_B if config.margin_weight else None,
        centring=config.centring,
        target=soft_label(pairs.margins_B, config.label_scale or 1.0) if soft else pairs.soft_labels_B,
    )
    return losses_B, pairs.weights_B


def _metrics(score_N: Tensor, lengths_N: Tensor, pairs: PairIndex) -> dict[str, Tensor]:
    chosen_B, rejected_B = score_N[pairs.chosen_B], score_N[pairs.rejected_B]
    longer_B = (lengths_N[pairs.chosen_B] > lengths_N[pairs.rejected_B]).float()
    return {
        "scores/chosen": chosen_B,
        "scores/rejected": rejected_B,
        "scores/margins": chosen_B - rejected_B,
        "scores/accuracies": (chosen_B > rejected_B).float(),
        "length/chosen": lengths_N[pairs.chosen_B].float(),
        "length/rejected": lengths_N[pairs.rejected_B].float(),
        "length/chosen_longer": longer_B,
    }


def _check_saved(policy: Policy, out: Path, method: str, groups: Sequence[Any], expected: Tensor) -> None:
    """Users have lost reward heads at this point (TRL#1379, OpenRLHF#1342): read back and score again."""
    where = (out, None) if method == "full" else (policy.name, out)
    saved = load_reward_model(*where, device=str(policy.model.device))
    with training_attention(saved.model), torch.no_grad():
        scores = GroupScores(saved.model)
        found = scores(scores.pack(groups)).cpu()
    difference = (found - expected).abs().max().item()
    if not difference < RELOADED:
        raise ModelError(
            f"{out} scores answers otherwise than what was trained (by up to {difference:.3g}): not usable"
        )

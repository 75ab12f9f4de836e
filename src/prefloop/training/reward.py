"""Reward-model training: preferences in, a scorer out. All pairs of a prompt go through one forward pass.

command -> `train_reward_model` -> `maths.rankings.bradley_terry`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
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
from prefloop.store.files import write_json
from prefloop.training.batches import cut, optimizer_steps
from prefloop.training.loop import StepOutcome, run_steps
from prefloop.training.pairs import PairIndex, PromptPairs, prompt_pairs
from prefloop.training.trainable import lora_layers, save_checkpoint
from prefloop.training.update import Figures, Log, TrainingResult

BETAS = (0.9, 0.999)
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
) -> TrainingResult:
    """Train a scorer of answers on the policy's layers and write it with its head; read it back and score again.

    The loss of a step is the mean over its prompts, weighted by their preferences' weights.

    Args:
        policy: whose layers and tokenizer are taken; its model is not touched.
        out: an adapter folder that holds the head, or with full training a model folder; `load_reward_model` reads
            both.

    Raises:
        ModelError: what was saved scores otherwise, or as in `prefloop.training.preference.train_preferences`.
    """
    ranked = config.objective == "plackett-luce"
    kind = "plackett-luce" if ranked else "dpo"
    units, dropped = prompt_pairs(policy, preferences, completions, prompts, kind, config.rankings)
    ones = [1] * len(units)
    plan = [step for epoch in range(config.epochs) for step in optimizer_steps(ones, config.batch_prompts, seed, epoch)]
    data = content_id([asdict(unit) for unit in units])
    identity = content_id("reward", config.model_dump(mode="json"), seed, policy.lineage.id, data)
    start = new_reward_model(policy, config.method, config.dtype, seed)
    with training_attention(start.model), _trained(start.model, config, seed) as model:
        scores = GroupScores(model)
        history = run_steps(
            lambda step: _backward(scores, [units[i] for i in plan[step]], config),
            [sum(units[i].group.tokens for i in step) for step in plan],
            {name: p for name, p in model.named_parameters() if p.requires_grad},
            config,
            betas=BETAS,
            work=work,
            identity=identity,
            resume=resume,
            log=log,
            label="reward",
        )
        probe = [unit.group for unit in units[:4]]
        with torch.no_grad():
            expected = scores(scores.pack(probe))
        save_checkpoint(model, start, out)
    if config.method != "qlora":  # read back on the full-precision base, a quantised model scores otherwise
        _check_saved(policy, out, config.method, probe, expected)
    result = TrainingResult(out, len(plan), history, sum(len(unit.chosen) for unit in units), dropped)
    write_json(out / "training.json", result.as_json())
    return result


def _trained(model: Any, config: RewardTrainingConfig, seed: int) -> Any:
    """Context of the model to train: adapters and the whole head, or all weights."""
    if config.method == "full":
        return nullcontext(model.requires_grad_(True))
    return lora_layers(model, config, seed, "SEQ_CLS", [HEAD])


def _backward(scores: GroupScores, units: Sequence[PromptPairs], config: RewardTrainingConfig) -> StepOutcome:
    total = sum(weight for unit in units for weight in unit.weights)
    figures: Figures = {}
    tokens = padding = 0
    for part in cut([unit.group.tokens for unit in units], config.tokens_per_batch):
        members = [units[i] for i in part]
        batch = scores.pack([unit.group for unit in members])
        pairs = PairIndex.of(members, batch.input_ids.device)
        with torch.autocast(batch.input_ids.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            score_N = scores(batch)
        losses, weights = _losses(score_N, pairs, config)
        (losses * (weights / total)).sum().backward()
        figures["loss"] = figures.get("loss", 0.0) + (losses.detach() * weights).sum().item() / total
        for name, values_B in _metrics(score_N.detach(), batch.lengths, pairs).items():
            figures[name] = figures.get(name, 0.0) + (values_B * pairs.weights_B).sum().item() / total
        tokens += batch.input_ids.numel() - batch.padding
        padding += batch.padding
    return StepOutcome(figures, tokens, padding)


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
        "length/chosen_longer": longer_B,
    }


def _check_saved(policy: Policy, out: Path, method: str, groups: Sequence[Any], expected: Tensor) -> None:
    """Users have lost reward heads at this point (TRL#1379, OpenRLHF#1342): read back and score again."""
    where = (out, None) if method == "full" else (policy.name, out)
    saved = load_reward_model(*where, device=str(policy.model.device))
    with training_attention(saved.model), torch.no_grad():
        scores = GroupScores(saved.model)
        found = scores(scores.pack(groups))
    difference = (found - expected).abs().max().item()
    if not difference < RELOADED:
        raise ModelError(
            f"{out} scores answers otherwise than what was trained (by up to {difference:.3g}): not usable"
        )

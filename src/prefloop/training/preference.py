"""Preference training: pairs in, checkpoint out.

command -> `train_preferences` (the loop, straight down) -> `maths.objectives.dpo`

Which tokens are scored and where the shift happens: `models.group`. What goes into a step:
`training.batches`.
What is trained and how it is saved: `training.trainable`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from prefloop.config.recipe import TrainingConfig
from prefloop.maths.objectives import Metrics, dpo, nll
from prefloop.models.attention import training_attention
from prefloop.models.group import GroupForward, GroupLogps
from prefloop.models.load import Policy
from prefloop.models.reference import check_start, reference_logps
from prefloop.progress import progress
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.store.files import write_json
from prefloop.store.journal import FileJournal
from prefloop.training.batches import cut, optimizer_steps, sorted_passes
from prefloop.training.checkpoint import STATE, Cursor, load_state, save_state
from prefloop.training.pairs import PairIndex, PromptPairs, pair_groups, prompt_pairs
from prefloop.training.schedule import learning_rate
from prefloop.training.trainable import reference_mode, save_checkpoint, trainable
from prefloop.training.update import Figures, Log, TrainingResult, adamw, update

BETAS = (0.9, 0.999)
REFERENCE_STORE = "reference.jsonl"


def train_preferences(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    config: TrainingConfig,
    out: Path,
    *,
    work: Path,
    seed: int,
    resume: bool = True,
    log: Log = lambda row: None,
) -> TrainingResult:
    """Train on pairs and write the checkpoint: an adapter that `PeftModel.from_pretrained` loads, or a whole
    model.

    The loss of a step is the mean over its pairs, weighted by `Preference.weight`, however the step is cut
    into forward passes. The first DPO loss is ln 2 (plus the NLL term), since policy and reference are the
    same model.

    Args:
        policy: where training starts, and the reference; its model is the same after the call as before it.
        out: checkpoint folder; ``training.json`` (figures per step) is written last.
        work: folder of the resumable state and of the reference's log-probabilities.
        resume: go on from the state in `work`; otherwise one that lies there is overwritten.
        log: called with one row per step, its speed included.

    Raises:
        DataError: a preference names what was not given, or no pair can be trained on.
        ModelError: policy and reference differ at the start, or the gradient is zero or not finite.
        StoreError: the state in `work` is another run's, or a folder cannot be written.
    """
    units, dropped = prompt_pairs(policy, preferences, completions, prompts, config.objective)
    pairs = [len(unit.chosen) for unit in units]
    plan = [step for epoch in range(config.epochs) for step in optimizer_steps(pairs, config.batch_pairs, seed, epoch)]
    data = content_id([asdict(unit) for unit in units])
    identity = content_id("preferences", config.model_dump(mode="json"), seed, policy.lineage.id, data)
    with trainable(policy, config, seed) as model:
        forward = GroupForward(model)
        reference = _reference(forward, units, policy.lineage.id, config, work)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = adamw(parameters.values(), config.weight_decay, BETAS)
        cursor = load_state(work / STATE, parameters, optimizer, identity) if resume else Cursor()
        with progress("train", len(plan), "steps", done=cursor.step) as advance:
            for step in range(cursor.step, len(plan)):
                started = time.monotonic()
                members = [units[i] for i in plan[step]]
                figures, tokens, padding = _backward(forward, members, reference, config)
                rate = learning_rate(step, len(plan), config.learning_rate, config.schedule, config.warmup_ratio)
                norm = update(optimizer, parameters, rate, config.max_grad_norm, f"step {step + 1}")
                figures |= {"grad_norm": norm, "learning_rate": rate, "padding": padding / (tokens + padding)}
                cursor.step = step + 1
                cursor.history.append({"step": cursor.step, **figures})
                log({**cursor.history[-1], "tokens_per_second": tokens / (time.monotonic() - started)})
                if cursor.step % config.checkpoint_every == 0 or cursor.step == len(plan):
                    save_state(work / STATE, parameters, optimizer, cursor, identity)
                advance(1)
        save_checkpoint(model, policy, out)
    result = TrainingResult(out, len(plan), cursor.history, sum(pairs), dropped)
    write_json(out / "training.json", result.as_json())
    return result


def _backward(
    forward: GroupForward,
    members: Sequence[PromptPairs],
    reference: Mapping[str, Tensor],
    config: TrainingConfig,
) -> tuple[Figures, int, int]:
    """Gradients of one step, and its figures, tokens and padding tokens.

    Each pass adds its pairs' share of the step's weight, so the sum over passes is the gradient of the
    weighted mean over all pairs; a mean of the passes' means would favour pairs in small passes.
    """
    total = sum(weight for unit in members for weight in unit.weights)
    figures: Figures = {}
    tokens = padding = 0
    for part in cut([unit.group.tokens for unit in members], config.tokens_per_batch):
        units = [members[i] for i in part]
        batch = forward.pack([unit.group for unit in units])
        pairs = PairIndex.of(units, batch.input_ids.device)
        with _autocast(forward, config.dtype):
            logps = forward(batch)
        losses_B, metrics = _objective(logps, pairs, [reference[u.prompt_id] for u in units if reference], config)
        shares_B = pairs.weights_B / total
        (losses_B * shares_B).sum().backward()
        for name, values_B in {"loss": losses_B.detach(), **metrics}.items():
            figures[name] = figures.get(name, 0.0) + (values_B * shares_B).sum().item()
        tokens += batch.input_ids.numel() - batch.padding
        padding += batch.padding
    return figures, tokens, padding


def _objective(
    logps: GroupLogps, pairs: PairIndex, reference: Sequence[Tensor], config: TrainingConfig
) -> tuple[Tensor, Metrics]:
    """Losses and metrics, one value per pair."""
    chosen_B = logps.sums.index_select(0, pairs.chosen_B)
    nll_B = nll(chosen_B, logps.lengths[pairs.chosen_B])
    if config.objective == "sft":
        return nll_B, {"logps/chosen": chosen_B.detach()}
    reference_N = torch.cat(list(reference)).to(chosen_B.device)
    flipped_B = pairs.flipped(config.label_smoothing)
    losses_B, metrics = dpo(
        chosen_B,
        logps.sums.index_select(0, pairs.rejected_B),
        reference_N[pairs.chosen_B],
        reference_N[pairs.rejected_B],
        config.beta,
        flipped_B,
    )
    return losses_B + config.nll_weight * nll_B, metrics


def _reference(
    forward: GroupForward, units: Sequence[PromptPairs], lineage: str, config: TrainingConfig, work: Path
) -> dict[str, Tensor]:
    """Log-probability [K] of each completion under the reference, by prompt id; empty where not needed."""
    if config.objective == "sft":
        return {}
    passes = sorted_passes([unit.group.tokens for unit in units], config.tokens_per_batch)
    packs = [[units[i].group for i in part] for part in passes]
    journal = FileJournal(work / REFERENCE_STORE)
    autocast = _autocast(forward, config.dtype)
    with reference_mode(forward.model):
        logps = reference_logps(forward, packs, lineage, config.dtype, autocast, journal)
    check_start(forward, packs[0], logps[0], lineage, config.dtype, autocast)
    return {
        units[i].prompt_id: torch.stack([tokens.sum() for tokens in group])
        for part, pack in zip(passes, logps, strict=True)
        for i, group in zip(part, pack, strict=True)
    }


@torch.no_grad()
def pair_logps(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    tokens_per_batch: int,
) -> list[tuple[float, float]]:
    """Log-probabilities (chosen, rejected) of every pair under a policy, in the order given."""
    groups = pair_groups(policy, preferences, completions, prompts)
    found: dict[int, tuple[float, float]] = {}
    policy.model.eval()
    with training_attention(policy.model):
        forward = GroupForward(policy.model)
        for part in sorted_passes([group.tokens for group in groups], tokens_per_batch):
            sums = forward(forward.pack([groups[i] for i in part])).sums.tolist()
            found |= {i: (sums[2 * place], sums[2 * place + 1]) for place, i in enumerate(part)}
    return [found[i] for i in range(len(groups))]


def _autocast(forward: GroupForward, dtype: str) -> torch.autocast:
    return torch.autocast(forward.model.device.type, torch.bfloat16, enabled=dtype == "bfloat16")

"""Preference training: pairs in, checkpoint out. The loop is written once, straight down.

Formulas are in `prefloop.maths.objectives`; the group forward in `prefloop.models.group`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefloop.config.recipe import TrainingConfig
from prefloop.errors import DataError, ModelError
from prefloop.maths import objectives
from prefloop.models.group import Group, GroupForward, pack
from prefloop.models.lineage import LINEAGE_FILE
from prefloop.models.load import Policy
from prefloop.models.reference import reference_logps
from prefloop.models.template import encode_completion, encode_prompt
from prefloop.progress import progress
from prefloop.records import Completion, Preference, Prompt
from prefloop.store.files import write_json
from prefloop.store.journal import FileJournal
from prefloop.training.batches import micro_batches, optimizer_steps
from prefloop.training.checkpoint import load_state, save_state
from prefloop.training.schedule import learning_rate

MARGIN_AT_START = 0.05
"""Largest reward margin tolerated before the first update: policy and reference are the same model then."""


@dataclass(frozen=True)
class Pair:
    """A preference as token ids, with its weight and its reference log-probabilities (chosen, rejected)."""

    prompt_id: str
    group: Group
    weight: float


@dataclass(frozen=True)
class TrainingResult:
    """What training did."""

    steps: int
    pairs: int
    dropped: dict[str, int]
    history: list[dict[str, float]]


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
    log: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainingResult:
    """Train on pairs and write the checkpoint: an adapter that `PeftModel.from_pretrained` loads, or a whole model.

    Args:
        policy: where training starts and what the reference is; left as it was.
        out: checkpoint folder; ``training.json`` is written last.
        work: folder of resumable state; training goes on from what it holds.
        log: receives one row per step, with its speed.

    Raises:
        DataError: no usable pair.
        ModelError: the policy differs from its reference at the start, or the loss is no number or has no gradient.
    """
    pairs, dropped = _pairs(policy, preferences, completions, prompts, config.objective)
    torch.manual_seed(seed)
    model = _trainable(policy, config)
    forward = GroupForward(model)
    autocast = _autocast(policy.device, config)
    pad_id = policy.tokenizer.pad_token_id or 0

    def length(position: int) -> int:
        return pairs[position].group.tokens

    everything = micro_batches(range(len(pairs)), length, config.tokens_per_batch)
    reference = [[0.0, 0.0]] * len(pairs)
    if config.objective == "dpo":
        reference = reference_logps(
            forward,
            [pair.group for pair in pairs],
            everything,
            policy.lineage.id,
            pad_id=pad_id,
            dtype=config.dtype,
            autocast=autocast,
            journal=FileJournal(work / "reference.jsonl"),
        )
    plan = [
        positions
        for epoch in range(config.epochs)
        for positions in optimizer_steps([pair.prompt_id for pair in pairs], config.batch_pairs, seed, epoch)
    ]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    done, history = load_state(work, model, optimizer)
    with progress("train", len(plan), "steps", done=done) as advance:
        for step in range(done, len(plan)):
            started = time.monotonic()
            rate = learning_rate(step, len(plan), config.learning_rate, config.schedule, config.warmup_ratio)
            metrics: dict[str, float] = {}
            total = sum(pairs[i].weight for i in plan[step])
            for batch in micro_batches(plan[step], length, config.tokens_per_batch):
                packed = pack([pairs[i].group for i in batch], pad_id, forward.layout).to(policy.device)
                with autocast():
                    logps = forward(packed)
                losses, rows = _losses(logps, packed.present, [reference[i] for i in batch], config)
                weights = torch.tensor([pairs[i].weight / total for i in batch], device=losses.device)
                (losses * weights).sum().backward()
                for name, values in {"loss": losses.detach(), **rows}.items():
                    metrics[name] = metrics.get(name, 0.0) + float((values * weights).sum())
            metrics["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm))
            _check(metrics, step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            history.append({"step": step, "learning_rate": rate, **metrics})
            tokens = sum(length(i) for i in plan[step])
            log({**history[-1], "tokens_per_s": round(tokens / (time.monotonic() - started))})
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < len(plan):
                save_state(work, step + 1, model, optimizer, history)
            advance(1)
    _save(model, policy, config, out)
    result = TrainingResult(len(plan), len(pairs), dropped, history)
    write_json(out / "training.json", result.__dict__)
    return result


@torch.inference_mode()
def pair_logps(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    tokens_per_batch: int,
) -> list[tuple[float, float]]:
    """Summed log-probabilities (chosen, rejected) of every pair under a policy, in the order given."""
    pairs, _ = _pairs(policy, preferences, completions, prompts, "dpo")
    forward = GroupForward(policy.model)
    found: list[tuple[float, float]] = [(0.0, 0.0)] * len(pairs)
    for batch in micro_batches(range(len(pairs)), lambda i: pairs[i].group.tokens, tokens_per_batch):
        packed = pack([pairs[i].group for i in batch], policy.tokenizer.pad_token_id or 0, forward.layout)
        sums = forward(packed.to(policy.device)).sum(-1).tolist()
        for place, i in enumerate(batch):
            found[i] = (sums[2 * place], sums[2 * place + 1])
    return found


def _pairs(
    policy: Policy,
    preferences: Sequence[Preference],
    completions: Mapping[str, Completion],
    prompts: Mapping[str, Prompt],
    objective: str,
) -> tuple[list[Pair], dict[str, int]]:
    """Preferences as token ids; pairs beyond the model's context are dropped and counted, never truncated."""
    context = getattr(policy.model.config, "max_position_embeddings", None) or 2**31
    pairs, dropped = [], {"pair longer than the context": 0}
    for preference in preferences:
        prompt = tuple(encode_prompt(policy.tokenizer, prompts[preference.prompt_id].messages))
        sides = [completions[i] for i in (preference.chosen, preference.rejected)]
        answers = tuple(_answer_ids(policy, completion) for completion in sides)
        if len(prompt) + max(map(len, answers)) > context:
            dropped["pair longer than the context"] += 1
            continue
        group = Group(prompt, answers[:1] if objective == "sft" else answers)
        pairs.append(Pair(preference.prompt_id, group, preference.weight))
    if not pairs:
        raise DataError(
            f"no pair to train on ({len(preferences)} given, {sum(dropped.values())} too long): "
            "ask for more questions or more samples, or look at the drop counts of the preference stage"
        )
    return pairs, dropped


def _answer_ids(policy: Policy, completion: Completion) -> tuple[int, ...]:
    """The ids that were generated; for imported text the encoded text with its end token."""
    return completion.token_ids or tuple(encode_completion(policy.tokenizer, completion.text))


def _trainable(policy: Policy, config: TrainingConfig) -> Any:
    """The model to train, dropout off: LoRA layers are put into the policy's model and taken out by `_save`; full
    training works on a copy."""
    if config.method == "full":
        model = copy.deepcopy(policy.model).float()
        model.requires_grad_(True)
        return model.eval()
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(policy.model, lora).eval()


def _save(model: Any, policy: Policy, config: TrainingConfig, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if config.method == "lora":
        model.peft_config["default"].base_model_name_or_path = policy.name
        model.save_pretrained(out)
        model.unload()
    else:
        model.to(policy.model.dtype).save_pretrained(out)
        policy.tokenizer.save_pretrained(out)
    write_json(out / LINEAGE_FILE, {"base": policy.lineage.base, "policy": policy.lineage.id})


def _autocast(device: torch.device, config: TrainingConfig) -> Callable[[], torch.autocast]:
    return lambda: torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16")


def _losses(
    logps: torch.Tensor, present: torch.Tensor, reference: list[list[float]], config: TrainingConfig
) -> tuple[torch.Tensor, objectives.Metrics]:
    """Per-pair losses [B] and metrics from per-token log-probabilities [N, T], completions in order of the groups."""
    sums, lengths = logps.sum(-1), present.sum(-1)
    if config.objective == "sft":
        return objectives.sft(sums, lengths), {"logps/chosen": sums.detach()}
    chosen, rejected = sums[0::2], sums[1::2]  # `pack` keeps a group's completions side by side, chosen first
    at = torch.tensor(reference, device=logps.device)
    losses, metrics = objectives.dpo(
        chosen, rejected, at[:, 0], at[:, 1], beta=config.beta, label_smoothing=config.label_smoothing
    )
    metrics |= {"logps/chosen": chosen.detach(), "logps/rejected": rejected.detach()}
    if config.nll_weight:
        losses = losses + config.nll_weight * objectives.sft(chosen, lengths[0::2])
    return losses, metrics


def _check(metrics: dict[str, float], step: int) -> None:
    if not all(value == value and abs(value) != float("inf") for value in metrics.values()):
        raise ModelError(
            f"step {step}: the loss is not a number; lower training.learning_rate or use dtype float32"
        )
    if metrics["grad_norm"] == 0:
        raise ModelError(
            f"step {step}: no gradient reaches the trained weights; check the adapter's target modules"
        )
    if step == 0 and abs(metrics.get("rewards/margins", 0.0)) > MARGIN_AT_START:
        raise ModelError(
            f"step 0: the reward margin is {metrics['rewards/margins']:.3f}, not 0: the reference is not the model "
            "that training starts from"
        )

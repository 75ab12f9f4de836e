"""Preference training: pairs in, checkpoint out.

command -> `train_preferences` (the loop, straight down) -> `training.objective` -> `maths.objectives`

Which tokens are scored and where the shift happens: `models.group`. What goes into a step:
`training.batches`.
What is trained and how it is saved: `training.trainable`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from prefloop.config.objectives import UNREFERENCED
from prefloop.config.training import TrainingConfig
from prefloop.maths.unpaired import kto_kl
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.models.load import Policy
from prefloop.models.reference import check_start, reference_logps
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.store.files import write_json
from prefloop.store.journal import FileJournal
from prefloop.training.batches import cut, optimizer_steps, sorted_passes
from prefloop.training.loop import StepOutcome, run_steps
from prefloop.training.objective import example_losses
from prefloop.training.pairs import PairIndex, PromptPairs, pair_groups, prompt_pairs
from prefloop.training.trainable import reference_mode, save_checkpoint, trainable
from prefloop.training.update import Figures, Log, TrainingResult

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
    units, dropped = prompt_pairs(policy, preferences, completions, prompts, config.objective, config.rankings)
    pairs = [len(unit.chosen) for unit in units]
    plan = [step for epoch in range(config.epochs) for step in optimizer_steps(pairs, config.batch_pairs, seed, epoch)]
    data = content_id([asdict(unit) for unit in units])
    identity = content_id("preferences", config.model_dump(mode="json"), seed, policy.lineage.id, data)
    with trainable(policy, config, seed) as model:
        forward = GroupForward(model)
        reference = _reference(forward, units, policy.lineage.id, config, work)
        history = run_steps(
            lambda step: _backward(forward, plan[step], units, reference, config),
            [sum(units[i].group.tokens for i in step) for step in plan],
            {name: p for name, p in model.named_parameters() if p.requires_grad},
            config,
            betas=BETAS,
            work=work,
            identity=identity,
            resume=resume,
            log=log,
            label="train",
        )
        save_checkpoint(model, policy, out)
    result = TrainingResult(out, len(plan), history, sum(pairs), dropped)
    write_json(out / "training.json", result.as_json())
    return result


def _backward(
    forward: GroupForward,
    step: Sequence[int],
    units: Sequence[PromptPairs],
    reference: Reference,
    config: TrainingConfig,
) -> StepOutcome:
    """Gradients of one step.

    Each pass adds its examples' share of the step's weight, so the sum over passes is the gradient of the
    weighted mean over all examples; a mean of the passes' means would favour examples in small passes.
    """
    total = sum(weight for i in step for weight in units[i].weights)
    kl = _kl(forward, step, units, reference, config) if config.objective == "kto" else None
    figures: Figures = {} if kl is None else {"kl": kl.item()}
    tokens = padding = 0
    for part in cut([units[i].group.tokens for i in step], config.tokens_per_batch):
        members = [step[place] for place in part]
        batch = forward.pack([units[i].group for i in members])
        pairs = PairIndex.of([units[i] for i in members], batch.input_ids.device)
        with _autocast(forward, config.dtype):
            logps = forward(batch, squares=config.weighting == "wpo")
        known = [logps_T for i in members for logps_T in reference.answers[i]] if reference.answers else []
        losses, weights, metrics = example_losses(logps, pairs, known, config, kl)
        (losses * (weights / total)).sum().backward()
        figures["loss"] = figures.get("loss", 0.0) + (losses.detach() * weights).sum().item() / total
        for name, values_B in metrics.items():
            figures[name] = figures.get(name, 0.0) + (values_B * pairs.weights_B).sum().item() / total
        tokens += batch.input_ids.numel() - batch.padding
        padding += batch.padding
    return StepOutcome(figures, tokens, padding)


@dataclass(frozen=True)
class Reference:
    """Per-token log-probabilities under the reference, by unit and completion; empty where nothing needs them."""

    answers: Sequence[list[Tensor]] = ()
    mismatched: Sequence[Tensor] = ()
    """Of each prompt's answer to another prompt (``kto``)."""


def _mismatched(units: Sequence[PromptPairs]) -> list[Group]:
    """Each prompt with the first answer to the next prompt: what ``kto`` measures its reference point on."""
    others = [*units[1:], units[0]]
    return [
        Group(unit.group.prompt_ids, (other.group.completions[0],)) for unit, other in zip(units, others, strict=True)
    ]


@torch.no_grad()
def _kl(
    forward: GroupForward,
    step: Sequence[int],
    units: Sequence[PromptPairs],
    reference: Reference,
    config: TrainingConfig,
) -> Tensor:
    """The reference point of ``kto``, over the whole step before any gradient, however the step is cut."""
    groups, logratios = _mismatched(units), []
    for part in cut([groups[i].tokens for i in step], config.tokens_per_batch):
        members = [step[place] for place in part]
        with _autocast(forward, config.dtype):
            sums = forward(forward.pack([groups[i] for i in members])).sums
        logratios.append(sums - torch.stack([reference.mismatched[i].sum() for i in members]).to(sums.device))
    return kto_kl(torch.cat(logratios))


def _reference(
    forward: GroupForward, units: Sequence[PromptPairs], lineage: str, config: TrainingConfig, work: Path
) -> Reference:
    if config.objective in UNREFERENCED or config.reference == "free":
        return Reference()
    answers = _reference_logps(forward, [unit.group for unit in units], lineage, config, work)
    if config.objective != "kto":
        return Reference(answers)
    mismatched = _reference_logps(forward, _mismatched(units), lineage, config, work)
    return Reference(answers, [found[0] for found in mismatched])


def _reference_logps(
    forward: GroupForward, groups: Sequence[Group], lineage: str, config: TrainingConfig, work: Path
) -> list[list[Tensor]]:
    """[tokens] of every completion of every group, in sorted packs; checked against the policy at step 0."""
    passes = sorted_passes([group.tokens for group in groups], config.tokens_per_batch)
    packs = [[groups[i] for i in part] for part in passes]
    journal = FileJournal(work / REFERENCE_STORE)
    autocast = _autocast(forward, config.dtype)
    with reference_mode(forward.model):
        logps = reference_logps(forward, packs, lineage, config.dtype, autocast, journal)
    check_start(forward, packs[0], logps[0], lineage, config.dtype, autocast)
    found = {i: group for part, pack in zip(passes, logps, strict=True) for i, group in zip(part, pack, strict=True)}
    return [found[i] for i in range(len(groups))]


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

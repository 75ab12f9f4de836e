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
from typing import Any

import torch
from torch import Tensor

from prefloop.config.objectives import UNREFERENCED
from prefloop.config.training import TrainingConfig
from prefloop.maths.unpaired import kto_kl
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt
from prefloop.records import Completion, Preference, Prompt, content_id
from prefloop.training.announce import Show, announce
from prefloop.training.batches import cut, sorted_passes, split, step_plan
from prefloop.training.loop import Engine, Job, Pass, finished, run_steps
from prefloop.training.objective import example_losses
from prefloop.training.pairs import PairIndex, PromptPairs, pair_groups, prompt_pairs
from prefloop.training.reference import ReferenceStore
from prefloop.training.trainable import autocast, save_checkpoint, trainable
from prefloop.training.update import Figures, Log, TrainingResult

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
    initial: Policy | None = None,
    resume: bool = True,
    log: Log = lambda row: None,
    show: Show | None = None,
) -> TrainingResult:
    """Train on pairs and write the checkpoint: an adapter that `PeftModel.from_pretrained` loads, or a whole
    model.

    The loss of a step is the mean over its pairs, weighted by `Preference.weight`, however the step is cut
    into forward passes. The first DPO loss is ln 2 (plus the NLL term), since policy and reference are the
    same model.

    Args:
        policy: where training starts; its model is the same after the call as before it. With an adapter, that
            adapter is trained on.
        initial: another model as the reference; default the policy, with ``reference: initial`` without its adapter.
        out: checkpoint folder; ``training.json`` (figures per step) is written last.
        work: folder of the resumable state and of the reference's log-probabilities.
        resume: go on from the state in `work`; otherwise one that lies there is overwritten.
        log: called with one row per step, its speed and memory included.
        show: called with what is worth reading before the first step: the layout, an example token by token.

    Raises:
        DataError: a preference names what was not given, or no pair can be trained on.
        ModelError: policy and reference differ at the start, or the gradient is zero or not finite.
        StoreError: the state in `work` is another run's, or a folder cannot be written.
    """
    units, dropped = prompt_pairs(
        policy, preferences, completions, prompts, config.objective, config.rankings, config.thinking
    )
    pairs = [len(unit.chosen) for unit in units]
    training, held_out = split(len(units), config.held_out, seed)
    data = content_id([asdict(unit) for unit in units])
    start = [policy.lineage.id, str(policy.model.dtype), initial.lineage.id if initial else None]
    identity = content_id("preferences", config.model_dump(mode="json"), seed, start, data)
    with trainable(policy, config, seed) as model:
        forward = GroupForward(model)
        engine = Engine.of(forward, config)
        what = f"{len(training):,} prompts, {sum(pairs):,} pairs"
        groups = [units[i].group for i in training]
        sides = ["chosen", "rejected"]
        budget = announce(show, what, dropped, forward, groups, policy, sides, config, engine.ranks)
        store = ReferenceStore(forward, engine.module, engine.ranks, policy, initial, config, work / REFERENCE_STORE)
        reference = _reference(store, units, config)
        job = Job(
            "train",
            step_plan(training, [pairs[i] for i in training], config.batch_pairs, config.epochs, seed),
            [forward.tokens(unit.group) for unit in units],
            [sum(unit.weights) for unit in units],
            lambda module, members, kl: _pass(module, forward, members, units, reference, config, kl),
            lambda i: asdict(units[i]),
            lambda module, members, budget: _reference_point(
                module, forward, members, units, reference, config, budget
            ),
            held_out,
        )
        history = run_steps(engine, job, config, work=work, identity=identity, resume=resume, log=log, budget=budget)
        save_checkpoint(model, policy, out, engine.ranks)
    return finished(engine, out, history, sum(pairs), dropped)


def _pass(
    module: Any,
    forward: GroupForward,
    members: Sequence[int],
    units: Sequence[PromptPairs],
    reference: Reference,
    config: TrainingConfig,
    kl: Tensor | None,
) -> Pass:
    """Losses and figures of the pairs of some prompts, in one forward pass."""
    batch = forward.pack([units[i].group for i in members])
    pairs = PairIndex.of([units[i] for i in members], batch.input_ids.device)
    with autocast(batch.input_ids.device, config.dtype):
        logps = module(batch, squares=config.weighting == "wpo")
    known = [logps_T for i in members for logps_T in reference.answers[i]] if reference.answers else []
    losses, weights, metrics = example_losses(logps, pairs, known, config, kl)
    figures = {name: (values_B * pairs.weights_B).sum() for name, values_B in metrics.items()}
    return Pass((losses * weights).sum(), figures, batch.input_ids.numel() - batch.padding, batch.padding)


@dataclass(frozen=True)
class Reference:
    """Per-token log-probabilities under the reference, by unit and completion; empty where nothing needs them."""

    answers: Sequence[list[Tensor]] = ()
    others: Sequence[Group] = ()
    """Each prompt with an answer to another prompt (``kto``)."""
    mismatched: Sequence[Tensor] = ()
    """Log-probabilities of `others`; empty without a reference."""


def _mismatched(units: Sequence[PromptPairs], context: int | None) -> list[Group]:
    """Each prompt with the first answer to the next prompt, as far as it fits: where ``kto`` measures from."""
    found = []
    for unit, other in zip(units, [*units[1:], units[0]], strict=True):
        room = context - len(unit.group.prompt_ids) if context else None
        found.append(Group(unit.group.prompt_ids, (other.group.completions[0][:room],)))
    return found


@torch.no_grad()
def _reference_point(
    module: Any,
    forward: GroupForward,
    members: Sequence[int],
    units: Sequence[PromptPairs],
    reference: Reference,
    config: TrainingConfig,
    budget: int,
) -> tuple[Tensor | None, Figures]:
    """What ``kto`` measures from, over a whole step before any gradient, however the step is cut."""
    if config.objective != "kto":
        return None, {}
    logratios = []
    for part in cut([reference.others[i].tokens for i in members], budget):
        places = [members[place] for place in part]
        with autocast(forward.model.device, config.dtype):
            sums = module(forward.pack([reference.others[i] for i in places])).sums
        known = [reference.mismatched[i].sum() for i in places] if reference.mismatched else [torch.zeros(())]
        logratios.append(sums - torch.stack(known).to(sums.device))
    kl = kto_kl(torch.cat(logratios))
    return kl, {"kto/reference_point": kl.item()}


def _reference(store: ReferenceStore, units: Sequence[PromptPairs], config: TrainingConfig) -> Reference:
    others: list[Group] = []
    if config.objective == "kto":
        limits = store.policy.model.config.get_text_config()
        others = _mismatched(units, getattr(limits, "max_position_embeddings", None))
    if config.objective in UNREFERENCED or config.reference == "free":
        return Reference(others=others)
    answers = store.logps([unit.group for unit in units], [unit.recorded for unit in units])
    return Reference(answers, others, [found[0] for found in store.logps(others)] if others else [])


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


@torch.no_grad()
def answer_logps(
    policy: Policy, prompts: Mapping[str, Prompt], completions: Sequence[Completion], tokens_per_batch: int
) -> dict[str, float]:
    """log π(answer | prompt) of generated answers under a policy, by completion id; a prompt's answers in one pass."""
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion)
    encoded = [
        Group(
            tuple(encode_prompt(policy.tokenizer, prompts[key].messages)),
            tuple(completion.token_ids for completion in answers),
        )
        for key, answers in groups.items()
    ]
    members = list(groups.values())
    found: dict[str, float] = {}
    policy.model.eval()
    with training_attention(policy.model):
        forward = GroupForward(policy.model)
        for part in sorted_passes([group.tokens for group in encoded], tokens_per_batch):
            sums = forward(forward.pack([encoded[i] for i in part])).sums.tolist()
            ids = [completion.id for i in part for completion in members[i]]
            found |= dict(zip(ids, sums, strict=True))
    return found

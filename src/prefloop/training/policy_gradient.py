"""Policy gradient: the policy's own answers, scored, make its next update; again and again.

`train_policy_gradient` -> `training.loop.run_steps` -> `training.policy_losses` -> `maths.advantages`

An iteration samples K answers to each of its prompts, scores them, and takes a few updates on them. To the loop that
all trainings share it is a plan of updates over visits of prompts; an iteration's first update prepares it. Where
answers come from: `training.sampled`. What is kept of them: `training.rollouts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefloop.config.loop import PolicyGradientConfig
from prefloop.config.sampling import Sampling
from prefloop.errors import ConfigError, DataError, StoreError
from prefloop.models.group import Group, GroupForward
from prefloop.models.load import Policy
from prefloop.models.template import encode_prompt
from prefloop.records import Prompt, content_id
from prefloop.training.announce import Show
from prefloop.training.checkpoint import load_weights, save_weights
from prefloop.training.loop import Engine, Job, Pass, finished, run_steps
from prefloop.training.policy_losses import Iteration, Update, answers_of, repeated, update_loss
from prefloop.training.rollouts import Plan, Rollouts, distinct
from prefloop.training.sampled import Look, Reference, Sampler, Scorer, Source, own_sampler
from prefloop.training.trainable import autocast, save_checkpoint, trainable
from prefloop.training.update import Figures, Log, TrainingResult

__all__ = ["Look", "Sampler", "Scorer", "Stop", "train_policy_gradient"]

Stop = Callable[[Sequence[Figures]], str | None]
"""Why training has to end, from the figures of all updates so far; None: it goes on. Same rows, same reason."""


def train_policy_gradient(
    policy: Policy,
    prompts: Sequence[Prompt],
    score: Scorer,
    config: PolicyGradientConfig,
    out: Path,
    *,
    work: Path,
    seed: int,
    round_: int = 0,
    initial: Policy | None = None,
    max_new_tokens: int = 256,
    sample: Sampler | None = None,
    look: Look | None = None,
    stop: Stop | None = None,
    resume: bool = True,
    log: Log = lambda row: None,
    show: Show | None = None,
) -> TrainingResult:
    """Train a policy against a scorer and write the checkpoint, as `training.preference.train_preferences` does.

    Answers are sampled at temperature 1 from the whole distribution: those are the probabilities that the ratios are
    made of.

    Args:
        policy: where training starts; its model is the same after the call as before it.
        score: called once per iteration, on all its answers.
        initial: another model as the reference; default the policy, with ``reference: initial`` without its adapter.
        out: checkpoint folder; ``training.json`` (figures per update) is written last.
        work: folder of the resumable state and the rollouts; of this scorer and sampler alone.
        round_: round of the loop, for the records of the default sampler.
        sample: default `generate_completions` on the model that trains. Another's log-probabilities are compared with
            that model's, and computed again where they differ too much (`training.sampled.MISMATCH`).
        look: called before iterations 0, ``look_every``, …; its figures stand in the row of the next update.
        stop: asked after every update. What a row says of an iteration was measured before its first update; so the
            weights kept are those that the iteration before the reason's began with, the last ones found well.
        resume: go on from the state in `work`; otherwise what lies there is overwritten.

    Raises:
        ConfigError: several processes, or a reference given twice.
        DataError: too few prompts, or a sampler's answers cannot be trained on.
        JudgeError: none of an iteration's answers was scored.
        ModelError: the gradient is not finite.
        StoreError: the state in `work` is another run's, or a folder cannot be written.
    """
    if initial is not None and config.reference != "initial":
        raise ConfigError(f"another model as the reference has no effect with reference: {config.reference}")
    asked, ids, dropped = _askable(policy, prompts, config, max_new_tokens)
    plan = Plan.of(len(asked), config, seed)
    lineages = [policy.lineage.id, str(policy.model.dtype), initial.lineage.id if initial else None]
    settings, data = config.model_dump(mode="json"), content_id([prompt.id for prompt in asked])
    identity = content_id("policy-gradient", settings, seed, round_, max_new_tokens, lineages, data)
    if not resume:
        for path in [*work.glob("rollouts-*"), *work.glob("weights-*")]:
            path.unlink()
    with trainable(policy, config, seed) as model:
        forward = GroupForward(model)
        engine = Engine.of(forward, config)
        if engine.ranks.world > 1:
            raise ConfigError("policy-gradient training runs in one process: start it without accelerate launch")
        sampling = Sampling(k=config.k, max_new_tokens=max_new_tokens)
        reference = Reference(policy, initial, config, forward, engine)
        sampler = sample or own_sampler(round_)
        source = Source(
            policy, asked, ids, score, sampler, look, sampling, config, plan, forward, reference, identity, seed, show
        )
        run = _Run(source, engine, work, stop)
        if show:
            show(_announced(source))
        history = run_steps(engine, run.job(), config, work=work, identity=identity, resume=resume, log=log)
        kept = run.keep(history)
        save_checkpoint(model, policy, out, engine.ranks)
    answers, lost = _counted(history, config, plan)
    return finished(engine, out, history, answers, dropped | lost, kept_step=kept, stopped=run.stopped)


def _askable(
    policy: Policy, prompts: Sequence[Prompt], config: PolicyGradientConfig, max_new_tokens: int
) -> tuple[list[Prompt], list[tuple[int, ...]], dict[str, int]]:
    """Prompts that leave room for an answer, each once, with their token ids; and how many were dropped."""
    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    distinct = {prompt.id: prompt for prompt in prompts}
    found = [(prompt, tuple(encode_prompt(policy.tokenizer, prompt.messages))) for prompt in distinct.values()]
    fitting = [(p, ids) for p, ids in found if not context or len(ids) + max_new_tokens <= context]
    lost = {"prompts there twice": len(prompts) - len(found), "prompts without room": len(found) - len(fitting)}
    dropped = {reason: count for reason, count in lost.items() if count}
    if len(fitting) < config.prompts:
        reasons = "".join(f"; {count} {reason}" for reason, count in dropped.items())
        raise DataError(
            f"{len(fitting)} prompts, and an iteration takes {config.prompts}{reasons}: "
            "give more prompts, or lower rl.prompts"
        )
    return [prompt for prompt, _ in fitting], [ids for _, ids in fitting], dropped


def _announced(source: Source) -> str:
    config, forward = source.config, source.forward
    return (
        f"{config.iterations} iterations of {config.prompts} prompts out of {len(source.prompts):,}, {config.k} "
        f"answers to each, {source.plan.per_iteration} updates on them; {forward.layout} layout: {forward.why}"
    )


def _counted(history: Sequence[Figures], config: PolicyGradientConfig, plan: Plan) -> tuple[int, dict[str, int]]:
    """Answers that were learned from, and what was not, by reason."""
    rows = history[:: plan.per_iteration]
    unscored, masked = (round(sum(row[name] for row in rows)) for name in ("unscored", "masked"))
    idle = sum("skipped" in row for row in history)
    lost = {"answers unscored": unscored, "answers cut at the limit": masked, "updates without gradient": idle}
    answers = len(rows) * config.prompts * config.k - unscored - masked
    return answers, {reason: count for reason, count in lost.items() if count}


@dataclass
class _Run:
    """The iterations, as the parts of a job."""

    source: Source
    engine: Engine
    work: Path
    stop: Stop | None
    stopped: str | None = None
    held: Iteration | None = None
    lengths: list[int] = field(default_factory=list)

    def job(self) -> Job:
        """What the loop runs."""
        source, plan = self.source, self.source.plan
        guess = source.config.k * source.sampling.max_new_tokens // 2
        self.lengths = [len(source.prompt_ids[i]) + guess for visit in plan.visits for i in visit]
        weights = [1.0] * len(self.lengths)
        parts = self._pass, self._described, self._prepare
        return Job("policy gradient", plan.updates, self.lengths, weights, *parts, idle=True, ends=self._ends)

    def keep(self, history: Sequence[Figures]) -> int | None:
        """After a reason to stop: put the weights kept back; returns the step they are of, None for the last."""
        if self.stopped is None:
            return None
        number = max(0, int(history[-1]["iteration"]) - 1)
        if not self._weights(number).exists():
            raise self._missing(self._weights(number))
        load_weights(self._weights(number), self.engine.parameters)
        return number * self.source.plan.per_iteration

    def _ends(self, history: Sequence[Figures]) -> bool:
        self.stopped = self.stop(history) if self.stop else None
        return self.stopped is not None

    def _prepare(self, module: Any, units: Sequence[int], budget: int) -> tuple[Update, Figures]:
        """Before an update: make its iteration if it is the first of it; choose what is learned from."""
        source = self.source
        number = units[0] // source.config.prompts
        first = list(units) == source.plan.updates[number * source.plan.per_iteration]
        if self.held is None or self.held.number != number:
            self.held = self._iteration(number, module, budget, first)
        update = Update.of(units, self.held, source.config, source.sampling.max_new_tokens)
        for unit in units:
            self.lengths[unit] = source.forward.tokens(self._group(unit, update)) if update.kept[unit] else 0
        return update, {**(self.held.rollouts.figures if first else {}), **self.held.figures}

    def _iteration(self, number: int, module: Any, budget: int, first: bool) -> Iteration:
        source, path = self.source, self._rollouts(number)
        rollouts = Rollouts.read(path, source.identity)
        if rollouts is None and not first:
            raise self._missing(path)
        if first and self.stop:
            save_weights(self._weights(number), self.engine.parameters, self.engine.ranks)
        if rollouts is None:
            rollouts = source.rollouts(number, module, budget)
            rollouts.write(path, source.identity)
        window = source.config.checkpoint_every // source.plan.per_iteration + 3
        if number > window:  # no state is as old; the first iteration stays, its lengths are the measure of later ones
            self._rollouts(number - window).unlink(missing_ok=True)
            self._weights(number - window).unlink(missing_ok=True)
        beginning = rollouts if number == 0 else Rollouts.read(self._rollouts(0), source.identity)
        if beginning is None:
            raise self._missing(self._rollouts(0))
        return Iteration.of(number, rollouts, source.config, beginning.lengths_GK.float().mean().item())

    def _pass(self, module: Any, units: Sequence[int], update: Update) -> Pass:
        """Loss and figures of the answers of some prompts, in one forward pass."""
        assert self.held is not None
        forward, config = self.source.forward, self.source.config
        learning = [unit for unit in units if update.kept[unit]]
        if not learning:
            return Pass(torch.zeros((), device=forward.model.device, requires_grad=True), {}, 0)
        batch = forward.pack([self._group(unit, update) for unit in learning])
        with autocast(batch.input_ids.device, config.dtype):
            logps = module(batch)
        numbers, places = list[int](), list[int]()
        for unit in learning:
            before = max(places, default=-1) + 1
            places += [before + place for place in distinct(self._answers(unit, update))[1]]
            numbers += update.kept[unit]
        loss, figures = update_loss(repeated(logps, places), self.held, numbers, update, config)
        scale = len(update.kept)  # the loop divides by it; these are shares of the whole already
        found = {name: value * scale for name, value in figures.items()}
        return Pass(loss * scale, found, batch.input_ids.numel() - batch.padding, batch.padding)

    def _answers(self, unit: int, update: Update) -> list[tuple[int, ...]]:
        assert self.held is not None
        return [self.held.rollouts.answers[n] for n in update.kept[unit]]

    def _group(self, unit: int, update: Update) -> Group:
        """A unit's prompt with its distinct answers that are learned from."""
        return Group(self.source.prompt_ids[self._prompt(unit)], distinct(self._answers(unit, update))[0])

    def _prompt(self, unit: int) -> int:
        number, place = divmod(unit, self.source.config.prompts)
        return self.source.plan.visits[number][place]

    def _described(self, unit: int) -> dict[str, Any]:
        assert self.held is not None
        numbers = list(answers_of(unit, self.source.config))
        return {
            "prompt": self.source.prompts[self._prompt(unit)].id,
            "answers": [self.held.rollouts.answers[n] for n in numbers],
            "advantages": self.held.advantages_N[numbers].tolist(),
        }

    def _rollouts(self, number: int) -> Path:
        return self.work / f"rollouts-{number:05}.safetensors"

    def _weights(self, number: int) -> Path:
        return self.work / f"weights-{number:05}.safetensors"

    def _missing(self, path: Path) -> StoreError:
        return StoreError(f"{path} is missing: delete {self.work} and train from the start")

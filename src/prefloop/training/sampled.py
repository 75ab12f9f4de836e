"""What an iteration of policy-gradient training asks of the world: answers of the policy as it is now, their scores,
and their log-probabilities under that policy and under the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefloop.config.loop import PolicyGradientConfig
from prefloop.config.sampling import Sampling
from prefloop.errors import DataError, JudgeError
from prefloop.generation.generate import generate_completions
from prefloop.models.attention import training_attention
from prefloop.models.group import Group, GroupForward
from prefloop.models.lineage import Lineage
from prefloop.models.load import Policy
from prefloop.progress import note
from prefloop.records import Completion, Prompt, content_id
from prefloop.training.announce import Show, annotated
from prefloop.training.batches import sorted_passes
from prefloop.training.loop import Engine
from prefloop.training.policy_losses import ratios
from prefloop.training.rollouts import Plan, Rollouts, distinct, iteration_seed
from prefloop.training.trainable import autocast, without_adapter
from prefloop.training.update import Figures

Scorer = Callable[[Sequence[Prompt], Sequence[Completion]], Mapping[str, float]]
"""Scores by completion id; a completion that is absent, or whose score is no number, is unscored."""

Sampler = Callable[[Policy, Sequence[Prompt], Sampling, int, int], list[Completion]]
"""Answers of the policy as it is now: policy, prompts, settings, this iteration's seed, iteration from 0."""

Look = Callable[[Policy, int], Figures]
"""Figures of the policy as it is now (its model not to be changed), before an iteration."""

MISMATCH = 0.05
"""Mean |π/π_sampler − 1| before the first update from which on π_old is computed again by the model that trains."""

CHECKED = 8
"""Prompts whose answers it is measured on."""


def own_sampler(round_: int) -> Sampler:
    """The model that trains answers itself."""

    def sample(
        policy: Policy, prompts: Sequence[Prompt], sampling: Sampling, seed: int, iteration: int
    ) -> list[Completion]:
        return generate_completions(policy, prompts, sampling, seed=seed, round_=round_)

    return sample


@dataclass
class Reference:
    """What the policy is to stay close to. Unlike that of pairs (`training.reference`) it is asked again in every
    iteration, about new answers, while the policy has moved on."""

    policy: Policy
    initial: Policy | None
    config: PolicyGradientConfig
    forward: GroupForward
    engine: Engine

    def __post_init__(self) -> None:
        adapter = self.config.method != "full" and self.initial is None
        self._start = {n: p.detach().clone() for n, p in self.engine.parameters.items()} if adapter else {}

    @contextmanager
    def module(self) -> Iterator[Any]:
        """The reference inside the block; after it the policy is, bit for bit, as it was."""
        if not self._start:  # full training works on a copy: the policy's own model is the start
            model = (self.initial or self.policy).model
            with training_attention(model):
                yield GroupForward(model)
        elif self.config.reference == "initial" and self.policy.lineage.adapters:
            with without_adapter(self.forward.model, self.engine.module) as module:
                yield module
        else:
            with _holding(self.engine.parameters, self._start):
                yield self.engine.module


@dataclass
class Source:
    """Where an iteration's rollouts come from.

    Attributes:
        policy: where training started.
        prompt_ids: of each prompt, its token ids.
        identity: hash of everything that decides the run.
    """

    policy: Policy
    prompts: Sequence[Prompt]
    prompt_ids: Sequence[tuple[int, ...]]
    score: Scorer
    sample: Sampler
    look: Look | None
    sampling: Sampling
    config: PolicyGradientConfig
    plan: Plan
    forward: GroupForward
    reference: Reference
    identity: str
    seed: int
    show: Show | None

    def rollouts(self, number: int, module: Any, budget: int) -> Rollouts:
        """Sample, score and measure an iteration's answers.

        Args:
            module: the wrapped policy as it is now.
            budget: tokens of a forward pass.

        Raises:
            DataError: the sampler's answers are not K to each prompt with their log-probabilities.
            JudgeError: none was scored.
        """
        prompts = [self.prompts[i] for i in self.plan.visits[number]]
        now = replace(self.policy, model=self.forward.model, lineage=self._lineage(number))
        with _sampling(self.forward.model):
            due = number % self.config.look_every == 0
            looked = dict(self.look(now, number)) if self.look and due else {}
            seed = iteration_seed(self.seed, number)
            completions = in_order(self.sample(now, prompts, self.sampling, seed, number), prompts, self.config.k)
        scores_GK = self._scores(number, prompts, completions)
        groups = self._groups(number, completions)
        old, checked = self._old(number, module, groups, [torch.tensor(c.logprobs) for c in completions], budget)
        with self.reference.module() as reference:
            known = self._logps(reference, groups, budget)
        if self.show and number == 0:
            example = replace(groups[0], completions=groups[0].completions[:1])
            self.show(f"{annotated(self.policy.tokenizer, example, ['answer'])}\n  scored {scores_GK[0, 0].item():.4g}")
        cut_GK = torch.tensor([c.finish_reason == "length" for c in completions]).view_as(scores_GK)
        answers = [completion.token_ids for completion in completions]
        return Rollouts(answers, old, known, scores_GK, cut_GK, looked | checked)

    def _lineage(self, number: int) -> Lineage:
        """Of the policy as it is now: known by the run and how far it is."""
        weights = content_id("policy-gradient", self.identity, number)
        if self.config.method == "full":
            return Lineage(weights)
        return replace(self.policy.lineage, adapters=(weights,), four_bit=self.config.method == "qlora")

    def _scores(self, number: int, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Tensor:
        known = self.score(prompts, completions)
        scores = [known.get(completion.id) for completion in completions]
        found = torch.tensor([s if s is not None and math.isfinite(s) else math.nan for s in scores])
        if found.isnan().all():
            raise JudgeError(f"iteration {number}: none of {len(completions):,} answers was scored; see the judge")
        return found.view(len(prompts), self.config.k)

    def _groups(self, number: int, completions: Sequence[Completion]) -> list[Group]:
        answers = [completion.token_ids for completion in completions]
        starts = range(0, len(answers), self.config.k)
        return [
            Group(self.prompt_ids[i], tuple(answers[start : start + self.config.k]))
            for i, start in zip(self.plan.visits[number], starts, strict=True)
        ]

    def _old(
        self, number: int, module: Any, groups: Sequence[Group], recorded: list[Tensor], budget: int
    ) -> tuple[list[Tensor], Figures]:
        """log π_old: what the sampler recorded, or where that is not the training model's, computed by it."""
        then = recorded[: CHECKED * self.config.k]
        now = torch.cat(self._logps(module, groups[:CHECKED], budget))
        ratios_R = ratios(now - torch.cat(then), torch.tensor(list(map(len, then))), self.config)
        deviation = (ratios_R - 1).abs().mean().item()
        again = not deviation <= MISMATCH
        if again:
            note(
                f"policy gradient, iteration {number}: the sampler's probabilities are {deviation:.1%} off those of "
                "the model that trains, on average: computed again by it"
            )
        figures = {"ratio/start_deviation": deviation, "ratio/recomputed": float(again)}
        return self._logps(module, groups, budget) if again else recorded, figures

    @torch.no_grad()
    def _logps(self, module: Any, groups: Sequence[Group], budget: int) -> list[Tensor]:
        """Per token of every answer, float32 on the CPU."""
        forward = module if isinstance(module, GroupForward) else self.forward
        once = [distinct(group.completions) for group in groups]
        smaller = [Group(group.prompt_ids, answers) for group, (answers, _) in zip(groups, once, strict=True)]
        found: dict[int, list[Tensor]] = {}
        for part in sorted_passes([forward.tokens(group) for group in smaller], budget):
            batch = forward.pack([smaller[i] for i in part])
            with autocast(batch.input_ids.device, self.config.dtype):
                answers = iter([logps.float().cpu() for logps in module(batch).split()])
            found |= {i: [next(answers) for _ in smaller[i].completions] for i in part}
        return [found[i][place] for i, (_, places) in enumerate(once) for place in places]


def in_order(completions: Sequence[Completion], prompts: Sequence[Prompt], k: int) -> list[Completion]:
    """The K answers of each prompt, in the order of `prompts`, whatever order the sampler gave.

    Raises:
        DataError: a prompt has not K answers, or one has no log-probability for every token.
    """
    by_prompt: dict[str, list[Completion]] = {prompt.id: [] for prompt in prompts}
    for completion in completions:
        if completion.prompt_id not in by_prompt:
            raise DataError(f"the sampler answered prompt {completion.prompt_id}, which it was not asked")
        by_prompt[completion.prompt_id].append(completion)
    for prompt_id, answers in by_prompt.items():
        if len(answers) != k:
            raise DataError(f"the sampler gave {len(answers)} answers to prompt {prompt_id}; asked for were {k}")
        for answer in answers:
            if not answer.token_ids or len(answer.logprobs) != len(answer.token_ids):
                raise DataError(
                    f"answer {answer.id} has {len(answer.logprobs)} log-probabilities for {len(answer.token_ids)} "
                    "tokens: RL needs those of the policy that sampled it"
                )
    return [answer for answers in by_prompt.values() for answer in answers]


@contextmanager
def _sampling(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients: layers that checkpoint activations refuse the cache in training mode."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _holding(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Other `values` in `parameters` inside the block."""
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    _put(parameters, values)
    try:
        yield
    finally:
        _put(parameters, before)


@torch.no_grad()
def _put(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])

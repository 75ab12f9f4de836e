"""What a policy of a loop is worth on the test prompts, beside another one's answers to them.

SQL is examined by execution: the value of a prompt is 1 where the answer is right. Other tasks are examined by a
judge: the value is the judge's preference over the other policy's answer, and the other's is ½.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from prefloop.config.recipe import Recipe
from prefloop.config.sampling import Sampling
from prefloop.evaluation.judged import WIN_OF_B
from prefloop.evaluation.rounds import round_accuracy
from prefloop.generation.generate import Writer
from prefloop.judging.groups import Judge
from prefloop.loop.answers import generated
from prefloop.loop.heads import Head
from prefloop.loop.judged import compared
from prefloop.loop.policies import writer_of
from prefloop.models.load import Policy
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.run_folder import RunFolder
from prefloop.training.preference import answer_logps


@dataclass(frozen=True)
class Examined:
    """One policy's answers to the test prompts."""

    folder: RunFolder
    lineage: str
    greedy: list[Completion]
    judgements: list[Judgement]
    """By execution; empty where a judge compares."""
    sampled: list[Completion]
    """To the watched prompts, at temperature 1."""

    @property
    def correct(self) -> dict[str, float]:
        """1 or 0 by prompt id, where execution examines."""
        return {j.prompt_id: j.objectives.get("correct", 0.0) for j in self.judgements}

    @property
    def valid(self) -> float | None:
        """Share of answers whose SQL runs."""
        found = [j.objectives.get("valid", 0.0) for j in self.judgements]
        return sum(found) / len(found) if found else None


def examine(
    recipe: Recipe,
    folder: RunFolder,
    head: Head,
    execution: Judge | None,
    test: Sequence[Prompt],
    watched: Sequence[Prompt],
) -> Examined:
    """Greedy answers to every test prompt and samples for the watched ones, in ``evaluation/`` of `folder`."""
    loaded: list[Policy | Writer] = []

    def policy() -> Policy | Writer:
        if not loaded:
            loaded.append(writer_of(recipe, head.source))
        return loaded[0]

    longest = recipe.generation.max_new_tokens
    best = generated(recipe, folder, policy, test, recipe.generation.greedy, "evaluation/greedy-")
    drawn = generated(
        recipe,
        folder,
        policy,
        watched,
        Sampling(recipe.evaluation.samples, max_new_tokens=longest),
        "evaluation/sampled-",
    )
    judged: list[Judgement] = []
    if execution is not None:
        judged = folder.records(
            "evaluation/greedy-judgements.parquet",
            Judgement,
            lambda journal: execution.judge(test, best, journal=journal, label="examine"),
        )
    return Examined(folder, head.lineage.id, best, judged, drawn)


@dataclass(frozen=True)
class Values:
    """What two policies' answers are worth, by prompt id."""

    before: dict[str, float]
    after: dict[str, float]
    clusters: dict[str, str]
    """What is resampled together, by prompt id."""

    def figures(self, among: set[str], seed: int, draws: int) -> dict[str, Any]:
        """``accuracy`` of the newer one and its ``gain``, on the prompts whose ids are `among`."""
        before, after = ({i: v for i, v in side.items() if i in among} for side in (self.before, self.after))
        return round_accuracy(before, after, self.clusters, seed, draws)


def cluster(prompt: Prompt) -> str:
    """What is resampled together."""
    return str(prompt.meta.get("template") or prompt.id)


def against(recipe: Recipe, test: Sequence[Prompt], now: Examined, other: Examined, name: str) -> Values:
    """The values of two policies; a judge's verdicts go to ``against/NAME`` in the newer one's folder."""
    clusters = {prompt.id: cluster(prompt) for prompt in test}
    if now.judgements:
        return Values(other.correct, now.correct, clusters)
    if now is other:
        return Values(dict.fromkeys(clusters, 0.5), dict.fromkeys(clusters, 0.5), clusters)
    place = now.folder.inner(f"against/{name}")
    found, _ = compared(
        place, test, (other.greedy, now.greedy), recipe.evaluation.judge or recipe.judge, recipe.engine, recipe.threads
    )
    won = {verdict.prompt.id: WIN_OF_B[verdict.winner] for verdict in found if verdict.winner in WIN_OF_B}
    return Values(dict.fromkeys(won, 0.5), won, clusters)


def kl_between(reference: Policy, prompts: Sequence[Prompt], sampled: Sequence[Completion], budget: int) -> float:
    """Nats per answer: E_π[log π(y|x) − log π_ref(y|x)], over answers sampled from π."""
    known = answer_logps(reference, {prompt.id: prompt for prompt in prompts}, sampled, budget)
    return fmean(sum(completion.logprobs) - known[completion.id] for completion in sampled)

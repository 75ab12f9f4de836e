"""One round of RLHF: people rank answers, a reward model learns from them, the policy is tuned against it.

Execution says nothing to the reward model or the policy. It examines both, and where raters are simulated it is what
their noisy verdicts are drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.config.judges import PeopleConfig
from prefloop.config.loop import GuardsConfig, RatersConfig, RlhfConfig
from prefloop.config.recipe import Recipe
from prefloop.errors import ConfigError
from prefloop.evaluation.rounds import judge_health
from prefloop.generation.generate import generate_completions
from prefloop.judging.groups import Judge
from prefloop.judging.open import open_judge
from prefloop.loop.console import TrainingConsole
from prefloop.loop.heads import Head
from prefloop.loop.launch import Launch
from prefloop.loop.preference_round import Outcome, candidates, paired, truths
from prefloop.loop.reward_round import Scorer, train_reward
from prefloop.models.load import NF4, Policy
from prefloop.preferences.build import build_preferences
from prefloop.progress import note
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import read_json
from prefloop.store.run_folder import ASKED, RunFolder
from prefloop.store.tables import read_records
from prefloop.training.policy_gradient import Sampler, train_policy_gradient

Collect = Callable[[Path, RatersConfig, Mapping[str, float], int], dict[str, Any]]
"""Has simulated raters rank the answers of a round's folder: folder, raters, log strengths by answer, seed."""

LOG_EVERY = 10
"""Updates between two printed rows of the policy's training; looks are printed besides."""

ENGINE_SHARE = 0.4
"""Of the GPU's memory for vLLM; the model that trains has the rest."""

STRENGTH = 6.0
"""Log strength of the best score over the worst: raters that read carefully tell right from wrong."""


def rlhf_round(
    recipe: Recipe,
    folder: RunFolder,
    number: int,
    start: Head,
    head: Head,
    prompts: list[Prompt],
    watched: Sequence[Prompt],
    execution: Judge | None,
    earlier: Sequence[RunFolder],
    collect: Collect | None,
    launch: Launch | None = None,
) -> Outcome:
    """Collect, learn the reward, and tune; all rounds' rankings teach the reward model.

    Args:
        launch: processes that train the reward model. The policy samples as it learns, and stays in this one.
    """
    assert isinstance(recipe.loop, RlhfConfig)
    completions = candidates(recipe, folder, number, head, prompts)
    verdicts = collected(recipe, folder, prompts, completions, execution, collect)
    built = build_preferences(prompts, completions, verdicts, recipe.preferences, recipe.seed)
    _, data = paired(folder, prompts, completions, verdicts, built)
    reward_model, figures = learned_reward(recipe, folder, number, start, earlier, execution, launch)
    curve = _reinforced(recipe, folder, number, start, head, prompts, watched, reward_model, execution)
    written = read_json(folder.root / "checkpoint" / "training.json")
    training = {
        "steps": written["steps"],
        "final_loss": written["final_loss"],
        "displacement": None,
        "stopped": written.get("stopped"),
    }
    judge = {"name": f"{recipe.loop.raters.who} raters", "accuracy": None, **judge_health(verdicts)}
    after = head.trained(folder.root / "checkpoint", recipe.loop.rl)
    return Outcome(after, prompts, data, judge, training, figures, curve)


def collected(
    recipe: Recipe,
    folder: RunFolder,
    prompts: list[Prompt],
    completions: list[Completion],
    execution: Judge | None,
    collect: Collect | None,
) -> list[Judgement]:
    """Rankings of the round's answers: simulated now, or people's, for whom the loop waits."""
    assert isinstance(recipe.loop, RlhfConfig)
    raters = recipe.loop.raters
    if raters.who == "simulated" and not folder.path("judgements.parquet").exists():
        if collect is None or execution is None:
            raise ConfigError(
                "loop.raters.who=simulated: simulated raters need answers that can be executed (tasks nba-sql "
                "and database): set loop.raters.who=people"
            )
        quality = strengths(truths(folder, prompts, completions, execution))
        if not (folder.root / "people" / "judgements.parquet").exists():
            summary = collect(folder.root, raters, quality, recipe.seed)
            folder.document("stages/raters.json", lambda: summary)

    if raters.who == "people":
        folder.document(ASKED, lambda: _asked(raters, getattr(recipe.task, "database", None)))

    def compute(_: object) -> list[Judgement]:
        with open_judge(PeopleConfig(), run=folder.root) as people:
            return people.judge(prompts, completions)

    return folder.records("judgements.parquet", Judgement, compute)


def _asked(raters: RatersConfig, database: str | None) -> dict[str, Any]:
    """Settings of the queue, for `prefloop annotate`: rankings of so many answers by so many people, run on that."""
    found = {"overlap": raters.overlap, **({"sql": database} if database else {})}
    if raters.ranked == 2:
        return {"kind": "pairwise", **found}
    return {"kind": "ranking", **found, "selection.ranked": raters.ranked}


def strengths(scores: Sequence[Judgement]) -> dict[str, float]:
    """Log strength of every answer by its score, from 0 to `STRENGTH`; unscored answers are the worst."""
    return {j.completion_ids[0]: STRENGTH * (j.value or 0.0) for j in scores}


def learned_reward(
    recipe: Recipe,
    folder: RunFolder,
    number: int,
    start: Head,
    earlier: Sequence[RunFolder],
    execution: Judge | None,
    launch: Launch | None = None,
) -> tuple[Path, dict[str, Any]]:
    """The reward model of a round, learned from the rankings of this and all earlier rounds."""
    prompts: list[Prompt] = []
    completions: list[Completion] = []
    verdicts: list[Judgement] = []
    truth: dict[str, float] = {}
    for each in (*earlier, folder):
        prompts += read_records(each.root / "prompts.parquet", Prompt)
        completions += read_records(each.root / "completions.parquet", Completion)
        verdicts += read_records(each.root / "judgements.parquet", Judgement)
        checked = each.root / "stages" / "execution-judgements.parquet"
        if execution is not None and checked.exists():
            truth |= {j.completion_ids[0]: j.objectives.get("correct", 0.0) for j in read_records(checked, Judgement)}
    return train_reward(recipe, folder, start.source, prompts, completions, verdicts, truth, number, launch)


def _reinforced(
    recipe: Recipe,
    folder: RunFolder,
    number: int,
    start: Head,
    head: Head,
    prompts: list[Prompt],
    watched: Sequence[Prompt],
    reward_model: Path,
    execution: Judge | None,
) -> list[dict[str, Any]]:
    """Tune against the reward model; returns proxy reward and true accuracy along the way."""
    assert isinstance(recipe.loop, RlhfConfig)
    out, config = folder.root / "checkpoint", recipe.loop.rl
    console = TrainingConsole(LOG_EVERY)

    def log(row: dict[str, Any]) -> None:
        console(row)
        folder.log("step", **row)

    if not (out / "training.json").exists():
        sample = sampler_of(recipe, head, number, folder.work("sync"))
        with folder.timed("reinforce"), Scorer(reward_model) as scorer:
            train_policy_gradient(
                head.load(),
                prompts,
                scorer.score,
                config,
                out,
                work=folder.work("reinforce"),
                seed=recipe.seed,
                round_=number,
                initial=start.load() if config.reference == "initial" and head.model != start.model else None,
                max_new_tokens=recipe.generation.max_new_tokens,
                sample=sample,
                look=_look(recipe, number, watched, execution),
                stop=_kl_stop(recipe.guards),
                log=log,
                show=note,
            )
    history = read_json(out / "training.json")["history"]
    return [_point(number, row) for row in history if "watched/accuracy" in row]


def sampler_of(recipe: Recipe, head: Head, number: int, work: Path) -> Sampler | None:
    """vLLM with the weights of now, where the recipe generates by it; None: the model that trains answers itself."""
    if recipe.generation.engine != "vllm":
        return None
    from prefloop.generation.vllm import load_engine, lora_options, synced_sampler

    assert isinstance(recipe.loop, RlhfConfig)
    config, dtype = recipe.loop.rl, recipe.policy.dtype
    options = {} if config.method == "full" else lora_options(config.lora_rank)
    engine = load_engine(
        head.model, "bfloat16" if dtype == NF4 else dtype, {**options, "gpu_memory_utilization": ENGINE_SHARE}
    )
    return synced_sampler(engine, work, round_=number)


def _look(
    recipe: Recipe, number: int, watched: Sequence[Prompt], execution: Judge | None
) -> Callable[[Policy, int], dict[str, float]] | None:
    """Execution accuracy on the watched questions while the policy learns: for the plot, nothing is decided by it."""
    if execution is None:
        return None
    judge, greedy = execution, recipe.generation.greedy

    def look(policy: Policy, iteration: int) -> dict[str, float]:
        answers = generate_completions(policy, watched, greedy, seed=recipe.seed, round_=number, label="look")
        found = judge.judge(watched, answers, label="look")
        return {"watched/accuracy": sum(j.objectives.get("correct", 0.0) for j in found) / len(watched)}

    return look


def _kl_stop(guards: GuardsConfig) -> Callable[[Sequence[Mapping[str, float]]], str | None]:
    """Training ends where the policy has moved as far as it may."""

    def stop(history: Sequence[Mapping[str, float]]) -> str | None:
        kl = history[-1]["kl"]
        if not guards.enabled or guards.kl is None or kl <= guards.kl:
            return None
        return f"KL to the reference: {kl:.1f} nats per answer, above the limit of {guards.kl:g}"

    return stop


def _point(number: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "round": number,
        "iteration": row["iteration"],
        "kl": row["kl"],
        "proxy": row["reward/mean"],
        "accuracy": row["watched/accuracy"],
        "length": row["length/mean"],
    }

"""`run_loop`: rounds of collecting, judging and training, each examined and guarded; the best one is kept.

A round that is not promoted leaves the head of the loop where it was. Every round's folder is a stage of its own, so
a loop killed anywhere goes on with the first file that is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.config.loop import IterativeConfig, SelfRewardingConfig
from prefloop.config.recipe import Recipe
from prefloop.config.tasks import CustomTaskConfig, DatabaseTaskConfig, InstructionsConfig, NbaTaskConfig
from prefloop.errors import ConfigError, DataError
from prefloop.judging.groups import Judge
from prefloop.loop.examined import Examined, examine
from prefloop.loop.guard_rules import Finding
from prefloop.loop.guards import best, ends, judge_round, promoted
from prefloop.loop.heads import Head
from prefloop.loop.launch import Launch
from prefloop.loop.loop_baselines import Beside, loop_baselines
from prefloop.loop.preference_round import Outcome, iterative_round
from prefloop.loop.report_rounds import report_loop
from prefloop.loop.rlhf import Collect, rlhf_round
from prefloop.loop.round_figures import round_figures, start_figures
from prefloop.loop.run import execution_judge, sampled_subset
from prefloop.loop.software import set_threads, versions
from prefloop.loop.standing import Loop, Standing
from prefloop.loop.tasks import ask, made_from
from prefloop.models.load import base_lineage
from prefloop.progress import note
from prefloop.records import Prompt, content_id
from prefloop.store.files import write_json
from prefloop.store.run_folder import MANIFEST, RunFolder, read_manifest


def run_loop(
    recipe: Recipe,
    out: Path,
    *,
    seeds: int = 1,
    collect: Collect | None = None,
    baselines: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Run the rounds of a recipe with a ``loop`` section into `out`; returns what ``rounds.json`` holds.

    Args:
        seeds: how many seeds to run, from ``recipe.seed`` on; the first lives in `out`, the others in
            ``out/seeds/N``. Every seed starts from the same policy and is asked the same test questions. A finished
            loop may be resumed with more of them, or with baselines.
        collect: has simulated raters rank the answers of a round's folder (the annotation app's, given by the caller).
        baselines: also SFT on the chosen answers of each round, best-of-K, and one long run of as many judgements, all
            for the first seed.
        resume: go on with what `out` holds; without it a folder that holds a run is refused.
        overwrite: remove an earlier run in `out` first.
        launch: processes that train policies on pairs, reward models and seed models; None: this one. Policy gradients,
            which sample as they train, stay here.

    Raises:
        ConfigError: the recipe has no loop, or one that cannot be run.
        AwaitingJudgementsError: a round waits for people; says how to open its queue.
        StoreError: the folder belongs to another recipe, is in use, or cannot be written.
    """
    if recipe.loop is None:
        raise ConfigError(f"recipe {recipe.name} has no loop section: it is run by 'prefloop run'")
    if overwrite and resume:
        raise ConfigError("--resume goes on with a run and --overwrite removes it: choose one")
    policy = {"policy": base_lineage(recipe.policy.model).id}
    identity = {**made_from(recipe), **policy}
    with RunFolder.open(Path(out), identity, resume, overwrite) as folder:
        if folder.finished:
            folder.check()
            known = read_manifest(folder.root)
            if seeds <= len(known["seeds"]) and (known["baselines"] or not baselines):
                return dict(folder.document("rounds.json", dict))
            seeds, baselines = max(seeds, len(known["seeds"])), baselines or known["baselines"]
            folder.path(MANIFEST).unlink()
        folder.log("engine", **recipe.engine.model_dump())
        set_threads(recipe.threads)
        software = folder.document("stages/software.json", lambda: {**versions(), "threads": str(set_threads(0))})
        found = {recipe.seed: _seed(recipe, folder, collect, baselines, launch)}
        for seed in range(recipe.seed + 1, recipe.seed + seeds):
            other = recipe.model_copy(update={"seed": seed})
            place = folder.root / "seeds" / str(seed)
            with RunFolder.open(place, {**made_from(other), **policy}, resume=True, within=folder) as inner:
                found[seed] = _seed(other, inner, collect, False, launch)
        whole = {**found[recipe.seed], "seeds": [_headline(result) for result in found.values()] if seeds > 1 else []}
        write_json(folder.path("rounds.json"), whole)
        report_loop(folder.root, folder.root / "report.html")
        folder.finish(
            {
                "schema": 1,
                "recipe": recipe.settings,
                "recipe_hash": recipe.hash,
                "versions": software,
                "lineage": [row["lineage"] for row in whole["rounds"]],
                "best": whole["best"],
                "seeds": sorted(found),
                "baselines": baselines,
            }
        )
        return whole


def _seed(
    recipe: Recipe, folder: RunFolder, collect: Collect | None, baselines: bool, launch: Launch | None
) -> dict[str, Any]:
    """All rounds of one seed."""
    execution = execution_judge(recipe) if recipe.task.executed else None
    with execution or nullcontext():
        start = _start(recipe, folder, launch)
        loop = _loop(recipe, folder, execution, collect, launch)
        first = Standing(start, _examine(loop, 0, start))
        history = [loop.round_folder(0).document("round.json", lambda: start_figures(loop, first))]
        standing, stopped, done = first, None, [first]
        for number in range(1, _rounds(recipe) + 1):
            found, after = _round(loop, number, first, standing, history)
            history.append(found)
            done.append(after)
            standing = after if found["promoted"] else standing
            if stopped := _ended(number, found):
                break
        compared: dict[str, Any] = {}
        if baselines:
            beside = Beside(first, done[best(history)])
            compared = folder.document("baselines.json", lambda: loop_baselines(loop, beside, len(history) - 1))
    return {
        "schema": 1,
        "method": recipe.loop.name if recipe.loop else "",
        "name": recipe.name,
        "seed": recipe.seed,
        "rounds": history,
        "best": best(history),
        "stopped": stopped,
        "curves": _curves(loop, history),
        "baselines": compared,
    }


def _headline(result: dict[str, Any]) -> dict[str, Any]:
    """What of a seed stands beside the others."""
    keys = (
        "round",
        "accuracy",
        "gain_start",
        "gain_previous",
        "watched",
        "length",
        "judge",
        "reward_model",
        "promoted",
    )
    rounds = [{key: row.get(key) for key in keys} for row in result["rounds"]]
    return {key: result[key] for key in ("seed", "best", "stopped", "baselines")} | {"rounds": rounds}


def _start(recipe: Recipe, folder: RunFolder, launch: Launch | None) -> Head:
    """Round 0: the recipe's policy, or the seed model that self-rewarding trains first."""
    if not isinstance(recipe.loop, SelfRewardingConfig):
        return Head(recipe.policy, recipe.policy.model)
    from prefloop.loop.self_rewarding import seed_model

    return Head(recipe.policy, str(seed_model(recipe, folder, launch)))


def _rounds(recipe: Recipe) -> int:
    assert recipe.loop is not None
    return recipe.loop.rounds


def _loop(
    recipe: Recipe, folder: RunFolder, execution: Judge | None, collect: Collect | None, launch: Launch | None
) -> Loop:
    """Draw the prompts of all rounds at once, so that none is asked twice, and share them out."""
    rounds = _rounds(recipe)

    def draw(_: object) -> list[Prompt]:
        asked = ask(_of_all_rounds(recipe, rounds))
        folder.document("stages/prompts.json", lambda: asked.audit)
        folder.document("stages/origin.json", lambda: asked.origin)
        return asked.prompts

    prompts = folder.records("prompts.parquet", Prompt, draw)
    train = sorted(
        (prompt for prompt in prompts if prompt.split == "train"),
        key=lambda prompt: content_id("round", recipe.seed, prompt.id),
    )
    test = [prompt for prompt in prompts if prompt.split == "test"]
    per, watched = len(train) // rounds, recipe.guards.watched
    if not per:
        raise DataError(f"{len(train)} training prompts cannot be shared among {rounds} rounds: give more prompts")
    if watched >= len(test):
        raise ConfigError(
            f"guards.watched={watched} leaves none of {len(test)} test prompts for the reported figures: lower it"
        )
    shares = [train[i * per : (i + 1) * per] for i in range(rounds)]
    return Loop(recipe, folder, execution, shares, test, sampled_subset(test, watched), collect, launch)


def _of_all_rounds(recipe: Recipe, rounds: int) -> Recipe:
    """The recipe whose task gives as many training prompts as all rounds take; a task of your own gives what it has."""
    match recipe.task:
        case NbaTaskConfig() as task:
            changed: Any = task.model_copy(update={"train_questions": task.train_questions * rounds})
        case DatabaseTaskConfig() as task:
            count = task.train_questions
            changed = task.model_copy(update={"train_questions": count and count * rounds})
        case InstructionsConfig() as task:
            changed = task.model_copy(update={"train_prompts": task.train_prompts * rounds})
        case CustomTaskConfig() as task:
            changed = task
    return recipe.model_copy(update={"task": changed})


def _examine(loop: Loop, number: int, head: Head) -> Examined:
    return examine(loop.recipe, loop.round_folder(number), head, loop.execution, loop.test, loop.watched)


def _round(
    loop: Loop, number: int, first: Standing, standing: Standing, history: list[dict[str, Any]]
) -> tuple[dict[str, Any], Standing]:
    """One round, its figures and what the guards say of it."""
    folder = loop.round_folder(number)
    note(f"round {number} of {_rounds(loop.recipe)}")
    outcome = _made(loop, folder, number, first.head, standing.head)
    after = Standing(outcome.head, _examine(loop, number, outcome.head))

    def figures() -> dict[str, Any]:
        found = round_figures(loop, number, outcome, after, first, standing)
        findings = judge_round(found, history, loop.recipe.guards)
        return {**found, "guards": [asdict(finding) for finding in findings], "promoted": promoted(findings)}

    found = folder.document("round.json", figures)
    for finding in found["guards"]:
        if finding["verdict"] != "ok":
            note(f"round {number}: {finding['verdict']}: {finding['text']}")
    return found, after


def _made(loop: Loop, folder: RunFolder, number: int, start: Head, head: Head) -> Outcome:
    """Collect, judge and train, as the recipe's kind of loop does."""
    recipe, earlier = loop.recipe, [loop.round_folder(n) for n in range(1, number)]
    _identify(loop, folder)
    if isinstance(recipe.loop, SelfRewardingConfig):
        from prefloop.loop.self_rewarding import self_rewarding_round

        return self_rewarding_round(recipe, loop.folder, folder, number, start, head, earlier, loop.test, loop.launch)
    prompts = folder.records("prompts.parquet", Prompt, lambda _: loop.train[number - 1])
    if isinstance(recipe.loop, IterativeConfig):
        last = earlier[-1] if earlier else None
        return iterative_round(recipe, folder, number, start, head, prompts, loop.execution, last, loop.launch)
    return rlhf_round(
        recipe,
        folder,
        number,
        start,
        head,
        prompts,
        loop.watched,
        loop.execution,
        earlier,
        loop.collect,
        loop.launch,
    )


def _identify(loop: Loop, folder: RunFolder) -> None:
    """A round's folder says whose it is, as every run folder does: people are asked about it by its path."""
    folder.document("recipe.json", lambda: {"recipe": {**loop.recipe.settings, "loop": None}})


def _ended(number: int, found: dict[str, Any]) -> dict[str, Any] | None:
    """Why the loop ends with this round, before its last; None: it goes on."""
    reason = ends([Finding(**finding) for finding in found["guards"]])
    if reason is None:
        return None
    note(f"the loop ends after round {number}: {reason}")
    return {"round": number, "reason": reason}


def _curves(loop: Loop, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every round's own: each has its own reward model, and may have its own reference."""
    guards = "guards on" if loop.recipe.guards.enabled else "guards off"
    return {f"round {row['round']}, {guards}": row["curve"] for row in history if row.get("curve")}

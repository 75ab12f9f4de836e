"""`run_recipe`: one recipe, one or several seeds, with or without baselines, in one run folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prefloop.config.judges import JudgeConfig, LLMConfig, PeopleConfig, with_members
from prefloop.config.recipe import Recipe
from prefloop.errors import ConfigError
from prefloop.judging.open import open_judge
from prefloop.loop.launch import Launch
from prefloop.loop.software import set_threads, versions
from prefloop.loop.tasks import judge_databases, made_from
from prefloop.models.load import base_lineage, is_hub_id
from prefloop.progress import note
from prefloop.store.files import write_json
from prefloop.store.run_folder import RunFolder

HEADLINES = {
    "execution_accuracy": "gain",
    "execution_accuracy_unseen": "gain",
    "valid_sql": "difference",
    "win_rate": "rate",
    "verbosity": "length_ratio",
}
"""Figures that are compared between seeds, as far as the evaluation has them."""


def run_recipe(
    recipe: Recipe,
    out: Path,
    *,
    seeds: int = 1,
    baselines: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Run a recipe into `out` and return its evaluation.

    Args:
        seeds: how many seeds to run, from ``recipe.seed`` on; the first lives in `out`, the others in
            ``out/seeds/N``. Every seed starts from the same policy and is asked the same test questions.
        baselines: also measure SFT on the chosen answers, best-of-K and majority vote, for every seed.
        out: a folder, or an address such as ``s3://bucket/runs/a`` (`prefloop.store.remote`).
        resume: go on with what `out` holds; without it a folder that holds a run is refused.
        overwrite: remove an earlier run in `out` first, once the policy is known to exist.
        launch: processes that train the policy; None: this one. A run may go on with others.

    Raises:
        StoreError: the folder belongs to another recipe, is in use, or cannot be written.
    """
    if overwrite and resume:
        raise ConfigError("--resume goes on with a run and --overwrite removes it: choose one")
    out = Path(out)
    identity = {**made_from(recipe), "seeds": seeds, "baselines": baselines}
    identity["policy"] = base_lineage(recipe.policy.model).id
    if baselines and not recipe.task.executed:
        raise ConfigError(f"--baselines are measured by execution, which task.name={recipe.task.name} does not ask for")
    _require_comparer(recipe)
    for judge in (recipe.judge, recipe.evaluation.judge):
        if judge is not None:
            open_judge(judge, judge_databases(recipe))  # what is wrong with it is said before anything is computed
            _say_kin(recipe, judge)
    with RunFolder.open(out, identity, resume, overwrite) as folder:
        root = folder.root
        found: dict[str, Any]
        if folder.finished:
            folder.check()
            found = folder.document("evaluation.json", dict)
        else:
            found = _run(recipe, folder, seeds, baselines, launch)
    _publish(recipe, root)
    return found


def _require_comparer(recipe: Recipe) -> None:
    """People are asked about the training answers of a run; before and after are compared by execution or a judge."""
    if not recipe.task.executed and isinstance(recipe.evaluation.judge or recipe.judge, PeopleConfig):
        raise ConfigError(
            "evaluation.judge: people label the training answers; name the judge that compares before and after, "
            "such as --set evaluation.judge=pairrm"
        )


def _say_kin(recipe: Recipe, judge: JudgeConfig) -> None:
    """Language models prefer answers of their own family (2404.13076); the family is read from the names."""
    for member in with_members(judge):
        if isinstance(member, LLMConfig) and (kin := _family(member.model)) == _family(recipe.policy.model):
            note(f"judge {member.model} and policy are both of the family '{kin}': such judges favour their own kind")


def _family(model: str) -> str:
    return re.split(r"[^a-z]", model.rstrip("/").rpartition("/")[2].lower())[0]


def _run(recipe: Recipe, folder: RunFolder, seeds: int, baselines: bool, launch: Launch | None) -> dict[str, Any]:
    """Every seed, the report and the manifest."""
    out = folder.root
    folder.log("engine", **recipe.engine.model_dump())
    set_threads(recipe.threads)
    software = folder.document("stages/software.json", lambda: {**versions(), "threads": str(set_threads(0))})
    evaluation = _seed(recipe, folder, baselines, launch)
    found = {recipe.seed: evaluation}
    for seed in range(recipe.seed + 1, recipe.seed + seeds):
        found[seed] = _other_seed(recipe.model_copy(update={"seed": seed}), folder, baselines, launch)
    whole = {**evaluation, **_over_seeds(found)}
    write_json(out / "evaluation.json", whole)
    from prefloop.loop.reporting import report_run

    report_run(out, out / "report.html")
    folder.finish(
        {
            "schema": 1,
            "recipe": recipe.settings,
            "recipe_hash": recipe.hash,
            "versions": software,
            "lineage": folder.document("stages/lineage.json", dict),
            "questions": folder.document("stages/prompts.json", dict),
            "preferences": folder.document("stages/preferences.json", dict),
            "seeds": sorted(found),
        }
    )
    return whole


def _publish(recipe: Recipe, out: Path) -> None:
    """Push what the recipe names; a run whose push failed is finished, and --resume tries again."""
    if not (recipe.hub.dataset or recipe.hub.model):
        return
    from prefloop.loop.publish import push_dataset, push_model

    public = recipe.hub.public
    if recipe.hub.dataset:
        note(f"pushed to {push_dataset(out / 'preferences', recipe.hub.dataset, public=public).url}")
    if recipe.hub.model:
        adapter = (out / "checkpoint" / "adapter_config.json").is_file()
        base = recipe.policy.model if adapter and is_hub_id(recipe.policy.model) else None
        note(f"pushed to {push_model(out / 'checkpoint', recipe.hub.model, public=public, base=base).url}")


def _seed(recipe: Recipe, folder: RunFolder, baselines: bool, launch: Launch | None) -> dict[str, Any]:
    from prefloop.loop.baselines import run_baselines  # takes seconds: mistakes are found before
    from prefloop.loop.run import run_seed

    evaluation = run_seed(recipe, folder, launch)
    if not baselines:
        return evaluation
    return {
        **evaluation,
        "baselines": folder.document("baselines.json", lambda: run_baselines(recipe, folder, launch)),
    }


def _other_seed(recipe: Recipe, whole: RunFolder, baselines: bool, launch: Launch | None) -> dict[str, Any]:
    identity = {**made_from(recipe), "baselines": baselines}
    place = whole.root / "seeds" / str(recipe.seed)
    with RunFolder.open(place, identity, resume=True, within=whole) as folder:
        return _seed(recipe, folder, baselines, launch)


def _over_seeds(found: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Each seed's headline figures, and their spread; seeds are never pooled as if they were questions."""
    from prefloop.maths.statistics import seed_summary  # takes a second, which a finished run does without

    rows = [
        {
            "seed": seed,
            **{name: evaluation[name] for name in HEADLINES if name in evaluation},
            "baselines": evaluation.get("baselines"),
        }
        for seed, evaluation in sorted(found.items())
    ]
    spread = {
        name: seed_summary([row[name].get(field) for row in rows])
        for name, field in HEADLINES.items()
        if name in rows[0]
    }
    return {"seeds": rows, "over_seeds": spread}

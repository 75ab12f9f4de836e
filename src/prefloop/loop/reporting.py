"""Gathers what a run left behind into its report page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefloop.config.recipe import as_written
from prefloop.evaluation.report import ReportContext, ShownAnswer, ShownQuestion, write_report
from prefloop.evaluation.tables import correct, shown_prompts
from prefloop.judging.execution import ROWS_KEPT
from prefloop.records import Completion, Judgement, Prompt
from prefloop.sql.pool import QueryResult, SandboxPool
from prefloop.store.files import file_hash, read_json
from prefloop.store.tables import read_records
from prefloop.tasks.nba.task import judge_databases

FAMILIES = {
    "A": "coverage",
    "B": "games",
    "C": "records",
    "D": "player season",
    "E": "leaders",
    "F": "thresholds",
    "G": "single game",
    "H": "last n games",
    "I": "periods",
    "J": "team ratings",
    "K": "play-by-play",
    "M": "biography",
    "N": "unanswerable",
}


TRAPS = {
    "S1": "season label",
    "F1": "dropped filter",
    "R1": "average of percentages",
    "D1": "did-not-play rows",
    "A1": "sum for average",
    "P1": "phases mixed",
    "none": "none of the planted",
}
HASHED = ("prompts.parquet", "completions.parquet", "judgements.parquet", "preferences.parquet")


def report_run(root: Path, out: Path) -> Path:
    """Write the page of the run in `root` to `out`; the same run gives the same bytes."""
    identity = read_json(root / "recipe.json")
    recipe, evaluation = identity["recipe"], read_json(root / "evaluation.json")
    if evaluation.get("kind") == "judged":
        return _reading_page(root, out, recipe["name"], evaluation)
    prompts = [p for p in read_records(root / "prompts.parquet", Prompt) if p.split == "test"]
    sides = {side: _side(root, side) for side in ("before", "after")}
    golds = _golds(prompts)
    shown = {prompt.id: _shown(prompt, sides, golds) for prompt in prompts}
    pairs = read_json(root / "stages" / "preferences.json")
    context = ReportContext(
        name=recipe["name"],
        shown=[shown[p.id] for p in shown_prompts(prompts, recipe["evaluation"]["shown"], recipe["seed"])],
        fixed=_changed(prompts, shown, lambda q: q.after.right is True and q.before.right is False),
        broken=_changed(prompts, shown, lambda q: q.before.right is True and q.after.right is False),
        margins=[row["margin"] for row in read_json(root / "evaluation" / "held-out.json")],
        lengths={
            side: [float(len(completions[p.id].token_ids)) for p in prompts] for side, (completions, _) in sides.items()
        },
        drops=pairs["drops"],
        diagnostics=pairs["diagnostics"],
        history=read_json(root / "checkpoint" / "training.json")["history"],
        families=FAMILIES,
        traps=TRAPS,
        command=_command(identity),
        recipe=_yaml(as_written(recipe)),
        versions=read_json(root / "stages" / "software.json"),
        lineage=read_json(root / "stages" / "lineage.json"),
        hashes={name: file_hash(root / name) for name in HASHED},
        audit=read_json(root / "stages" / "prompts.json"),
    )
    return write_report(evaluation, context, out)


def _reading_page(root: Path, out: Path, name: str, evaluation: dict[str, Any]) -> Path:
    """Of a run whose task no execution examines: both answers to every unseen prompt, and who won."""
    from prefloop.loop.judged import judged_run, write_reading_page

    found = judged_run(root)
    write_reading_page(out, found, evaluation, ("original", "tuned"), name)
    return out


def _command(identity: dict[str, Any]) -> str:
    options = [f"--seeds {identity['seeds']}"] if identity.get("seeds", 1) > 1 else []
    options += ["--baselines"] if identity.get("baselines") else []
    return " ".join(["prefloop run recipe.yaml", *options])


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(recipe, sort_keys=False)


def _side(root: Path, side: str) -> tuple[dict[str, Completion], dict[str, Judgement]]:
    folder = root / "evaluation"
    completions = read_records(folder / f"{side}-greedy-completions.parquet", Completion)
    judgements = read_records(folder / f"{side}-greedy-judgements.parquet", Judgement)
    return {c.prompt_id: c for c in completions}, {j.prompt_id: j for j in judgements}


def _golds(prompts: list[Prompt]) -> dict[str, QueryResult]:
    """What each gold query gives on the first league."""
    queries = sorted({prompt.meta["gold_sql"] for prompt in prompts if prompt.meta["gold_sql"]})
    with SandboxPool(judge_databases()[:1], 0) as pool:
        return dict(zip(queries, pool.run([(0, sql) for sql in queries]), strict=True))


def _shown(
    prompt: Prompt,
    sides: dict[str, tuple[dict[str, Completion], dict[str, Judgement]]],
    golds: dict[str, QueryResult],
) -> ShownQuestion:
    answers = {}
    for side, (completions, judgements) in sides.items():
        judgement = judgements[prompt.id]
        answers[side] = ShownAnswer(
            completions[prompt.id].text,
            judgement.raw["sql"] or "",
            correct(judgement),
            judgement.raw["status"],
            judgement.raw["rows"],
            judgement.raw["columns"],
        )
    meta = prompt.meta
    gold = golds.get(meta["gold_sql"], QueryResult("ok"))
    return ShownQuestion(
        meta["question"],
        meta["template"],
        meta["gold_sql"] or "",
        answers["before"],
        answers["after"],
        meta["family"],
        gold.rows[:ROWS_KEPT],
        gold.columns,
    )


def _changed(
    prompts: list[Prompt], shown: dict[str, ShownQuestion], keep: Callable[[ShownQuestion], bool]
) -> list[ShownQuestion]:
    return [shown[prompt.id] for prompt in prompts if keep(shown[prompt.id])]

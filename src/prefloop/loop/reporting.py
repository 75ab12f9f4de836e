"""Gathers what a run left behind into its report page."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from prefloop.config.recipe import Recipe, as_written, parse_recipe
from prefloop.errors import DataError
from prefloop.evaluation.report import ReportContext, ShownAnswer, ShownQuestion, write_report
from prefloop.evaluation.tables import correct, shown_prompts
from prefloop.judging.execution import ROWS_KEPT
from prefloop.loop.tasks import judge_databases, made_from
from prefloop.records import Completion, Judgement, Prompt
from prefloop.sql.pool import QueryResult, SandboxPool
from prefloop.store.files import file_hash, read_json
from prefloop.store.tables import each_record, find_records

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
SIDES = ("before", "after")
LISTED, LISTED_CHARACTERS = 500, 300_000
"""Of the fixed and of the broken questions at most so many are listed, and of their answers, golds and results so much.
A character of SQL may need 25 of markup: so the page of any test set stays below 20 MB."""
HASHED = ("prompts.parquet", "completions.parquet", "judgements.parquet", "preferences.parquet")


def report_run(root: Path, out: Path) -> Path:
    """Write the page of the run in `root` to `out`; the same run gives the same bytes."""
    identity = read_json(root / "recipe.json")
    recipe, evaluation = identity["recipe"], read_json(root / "evaluation.json")
    if evaluation.get("kind") == "judged":
        return _reading_page(root, out, recipe["name"], evaluation)
    prompts = [p for p in each_record(root / "prompts.parquet", Prompt) if p.split == "test"]
    verdicts = {side: _verdicts(root, side) for side in SIDES}
    side_by_side = shown_prompts(prompts, recipe["evaluation"]["shown"], recipe["seed"])
    changed = {
        name: [p for p in prompts if (verdicts["before"][p.id], verdicts["after"][p.id]) == verdict]
        for name, verdict in (("fixed", (False, True)), ("broken", (True, False)))
    }
    listed = {name: _drawn(found, recipe["seed"]) for name, found in changed.items()}
    needed = {p.id: p for p in (*side_by_side, *listed["fixed"], *listed["broken"])}
    shown = _shown_questions(root, needed, _unchanged(identity))
    pairs = read_json(root / "stages" / "preferences.json")
    context = ReportContext(
        name=recipe["name"],
        shown=[shown[p.id] for p in side_by_side],
        fixed=_within([shown[p.id] for p in listed["fixed"]]),
        broken=_within([shown[p.id] for p in listed["broken"]]),
        changed={name: len(found) for name, found in changed.items()},
        margins=[row["margin"] for row in read_json(root / "evaluation" / "held-out.json")],
        lengths={side: _lengths(root, side, prompts) for side in SIDES},
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
        origin=read_json(root / "stages" / "origin.json"),
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


def _verdicts(root: Path, side: str) -> dict[str, bool | None]:
    """Whether each question's greedy answer was right."""
    return {j.prompt_id: correct(j) for j in each_record(_file(root, side, "judgements"), Judgement)}


def _lengths(root: Path, side: str, prompts: list[Prompt]) -> list[float]:
    """Tokens of each question's greedy answer."""
    answers = each_record(_file(root, side, "completions"), Completion, without=("logprobs",))
    tokens = {answer.prompt_id: float(len(answer.token_ids)) for answer in answers}
    return [tokens[prompt.id] for prompt in prompts]


def _file(root: Path, side: str, kind: str) -> Path:
    return root / "evaluation" / f"{side}-greedy-{kind}.parquet"


def _drawn(prompts: list[Prompt], seed: int) -> list[Prompt]:
    """At most `LISTED` of them, drawn by seed, in their order."""
    places = sorted(random.Random(seed).sample(range(len(prompts)), min(LISTED, len(prompts))))
    return [prompts[place] for place in places]


def _within(questions: list[ShownQuestion]) -> list[ShownQuestion]:
    """As many of them as `LISTED_CHARACTERS` allow."""
    sizes = accumulate(
        len(q.gold_sql) + sum(len(a.text) + len(str(a.rows)) for a in (q.before, q.after)) + len(str(q.gold_rows))
        for q in questions
    )
    return [question for question, size in zip(questions, sizes, strict=True) if size <= LISTED_CHARACTERS]


def _shown_questions(root: Path, prompts: dict[str, Prompt], recipe: Recipe) -> dict[str, ShownQuestion]:
    """These questions with their golds and both answers; no others are read."""
    golds = _golds(list(prompts.values()), recipe)
    sides = {
        side: (
            {c.prompt_id: c for c in find_records(_file(root, side, "completions"), Completion, "prompt_id", prompts)},
            {j.prompt_id: j for j in find_records(_file(root, side, "judgements"), Judgement, "prompt_id", prompts)},
        )
        for side in SIDES
    }
    return {name: _shown(prompt, sides, golds) for name, prompt in prompts.items()}


def _unchanged(identity: dict[str, Any]) -> Recipe:
    """The run's recipe; a database of one's own has to be as it was."""
    recipe = parse_recipe(as_written(identity["recipe"]))
    if any(identity[key] != value for key, value in made_from(recipe).items() if key != "recipe"):
        task = identity["recipe"]["task"]
        named = task.get("database") or task["folder"]
        raise DataError(f"{named} has changed since the run: its report needs what the run was made with")
    return recipe


def _golds(prompts: list[Prompt], recipe: Recipe) -> dict[str, QueryResult]:
    """What the gold query of each prompt gives on the first of its databases."""
    databases = judge_databases(recipe)
    sets = databases if isinstance(databases, Mapping) else {"": databases}
    names = list(sets)
    place = {p.id: names.index(p.meta["database"]) if isinstance(databases, Mapping) else 0 for p in prompts}
    queries = {prompt.id: (place[prompt.id], prompt.meta["gold_sql"]) for prompt in prompts if prompt.meta["gold_sql"]}
    with SandboxPool([members[0] for members in sets.values()], 0) as pool:
        return dict(zip(queries, pool.run(list(queries.values())), strict=True))


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
    gold = golds.get(prompt.id, QueryResult("ok"))
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

"""Before and after compared by a judge, for tasks that no execution can examine; and any two sides (`versus`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from prefloop.config.engine import LOCAL, EngineSection
from prefloop.config.judges import JudgeConfig
from prefloop.config.recipe import Recipe
from prefloop.evaluation.judged import Verdict, judged_figures, verdicts
from prefloop.judging.groups import Judge, require_scored
from prefloop.judging.open import open_judge
from prefloop.loop.answers import generated
from prefloop.loop.policies import Policies
from prefloop.loop.tasks import judge_databases
from prefloop.records import Completion, Judgement, Prompt, content_id
from prefloop.store.files import write_text
from prefloop.store.journal import Journal
from prefloop.store.run_folder import RunFolder
from prefloop.store.tables import find_records, read_column

PEOPLE_LONGER = 0.636
"""How often people prefer the longer answer (AlpacaEval's annotators): a judge far above it likes length."""
CATEGORIES = 12
"""Most categories that a summary shows."""

Sides = tuple[Sequence[Completion], Sequence[Completion]]


def judged_evaluation(recipe: Recipe, folder: RunFolder, policies: Policies, test: Sequence[Prompt]) -> dict[str, Any]:
    """Greedy answers of both policies to unseen prompts, judged; figures go to ``evaluation.json``."""
    greedy = recipe.generation.greedy
    after, before = (
        generated(recipe, folder, partial(policies.writer, side), test, greedy, f"evaluation/{side}-greedy-")
        for side in ("after", "before")
    )
    policies.release()
    judge = recipe.evaluation.judge or recipe.judge
    found, judgements = compared(folder, test, (before, after), judge, recipe.engine, recipe.threads)
    return folder.document(
        "evaluation.json",
        lambda: judged_figures(found, judgements, seed=recipe.seed, draws=recipe.evaluation.bootstrap),
    )


def recipe_judge(recipe: Recipe, folder: RunFolder) -> Judge:
    """The judge of a recipe for the answers in a folder, by the recipe's engine."""
    return open_judge(recipe.judge, judge_databases(recipe), folder.root, recipe.engine, recipe.threads)


def compared(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    sides: Sides,
    config: JudgeConfig,
    engine: EngineSection = LOCAL,
    threads: int = 0,
) -> tuple[list[Verdict], list[Judgement]]:
    """Verdicts on both sides' answers, and the judgements behind them (``evaluation/judgements.parquet``)."""

    # One model's answers in two number types have the same ids: they do not depend on the text.
    a, b = ([replace(c, id=content_id(name, c.id)) for c in side] for name, side in zip("ab", sides, strict=True))
    texts = {c.prompt_id: c.text.strip() for c in a}

    def compute(journal: Journal) -> list[Judgement]:
        differing = {c.prompt_id for c in b if texts.get(c.prompt_id) != c.text.strip()}  # the same text needs no judge
        asked = [completion for completion in (*a, *b) if completion.prompt_id in differing]
        if not asked:
            return []
        with open_judge(config, engine=engine, threads=threads) as judge:
            found = judge.judge(prompts, asked, journal=journal, label="compare")
        require_scored(found)
        return found

    judgements = folder.records("evaluation/judgements.parquet", Judgement, compute)
    return verdicts(prompts, a, b, judgements), judgements


def judged_run(root: Path, count: int | None = None) -> list[Verdict]:
    """The verdicts of a finished run, read again; the first `count` of them, if given."""
    files = [root / "evaluation" / f"{side}-greedy-completions.parquet" for side in ("before", "after")]
    answered = [set(read_column(path, Completion, "prompt_id").to_pylist()) for path in files]
    test = find_records(root / "prompts.parquet", Prompt, "split", ["test"])
    prompts = [prompt for prompt in test if all(prompt.id in ids for ids in answered)][:count]
    ids = [prompt.id for prompt in prompts]
    sides = (
        [replace(c, id=content_id(name, c.id)) for c in find_records(path, Completion, "prompt_id", ids)]
        for name, path in zip("ab", files, strict=True)
    )
    judgements = find_records(root / "evaluation" / "judgements.parquet", Judgement, "prompt_id", ids)
    return verdicts(prompts, *sides, judgements)


def write_reading_page(
    path: Path, found: Sequence[Verdict], figures: Mapping[str, Any], names: tuple[str, str], title: str
) -> None:
    """The page on which a person reads both answers to every prompt."""
    from prefloop.evaluation.reading import ReadingRow, reading_page

    rows = [
        ReadingRow(
            prompt=verdict.prompt.messages,
            a=verdict.a.text,
            b=verdict.b.text,
            verdict=verdict.winner,
            probability=verdict.probability,
            inconsistent=verdict.inconsistent,
            category=str(verdict.prompt.meta.get("category") or ""),
            scores_a=verdict.scores[0],
            scores_b=verdict.scores[1],
            tokens_a=len(verdict.a.token_ids),
            tokens_b=len(verdict.b.token_ids),
        )
        for verdict in found
    ]
    write_text(path, reading_page(rows, name_a=names[0], name_b=names[1], summary=summary(figures, names), title=title))


def summary(figures: Mapping[str, Any], names: tuple[str, str] = ("original", "tuned")) -> list[tuple[str, str]]:
    """The figures in words, label and value, for the terminal and the page."""
    wins, length, verbosity = figures["win_rate"], figures["length_controlled"], figures["verbosity"]
    rows = [
        ("judge", figures["judge"] or "not asked: all answers are the same"),
        ("prompts", f"{figures['prompts']:,}"),
    ]
    rows += [
        (f"the judge's {name.replace('_', ' ')}", f"{v:.2f}")
        for name, v in figures["agreement"].items()
        if "rate" in name
    ]
    if wins["rate"] is not None:
        rows.append((f"win rate of {names[1]}", f"{wins['rate']:.1%}{_interval(wins, '.1%')}, ties half"))
    counts = [f"{wins['wins']} wins", f"{wins['ties']} ties", f"{wins['losses']} losses"]
    counts += [f"{wins['inconsistent']} of the ties inconsistent"] if wins["inconsistent"] else []
    counts += [f"{wins['unscored']} unscored"] if wins["unscored"] else []
    rows.append(("verdicts", ", ".join(counts)))
    if length:
        of_length = f"; {100 * length['raw_minus_controlled']:+.1f} points of the raw rate are length"
        rows.append(("length-controlled win rate", f"{length['rate']:.1%}{_interval(length, '.1%')}{of_length}"))
    if verbosity["length_ratio"] is not None:
        spread = _interval(verbosity, ".2f")
        told = f"{verbosity['before']:.0f} and {verbosity['after']:.0f}, ratio {verbosity['length_ratio']:.2f}{spread}"
        rows.append((f"{verbosity['unit']} per answer", told))
    if verbosity["longer_wins"] is not None:
        told = f"{verbosity['longer_wins']:.0%} of {verbosity['longer_wins_n']} (with people: {PEOPLE_LONGER:.0%})"
        rows.append(("the longer answer wins", told))
    for name, row in figures["objectives"].items():
        change = f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]"
        rows.append((f"mean {name}", f"{row['before']:.3f} and {row['after']:.3f}, {change}"))
    rows += [(name, f"{count:,}") for name, count in figures["altered"].items()]
    for category, row in list(figures["by_category"].items())[:CATEGORIES]:
        rows.append((f"  {category}"[:28], f"{row['wins']} wins, {row['ties']} ties, {row['losses']} losses"))
    distinct = figures["distinct"]
    rows += [
        (f"distinct-{n}", f"{row['a']:.3f} and {row['b']:.3f}") for n, row in distinct.items() if row["a"] and row["b"]
    ]
    return rows


def _interval(row: Mapping[str, Any], form: str) -> str:
    return "" if row["ci_low"] is None else f" [{row['ci_low']:{form}}, {row['ci_high']:{form}}]"

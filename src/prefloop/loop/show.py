"""What a finished run prints: the figures before and after, and ten unseen questions side by side."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.run_folder import read_manifest
from prefloop.store.tables import read_records

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table


def show_run(root: Path) -> None:
    """Print figures, the side-by-side frame and where to look further."""
    import json

    import pandas as pd

    recipe = read_manifest(root)["recipe"]
    print_figures(json.loads((root / "evaluation.json").read_text(encoding="utf-8")))
    frame = side_by_side(root, recipe["evaluation"]["shown"], recipe["seed"])
    options = ("display.max_colwidth", None, "display.width", 240, "display.max_columns", None)
    with pd.option_context(*options):
        print(f"\n{len(frame)} unseen questions, original and tuned answer:\n")
        print(frame.to_string(index=False, justify="left", formatters=_left(frame)))
    print(f"\nEverything is in {root}/; open {root / 'report.html'} in a browser.")


def print_figures(evaluation: dict[str, Any]) -> None:
    """The table of figures with 95% intervals on stdout."""
    from rich.console import Console

    console = Console(width=100)
    console.print(summary_table(evaluation))
    if evaluation["power"]["warning"]:
        console.print(f"[yellow]Note:[/yellow] {evaluation['power']['warning']}")


def summary_table(evaluation: dict[str, Any]) -> Table:
    """Figures before and after, one row each."""
    from rich.table import Table

    table = Table(title="Before and after, greedy on unseen questions (95% intervals clustered by template)")
    for heading, justify in (
        ("figure", "left"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("95% interval", "right"),
        ("n", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # rich's literal type
    for label, key, change in (
        ("execution accuracy", "execution_accuracy", "gain"),
        ("  unseen templates", "execution_accuracy_unseen", "gain"),
        ("  seen templates", "execution_accuracy_seen", "gain"),
        ("valid SQL", "valid_sql", "difference"),
        ("accuracy at T=1", "sampled_accuracy", "gain"),
        (f"pass@{evaluation['pass_at_k'].get('k', '')}", "pass_at_k", "gain"),
        ("plan agrees with SQL", "reasoning", "difference"),
    ):
        row = evaluation[key]
        if change in row:
            points = [f"{100 * row[name]:+.1f}" for name in (change, "ci_low", "ci_high")]
            table.add_row(
                label,
                f"{row['before']:.1%}",
                f"{row['after']:.1%}",
                points[0],
                f"{points[1]} to {points[2]}",
                str(row["n"]),
            )
    length = evaluation["verbosity"]
    tokens = [f"{length[side]['mean_tokens']:.1f}" for side in ("before", "after")]
    table.add_row(
        "tokens per answer",
        *tokens,
        f"×{length['length_ratio']:.3f}",
        f"{length['ci_low']:.3f} to {length['ci_high']:.3f}",
        str(length["n"]),
    )
    preference = evaluation["preference_accuracy"]
    if "accuracy" in preference:
        interval = f"{preference['ci_low']:.1%} to {preference['ci_high']:.1%}"
        table.add_row(
            "held-out preferences",
            "50.0%",
            f"{preference['accuracy']:.1%}",
            "",
            interval,
            str(preference["n"]),
        )
    return table


def shown_prompts(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """Unseen questions for the side-by-side view: a seeded draw that goes round the families; nobody picks them."""
    rng = random.Random(seed)
    families: dict[str, list[Prompt]] = {}
    for prompt in sorted(
        (p for p in prompts if p.split == "test" and not p.meta["seen"]), key=lambda p: p.id
    ):
        families.setdefault(prompt.meta["family"], []).append(prompt)
    queues = [rng.sample(members, len(members)) for _, members in sorted(families.items())]
    rng.shuffle(queues)
    found: list[Prompt] = []
    while len(found) < count and any(queues):
        found += [queue.pop() for queue in queues if queue]
    return found[:count]


def side_by_side(root: Path, count: int, seed: int) -> pd.DataFrame:
    """Question, original and tuned answer, and whether each was right."""
    import pandas as pd

    prompts = shown_prompts(read_records(root / "prompts.parquet", Prompt), count, seed)
    answers, right = {}, {}
    for side in ("before", "after"):
        folder = root / "evaluation"
        answers[side] = {
            c.prompt_id: c for c in read_records(folder / f"{side}-greedy-completions.parquet", Completion)
        }
        right[side] = {
            j.prompt_id: j for j in read_records(folder / f"{side}-greedy-judgements.parquet", Judgement)
        }
    return pd.DataFrame(
        [
            {
                "question": prompt.meta["question"],
                "original answer": answers["before"][prompt.id].text,
                "tuned answer": answers["after"][prompt.id].text,
                "original": _verdict(right["before"][prompt.id]),
                "tuned": _verdict(right["after"][prompt.id]),
            }
            for prompt in prompts
        ]
    )


def _verdict(judgement: Judgement) -> str:
    if judgement.value is None:
        return "unscored"
    return "right" if judgement.objectives["correct"] else "wrong"


def _left(frame: pd.DataFrame) -> dict[str, Any]:
    """Formatters that put long answers on one line each, cut for the terminal."""

    def cut(text: str) -> str:
        line = " ".join(text.split())
        return line if len(line) <= 90 else line[:87] + "…"

    return dict.fromkeys(frame.columns, cut)

"""What a finished run prints: the figures before and after, and unseen questions side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.evaluation.answers import Answers
from prefloop.evaluation.tables import methods_table, shown_prompts, side_by_side, summary_table
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.files import read_json
from prefloop.store.run_folder import read_manifest
from prefloop.store.tables import find_records

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 110
"""Columns of the printed tables."""
WIDTHS = {"question": 3, "instruction": 3, "original correct": 1, "tuned correct": 1, "better": 1}
"""Of the columns of answers side by side, as parts; answers have 7."""


def show_run(root: Path) -> None:
    """Print figures, the side-by-side frame and where to look further."""
    evaluation = read_json(root / "evaluation.json")
    frame = answers_frame(root)
    if evaluation.get("kind") == "judged":
        _print_judged(evaluation)
        print(f"\n{len(frame)} unseen prompts, original and tuned answer:\n")
    else:
        print_figures(evaluation)
        _print_label_gap(root / "stages" / "label-gap.json")
        print(
            f"\n{len(frame)} questions from unseen templates, original and tuned answer (drawn by seed, not picked):\n"
        )
    print(frame_text(frame))
    print(f"\nEverything is in {root}/ ; open {root / 'report.html'} in a browser.")


def _print_label_gap(path: Path) -> None:
    """How far the labels agreed with execution, where another judge labelled."""
    gap = read_json(path) if path.is_file() else None
    if gap and gap["pairwise_accuracy"] is not None:
        share, low, high = (100 * gap[name] for name in ("pairwise_accuracy", "ci_low", "ci_high"))
        print(
            f"The labels put the right answer above the wrong one in {share:.1f}% [{low:.1f}, {high:.1f}] of "
            f"{gap['n']:,} pairs of training answers; their favourite is right for {100 * gap['best_correct']:.1f}% of "
            f"the questions ({100 * gap['best_possible']:.1f}% have a right answer)."
        )


def _print_judged(evaluation: Mapping[str, Any]) -> None:
    from prefloop.loop.judged import summary

    for label, value in summary(evaluation):
        print(f"{label:<28} {value}")
    if evaluation["power"]["warning"]:
        print(f"Note: {evaluation['power']['warning']}")


def _judged_frame(root: Path, count: int) -> pd.DataFrame:
    """Unseen prompts of a judged run: ``instruction``, ``original completion``, ``tuned completion``, ``better``."""
    import pandas as pd

    from prefloop.evaluation.tables import question
    from prefloop.loop.judged import judged_run

    better = {"a": "original", "b": "tuned", "tie": "tie", "unscored": "unscored"}
    rows = [
        {
            "instruction": question(verdict.prompt),
            "original completion": verdict.a.text,
            "tuned completion": verdict.b.text,
            "better": better[verdict.winner],
        }
        for verdict in judged_run(root, count)
    ]
    return pd.DataFrame(rows, dtype=object)


def print_figures(evaluation: Mapping[str, Any]) -> None:
    """The table of figures with 95% intervals on stdout, and seeds and baselines where there are any."""
    from rich.console import Console

    console = Console(width=WIDTH)
    console.print(summary_table(evaluation))
    seeds = evaluation.get("seeds", ())
    if len(seeds) > 1 or any(row["baselines"] for row in seeds):
        console.print(methods_table(evaluation))
    if evaluation["power"]["warning"]:
        console.print(f"Note: {evaluation['power']['warning']}")


def answers_frame(root: Path, count: int | None = None, seed: int | None = None) -> pd.DataFrame:
    """Unseen prompts of a finished run with the original and the tuned answer; count and seed as in its recipe."""
    recipe = read_manifest(root)["recipe"]
    count, seed = count or recipe["evaluation"]["shown"], recipe["seed"] if seed is None else seed
    if read_json(root / "evaluation.json").get("kind") == "judged":
        return _judged_frame(root, count)
    prompts = find_records(root / "prompts.parquet", Prompt, "split", ["test"])
    shown = [prompt.id for prompt in shown_prompts(prompts, count, seed)]
    before, after = (_greedy(root, side, shown) for side in ("before", "after"))
    return side_by_side(prompts, before, after, count, seed)


def frame_text(frame: pd.DataFrame) -> str:
    """The frame as text that fits a terminal: answers wrapped in their columns, a line between questions."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_lines=True, pad_edge=False)
    for column in frame.columns:
        table.add_column(column, ratio=WIDTHS.get(column, 7), overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    buffer = StringIO()
    Console(width=150, file=buffer, markup=False, highlight=False).print(table)
    return buffer.getvalue().rstrip()


def _cell(value: Any) -> str:
    return {True: "right", False: "wrong", None: "unscored"}[value] if not isinstance(value, str) else value


def _greedy(root: Path, side: str, prompts: Collection[str]) -> Answers:
    """One policy's greedy answers to these prompts; no others are read."""
    folder = root / "evaluation"
    return Answers(
        find_records(folder / f"{side}-greedy-completions.parquet", Completion, "prompt_id", prompts),
        find_records(folder / f"{side}-greedy-judgements.parquet", Judgement, "prompt_id", prompts),
        [],
        [],
    )

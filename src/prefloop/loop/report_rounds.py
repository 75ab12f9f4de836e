"""The page of all rounds of a loop, written from what its run folder holds; and beside it, what other loops did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from prefloop.config.recipe import as_written
from prefloop.errors import DataError
from prefloop.evaluation.rounds_report import RoundsContext, write_rounds_report
from prefloop.store.files import read_json

ROUNDS = "rounds.json"


def report_loop(root: Path, out: Path, beside: Sequence[Path] = ()) -> Path:
    """Write the page of the loop in `root` to `out`.

    Args:
        beside: other loops' folders, whose curves of reward and accuracy are drawn in the same charts: the same loop
            with its guards off, say.

    Raises:
        DataError: one of `beside` has no such curves.
    """
    found, recipe = read_json(root / ROUNDS), read_json(root / "recipe.json")["recipe"]
    curves = _curves(root)
    for other in beside:
        curves |= {f"{other.name}, {label}": points for label, points in _asked_curves(other).items()}
    options = [f"--seeds {len(found['seeds'])}"] if found["seeds"] else []
    options += ["--baselines"] if found["baselines"] else []
    context = RoundsContext(
        name=recipe["name"],
        command=" ".join(["prefloop loop recipe.yaml", *options]),
        recipe=yaml.safe_dump(as_written(recipe), sort_keys=False, allow_unicode=True),
        versions=read_json(root / "stages" / "software.json"),
    )
    return write_rounds_report({**found, "curves": curves}, context, out)


def _curves(root: Path) -> dict[str, Any]:
    """Reward and accuracy along each round's training, with the number of questions that the accuracy is of."""
    questions = read_json(root / "recipe.json")["recipe"]["guards"]["watched"]
    curves = read_json(root / ROUNDS)["curves"]
    return {label: [{**point, "questions": questions} for point in points] for label, points in curves.items()}


def _asked_curves(root: Path) -> dict[str, Any]:
    curves = _curves(root) if (root / ROUNDS).is_file() else {}
    if not curves:
        raise DataError(f"{root} has no curves of reward and accuracy: give the folder of a finished loop with RL")
    return curves

"""Pairing files of any size: slice by slice, into a preference set."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefloop.config.recipe import PreferenceConfig
from prefloop.preferences.build import Pairing, margin_threshold
from prefloop.preferences.diagnostics import Diagnostics
from prefloop.preferences.export import preference_set
from prefloop.progress import progress
from prefloop.records import Completion, Judgement, Prompt
from prefloop.store.grouped import Grouping, Table
from prefloop.store.tables import ROWS, read_column
from prefloop.tasks.nba.task import NAME, ORIGIN

LOST = "answer to a prompt that is not given"


def paired_files(
    ids: pa.Array,
    prompts: Callable[[], Iterable[Prompt]],
    completions: Path,
    judgements: Path,
    out: Path,
    config: PreferenceConfig,
    seed: int,
) -> dict[str, Any]:
    """Write the preference set of judged answers to folder `out`; returns counts.

    Args:
        ids: of the prompts.
        prompts: gives them from the start each time it is called: once more where a rule needs all margins.
    """
    groups = Grouping(ids, [Table(completions, Completion), Table(judgements, Judgement)], 2 * ROWS)
    judges = _distinct(judgements, "judge")
    kinds, work = _distinct(judgements, "kind"), out.with_name(f".{out.name}.parts")
    threshold = None
    if config.min_margin_quantile:
        first, margins = Pairing(kinds, judges, config, seed), array("d")
        with progress("margins", groups.rows[0], "answers") as advance:
            for part in groups.slices(prompts(), work):
                margins.extend(preference.margin for *_, preference in first.pairs(part.prompts, *part.rows))
                advance(len(part.rows[0]))
        threshold = margin_threshold(margins, config.min_margin_quantile)
    pairing, figures, tasks = Pairing(kinds, judges, config, seed), Diagnostics(), set[tuple[str, bool]]()
    with preference_set(out) as writer, progress("pair", groups.rows[0], "answers") as advance:
        for part in groups.slices(prompts(), work):
            answers, judged = part.rows
            kept = pairing.trained_on(pairing.pairs(part.prompts, answers, judged), threshold)
            figures.add(kept, answers, judged)
            writer.add(part.prompts, answers, kept)
            tasks |= {(prompt.task, "league" in prompt.meta) for prompt in part.prompts}
            advance(len(answers))
        if groups.lost[0]:
            pairing.drops[LOST] = groups.lost[0]
        writer.write_card(
            {
                "name": out.name,
                "policy": ", ".join(sorted(_distinct(completions, "policy", Completion))),
                "judge": ", ".join(sorted(judges)),
                "strategy": pairing.strategy,
                "recipe": "none",
                "origin": ORIGIN if tasks == {(NAME, False)} else "The prompts are the user's own.",
                "diagnostics": figures.figures(),
                "drops": pairing.counts,
            }
        )
    return {"pairs": writer.pairs, "drops": pairing.counts, "diagnostics": figures.figures()}


def _distinct(path: Path, column: str, kind: type = Judgement) -> list[str]:
    """The texts of a column, as they first appear."""
    return pc.unique(read_column(path, kind, column)).to_pylist()

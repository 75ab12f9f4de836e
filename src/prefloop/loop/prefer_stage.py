"""Judged answers in files paired: what `prefloop prefer` and Python users call; slice by slice."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from prefloop.config.recipe import PreferenceConfig
from prefloop.errors import DataError
from prefloop.loop.prompt_files import each_prompt, prompt_ids
from prefloop.preferences.build import Pairing, margin_threshold
from prefloop.preferences.diagnostics import Diagnostics
from prefloop.preferences.export import preference_set
from prefloop.progress import progress
from prefloop.records import Completion, Judgement, Preference, Prompt
from prefloop.store.files import held, unused
from prefloop.store.grouped import Grouping, Slice, Table
from prefloop.store.objects import fetched
from prefloop.store.tables import ROWS, read_column
from prefloop.tasks.nba.task import NAME, ORIGIN

LOST = "answer to a prompt that is not given"
TEST = "test"
"""The split of prompts that are never trained on."""
LEFT_OUT = "prompt of the test split"


def prefer_files(
    prompts: Path, completions: Path, judgements: Path, out: Path, config: PreferenceConfig, seed: int = 1
) -> dict[str, Any]:
    """Preferences of judged answers, as records and in TRL's format in folder `out`; returns counts.

    Raises:
        DataError: a file is missing or damaged, or no prompt is for training.
    """
    prompts, completions, judgements = (fetched(Path(path)) for path in (prompts, completions, judgements))
    out = Path(out)
    with held(out.with_name(f".{out.name}.lock"), out):
        unused(out)
        if all(prompt.split == TEST for prompt in each_prompt(prompts)):
            raise DataError(
                f"{prompts} has no training prompt, and pairs are for training: give prompts whose split is not "
                f"'{TEST}'"
            )
        asked, work = partial(each_prompt, prompts), out.with_name(f".{out.name}.parts")
        paired = Paired(prompt_ids(prompts), asked, completions, judgements, config, seed, work)
        tasks: set[tuple[str, bool]] = set()
        with preference_set(out) as writer:
            for part, kept in paired.slices():
                writer.add(part.prompts, part.rows[0], kept)
                tasks |= {(prompt.task, "league" in prompt.meta) for prompt in part.prompts}
            card = {
                "name": out.name,
                "policy": ", ".join(sorted(distinct(completions, "policy", Completion))),
                "recipe": "none",
                "origin": ORIGIN if tasks == {(NAME, False)} else "The prompts are the user's own.",
            }
            writer.write_card({**card, **paired.card()})
        return {"pairs": writer.pairs, **paired.counts()}


class Paired:
    """The pairs of judged answers in files, slice by slice, and what is counted on the way."""

    def __init__(
        self,
        ids: pa.Array,
        prompts: Callable[[], Iterable[Prompt]],
        completions: Path,
        judgements: Path,
        config: PreferenceConfig,
        seed: int,
        work: Path,
    ) -> None:
        """Args:
        ids: of the prompts.
        prompts: gives them from the start each time it is called: once more where a rule needs all margins.
        work: folder for parted files.
        """
        self._groups = Grouping(ids, [Table(completions, Completion), Table(judgements, Judgement)], 2 * ROWS)
        self._judges = distinct(judgements, "judge")
        self._new = partial(Pairing, distinct(judgements, "kind"), self._judges, config, seed)
        self._prompts, self._quantile, self._work = prompts, config.min_margin_quantile, work
        self._pairing, self._figures = self._new(), Diagnostics()

    def slices(self) -> Iterator[tuple[Slice, list[Preference]]]:
        """Training prompts with their answers and judgements, and the preferences that they give."""
        threshold = margin_threshold(self._margins(), self._quantile) if self._quantile else None
        with progress("pair", self._groups.rows[0], "answers") as advance:
            for whole in self._groups.slices(self._prompts(), self._work):
                part = _training(whole)
                if left_out := len(whole.prompts) - len(part.prompts):
                    self._pairing.drops[LEFT_OUT] += left_out
                answers, judged = part.rows
                kept = self._pairing.trained_on(self._pairing.pairs(part.prompts, answers, judged), threshold)
                self._figures.add(kept, answers, judged)
                yield part, kept
                advance(len(whole.rows[0]))
        if lost := self._groups.lost[0]:
            self._pairing.drops[LOST] = lost

    def _margins(self) -> array[float]:
        pairing, margins = self._new(), array("d")
        with progress("margins", self._groups.rows[0], "answers") as advance:
            for whole in self._groups.slices(self._prompts(), self._work):
                part = _training(whole)
                margins.extend(preference.margin for *_, preference in pairing.pairs(part.prompts, *part.rows))
                advance(len(whole.rows[0]))
        return margins

    def counts(self) -> dict[str, Any]:
        """What was dropped, and what to look at before training; once all slices are gone through."""
        return {"drops": self._pairing.counts, "diagnostics": self._figures.figures()}

    def card(self) -> dict[str, Any]:
        """What a dataset card says of how the pairs were made."""
        return {"judge": ", ".join(sorted(self._judges)), "strategy": self._pairing.strategy, **self.counts()}


def _training(part: Slice) -> Slice:
    """The slice without prompts of the test split and what names them."""
    test = {prompt.id for prompt in part.prompts if prompt.split == TEST}
    if not test:
        return part
    answers, judged = ([row for row in rows if row.prompt_id not in test] for rows in part.rows)
    return Slice([prompt for prompt in part.prompts if prompt.id not in test], (answers, judged))


def distinct(path: Path, column: str, kind: type = Judgement) -> list[str]:
    """The texts of a column, as they first appear."""
    return pc.unique(read_column(path, kind, column)).to_pylist()

"""People as the judge of a run: reads what they said in the annotation app, and waits where they have not said enough.

The app exports a project into a folder (docs/annotation-export.md), of which two files are read here:
``judgements.parquet``, and ``project.json``, which says how many items are still open.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prefloop.config.judges import PeopleConfig
from prefloop.errors import AwaitingJudgementsError, ConfigError
from prefloop.judging.groups import Answered, answered
from prefloop.progress import note
from prefloop.records import CORRECTED, LEFT_OUT, Completion, Judgement, Prompt
from prefloop.store.files import read_json
from prefloop.store.journal import Journal
from prefloop.store.tables import read_records

FOLDER = "people"
"""Where a run keeps what people said of it."""
JUDGEMENTS, PROJECT = "judgements.parquet", "project.json"
ITEM = "item"
"""``raw["role"]`` of what people were asked; gold and calibration have other roles."""


class PeopleJudge:
    """Gives the comparisons and rankings of people, each signed ``people/<pseudonym>``."""

    name = "people"

    def __init__(self, config: PeopleConfig, run: Path | None = None) -> None:
        self._config, self._run = config, run

    def __enter__(self) -> PeopleJudge:
        self._file()
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def judge(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        *,
        journal: Journal | None = None,
        label: str = "judge",
    ) -> list[Judgement]:
        """Judgements of kind ``choice`` and ``ranking`` on these answers, by prompt, in the order they were given.

        Verdicts on other answers (corrections, calibration items) are left out; corrections are counted aloud.

        Raises:
            AwaitingJudgementsError: there are not enough; says which command opens the queue.
            ConfigError: it is not known where they are.
            DataError: the file is damaged, or of another kind.
        """
        path = self._file()
        groups = answered(prompts, completions)
        known = {completion.id for _, answers in groups for completion in answers}
        by_prompt: dict[str, list[Judgement]] = {}
        others: list[Judgement] = []
        for judgement in read_records(path, Judgement) if path.is_file() else []:
            if known.issuperset(judgement.completion_ids):
                by_prompt.setdefault(judgement.prompt_id, []).append(judgement)
            else:
                others.append(judgement)
        judged = {i for i, said in by_prompt.items() if any(j.raw.get("role", ITEM) == ITEM for j in said)}
        self._require_enough(path, groups, judged)
        _tell_corrections(others, path.parent)
        return [judgement for prompt, _ in groups for judgement in by_prompt.get(prompt.id, [])]

    def _file(self) -> Path:
        path = self._config.path or (self._run / FOLDER if self._run else None)
        if path is None:
            raise ConfigError("judge people: set judge.path to the judgements.parquet that the annotation app exported")
        return path if path.suffix == ".parquet" else path / JUDGEMENTS

    def _require_enough(self, path: Path, groups: Sequence[Answered], judged: set[str]) -> None:
        wanted = [prompt.id for prompt, answers in groups if len({answer.text.strip() for answer in answers}) > 1]
        said = len(judged.intersection(wanted))
        open_items = _open_items(path.with_name(PROJECT)) if self._config.minimum is None else None
        if open_items is None:
            enough = said >= (self._config.minimum or 1) * len(wanted)
        else:
            enough = open_items == 0 and said > 0
        if enough:
            return
        if open_items:
            state = f"; {open_items:,} items are still open"
        else:
            state = f" and should judge {self._config.minimum:.0%}" if self._config.minimum else ""
        run = f" {shlex.quote(str(self._run))}" if self._run else ""
        raise AwaitingJudgementsError(
            f"people have judged {said:,} of {len(wanted):,} prompts whose answers differ{state}: open the queue with "
            f"'prefloop annotate{run}', write {path} with 'prefloop collect{run}', then go on with --resume"
        )


def _tell_corrections(others: Sequence[Judgement], folder: Path) -> None:
    """Corrected answers are no answers of the run: say where they are, and which of them nobody should train on."""
    corrected = {j.completion_ids[0]: j.raw.get(LEFT_OUT) for j in others if j.raw.get("status") == CORRECTED}
    if corrected:
        reasons = Counter(reason for reason in corrected.values() if reason)
        held = "".join(f", {count:,} not trained on ({reason})" for reason, count in sorted(reasons.items()))
        note(f"people wrote {len(corrected):,} corrected answers{held}: see {folder / 'preferences'}, not this run")


def _open_items(project: Path) -> int | None:
    """Items whose judgements are not complete, as the export says; None where it does not."""
    found = read_json(project) if project.is_file() else {}
    count = found.get("open_items") if isinstance(found, dict) else None
    return count if isinstance(count, int) else None
